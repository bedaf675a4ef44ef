"""What may run next on one machine is what the controller would let run on its only worker."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore import JobSpec
from longshore.local.schedule import AT_ONCE, Schedule
from longshore.status import JobState
from longshore_controller.core.model import BatchState
from world import Job, World

CORES = 4
SIZES = [250, 500, 1000, 4000]


def spec(job: Job) -> JobSpec:
    return JobSpec(
        command=("true",),
        cpu_mcpu=job.mcpu,
        parents=tuple(job.parents),
        always_run=job.always_run,
        retries=job.retries,
    )


def schedule(*jobs: Job, mcpu: int = 1000 * CORES) -> Schedule:
    return Schedule([spec(job) for job in jobs], mcpu)


def take_all(schedule: Schedule) -> list[int]:
    taken = []
    while (job_id := schedule.take()) is not None:
        taken.append(job_id)
    return taken


@st.composite
def graphs(draw: st.DrawFn) -> list[Job]:
    """Tasks of all kinds, each after some of those before it."""
    n = draw(st.integers(0, 14))
    return [
        Job(
            parents=sorted(draw(st.sets(st.integers(1, i), max_size=3))) if i else [],
            mcpu=draw(st.sampled_from(SIZES)),
            always_run=draw(st.integers(0, 4)) == 0,
            retries=draw(st.sampled_from([0, 0, 0, 1, 2])),
        )
        for i in range(n)
    ]


@settings(max_examples=150, deadline=None)
@given(jobs=graphs(), data=st.data())
def test_the_same_jobs_run_at_the_same_time_and_end_in_the_same_states(
    jobs: Sequence[Job], data: st.DataObject
) -> None:
    world, here = World(), schedule(*jobs)
    world.hello(cores=CORES)
    batch = world.submit(*jobs)
    world.settle()
    take_all(here)
    ids = range(1, len(jobs) + 1)
    cancel_after = data.draw(st.integers(0, 30))
    for step in range(1_000):
        there = [world.job(batch, job_id) for job_id in ids]
        assert [row.state.name.capitalize() for row in there] == [here.state(job_id) for job_id in ids]
        assert [row.reason for row in there] == [here.reason(job_id) for job_id in ids]
        assert BatchState[here.batch_state().upper()] is world.batch(batch).state
        running = [job_id for job_id in ids if here.state(job_id) == "Running"]
        if not running:
            break
        if step == cancel_after:
            world.cancel(batch)
            world.settle()
            here.cancel("batch cancelled by ann")
            take_all(here)  # What may run now starts while the others are still being stopped.
            for job_id in running:
                if not jobs[job_id - 1].always_run:
                    here.ended(job_id, "Cancelled")
        else:
            job_id = data.draw(st.sampled_from(running))
            code = data.draw(st.sampled_from([0, 0, 1]))
            world.end(world.attempt_of(batch, job_id), code)
            world.settle()
            here.ended(job_id, "Failure" if code else "Success")
        take_all(here)
    assert here.complete
    assert not world.state.batches, "it is complete there, too"


def test_jobs_run_by_id_but_always_run_ones_first_as_far_as_there_are_cores() -> None:
    s = schedule(*[Job(mcpu=1500)] * 3, Job(always_run=True, mcpu=500), mcpu=4000)
    assert take_all(s) == [4, 1, 2]
    assert s.ended(1, "Success") == "Success"
    assert take_all(s) == [3]


def test_a_big_job_is_not_starved_by_small_ones_behind_it() -> None:
    s = schedule(Job(mcpu=500), Job(mcpu=4000), *[Job(mcpu=250)] * 3)
    assert take_all(s) == [1]
    s.ended(1, "Success")
    assert take_all(s) == [2]
    s.ended(2, "Success")
    assert take_all(s) == [3, 4, 5]


def test_a_job_that_asks_for_more_than_there_is_runs_alone() -> None:
    s = schedule(Job(mcpu=250), Job(mcpu=64_000), Job(mcpu=250))
    assert take_all(s) == [1]
    s.ended(1, "Success")
    assert take_all(s) == [2]


def test_memory_counts_as_the_cores_that_come_with_it() -> None:
    s = Schedule([JobSpec(command=("true",), memory_bytes=15_000_000_000)] * 2, 4000)
    assert take_all(s) == [1]


def test_there_is_a_most_to_what_runs_at_once() -> None:
    s = schedule(*[Job(mcpu=1)] * 1000)
    assert len(take_all(s)) == AT_ONCE


def test_a_stop_spares_nothing_that_waits() -> None:
    s = schedule(Job(), Job(parents=[1]), Job(parents=[1], always_run=True), Job(parents=[3]), mcpu=1000)
    assert take_all(s) == [1]
    s.stop("batch cancelled by me")
    assert [s.state(job_id) for job_id in (1, 2, 3, 4)] == ["Running", *["Cancelled"] * 3]
    assert s.ended(1, "Cancelled") == "Cancelled"
    assert s.complete and s.batch_state() == "cancelled"


def test_a_chain_of_100_000_jobs_is_cancelled_without_recursion() -> None:
    s = schedule(Job(), *[Job(parents=[i]) for i in range(1, 100_000)])
    assert take_all(s) == [1]
    assert s.ended(1, "Failure") == "Failure"
    assert s.complete and s.counts["Cancelled"] == 99_999


@pytest.mark.parametrize("state", ["Failure", "Error"])
def test_only_failures_of_its_own_are_tried_again_and_not_in_a_cancelled_batch(state: JobState) -> None:
    s = schedule(Job(retries=1), Job(retries=9), mcpu=2000)
    assert take_all(s) == [1, 2]
    assert s.ended(1, state) == "Ready" and take_all(s) == [1]
    assert s.ended(1, state) == state
    s.cancel("batch cancelled by me")
    assert s.ended(2, state) == state
