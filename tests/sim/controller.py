"""One life of the controller's process: the real engine and feed, and an edge of a few lines around them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

from longshore_controller.callbacks import Callbacks
from longshore_controller.core import events as ev
from longshore_controller.core.model import Hello, Orders, Refusal, RefusalKind
from longshore_controller.core.money import DAY_MS
from longshore_controller.core.reactor import CreateBatch, Limits, Reactor, UpdateBatch
from longshore_controller.core.state import Batch
from longshore_controller.engine import Engine
from longshore_controller.feed import RESET, Committed, Feed
from longshore_controller.store import Store
from longshore_workerd.model import Assignment
from sim.database import Database, InjectedDefect
from sim.link import Acks, Assignments, Heartbeat, LeaseExtended, Link, Message, Reports, Welcome
from sim.oracle import Oracle, Violation

T = TypeVar("T")
STEPS_IN_AN_INSTANT = 20_000


class Away(Exception):
    """No answer; nobody knows whether it was done."""


class World(Protocol):
    database: Database
    oracle: Oracle
    limits: Limits

    def now(self) -> int: ...

    def new_id(self) -> str: ...

    def violated(self, error: BaseException) -> None: ...


@contextmanager
def suppress_missing() -> Iterator[None]:
    """Whatever is asked about something that is not there is done."""
    try:
        yield
    except Refusal as refusal:
        if refusal.kind is not RefusalKind.NOT_FOUND:
            raise


class Clock:
    """A wall clock that was set to something, and then only goes on."""

    def __init__(self, now: Callable[[], int], ahead_ms: int) -> None:
        self._now = now
        self._ahead_ms = ahead_ms
        self._looks = (0, 0)

    def now_ms(self) -> int:
        now = self._now()
        at, looks = self._looks
        self._looks = (at, looks + 1) if at == now else (now, 0)
        if looks > STEPS_IN_AN_INSTANT:
            raise Violation("the loop goes round and round, and no time passes")
        return now + self._ahead_ms

    def not_before(self, at_ms: int) -> None:
        self._ahead_ms = max(self._ahead_ms, at_ms - self._now())


class Controller:
    def __init__(self, world: World, *, clock_ahead_ms: int) -> None:
        self._world = world
        self._feed = Feed()
        clock = Clock(world.now, clock_ahead_ms)
        self.engine = Engine(
            cast(Store, world.database), self._feed, world.limits, clock=clock, new_id=world.new_id
        )
        # In the order in which they came: sets would go by addresses, and no seed be told twice.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._links: dict[Link, None] = {}
        self._updating = asyncio.Lock()
        self._spawn(self.engine.run())
        store = cast(Store, world.database)
        callbacks = Callbacks(store, self.engine, self._feed, private=True, post=world.oracle.call_back)
        self._spawn(callbacks.run())

    @property
    def reactor(self) -> Reactor | None:
        """What the engine thinks with, while it has loaded it."""
        return self.engine._reactor

    def crash(self) -> None:
        """Memory, connections and whatever is under way are gone."""
        for task in list(self._tasks):
            task.cancel()
        for link in self._links:
            link.hang_up(by_worker=False)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, Refusal | InjectedDefect):
            self._world.violated(error)

    # -- for users -----------------------------------------------------------------------------------

    async def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """What a service answers. Away when it dies meanwhile or cannot know; else its Refusal."""
        task = self._spawn(work)
        await asyncio.wait([task])
        if task.cancelled() or isinstance(task.exception(), InjectedDefect):
            raise Away
        try:
            return task.result()
        except Refusal as refusal:
            if refusal.kind in (RefusalKind.UNAVAILABLE, RefusalKind.RESOURCE_EXHAUSTED):
                raise Away from refusal
            raise

    async def create(self, request: CreateBatch) -> int:
        known = self._world.database.batch_of_request(request.user, request.request_id)
        if known is not None:
            return known.batch_id
        return await self.engine.submit(lambda reactor, now: reactor.on_create(request, now))

    async def close(self, batch_id: int) -> None:
        row = self._world.database.rows.batches[batch_id]
        if row.closed_at_ms is None:
            columns = self._world.database.columns(batch_id)
            await self.engine.submit(lambda reactor, now: reactor.on_close(batch_id, columns, now))

    async def update(self, wanted: UpdateBatch) -> None:
        async with self._updating:
            there = False
            while not there:
                left = self._world.database.left_batch(wanted.batch_id)
                there = await self._add(wanted, left)

    async def _add(self, wanted: UpdateBatch, left: Batch | None) -> bool:
        return await self.engine.submit(lambda r, now: r.on_update(wanted, left, now))

    async def cancel(self, batch_id: int) -> None:
        await self.engine.submit(lambda r, now: r.on_cancel(batch_id, "ann", "no longer wanted", now))

    async def delete(self, batch_id: int) -> None:
        row = self._world.database.rows.batches[batch_id]
        if row.deleted_at_ms is None:
            await self.engine.submit(lambda r, now: r.on_delete(batch_id, "ann", row.user, now))

    async def set_limit(self, nanousd: int | None, *, hard: bool) -> None:
        await self.engine.submit(
            lambda r, now: r.on_set_project("project", nanousd, "root", now, hard=hard, closed=False)
        )

    async def set_rates(self) -> None:
        """From tomorrow on, by the service's clock."""
        await self.engine.submit(
            lambda r, now: r.on_set_rates(now // DAY_MS + 1, {"compute": "1/50"}, "root", now)
        )

    async def freeze(self) -> None:
        await self.engine.submit(lambda r, now: r.on_freeze("root", "a new network", now))

    async def thaw(self) -> None:
        await self.engine.submit(lambda r, now: r.on_thaw("root", now))

    async def drain(self, worker_id: str) -> None:
        """Of one that may be lost by now."""
        with suppress_missing():
            await self.engine.submit(lambda r, now: r.on_drain(worker_id, "root", "a new disk", now))

    async def undrain(self, worker_id: str) -> None:
        with suppress_missing():
            await self.engine.submit(lambda r, now: r.on_undrain(worker_id, "root", now))

    async def undelete(self, batch_id: int) -> None:
        row = self._world.database.rows.batches[batch_id]
        if row.deleted_at_ms is not None:
            await self.engine.submit(lambda r, now: r.on_undelete(batch_id, "ann", row.user, now))

    async def end_attempt(self, attempt_id: str) -> None:
        await self.engine.submit(lambda r, now: r.on_end_attempt(attempt_id, "ann", "it hangs", now))

    # -- for workers ---------------------------------------------------------------------------------

    def accept(self, link: Link) -> None:
        self._links[link] = None
        self._spawn(self._serve(link))

    async def _serve(self, link: Link) -> None:
        arrived = asyncio.Event()
        link.to_controller.arrived = arrived.set
        await arrived.wait()
        hello = link.to_controller.inbox.popleft()
        if isinstance(hello, Hello):
            conversation = _Conversation(self._world, self.engine, self._feed, link, hello)
            try:
                await conversation.run()
            except InjectedDefect:
                pass
            except Refusal as refusal:
                self._world.oracle.seen[f"a session ends: {refusal.kind.value}"] += 1
            link.hang_up(by_worker=False)
            await conversation.over()
        del self._links[link]


class _Conversation:
    """With one worker, from its Hello on: what `orders` covers is told once, what comes later as it comes."""

    def __init__(self, world: World, engine: Engine, feed: Feed, link: Link, hello: Hello) -> None:
        self._world = world
        self._engine = engine
        self._feed = feed
        self._link = link
        self._hello = hello
        self._worker = hello.worker_id
        self._session = 0
        self._covered = 0

    async def run(self) -> None:
        hello = self._hello
        with self._feed.follow(worker=self._worker) as news:
            self._link.to_controller.arrived = news.wake
            (self._session, orders), self._covered = await self._engine.submit_and_look(
                lambda reactor, now: reactor.on_hello(hello, now),
                lambda reactor, session: (session, _orders(reactor, hello)),
            )
            self._link.to_worker.send(Welcome(self._session))
            self._link.to_worker.send(orders)
            while True:
                committed = await news.next()
                if committed is RESET or committed is None or not self._pass_on(committed):
                    return
                while self._link.to_controller.inbox:
                    message = self._link.to_controller.inbox.popleft()
                    if message is None:
                        return
                    await self._hear(message)

    async def over(self) -> None:
        """The reactor knows that nobody is connected any more."""
        session = self._session
        await self._engine.submit(lambda reactor, now: reactor.on_disconnect(self._worker, session))

    async def _hear(self, message: Message) -> None:
        session = self._session
        match message:
            case Heartbeat():
                diverged, seq = await self._engine.submit_and_look(
                    lambda r, now: r.on_heartbeat(self._worker, session, message.held, message.spooled, now),
                    lambda r, diverged: _orders(r, self._hello, message) if diverged else None,
                )
                for held in message.held:
                    self._world.oracle.heard(held.attempt_id, held.main_ms)
                self._world.oracle.step_ended(committed=True)
                self._link.to_worker.send(LeaseExtended(message.number))
                if diverged is not None:
                    self._world.oracle.seen["a heartbeat that diverges"] += 1
                    self._covered = seq
                    self._link.to_worker.send(diverged)
            case Reports(reports):
                known = [self._world.oracle.attempts[r.attempt_id] for r in reports]
                self._world.oracle.seen["a report that comes too late"] += any(a.ended for a in known)
                await self._engine.submit(lambda r, now: r.on_reports(self._worker, session, reports, now))
                self._link.to_worker.send(Acks(tuple((r.attempt_id, r.state) for r in reports)))
            case _:
                raise TypeError(message)

    def _pass_on(self, news: list[Committed]) -> bool:
        """Tell the worker what concerns it. False: it was lost."""
        run: list[Assignment] = []
        revoke: list[str] = []
        for committed in news:
            for event in committed.events if committed.seq > self._covered else ():
                match event:
                    case ev.AttemptAssigned() if self._engine.is_live(event.attempt_id, self._worker):
                        run.append(_assignment(event.attempt_id, event.batch_id, event.job_id, event.mcpu))
                    case ev.AttemptRevoked():
                        revoke.append(event.attempt_id)
                    case ev.WorkerLost():
                        return False
                    case _:
                        pass
        if run or revoke:
            self._link.to_worker.send(Assignments(run=tuple(run), revoke=tuple(revoke)))
        return True


def _orders(reactor: Reactor, hello: Hello, heartbeat: Heartbeat | None = None) -> Assignments:
    said = heartbeat or hello
    orders: Orders = reactor.orders(hello.worker_id, said.held, said.spooled)
    attempts = [reactor.state.attempts[a] for a in orders.run]
    run = tuple(_assignment(a.attempt_id, a.batch_id, a.job_id, a.mcpu) for a in attempts)
    return Assignments(complete=orders.complete, run=run, keep=orders.keep, revoke=orders.revoke)


def _assignment(attempt_id: str, batch_id: int, job_id: int, mcpu: int) -> Assignment:
    return Assignment(attempt_id, batch_id, job_id, mcpu=mcpu, timeout_ms=0 if job_id % 4 else 60_000)


class Defects(logging.Handler):
    """The engine says in its log when a step failed for a reason nobody foresaw."""

    def __init__(self, violated: Callable[[BaseException], None]) -> None:
        super().__init__(logging.ERROR)
        self._violated = violated

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, InjectedDefect):
            self._violated(error)
