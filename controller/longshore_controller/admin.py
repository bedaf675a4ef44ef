"""AdminService: what admins call. Who is none does not come this far: see `interceptors`."""

from __future__ import annotations

import asyncio
from typing import Any

from longshore_api.v1 import admin_service_pb2 as pb
from longshore_api.v1 import admin_service_pb2_grpc

from longshore_controller.core import fleet
from longshore_controller.core.model import Refusal, RefusalKind
from longshore_controller.engine import Engine
from longshore_controller.interceptors import Tokens, caller
from longshore_controller.store import Store
from longshore_controller.visible import MAX_ID
from longshore_controller.wire import fleet as messages
from longshore_controller.wire import people
from longshore_controller.wire.submission import check_fields, page_size, text

Context = Any


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    def __init__(self, engine: Engine, store: Store, tokens: Tokens) -> None:
        self._engine = engine
        self._store = store
        self._tokens = tokens

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

    # -- people ------------------------------------------------------------------------------------

    async def InviteUser(self, request: pb.InviteUserRequest, context: Context) -> pb.User:
        name, email = people.invitation(request)
        return people.user_message(
            await asyncio.to_thread(self._store.invite, name, email, self._engine.now_ms())
        )

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        size = page_size(request)
        after = text("after_name", request.after_name)
        rows = await asyncio.to_thread(self._store.users, after, size + 1)
        return pb.ListUsersResponse(users=map(people.user_message, rows[:size]), more=len(rows) > size)

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Context) -> pb.User:
        check_fields(request)
        name = people.name(request.name)
        suspended = request.suspended if request.HasField("suspended") else None
        admin = request.admin if request.HasField("admin") else None
        if name == caller() and (suspended or admin is False):
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION, "you would lock yourself out; another admin can do that"
            )
        now = self._engine.now_ms()
        row = await asyncio.to_thread(self._store.update_user, name, now, suspended=suspended, admin=admin)
        self._tokens.forget()
        return people.user_message(row)

    async def ListAudit(self, request: pb.ListAuditRequest, context: Context) -> pb.ListAuditResponse:
        size = page_size(request)
        rows = await asyncio.to_thread(
            self._store.audit,
            batch_id=min(request.batch_id, MAX_ID),
            user=text("user", request.user),
            since_ms=request.since_ms,
            before_id=min(request.before_audit_id, MAX_ID) or None,
            limit=size + 1,
        )
        entries = (people.audit_message(*row) for row in rows[:size])
        return pb.ListAuditResponse(entries=entries, more=len(rows) > size)

    async def _status(self) -> pb.ServiceStatus:
        view, _ = await self._engine.look(fleet.service)
        return messages.service_message(view)

    async def _worker(self, worker_id: str) -> pb.Worker:
        view, _ = await self._engine.look(lambda r: fleet.worker(r, worker_id, self._engine.now_ms()))
        return messages.worker_message(view)
