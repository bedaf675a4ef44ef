"""What people look at: windows of rows, whole at first, then what changed of them, while they look.

A stream is asked for one window after the other; the latest counts. It reads rows when the window moves
and otherwise keeps what it holds up to date by the news, so that what an update costs depends neither on
how many jobs the batch has nor on how many people look. Where a filter by states makes rows come and go,
the page is read again from the index, at most `EVERY_S` often.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Generic, Protocol, TypeVar

from longshore_api.v1 import batch_service_pb2, types_pb2

from longshore_controller.core.events import BatchDeleted
from longshore_controller.core.model import STATE_MASK, JobState, Refusal, RefusalKind
from longshore_controller.core.query import Query
from longshore_controller.core.rows import BatchRow, Changes
from longshore_controller.feed import RESET, Feed, Following
from longshore_controller.interceptors import caller
from longshore_controller.store import Found, JobView, Store, item_of
from longshore_controller.visible import News, Visible, batch_after, may_concern, read
from longshore_controller.wire import records
from longshore_controller.wire.submission import BatchesWindow, JobsWindow

EVERY_S = 0.25
"""Between two answers on one stream, unless another window is asked for."""
ALIVE_EVERY_S = 5.0
"""An empty message on a quiet stream."""
SEARCH_S = 3.0
"""For looking at names one by one; then the answer says how far it came."""

DEEP = 5_000
"""Rows that are counted along the index; beyond them memory knows faster which job stands where."""
BLOCK = 4_096

W = TypeVar("W")
W_contra = TypeVar("W_contra", contravariant=True)
M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
Interrupted = Callable[[], bool]


class Views:
    def __init__(self, store: Store, feed: Feed, visible: Visible) -> None:
        self._store = store
        self._visible = visible
        self._feed = feed

    async def batches(
        self, windows: AsyncIterator[BatchesWindow]
    ) -> AsyncIterator[batch_service_pb2.BatchesView]:
        """The caller's batches."""
        async with _latest(windows) as latest:
            if (window := await latest.first()) is None:
                return
            with self._feed.follow(user=caller()) as following:
                latest.on_change(following.wake)
                looking = _Batches(self._store, self._visible, following)
                async with aclosing(_answers(looking, window, latest, following)) as answers:
                    async for view in answers:
                        yield view or batch_service_pb2.BatchesView()

    async def jobs(self, windows: AsyncIterator[JobsWindow]) -> AsyncIterator[batch_service_pb2.JobsView]:
        """The jobs of the batch that the first window names. NOT_FOUND, also once it is deleted."""
        async with _latest(windows) as latest:
            if (window := await latest.first()) is None:
                return
            batch = await self._visible.batch(window.batch_id)
            with self._feed.follow(batch=window.batch_id) as following:
                latest.on_change(following.wake)
                looking = _Jobs(self._store, self._visible, following, batch)
                async with aclosing(_answers(looking, window, latest, following)) as answers:
                    async for view in answers:
                        yield view or batch_service_pb2.JobsView()

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


class _Looking(Protocol[W_contra, M_co]):
    """What one stream shows."""

    def turn_to(self, window: W_contra) -> None:
        """Another window; the next answer is whole."""

    def take_in(self, news: News) -> None:
        """Hold what became true. Refusal NOT_FOUND when there is nothing to be seen any more."""

    async def answer(self, interrupted: Interrupted) -> M_co | None:
        """What is not told yet; None: nothing. What is answered after an interruption counts for nothing."""


async def _answers(
    looking: _Looking[W, M], window: W | None, latest: _Latest[W], following: Following
) -> AsyncGenerator[M | None, None]:
    """Never ends by itself. None: the stream is alive."""
    sent_at = time.monotonic()
    while True:
        if window is not None:
            looking.turn_to(window)
        answer = await looking.answer(latest.is_waiting)
        looked_at = time.monotonic()
        if (window := latest.take()) is not None:
            continue
        if answer is not None or looked_at >= sent_at + ALIVE_EVERY_S:
            yield answer
            sent_at = time.monotonic()
        news = await following.next(max(0.0, sent_at + ALIVE_EVERY_S - time.monotonic()))
        while True:
            looking.take_in(news)
            window = latest.take()
            pause = looked_at + EVERY_S - time.monotonic()
            if window is not None or news is None or pause <= 0:
                break
            news = await following.next(pause)


# -- batches -----------------------------------------------------------------------------------------


class _Batches:
    def __init__(self, store: Store, visible: Visible, following: Following) -> None:
        self._store = store
        self._visible = visible
        self._following = following
        self._user = caller()
        self._window = BatchesWindow("", Query(), 0, 0, 0)
        self._query: Query | None = None
        """Whose answers are held; None: none are."""
        self._mine: array[int] = array("q")
        self._matching: array[int] = array("q")
        """Ids, ascending."""
        self._anchor = 0
        self._rows: dict[int, BatchRow] = {}
        self._told: tuple[int, ...] | None = None
        self._told_rows: dict[int, BatchRow] = {}

    def turn_to(self, window: BatchesWindow) -> None:
        self._window = window
        self._told = None

    def take_in(self, news: News) -> None:
        if news is RESET:
            self._query = None
        for committed in news if isinstance(news, list) else ():
            for row in committed.changes.batches.values():
                if row.user == self._user:
                    self._update(row)
            for event in committed.events:
                if isinstance(event, BatchDeleted):
                    self._forget(event.batch_id)

    async def answer(self, interrupted: Interrupted) -> batch_service_pb2.BatchesView | None:
        window = self._window
        if self._query != window.query:
            await self._load()
        if self._told is None:
            self._anchor = window.anchor_batch_id or (self._mine[-1] if self._mine else 0)
        ids = self._page()
        while missing := [batch_id for batch_id in ids if batch_id not in self._rows]:
            rows = await read(self._store.batches_of, self._user, missing)
            self._rows |= {row.batch_id: row for row in rows}
            for batch_id in set(missing) - self._rows.keys():
                self._forget(batch_id)
            self.take_in(await self._visible.news_of_before(self._following))
            if self._query is None:
                await self._load()
            ids = self._page()
        n_matching = bisect_right(self._matching, self._anchor)
        head = (n_matching, len(self._matching) - n_matching, len(self._mine))
        self._rows = rows_now = {batch_id: self._rows[batch_id] for batch_id in ids}
        whole = self._told is None or rows_now.keys() != self._told_rows.keys()
        changed = [row for i, row in rows_now.items() if whole or row != self._told_rows[i]]
        if not changed and not whole and head == self._told:
            return None
        self._told, self._told_rows = head, rows_now.copy()
        return batch_service_pb2.BatchesView(
            whole=whole,
            rows=map(records.batch_message, changed),
            first=window.first,
            n_matching=head[0],
            n_newer=head[1],
            n_total=head[2],
            anchor_batch_id=self._anchor,
            query=window.text,
        )

    async def _load(self) -> None:
        while self._query != self._window.query:
            self._query = self._window.query
            self._rows = {}
            self._mine, self._matching = await read(self._store.batch_ids, self._user, self._query)
            self.take_in(await self._visible.news_of_before(self._following))

    def _page(self) -> list[int]:
        end = bisect_right(self._matching, self._anchor) - self._window.first
        return list(reversed(self._matching[max(0, end - self._window.n) : max(0, end)]))

    def _update(self, row: BatchRow) -> None:
        if row.deleted_at_ms is not None:
            self._forget(row.batch_id)
            return
        _include(self._mine, row.batch_id)
        if self._query is not None and self._query.matches(item_of(row)):
            _include(self._matching, row.batch_id)
        else:
            _exclude(self._matching, row.batch_id)
        if row.batch_id in self._rows:
            self._rows[row.batch_id] = row

    def _forget(self, batch_id: int) -> None:
        _exclude(self._mine, batch_id)
        _exclude(self._matching, batch_id)
        self._rows.pop(batch_id, None)


def _include(ids: array[int], wanted: int) -> None:
    at = bisect_left(ids, wanted)
    if at == len(ids) or ids[at] != wanted:
        insort(ids, wanted)


def _exclude(ids: array[int], unwanted: int) -> None:
    at = bisect_left(ids, unwanted)
    if at < len(ids) and ids[at] == unwanted:
        del ids[at]


# -- jobs --------------------------------------------------------------------------------------------


class _Selection(Protocol):
    """Which jobs of a batch match."""

    in_place: bool
    """They are always the same: news change rows, but none comes or goes."""

    def page(self, first: int, n: int) -> tuple[int, list[JobView]]:
        """How many there are, and some of them. Waits for the database."""

    def take_in(self, changes: Changes) -> bool:
        """What they are; True: the page may be another one now."""


class _Jobs:
    def __init__(self, store: Store, visible: Visible, following: Following, batch: BatchRow) -> None:
        self._store = store
        self._visible = visible
        self._following = following
        self._batch = batch
        self._window = JobsWindow("", Query(), 0, 0, batch.batch_id)
        self._query: Query | None = None
        """Whose selection is held; None: none is."""
        self._selection: _Selection = _Same(store, batch.batch_id, ())
        self._searched_to = 0
        """0: all names."""
        self._stale = True
        """The page is to be read."""
        self._n_matching = 0
        self._rows: dict[int, JobView] = {}
        self._whole = True
        self._told: tuple[BatchRow, int] | None = None
        self._told_rows: dict[int, JobView] = {}

    def turn_to(self, window: JobsWindow) -> None:
        if window.batch_id != self._batch.batch_id:
            raise Refusal(
                RefusalKind.INVALID_ARGUMENT,
                f"batch_id: this stream shows batch {self._batch.batch_id}; "
                f"open another for batch {window.batch_id}",
            )
        self._window = window
        self._stale = self._whole = True

    def take_in(self, news: News) -> None:
        if news is RESET:
            self._query = None
            self._stale = True
        for committed in news if isinstance(news, list) else ():
            was_closed = self._batch.closed_at_ms is not None
            self._batch = batch_after(committed, self._batch)
            if not was_closed and self._batch.closed_at_ms is not None:
                self._query = None
                self._stale = True
            self._stale |= self._selection.take_in(committed.changes)
            if self._selection.in_place:
                _update(self._rows, self._batch.batch_id, committed.changes)

    async def answer(self, interrupted: Interrupted) -> batch_service_pb2.JobsView | None:
        while self._stale:
            if self._query != self._window.query:
                await self._select(interrupted)
                if interrupted():
                    return None
                self.take_in(await self._visible.news_of_before(self._following))
                continue
            self._stale = False
            window = self._window
            self._n_matching, jobs = await read(self._selection.page, window.first, window.n)
            self._rows = {job.row.job_id: job for job in jobs}
            if self._selection.in_place:
                self.take_in(await self._visible.news_of_before(self._following))
        whole = self._whole or self._rows.keys() != self._told_rows.keys()
        changed = [job for i, job in self._rows.items() if whole or job != self._told_rows[i]]
        head = self._batch, self._n_matching
        if not changed and not whole and head == self._told:
            return None
        self._told, self._told_rows, self._whole = head, self._rows.copy(), False
        return batch_service_pb2.JobsView(
            whole=whole,
            rows=map(records.job_message, changed),
            first=self._window.first,
            n_matching=self._n_matching,
            batch=records.batch_message(self._batch),
            query=self._window.text,
            n_searched=self._searched_to,
        )

    async def _select(self, interrupted: Interrupted) -> None:
        """Find what matches the window's query; after an interruption it is none yet."""
        query = self._window.query
        batch = self._batch = await self._visible.batch(self._batch.batch_id)
        self._searched_to = 0
        if batch.closed_at_ms is None:
            self._selection = _Same(self._store, batch.batch_id, ())
        elif not query.terms:
            self._selection = _Same(self._store, batch.batch_id, range(1, batch.n_jobs + 1))
        elif not query.asks_names:
            self._selection = _InStates(
                self._store, batch.batch_id, query.job_states, self._visible.job_states
            )
        else:
            until = time.monotonic() + SEARCH_S

            def stop() -> bool:
                return time.monotonic() > until or interrupted()

            found = await read(self._store.search_jobs, batch, query.of_names, stop=stop)
            if interrupted():
                self._query = None
                return
            if found.searched_to < batch.n_jobs:
                self._searched_to = found.searched_to
            if query.asks_states:
                self._selection = _Candidates(self._store, batch.batch_id, found, query.job_states)
            else:
                self._selection = _Same(self._store, batch.batch_id, found.job_ids)
        self._query = query


class _Same:
    """Jobs that match whatever becomes of them."""

    in_place = True

    def __init__(self, store: Store, batch_id: int, job_ids: Sequence[int]) -> None:
        self._store = store
        self._batch_id = batch_id
        self._job_ids = job_ids

    def page(self, first: int, n: int) -> tuple[int, list[JobView]]:
        page = self._job_ids[first : first + n]
        return len(self._job_ids), self._store.jobs_of(self._batch_id, page)

    def take_in(self, changes: Changes) -> bool:
        return False


class _InStates:
    """Jobs in certain states."""

    in_place = False

    def __init__(
        self,
        store: Store,
        batch_id: int,
        states: frozenset[JobState],
        now: Callable[[int], bytes | None],
    ) -> None:
        """``now``: bytes of `JobColumns.states` of a batch that memory holds."""
        self._store = store
        self._batch_id = batch_id
        self._states = states
        self._now = now
        self._mask = bytes((state & STATE_MASK) in states for state in range(256))

    def page(self, first: int, n: int) -> tuple[int, list[JobView]]:
        if first > DEEP and (states := self._now(self._batch_id)) is not None:
            n_matching, positions = _ones(states.translate(self._mask), first, n)
            jobs = self._store.jobs_of(self._batch_id, [at + 1 for at in positions])
            # Memory may be a commit ahead of the rows.
            return n_matching, [job for job in jobs if job.row.state in self._states]
        page = self._store.jobs_in(self._batch_id, self._states, first, n)
        return (page.n_matching, page.jobs) if page else (0, [])

    def take_in(self, changes: Changes) -> bool:
        return any(key[0] == self._batch_id for key in changes.jobs) or any(
            r.batch_id == self._batch_id for r in changes.job_ranges
        )


class _Candidates:
    """Jobs whose names match, while they are in certain states."""

    in_place = False

    def __init__(self, store: Store, batch_id: int, found: Found, states: frozenset[JobState]) -> None:
        self._store = store
        self._batch_id = batch_id
        self._job_ids = found.job_ids
        self._states = found.states
        self._wanted = states
        self._mask = bytes(state in states for state in range(256))

    def page(self, first: int, n: int) -> tuple[int, list[JobView]]:
        n_matching, positions = _ones(self._states.translate(self._mask), first, n)
        jobs = self._store.jobs_of(self._batch_id, [self._job_ids[at] for at in positions])
        # Rows may know more than the news so far.
        return n_matching, [job for job in jobs if job.row.state in self._wanted]

    def take_in(self, changes: Changes) -> bool:
        changed = False
        for r in changes.job_ranges:
            if r.batch_id == self._batch_id:
                begin, end = bisect_left(self._job_ids, r.first), bisect_right(self._job_ids, r.last)
                self._states[begin:end] = bytes([r.state]) * (end - begin)
                changed |= begin < end
        for (batch_id, job_id), row in changes.jobs.items():
            if batch_id == self._batch_id:
                at = bisect_left(self._job_ids, job_id)
                if at < len(self._job_ids) and self._job_ids[at] == job_id:
                    self._states[at] = row.state
                    changed = True
        return changed


def _ones(matches: bytes | bytearray, first: int, n: int) -> tuple[int, list[int]]:
    """How many 1s there are, and where those after the first ``first`` stand, ``n`` of them."""
    at, before = 0, 0
    while at < len(matches) and before + (here := matches.count(1, at, at + BLOCK)) <= first:
        before += here
        at += BLOCK
    found: list[int] = []
    at = matches.find(1, at) if at < len(matches) else -1
    while at >= 0 and len(found) < n:
        if before >= first:
            found.append(at)
        before += 1
        at = matches.find(1, at + 1)
    return matches.count(1), found


def _update(rows: dict[int, JobView], batch_id: int, changes: Changes) -> None:
    """Rows, by id, after a commit: ranges were written first."""
    ids = list(rows)
    for r in changes.job_ranges:
        if r.batch_id == batch_id:
            for job_id in ids[bisect_left(ids, r.first) : bisect_right(ids, r.last)]:
                row = rows[job_id].row._replace(state=r.state, reason=r.reason, ended_at_ms=r.ended_at_ms)
                rows[job_id] = rows[job_id].with_row(row)
    touched: Iterable[int]
    if len(changes.jobs) < len(ids):
        touched = [job_id for b, job_id in changes.jobs if b == batch_id and job_id in rows]
    else:
        touched = [job_id for job_id in ids if (batch_id, job_id) in changes.jobs]
    for job_id in touched:
        rows[job_id] = rows[job_id].with_row(changes.jobs[batch_id, job_id])
