"""Random histories of both whole programs keep every promise, and are the same each time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from longshore_controller.core.events import Event
from longshore_controller.core.model import EndReason
from sim.whole import run

HISTORIES = 100
ONCE_FAILED = [
    line.split(maxsplit=1)
    for line in Path(__file__).with_name("failed_seeds.txt").read_text().splitlines()
    if not line.startswith("#")
]
HAPPENS = {
    *(event.__name__ for event in get_args(Event)),
    *(f"ended: {reason.name}" for reason in EndReason),
    *(f"batch: {state}" for state in ("SUCCESS", "FAILURE", "CANCELLED")),
    "a batch that came with its jobs",
    "a batch that somebody saw complete",
    "a call to a controller that was replaced",
    "a commit that nobody foresaw",
    "a connection breaks",
    "a connection to the database that breaks after a COMMIT",
    "a connection to the database that breaks at a statement",
    "a connection to the database that breaks before a COMMIT",
    "a controller ends: StoreUnavailable",
    "a controller ends: another one leads",
    "a disk is full",
    "a disk that is full",
    "a kill before a COMMIT",
    "a kill in the midst of a write",
    "a log that arrived",
    "a machine is rebooted",
    "a machine vanishes",
    "a partition",
    "a rename lost in a power cut",
    "a user who asks again",
    "a wall clock is set",
    "an answer is late, and the last for long",
    "an end nobody reported",
    "an engine is away",
    "an engine that does not answer",
    "an engine's answer that is lost",
    "cancel of a batch that is closed",
    "cancel of a batch that is open",
    "complete orders",
    "controller killed",
    "the controller is frozen",
    "the controller is replaced while it is frozen",
    "workerd ends as told",
    "workerd ends of itself",
    "workerd is frozen",
    "workerd is killed while it is cut off",
    "workerd is told to end",
    "workerd killed",
    "writes lost in a power cut",
}
"""Every kind of trouble, and every way to go on after it, in a hundred histories."""


def test_every_history_keeps_every_promise_and_between_them_everything_happens() -> None:
    seen = Counter[str]()
    for seed in range(HISTORIES):
        seen += run(seed).seen
    assert HAPPENS - seen.keys() == set()


@pytest.mark.parametrize("seed", [pytest.param(int(seed), id=why) for seed, why in ONCE_FAILED])
def test_a_history_that_once_failed_keeps_every_promise(seed: int) -> None:
    run(seed)


def test_a_seed_tells_the_same_history_to_the_last_byte() -> None:
    def told(hash_seed: str) -> str:
        command = [sys.executable, "-m", "sim", "--layer", "2", "--digests", "0", "8"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        tests = Path(__file__).parents[1]
        done = subprocess.run(command, cwd=tests, env=environment, capture_output=True, check=True, text=True)
        return done.stdout.rpartition("histories")[0]

    assert told("1") == told("2")
