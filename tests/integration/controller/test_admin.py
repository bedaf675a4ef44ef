"""What admins do: freeze, thaw, drain, undrain, and look at what is left; and who may not."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from longshore_api.v1 import admin_service_pb2 as pb
from longshore_api.v1 import admin_service_pb2_grpc as admin_grpc
from longshore_api.v1 import auth_service_pb2 as auth_pb
from longshore_api.v1 import auth_service_pb2_grpc as auth_grpc

from .service import PATIENCE_S, Running, User, config_of, job, running

CODE = grpc.StatusCode
CALLS = {
    "Freeze": pb.FreezeRequest(reason="a new network"),
    "Thaw": pb.ThawRequest(),
    "GetServiceStatus": pb.GetServiceStatusRequest(),
    "ListWorkers": pb.ListWorkersRequest(),
    "GetWorker": pb.GetWorkerRequest(worker_id="w"),
    "DrainWorker": pb.DrainWorkerRequest(worker_id="w"),
    "UndrainWorker": pb.UndrainWorkerRequest(worker_id="w"),
}


async def call(service: Running, method: str, request: Any, who: User | None = None) -> Any:
    stub: Any = admin_grpc.AdminServiceStub(service.channel)
    metadata = (who or service.ada).metadata
    return await getattr(stub, method)(request, metadata=metadata, timeout=PATIENCE_S)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


async def test_only_an_admin_is_answered(service: Running) -> None:
    eve = service.user("eve")
    for method, request in CALLS.items():
        code, words = await refused(call(service, method, request, eve))
        assert (code, words) == (CODE.PERMISSION_DENIED, "this is for admins; ask one of them")
        assert (await refused(call(service, method, request, User(service.channel, ""))))[0] is (
            CODE.UNAUTHENTICATED
        )


async def test_frozen_nothing_starts_and_everybody_is_told_why(service: Running) -> None:
    auth: Any = auth_grpc.AuthServiceStub(service.channel)
    watch = auth.WatchSession(auth_pb.GetSessionRequest(), metadata=service.ada.metadata)
    assert not (await watch.read()).frozen
    async with service.worker(cores=2) as worker:
        first = await service.ada.submit(job())
        (run,) = await worker.assigned()
        request = pb.FreezeRequest(reason="a new network")
        for _ in range(2):
            status = await call(service, "Freeze", request)
            assert (status.frozen.by, status.frozen.reason) == ("ada", "a new network")
        assert [r.attempt_id for r in status.running] == [run.attempt_id]
        told = await asyncio.wait_for(watch.read(), 4)  # At once, and not when it would say so anyhow.
        assert told.frozen.startswith("the service is frozen by ada: a new network")
        assert told.frozen in told.notices
        second = await service.ada.submit(job())
        await worker.run_to_end(run.attempt_id)
        await service.ada.complete(first)
        assert (await service.ada.batch(second)).n_ready == 1
        assert not (await call(service, "GetServiceStatus", pb.GetServiceStatusRequest())).n_running
        for _ in range(2):
            assert not (await call(service, "Thaw", pb.ThawRequest())).HasField("frozen")
        await worker.assigned(2)
        assert not (await asyncio.wait_for(watch.read(), 4)).frozen
    watch.cancel()


async def test_a_draining_worker_runs_dry_and_comes_back_when_it_is_undrained(service: Running) -> None:
    async with service.worker(cores=2) as worker:
        worker_id = worker.identity[0]
        await service.ada.submit(job(), job(), job())
        run, other = await worker.assigned(2)
        drain = pb.DrainWorkerRequest(worker_id=worker_id, reason="a new disk")
        for _ in range(2):
            seen = await call(service, "DrainWorker", drain)
            assert (seen.state, seen.n_running) == (pb.WORKER_STATE_DRAINING, 2)
            assert (seen.draining.by, seen.draining.reason) == ("ada", "a new disk")
        await worker.run_to_end(run.attempt_id)
        await worker.run_to_end(other.attempt_id)
        seen = await call(service, "GetWorker", pb.GetWorkerRequest(worker_id=worker_id))
        assert (seen.n_running, seen.free_mcpu, len(worker.runs)) == (0, 2000, 2)
        (listed,) = (await call(service, "ListWorkers", pb.ListWorkersRequest())).workers
        assert listed == seen and listed.runtime == "fake" and listed.heard_at_ms
        for _ in range(2):
            undrain = pb.UndrainWorkerRequest(worker_id=worker_id)
            assert (await call(service, "UndrainWorker", undrain)).state == pb.WORKER_STATE_ACTIVE
        await worker.assigned(3)


async def test_what_cannot_be_is_refused(service: Running) -> None:
    for method in ("GetWorker", "DrainWorker", "UndrainWorker"):
        code, words = await refused(call(service, method, CALLS[method]))
        assert (code, words) == (CODE.NOT_FOUND, "there is no worker 'w'")
    for method, request in (
        ("Freeze", pb.FreezeRequest(reason="x" * 2000)),
        ("DrainWorker", pb.DrainWorkerRequest(worker_id="w", reason="a\0b")),
    ):
        code, words = await refused(call(service, method, request))
        assert code is CODE.INVALID_ARGUMENT and words.startswith("reason: ")


async def test_pauses_outlive_the_controller(tmp_path: Any) -> None:
    config = config_of(tmp_path)
    async with running(config) as service, service.worker() as worker:
        identity = worker.identity
        await call(service, "Freeze", pb.FreezeRequest(reason="why"))
        await call(service, "DrainWorker", pb.DrainWorkerRequest(worker_id=identity[0]))
    async with running(config) as service, service.worker(identity):
        status = await call(service, "GetServiceStatus", pb.GetServiceStatusRequest())
        assert (status.frozen.reason, status.n_draining) == ("why", 1)
        auth: Any = auth_grpc.AuthServiceStub(service.channel)
        session = await auth.GetSession(auth_pb.GetSessionRequest(), metadata=service.ada.metadata)
        assert session.frozen
