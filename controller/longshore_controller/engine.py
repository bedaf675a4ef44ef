"""THE LOOP: requests in, decide, commit, publish, answer. The only code that changes anything.

One way back: a commit that fails, or whose outcome is unknown, throws the memory away and loads it
again from the rows. Nothing was published or answered by then; callers repeat. Losing the epoch ends
the process. There is no other error path.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from longshore_controller.core.model import Refusal, RefusalKind
from longshore_controller.core.reactor import Limits, Reactor
from longshore_controller.core.state import State
from longshore_controller.feed import Committed, Feed
from longshore_controller.store import EpochLost, Store, StoreUnavailable

T = TypeVar("T")
Request = Callable[[Reactor, int], Any]

STEP_REQUESTS = 1_000
"""Requests taken into one commit; the rest wait for the next."""
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts to load while the database is away; the last one repeats."""

log = logging.getLogger(__name__)


class Clock(Protocol):
    def now_ms(self) -> int:
        """UTC in ms; never goes back."""


class SteadyClock:
    """The wall clock's time at the start, carried on by a clock that nobody sets."""

    def __init__(self) -> None:
        self._wall_ms = time.time_ns() // 1_000_000
        self._start = time.monotonic()

    def now_ms(self) -> int:
        return self._wall_ms + int((time.monotonic() - self._start) * 1000)


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
        self._inbox: list[tuple[Request, asyncio.Future[Any]]] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._reactor: Reactor | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._failures = 0
        """Steps that failed one after another."""
        self.seq = 0
        """Of the last committed event."""

    async def submit(self, request: Callable[[Reactor, int], T]) -> T:
        """What ``request(reactor, now)`` returned, once everything it did is committed.

        Raises the request's Refusal; with UNAVAILABLE when it could not be committed or nobody knows
        whether it was: repeat it.
        """
        if self._reactor is None or self._stopping:
            raise _unavailable()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._inbox.append((request, future))
        self._wake.set()
        return await future

    def is_live(self, attempt_id: str, worker_id: str) -> bool:
        """The attempt is this worker's to run: not ended, not revoked."""
        attempt = self._reactor.state.attempts.get(attempt_id) if self._reactor else None
        return attempt is not None and attempt.worker_id == worker_id and not attempt.revoked

    async def run(self) -> None:
        """Load, then serve until `stop`. Raises EpochLost when somebody else leads now."""
        await self._load(None)
        more = False
        while not self._stopping:
            if not more:
                await self._sleep()
            self._wake.clear()
            requests, self._inbox = self._inbox[:STEP_REQUESTS], self._inbox[STEP_REQUESTS:]
            more = await self._step(requests) or bool(self._inbox)
        for _, future in self._inbox:
            _answer(future, _unavailable())

    def stop(self) -> None:
        """End `run` after the commit under way; what waits is answered UNAVAILABLE."""
        self._stopping = True
        self._wake.set()

    async def _step(self, requests: list[tuple[Request, asyncio.Future[Any]]]) -> bool:
        reactor = self._reactor
        assert reactor is not None
        now = self._clock.now_ms()
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        try:
            for request, future in requests:
                try:
                    answers.append((future, request(reactor, now)))
                except Refusal as refusal:
                    answers.append((future, refusal))
                except Exception as defect:
                    _answer(future, defect)
                    raise
            more = reactor.advance(now)
            events, changes = reactor.take()
            if events:
                self.seq = await self._in_writer(self._store.commit, events, changes, now)
        except EpochLost:
            raise
        except Exception as failure:
            # A defect in a decision counts like a failed commit: what memory holds is not believed.
            log.warning(
                "a step failed, loading again: %s",
                failure,
                exc_info=not isinstance(failure, StoreUnavailable),
            )
            for _, future in requests:
                _answer(future, _unavailable())
            await asyncio.sleep(RETRY_S[min(self._failures, len(RETRY_S) - 1)])
            self._failures += 1
            await self._load(reactor)
            return True
        self._failures = 0
        if events:
            self._feed.publish(Committed(self.seq, now, events, changes))
        for future, answer in answers:
            _answer(future, answer)
        return more

    async def _load(self, before: Reactor | None) -> None:
        self._reactor = None
        for _, future in self._inbox:
            _answer(future, _unavailable())
        self._inbox.clear()
        attempt = 0
        while not self._stopping:
            try:
                state, self.seq = await self._in_writer(self._store.load)
                break
            except StoreUnavailable as away:
                pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
                log.warning("the database is away, next look in %.1f s: %s", pause, away)
                await asyncio.sleep(pause)
                attempt += 1
        else:
            return
        self._reactor = self._new_reactor(state, before)
        gc.collect()
        gc.freeze()
        self._feed.reset()

    def _new_reactor(self, state: State, before: Reactor | None) -> Reactor:
        now = self._clock.now_ms()
        reactor = Reactor(state, self._new_id, self._limits, now=now)
        if before is not None:
            reactor.resume(before, now)
        return reactor

    async def _sleep(self) -> None:
        assert self._reactor is not None
        due = self._reactor.next_due()
        timeout = None if due is None else max(0.0, (due - self._clock.now_ms()) / 1000)
        try:
            async with asyncio.timeout(timeout):
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


def _answer(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
