"""Lists are keyset-paged; the log is read from any number on; tokens and names are looked up."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import pytest
from longshore_controller.core.events import Event
from longshore_controller.core.language import parse_for_jobs
from longshore_controller.core.model import EndReason, JobState
from longshore_controller.store import Store, blocks, pages
from world import LATER, Job, World


def test_batches_come_newest_first_page_by_page_and_only_their_users(world: World, store: Store) -> None:
    ids = [world.submit(user="ann") for _ in range(5)]
    world.submit(user="bob")
    world.settle()
    seen: list[int] = []
    while page := store.batches("ann", before_id=seen[-1] if seen else None, limit=2):
        assert len(page) <= 2
        seen += [b.batch_id for b in page]
    assert seen == ids[::-1]


def test_jobs_come_by_id_and_a_page_of_some_states_is_as_full_as_can_be(world: World, store: Store) -> None:
    world.hello(cores=1)
    batch = world.submit(*[Job(parents=[i - 1] if i % 3 == 0 else []) for i in range(1, 13)])
    world.settle()
    world.end(world.attempt_of(batch, 1))
    world.settle()
    running, success, pending = JobState.RUNNING, JobState.SUCCESS, JobState.PENDING
    states = {job.row.job_id: job.row.state for job in store.jobs(batch, limit=100)}
    assert list(states) == list(range(1, 13))
    assert [i for i, s in states.items() if s is success] == [1]
    for wanted in [{running}, {pending}, {success, pending}, {running, success, pending, JobState.READY}]:
        seen: list[int] = []
        while page := store.jobs(batch, after_job_id=seen[-1] if seen else 0, limit=2, states=wanted):
            seen += [job.row.job_id for job in page]
        assert seen == [i for i, s in states.items() if s in wanted]


def test_what_does_not_exist_is_none_or_nothing(store: Store) -> None:
    assert store.batch(1) is None
    assert store.batch_of_request("ann", "r") is None
    assert store.batches("ann", limit=1) == []
    assert store.job(1, 1) is None
    assert store.jobs(1, limit=1) == []
    assert store.attempts(1, 1) == []
    assert store.attempt("a") is None
    assert store.specs([(1, 1)]) == {}
    assert store.specs([]) == {}


def test_the_log_is_told_from_any_event_on_without_gap_or_repeat(world: World, store: Store) -> None:
    world.hello()
    for _ in range(5):
        world.submit(Job(), Job())
        world.settle()
    events = [e for commit in world.log for e in commit]
    assert max(map(len, world.log)) > 1
    for seq in range(len(events) + 1):
        at = seq
        told: list[Event] = []
        while news := store.events_after(at, 2):
            assert len(news) <= 2
            for last, some in news:
                assert last == at + len(some)
                at, told = last, [*told, *some]
        assert told == events[seq:]
        assert store.events_after(at, 2) == []


def test_a_log_is_forgotten_from_its_beginning(world: World, store: Store) -> None:
    """A hole in it would be passed over by whoever follows."""
    world.submit()
    world.settle()
    world.now -= 10_000  # The clock was set back between two controllers.
    world.submit()
    world.settle()
    assert store.forget_events(world.now + 5_000) == 0
    assert store.forget_events(world.now + 20_000) > 0
    assert store.events_after(world.seq, 10) == []
    assert store.events_after(0, 10) is None


def test_a_log_that_forgot_says_so_and_goes_on_counting(world: World, store: Store) -> None:
    world.submit()
    world.settle()
    world.pass_time(1000)
    world.submit()
    world.settle()
    old = world.seq
    events = [e for commit in world.log for e in commit]
    first_kept = next(i for i, e in enumerate(events) if getattr(e, "at_ms", 0) > LATER)
    while store.forget_events(LATER + 1000):
        pass
    assert store.events_after(first_kept - 1, 10) is None
    kept = store.events_after(first_kept, 10)
    assert kept is not None
    assert kept[-1][0] == old
    while store.forget_events(LATER + 2000):
        pass
    assert store.events_after(first_kept, 10) is None
    assert store.events_after(old, 10) == []
    assert store.events_after(old + 1, 10) is None, "a number that was never given"
    world.submit()
    assert store.load()[1] > old
    assert store.events_after(old, 10)


def test_a_token_is_its_users_and_nobody_elses(store: Store) -> None:
    store.ensure_user("ann")
    store.ensure_user("ann")
    store.add_token("ann", b"1" * 32)
    store.add_token("ann", b"1" * 32)
    holder = store.holder(b"1" * 32, 1)
    assert holder is not None
    assert holder.viewer.name == "ann"
    assert store.holder(b"2" * 32, 1) is None
    store.add_worker_token("w1", b"3" * 32)
    assert store.worker_of_token(b"3" * 32) == "w1"
    assert store.worker_of_token(b"1" * 32) is None
    assert store.holder(b"3" * 32, 1) is None


def test_a_billing_project_exists_once_it_was_made(store: Store) -> None:
    assert not store.project_exists("test")
    store.ensure_project("test")
    store.ensure_project("test")
    assert store.project_exists("test")


def test_an_activation_token_is_used_by_one_of_many_at_once(store: Store) -> None:
    store.add_activation_token(b"t" * 32)
    with ThreadPoolExecutor(6) as threads:
        used = list(threads.map(store.consume_activation_token, [b"t" * 32] * 12))
    assert used.count(True) == 1
    assert not store.consume_activation_token(b"t" * 32)
    assert not store.consume_activation_token(b"u" * 32)


def test_a_window_of_some_states_is_what_is_there_from_either_end(world: World, store: Store) -> None:
    world.hello(cores=2)
    batch = world.submit(*[Job(parents=[i - 1] if i % 3 == 0 else []) for i in range(1, 31)])
    world.settle()
    for job_id, code in ((1, 0), (2, 1)):
        world.end(world.attempt_of(batch, job_id), code)
    world.settle()
    world.end(world.attempt_of(batch, 4), 1, EndReason.ERROR)
    world.settle()
    states = {job.row.job_id: job.row.state for job in store.jobs(batch, limit=100)}
    assert set(states.values()) == set(JobState)
    wanted: list[set[JobState]] = [{state} for state in JobState]
    wanted += [{JobState.FAILURE, JobState.ERROR}, set(JobState) - {JobState.SUCCESS}, set(JobState), set()]
    for some in wanted:
        expected = [job_id for job_id, state in states.items() if state in some]
        for first in (0, 1, 9, 20, 29, 40):
            page = store.jobs_in(batch, some, first, 5)
            assert page is not None and page.n_matching == len(expected)
            assert [job.row.job_id for job in page.jobs] == expected[first : first + 5]
    assert store.jobs_in(batch + 1, wanted[0], 0, 5) is None


def test_a_page_far_inside_a_complete_batch_is_found_by_blocks_that_are_counted_once(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hello(cores=1)
    batch = world.submit(*[Job(parents=[1] if i in (5, 17) else []) for i in range(1, 31)])
    world.settle()
    for job_id, code in ((1, 1), (2, 0), (3, 1), (4, 0), (6, 3), (7, 0), (8, 0)):
        reason = EndReason.ERROR if code == 3 else EndReason.COMPLETED
        world.end(world.attempt_of(batch, job_id), code, reason)
        world.settle()
    world.cancel(batch)
    world.settle()
    for attempt_id in list(world.state.attempts):
        world.end(attempt_id, 143)
    world.settle()
    states = {job.row.job_id: job.row.state for job in store.jobs(batch, limit=100)}
    done = {JobState.SUCCESS, JobState.FAILURE, JobState.ERROR, JobState.CANCELLED}
    assert world.batch(batch).completed_at_ms is not None and set(states.values()) == done
    counted = Counter[str]()
    real = store._db.rows

    def rows(db: Any, sql: str, *parameters: object) -> Any:
        counted["blocks" if "GROUP BY" in sql else "count" if "COUNT" in sql else ""] += 1
        return real(db, sql, *parameters)

    monkeypatch.setattr(store._db, "rows", rows)
    for module in (blocks, pages):
        monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(pages, "DEEP", 0)
    subsets = [set(some) for n in range(1, 5) for some in combinations(sorted(done), n)]
    for some in [*subsets, done | {JobState.RUNNING}, {JobState.READY}]:
        expected = [job_id for job_id, state in states.items() if state in some]
        for first in range(0, 33, 2):
            page = store.jobs_in(batch, some, first, 5)
            assert page is not None and page.n_matching == len(expected)
            assert [job.row.job_id for job in page.jobs] == expected[first : first + 5], (some, first)
    assert counted["blocks"] == 1 and not counted["count"]


def test_names_are_searched_until_there_is_enough_or_it_takes_too_long(world: World, store: Store) -> None:
    names = ["Align 1", "50% off", "align_2", "ÄPFEL", "x" * 9, "sort"]
    batch_id = world.submit(*[Job(name=name) for name in names])
    world.settle()
    batch = store.batch(batch_id)
    assert batch is not None

    def found(query: str, **how: Any) -> list[int]:
        return list(store.search_jobs(batch, parse_for_jobs(query), stop=lambda: False, **how).job_ids)

    assert found("ALIGN") == [1, 3]
    assert found("align", after_job_id=1, limit=1) == [3]
    assert found("0%") == found('"% "') == [2]
    assert found("n_2") == [3] and found("äpfel") == [4]
    assert found("2") == [2, 3] and found("-x -align") == [2, 4, 6]
    cut = store.search_jobs(batch, parse_for_jobs("align"), stop=lambda: True)
    assert not cut.job_ids and cut.searched_to == 0
