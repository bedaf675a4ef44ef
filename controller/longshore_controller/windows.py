"""What windows show: which batches and jobs match a query, in order, and what becomes of them.

Rows are read when a page is new; otherwise they are kept up to date by the news, so that what an update
costs depends neither on how many jobs the batch has nor on how many people look. Where a filter by states
makes rows come and go, the page is read again from the index, once for all who look at it.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from longshore_controller.core.events import BatchDeleted, BatchUndeleted
from longshore_controller.core.model import STATE_MASK, JobState, Viewer
from longshore_controller.core.query import Query
from longshore_controller.core.rows import BatchRow, Changes
from longshore_controller.feed import RESET, Following, News
from longshore_controller.shows import Page
from longshore_controller.store import DEEP, Found, JobView, Store, item_of
from longshore_controller.visible import Visible, batch_after, read
from longshore_controller.wire import records

EVERY_S = 0.25
"""Between two answers on one stream, unless another window is asked for."""
BATCH_EVERY_S = 0.1
"""Between two snapshots of a batch whose counters change; a new state is told at once."""
SEARCH_S = 3.0
"""For looking at names one by one; then the answer says how far it came."""

BLOCK = 4_096
LOOKED_AGAIN = 200_000
"""Jobs with news, before all are searched anew."""
MANY = 256
"""Jobs that come into a list, or leave it, one by one; of more, the list is made anew."""


# -- one batch ---------------------------------------------------------------------------------------


class OneBatch:
    """A batch by itself; there is one position."""

    every_s = BATCH_EVERY_S

    def __init__(self, visible: Visible, following: Following, batch_id: int) -> None:
        self._visible = visible
        self._following = following
        self._batch_id = batch_id
        self._now: BatchRow | None = None
        """None: it is to be looked up."""
        self._shown: BatchRow | None = None
        self._page: Page[Any] = Page(_write_batch)

    @property
    def is_urgent(self) -> bool:
        return self._now is None or self._shown is None or _step(self._now) != _step(self._shown)

    def page(self, position: None) -> Page[Any]:
        return self._page

    def drop(self, position: None) -> None:
        pass  # With the whole show.

    def take_in(self, news: News) -> None:
        if news is RESET:
            self._now = None
        for committed in news if isinstance(news, list) else ():
            if self._now is not None:
                self._now = batch_after(committed, self._now)

    async def refresh(self, positions: Collection[None]) -> None:
        if self._now is None:
            self._now = await self._visible.batch_now(self._batch_id, self._following)
        self._shown = self._now
        self._page.hold(self._now, {}, over=self._now.completed_at_ms is not None)


def _write_batch(whole: bool, rows: list[Any], batch: Any) -> bytes:
    return records.batch_message(batch).SerializeToString()


def _step(row: BatchRow) -> tuple[object, ...]:
    return row.state, row.closed_at_ms, row.completed_at_ms, row.cancelled_at_ms


# -- batches -----------------------------------------------------------------------------------------


class BatchesAt(NamedTuple):
    first: int
    n: int
    anchor: int


class Batches:
    """The batches that somebody's query is about and that match it, newest first from an anchor on."""

    every_s = EVERY_S
    is_urgent = False

    def __init__(
        self, store: Store, visible: Visible, following: Following, viewer: Viewer, query: Query, text: str
    ) -> None:
        self._store = store
        self._visible = visible
        self._following = following
        self._viewer = viewer
        self._query = query
        self._text = text
        self._known = False
        """The ids are."""
        self._mine: array[int] = array("q")
        self._matching: array[int] = array("q")
        """Ids, ascending."""
        self._rows: dict[int, BatchRow] = {}
        self._pages: dict[BatchesAt, Page[Any]] = {}

    def page(self, position: BatchesAt) -> Page[Any]:
        page = self._pages[position] = Page(partial(self._write, position))
        return page

    def drop(self, position: BatchesAt) -> None:
        del self._pages[position]

    def take_in(self, news: News) -> None:
        if news is RESET:
            self._known = False
        for committed in news if isinstance(news, list) else ():
            for row in committed.changes.batches.values():
                if self._is_about(row):
                    self._update(row)
            for event in committed.events:
                if isinstance(event, BatchDeleted):
                    self._forget(event.batch_id)
                elif isinstance(event, BatchUndeleted):
                    self._known = False  # Its row is not among the changes if it is complete.

    async def refresh(self, positions: Collection[BatchesAt]) -> None:
        while True:
            if not self._known:
                self._known, self._rows = True, {}
                self._mine, self._matching = await read(self._store.batch_ids, self._viewer, self._query)
                self.take_in(await self._visible.news_of_before(self._following))
                continue
            pages = {at: page for at in positions if (page := self._pages.get(at)) is not None}
            ids = {at: self._ids(at) for at in pages}
            missing = set().union(*ids.values()) - self._rows.keys()
            if not missing:
                break
            rows = await read(self._store.batches_of, self._viewer, missing)
            self._rows |= {row.batch_id: row for row in rows}
            for batch_id in missing - self._rows.keys():
                self._forget(batch_id)
            self.take_in(await self._visible.news_of_before(self._following))
        for at, page in pages.items():
            n_matching = bisect_right(self._matching, at.anchor)
            head = n_matching, len(self._matching) - n_matching, len(self._mine)
            page.hold(head, {batch_id: self._rows[batch_id] for batch_id in ids[at]})
        if len(pages) == len(self._pages):
            shown = set().union(*ids.values())
            self._rows = {batch_id: row for batch_id, row in self._rows.items() if batch_id in shown}

    def _is_about(self, row: BatchRow) -> bool:
        if self._query.asks_owner:
            return self._viewer.sees(row.user, row.billing_project)
        return row.user == self._viewer.name

    def _ids(self, at: BatchesAt) -> list[int]:
        end = bisect_right(self._matching, at.anchor) - at.first
        return list(reversed(self._matching[max(0, end - at.n) : max(0, end)]))

    def _write(self, at: BatchesAt, whole: bool, rows: list[Any], head: Any) -> bytes:
        n_matching, n_newer, n_total = head
        return records.batches_view(
            rows,
            whole=whole,
            first=at.first,
            n_matching=n_matching,
            n_newer=n_newer,
            n_total=n_total,
            anchor_batch_id=at.anchor,
            query=self._text,
        )

    def _update(self, row: BatchRow) -> None:
        if row.deleted_at_ms is not None:
            self._forget(row.batch_id)
            return
        _include(self._mine, row.batch_id)
        if self._query.matches(item_of(row)):
            _include(self._matching, row.batch_id)
        else:
            _exclude(self._matching, row.batch_id)
        if row.batch_id in self._rows:
            self._rows[row.batch_id] = row

    def _forget(self, batch_id: int) -> None:
        _exclude(self._mine, batch_id)
        _exclude(self._matching, batch_id)
        self._rows.pop(batch_id, None)


def _is_in(ids: array[int], wanted: int) -> bool:
    at = bisect_left(ids, wanted)
    return at < len(ids) and ids[at] == wanted


def _include(ids: array[int], wanted: int) -> None:
    if not _is_in(ids, wanted):
        insort(ids, wanted)


def _exclude(ids: array[int], unwanted: int) -> None:
    if _is_in(ids, unwanted):
        del ids[bisect_left(ids, unwanted)]


# -- jobs --------------------------------------------------------------------------------------------


class JobsAt(NamedTuple):
    first: int
    n: int


class _JobsPage(Page[Any]):
    stale = True
    """To be read."""
    n_matching = 0

    def __init__(self, write: Callable[[bool, list[Any], object], bytes]) -> None:
        super().__init__(write)
        self.jobs: dict[int, JobView] = {}


class Jobs:
    """Those jobs of a batch that match a query, by id."""

    every_s = EVERY_S
    is_urgent = False

    def __init__(
        self,
        store: Store,
        visible: Visible,
        following: Following,
        batch: BatchRow,
        query: Query,
        text: str,
    ) -> None:
        self._store = store
        self._visible = visible
        self._following = following
        self._batch = batch
        self._query = query
        self._text = text
        self._selection: _Selection | None = None
        """None: it is to be made."""
        self._searched_to = 0
        """0: all names."""
        self._pages: dict[JobsAt, _JobsPage] = {}

    def page(self, position: JobsAt) -> Page[Any]:
        page = self._pages[position] = _JobsPage(partial(self._write, position))
        return page

    def drop(self, position: JobsAt) -> None:
        del self._pages[position]

    def take_in(self, news: News) -> None:
        if news is RESET:
            self._start_over()
        for committed in news if isinstance(news, list) else ():
            before, self._batch = self._batch, batch_after(committed, self._batch)
            was_closed, is_closed = before.closed_at_ms is not None, self._batch.closed_at_ms is not None
            if was_closed != is_closed or before.n_jobs != self._batch.n_jobs:
                self._start_over()
            if self._selection is None:
                continue
            if self._selection.take_in(committed.changes):
                for page in self._pages.values():
                    page.stale = True
            if isinstance(self._selection, _Found) and self._selection.is_outdated:
                self._start_over()
                continue
            if self._selection.in_place:
                for page in self._pages.values():
                    _update(page.jobs, self._batch.batch_id, committed.changes)

    async def refresh(self, positions: Collection[JobsAt]) -> None:
        while True:
            pages = {at: page for at in positions if (page := self._pages.get(at)) is not None}
            stale = {at: page for at, page in pages.items() if page.stale}
            if (selection := self._selection) is None:
                self._selection = await self._select()
                self.take_in(await self._visible.news_of_before(self._following))
                continue
            if not stale:
                break
            for at, page in stale.items():
                page.stale = False
                page.n_matching, jobs = await read(selection.page, at.first, at.n)
                page.jobs = {job.row.job_id: job for job in jobs}
            if selection.in_place:
                self.take_in(await self._visible.news_of_before(self._following))
        for page in pages.values():
            page.hold((self._batch, page.n_matching, self._searched_to), page.jobs.copy())

    def _start_over(self) -> None:
        self._selection = None
        for page in self._pages.values():
            page.stale = True

    def _write(self, at: JobsAt, whole: bool, rows: list[Any], head: Any) -> bytes:
        batch, n_matching, searched_to = head
        return records.jobs_view(
            batch,
            rows,
            whole=whole,
            first=at.first,
            n_matching=n_matching,
            query=self._text,
            n_searched=searched_to,
        )

    async def _select(self) -> _Selection:
        query = self._query
        batch = self._batch = await self._visible.batch(self._batch.batch_id)
        self._searched_to = 0
        if batch.closed_at_ms is None:
            return _Same(self._store, batch.batch_id, ())
        if not query.terms:
            return _Same(self._store, batch.batch_id, range(1, batch.n_jobs + 1))
        if query.asks_states_alone:
            return _InStates(self._store, batch.batch_id, query.job_states, self._visible.job_states)
        until = time.monotonic() + SEARCH_S

        def stop() -> bool:
            return time.monotonic() > until or not self._pages

        # What once matched the part that lasts is candidates; what else is asked for is asked again of each
        # job that changes.
        part = query.lasting if query.is_apart else query
        with_states = query.is_apart and "state" in query.asks
        found = await read(self._store.search_jobs, batch, part, with_states=with_states, stop=stop)
        if found.searched_to < batch.n_jobs:
            self._searched_to = found.searched_to
        if with_states:
            return _Candidates(self._store, batch.batch_id, found, query.job_states)
        if query.is_apart:
            return _Same(self._store, batch.batch_id, found.job_ids)
        return _Found(self._store, batch.batch_id, query, found)


class _Selection(Protocol):
    """Which jobs of a batch match."""

    in_place: bool
    """They are always the same: news change rows, but none comes or goes."""

    def page(self, first: int, n: int) -> tuple[int, list[JobView]]:
        """How many there are, and some of them. Waits for the database."""

    def take_in(self, changes: Changes) -> bool:
        """What they are; True: the page may be another one now."""


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
        # The counters do not tell failures from errors.
        far = first > DEEP or (JobState.FAILURE in self._states) != (JobState.ERROR in self._states)
        if far and (states := self._now(self._batch_id)) is not None:
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


class _Found:
    """Jobs that match as they are now: those of which there is news are looked at again."""

    in_place = False
    is_outdated = False
    """Too many have changed: to search anew takes a bounded time."""

    def __init__(self, store: Store, batch_id: int, query: Query, found: Found) -> None:
        self._store = store
        self._batch_id = batch_id
        self._query = query
        self._job_ids = found.job_ids
        self._searched_to = found.searched_to
        self._changed: set[int] = set()

    def page(self, first: int, n: int) -> tuple[int, list[JobView]]:
        if self._changed:
            self._look_again(sorted(self._changed))
            self._changed.clear()
        page = self._job_ids[first : first + n]
        return len(self._job_ids), self._store.jobs_of(self._batch_id, page)

    def _look_again(self, changed: list[int]) -> None:
        matching = set(self._store.jobs_among(self._batch_id, self._query, changed))
        differ = [job_id for job_id in changed if _is_in(self._job_ids, job_id) is not (job_id in matching)]
        if len(differ) > MANY:
            self._job_ids = array("I", sorted(set(self._job_ids) - set(differ) | matching))
            return
        for job_id in differ:
            (_include if job_id in matching else _exclude)(self._job_ids, job_id)

    def take_in(self, changes: Changes) -> bool:
        # Where the search ended, for lack of time, the list ends.
        changed = {j for b, j in changes.jobs if b == self._batch_id and j <= self._searched_to}
        of_ranges = [r for r in changes.job_ranges if r.batch_id == self._batch_id]
        n = len(self._changed) + len(changed) + sum(r.last - r.first + 1 for r in of_ranges)
        if n > LOOKED_AGAIN:
            self.is_outdated = True
            return True
        for r in of_ranges:
            changed.update(range(r.first, min(r.last, self._searched_to) + 1))
        self._changed |= changed
        return bool(changed)


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
