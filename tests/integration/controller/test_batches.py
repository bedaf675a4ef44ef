"""What befalls batches and jobs after their submission: ended attempts, limits of tries, undeletion."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from integration.controller.service import PATIENCE_S, Running, User, ended, job
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types

CODE = grpc.StatusCode


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


async def read(stream: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await stream.read()


async def end(user: User, batch_id: int, job_id: int, attempt_id: str, reason: str = "") -> None:
    request = pb.EndAttemptRequest(batch_id=batch_id, job_id=job_id, attempt_id=attempt_id, reason=reason)
    await user.call("EndAttempt", request)


async def undelete(user: User, batch_id: int) -> None:
    await user.call("UndeleteBatch", pb.UndeleteBatchRequest(batch_id=batch_id))


async def test_an_attempt_that_its_owner_ends_is_stopped_and_its_job_tried_again(service: Running) -> None:
    ada = service.ada
    batch_id = await ada.submit(job(max_lost=1, max_preempted=1))
    async with service.worker() as workerd:
        (first,) = await workerd.assigned()
        await asyncio.gather(*(end(ada, batch_id, 1, first.attempt_id, "it hangs") for _ in range(3)))
        await workerd.until(lambda: first.attempt_id in workerd.revoked)
        stopped = ended(first.attempt_id, exit_code=143)
        stopped.reason = types.END_REASON_REVOKED
        await workerd.report(stopped)
        second = (await workerd.assigned(2))[1]
        await end(ada, batch_id, 1, first.attempt_id, "it hangs")  # Repeated late: it is about the first.
        assert second.attempt_id not in workerd.revoked
        await workerd.run_to_end(second.attempt_id)
        *_, batch = await ada.complete(batch_id)
    found = await ada.job(batch_id, 1)
    assert (batch.state, found.n_attempts) == (types.BATCH_STATE_SUCCESS, 2)
    assert [attempt.revoked for attempt in found.attempts] == ["ended by ada: it hangs", ""]


async def test_what_ended_by_itself_before_its_worker_heard_of_it_stands(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    async with service.worker() as workerd:
        (run,) = await workerd.assigned()
        await end(service.ada, batch_id, 1, run.attempt_id)
        await workerd.run_to_end(run.attempt_id)
    found = await service.ada.job(batch_id, 1)
    assert (found.state, found.attempts[0].revoked) == (types.JOB_STATE_SUCCESS, "ended by ada")


async def test_only_an_attempt_of_that_job_can_be_ended_and_only_by_its_owner(service: Running) -> None:
    bob = service.user("bob")
    batch_id = await service.ada.submit(job(), job())
    async with service.worker() as workerd:
        first, second = sorted(await workerd.assigned(2), key=lambda run: run.job_id)
        words = f"there is no attempt {first.attempt_id} of job 2 of batch {batch_id}"
        assert await refused(end(service.ada, batch_id, 2, first.attempt_id)) == (CODE.NOT_FOUND, words)
        no_batch = CODE.NOT_FOUND, f"there is no batch {batch_id}"
        assert await refused(end(bob, batch_id, 1, first.attempt_id)) == no_batch
        code, words = await refused(end(service.ada, batch_id, 1, ""))
        assert (code, words.partition(":")[0]) == (CODE.INVALID_ARGUMENT, "attempt_id")
        assert not workerd.revoked


@pytest.mark.parametrize(
    ("field", "reason", "words"),
    [
        ("max_preempted", types.END_REASON_PREEMPTED, "preempted 1 time"),
        ("max_lost", types.END_REASON_REFUSED, "lost or refused 1 time, last: no room"),
    ],
)
async def test_a_job_says_after_how_many_attempts_of_others_fault_it_is_an_error(
    service: Running, field: str, reason: types.EndReason.ValueType, words: str
) -> None:
    batch_id = await service.ada.submit(job(**{field: 1}))
    async with service.worker() as workerd:
        (run,) = await workerd.assigned()
        said = ended(run.attempt_id)
        said.reason, said.message = reason, "no room"
        await workerd.report(said)
        *_, batch = await service.ada.complete(batch_id)
    found = await service.ada.job(batch_id, 1)
    assert (found.state, found.reason, batch.n_failed) == (types.JOB_STATE_ERROR, words, 1)
    assert getattr(found.spec, field) == 1


@pytest.mark.parametrize("n", [0, 1001])
async def test_limits_of_tries_are_checked_where_they_come_in(service: Running, n: int) -> None:
    code, words = await refused(service.ada.create(1, jobs=[job(max_lost=n)]))
    assert code is CODE.INVALID_ARGUMENT
    assert words == f"jobs[0].max_lost: 1 (it is not tried again) to 1,000, got {n:,} (job 1)"


@pytest.mark.parametrize("complete", [False, True])
async def test_an_undeleted_batch_is_where_it_was_and_stays_cancelled(
    service: Running, complete: bool
) -> None:
    ada = service.ada
    batch_id = await ada.create(0) if complete else await ada.submit(job())
    if complete:
        await ada.close(batch_id)
        await ada.complete(batch_id)
    windows = ada.stream("WatchBatches", iter([pb.BatchesWindow()]))
    await read(windows)
    await ada.delete(batch_id)
    await asyncio.gather(*(undelete(ada, batch_id) for _ in range(3)))
    await undelete(ada, batch_id)
    batch = await ada.batch(batch_id)
    wanted = types.BATCH_STATE_SUCCESS if complete else types.BATCH_STATE_CANCELLED
    assert batch.state == wanted
    listed = await ada.call("ListBatches", pb.ListBatchesRequest())
    assert [b.batch_id for b in listed.batches] == [batch_id]
    async with asyncio.timeout(PATIENCE_S):
        while True:
            seen = await read(windows)
            if seen.whole and [row.batch_id for row in seen.rows] == [batch_id]:
                break


async def test_what_is_somebody_elses_cannot_be_undeleted(service: Running) -> None:
    batch_id = await service.ada.create(0)
    await service.ada.delete(batch_id)
    for wrong in (batch_id, batch_id + 1):
        found = await refused(undelete(service.user("bob"), wrong))
        assert found == (CODE.NOT_FOUND, f"there is no batch {wrong}")
    assert await refused(service.ada.batch(batch_id)) == (CODE.NOT_FOUND, f"there is no batch {batch_id}")
