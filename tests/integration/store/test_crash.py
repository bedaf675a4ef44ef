"""What was acknowledged outlives the death of the process and of the database."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
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
    open_batch = world.create(*[Job()] * 20_000)
    world.step()
    for _ in range(3):
        acknowledged: list[int] = []
        staged_ids: list[int] = []
        answers: list[str] = []

        def stage(answers: list[str] = answers, staged_ids: list[int] = staged_ids) -> None:
            for first in range(1, 20_000, 10):
                try:
                    store.stage(open_batch, first, staged([Job()] * 10))
                    staged_ids.append(first)
                except StoreUnavailable as away:
                    answers.append(str(away))
                    return

        under_way = threading.Event()

        def stop() -> None:
            under_way.wait(30)
            server.stop_at_once()

        threads = [threading.Thread(target=stage), threading.Thread(target=stop)]
        for thread in threads:
            thread.start()
        with pytest.raises(StoreUnavailable):
            while True:
                batch = world.submit(Job())
                world.settle()
                world.end(world.attempt_of(batch, 1))
                world.settle()
                acknowledged.append(world.seq)
                if len(acknowledged) == 20:
                    under_way.set()
        for thread in threads:
            thread.join(30)
        assert answers
        with pytest.raises(StoreUnavailable):
            store.batch(1)
        with pytest.raises(StoreUnavailable):
            store.load()
        server.start()
        world.reload()
        assert_whole(store, acknowledged[-1])
        assert store.batch(1) is not None, "readers go on, too"
        found = store.specs((open_batch, first + 9) for first in staged_ids)
        assert len(found) == len(staged_ids)
        world.hello()
        world.settle()
    store.close()
