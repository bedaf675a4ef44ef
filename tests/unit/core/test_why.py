"""The reason that is given is the one that decides: each situation has its words, and each word is true."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore_controller.core import why
from longshore_controller.core import why_texts as texts
from longshore_controller.core.model import (
    AttemptState,
    ContainerName,
    ContainerRecord,
    EndReason,
    ErrorKind,
    JobState,
    Report,
)
from longshore_controller.core.rows import AttemptRow, JobRow
from longshore_controller.core.why_texts import Reason
from world import Job, World, do_something


def told(world: World, batch: int, job: int = 1) -> Reason:
    found = why.of_job(world.reactor, batch, job, world.now)
    assert isinstance(found, Reason)
    return found


def test_of_a_ready_job_each_obstacle_is_told_in_the_order_of_placing() -> None:
    world = World()
    batch = world.submit(Job(mcpu=2000))
    world.settle()
    assert told(world, batch).text == "there is no worker"
    world.hello("w1", cores=1)
    world.settle()
    assert told(world, batch).text == (
        "it asks for 2 cores, and the largest worker has 1; it cannot run there"
    )
    assert "at most .cpu(1)" in told(world, batch).fix
    world.hello("w2", cores=2)
    world.drain("w2")
    world.settle()
    other = world.submit(Job(mcpu=2000))
    world.settle()
    told_of_other = told(world, other)
    assert told_of_other.code == "WORKERS_UNFIT"
    assert told_of_other.text == "the only worker with 2 cores or more takes no jobs just now: 1 draining"
    world.freeze("a new network")
    world.settle()
    assert told(world, other).code == "FROZEN"
    world.thaw()
    world.undrain("w2")
    world.settle()
    assert world.job(other, 1).state is JobState.READY, "the older batch goes first"
    assert told(world, other).text == (
        "1st in the queue: it asks for 2 cores; 2 of 3 on 2 workers are in use, at most 0 are free on one"
    )


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("away", "1 not connected"),
        ("silent", "1 not heard for a while"),
        ("leaving", "1 about to be taken away"),
        ("shunned", "1 paused after it could not run what it was given"),
        ("shrunk", "1 with fewer cores than it had"),
    ],
)
def test_what_keeps_a_worker_is_named(what: str, words: str) -> None:
    world = World()
    worker = world.hello("w1", cores=4)
    batch = world.submit(Job(), Job(mcpu=3500))
    world.settle()
    first = world.attempt_of(batch, 1)
    match what:
        case "away":
            world.disconnect("w1")
        case "silent":
            world.pass_time(world.limits.lease_ms // 2 + 1)
        case "leaving":
            world.start(first)
            world.reactor.on_reports(
                "w1", worker.session or 0, (world_report(first, EndReason.PREEMPTED),), world.now
            )
        case "shunned":
            world.end(first, reason=EndReason.REFUSED)
        case "shrunk":
            worker.mcpu = 500
            world.hello("w1")
            worker.mcpu = 4000
    world.settle()
    found = told(world, batch, 2)
    assert (found.code, words in found.text) == ("WORKERS_UNFIT", True), found


def world_report(attempt_id: str, reason: EndReason) -> Report:
    return Report(attempt_id, AttemptState.ENDED, 1, reason, "told")


def test_a_large_job_is_told_which_worker_is_kept_for_it_and_small_ones_what_for() -> None:
    world = World()
    world.hello("w1", cores=4)
    small = world.submit(*[Job(mcpu=1000)] * 3)
    world.settle()
    big = world.submit(Job(mcpu=4000))
    behind = world.submit(Job(mcpu=1000))
    world.settle()
    assert told(world, big).text == (
        "next in the queue: worker host of w1 is kept for it; 1 of the 4 cores that it asks for are free "
        "there"
    )
    assert told(world, behind).text == (
        "2nd in the queue: the cores that it would fit into are kept for a job before it, of 4 cores"
    )
    for job_id in (1, 2, 3):
        world.end(world.attempt_of(small, job_id))
    world.settle()
    assert world.job(big, 1).state is JobState.RUNNING


def test_of_a_running_job_it_is_told_where_and_how_far() -> None:
    world = World()
    world.hello("w1")
    batch = world.submit(Job())
    world.settle()
    assert told(world, batch).text == (
        "attempt 1 is on worker host of w1, which prepares it: image and input files"
    )
    world.start(world.attempt_of(batch, 1))
    world.step()
    found = told(world, batch)
    assert (found.code, found.text) == ("RUNNING", "attempt 1 runs on worker host of w1")
    assert found.since_ms == world.now
    world.reactor.on_cancel(batch, "ann", "", world.now)
    assert told(world, batch).code == "STOPPING"


def test_a_pending_job_waits_for_its_parents_until_one_of_them_does_not_succeed() -> None:
    world = World()
    world.hello("w1", cores=2)
    batch = world.submit(Job(), Job(), Job(parents=[1, 2]))
    world.settle()
    assert why.of_job(world.reactor, batch, 3, world.now) == why.Waiting(2, doomed=False)
    states = why.parents_in_memory(world.reactor, batch, [1, 2])
    assert states == [JobState.RUNNING, JobState.RUNNING]
    world.end(world.attempt_of(batch, 1), exit_code=1)
    world.settle()
    waiting = why.of_job(world.reactor, batch, 3, world.now)
    assert waiting == why.Waiting(1, doomed=True)
    states = why.parents_in_memory(world.reactor, batch, [1, 2]) or []
    assert why.named_of([1, 2], states, why.Waiting(1, doomed=True)) == [1]
    assert why.named_of([1, 2], states, why.Waiting(1, doomed=False)) == [2]
    said = why.of_parents(waiting, 2, [texts.Parent(1, "qc", JobState.FAILURE)]).about(batch)
    assert said.text.startswith("a job it depends on did not succeed: 1 qc (failure); it is cancelled once")
    assert said.fix == f"see why that one: longshore why {batch}/1"
    assert why.of_job(world.reactor, batch, 1, world.now) is None
    assert why.of_job(world.reactor, batch, 4, world.now) is None


def test_a_batch_tells_what_matters_most_first() -> None:
    world = World()
    still_open = world.create(Job(), Job())
    world.step()
    (found,) = why.of_batch(world.reactor, still_open, world.now) or []
    assert found.code == "OPEN" and "not all of its 2 jobs" in found.text
    world.hello("w1", cores=1)
    batch = world.submit(Job(), Job(mcpu=8000), Job(), Job(), Job(parents=[4]))
    world.settle()
    lines = [r.text for r in why.of_batch(world.reactor, batch, world.now) or []]
    assert lines == [
        "job 2 is ready: it asks for 8 cores, and the largest worker has 1; it cannot run there",
        "2 jobs are ready, e.g. job 3: 1st in the queue: it asks for 1 core; 1 of 1 on one worker are in use",
        "1 job is running",
        "1 job waits for jobs of the batch that are not complete",
    ]
    assert why.of_batch(world.reactor, 4711, world.now) is None
    world.cancel(batch)
    codes = [r.code for r in why.of_batch(world.reactor, batch, world.now) or []]
    assert codes[:2] == ["CANCELLED", "CANCELLING"]


# -- what is over --------------------------------------------------------------------------------------


def over(state: JobState, reason: str = "", exit_code: int | None = None) -> JobRow:
    return JobRow(7, 3, state, reason, exit_code, "a", 2, 0, 0, 0, 0, 0, 0, 5, 9)


def attempt(reason: EndReason, *containers: ContainerRecord) -> AttemptRow:
    return AttemptRow("a", 7, 3, 1, "w", 1000, 90, reason, "", "", 1, 2, 9, 1, 1, containers)  # type: ignore[arg-type]


def test_of_what_is_over_it_is_told_how_it_ended_and_what_to_do() -> None:
    ended = [attempt(EndReason.COMPLETED)]
    said = why.of_rows(over(JobState.SUCCESS), ended, 1000, [])
    assert (said.text, said.since_ms) == ("it succeeded, at attempt 2", 9)
    said = why.of_rows(over(JobState.FAILURE, exit_code=3), ended, 1000, []).about(7, 3)
    assert said.text == "its command ended with exit code 3, after 2 attempts"
    assert said.fix == "read the end of what it wrote: longshore logs 7/3 --tail 20"
    parent = texts.Parent(1, "align", JobState.FAILURE)
    said = why.of_rows(over(JobState.CANCELLED, "a job it depends on did not succeed"), [], 1000, [parent])
    assert said.text == "it was cancelled: a job it depends on did not succeed: 1 align (failure)"
    assert said.about(7, 3).fix == "see why that one: longshore why 7/1"
    lost = [attempt(EndReason.LOST)]
    said = why.of_rows(over(JobState.ERROR, "lost or refused 5 times, last: x"), lost, 1000, [])
    assert said.fix.startswith("no fault of the job's")


@pytest.mark.parametrize("kind", [k for k in ErrorKind if k is not ErrorKind.NONE])
def test_each_kind_of_error_says_what_to_do(kind: ErrorKind) -> None:
    record = ContainerRecord(ContainerName.INPUT, error_kind=kind, error="as it was")
    said = why.of_rows(over(JobState.ERROR, "as it was"), [attempt(EndReason.ERROR, record)], 2000, [])
    assert said.text == "as it was (input files)" and said.fix
    if kind is ErrorKind.OUT_OF_MEMORY:
        assert said.fix == "ask for more with .memory(...); it had 7.5 GB"


def test_a_complete_batch_says_how_it_ended() -> None:
    world = World()
    world.hello("w1")
    batch = world.submit(Job(), Job())
    world.settle()
    world.end(world.attempt_of(batch, 1))
    world.end(world.attempt_of(batch, 2), exit_code=1)
    world.settle()
    assert why.of_batch(world.reactor, batch, world.now) is None
    (said,) = why.of_batch_row(world.batch(batch))
    assert said.text == "the batch is complete: of 2 jobs 1 failed"
    assert said.about(batch).fix == f"see in which ways: longshore failures {batch}"


# -- the truth of it -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_whoever_takes_the_obstacle_away_sees_the_job_placed_or_the_next_obstacle(seed: int) -> None:
    """In random histories, for every Ready job: the reason that is given is not given any more once that very
    thing is no longer so, and with no obstacle left the job runs."""
    rng = random.Random(seed)
    world = World()
    for _ in range(40):
        do_something(world, rng)
    world.settle()
    ready = [
        (b.batch_id, i)
        for b in world.state.batches.values()
        if b.columns is not None
        for i in range(1, len(b.columns) + 1)
        if b.columns.state(i) is JobState.READY
    ]
    if not ready:
        return
    batch, job = rng.choice(ready)
    seen: list[str] = []
    for _ in range(60):
        if world.job(batch, job).state is not JobState.READY:
            break
        found = told(world, batch, job)
        # What runs may have to end more than once; all else is an obstacle once.
        assert found.code in ("NO_ROOM", "RESERVED", "KEEPING") or found.code not in seen, (seen, found)
        seen.append(found.code)
        take_away(world, found, batch, job)
        world.settle()
    else:
        raise AssertionError(f"still Ready: {seen}")
    assert world.job(batch, job).n_attempts, seen


def take_away(world: World, found: Reason, batch: int, job: int) -> None:
    columns = world.state.batches[batch].columns
    assert columns is not None
    mcpu = columns.mcpu[job - 1]
    match found.code:
        case "FROZEN":
            world.thaw()
        case "NO_WORKER" | "TOO_LARGE":
            large = [w for w in world.state.workers.values() if w.capacity_mcpu >= mcpu]
            assert not large and (found.code == "TOO_LARGE") == bool(world.state.workers)
            world.hello("new", cores=mcpu / 1000)
        case "WORKERS_UNFIT":
            for worker_id, worker in list(world.state.workers.items()):
                if worker.capacity_mcpu >= mcpu:
                    assert world.reactor.unfit(worker_id, world.now) is not None
                    if worker_id in world.state.draining:
                        world.undrain(worker_id)
                    world.workers[worker_id].mcpu = worker.capacity_mcpu
                    world.pass_time(max(0, world.reactor.shunned_until_ms(worker_id) - world.now))
                    world.hello(worker_id)
        case "NO_ROOM" | "RESERVED" | "KEEPING":
            # The longest running attempt of whoever may be given something ends.
            fit = [w for w in world.state.workers if world.reactor.unfit(w, world.now) is None]
            running = [a for a in world.state.attempts.values() if a.worker_id in fit]
            assert running, found
            first = min(running, key=lambda a: (a.assigned_at_ms, a.attempt_id))
            world.workers[first.worker_id].held.setdefault(first.attempt_id, 0)
            world.end(first.attempt_id)
        case _:
            raise AssertionError(f"settled, and yet {found}")
