"""Two ways to make a call: blocking this thread, or awaited in an event loop.

What is asked, repeated and understood is written once, in `calls`, as coroutines over a `Transport`.
With a `BlockingTransport` such a coroutine never waits for a loop, so that `steps` run it to its end in
any thread, also in one whose event loop is running, as a notebook's is.
"""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from longshore_api.v1 import (
    admin_service_pb2_grpc,
    auth_service_pb2_grpc,
    batch_service_pb2_grpc,
    billing_service_pb2_grpc,
)

from .discovery import ServiceAddress, read_service_file
from .errors import BatchError, UsageError

Channel = TypeVar("Channel", grpc.Channel, grpc.aio.Channel)

_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class Stream(ABC):
    """Answers that come one after another. Errors are grpc.RpcError."""

    cancelled = False

    @abstractmethod
    async def read(self) -> Any:
        """The next message, or None after the last one."""

    @abstractmethod
    def send(self, request: Any) -> None:
        """Another request, where the call takes several. Does not wait."""

    @abstractmethod
    def cancel(self) -> None:
        """Want no more: the stream ends. May be called again, also after the end."""


@dataclass(frozen=True, slots=True)
class _Line(Generic[Channel]):
    """A connection, and the calls that can be made on it, by name."""

    channel: Channel
    address: ServiceAddress
    owner: object
    rpcs: dict[str, Callable[..., Any]]

    def call(self, rpc: str, request: Any, timeout: float | None) -> Any:
        metadata = (("authorization", f"Bearer {self.address.token}"),)
        return self.rpcs[rpc](request, timeout=timeout, metadata=metadata)


class Transport(ABC, Generic[Channel]):
    """A connection to a service, made when it is first needed; may be used by several threads.

    It is made anew when the service has moved (`find_again`), and for a process that was forked: that
    cannot use its parent's.
    """

    def __init__(self, address: ServiceAddress) -> None:
        self.address = address
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._lines: list[_Line[Channel]] = []

    def find_again(self) -> None:
        """Go on with the service of this machine where it is now, if that is how it was found."""
        if self.address.file is not None:
            with suppress(BatchError):  # It is not back yet.
                self.address = read_service_file(self.address.file) or self.address

    def check_open(self) -> None:
        if self.closed.is_set():
            raise UsageError(
                f"the connection to {self.address.endpoint} is closed", hint="ask inside its `with`"
            )

    @abstractmethod
    async def call(self, rpc: str, request: Any, timeout: float) -> Any:
        """The one answer to a request, or to an iterable of them. Raises grpc.RpcError."""

    @abstractmethod
    def stream(self, rpc: str, request: Any, timeout: float | None, *, several: bool = False) -> Stream:
        """Ask for many answers; `several`: `Stream.send` may follow. Errors come with the reading."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Return after that time, or when it is closed meanwhile."""

    @abstractmethod
    async def close(self) -> None:
        """Hang up: whatever is under way fails. May be called again, by any thread."""

    @abstractmethod
    def _owner(self) -> object:
        """Whose connection is needed here."""

    @abstractmethod
    def _is_gone(self, owner: object) -> bool:
        """Nobody will need that owner's connection again."""

    @abstractmethod
    def _dial(self, endpoint: str, credentials: grpc.ChannelCredentials | None, options: Any) -> Channel: ...

    def _line(self) -> _Line[Channel]:
        """The connection that is good here and now."""
        if self._pid != os.getpid():
            # The lock may have been held when this process was forked.
            self._pid, self._lock, self._lines = os.getpid(), threading.Lock(), []
        with self._lock:
            self.check_open()
            owner, address = self._owner(), self.address
            for line in reversed(self._lines):
                if line.owner == owner and line.address == address:
                    return line
            options, credentials = _OPTIONS, None
            if address.ca_file:
                credentials = grpc.ssl_channel_credentials(_certificates(address.ca_file))
                options = [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if address.is_local else _OPTIONS
            elif address.is_local:
                # gRPC would go to a proxy of the environment even for the machine itself.
                options = [*_OPTIONS, ("grpc.enable_http_proxy", 0)]
            else:
                credentials = grpc.ssl_channel_credentials()
            channel = self._dial(address.endpoint, credentials, options)
            stubs = (
                batch_service_pb2_grpc.BatchServiceStub(channel),
                auth_service_pb2_grpc.AuthServiceStub(channel),
                admin_service_pb2_grpc.AdminServiceStub(channel),
                billing_service_pb2_grpc.BillingServiceStub(channel),
            )
            rpcs = {name: rpc for stub in stubs for name, rpc in vars(stub).items()}
            # Earlier ones are left open: other threads may be about to call, and fail, through them.
            self._lines = [line for line in self._lines if not self._is_gone(line.owner)]
            self._lines.append(_Line(channel, address, owner, rpcs))
            return self._lines[-1]


def _certificates(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"ca_file {file} cannot be read: {error.strerror}") from error


class BlockingTransport(Transport[grpc.Channel]):
    """Calls block their thread."""

    async def call(self, rpc: str, request: Any, timeout: float) -> Any:
        line = self._line()
        try:
            return line.call(rpc, iter(request) if isinstance(request, Iterable) else request, timeout)
        except ValueError:  # That is what gRPC says of a channel that was closed a moment ago.
            self.check_open()
            raise

    def stream(self, rpc: str, request: Any, timeout: float | None, *, several: bool = False) -> Stream:
        return _BlockingStream(self, rpc, request, timeout, several=several)

    async def sleep(self, seconds: float) -> None:
        self.closed.wait(seconds)

    async def close(self) -> None:
        with self._lock:
            self.closed.set()
            lines, self._lines = self._lines, []
        if self._pid == os.getpid():
            for line in lines:
                line.channel.close()

    def _owner(self) -> object:
        return None

    def _is_gone(self, owner: object) -> bool:
        return False

    def _dial(self, endpoint: str, credentials: grpc.ChannelCredentials | None, options: Any) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(endpoint, options=options)
        return grpc.secure_channel(endpoint, credentials, options=options)


class _BlockingStream(Stream):
    def __init__(
        self, transport: BlockingTransport, rpc: str, request: Any, timeout: float | None, *, several: bool
    ) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._requests.put(request)
        line = transport._line()
        try:
            asked = iter(self._requests.get, None) if several else request
            self._call = _undisturbed(lambda: line.call(rpc, asked, timeout))
        except ValueError:
            transport.check_open()
            raise

    async def read(self) -> Any:
        try:
            return next(self._call, None)
        except grpc.RpcError:
            if self.cancelled:
                return None
            raise

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def cancel(self) -> None:
        self.cancelled = True
        self._requests.put(None)  # Lets go the thread of gRPC that waits for requests.
        self._call.cancel()


def _undisturbed(start: Callable[[], Any]) -> Any:
    """The call that `start` makes, where no Ctrl-C can come: in a thread of its own if this is the main one.

    A stream of answers that was interrupted while gRPC began it keeps the program from ending, ever.
    """
    if threading.current_thread() is not threading.main_thread():
        return start()
    begun: Future[Any] = Future()

    def run() -> None:
        try:
            begun.set_result(start())
        except BaseException as error:
            begun.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return begun.result()
    except KeyboardInterrupt:
        begun.add_done_callback(lambda call: call.exception() or call.result().cancel())
        raise


class AsyncTransport(Transport[grpc.aio.Channel]):
    """Calls are awaited; each event loop has a connection of its own."""

    async def call(self, rpc: str, request: Any, timeout: float) -> Any:
        line = self._line()
        try:
            return await line.call(rpc, request, timeout)
        except (grpc.aio.UsageError, asyncio.CancelledError):
            self._raise_if_closed()
            raise

    def stream(self, rpc: str, request: Any, timeout: float | None, *, several: bool = False) -> Stream:
        return _AsyncStream(self, rpc, request, timeout, several=several)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        with self._lock:
            self.closed.set()
            lines, self._lines = self._lines, []
        owner = self._owner()
        for line in lines:
            if line.owner == owner:  # The others ended with their loops.
                await line.channel.close()

    def _owner(self) -> object:
        return asyncio.get_running_loop()

    def _is_gone(self, owner: object) -> bool:
        assert isinstance(owner, asyncio.AbstractEventLoop)
        return owner.is_closed()

    def _dial(
        self, endpoint: str, credentials: grpc.ChannelCredentials | None, options: Any
    ) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(endpoint, options=options)
        return grpc.aio.secure_channel(endpoint, credentials, options=options)

    def _raise_if_closed(self) -> None:
        """A call that `close` has cancelled says so; one whose task was cancelled is just that."""
        if not _is_cancelled():
            self.check_open()


class _AsyncStream(Stream):
    def __init__(
        self, transport: AsyncTransport, rpc: str, request: Any, timeout: float | None, *, several: bool
    ) -> None:
        self._transport = transport
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._requests.put_nowait(request)
        self._call = transport._line().call(rpc, self._sent() if several else request, timeout)

    async def read(self) -> Any:
        try:
            message = await self._call.read()
        except (grpc.aio.UsageError, asyncio.CancelledError):
            if self.cancelled and not _is_cancelled():
                return None
            self._transport._raise_if_closed()
            raise
        return None if message is grpc.aio.EOF else message

    def send(self, request: Any) -> None:
        self._requests.put_nowait(request)

    def cancel(self) -> None:
        self.cancelled = True
        self._requests.put_nowait(None)
        self._call.cancel()

    async def _sent(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield request


def _is_cancelled() -> bool:
    """The task that runs is to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
