"""Resources, batch states and job columns: the tables of SPEC R1 and 4.2, exhaustively."""

from __future__ import annotations

from array import array
from dataclasses import replace
from functools import partial
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore_controller.core.model import (
    ALWAYS_CLASS,
    ALWAYS_RUN,
    CLASSES,
    DOOMED,
    STATE_MASK,
    BatchState,
    JobColumns,
    JobState,
    batch_state,
    initial_states,
    memory_of,
    ranges,
    reserved_mcpu,
)
from world import random_jobs, staged

GB = 10**9


@pytest.mark.parametrize(
    ("cpu_mcpu", "memory_bytes", "reserved"),
    [
        (0, 0, 1000),  # default: 1 core, 3.75 GB
        (1000, 7 * GB, 2000),  # the seed: 1 CPU and 7 GB are 2 cores
        (100, 375_000_000, 100),  # exact up to one core
        (100, 375_000_001, 101),
        (100, 0, 100),  # memory not said: it comes with the cores
        (1000, 3_750_000_000, 1000),
        (1000, 3_750_000_001, 2000),  # above one core: whole cores
        (1500, 3_750_000_000, 1500),
        (2500, 7 * GB, 2500),
        (16_000, 0, 16_000),
        (250, 60 * GB, 16_000),
    ],
)
def test_reserved_cores_are_the_greater_of_cores_and_the_memorys_worth(
    cpu_mcpu: int, memory_bytes: int, reserved: int
) -> None:
    assert reserved_mcpu(cpu_mcpu, memory_bytes) == reserved


@given(st.integers(1, 64_000), st.integers(1, 10**12))
def test_the_reserved_share_of_memory_is_at_least_what_was_asked_for(cpu: int, memory: int) -> None:
    reserved = reserved_mcpu(cpu, memory)
    assert reserved >= cpu
    assert memory_of(reserved) >= memory


def test_batch_state_follows_the_seeds_rules_for_every_combination_of_four_jobs() -> None:
    finals = (JobState.RUNNING, JobState.SUCCESS, JobState.FAILURE, JobState.ERROR, JobState.CANCELLED)
    for jobs in product(finals, repeat=4):
        for closed, cancelled in product((False, True), repeat=2):
            got = batch_state(
                closed=closed,
                cancelled=cancelled,
                n_jobs=4,
                n_succeeded=jobs.count(JobState.SUCCESS),
                n_failed=jobs.count(JobState.FAILURE) + jobs.count(JobState.ERROR),
                n_cancelled=jobs.count(JobState.CANCELLED),
            )
            if not closed:
                assert got is BatchState.OPEN
            elif JobState.FAILURE in jobs or JobState.ERROR in jobs:
                assert got is BatchState.FAILURE
            elif set(jobs) == {JobState.SUCCESS}:
                assert got is BatchState.SUCCESS
            elif cancelled or JobState.CANCELLED in jobs:
                assert got is BatchState.CANCELLED
            else:
                assert got is BatchState.RUNNING


def test_an_empty_batch_is_a_success_unless_it_was_cancelled_open() -> None:
    empty = partial(batch_state, closed=True, n_jobs=0, n_succeeded=0, n_failed=0, n_cancelled=0)
    assert empty(cancelled=False) is BatchState.SUCCESS
    assert empty(cancelled=True) is BatchState.CANCELLED


@given(st.sets(st.integers(1, 60)))
def test_ranges_say_the_same_ids_in_the_fewest_pieces(ids: set[int]) -> None:
    got = ranges(sorted(ids))
    assert [i for first, last in got for i in range(first, last + 1)] == sorted(ids)
    assert all(b[0] > a[1] + 1 for a, b in zip(got, got[1:], strict=False))


def columns(states: list[int], parents: dict[int, list[int]]) -> JobColumns:
    packed = [array("I", parents.get(i + 1, [])).tobytes() for i in range(len(states))]
    return JobColumns.build(bytearray(states), array("I", [1000] * len(states)), packed)


def test_columns_know_children_and_how_many_parents_are_not_complete() -> None:
    c = columns(
        [JobState.SUCCESS, JobState.RUNNING, JobState.PENDING, JobState.PENDING], {3: [1, 2], 4: [1, 3]}
    )
    assert list(c.children_of(1)) == [2, 3]
    assert list(c.children_of(2)) == [2]
    assert list(c.children_of(4)) == []
    assert list(c.waiting) == [0, 0, 1, 1]


def test_a_loaded_pending_job_with_a_parent_that_did_not_succeed_is_doomed_unless_always_run() -> None:
    c = columns(
        [JobState.ERROR, JobState.RUNNING, JobState.PENDING, JobState.PENDING | ALWAYS_RUN],
        {3: [1, 2], 4: [1, 2]},
    )
    assert c.states[2] == JobState.PENDING | DOOMED
    assert c.states[3] == JobState.PENDING | ALWAYS_RUN


def test_a_million_pending_jobs_take_few_bytes_each() -> None:
    n = 100_000
    c = JobColumns.build(bytearray([JobState.READY]) * n, array("I", bytes(4 * n)))
    held = len(c.states) + 4 * (len(c.waiting) + len(c.mcpu) + len(c.child_index) + len(c.children))
    assert held / n < 20


@given(st.integers(), st.integers(1, 40), st.sampled_from([3, 100, 4000]))
@settings(max_examples=60)
def test_jobs_added_a_few_at_a_time_are_as_if_they_had_been_there(seed: int, step: int, sizes: int) -> None:
    rng = Random(seed)
    jobs = [replace(job, mcpu=rng.randint(1, sizes)) for job in random_jobs(rng, most=300)]
    bunch, at = staged(jobs), rng.randint(0, len(jobs))
    states = initial_states(bunch.parents, bunch.always_run)
    for i in range(at):
        if states[i] & STATE_MASK == JobState.READY:
            states[i] ^= JobState.READY ^ rng.choice([JobState.READY, JobState.SUCCESS, JobState.FAILURE])
    retries = {i: r for i, r in enumerate(bunch.retries, 1) if r}
    before = {i: r for i, r in retries.items() if i <= at}
    grown = JobColumns.build(states[:at], bunch.mcpu[:at], bunch.parents[:at], before)
    for first in range(at, len(jobs), step):
        grown.extend(staged(jobs[first : first + step]))
    assert grown == JobColumns.build(states, bunch.mcpu, bunch.parents, retries)
    for i, state in enumerate(grown.states):
        assert grown.ready[i] == (grown.class_of(i) if state & STATE_MASK == JobState.READY else 0)
        assert 1 <= grown.class_of(i) % ALWAYS_CLASS <= len(grown.sizes) <= CLASSES
