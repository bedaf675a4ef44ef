"""What can be asked of a service, each answer in our own values: written once, for both clients.

Every call may be repeated without a second effect (see batch_service.proto), so that trouble with the
network is met in one way: do it again, with `backoff`, for `retry_s` seconds of trouble in a row.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
from longshore_api.v1 import auth_service_pb2, batch_service_pb2

from . import wire
from .checks import check_text
from .errors import BatchError, UsageError, WaitTimeout, error_of_code
from .status import (
    BatchesView,
    BatchStatus,
    Events,
    FailureCounts,
    JobSpec,
    JobStatus,
    JobsView,
    LogChunk,
    Page,
    QueryCompletions,
    Reason,
    Session,
)
from .transport import Stream, Transport

if TYPE_CHECKING:
    from .builder import Draft

Value = TypeVar("Value")

_log = logging.getLogger(__name__)

_CALL_S = 30.0
"""A call without an answer for so long is made again."""
_SUBMIT_S = 120.0
_DISCARD_S = 5.0
PAGE = 1000
_BUNCH_JOBS = 1000
_BUNCH_BYTES = 3_500_000
_STREAM_BUNCHES = 32
"""Bunches of one stream: what has to be sent again when it breaks."""
_LARGEST_JOB = 15_000_000
_REQUEST_ID = "longshore-request-id"
"""What the service calls a request, in the last metadata of its answer."""

# CANCELLED comes from a server that stops: this client cancels nothing that it waits for.
_TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds to wait before repeating for the `attempt`-th time (0, 1, 2 …): random, up to 5."""
    return rng.uniform(0, min(5.0, 0.1 * 2 ** min(attempt, 10)))


class Calls:
    """The service at the other end of a transport. Every error is a `BatchError`."""

    def __init__(self, transport: Transport[Any], retry_s: float) -> None:
        self.transport = transport
        self.retry_s = retry_s

    @property
    def endpoint(self) -> str:
        return self.transport.address.endpoint

    async def session(self) -> Session:
        return wire.session(await self._ask("GetSession", auth_service_pb2.GetSessionRequest()))

    async def page_of_batches(self, before: int | None, size: int, query: str | None) -> Page[BatchStatus]:
        request = batch_service_pb2.ListBatchesRequest(
            page_size=size, before_batch_id=before or 0, query=check_text("query", query or "")
        )
        page = await self._ask("ListBatches", request)
        return Page(tuple(map(wire.batch_status, page.batches)), page.more, page.seq)

    async def batches(self, query: str | None, limit: int | None) -> AsyncGenerator[BatchStatus, None]:
        """Newest first, page by page; no page is larger than what is wanted."""
        before: int | None = None
        left = limit
        while left is None or left > 0:
            page = await self.page_of_batches(before, PAGE if left is None else min(left, PAGE), query)
            for status in page.rows:
                yield status
            if not page.more or not page.rows:
                return
            before = page.rows[-1].id
            if left is not None:
                left -= len(page.rows)

    async def page_of_jobs(
        self,
        batch_id: int,
        after: int,
        size: int,
        query: str | None,
        states: Iterable[str],
        *,
        with_spec: bool = False,
    ) -> Page[JobStatus]:
        request = batch_service_pb2.ListJobsRequest(
            batch_id=batch_id,
            page_size=size,
            after_job_id=after,
            states=[_number("state", state, wire.JOB_STATES) for state in states],  # type: ignore[misc]
            query=check_text("query", query or ""),
            with_spec=with_spec,
        )
        page = await self._ask("ListJobs", request)
        return Page(tuple(map(wire.job_status, page.jobs)), page.more, page.seq)

    async def jobs(
        self, batch_id: int, query: str | None, states: Iterable[str], *, with_spec: bool = False
    ) -> AsyncGenerator[JobStatus, None]:
        wanted = [states] if isinstance(states, str) else list(states)
        after = 0
        while True:
            page = await self.page_of_jobs(batch_id, after, PAGE, query, wanted, with_spec=with_spec)
            for status in page.rows:
                yield status
            if not page.more or not page.rows:
                return
            after = page.rows[-1].job_id

    async def failure_counts(self, batch_id: int) -> FailureCounts:
        request = batch_service_pb2.FailureGroupsRequest(batch_id=batch_id)
        return wire.failure_counts(await self._ask("FailureGroups", request))

    async def complete_query(self, text: str, cursor: int | None, batch_id: int | None) -> QueryCompletions:
        at = len(text) if cursor is None else cursor
        request = batch_service_pb2.CompleteQueryRequest(
            text=check_text("text", text), cursor=at, batch_id=batch_id or 0
        )
        return wire.query_completions(await self._ask("CompleteQuery", request))

    async def create(
        self,
        request_id: str,
        draft: Draft,
        jobs: Sequence[JobSpec],
        *,
        keep: bool,
    ) -> tuple[int, bool]:
        """The batch's id, and whether it runs: a few jobs go with it, else `fill` has to follow.

        ``keep``: whoever interrupts this will ask for the same batch again.
        """
        request = batch_service_pb2.CreateBatchRequest(
            request_id=request_id,
            billing_project=draft.billing_project,
            n_jobs=len(jobs),
            attributes=draft.attributes,
            cancel_after_n_failures=draft.cancel_after_n_failures,
            callback=draft.callback,
            rerun_of=draft.rerun_of,
        )
        if 0 < len(jobs) <= _BUNCH_JOBS:
            bunch = next(_bunches(0, jobs, 0))
            if len(bunch.jobs) == len(jobs):
                request.jobs.extend(bunch.jobs)
        try:
            answer = await self._ask("CreateBatch", request, _SUBMIT_S)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if request.jobs and not keep:  # It may run already, and nobody knows its number.
                with suppress(grpc.RpcError, UsageError):
                    again = await self.transport.call("CreateBatch", request, _DISCARD_S)
                    await self.discard(again.batch_id)
            raise
        return int(answer.batch_id), bool(request.jobs)

    async def fill(
        self, batch_id: int, jobs: Sequence[JobSpec], on_progress: Callable[[int], None] | None
    ) -> None:
        """Send all jobs, and let them run."""
        n_sent = 0
        while n_sent < len(jobs):
            stream = _Bunches(batch_id, jobs, n_sent)
            try:
                await self._ask("SubmitJobs", stream, _SUBMIT_S)
            finally:
                stream.raise_error()
            n_sent = stream.end
            if on_progress:
                on_progress(n_sent)
        await self._ask("CloseBatch", batch_service_pb2.CloseBatchRequest(batch_id=batch_id))

    async def discard(self, batch_id: int) -> None:
        """Delete a batch that nobody will close, if that can be done at once."""
        request = batch_service_pb2.DeleteBatchRequest(batch_id=batch_id)
        with suppress(grpc.RpcError, UsageError):  # UsageError: it is closed.
            await self.transport.call("DeleteBatch", request, _DISCARD_S)

    async def batch_status(self, batch_id: int) -> BatchStatus:
        request = batch_service_pb2.GetBatchRequest(batch_id=batch_id)
        return wire.batch_status(await self._ask("GetBatch", request))

    async def watch_batch(self, batch_id: int, timeout: float | None) -> AsyncGenerator[BatchStatus, None]:
        """The batch now and whenever it changed, until it is complete. Raises WaitTimeout."""
        request = batch_service_pb2.WatchBatchRequest(batch_id=batch_id)
        async with aclosing(self._stream("WatchBatch", request, wire.batch_status, timeout)) as statuses:
            async for status in statuses:
                yield status
                if status.complete:
                    return

    async def update(
        self,
        batch_id: int,
        request_id: str,
        first_job_id: int,
        jobs: Sequence[JobSpec],
        on_progress: Callable[[int], None] | None,
    ) -> None:
        """Add the jobs, as many at a time as fit into a message; each time all or none."""
        for i, bunch in enumerate(_bunches(batch_id, jobs, 0, first_job_id)):
            request = batch_service_pb2.UpdateBatchRequest(
                batch_id=batch_id,
                request_id=f"{request_id}/{i}",
                first_job_id=bunch.first_job_id,
                jobs=bunch.jobs,
            )
            answer = await self._ask("UpdateBatch", request, _SUBMIT_S)
            if on_progress:
                on_progress(answer.n_jobs - first_job_id + 1)

    async def cancel(self, batch_id: int, reason: str | None) -> None:
        text = check_text("reason", reason or "")
        await self._ask("CancelBatch", batch_service_pb2.CancelBatchRequest(batch_id=batch_id, reason=text))

    async def delete(self, batch_id: int) -> None:
        await self._ask("DeleteBatch", batch_service_pb2.DeleteBatchRequest(batch_id=batch_id))

    async def undelete(self, batch_id: int) -> None:
        await self._ask("UndeleteBatch", batch_service_pb2.UndeleteBatchRequest(batch_id=batch_id))

    async def end_attempt(self, batch_id: int, job_id: int, attempt_id: str, reason: str | None) -> None:
        request = batch_service_pb2.EndAttemptRequest(
            batch_id=batch_id,
            job_id=job_id,
            attempt_id=check_text("attempt_id", attempt_id),
            reason=check_text("reason", reason or ""),
        )
        await self._ask("EndAttempt", request)

    async def job_status(self, batch_id: int, job_id: int) -> JobStatus:
        request = batch_service_pb2.GetJobRequest(batch_id=batch_id, job_id=job_id)
        return wire.job_status(await self._ask("GetJob", request))

    async def explain(self, batch_id: int, job_id: int) -> tuple[Reason, ...]:
        """Of a job, or with 0 of the batch."""
        request = batch_service_pb2.ExplainRequest(batch_id=batch_id, job_id=job_id)
        answer = await self._ask("Explain", request)
        return tuple(map(wire.reason, answer.reasons))

    async def log_chunks(
        self,
        batch_id: int,
        job_id: int,
        container: str,
        attempt_id: str,
        *,
        offset: int,
        limit: int | None,
        tail_bytes: int,
        follow: bool,
        timeout: float | None,
    ) -> AsyncGenerator[LogChunk, None]:
        """A log from an offset, or its tail; goes on where it was after trouble. Raises WaitTimeout."""
        request = batch_service_pb2.ReadLogRequest(
            batch_id=batch_id,
            job_id=job_id,
            attempt_id=attempt_id,
            container=_number("container", container, wire.CONTAINERS),  # type: ignore[arg-type]
            offset=offset,
            limit=limit or 0,
            follow=follow,
            tail_bytes=tail_bytes,
        )
        if limit == 0:
            return
        async with aclosing(self._stream("ReadLog", request, wire.log_chunk, timeout)) as chunks:
            async for chunk in chunks:
                if chunk.data:
                    request.offset = chunk.offset + len(chunk.data)
                    request.limit = max(0, request.limit - len(chunk.data))
                    request.tail_bytes = 0
                yield chunk
                if chunk.end or (limit and request.limit == 0):
                    return

    async def find_in_log(
        self,
        batch_id: int,
        job_id: int,
        container: str,
        attempt_id: str,
        text: str,
        *,
        offset: int,
        backward: bool,
    ) -> int | None:
        """Where the next line begins that holds the text."""
        request = batch_service_pb2.SearchLogRequest(
            batch_id=batch_id,
            job_id=job_id,
            attempt_id=attempt_id,
            container=_number("container", container, wire.CONTAINERS),  # type: ignore[arg-type]
            text=text,
            offset=offset,
            backward=backward,
        )
        while True:
            found = await self._ask("SearchLog", request)
            if found.HasField("line_offset"):
                return int(found.line_offset)
            if found.end:
                return None
            request.offset = found.searched_to

    async def watch_events(self, after_seq: int, batch_id: int | None) -> AsyncGenerator[Events, None]:
        request = batch_service_pb2.WatchEventsRequest(after_seq=after_seq, batch_id=batch_id or 0)
        async with aclosing(self._stream("WatchEvents", request, wire.events, None)) as stream:
            async for events in stream:
                request.after_seq = events.seq
                yield events

    async def watch_session(self) -> AsyncGenerator[Session, None]:
        request = auth_service_pb2.GetSessionRequest()
        async with aclosing(self._stream("WatchSession", request, wire.session, None)) as sessions:
            async for session in sessions:
                yield session

    async def watch_job(
        self, batch_id: int, job_id: int, timeout: float | None
    ) -> AsyncGenerator[JobStatus, None]:
        """The job now and whenever it changed, until it is complete. Raises WaitTimeout."""
        request = batch_service_pb2.WatchJobRequest(batch_id=batch_id, job_id=job_id)
        async with aclosing(self._stream("WatchJob", request, wire.job_status, timeout)) as statuses:
            async for status in statuses:
                yield status
                if status.complete:
                    return

    def window_of_batches(self) -> Asking[BatchesView]:
        return Asking(self, "WatchBatches", batch_service_pb2.BatchesWindow(), wire.batches_view)

    def window_of_jobs(self, batch_id: int) -> Asking[JobsView]:
        request = batch_service_pb2.JobsWindow(batch_id=batch_id)
        return Asking(self, "WatchJobs", request, wire.jobs_view)

    async def _ask(self, rpc: str, request: Any, timeout: float = _CALL_S) -> Any:
        """What the service answers, in the end."""
        trouble = _Trouble(self)
        while True:
            try:
                return await self.transport.call(rpc, request, timeout)
            except grpc.RpcError as error:
                await trouble.wait(error)

    async def _stream(
        self, rpc: str, request: Any, read: Callable[[Any], Value], timeout: float | None
    ) -> AsyncGenerator[Value, None]:
        """Answers, again and again: a stream that ends was cut off, and `request` is sent as it is then."""

        def ask(remaining: float | None) -> Stream:
            return self.transport.stream(rpc, request, remaining)

        async with aclosing(self._streams(ask, read, timeout)) as values:
            async for value in values:
                yield value

    async def _streams(
        self,
        ask: Callable[[float | None], Stream | None],
        read: Callable[[Any], Value],
        timeout: float | None,
    ) -> AsyncGenerator[Value, None]:
        """What one stream after another brings, until `ask` has none more."""
        end = None if timeout is None else time.monotonic() + timeout
        trouble = _Trouble(self)
        while True:
            cut: grpc.RpcError | None = None
            remaining = None if end is None else max(0.0, end - time.monotonic())
            stream = ask(remaining)
            if stream is None:
                return
            try:
                while (message := await stream.read()) is not None:
                    trouble = _Trouble(self)
                    yield read(message)
            except grpc.RpcError as error:
                cut = error
            finally:
                given_up = stream.cancelled
                stream.cancel()
            if given_up:
                return
            if end is not None and time.monotonic() >= end:
                raise WaitTimeout(f"not complete after {timeout:g} s") from cut
            await trouble.wait(cut, until=end)


class Asking(Generic[Value]):
    """Answers to a request that may be replaced at any time, by any thread of a blocking client."""

    def __init__(self, calls: Calls, rpc: str, request: Any, read: Callable[[Any], Value]) -> None:
        self._calls = calls
        self._rpc = rpc
        self._request = request
        self._read = read
        self._stream: Stream | None = None
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, **changes: Any) -> None:
        """The same with these fields changed; what is None stays."""
        with self._lock:
            request = type(self._request)()
            request.CopyFrom(self._request)
            for name, value in changes.items():
                if value is not None:
                    setattr(request, name, value)
            self._request = request
            if self._stream:
                self._stream.send(request)

    def close(self) -> None:
        """Want no more answers. May be called again."""
        with self._lock:
            self._closed = True
            if self._stream:
                self._stream.cancel()

    async def answers(self) -> AsyncGenerator[Value, None]:
        """To the latest request, whole after every connection; until `close`."""
        async with aclosing(self._calls._streams(self._open, self._read, None)) as values:
            async for value in values:
                yield value

    def _open(self, remaining: float | None) -> Stream | None:
        with self._lock:
            if self._closed:
                return None
            transport = self._calls.transport
            self._stream = transport.stream(self._rpc, self._request, remaining, several=True)
            return self._stream


class _Trouble:
    """One call's failures in a row."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._rng = random.Random()
        self._attempt = 0
        self._started = 0.0

    async def wait(self, error: grpc.RpcError | None, until: float | None = None) -> None:
        """Return when it is time to try again; raise the error, as ours, when it makes no sense."""
        transport, for_s = self._calls.transport, self._calls.retry_s
        transport.check_open()  # Closing it is what makes calls fail.
        now = time.monotonic()
        if self._attempt == 0:
            self._started = now
        if error is not None and (error.code() not in _TRANSIENT or now - self._started >= for_s):
            raise _ours(error, transport.address.endpoint) from error
        if self._attempt == 4:
            _log.warning("%s does not answer; trying again for up to %g s", self._calls.endpoint, for_s)
        delay = backoff(self._attempt, self._rng)
        await transport.sleep(delay if until is None else max(0.0, min(delay, until - now)))
        self._attempt += 1
        transport.find_again()


def _ours(error: grpc.RpcError, endpoint: str) -> BatchError:
    code, details = error.code(), error.details() or ""
    if code in _TRANSIENT:
        details = f"the service at {endpoint} does not answer ({details})"
    metadata: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    request_id = dict(metadata).get(_REQUEST_ID, "")
    if isinstance(request_id, bytes):
        request_id = request_id.decode(errors="replace")
    return error_of_code(code.name.lower(), details, request_id)


class _Bunches:
    """One stream's messages, made while earlier ones are on their way; and again when it is sent again."""

    def __init__(self, batch_id: int, jobs: Sequence[JobSpec], start: int) -> None:
        self._batch_id = batch_id
        self._jobs = jobs
        self._start = start
        self.end = start
        """How many jobs were made messages of, with those before."""
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[batch_service_pb2.SubmitJobsRequest]:
        try:
            for bunch in islice(_bunches(self._batch_id, self._jobs, self._start), _STREAM_BUNCHES):
                # An earlier stream that broke may still be making its last one: they are all the same.
                self.end = max(self.end, bunch.first_job_id - 1 + len(bunch.jobs))
                yield bunch
        except Exception as error:  # Whoever sends this would only say that something failed.
            self._error = error

    def raise_error(self) -> None:
        """Why a job could not be sent, if one could not be."""
        if self._error is not None:
            raise self._error


def _bunches(
    batch_id: int, jobs: Sequence[JobSpec], start: int, first_job_id: int = 1
) -> Iterator[batch_service_pb2.SubmitJobsRequest]:
    """Jobs, but for the first `start`, in messages bounded by number and size."""
    first_job_id += start
    bunch = batch_service_pb2.SubmitJobsRequest(batch_id=batch_id, first_job_id=first_job_id)
    size = 0
    for job_id, spec in enumerate(islice(jobs, start, None), first_job_id):
        message = bunch.jobs.add()
        wire.write_job_spec(spec, message)
        n_bytes = message.ByteSize()
        if n_bytes > _LARGEST_JOB:
            raise UsageError(
                f"job {job_id} {spec.name!r} is {n_bytes:,} bytes long; at most {_LARGEST_JOB:,} can be sent",
                hint="fewer files, or a shorter command",
            )
        size += n_bytes
        if len(bunch.jobs) > _BUNCH_JOBS or (size > _BUNCH_BYTES and len(bunch.jobs) > 1):
            last = bunch.jobs.pop()
            yield bunch
            bunch = batch_service_pb2.SubmitJobsRequest(batch_id=batch_id, first_job_id=job_id, jobs=[last])
            size = n_bytes
    if bunch.jobs:
        yield bunch


def _number(what: str, word: str, numbers: Mapping[str, int]) -> int:
    if word not in numbers:
        raise UsageError(f"{what} {word!r} is not one of {', '.join(numbers)}")
    return numbers[word]
