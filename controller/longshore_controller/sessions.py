"""WorkerService: one conversation for each connected worker.

Follow, then hello, then the complete orders; from then on news, in the order of their commits. What a
worker is told was committed before; what it reports is acknowledged after. Nobody speaks for a worker but
the holder of its token: its id is the caller's, never a message's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from longshore_api.v1 import worker_service_pb2, worker_service_pb2_grpc

from longshore_controller.core.events import AttemptAssigned, AttemptRevoked, WorkerLost
from longshore_controller.core.model import ContainerName, HeldAttempt, Orders, Refusal, RefusalKind
from longshore_controller.core.reactor import Reactor
from longshore_controller.engine import Engine
from longshore_controller.feed import Committed, Feed, Following, Reset
from longshore_controller.interceptors import caller, hash_of
from longshore_controller.logs import LogId, Logs
from longshore_controller.store import Store, StoreUnavailable
from longshore_controller.wire import conversation
from longshore_controller.wire.conversation import Assigned

HELLO_WITHIN_S = 10.0
"""A stream that has not said Hello by then is ended."""
IN_FLIGHT = 64
"""Messages of one worker that wait for their commit; it is not read from while there are so many."""
WAITING = 64
"""Messages to one worker that it has not taken yet; nothing more is made for it while there are so many."""
RUN_ATTEMPTS = 256
RUN_BYTES = 4 << 20
"""Of the assignments in one message, as soon as either is reached; one spec is at most 8 MiB."""
AGAIN_S = 1.0
"""Pause between two tries while the database is away."""
PATIENCE = 1 / 4
"""Of a lease: so long a worker's word waits for its commit before the worker is answered without it."""

T = TypeVar("T")
Context = Any
WorkerMessage = worker_service_pb2.WorkerMessage
Message = worker_service_pb2.ControllerMessage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What every worker is told in its Welcome."""

    lease_ms: int
    heartbeat_ms: int


class Due(NamedTuple):
    """Complete orders that have been committed and not been sent."""

    orders: Orders
    run: list[Assigned]
    seq: int
    """News up to this one are covered by them."""


class WorkerService(worker_service_pb2_grpc.WorkerServiceServicer):
    def __init__(
        self,
        store: Store,
        engine: Engine,
        feed: Feed,
        logs: Logs,
        terms: Terms,
        *,
        on_activated: Callable[[], Awaitable[None]],
    ) -> None:
        """``on_activated`` is called when an activation token was used up."""
        self._store = store
        self._engine = engine
        self._feed = feed
        self._logs = logs
        self._terms = terms
        self._on_activated = on_activated
        self._sessions: dict[str, Session] = {}
        self._background: set[asyncio.Task[Any]] = set()
        """What goes on when the worker that it is about has hung up."""

    async def Activate(
        self, request: worker_service_pb2.ActivateRequest, context: Context
    ) -> worker_service_pb2.ActivateResponse:
        # It goes on when the worker hangs up: a token that was used is replaced whatever happens.
        return await asyncio.shield(self._in_background(self._activate(hash_of(request.activation_token))))

    async def _activate(self, token_hash: bytes) -> worker_service_pb2.ActivateResponse:
        used = True
        """Or nobody knows."""
        try:
            used = await asyncio.to_thread(self._store.consume_activation_token, token_hash)
            if not used:
                raise Refusal(
                    RefusalKind.UNAUTHENTICATED,
                    "the activation token is unknown or was used before; "
                    "each makes one worker, take a new one",
                )
            worker_id, token = secrets.token_hex(8), f"lsw_{secrets.token_urlsafe(32)}"
            await asyncio.to_thread(self._store.add_worker_token, worker_id, hash_of(token))
        finally:
            if used:
                await self._renew_activation()
        return worker_service_pb2.ActivateResponse(worker_id=worker_id, worker_token=token)

    async def _renew_activation(self) -> None:
        """However long it takes: without a token no worker can join any more."""
        while True:
            try:
                await self._on_activated()
                return
            except Exception as error:
                log.error("there is no new activation token yet: %s", error)
                await asyncio.sleep(AGAIN_S)

    async def Connect(  # type: ignore[override]  # It writes to the stream; gRPC takes that, too.
        self, requests: AsyncIterator[WorkerMessage], context: Context
    ) -> None:
        worker_id = caller()
        hello = await _hello(requests)
        if hello.seen_epoch > self._store.epoch:
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION,
                f"this controller's epoch {self._store.epoch} is over: {hello.seen_epoch} was seen",
            )
        with self._feed.follow(worker=worker_id) as following:
            said = conversation.hello(hello, worker_id)
            number: int | None = None
            gone = False

            def on_hello(reactor: Reactor, now: int) -> int:
                nonlocal number
                if gone:
                    raise Refusal(RefusalKind.FAILED_PRECONDITION, "the worker has hung up")
                number = reactor.on_hello(said, now)
                return number

            try:
                (session, due), seq = await self._engine.submit_and_look(
                    on_hello, lambda r, n: (n, _complete(r, worker_id, said.held, said.spooled))
                )
                await self._serve(requests, context, following, worker_id, session, Due(*due, seq))
            finally:
                # The connection may have broken before the Hello was decided, or during its commit.
                gone = True
                if number is not None:
                    self._say_goodbye(worker_id, number)

    async def _serve(
        self,
        requests: AsyncIterator[WorkerMessage],
        context: Context,
        following: Following,
        worker_id: str,
        number: int,
        first: Due,
    ) -> None:
        session = Session(
            self._store, self._engine, self._logs, self._terms, worker_id, number, following, context
        )
        self._replace(session)
        try:
            with self._logs.listening(following.wake):
                await session.talk(requests, first)
        finally:
            if self._sessions.get(worker_id) is session:
                del self._sessions[worker_id]

    async def PushLogs(
        self, requests: AsyncIterator[worker_service_pb2.PushLogsRequest], context: Context
    ) -> worker_service_pb2.PushLogsResponse:
        worker_id = caller()
        known: dict[str, tuple[int, int]] = {}
        async for piece in requests:
            if piece.attempt_id not in known:
                known[piece.attempt_id] = await self._job_of(piece.attempt_id, worker_id)
            if piece.container not in _CONTAINERS:
                raise Refusal(RefusalKind.INVALID_ARGUMENT, f"container: {piece.container} is none")
            if piece.chunk:
                of = LogId(*known[piece.attempt_id], piece.attempt_id, ContainerName(piece.container))
                await self._logs.append(of, piece.offset, piece.chunk)
        return worker_service_pb2.PushLogsResponse()

    async def _job_of(self, attempt_id: str, worker_id: str) -> tuple[int, int]:
        row = None
        if "\0" not in attempt_id:
            row = await asyncio.to_thread(self._store.attempt, attempt_id)
        if row is None or row.worker_id != worker_id:
            raise Refusal(RefusalKind.NOT_FOUND, f"there is no attempt {attempt_id} of this worker")
        return row.batch_id, row.job_id

    def _replace(self, session: Session) -> None:
        """A worker has one session, the one with the greatest number."""
        older = self._sessions.get(session.worker_id)
        if older is not None and older.number > session.number:
            older, session = session, older
        self._sessions[session.worker_id] = session
        if older is not None:
            older.end(Refusal(RefusalKind.FAILED_PRECONDITION, "the worker has connected again"))

    def _say_goodbye(self, worker_id: str, number: int) -> None:
        """Tell the engine, however long it takes; nobody waits for it."""

        async def say() -> None:
            while True:
                with suppress(Refusal):
                    await self._engine.submit(lambda r, now: r.on_disconnect(worker_id, number))
                    return
                await asyncio.sleep(AGAIN_S)

        self._in_background(say())

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if not isinstance(error, Refusal | StoreUnavailable | None):
            log.error("something in the background failed", exc_info=error)

    async def stop(self) -> None:
        """Forget what is still to be told; the engine stops, too."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)


class Session:
    """One connection of one worker, from its Welcome to its end.

    Four coroutines: `_listen` takes what the worker says to the engine, `_answer` waits for the commits in
    the same order and acknowledges, `_tell` sends orders, and `_write` alone writes to the stream.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        logs: Logs,
        terms: Terms,
        worker_id: str,
        number: int,
        following: Following,
        context: Context,
    ) -> None:
        self.worker_id = worker_id
        self.number = number
        self._store = store
        self._engine = engine
        self._logs = logs
        self._terms = terms
        self._patience_s = terms.lease_ms / 1000 * PATIENCE
        self._following = following
        self._context = context
        self._out: asyncio.Queue[Message] = asyncio.Queue(WAITING)
        self._asking: set[asyncio.Task[Message | None]] = set()
        self._asked: asyncio.Queue[asyncio.Task[Message | None]] = asyncio.Queue(IN_FLIGHT)
        self._due: list[Due] = []
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, why: Refusal) -> None:
        """Hang up."""
        if not self._over.done():
            self._over.set_exception(why)

    async def talk(self, requests: AsyncIterator[WorkerMessage], first: Due) -> None:
        """Until the worker hangs up, or there is a reason to: a Refusal."""
        terms = self._terms
        await self._out.put(
            conversation.welcome(self._store.epoch, self.number, terms.lease_ms, terms.heartbeat_ms)
        )
        parts: list[asyncio.Future[None]] = [
            asyncio.create_task(self._listen(requests)),
            asyncio.create_task(self._answer()),
            asyncio.create_task(self._tell(first)),
            asyncio.create_task(self._write()),
            self._over,
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            left: list[asyncio.Future[Any]] = [*parts, *self._asking]
            for future in left:
                future.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            await self._context.write(await self._out.get())

    # -- what the worker says ----------------------------------------------------------------------

    async def _listen(self, requests: AsyncIterator[WorkerMessage]) -> None:
        async for message in requests:
            kind = message.WhichOneof("kind")
            if kind == "hello":
                raise Refusal(RefusalKind.INVALID_ARGUMENT, "hello: is said once, at the beginning")
            # Tasks begin in the order in which they were made, and so does what they ask of the engine.
            if kind == "reports":
                task = asyncio.create_task(self._report(message.reports))
            elif kind == "heartbeat":
                task = asyncio.create_task(self._beat(message.heartbeat))
            else:
                continue  # Something that a later workerd can say.
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            await self._asked.put(task)

    async def _answer(self) -> None:
        while True:
            answer = await (await self._asked.get())
            if answer is not None:
                await self._out.put(answer)

    async def _report(self, message: worker_service_pb2.Reports) -> Message | None:
        """The acks; None when it was not committed in time: the worker repeats what is not acknowledged."""
        reports = conversation.reports(message)
        if await self._submit(lambda r, now: r.on_reports(self.worker_id, self.number, reports, now)):
            return conversation.acks(message)
        return None

    async def _beat(self, message: worker_service_pb2.Heartbeat) -> Message:
        """The lease is extended, also while the database is away: until it is back nobody, this
        controller included, can give the worker's attempts to somebody else, and then every worker has
        a whole lease and grace to say Hello in. So it is while the database keeps everybody waiting."""
        worker_id, number = self.worker_id, self.number
        held, spooled = conversation.held(message.held), tuple(message.spooled)

        def look(reactor: Reactor, diverged: bool) -> tuple[Orders, list[Assigned]] | None:
            return _complete(reactor, worker_id, held, spooled) if diverged else None

        try:
            async with asyncio.timeout(self._patience_s):
                due, seq = await self._engine.submit_and_look(
                    lambda r, now: r.on_heartbeat(worker_id, number, held, spooled, now), look
                )
        except TimeoutError:
            self._engine.extend_lease(worker_id, number)
        except Refusal as refusal:
            if refusal.kind is not RefusalKind.UNAVAILABLE:
                raise
        else:
            if due is not None:
                self._due.append(Due(*due, seq))
                self._following.wake()
        return conversation.lease_extended(message.number)

    async def _submit(self, request: Callable[[Reactor, int], None]) -> bool:
        """Whether it is committed by now. A Refusal of any other kind than UNAVAILABLE ends the session."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._engine.submit(request)
        except TimeoutError:
            return False
        except Refusal as refusal:
            if refusal.kind is not RefusalKind.UNAVAILABLE:
                raise
            return False
        return True

    # -- what the worker is told -------------------------------------------------------------------

    async def _tell(self, first: Due) -> None:
        """Orders before news: complete orders must not come after an order that was decided later, for
        whatever they do not name is to be stopped. They are due before later news is published, since
        the engine answers one step before it commits the next."""
        self._due.append(first)
        covered = 0
        wanted: list[str] | None = None
        news: list[Committed] | Reset | None = None
        while True:
            while self._due:
                due = self._due.pop(0)
                await self._send_complete(due)
                covered = due.seq
            if isinstance(news, Reset):
                raise Refusal(RefusalKind.UNAVAILABLE, "the controller has loaded anew; connect again")
            for committed in news or ():
                if committed.seq > covered:
                    await self._send_news(committed)
            wanted = await self._send_wanted(wanted)
            news = await self._following.next()

    async def _send_news(self, committed: Committed) -> None:
        run: list[Assigned] = []
        revoke: list[str] = []
        for event in committed.events:
            if isinstance(event, AttemptAssigned):
                user, _ = committed.changes.owners[event.batch_id]
                run.append(Assigned(event.attempt_id, event.batch_id, event.job_id, event.mcpu, user))
            elif isinstance(event, AttemptRevoked):
                revoke.append(event.attempt_id)
            elif isinstance(event, WorkerLost):
                raise Refusal(RefusalKind.FAILED_PRECONDITION, f"{event.reason}; connect again")
        async for some in self._assignments(run):
            await self._out.put(conversation.assignments(run=some))
        if revoke:
            await self._out.put(conversation.assignments(revoke=revoke))

    async def _send_complete(self, due: Due) -> None:
        """What does not fit into one message goes before: the complete one is to name all that was told."""
        before: list[str] = []
        last: list[worker_service_pb2.Assignment] = []
        async for some in self._assignments(due.run):
            if last:
                await self._out.put(conversation.assignments(run=last))
                before += [a.attempt_id for a in last]
            last = some
        keep = (*due.orders.keep, *before)
        revoke = due.orders.revoke
        await self._out.put(conversation.assignments(complete=True, run=last, keep=keep, revoke=revoke))

    async def _send_wanted(self, before: list[str] | None) -> list[str]:
        wanted = [a for a in self._logs.watched() if self._engine.is_live(a, self.worker_id)]
        if wanted != before:
            await self._out.put(conversation.logs_wanted(wanted))
        return wanted

    async def _assignments(
        self, attempts: Sequence[Assigned]
    ) -> AsyncIterator[list[worker_service_pb2.Assignment]]:
        """With their specs, in groups that fit into a message; without those that are over by now."""
        for at in range(0, len(attempts), RUN_ATTEMPTS):
            some = attempts[at : at + RUN_ATTEMPTS]
            specs = await self._specs([(a.batch_id, a.job_id) for a in some])
            group: list[worker_service_pb2.Assignment] = []
            size = 0
            for attempt in some:
                spec = specs.get((attempt.batch_id, attempt.job_id))
                if spec is None:
                    log.error("the spec of job %s/%s is missing", attempt.batch_id, attempt.job_id)
                elif self._engine.is_live(attempt.attempt_id, self.worker_id):
                    if group and size + len(spec) > RUN_BYTES:
                        yield group
                        group, size = [], 0
                    group.append(conversation.assignment(attempt, spec))
                    size += len(spec)
            if group:
                yield group

    async def _specs(self, keys: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """However long it takes: a session outlives an absence of the database."""
        specs = self._store.fresh_specs(keys)
        while missing := [key for key in keys if key not in specs]:
            try:
                return specs | await asyncio.to_thread(self._store.specs, missing)
            except StoreUnavailable as away:
                log.warning("the database is away, specs wait: %s", away)
                await asyncio.sleep(AGAIN_S)
        return specs


_CONTAINERS = frozenset(name.value for name in ContainerName)


def _complete(
    reactor: Reactor, worker_id: str, held: tuple[HeldAttempt, ...], spooled: tuple[str, ...]
) -> tuple[Orders, list[Assigned]]:
    """All the worker should hold, and what it needs to know of what it does not hold yet."""
    orders = reactor.orders(worker_id, held, spooled)
    state = reactor.state
    attempts = [state.attempts[attempt_id] for attempt_id in orders.run]
    return orders, [
        Assigned(a.attempt_id, a.batch_id, a.job_id, a.mcpu, state.batches[a.batch_id].user) for a in attempts
    ]


async def _hello(requests: AsyncIterator[WorkerMessage]) -> worker_service_pb2.Hello:
    try:
        async with asyncio.timeout(HELLO_WITHIN_S):
            message = await anext(requests)
    except (TimeoutError, StopAsyncIteration):
        message = worker_service_pb2.WorkerMessage()
    if not message.HasField("hello"):
        raise Refusal(
            RefusalKind.INVALID_ARGUMENT, f"hello: is the first message, within {HELLO_WITHIN_S:g} s"
        )
    return message.hello
