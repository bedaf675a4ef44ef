"""Speaks with the controller: activates once, then keeps one conversation going. Only here is gRPC.

The conversation is described in worker_service.proto. A connection that breaks is made again, for
ever; nothing is lost by that, for every connection begins with the whole truth of both sides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import Protocol

import grpc
from grpc import aio
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as service
from longshore_api.v1 import worker_service_pb2_grpc as service_grpc

from longshore_workerd import wire
from longshore_workerd.backoff import backoff
from longshore_workerd.identity import Identity, Memory
from longshore_workerd.model import AttemptState, Held, Orders
from longshore_workerd.outbox import Outbox
from longshore_workerd.runtime import Container, ContainerId

_log = logging.getLogger(__name__)

REPORTS_IN_A_MESSAGE = 256
REPEAT_EVERY_MS = 1_000
"""How often reports that wait for their ack for too long are looked for."""
WELCOME_WITHIN_S = 15.0
SILENT_BEATS = 3
"""A connection on which nothing came for so many heartbeats is given up."""
STEADY_MS = 5_000
"""A connection that lasted so long was a good one: the next try comes quickly."""
RECONNECT_WITHIN_S = 5.0
"""After a long absence, too: a heartbeat's time after the controller is back its workers are."""
CHUNK_BYTES = 256 * 1024
PUSH_WITHIN_S = 60.0
_MESSAGE_BYTES = 16 << 20

Stream = aio.StreamStreamCall[service.WorkerMessage, service.ControllerMessage]


class ActivationRefused(Exception):
    """This worker has no identity and cannot get one."""


class IdentityUnknown(Exception):
    """The controller does not know this worker: it is another service's, or its database is new."""


class PushFailed(Exception):
    """Log bytes did not arrive. ``refused``: nor will they ever; otherwise try again later, with
    ``gap`` from the beginning of the log, since the controller has lost what came before."""

    def __init__(self, message: str, *, refused: bool, gap: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.gap = gap


class Attempts(Protocol):
    """Whose attempts these are: the daemon."""

    def held(self) -> list[Held]: ...

    def spooled(self) -> list[str]: ...

    def on_orders(self, orders: Orders) -> None: ...

    def on_acked(self, attempt_ids: Iterable[str]) -> None: ...

    def on_lease(self, until_ms: int) -> None: ...

    def on_logs_wanted(self, attempt_ids: Collection[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a worker says of itself."""

    name: str
    boot_id: str
    incarnation: str
    version: str
    capacity_mcpu: int
    runtime: str


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes of a log that are to be at that offset. end: there are no more."""

    id: ContainerId
    offset: int
    chunk: bytes
    end: bool


async def activate(
    controller: str,
    introduction: Introduction,
    memory: Memory,
    token: Callable[[], str],
    rng: Random,
    *,
    anew: bool = False,
    ca: bytes | None = None,
) -> Identity:
    """Who this worker is: what it remembers, or what the controller says for a one-time token.

    Tried until the controller answers, each time with what ``token`` returns then. ActivationRefused.
    ``anew``: what it remembers is of another service, and forgotten when this one has answered. ``ca``: see
    `Session`.
    """
    identity = None if anew else memory.identity()
    failures = 0
    async with _channel(controller, ca) as channel:
        stub: service_grpc.WorkerServiceAsyncStub = service_grpc.WorkerServiceStub(channel)
        while identity is None:
            request = service.ActivateRequest(activation_token=token(), name=introduction.name)
            try:
                response = await stub.Activate(request, timeout=WELCOME_WITHIN_S)
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise ActivationRefused(
                        f"{controller} refuses the activation token ({error.details()}): it was used before "
                        "or is of another service; start with a new one"
                    ) from error
                failures += 1
                _log.warning("not activated yet: %s", _in_words(error))
                await asyncio.sleep(backoff(failures, rng))
            else:
                identity = Identity(response.worker_id, response.worker_token)
                memory.remember_epoch(0)  # this service's begin anew
                memory.remember_identity(identity)
                _log.info("activated as worker %s", identity.worker_id)
    return identity


class Session:
    """The worker's side of the conversation. ``clock_ms`` is the clock of the lease."""

    def __init__(
        self,
        controller: str,
        identity: Identity,
        introduction: Introduction,
        memory: Memory,
        attempts: Attempts,
        clock_ms: Callable[[], int],
        rng: Random,
        *,
        ca: bytes | None = None,
    ) -> None:
        """``controller`` is HOST:PORT or unix:PATH; nothing is opened before :meth:`run`.

        ``ca``: certificates that vouch for it; None: those of the system, and none within this machine."""
        self._controller = controller
        self._ca = ca
        self._metadata = (("authorization", f"Bearer {identity.worker_token}"),)
        self._introduction = introduction
        self._memory = memory
        self._attempts = attempts
        self._clock_ms = clock_ms
        self._rng = rng
        self._outbox = Outbox(rng)
        self._wake = asyncio.Event()
        self._stub: service_grpc.WorkerServiceAsyncStub | None = None
        self._connected = False

    def report(self, attempt_id: str, state: AttemptState, report: bytes) -> None:
        """To be told to the controller, and repeated until it was acknowledged."""
        self._outbox.put(attempt_id, state, report)
        self._wake.set()

    def all_acked(self) -> bool:
        """There is nothing left to tell."""
        return len(self._outbox) == 0

    def is_connected(self) -> bool:
        """The controller has welcomed this worker and has not hung up since."""
        return self._connected

    async def run(self) -> None:
        """Until cancelled. IdentityUnknown."""
        async with _channel(self._controller, self._ca) as channel:
            self._stub = service_grpc.WorkerServiceStub(channel)
            failures = 0
            while True:
                connected_at_ms = self._clock_ms()
                try:
                    await self._converse(self._stub)
                    _log.info("the controller ended the conversation")
                except aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                        raise IdentityUnknown(str(error.details())) from error
                    _log.warning("no conversation with %s: %s", self._controller, _in_words(error))
                except TimeoutError:
                    _log.warning("%s is silent: connecting anew", self._controller)
                except asyncio.InvalidStateError:
                    _log.warning("%s broke off the conversation", self._controller)
                lasted_ms = self._clock_ms() - connected_at_ms
                failures = 1 if self._connected and lasted_ms >= STEADY_MS else failures + 1
                self._connected = False
                await asyncio.sleep(backoff(failures, self._rng, longest_s=RECONNECT_WITHIN_S))

    async def push_logs(self, pieces: Iterable[LogPiece]) -> None:
        """All of them are with the controller. PushFailed. May be repeated."""
        if self._stub is None:
            raise PushFailed("not connected yet", refused=False)
        messages = (
            service.PushLogsRequest(
                attempt_id=piece.id.attempt_id,
                container=_CONTAINERS[piece.id.container],
                offset=piece.offset,
                chunk=piece.chunk,
                end=piece.end,
            )
            for piece in pieces
        )
        try:
            await self._stub.PushLogs(_async(messages), metadata=self._metadata, timeout=PUSH_WITHIN_S)
        except aio.AioRpcError as error:
            gap = error.code() is grpc.StatusCode.FAILED_PRECONDITION
            raise PushFailed(_in_words(error), refused=error.code() in _REFUSALS, gap=gap) from error

    async def _converse(self, stub: service_grpc.WorkerServiceAsyncStub) -> None:
        """One connection, from Hello to its end."""
        call = stub.Connect(metadata=self._metadata)
        try:
            hello_at_ms = self._clock_ms()
            await call.write(service.WorkerMessage(hello=self._hello()))
            async with asyncio.timeout(WELCOME_WITHIN_S):
                welcome = await _read(call)
            if welcome is None or not welcome.HasField("welcome"):
                _log.error("%s did not begin with Welcome: hanging up", self._controller)
                return
            if not self._obey(welcome.welcome):
                return
            self._connected = True
            self._attempts.on_lease(hello_at_ms + welcome.welcome.lease_ms)
            self._outbox.repeat_all()
            await self._talk(call, welcome.welcome)
        finally:
            call.cancel()

    def _obey(self, welcome: service.Welcome) -> bool:
        """Whether this is the controller, or one that was replaced. Not before its epoch is on disk:
        whom we obey now we must not leave for a predecessor after a restart."""
        seen = self._memory.epoch()
        if welcome.epoch < seen:
            _log.warning("hanging up: this controller's epoch %d is over, %d was seen", welcome.epoch, seen)
            return False
        if welcome.epoch > seen:
            try:
                self._memory.remember_epoch(welcome.epoch)
            except OSError as error:
                _log.error("hanging up: epoch %d cannot be remembered: %s", welcome.epoch, error)
                return False
        _log.info("connected: epoch %d, session %d", welcome.epoch, welcome.session)
        return True

    async def _talk(self, call: Stream, welcome: service.Welcome) -> None:
        beats: dict[int, int] = {}
        tasks = [
            asyncio.create_task(self._listen(call, welcome, beats)),
            asyncio.create_task(self._speak(call, welcome.heartbeat_ms, beats)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # When one of them gives the call up, gRPC tells the other that it was cancelled itself.
                if not task.cancelled():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _speak(self, call: Stream, heartbeat_ms: int, beats: dict[int, int]) -> None:
        """Heartbeats in time; reports at once, and all that came up meanwhile in one message."""
        number = 0
        beat_at_ms = repeat_at_ms = self._clock_ms()
        while True:
            now = self._clock_ms()
            if now >= beat_at_ms:
                number += 1
                beats[number] = now
                beat_at_ms = now + heartbeat_ms
                heartbeat = service.Heartbeat(
                    number=number,
                    held=wire.encode_held(self._attempts.held()),
                    spooled=self._attempts.spooled(),
                )
                await call.write(service.WorkerMessage(heartbeat=heartbeat))
            if now >= repeat_at_ms:
                repeat_at_ms = now + REPEAT_EVERY_MS
                self._outbox.repeat(now)
            if reports := self._outbox.take(now, REPORTS_IN_A_MESSAGE):
                message = service.WorkerMessage(reports=service.Reports())
                for report in reports:
                    message.reports.reports.add().MergeFromString(report)
                await call.write(message)
                continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout((min(beat_at_ms, repeat_at_ms) - now) / 1000):
                    await self._wake.wait()

    async def _listen(self, call: Stream, welcome: service.Welcome, beats: dict[int, int]) -> None:
        """Until the controller hangs up. TimeoutError when it has become silent."""
        silence_s = max(SILENT_BEATS * welcome.heartbeat_ms / 1000, 1.0)
        while True:
            async with asyncio.timeout(silence_s):
                message = await _read(call)
            if message is None:
                return
            match message.WhichOneof("kind"):
                case "assignments":
                    self._attempts.on_orders(wire.decode_orders(message.assignments))
                case "acks":
                    acks = ((ack.attempt_id, AttemptState(ack.state)) for ack in message.acks.acks)
                    self._attempts.on_acked(list(self._outbox.acked(acks)))
                case "lease_extended":
                    number = message.lease_extended.number
                    if number in beats:
                        self._attempts.on_lease(beats[number] + welcome.lease_ms)
                        for old in [n for n in beats if n <= number]:
                            del beats[old]
                case "logs_wanted":
                    self._attempts.on_logs_wanted(list(message.logs_wanted.attempt_ids))
                case _:
                    pass  # something that a later controller can say

    def _hello(self) -> service.Hello:
        me = self._introduction
        return service.Hello(
            boot_id=me.boot_id,
            incarnation=me.incarnation,
            version=me.version,
            seen_epoch=self._memory.epoch(),
            capacity_mcpu=me.capacity_mcpu,
            runtime=me.runtime,
            held=wire.encode_held(self._attempts.held()),
            spooled=self._attempts.spooled(),
            name=me.name,
        )


_CONTAINERS = {
    Container.INPUT: types.CONTAINER_INPUT,
    Container.MAIN: types.CONTAINER_MAIN,
    Container.OUTPUT: types.CONTAINER_OUTPUT,
}
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.OUT_OF_RANGE,
}


def is_local(controller: str) -> bool:
    """The controller is on this machine, so that what is said to it passes no network."""
    if controller.startswith("unix:"):
        return True
    host = controller.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _channel(controller: str, ca: bytes | None) -> aio.Channel:
    """In the clear only within this machine, and there only without ``ca``.

    The pause between connections is ours, not gRPC's."""
    options = [
        ("grpc.max_receive_message_length", _MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if is_local(controller) and ca is None:
        # A proxy of the environment would look for it on its own machine.
        return aio.insecure_channel(controller, [*options, ("grpc.enable_http_proxy", 0)])
    return aio.secure_channel(controller, grpc.ssl_channel_credentials(ca), options)


async def _read(call: Stream) -> service.ControllerMessage | None:
    """The next message; None when the controller has hung up."""
    message = await call.read()
    return message if isinstance(message, service.ControllerMessage) else None


async def _async(items: Iterable[service.PushLogsRequest]) -> AsyncIterator[service.PushLogsRequest]:
    for item in items:
        yield item


def _in_words(error: aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
