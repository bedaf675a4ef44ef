"""A job goes all the way round: submitted, told, reported, seen; on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from integration.controller.service import (
    ENDED,
    STARTED,
    Running,
    config_of,
    ended,
    job,
    running,
    started,
)
from longshore_api.v1 import types_pb2 as types


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else None


async def test_a_batch_runs_and_its_watcher_sees_success(tmp_path: Path, database: str | None) -> None:
    async with running(config_of(tmp_path, database)) as service, service.worker() as workerd:
        spec = job("echo", "hello", env={"A": "ä"}, resources=types.Resources(memory_bytes=7 * 10**9))
        batch_id = await service.ada.submit(spec, job(parents=[1], name="second"))
        watching = asyncio.create_task(service.ada.complete(batch_id))

        (first,) = await workerd.assigned()
        assert types.JobSpec.FromString(first.spec) == spec
        assert (first.batch_id, first.job_id, first.user) == (batch_id, 1, "ada")
        assert (first.mcpu, first.memory_bytes) == (2000, 7_500_000_000)
        await workerd.report(started(first.attempt_id))
        await workerd.run_to_end(first.attempt_id)
        second = (await workerd.assigned(2))[-1]
        await workerd.run_to_end(second.attempt_id)

        seen = await watching
        assert [b.complete for b in seen] == [False] * (len(seen) - 1) + [True]
        assert (seen[-1].state, seen[-1].n_succeeded) == (types.BATCH_STATE_SUCCESS, 2)
        assert workerd.acks == {
            (first.attempt_id, STARTED),
            (first.attempt_id, ENDED),
            (second.attempt_id, ENDED),
        }
        done = await service.ada.job(batch_id, 1)
        assert (done.state, done.exit_code, done.spec) == (types.JOB_STATE_SUCCESS, 0, spec)
        assert [a.attempt_id for a in done.attempts] == [first.attempt_id]
        assert done.attempts[0].containers[0].container == types.CONTAINER_MAIN


async def test_a_controller_started_again_goes_on_where_the_last_one_was(
    tmp_path: Path, database: str | None
) -> None:
    config = config_of(tmp_path, database)
    async with running(config) as service:
        identity = await service.activate()
        async with service.worker(identity) as workerd:
            batch_id = await service.ada.submit(job(), job(), job(parents=[1, 2]))
            one, two = [a.attempt_id for a in await workerd.assigned(2)]
            await workerd.report(started(one), started(two))
            await workerd.until(lambda: (two, STARTED) in workerd.acks)
            first_epoch = workerd.welcome.epoch
    async with running(config) as service, service.worker(identity, held=[one], spooled=[two]) as workerd:
        assert workerd.welcome.epoch > first_epoch
        assert (workerd.told[0].complete, list(workerd.told[0].keep)) == (True, [one])
        assert not workerd.runs
        await workerd.report(ended(two), ended(one))
        await workerd.run_to_end((await workerd.assigned(1))[0].attempt_id)
        assert (await service.ada.complete(batch_id))[-1].state == types.BATCH_STATE_SUCCESS
        jobs = [await service.ada.job(batch_id, job_id) for job_id in (1, 2, 3)]
        assert [j.n_attempts for j in jobs] == [1, 1, 1]


async def test_an_attempt_that_its_worker_has_not_taken_is_told_again(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    async with running(config) as service:
        identity = await service.activate()
        async with service.worker(identity) as workerd:
            await service.ada.submit(job())
            (lost,) = await workerd.assigned()
        async with service.worker(identity) as workerd:
            assert [a.attempt_id for a in workerd.told[0].run] == [lost.attempt_id]


async def test_a_job_waits_for_a_worker_that_can_hold_it(service: Running) -> None:
    async with service.worker(cores=1) as small:
        await service.ada.submit(job(resources=types.Resources(cpu_mcpu=4000)))
        await small.until(lambda: small.told)
        async with service.worker(cores=4) as large:
            (attempt,) = await large.assigned()
            assert attempt.mcpu == 4000
        assert not small.runs


async def test_a_stranger_to_the_service_is_not_let_in(service: Running) -> None:
    stranger = service.user("eve")
    stranger.metadata = (("authorization", "Bearer forged"),)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stranger.batch(1)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
