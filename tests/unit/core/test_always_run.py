"""What becomes of a job by its parent's result, a cancel at each of its stages, and always_run (SPEC S3)."""

from __future__ import annotations

from itertools import product

import pytest
from longshore_controller.core.model import AttemptState, EndReason, JobState
from world import Job, World

RESULTS = {
    "success": JobState.SUCCESS,
    "failure": JobState.FAILURE,
    "error": JobState.ERROR,
    "cancelled": JobState.CANCELLED,
}
STAGES = ("never", "pending", "ready", "running")
FIRST, PARENT, CHILD = 1, 2, 3


def wanted(result: str, stage: str, *, always_run: bool) -> JobState:
    if always_run or (result == "success" and stage == "never"):
        return JobState.SUCCESS
    return JobState.CANCELLED


def live(world: World, batch_id: int, job_id: int) -> str | None:
    found = [a for a in world.rows.attempts.values() if (a.batch_id, a.job_id) == (batch_id, job_id)]
    return next((a.attempt_id for a in found if a.state is not AttemptState.ENDED), None)


def end(world: World, batch_id: int, job_id: int, result: str) -> None:
    """If it runs, as it has to for this result."""
    world.settle()
    if (attempt_id := live(world, batch_id, job_id)) is not None:
        reason = EndReason.ERROR if result == "error" else EndReason.COMPLETED
        world.end(attempt_id, exit_code=int(result != "success"), reason=reason)
    world.settle()


@pytest.mark.parametrize("fails_first", [False, True], ids=["", "fails first"])
@pytest.mark.parametrize("always_run", [False, True], ids=["ordinary", "always_run"])
@pytest.mark.parametrize(("result", "stage"), list(product(RESULTS, STAGES)))
def test_a_child_runs_or_is_cancelled_by_the_table(
    result: str, stage: str, *, always_run: bool, fails_first: bool
) -> None:
    world = World()
    world.hello(cores=1)
    # What is to have a result of its own in a cancelled batch has to be always_run.
    parent = Job(parents=[FIRST], always_run=stage == "pending" and result != "cancelled")
    child = Job(parents=[PARENT], always_run=always_run, retries=int(fails_first))
    batch_id = world.submit(Job(), parent, child)
    world.settle()
    if stage == "pending":
        world.cancel(batch_id)
        world.settle()
    frozen = stage == "ready"  # The child becomes Ready and gets no worker.
    if frozen and result == "cancelled":
        world.freeze()
    end(world, batch_id, FIRST, "failure" if result == "cancelled" else "success")
    if frozen:
        world.freeze()
    end(world, batch_id, PARENT, result)
    assert world.job(batch_id, PARENT).state is RESULTS[result]
    runs_on = result == "success" or always_run
    if stage == "ready":
        assert (world.job(batch_id, CHILD).state is JobState.READY) == runs_on
        world.cancel(batch_id)
        world.settle()
        world.thaw()
        world.settle()
    elif stage == "running" and runs_on:
        assert world.job(batch_id, CHILD).state is JobState.RUNNING
        world.cancel(batch_id)
        world.settle()
    if fails_first:
        end(world, batch_id, CHILD, "failure")
    end(world, batch_id, CHILD, "success")
    found = world.job(batch_id, CHILD)
    assert found.state is wanted(result, stage, always_run=always_run)
    if found.state is JobState.SUCCESS:
        assert found.n_attempts == 1 + fails_first
    assert world.batch(batch_id).completed_at_ms is not None
    world.check()
