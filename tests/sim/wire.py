"""gRPC in memory: the same stubs and servicers, the same bytes, and a network that does what networks do.

Within a call messages arrive in order or not at all. A connection breaks, and each side hears of it at
its own time: what was under way is lost, or arrives late, when the other side has long begun anew. A
partition keeps what is sent in either direction until it is over, or until somebody gives up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextvars import Context
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message as ProtoMessage
from grpc import aio
from sim.process import PROCESS, Process

WINDOW = 4
"""Messages that are taken from a writer while nothing moves."""
KEEPALIVE_S = 40.0
"""Until a server notices that nobody is there any more."""


class Message(NamedTuple):
    data: bytes


class End(NamedTuple):
    """Nothing comes after it."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""


Item = Message | End


class World(Protocol):
    def told(self, call: Call, to_server: bool, data: bytes) -> None:
        """The client has sent this, or has taken it in."""

    def trace(self, who: str, what: object) -> None: ...

    def slowest_ms(self) -> int: ...

    def route(self, client: Process) -> Server | None:
        """Who hears a call of this client; None: nobody listens."""

    def happened(self, what: str) -> None: ...

    def violated(self, error: BaseException) -> None: ...


class Way:
    """One direction of a call."""

    def __init__(self, call: Call, name: str, to: Process) -> None:
        self.inbox: deque[Item] = deque()
        self.arrived: asyncio.Event = asyncio.Event()
        self.on_first: Callable[[Item], None] = lambda item: None
        self.on_end: Callable[[], None] = lambda: None
        self.is_stalled = False
        self._call = call
        self._name = name
        self._to = to
        self._stalled: list[Item] = []
        self._moves = asyncio.Event()
        self._last_s = 0.0
        self._is_cut = False
        self._loop = asyncio.get_running_loop()

    def send(self, item: Item) -> None:
        if self._is_cut:
            return
        if self.is_stalled:
            self._stalled.append(item)
            return
        latency_s = self._call.rng.randint(1, self._call.network.world.slowest_ms()) / 1000
        self._last_s = max(self._last_s + 0.001, self._loop.time() + latency_s)
        self._to.call_at(self._last_s, self._deliver, item)

    async def room(self) -> None:
        """Who writes more than the network takes has to wait."""
        while self.is_stalled and not self._is_cut and len(self._stalled) >= WINDOW:
            self._moves.clear()
            await self._moves.wait()

    def go_on(self) -> None:
        self.is_stalled = False
        stalled, self._stalled = self._stalled, []
        for item in stalled:
            self.send(item)
        self._moves.set()

    def cut(self) -> None:
        """Whatever is under way, and all that is sent from now on, is lost."""
        self._is_cut = True
        self._moves.set()

    def end(self, after_s: float, end: End) -> None:
        """The receiver finds, sooner or later, that there is nobody any more."""
        self._to.call_at(max(self._last_s + 0.001, self._loop.time() + after_s), self._hear_end, end)

    def _hear_end(self, end: End) -> None:
        self._is_cut = False
        self._deliver(end)
        self._is_cut = True

    def _deliver(self, item: Item) -> None:
        if not self._is_cut:
            data = item.data if isinstance(item, Message) else item
            self._call.network.world.trace(self._name, data)
            self.inbox.append(item)
            self.arrived.set()
            on_first, self.on_first = self.on_first, lambda item: None
            on_first(item)
            if isinstance(item, End):
                self.on_end()

    async def next(self) -> Item:
        """The next of them; the end again and again."""
        while not self.inbox:
            self.arrived.clear()
            await self.arrived.wait()
        return self.inbox[0] if isinstance(self.inbox[0], End) else self.inbox.popleft()


class Call:
    """The client's side of one call, on a connection of its own."""

    def __init__(self, network: Network, method: str, coders: dict[str, Any], metadata: Any) -> None:
        self.network = network
        self.method = method
        self.client = PROCESS.get()
        self.metadata = tuple(metadata or ())
        self.rng = network.new_rng()
        self.server: Server | None = None
        self.is_over = False
        self.sent: dict[int, int] = {}
        """For whoever listens: when which message was sent,"""
        self.epoch = 0
        """... and in whose epoch the welcome was."""
        self._serialize = coders["request_serializer"]
        self._deserialize = coders["response_deserializer"]
        self._end: End | None = None
        self._cancelled = False
        self._broken = False
        name = method.rpartition("/")[2]
        server = network.world.route(self.client)
        to = server.process if server is not None else self.client
        self.up = Way(self, f"{self.client.name} -> {name}", to)
        self.down = Way(self, f"{self.client.name} <- {name}", self.client)
        network.begin(self, server)

    # -- what stubs give ---------------------------------------------------------------------------

    async def write(self, request: Any) -> None:
        if self._end is not None or self._cancelled:
            raise asyncio.InvalidStateError("the call is over")
        if any(isinstance(item, End) for item in self.down.inbox):
            raise self._error(self._ended())
        data = _bytes_of(request, self._serialize)
        try:
            await self.up.room()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._cancelled:
            raise asyncio.InvalidStateError("the call is over")
        self.network.world.told(self, True, data)
        self.up.send(Message(data))

    def done_writing(self) -> None:
        self.up.send(End())

    async def read(self) -> Any:
        if self._cancelled:
            raise asyncio.CancelledError
        try:
            item = await self.down.next()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._cancelled:
            raise asyncio.CancelledError
        if isinstance(item, End):
            self._end = item
            self.network.over(self)
            if item.code is grpc.StatusCode.OK:
                return aio.EOF
            raise self._error(item)
        self.network.world.told(self, False, item.data)
        return self._deserialize(item.data)

    def cancel(self) -> bool:
        if self._end is None and not self._cancelled:
            self._cancelled = True
            self.down.arrived.set()
            if self.up.is_stalled:
                self.up.end(KEEPALIVE_S, End(grpc.StatusCode.CANCELLED))
            elif self.client.is_alive:
                self.up.send(End(grpc.StatusCode.CANCELLED))
            self.network.over(self)
        return True

    async def answer(self, requests: Any, timeout: float | None) -> Any:
        """Of a call with one answer."""
        try:
            async with asyncio.timeout(timeout):
                await self._send_all(requests)
                message = await self.read()
                if message is aio.EOF:
                    raise self._error(End(grpc.StatusCode.INTERNAL, "no answer"))
                await self.read()
                return message
        except TimeoutError:
            self.cancel()
            raise self._error(End(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")) from None

    async def answers(self, request: Any) -> AsyncIterator[Any]:
        await self._send_all(request)
        try:
            while (message := await self.read()) is not aio.EOF:
                yield message
        finally:
            self.cancel()

    async def _send_all(self, requests: Any) -> None:
        if not hasattr(requests, "__aiter__"):
            await self.write(requests)
        else:
            async for request in requests:
                await self.write(request)
        self.done_writing()

    def _ended(self) -> End:
        return next(item for item in self.down.inbox if isinstance(item, End))

    def _error(self, end: End) -> aio.AioRpcError:
        return aio.AioRpcError(end.code, aio.Metadata(), aio.Metadata(), end.details)

    # -- what networks do --------------------------------------------------------------------------

    def stall(self, up: bool, down: bool) -> None:
        self.up.is_stalled |= up
        self.down.is_stalled |= down

    def go_on(self) -> None:
        self.up.go_on()
        self.down.go_on()

    def break_off(self, notice_s: float) -> None:
        """It is dead. Some of what is under way arrives late nevertheless."""
        if self._broken:
            return
        self._broken = True
        rng = self.rng
        late = rng.random() < 0.5
        if not late:
            self.up.cut()
        self.down.cut()
        unavailable = End(grpc.StatusCode.UNAVAILABLE, "the connection is broken")
        self.up.is_stalled = self.down.is_stalled = False
        if self.up._stalled and late:
            self.up.go_on()
        if rng.random() < 0.7:
            self.down.end(rng.choice([0.001, 0.1, 5.0]), unavailable)
        self.up.end(rng.choice([0.002, notice_s]), End(grpc.StatusCode.CANCELLED))
        self.network.over(self)


class Channel:
    """What `aio.insecure_channel` would give, as far as stubs use it."""

    def __init__(self, network: Network) -> None:
        self.network = network

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def unary_unary(self, method: str, **coders: Any) -> Any:
        def begin(request: Any, *, timeout: float | None = None, metadata: Any = None) -> Any:
            return Call(self.network, method, coders, metadata).answer(request, timeout)

        return begin

    stream_unary = unary_unary

    def unary_stream(self, method: str, **coders: Any) -> Any:
        def begin(request: Any, *, metadata: Any = None) -> Any:
            return Call(self.network, method, coders, metadata).answers(request)

        return begin

    def stream_stream(self, method: str, **coders: Any) -> Any:
        def begin(*, metadata: Any = None) -> Call:
            return Call(self.network, method, coders, metadata)

        return begin


class Network:
    """Between every client and the one server that listens, or two, while one does not know that it has
    been replaced."""

    def __init__(self, world: World, seed: object) -> None:
        self.world = world
        self.server: Server | None = None
        self.calls: dict[Call, None] = {}
        self._seed = seed
        self._begun = 0
        self._partitions: dict[object, tuple[bool, bool]] = {}
        """Owners of processes, and in which directions (up, down) nothing moves."""

    def new_rng(self) -> Random:
        self._begun += 1
        return Random(f"{self._seed}/call {self._begun}")

    def begin(self, call: Call, server: Server | None) -> None:
        self.calls[call] = None
        if (cut := self._partitions.get(call.client.owner)) is not None:
            call.stall(*cut)
        call.server = server
        if server is None:
            call.up.cut()
            if not call.down.is_stalled:
                call.down.end(0.002, End(grpc.StatusCode.UNAVAILABLE, "connection refused"))
        else:
            server.accept(call)

    def over(self, call: Call) -> None:
        call.is_over = True
        self.calls.pop(call, None)

    def died(self, process: Process) -> None:
        """The kernel says goodbye in its name."""
        for call in list(self.calls):
            if call.client is process:
                call.break_off(KEEPALIVE_S)
            elif call.server is not None and call.server.process is process:
                call.up.cut()
                refused = End(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                if call.down.is_stalled:
                    call.down._stalled.append(refused)
                else:
                    call.down.send(refused)

    def partition(self, owner: object, up: bool, down: bool) -> None:
        self._partitions[owner] = up, down
        for call in self.of(owner):
            call.stall(up, down)

    def let_down(self, owner: object) -> None:
        """What the server says passes again, if anything was cut off."""
        if owner in self._partitions:
            up, _ = self._partitions[owner]
            self._partitions[owner] = up, False
            for call in self.of(owner):
                call.down.go_on()

    def heal(self, owner: object, *, breaks: bool) -> None:
        if self._partitions.pop(owner, None) is not None:
            for call in self.of(owner):
                if breaks:
                    call.break_off(KEEPALIVE_S)
                else:
                    call.go_on()

    def heal_all(self) -> None:
        for owner in list(self._partitions):
            self.heal(owner, breaks=False)

    def of(self, owner: object) -> list[Call]:
        return [call for call in self.calls if call.client.owner is owner]


class Server:
    """What `aio.server` gives, as far as the controller uses it."""

    def __init__(self, network: Network, interceptors: Iterable[aio.ServerInterceptor]) -> None:
        self.process = PROCESS.get()
        self._network = network
        (self._doorkeeper,) = interceptors
        self._handlers: dict[str, Any] = {}
        self._serving: set[asyncio.Task[None]] = set()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        pass

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_insecure_port(self, address: str) -> int:
        return int(address.rpartition(":")[2])

    async def start(self) -> None:
        self._network.server = self

    async def stop(self, grace: float | None) -> None:
        if self._network.server is self:
            self._network.server = None
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def accept(self, call: Call) -> None:
        """With the first byte that arrives of it."""

        def begin(item: Item) -> None:
            if isinstance(item, End):
                return
            task = self.process.spawn(self._serve(call))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard, context=Context())
            call.up.on_end = lambda: self._hang_up(call, task)

        call.up.on_first = begin

    def _hang_up(self, call: Call, task: asyncio.Task[None]) -> None:
        end = call.up.inbox[-1]
        if isinstance(end, End) and end.code is not grpc.StatusCode.OK:
            task.cancel()

    async def _serve(self, call: Call) -> None:
        async def found(_: Any) -> Any:
            return self._handlers.get(call.method)

        details: Any = SimpleNamespace(method=call.method, invocation_metadata=call.metadata)
        handler: Any = await self._doorkeeper.intercept_service(found, details)
        context = Answering(call, handler.response_serializer)
        end = End()
        try:
            requests = _requests(call.up, handler.request_deserializer)
            if handler.request_streaming:
                answer = await (handler.stream_unary or handler.stream_stream)(requests, context)
            else:
                request = await anext(requests)
                answer = await (handler.unary_unary or handler.unary_stream)(request, context)
            if answer is not None:
                await context.write(answer)
        except aio.AbortError:
            end = context.end
        except asyncio.CancelledError:
            end = End(grpc.StatusCode.CANCELLED, "")
            raise
        except Exception as error:
            end = End(grpc.StatusCode.UNKNOWN, str(error))
            self._network.world.violated(error)
        finally:
            if self.process.is_alive:
                call.down.send(end)


class Answering:
    """The server's context of a call."""

    def __init__(self, call: Call, serialize: Any) -> None:
        self._call = call
        self._serialize = serialize
        self.end = End()

    async def write(self, response: Any) -> None:
        data = _bytes_of(response, self._serialize)
        await self._call.down.room()
        if PROCESS.get().is_alive:
            self._call.down.send(Message(data))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self.end = End(code, details)
        raise aio.AbortError

    def code(self) -> grpc.StatusCode:
        return self.end.code

    def invocation_metadata(self) -> tuple[Any, ...]:
        return self._call.metadata

    def peer(self) -> str:
        return "sim:0"


def _bytes_of(message: Any, serialize: Any) -> bytes:
    """Always the same: maps in the order of their keys."""
    if isinstance(message, ProtoMessage):
        return message.SerializeToString(deterministic=True)
    data: bytes = serialize(message)
    return data


async def _requests(way: Way, deserialize: Any) -> AsyncIterator[Any]:
    while isinstance(item := await way.next(), Message):
        yield deserialize(item.data)
