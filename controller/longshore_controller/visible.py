"""What the caller may see of batches and jobs, as it is and as it becomes.

Whatever is somebody else's is answered like what does not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

from longshore_controller.core.events import BatchDeleted, Event, JobsReady
from longshore_controller.core.model import Refusal, RefusalKind
from longshore_controller.core.reactor import Reactor
from longshore_controller.core.rows import BatchRow
from longshore_controller.engine import Engine
from longshore_controller.feed import Committed, Following, News, Reset
from longshore_controller.interceptors import May, note_batch, right, viewer
from longshore_controller.store import JobView, Store
from longshore_controller.wire.submission import MAX_JOBS

P = ParamSpec("P")
T = TypeVar("T")

MAX_ID = 2**63 - 1
"""Of what a database can look for."""


async def read(look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """In a thread: it waits for the database."""
    return await asyncio.to_thread(look, *args, **kwargs)


class Visible:
    """Every method refuses what the caller may not see with NOT_FOUND, and what they see and may not do, as
    the policy of the method that they called says, with PERMISSION_DENIED."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine

    async def batch(self, batch_id: int, *, with_deleted: bool = False) -> BatchRow:
        row = None
        note_batch(batch_id)
        if batch_id <= MAX_ID:
            row = await read(self._store.batch, batch_id, with_deleted=with_deleted)
        if row is None or not viewer().sees(row.user, row.billing_project):
            raise no_batch(batch_id)
        require(row)
        return row

    async def job(self, batch_id: int, job_id: int) -> JobView:
        batch = await self.batch(batch_id)
        job = await read(self._store.job, batch_id, job_id) if job_id <= MAX_JOBS else None
        if job is None:
            why = "" if batch.closed_at_ms is not None else ", whose jobs can be seen once it is closed"
            raise Refusal(RefusalKind.NOT_FOUND, f"there is no job {job_id} in batch {batch_id}{why}")
        return job

    async def news_of_before(self, following: Following) -> News:
        """News of all that may already have been read from rows; those that are still to come are later.

        Rows may hold what was committed and not published yet. When the engine answers, all that is; when
        it refuses, that never will be: a RESET is next.
        """
        with suppress(Refusal):
            await self._engine.look(lambda r: None)
        return await following.next(0)

    def job_states(self, batch_id: int) -> bytes | None:
        """See `Engine.job_states`."""
        return self._engine.job_states(batch_id)

    async def batch_now(self, batch_id: int, following: Following) -> BatchRow:
        """The batch as it is; news that are still to come are later than it."""
        row, seq = await self._batch_in_memory(batch_id)
        if row is None:
            row = await self.batch(batch_id)
            return await self.after(await self.news_of_before(following), row, following)
        if not viewer().sees(row.user, row.billing_project) or row.deleted_at_ms is not None:
            raise no_batch(batch_id)
        news = await following.next(0)
        later = [c for c in news if c.seq > seq] if isinstance(news, list) else news
        return await self.after(later, row, following)

    async def _batch_in_memory(self, batch_id: int) -> tuple[BatchRow | None, int]:
        """A batch that is not complete, as of the commit with that number."""

        def look(reactor: Reactor) -> BatchRow | None:
            batch = reactor.state.batches.get(batch_id)
            return batch.row() if batch is not None else None

        try:
            return await self._engine.look(look)
        except Refusal:  # There is no memory just now. Its row can still be read.
            return None, 0

    async def after(self, news: News, row: BatchRow, following: Following) -> BatchRow:
        """The batch after these news. NOT_FOUND when it was deleted."""
        if isinstance(news, Reset):
            return await self.batch_now(row.batch_id, following)
        for committed in news or ():
            row = batch_after(committed, row)
        return row


def batch_after(committed: Committed, row: BatchRow) -> BatchRow:
    """The batch after this commit. Refusal NOT_FOUND when it was deleted."""
    if any(isinstance(e, BatchDeleted) and e.batch_id == row.batch_id for e in committed.events):
        raise no_batch(row.batch_id)
    return committed.changes.batches.get(row.batch_id, row)


def require(row: BatchRow) -> None:
    """PERMISSION_DENIED unless the method that is being answered may be called for this batch, which the
    caller sees."""
    who, needed = viewer(), right()
    if needed is May.FILL and row.user != who.name:
        whose = f"batch {row.batch_id} is {row.user}'s, who alone may add jobs to it"
    elif needed is May.END and not who.ends(row.user, row.billing_project):
        whose = f"batch {row.batch_id} is {row.user}'s; ask them, or an owner of {row.billing_project}"
    else:
        return
    raise Refusal(RefusalKind.PERMISSION_DENIED, whose)


def no_batch(batch_id: int) -> Refusal:
    return Refusal(RefusalKind.NOT_FOUND, f"there is no batch {batch_id}")


def may_concern(news: News, job_id: int) -> bool:
    """Something may have become of this job of the batch that is followed."""
    return not isinstance(news, list) or any(_concerns(e, job_id) for c in news for e in c.events)


def _concerns(event: Event, job_id: int) -> bool:
    about = getattr(event, "job_id", None)
    return about == job_id if about is not None else not isinstance(event, JobsReady)
