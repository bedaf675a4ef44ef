"""Random histories of the whole service keep every promise, on rows in memory and on real databases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import postgres
import pytest
from longshore_controller.core.events import Event
from longshore_controller.core.model import BatchState, EndReason
from longshore_controller.store import Store
from sim.history import run
from world import open_store

HISTORIES = 1_200
CHUNKS = 2
ON_SQLITE = 20
"""Every so many-th history is kept by a real SQLite."""
ON_POSTGRES = 24

HAPPENS = {
    *(event.__name__ for event in get_args(Event)),
    *(f"ended: {reason.name}" for reason in EndReason),
    *(f"batch: {state}" for state in ("SUCCESS", "FAILURE", "CANCELLED")),
    "COMPLETED makes a job SUCCESS",
    "COMPLETED makes a job FAILURE",
    "COMPLETED makes a job READY",
    "ERROR makes a job ERROR",
    "ERROR makes a job READY",
    "REVOKED makes a job CANCELLED",
    "PREEMPTED makes a job READY",
    "LOST makes a job READY",
    "LOST makes a job CANCELLED",
    "LOST makes a job ERROR",
    "REFUSED makes a job READY",
    "REFUSED makes a job ERROR",
    "a commit fails",
    "a commit is unknown",
    "a commit breaks",
    "a heartbeat that diverges",
    "a report that comes too late",
    "a session ends: failed precondition",
    "a session ends: unavailable",
    "a user who asks again",
    "a worker that fences itself",
    "a worker that lies",
    "an end nobody reported",
    "cancel of a batch that is closed",
    "cancel of a batch that is open",
    "crash_controller",
    "crash_workerd",
    "reboot",
    "vanish",
    "break_link",
    "outage",
    "workerd dies in the midst",
}
"""What a good generator does all the time; a promise about something else is not tested by it."""
assert {state.name for state in BatchState} >= {"SUCCESS", "FAILURE", "CANCELLED"}


@contextmanager
def opened(url: str) -> Iterator[Store]:
    store = open_store(url)
    try:
        yield store
    finally:
        store.close()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_history_keeps_every_promise_and_between_them_everything_happens(
    chunk: int, tmp_path: Path
) -> None:
    seen = Counter[str]()
    for seed in range(chunk, HISTORIES, CHUNKS):
        if seed // CHUNKS % ON_SQLITE:
            seen += run(seed)
        else:
            with opened(f"sqlite://{tmp_path}/{seed}.db") as store:
                seen += run(seed, store)
    assert HAPPENS - seen.keys() == set()


@pytest.mark.parametrize("seed", range(ON_POSTGRES))
def test_every_history_keeps_every_promise_on_postgres(seed: int, postgres_server: postgres.Cluster) -> None:
    with opened(postgres_server.new_database()) as store:
        run(f"postgres {seed}", store)


def test_a_seed_tells_the_same_history_each_time() -> None:
    def told(hash_seed: str) -> list[str]:
        command = [sys.executable, "-m", "sim", "0", "20"]
        tests = Path(__file__).parents[1]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, cwd=tests, env=environment, capture_output=True, check=True, text=True)
        return done.stdout.splitlines()[:-1]

    assert told("1") == told("2")
