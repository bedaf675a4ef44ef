"""What people look at: windows of rows, whole at first, then what changed of them, while they look.

A stream is asked for one window after the other; the latest counts. Whoever looks at the same as somebody
else shares one show with him (`shows.py`): it is read once and its messages are written once, at most
`EVERY_S` often, however many look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

from longshore_api.v1 import types_pb2

from longshore_controller.core.model import Refusal, RefusalKind
from longshore_controller.feed import Feed
from longshore_controller.interceptors import viewer
from longshore_controller.shows import Page, Show, Shows
from longshore_controller.store import Store
from longshore_controller.visible import Visible, may_concern, read
from longshore_controller.windows import EVERY_S, Batches, BatchesAt, Jobs, JobsAt, OneBatch
from longshore_controller.wire import records
from longshore_controller.wire.submission import BatchesWindow, JobsWindow

ALIVE_EVERY_S = 5.0
"""An empty message on a quiet stream."""

W = TypeVar("W")
Look = tuple[Show[Any], Page[Any]]


class Views:
    """Streams of messages that are bytes already."""

    def __init__(self, store: Store, feed: Feed, visible: Visible) -> None:
        self._store = store
        self._visible = visible
        self._feed = feed
        self._shows = Shows()

    async def batch(self, batch_id: int) -> AsyncIterator[bytes]:
        """A batch, and again whenever it changed, until it is complete. NOT_FOUND, also once it is
        deleted."""
        woken, told = asyncio.Event(), 0
        with ExitStack() as held:
            show: Show[None] = held.enter_context(
                self._shows.joined(
                    ("batch", viewer(), batch_id),
                    partial(self._feed.follow, batch=batch_id),
                    lambda following: OneBatch(self._visible, following, batch_id),
                )
            )
            page = held.enter_context(show.looking(None, woken))
            while not (page.over and told == page.version):
                if page.version > told:
                    message, told = page.since(told), page.version
                    yield message
                else:
                    await _woken(woken, None, show)

    async def batches(self, windows: AsyncIterator[BatchesWindow]) -> AsyncIterator[bytes]:
        """The caller's batches, or all that they may see where the query asks whose they are."""
        who = viewer()

        async def look(window: BatchesWindow, held: ExitStack, woken: asyncio.Event) -> Look:
            anchor = window.anchor_batch_id or await read(self._store.newest_batch_id, who, window.query)
            show: Show[BatchesAt] = held.enter_context(
                self._shows.joined(
                    ("batches", who, window.text),
                    partial(self._feed.follow, viewer=who)
                    if window.query.asks_owner
                    else partial(self._feed.follow, user=who.name),
                    lambda following: Batches(
                        self._store, self._visible, following, who, window.query, window.text
                    ),
                )
            )
            position = BatchesAt(window.first, window.n, anchor)
            return show, held.enter_context(show.looking(position, woken))

        async with _latest(windows) as latest, aclosing(_answers(latest, look)) as answers:
            async for answer in answers:
                yield answer

    async def jobs(self, windows: AsyncIterator[JobsWindow]) -> AsyncIterator[bytes]:
        """The jobs of the batch that the first window names. NOT_FOUND, also once it is deleted."""
        who, batch_id = viewer(), 0

        async def look(window: JobsWindow, held: ExitStack, woken: asyncio.Event) -> Look:
            nonlocal batch_id
            if batch_id not in (0, window.batch_id):
                raise Refusal(
                    RefusalKind.INVALID_ARGUMENT,
                    f"batch_id: this stream shows batch {batch_id}; open another for batch {window.batch_id}",
                )
            batch_id = window.batch_id
            batch = await self._visible.batch(batch_id)
            show: Show[JobsAt] = held.enter_context(
                self._shows.joined(
                    ("jobs", who, batch_id, window.text),
                    partial(self._feed.follow, batch=batch_id),
                    lambda following: Jobs(
                        self._store, self._visible, following, batch, window.query, window.text
                    ),
                )
            )
            return show, held.enter_context(show.looking(JobsAt(window.first, window.n), woken))

        async with _latest(windows) as latest, aclosing(_answers(latest, look)) as answers:
            async for answer in answers:
                yield answer

    async def job(self, batch_id: int, job_id: int) -> AsyncIterator[types_pb2.Job]:
        """One job with its spec and attempts, until it is complete. NOT_FOUND, also once it is deleted."""
        with self._feed.follow(batch=batch_id) as following:
            batch = await self._visible.batch_now(batch_id, following)
            spec: bytes | None = None
            sent: types_pb2.Job | None = None
            while True:
                looked_at = time.monotonic()
                job = await self._visible.job(batch_id, job_id)
                if spec is None:
                    spec = (await read(self._store.specs, [(batch_id, job_id)]))[batch_id, job_id]
                # Read after the job: of a complete one they are final.
                attempts = await read(self._store.attempts, batch_id, job_id)
                message = records.whole_job_message(job, spec, attempts)
                if message != sent:
                    yield message
                    sent = message
                if job.row.state.is_complete:
                    return
                concerned = False
                while not concerned or (pause := looked_at + EVERY_S - time.monotonic()) > 0:
                    news = await following.next(pause if concerned else None)
                    if news is not None:
                        batch = await self._visible.after(news, batch, following)
                        concerned |= may_concern(news, job_id)


# -- one stream --------------------------------------------------------------------------------------


class _Latest(Generic[W]):
    """The latest of what a client asks for."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._window: W | None = None
        self._failure: Exception | None = None
        self._tell: Callable[[], None] = self._arrived.set

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call this whenever another one arrived, or none will for a reason that `take` raises."""
        self._tell = tell
        if self.is_waiting():
            tell()

    async def first(self) -> W | None:
        """The first one, or what replaced it meanwhile; None when the client asks for nothing."""
        await self._arrived.wait()
        return self.take()

    def take(self) -> W | None:
        """The latest, once; None if it was taken."""
        if self._failure is not None:
            raise self._failure
        window, self._window = self._window, None
        return window

    def is_waiting(self) -> bool:
        """`take` has something to say."""
        return self._window is not None or self._failure is not None

    async def listen(self, windows: AsyncIterator[W]) -> None:
        try:
            async for window in windows:
                self._window = window
                self._tell()
        except Exception as failure:
            self._failure = failure
            self._tell()
        self._arrived.set()


@asynccontextmanager
async def _latest(windows: AsyncIterator[W]) -> AsyncIterator[_Latest[W]]:
    latest: _Latest[W] = _Latest()
    listening = asyncio.create_task(latest.listen(windows))
    try:
        yield latest
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


async def _answers(
    latest: _Latest[W], look: Callable[[W, ExitStack, asyncio.Event], Awaitable[Look]]
) -> AsyncGenerator[bytes, None]:
    """Never ends by itself. Empty: the stream is alive."""
    if (window := await latest.first()) is None:
        return
    woken = asyncio.Event()
    latest.on_change(woken.set)
    alive_until = time.monotonic() + ALIVE_EVERY_S
    with ExitStack() as held:
        while True:
            # Another position of the same show is looked at before the former is left: it goes on.
            with ExitStack() as next_held:
                show, page = await look(window, next_held, woken)
                held.close()
                held.push(next_held.pop_all())
            told, due = 0, time.monotonic()
            while (newer := latest.take()) is None:
                now = time.monotonic()
                if page.version > told and (now >= due or not told):
                    # In step with the versions, unless one that is due already was waiting.
                    due = (page.made_at if page.made_at >= due else now) + EVERY_S
                    message, told = page.since(told), page.version
                    yield message
                    alive_until = time.monotonic() + ALIVE_EVERY_S
                elif now >= alive_until:
                    yield b""
                    alive_until = time.monotonic() + ALIVE_EVERY_S
                else:
                    until = min(due, alive_until) if page.version > told else alive_until
                    await _woken(woken, until - now, show)
            window = newer


async def _woken(woken: asyncio.Event, pause: float | None, show: Show[Any]) -> None:
    """Something may be new, or so much time has passed. Raises why the show has ended."""
    if show.failure is None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await woken.wait()
        woken.clear()
    if show.failure is not None:
        raise show.failure.with_traceback(None)
