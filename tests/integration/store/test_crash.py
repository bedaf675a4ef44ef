"""What was acknowledged outlives the death of the process and of the database."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import postgres
import pytest
from longshore_controller.core.events import BatchClosed
from longshore_controller.core.state import State, fold
from longshore_controller.store import Store, StoreUnavailable
from world import Job, World, open_store, staged


def assert_whole(store: Store, acknowledged: int) -> None:
    """Nothing acknowledged is lost, nothing is half there: the rows are the fold of the log."""
    state, seq = store.load()
    assert seq >= acknowledged
    state.check()
    logged = store.events_after(0, 1_000_000)
    assert logged is not None
    events = [e for _, some in logged for e in some]
    assert len(events) == seq
    for at, event in enumerate(events):
        if isinstance(event, BatchClosed):
            events[at] = BatchClosed(event.batch_id, event.at_ms, store.columns(event.batch_id))
    assert fold(State(), events) == state


def test_a_process_killed_in_the_middle_of_commits_loses_nothing_acknowledged(url: str) -> None:
    rng = random.Random(1)
    for _ in range(4):
        program = [sys.executable, str(Path(__file__).with_name("committer.py")), url]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline() for _ in range(rng.randint(5, 40))]
            process.kill()
            acknowledged += process.stdout.readlines()
        whole = [line for line in acknowledged if line.endswith("\n")]
        store = open_store(url)
        assert_whole(store, int(whole[-1]))
        store.close()


@pytest.mark.slow
def test_postgres_stopped_at_once_under_load_loses_nothing_acknowledged(
    postgres_of_its_own: postgres.Cluster,
) -> None:
    server = postgres_of_its_own
    store = open_store(server.new_database())
    world = World(store)
    world.hello()
    open_batch = world.create(*[Job()] * 30_000)
    world.step()
    for life in range(3):
        first_ids = iter(range(1 + 10_000 * life, 10_000 * (life + 1), 10))
        with ThreadPoolExecutor(2) as threads:
            staging = threads.submit(stage_until_it_fails, store, open_batch, first_ids)
            acknowledged, stopping = [0], None
            with pytest.raises(StoreUnavailable):
                while True:
                    batch = world.submit(Job())
                    world.settle()
                    world.end(world.attempt_of(batch, 1))
                    world.settle()
                    acknowledged.append(world.seq)
                    if len(acknowledged) == 20:
                        stopping = threads.submit(server.stop_at_once)
            assert stopping is not None
            stopping.result()
            staged_ids = staging.result()
        with pytest.raises(StoreUnavailable):
            store.batch(1)
        with pytest.raises(StoreUnavailable):
            store.load()
        server.start()
        world.reload()
        assert_whole(store, acknowledged[-1])
        assert store.batch(1) is not None, "readers go on, too"
        assert len(store.specs((open_batch, i) for i in staged_ids)) == len(staged_ids) > 0
        world.hello()
        world.settle()
    store.close()


def stage_until_it_fails(store: Store, batch_id: int, first_ids: Iterator[int]) -> list[int]:
    """The job ids acknowledged."""
    acknowledged: list[int] = []
    try:
        for first in first_ids:
            store.stage(batch_id, first, staged([Job()] * 10))
            acknowledged += range(first, first + 10)
    except StoreUnavailable:
        return acknowledged
    raise AssertionError("the server was stopped, and nobody noticed")
