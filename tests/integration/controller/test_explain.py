"""Why a batch or a job is where it is, as users ask: with names, ids and what is in rows."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types

from .service import PATIENCE_S, Running, User, job

CODE = grpc.StatusCode


async def why(user: User, batch_id: int, job_id: int = 0) -> Any:
    answer = await user.call("Explain", pb.ExplainRequest(batch_id=batch_id, job_id=job_id))
    return answer.reasons if not job_id else answer.reasons[0]


async def test_from_no_worker_to_the_end(service: Running) -> None:
    ada = service.ada
    batch_id = await ada.submit(job(name="first"), job(name="second", parents=[1]), job(resources=CORES_8))
    assert (await why(ada, batch_id, 1)).text == "there is no worker"
    waits = await why(ada, batch_id, 2)
    assert waits.text == "waits for the job it depends on: 1 first (ready)"
    assert list(waits.jobs) == [1] and waits.fix.endswith(f"longshore why {batch_id}/1")
    async with service.worker(cores=2) as worker:
        (run,) = await worker.assigned()
        assert (await why(ada, batch_id, 1)).code == "PREPARING"
        assert (await why(ada, batch_id, 3)).code == "TOO_LARGE"
        codes = [reason.code for reason in await why(ada, batch_id)]
        assert codes == ["TOO_LARGE", "RUNNING", "PARENTS"]
        await worker.run_to_end(run.attempt_id, exit_code=3)
        async with asyncio.timeout(PATIENCE_S):
            while (await ada.job(batch_id, 2)).state != types.JOB_STATE_CANCELLED:
                await asyncio.sleep(0)
        failed = await why(ada, batch_id, 1)
        assert (failed.text, failed.since_ms > 0) == ("its command ended with exit code 3", True)
        cancelled = await why(ada, batch_id, 2)
        assert cancelled.text.endswith("a job it depends on did not succeed: 1 first (failure)")
        await ada.cancel(batch_id, "wrong genome")
        await ada.complete(batch_id)
        said = [reason.text for reason in await why(ada, batch_id)]
        assert said == [
            "the batch was cancelled by ada: wrong genome",
            "the batch is complete: of 3 jobs 1 failed and 2 were cancelled",
        ]
        assert (await why(ada, batch_id, 3)).text == "it was cancelled: batch cancelled by ada"


CORES_8 = types.Resources(cpu_mcpu=8000)


async def test_a_job_whose_parent_failed_says_so_while_others_still_run(service: Running) -> None:
    batch_id = await service.ada.submit(job(name="a"), job(name="b"), job(parents=[1, 2]))
    async with service.worker(cores=2) as worker:
        first = next(a for a in await worker.assigned(2) if a.job_id == 1)
        await worker.run_to_end(first.attempt_id, exit_code=1)
        said = await why(service.ada, batch_id, 3)
        assert (said.code, list(said.jobs)) == ("DOOMED", [1])
        assert "1 a (failure)" in said.text


async def test_what_is_not_there_or_not_ones_own_is_not_explained(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    eve = service.user("eve")
    for who, batch, job_id, words in (
        (eve, batch_id, 0, f"there is no batch {batch_id}"),
        (eve, batch_id, 1, f"there is no batch {batch_id}"),
        (service.ada, 4711, 1, "there is no batch 4711"),
        (service.ada, batch_id, 2, f"there is no job 2 in batch {batch_id}"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await why(who, batch, job_id)
        assert (error.value.code(), error.value.details()) == (CODE.NOT_FOUND, words)
