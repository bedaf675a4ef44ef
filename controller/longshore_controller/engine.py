"""THE LOOP: requests in, decide, commit, publish, answer. The only code that changes anything.

One way back: a commit that fails, or whose outcome is unknown, throws the memory away and loads it
again from the rows. Nothing was published or answered by then; callers repeat. Losing the epoch ends
the process. There is no other error path.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, cast

from longshore_controller.core.model import Pause, Refusal, RefusalKind
from longshore_controller.core.reactor import Limits, Reactor
from longshore_controller.core.rows import AuditRow
from longshore_controller.core.state import Project, State
from longshore_controller.feed import Committed, Feed
from longshore_controller.store import EpochLost, Store, StoreUnavailable, deed

T = TypeVar("T")
V = TypeVar("V")
Request = Callable[[Reactor, int], Any]
Look = Callable[[Reactor, Any], Any]
Waiting = tuple[Request, Look | None, asyncio.Future[Any], AuditRow | None]

STEP_REQUESTS = 1_000
"""Requests taken into one commit; the rest wait for the next."""
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts to load while the database is away; the last one repeats."""
ALONE = 2_000
"""Requests that are committed one by one after a group was refused, to find the one to blame."""
DOUBT = 1 / 4
"""Of the grace: who has not seen for so long in the database that it leads looks before it answers. So a
lease that a replaced controller extended is over before its successor, which waits for lease and grace,
gives away what runs under it."""
DOUBT_LEAST_MS = 100

log = logging.getLogger(__name__)


def new_attempt_id() -> str:
    """Like no other. Later ones are greater but for clocks set back, so that indexes grow at their end."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class Clock(Protocol):
    def now_ms(self) -> int:
        """UTC in ms; never goes back."""

    def not_before(self, at_ms: int) -> None:
        """It is known to be at least this late."""


class SteadyClock:
    """The wall clock's time at the start, carried on by a clock that nobody sets and that does not
    stop while the machine sleeps."""

    def __init__(self) -> None:
        self._ahead_ms = time.time_ns() // 1_000_000 - self._boot_ms()

    def now_ms(self) -> int:
        return self._ahead_ms + self._boot_ms()

    def not_before(self, at_ms: int) -> None:
        self._ahead_ms = max(self._ahead_ms, at_ms - self._boot_ms())

    def _boot_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Engine:
    """`submit` returns after the commit; `run` raises when the process must end."""

    def __init__(
        self, store: Store, feed: Feed, limits: Limits, *, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._feed = feed
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        self._inbox: list[Waiting] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._reactor: Reactor | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._failures = 0
        """Steps that failed one after another."""
        self._idle = False
        """Everything that memory says is committed."""
        self._alone = 0
        """Requests that are still to be committed one by one."""
        self._doubt_ms = max(DOUBT_LEAST_MS, int(limits.grace_ms * DOUBT))
        self._led_at_ms = 0
        """When the database was last asked something whose answer was that we lead."""
        self.seq = 0
        """Of the last committed event."""
        self.frozen: Pause | None = None
        """The service is, as of the last commit that is known."""

    def now_ms(self) -> int:
        """By the clock that decides."""
        return self._clock.now_ms()

    async def submit(self, request: Callable[[Reactor, int], T]) -> T:
        """What ``request(reactor, now)`` returned, once everything it did is committed; when it did
        nothing, once it is certain that we still lead, so that what memory says is true.

        Raises the request's Refusal; with UNAVAILABLE when it could not be committed or nobody knows
        whether it was: repeat it.
        """
        return cast(T, await self._enter(request, None))

    async def submit_and_look(
        self, request: Callable[[Reactor, int], T], look: Callable[[Reactor, T], V]
    ) -> tuple[V, int]:
        """Like `submit`, but answers what ``look(reactor, result)`` sees when all that is committed with
        the request has been decided, and that commit's seq: news up to it are covered by the look. When
        nothing was done, we may have been replaced within a fraction of the grace."""
        return cast(tuple[V, int], await self._enter(request, look))

    async def look(self, look: Callable[[Reactor], V]) -> tuple[V, int]:
        """What ``look(reactor)`` sees when all that it sees is committed, and the last commit's seq.

        At once while nothing is being committed. Raises Refusal UNAVAILABLE.
        """
        if self._idle and self._reactor is not None and not self._inbox:
            return look(self._reactor), self.seq
        return await self.submit_and_look(lambda r, now: None, lambda r, _: look(r))

    async def _enter(self, request: Request, look: Look | None) -> Any:
        if self._reactor is None or self._stopping:
            raise _unavailable()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._inbox.append((request, look, future, deed.get()))
        self._wake.set()
        return await future

    def extend_lease(self, worker_id: str, session: int) -> None:
        """In memory and at once, while the writer waits for its database: a lease is not stored.

        Raises Refusal when the session is over, also if it is so only with the commit under way.
        """
        if self._reactor is not None:  # Else every worker has a whole lease from the end of the load.
            self._reactor.extend_lease(worker_id, session, self._clock.now_ms())

    def is_live(self, attempt_id: str, worker_id: str) -> bool:
        """The attempt is this worker's to run: not ended, not revoked. Refusal UNAVAILABLE while nobody
        knows, since memory is being loaded: what is not known to live is not known to be over."""
        if self._reactor is None:
            raise _unavailable()
        attempt = self._reactor.state.attempts.get(attempt_id)
        return attempt is not None and attempt.worker_id == worker_id and not attempt.revoked

    def project(self, name: str) -> Project | None:
        """Of memory; up to one commit ahead of the rows. None: nothing is known of it."""
        return self._reactor.state.projects.get(name) if self._reactor else None

    def job_states(self, batch_id: int) -> bytes | None:
        """A byte for each job of a live batch, see `JobColumns`; up to one commit ahead of the rows. From
        any thread. None: the batch is not in memory."""
        batch = self._reactor.state.batches.get(batch_id) if self._reactor else None
        return bytes(batch.columns.states) if batch is not None and batch.columns is not None else None

    async def run(self) -> None:
        """Load, then serve until `stop`. Raises EpochLost when somebody else leads now."""
        await self._load(None)
        more = False
        while not self._stopping:
            if not more:
                self._idle = True
                await self._sleep()
                self._idle = False
            self._wake.clear()
            most = 1 if self._alone else STEP_REQUESTS
            requests, self._inbox = self._inbox[:most], self._inbox[most:]
            self._alone = max(0, self._alone - len(requests))
            more = await self._step(requests) or bool(self._inbox)
        for _, _, future, _ in self._inbox:
            _answer(future, _unavailable())

    def stop(self) -> None:
        """End `run` after the commit under way; what waits is answered UNAVAILABLE."""
        self._stopping = True
        self._wake.set()

    async def _step(self, requests: list[Waiting]) -> bool:
        reactor = self._reactor
        assert reactor is not None
        now = self._clock.now_ms()
        decided: list[tuple[Look | None, asyncio.Future[Any], Any]] = []
        try:
            audit: list[AuditRow] = []
            for request, look, future, done in requests:
                before = len(reactor.emitted)
                try:
                    decided.append((look, future, request(reactor, now)))
                except Refusal as refusal:
                    decided.append((None, future, refusal))
                if done is not None and len(reactor.emitted) > before:
                    about = getattr(reactor.emitted[before], "batch_id", None)
                    audit.append(done._replace(at_ms=now, batch_id=about))
            more = reactor.advance(now, busy=bool(requests))
            seen = [_seen(look, reactor, answer) if look else answer for look, _, answer in decided]
            events, changes = reactor.take()
            changes.audit = audit
            if events:
                self.seq = await self._in_writer(self._store.commit, events, changes, now)
                self._led_at_ms = now
            elif any(look is None for look, *_ in decided) or now >= self._led_at_ms + self._doubt_ms:
                await self._in_writer(self._store.confirm)
                self._led_at_ms = now
        except EpochLost:
            raise
        except StoreUnavailable as away:
            log.warning("a commit failed, loading again: %s", away)
            await self._start_over(reactor, requests, _unavailable())
            return True
        except Exception as defect:
            # What memory holds is not believed any more. Whoever asked alone for this has the answer.
            log.exception("a step failed, loading again")
            self._alone = ALONE
            await self._start_over(reactor, requests, defect if len(requests) == 1 else _unavailable())
            return True
        self._failures = 0
        self.frozen = reactor.state.frozen
        if events:
            changes.bunches.clear()  # They are rows now; news may wait for their readers for long.
            self._feed.publish(Committed(self.seq, now, events, changes))
        for (look, future, _), answer in zip(decided, seen, strict=True):
            _answer(future, (answer, self.seq) if look and not isinstance(answer, Refusal) else answer)
        return more

    async def _start_over(self, reactor: Reactor, requests: list[Waiting], why: Exception) -> None:
        for _, _, future, _ in requests:
            _answer(future, why)
        await asyncio.sleep(RETRY_S[min(self._failures, len(RETRY_S) - 1)])
        self._failures += 1
        await self._load(reactor)

    async def _load(self, before: Reactor | None) -> None:
        self._reactor = None
        for _, _, future, _ in self._inbox:
            _answer(future, _unavailable())
        self._inbox.clear()
        attempt = 0
        while not self._stopping:
            now = self._clock.now_ms()
            try:
                state, self.seq = await self._in_writer(self._store.load)
                self._led_at_ms = now
                break
            except StoreUnavailable as away:
                pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                log.warning("the database is away, next look in %.1f s: %s", pause, away)
                await asyncio.sleep(pause)
                attempt += 1
        else:
            return
        self.frozen = state.frozen
        self._reactor = self._new_reactor(state, before)
        gc.unfreeze()  # what an earlier load left behind
        gc.collect()
        gc.freeze()
        self._feed.reset()

    def _new_reactor(self, state: State, before: Reactor | None) -> Reactor:
        self._clock.not_before(state.latest_at_ms())
        now = self._clock.now_ms()
        reactor = Reactor(state, self._new_id, self._limits, now=now)
        if before is not None:
            reactor.resume(before, now)
        return reactor

    async def _sleep(self) -> None:
        assert self._reactor is not None
        now = self._clock.now_ms()
        due = self._reactor.next_due(now)
        doubt = self._led_at_ms + self._doubt_ms
        until = doubt if due is None else min(due, doubt)
        try:
            async with asyncio.timeout(max(0.0, (until - now) / 1000)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _in_writer(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, call, *args)


def _unavailable() -> Refusal:
    return Refusal(
        RefusalKind.UNAVAILABLE,
        "the service cannot reach its database just now; repeat the call (the same request counts once)",
    )


def _seen(look: Look, reactor: Reactor, answer: Any) -> Any:
    """What it sees, or the Refusal: to look changes nothing, so that memory is as good as before."""
    try:
        return look(reactor, answer)
    except Refusal as refusal:
        return refusal


def _answer(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
