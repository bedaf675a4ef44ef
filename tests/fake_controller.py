"""A controller that fits into a test: it speaks worker_service.proto over real gRPC and forgets nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
from grpc import aio
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as service
from longshore_api.v1 import worker_service_pb2_grpc as service_grpc

ENDED = types.ATTEMPT_STATE_ENDED


def assignment(attempt_id: str, *command: str, timeout_ms: int = 0, **env: object) -> service.Assignment:
    """An attempt of job 1/1 whose fake container does what ``env`` says."""
    spec = types.JobSpec(
        command=command or ["true"], env={k: str(v) for k, v in env.items()}, timeout_ms=timeout_ms
    )
    return service.Assignment(
        attempt_id=attempt_id,
        batch_id=1,
        job_id=1,
        mcpu=1000,
        memory_bytes=3_750_000_000,
        spec=spec.SerializeToString(),
    )


class _Stream:
    """To one worker. gRPC takes one message of a stream at a time."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._writing = asyncio.Lock()

    async def write(self, message: service.ControllerMessage) -> None:
        """A broken connection loses it, as the protocol allows; gRPC has many words for broken."""
        with suppress(Exception):
            async with self._writing:
                await self._context.write(message)


class FakeController(service_grpc.WorkerServiceServicer):
    """One worker's controller. ``wanted`` is what the worker should hold; an end takes it from there."""

    def __init__(self) -> None:
        self.port = 0
        self.epoch = 1
        self.lease_ms = 30_000
        self.heartbeat_ms = 200
        self.answers_heartbeats = True
        self.acks = True
        self.takes_logs = True
        self.tokens = {"once"}
        self.worker_token = "secret"
        self.wanted: dict[str, service.Assignment] = {}
        self.hellos: list[service.Hello] = []
        self.heartbeats: list[service.Heartbeat] = []
        self.started: set[str] = set()
        self.ends: dict[str, service.Report] = {}
        """The first end of each attempt; that is the one that counts."""
        self.end_count: Counter[str] = Counter()
        """Different ends told of an attempt; repetitions of the same words do not count."""
        self.logs: dict[tuple[str, int], bytearray] = {}
        self.log_ends: set[tuple[str, int]] = set()
        self.refused_logs: set[str] = set()
        self.reports_in_a_message: list[int] = []
        self._stream: _Stream | None = None
        self._changed = asyncio.Condition()
        self._server: aio.Server | None = None

    async def start(self) -> None:
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        service_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Another start listens on the same port."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def become_another_service(self) -> None:
        """At the same address, with a database of its own."""
        self.worker_token += " of another"
        self.tokens = {"once"}
        self.wanted.clear()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def until(self, fact: Callable[[], object], within_s: float = 20) -> None:
        """Returns when it is true, at the latest when something was heard that made it so."""
        try:
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(fact)
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s; ended so far: {sorted(self.ends)}") from None

    async def assign(self, *assignments: service.Assignment) -> None:
        self.wanted.update({a.attempt_id: a for a in assignments})
        await self._send(service.Assignments(run=assignments))

    async def revoke(self, *attempt_ids: str) -> None:
        for attempt_id in attempt_ids:
            self.wanted.pop(attempt_id, None)
        await self._send(service.Assignments(revoke=attempt_ids))

    async def follow_logs(self, *attempt_ids: str) -> None:
        await self._send_message(
            service.ControllerMessage(logs_wanted=service.LogsWanted(attempt_ids=attempt_ids))
        )

    # --- WorkerService

    async def Activate(self, request: service.ActivateRequest, context: Any) -> service.ActivateResponse:
        if request.activation_token not in self.tokens:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown or used")
        self.tokens.discard(request.activation_token)
        return service.ActivateResponse(worker_id="w1", worker_token=self.worker_token)

    async def Connect(
        self, requests: AsyncIterator[service.WorkerMessage], context: Any
    ) -> AsyncIterator[service.ControllerMessage]:
        await self._authenticate(context)
        stream = _Stream(context)
        hello = (await anext(aiter(requests))).hello
        self.hellos.append(hello)
        welcome = service.Welcome(
            epoch=self.epoch,
            session=len(self.hellos),
            lease_ms=self.lease_ms,
            heartbeat_ms=self.heartbeat_ms,
        )
        await stream.write(service.ControllerMessage(welcome=welcome))
        held = {h.attempt_id for h in hello.held}
        await stream.write(self._complete(held, set(hello.spooled)))
        self._stream = stream
        await self._notify()
        async for message in requests:
            if message.HasField("heartbeat"):
                await self._on_heartbeat(message.heartbeat, stream)
            elif message.HasField("reports"):
                await self._on_reports(message.reports, stream)
            await self._notify()
        if False:
            yield  # the answers are written, not yielded

    async def PushLogs(
        self, requests: AsyncIterator[service.PushLogsRequest], context: Any
    ) -> service.PushLogsResponse:
        await self._authenticate(context)
        async for piece in requests:
            if not self.takes_logs:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "no room for logs now")
            if piece.attempt_id in self.refused_logs:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such attempt")
            assert len(piece.chunk) <= 256 * 1024
            key = (piece.attempt_id, piece.container)
            log = self.logs.setdefault(key, bytearray())
            assert piece.offset <= len(log), "a gap in a log"
            log[piece.offset : piece.offset + len(piece.chunk)] = piece.chunk
            if piece.end:
                self.log_ends.add(key)
        await self._notify()
        return service.PushLogsResponse()

    # --- what it does with what it hears

    async def _on_heartbeat(self, heartbeat: service.Heartbeat, stream: _Stream) -> None:
        self.heartbeats.append(heartbeat)
        if not self.answers_heartbeats:
            return
        extended = service.LeaseExtended(number=heartbeat.number)
        await stream.write(service.ControllerMessage(lease_extended=extended))
        held = {h.attempt_id for h in heartbeat.held}
        if held - set(self.wanted) or set(self.wanted) - held - set(heartbeat.spooled):
            await stream.write(self._complete(held, set(heartbeat.spooled)))

    async def _on_reports(self, reports: service.Reports, stream: _Stream) -> None:
        self.reports_in_a_message.append(len(reports.reports))
        acks = []
        for report in reports.reports:
            acks.append(service.Ack(attempt_id=report.attempt_id, state=report.state))
            if report.state != ENDED:
                self.started.add(report.attempt_id)
                continue
            self.wanted.pop(report.attempt_id, None)
            if self.ends.setdefault(report.attempt_id, report) is report or (
                self.ends[report.attempt_id] != report
            ):
                self.end_count[report.attempt_id] += 1
        if self.acks:
            await stream.write(service.ControllerMessage(acks=service.Acks(acks=acks)))

    def _complete(self, held: set[str], spooled: set[str]) -> service.ControllerMessage:
        orders = service.Assignments(
            complete=True,
            run=[a for id, a in self.wanted.items() if id not in held | spooled],
            keep=[id for id in self.wanted if id in held],
            revoke=sorted(held - set(self.wanted)),
        )
        return service.ControllerMessage(assignments=orders)

    async def _authenticate(self, context: Any) -> None:
        if ("authorization", f"Bearer {self.worker_token}") not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    async def _send(self, assignments: service.Assignments) -> None:
        await self._send_message(service.ControllerMessage(assignments=assignments))

    async def _send_message(self, message: service.ControllerMessage) -> None:
        if self._stream is not None:
            await self._stream.write(message)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
