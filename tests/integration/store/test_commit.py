"""What is committed is what is loaded: memory, the log and the rows are three folds of one history."""

from __future__ import annotations

import random

import pytest
from longshore_controller.core.events import AttemptEnded
from longshore_controller.core.model import EndReason, JobState, WorkerState
from longshore_controller.core.money import cost_nanousd
from longshore_controller.core.reactor import Limits
from longshore_controller.core.rows import Changes, JobRangeRow
from longshore_controller.store import Contradiction, Store, StoreUnavailable
from world import Job, World, bare, do_something, fold_log


@pytest.mark.parametrize("seed", range(12))
def test_after_any_history_memory_log_and_rows_say_the_same(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    world = World(
        store, Limits(slice_jobs=rng.choice([1, 3, 1000]), slice_cancelled=rng.choice([1, 3, 1000]))
    )
    for _ in range(80):
        do_something(world, rng)
        # Not every step is committed by itself: a commit may hold much.
        if rng.random() < 0.8:
            world.settle()
        if rng.random() < 0.05:
            world.settle()
            world.reload()
    world.settle()
    world.check()
    assert_rows_are(store, world)
    assert_log_is(store, world)


def assert_rows_are(store: Store, world: World) -> None:
    """What people see is what each commit's changes, written one row after another, come to."""
    for batch_id, row in world.rows.batches.items():
        assert store.batch(batch_id, with_deleted=True) == row
        hidden = row.deleted_at_ms is not None
        assert store.batch(batch_id) == (None if hidden else row)
        visible = [] if hidden or row.closed_at_ms is None else range(1, row.n_jobs + 1)
        jobs = store.jobs(batch_id, limit=1000)
        assert [j.row for j in jobs] == [world.job(batch_id, i) for i in visible]
        for job, plan in zip(jobs, world.plans[batch_id], strict=False):
            assert (job.name, job.attributes) == (plan.name, plan.attributes)
            assert (job.mcpu, job.always_run) == (plan.mcpu, plan.always_run)
            assert store.job(batch_id, job.row.job_id) == job
            key = (batch_id, job.row.job_id)
            wanted = [a for a in world.rows.attempts.values() if (a.batch_id, a.job_id) == key]
            assert store.attempts(*key) == sorted(wanted, key=lambda a: a.number)
    for attempt in world.rows.attempts.values():
        assert store.attempt(attempt.attempt_id) == attempt


def assert_log_is(store: Store, world: World) -> None:
    """The log tells every commit, and its fold, with the jobs out of their rows, is memory."""
    logged = store.events_after(0, 10_000)
    assert logged is not None
    ends = [sum(map(len, world.log[: i + 1])) for i in range(len(world.log))]
    assert [seq for seq, _ in logged] == ends
    events = [e for _, some in logged for e in some]
    assert events == [bare(e) for commit in world.log for e in commit]
    assert fold_log(world.with_jobs([events])) == world.state


def test_nothing_is_lost_or_seen_when_a_commit_fails(world: World, store: Store) -> None:
    world.hello()
    batch = world.submit(Job(), Job())
    world.settle()
    before = store.load()
    world.end(world.attempt_of(batch, 1))
    world.reactor.advance(world.now)
    events, changes = world.reactor.take()
    changes.job_ranges.append(JobRangeRow(batch, 77, 77, JobState.READY, "", None))
    with pytest.raises(Contradiction, match="1 of 1"):
        store.commit(events, changes, world.now)
    with pytest.raises(StoreUnavailable, match="load first"):
        store.commit(events, changes, world.now)
    assert store.load() == before
    world.reload()
    world.hello()
    world.settle()
    assert world.job(batch, 1).state is JobState.SUCCESS
    world.check()


def test_of_a_job_that_changes_twice_in_one_commit_the_last_state_counts(world: World, store: Store) -> None:
    world.hello()
    batch = world.submit(Job(), Job(parents=[1]), Job(parents=[1]), Job(parents=[2]))
    world.settle()
    world.end(world.attempt_of(batch, 1))
    world.disconnect("w1")
    world.reactor.advance(world.now)
    world.cancel(batch)
    world.settle()
    states = [job.row.state for job in store.jobs(batch, limit=10)]
    assert states == [JobState.SUCCESS, *[JobState.CANCELLED] * 3]
    assert_rows_are(store, world)


def test_a_job_given_back_and_cancelled_in_one_commit_is_cancelled(world: World, store: Store) -> None:
    world.hello()
    batch = world.submit(Job(), Job())
    world.settle()
    world.end(world.attempt_of(batch, 1), reason=EndReason.REFUSED)
    world.disconnect("w1")
    world.reactor.on_cancel(batch, "ann", "", world.now)
    world.settle()
    job = store.job(batch, 1)
    assert job is not None
    assert (job.row.state, job.row.n_attempts) == (JobState.CANCELLED, 1)
    assert_rows_are(store, world)


@pytest.mark.parametrize("kind", ["job", "range", "attempt", "batch"])
def test_a_final_fact_is_never_overwritten(world: World, store: Store, kind: str) -> None:
    world.hello()
    batch = world.submit(Job())
    world.settle()
    attempt = world.rows.attempts[world.attempt_of(batch, 1)]
    world.end(attempt.attempt_id)
    running = world.job(batch, 1)
    world.settle()
    assert world.batch(batch).completed_at_ms is not None
    changes = Changes()
    if kind == "job":
        changes.jobs[batch, 1] = running
    elif kind == "range":
        changes.job_ranges.append(JobRangeRow(batch, 1, 1, JobState.CANCELLED, "", world.now))
    elif kind == "attempt":
        changes.attempts[attempt.attempt_id] = attempt
    else:
        changes.batches[batch] = world.batch(batch)._replace(cost_nanousd=0)
    with pytest.raises(Contradiction):
        store.commit([world.log[0][0]], changes, world.now)
    store.load()
    assert_rows_are(store, world)


def test_the_database_itself_refuses_a_second_live_attempt(world: World, store: Store) -> None:
    world.hello()
    batch = world.submit(Job())
    world.settle()
    attempt = world.rows.attempts[world.attempt_of(batch, 1)]
    second = attempt._replace(attempt_id="another", number=2)
    with pytest.raises(Contradiction):
        store.commit([world.log[0][0]], Changes(attempts={"another": second}), world.now)
    store.load()
    assert store.attempt("another") is None


def test_an_attempt_may_end_and_the_next_begin_in_one_commit(world: World, store: Store) -> None:
    world.hello()
    batch = world.submit(Job())
    world.settle()
    world.disconnect("w1")
    world.hello("w2")
    world.pass_time(41_000)
    world.heartbeat("w2")
    world.settle()
    world.heartbeat("w2")
    world.settle()
    events = [e for commit in world.log for e in commit if isinstance(e, AttemptEnded)]
    assert [e.reason for e in events] == [EndReason.LOST]
    assert [a.number for a in store.attempts(batch, 1)] == [1, 2]
    world.check()


def test_a_lost_worker_stays_in_its_row_and_leaves_memory(world: World, store: Store) -> None:
    world.hello()
    world.pass_time(41_000)
    world.settle()
    assert world.rows.workers["w1"].state is WorkerState.LOST
    assert store.load()[0].workers == {}
    world.hello()
    world.settle()
    assert list(store.load()[0].workers) == ["w1"]


def test_deleting_a_complete_batch_hides_it_and_keeps_its_cost(world: World, store: Store) -> None:
    world.hello()
    batch = world.submit(Job())
    world.settle()
    world.pass_time(60_000)
    world.heartbeat("w1")
    world.end(world.attempt_of(batch, 1), main_ms=60_000)
    world.settle()
    world.delete(batch)
    world.settle()
    assert store.batch(batch) is None
    assert store.job(batch, 1) is None
    assert store.jobs(batch, limit=10) == []
    assert store.attempts(batch, 1) == []
    assert store.batches("ann", limit=10) == []
    hidden = store.batch(batch, with_deleted=True)
    assert hidden is not None
    assert hidden.cost_nanousd == cost_nanousd(1000, hidden.created_at_ms, 60_000) > 0
    assert store.batch_of_request("ann", hidden.request_id) == hidden


def test_text_and_bytes_of_any_kind_come_back_as_they_were(world: World, store: Store) -> None:
    odd = "\"quoted\", {braced} \\ back\\\\slash\n\ttab 'NULL' $1 % ? é 漢 🚢"
    batch = world.submit(Job(name=odd, attributes={odd: odd}))
    world.cancel(batch)
    world.settle()
    job = store.job(batch, 1)
    assert job is not None
    assert (job.name, job.attributes) == (odd, {odd: odd})
    empty = Job(name="NULL", attributes={"": ""})
    second = world.submit(empty)
    world.hello(odd)
    world.settle()
    world.end(world.attempt_of(second, 1), 3)
    world.settle()
    assert [a.worker_id for a in store.attempts(second, 1)] == [odd]
    world.check()
