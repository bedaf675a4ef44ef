"""The AsyncClient: every call of the service, for programs with an event loop.

Methods have the names and meanings of those of `Client` and its handles. What these return is awaited
here, and what these iterate over is iterated over with ``async for``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Self

from .admin import AsyncAdmin
from .billing import AsyncBilling
from .builder import AnyBuilder, AnyUpdate, Draft
from .calls import PAGE
from .checks import check_id
from .handles import AnyBatch, AnyJob, AnyLog
from .people import AsyncPeople
from .service import AnyClient
from .status import (
    AttemptStatus,
    BatchesView,
    BatchStatus,
    Events,
    FailureCounts,
    JobStatus,
    JobsView,
    LogChunk,
    Page,
    QueryCompletions,
    Reason,
    Session,
)
from .transport import AsyncTransport
from .windows import AnyWindow, View


class AsyncClient(AnyClient):
    """`Client` for programs with an event loop; use ``async with`` or `close`.

    One client may be used in one loop after another; each has a connection of its own. Cancelling a
    task cancels what it asked for, as far as that has no effect yet.

    >>> async def main():
    ...     async with hp.AsyncClient('my-project') as client:
    ...         builder = client.create_batch(name='hello')
    ...         job = builder.create_job(None, ['echo', 'hello'])
    ...         batch = await builder.submit()
    ...         async for line in job.log(follow=True):
    ...             print(line)
    ...         print((await batch.wait()).state)
    >>> import asyncio
    >>> asyncio.run(main())
    hello
    success
    """

    _transport = AsyncTransport

    async def close(self) -> None:
        """Hang up. Batches go on. May be called again; every other call is refused from then on."""
        await self._calls.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def admin(self) -> AsyncAdmin:
        """What admins may do: freeze the service, drain workers."""
        return AsyncAdmin(self._calls)

    @property
    def people(self) -> AsyncPeople:
        """My tokens; for admins users, and who did what."""
        return AsyncPeople(self._calls)

    @property
    def billing(self) -> AsyncBilling:
        """Who pays: billing projects with members and limits, costs, prices."""
        return AsyncBilling(self._calls)

    async def session(self) -> Session:
        """Who I am to the service, and what it is."""
        return await self._calls.session()

    def create_batch(
        self,
        attributes: Mapping[str, str] | None = None,
        *,
        name: str | None = None,
        billing_project: str | None = None,
        token: str | None = None,
        cancel_after_n_failures: int | None = None,
        callback: str | None = None,
    ) -> AsyncBatchBuilder:
        """A batch to add jobs to; see `Client.create_batch`. Asks nothing."""
        project = self._billing_project if billing_project is None else billing_project
        draft = Draft.of(project, attributes, name, token, cancel_after_n_failures, callback)
        return AsyncBatchBuilder(self, draft)

    async def get_batch(self, batch_id: int) -> AsyncBatch:
        """The handle of a batch. Raises NotFound."""
        batch = AsyncBatch(self, check_id("batch_id", batch_id))
        await batch.status()
        return batch

    async def list_batches(
        self, limit: int | None = None, query: str | None = None
    ) -> AsyncIterator[AsyncBatch]:
        """My batches, newest first; see `Client.list_batches`."""
        async for status in self._calls.batches(query, limit):
            yield AsyncBatch(self, status.id, last_status=status)

    async def page_of_batches(
        self, before: int | None = None, size: int = PAGE, query: str | None = None
    ) -> Page[BatchStatus]:
        """At most `size` of my batches, newest first: those older than the batch `before`, or the newest."""
        return await self._calls.page_of_batches(before, size, query)

    async def page_of_jobs(
        self,
        batch_id: int,
        after: int = 0,
        size: int = PAGE,
        states: Iterable[str] = (),
        query: str | None = None,
    ) -> Page[JobStatus]:
        """At most `size` jobs of a batch, by id, after the job `after`; only those in one of `states`."""
        return await self._calls.page_of_jobs(batch_id, after, size, query, states)

    async def failure_counts(self, batch_id: int) -> FailureCounts:
        """In which ways the jobs of a batch failed; see `Client.failure_counts`."""
        return await self._calls.failure_counts(batch_id)

    async def complete_query(
        self, text: str, cursor: int | None = None, batch_id: int | None = None
    ) -> QueryCompletions:
        """How a query may go on; see `Client.complete_query`."""
        return await self._calls.complete_query(text, cursor, batch_id)

    def watch_events(self, after_seq: int, batch_id: int | None = None) -> AsyncIterator[Events]:
        """What happens to my batches, or to one of them; see `Client.watch_events`."""
        return self._calls.watch_events(after_seq, batch_id)

    def watch_session(self) -> AsyncIterator[Session]:
        """Who I am to the service and what it is: now, when it changed, and every few seconds; never ends."""
        return self._calls.watch_session()

    def watch_batches(
        self, query: str | None = None, *, first: int = 0, n: int = 50, anchor: int = 0
    ) -> AsyncWindow[BatchesView]:
        """A window of my batches, newest first; see `Client.watch_batches`."""
        window = AsyncWindow(self._calls.window_of_batches(), of_batches=True)
        window.show(query=query, first=first, n=n, anchor=anchor)
        return window

    def watch_jobs(
        self, batch_id: int, query: str | None = None, *, first: int = 0, n: int = 50
    ) -> AsyncWindow[JobsView]:
        """A window of a batch's jobs, by id; see `Client.watch_jobs`."""
        window = AsyncWindow(self._calls.window_of_jobs(batch_id), of_batches=False)
        window.show(query=query, first=first, n=n)
        return window


class AsyncWindow(AnyWindow[View]):
    """A window of a list, see `Window`; iterate over it with ``async for``, all in one event loop."""

    def __aiter__(self) -> AsyncIterator[View]:
        return self._asking.answers()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


class AsyncBatch(AnyBatch):
    """A batch at the service, see `Batch`; whatever asks the service is awaited."""

    _word = "AsyncBatch"

    async def status(self) -> BatchStatus:
        """The batch now. Raises NotFound, also when it was deleted."""
        return await self._ask_status()

    def watch(self, timeout: float | None = None) -> AsyncIterator[BatchStatus]:
        """The batch now, and again whenever it changed, until it is complete; see `Batch.watch`."""
        return self._watch(timeout)

    async def wait(self, timeout: float | None = None, *, check: bool | None = None) -> BatchStatus:
        """Wait until every job is complete; the batch's last status.

        With `check` raises BatchFailedError for a batch that did not succeed. Raises WaitTimeout after
        `timeout` seconds; the batch goes on then.
        """
        return await self._wait(timeout, check)

    async def jobs(self, query: str | None = None, *, states: Iterable[str] = ()) -> AsyncIterator[AsyncJob]:
        """Jobs by id, each with its `last_status`: all, or those that match; see `Batch.jobs`."""
        async for status in self._calls.jobs(self.id, query, states):
            yield AsyncJob(self, status.job_id, last_status=status)

    def job(self, job_id: int) -> AsyncJob:
        """The handle of one job; whether it exists shows when something is asked of it."""
        return AsyncJob(self, job_id)

    async def why(self) -> tuple[Reason, ...]:
        """Why jobs of it do not run, or how it ended; see `Batch.why`."""
        return await self._calls.explain(self.id, 0)

    async def rerun(
        self, changes: Mapping[str, Any] | None = None, *, name: str | None = None, token: str | None = None
    ) -> AsyncBatch:
        """A new batch of the jobs that failed and what was cancelled because of them; see `Batch.rerun`."""
        builder = AsyncBatchBuilder(self._connected(), await self._rerun_draft(name, token))
        builder.add_jobs((await self._rerun_plan(changes or {})).jobs)
        return await builder.submit()

    async def update(self, token: str | None = None) -> AsyncUpdate:
        """More jobs for this batch, added at `submit`; see `Batch.update`."""
        return AsyncUpdate(self._connected(), self, (await self.status()).n_jobs, token)

    async def cancel(self, reason: str | None = None) -> None:
        """Start no more of its jobs, but for always_run ones, and stop the running. May be repeated."""
        await self._calls.cancel(self.id, reason)

    async def delete(self) -> None:
        """Hide it everywhere; cancels it when it is unfinished. It is still billed. May be repeated."""
        await self._calls.delete(self.id)

    async def undelete(self) -> None:
        """Show it again. What was cancelled when it was deleted stays cancelled. May be repeated."""
        await self._calls.undelete(self.id)


class AsyncJob(AnyJob):
    """A job of a batch, see `Job`; whatever asks the service is awaited."""

    def __init__(self, batch: AsyncBatch, job_id: int, last_status: JobStatus | None = None) -> None:
        super().__init__(batch, job_id, last_status)
        self._batch = batch

    @property
    def batch(self) -> AsyncBatch:
        """The batch that it belongs to."""
        return self._batch

    async def status(self) -> JobStatus:
        """The job now, with its spec and attempts. Raises NotFound."""
        return await self._ask_status()

    def watch(self, timeout: float | None = None) -> AsyncIterator[JobStatus]:
        """The job now, and again whenever it changed, until it is complete; see `Job.watch`."""
        return self._watch(timeout)

    async def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until the job is complete. Raises WaitTimeout after `timeout` seconds."""
        return await self._wait(timeout)

    async def why(self) -> Reason:
        """Why it does not run, or how it ended; see `Job.why`."""
        return (await self._of._calls.explain(self._of.id, self._job_id))[0]

    async def end_attempt(
        self, attempt_id: str | None = None, reason: str | None = None
    ) -> AttemptStatus | None:
        """End an attempt that is stuck; the job is tried again; see `Job.end_attempt`."""
        return await self._end_attempt(attempt_id, reason)

    async def attempts(self) -> tuple[AttemptStatus, ...]:
        """Its attempts, oldest first."""
        return (await self.status()).attempts

    async def attributes(self) -> Mapping[str, str]:
        """What `create_job` or `new_task` was given."""
        return (await self.status()).attributes

    def log(
        self, container: str | None = None, attempt: int | str | None = None, *, follow: bool = False
    ) -> AsyncLog:
        """The log of a container; see `Job.log`. Asks nothing."""
        return AsyncLog(self, "main" if container is None else container, attempt, follow)


class AsyncLog(AnyLog):
    """What one container of one attempt wrote, see `Log`; ``async for`` gives its lines."""

    def chunks(
        self,
        offset: int = 0,
        limit: int | None = None,
        *,
        tail_bytes: int = 0,
        follow: bool | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[LogChunk]:
        """Pieces of at most 64 KiB from `offset`, at most `limit` bytes together; see `Log.chunks`."""
        return self._chunks(offset, limit, tail_bytes=tail_bytes, follow=follow, timeout=timeout)

    async def read(self, offset: int = 0, limit: int | None = None) -> bytes:
        """The bytes that are there now; of a log that is followed, all until its end."""
        return await self._read(offset, limit)

    async def text(self) -> str:
        """What `read` gives, as UTF-8; what is none is replaced."""
        return (await self.read()).decode(errors="replace")

    async def tail(self, n: int = 20, *, follow: bool | None = None, timeout: float | None = None) -> str:
        """The last `n` lines, of at most 64 KiB; with `follow` those before the container's end."""
        return await self._tail(n, follow, timeout)

    async def find(self, text: str, offset: int = 0, *, backward: bool = False) -> int | None:
        """The offset of the next line that holds `text`, or of the last before `offset`; see `Log.find`."""
        return await self._find(text, offset, backward)

    def __aiter__(self) -> AsyncIterator[str]:
        """Its lines, without what ends them, as they come; one of over a MiB comes in pieces."""
        return self._lines()


class AsyncBatchBuilder(AnyBuilder[AsyncJob]):
    """A batch that is put together job by job, see `BatchBuilder`; `submit` is awaited."""

    _batch: AsyncBatch

    def __init__(self, client: AsyncClient, draft: Draft) -> None:
        super().__init__(client, draft, AsyncBatch(client, None))

    async def submit(self, on_progress: Callable[[int], None] | None = None) -> AsyncBatch:
        """Send everything; the jobs run from then on; see `BatchBuilder.submit`."""
        await self._submit(on_progress)
        return self._batch

    def _handle(self, job_id: int) -> AsyncJob:
        return AsyncJob(self._batch, job_id)


class AsyncUpdate(AnyUpdate[AsyncJob]):
    """Jobs that are added to a batch, see `Update`; `submit` is awaited."""

    _batch: AsyncBatch

    async def submit(self, on_progress: Callable[[int], None] | None = None) -> AsyncBatch:
        """Send the jobs; they run from then on; see `Update.submit`."""
        await self._submit(on_progress)
        return self._batch

    def _handle(self, job_id: int) -> AsyncJob:
        return AsyncJob(self._batch, job_id)
