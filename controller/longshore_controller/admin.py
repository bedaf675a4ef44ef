"""AdminService: what admins call. Who is none does not come this far: see `interceptors`."""

from __future__ import annotations

from typing import Any

from longshore_api.v1 import admin_service_pb2 as pb
from longshore_api.v1 import admin_service_pb2_grpc

from longshore_controller.core import fleet
from longshore_controller.engine import Engine
from longshore_controller.interceptors import caller
from longshore_controller.wire import fleet as messages
from longshore_controller.wire.submission import check_fields

Context = Any


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Freeze(self, request: pb.FreezeRequest, context: Context) -> pb.ServiceStatus:
        by, reason = caller(), messages.reason(request)
        await self._engine.submit(lambda r, now: r.on_freeze(by, reason, now))
        return await self._status()

    async def Thaw(self, request: pb.ThawRequest, context: Context) -> pb.ServiceStatus:
        check_fields(request)
        by = caller()
        await self._engine.submit(lambda r, now: r.on_thaw(by, now))
        return await self._status()

    async def GetServiceStatus(
        self, request: pb.GetServiceStatusRequest, context: Context
    ) -> pb.ServiceStatus:
        check_fields(request)
        return await self._status()

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        check_fields(request)
        workers, _ = await self._engine.look(lambda r: fleet.workers(r, self._engine.now_ms()))
        return pb.ListWorkersResponse(workers=map(messages.worker_message, workers))

    async def GetWorker(self, request: pb.GetWorkerRequest, context: Context) -> pb.Worker:
        check_fields(request)
        return await self._worker(request.worker_id)

    async def DrainWorker(self, request: pb.DrainWorkerRequest, context: Context) -> pb.Worker:
        by, worker_id, reason = caller(), request.worker_id, messages.reason(request)
        await self._engine.submit(lambda r, now: r.on_drain(worker_id, by, reason, now))
        return await self._worker(worker_id)

    async def UndrainWorker(self, request: pb.UndrainWorkerRequest, context: Context) -> pb.Worker:
        check_fields(request)
        by, worker_id = caller(), request.worker_id
        await self._engine.submit(lambda r, now: r.on_undrain(worker_id, by, now))
        return await self._worker(worker_id)

    async def _status(self) -> pb.ServiceStatus:
        view, _ = await self._engine.look(fleet.service)
        return messages.service_message(view)

    async def _worker(self, worker_id: str) -> pb.Worker:
        view, _ = await self._engine.look(lambda r: fleet.worker(r, worker_id, self._engine.now_ms()))
        return messages.worker_message(view)
