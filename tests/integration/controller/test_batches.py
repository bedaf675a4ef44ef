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


async def add(user: User, batch_id: int, first: int, *jobs: types.JobSpec, request_id: str = "") -> int:
    request = pb.UpdateBatchRequest(
        batch_id=batch_id, request_id=request_id or f"from {first}", first_job_id=first, jobs=jobs
    )
    n_jobs: int = (await user.call("UpdateBatch", request)).n_jobs
    return n_jobs


async def test_jobs_are_added_to_a_batch_that_runs_and_depend_on_what_is_complete(service: Running) -> None:
    ada = service.ada
    batch_id = await ada.submit(job(), job())
    async with service.worker(cores=1) as workerd:
        (first,) = await workerd.assigned()
        await workerd.run_to_end(first.attempt_id)
        await workerd.assigned(2)
        more = [job(parents=[1]), job(parents=[1, 2]), job(parents=[3], name="last")]
        assert await add(ada, batch_id, 3, *more) == 5
        batch = await ada.batch(batch_id)
        assert (batch.n_jobs, batch.n_pending, batch.n_succeeded) == (5, 2, 1)
        for n in range(2, 6):
            run = (await workerd.assigned(n))[-1]
            assert run.job_id == n
            await workerd.run_to_end(run.attempt_id)
        *_, batch = await ada.complete(batch_id)
    assert (batch.state, batch.n_succeeded) == (types.BATCH_STATE_SUCCESS, 5)
    assert (await ada.job(batch_id, 5)).name == "last"


async def test_a_complete_batch_runs_again_with_more_jobs_and_watchers_see_it(service: Running) -> None:
    ada = service.ada
    batch_id = await ada.submit(job(), job(parents=[1], name="never"))
    async with service.worker() as workerd:
        (first,) = await workerd.assigned()
        await workerd.run_to_end(first.attempt_id, exit_code=1)
        *_, before = await ada.complete(batch_id)
        windows = ada.stream("WatchJobs", iter([pb.JobsWindow(batch_id=batch_id)]))
        assert len((await read(windows)).rows) == 2
        jobs = [job(parents=[1, 2], always_run=True), job(parents=[1])]
        await asyncio.gather(*(add(ada, batch_id, 3, *jobs) for _ in range(5)))
        again = (await workerd.assigned(2))[1]
        assert again.job_id == 3
        batch = await ada.batch(batch_id)
        assert (batch.complete, batch.n_jobs, batch.n_running) == (False, 4, 1)
        async with asyncio.timeout(PATIENCE_S):
            while (seen := await read(windows)).n_matching != 4:
                pass
        assert [row.state for row in seen.rows][:2] == [types.JOB_STATE_FAILURE, types.JOB_STATE_CANCELLED]
        await workerd.run_to_end(again.attempt_id)
        *_, batch = await ada.complete(batch_id)
    assert (batch.n_succeeded, batch.n_failed, batch.n_cancelled) == (1, 1, 2)
    assert batch.completed_at_ms >= before.completed_at_ms
    doomed = await ada.job(batch_id, 4)
    assert (doomed.state, doomed.reason) == (
        types.JOB_STATE_CANCELLED,
        "a job it depends on did not succeed",
    )
    assert await add(ada, batch_id, 3, *jobs) == 4


async def test_an_update_counts_once_and_says_where_it_begins(service: Running) -> None:
    ada = service.ada
    batch_id = await ada.submit(job())
    assert await add(ada, batch_id, 2, job(name="a"), request_id="once") == 2
    assert await add(ada, batch_id, 2, job(name="a"), request_id="once") == 2
    code, _ = await refused(add(ada, batch_id, 2, job(name="b"), request_id="once"))
    assert code is CODE.ALREADY_EXISTS
    code, words = await refused(add(ada, batch_id, 2, job(), request_id="twice"))
    assert (code, words) == (
        CODE.FAILED_PRECONDITION,
        f"batch {batch_id} has 2 jobs now: the next is not job 2",
    )
    other = await ada.submit(job())
    assert await add(ada, other, 2, job(name="b"), request_id="once") == 2
    assert (await ada.batch(batch_id)).n_jobs == 2


async def test_jobs_are_added_by_the_creator_of_a_batch_that_takes_them(service: Running) -> None:
    ada, bob = service.ada, service.user("bob")
    batch_id = await ada.submit(job())
    no_batch = CODE.NOT_FOUND, f"there is no batch {batch_id}"
    assert await refused(add(bob, batch_id, 2, job())) == no_batch
    is_open = await ada.create(1)
    code, words = await refused(add(ada, is_open, 2, job()))
    assert (code, "is open" in words) == (CODE.FAILED_PRECONDITION, True)
    await ada.cancel(batch_id)
    code, words = await refused(add(ada, batch_id, 2, job()))
    assert (code, "was cancelled by ada" in words) == (CODE.FAILED_PRECONDITION, True)
    await ada.delete(batch_id)
    assert await refused(add(ada, batch_id, 2, job())) == no_batch
    assert (await refused(add(ada, 2**40, 1, job())))[0] is CODE.NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"request_id": ""}, "request_id"),
        ({"first_job_id": 0}, "first_job_id"),
        ({"first_job_id": 10_000_001}, "first_job_id"),
        ({"jobs": []}, "jobs"),
        ({"jobs": [job()] * 1001}, "jobs"),
        ({"jobs": [job(), job(parents=[4])]}, "jobs[1].parents[0]"),
        ({"jobs": [types.JobSpec()]}, "jobs[0].command"),
    ],
)
async def test_an_update_that_makes_no_sense_is_refused_by_its_field(
    service: Running, fields: dict[str, Any], path: str
) -> None:
    batch_id = await service.ada.submit(job(), job())
    sound: dict[str, Any] = {"batch_id": batch_id, "request_id": "r", "first_job_id": 3, "jobs": [job()]}
    code, words = await refused(service.ada.call("UpdateBatch", pb.UpdateBatchRequest(**(sound | fields))))
    assert (code, words.partition(": ")[0]) == (CODE.INVALID_ARGUMENT, path)
    assert (await service.ada.batch(batch_id)).n_jobs == 2


async def test_an_update_whose_commit_fails_leaves_a_complete_batch_as_it_was(service: Running) -> None:
    ada = service.ada
    batch_id = await ada.create(0)
    await ada.close(batch_id)
    *_, before = await ada.complete(batch_id)
    with service.database_away():
        assert (await refused(add(ada, batch_id, 1, job())))[0] is CODE.UNAVAILABLE
    assert await ada.batch(batch_id) == before
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                assert await add(ada, batch_id, 1, job()) == 1
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is CODE.UNAVAILABLE
    assert (await ada.batch(batch_id)).n_ready == 1


async def test_a_rerun_is_linked_both_ways_to_what_its_creator_sees(service: Running) -> None:
    ada, bob = service.ada, service.user("bob")
    batch_id = await ada.submit(job())
    async with service.worker() as workerd:
        (run,) = await workerd.assigned()
        await workerd.run_to_end(run.attempt_id, exit_code=1)
        await ada.complete(batch_id)
    again = await ada.create(1, jobs=[job()], rerun_of=batch_id)
    assert (await ada.batch(again)).rerun_of == batch_id
    assert list((await ada.batch(batch_id)).reruns) == [again]
    for wrong in (batch_id, 10**6, 2**64 - 1):
        code, _ = await refused(bob.create(1, billing_project="bobs", jobs=[job()], rerun_of=wrong))
        assert code is CODE.NOT_FOUND
    await ada.delete(again)
    assert not (await ada.batch(batch_id)).reruns


async def test_pages_with_specs_are_bounded_by_their_size_and_miss_nothing(service: Running) -> None:
    big = [job("bash", "-c", "x" * 100_000, "y" * 100_000, name=str(i)) for i in range(50)]
    batch_id = await service.ada.submit(*big[:25])
    await add(service.ada, batch_id, 26, *big[25:])
    names: list[str] = []
    sizes: list[int] = []
    more, after = True, 0
    while more:
        request = pb.ListJobsRequest(batch_id=batch_id, page_size=1000, after_job_id=after, with_spec=True)
        page = await service.ada.call("ListJobs", request)
        names += [found.spec.name for found in page.jobs]
        sizes.append(page.ByteSize())
        more, after = page.more, page.jobs[-1].job_id
    assert names == [str(i) for i in range(50)]
    assert len(sizes) == 3 and max(sizes) < 5 << 20
