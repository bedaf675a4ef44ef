"""The Client: every call of the service, repeated until it is answered, in our own values.

Every call may be repeated without a second effect (see batch_service.proto), so that trouble with the
network is met in one way: do it again, with `backoff`, for `retry_s` seconds of trouble in a row.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Self, TypeVar

import grpc
from longshore_api.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    batch_service_pb2,
    batch_service_pb2_grpc,
)

from . import wire
from .checks import check_attributes, check_text
from .discovery import ServiceAddress, find_service, read_service_file
from .errors import BatchError, UsageError, WaitTimeout, WrongType, error_of_code
from .handles import Batch, BatchBuilder, Job
from .status import BatchStatus, Events, JobSpec, JobStatus, LogChunk, Page, Session

Request = TypeVar("Request")
Response = TypeVar("Response")

_log = logging.getLogger(__name__)

_CALL_S = 30.0
"""A call without an answer for so long is made again."""
_SUBMIT_S = 120.0
_DISCARD_S = 5.0
_PAGE = 1000
_BUNCH_JOBS = 1000
_BUNCH_BYTES = 3_500_000
_STREAM_BUNCHES = 16
"""Bunches of one stream: what has to be sent again when it breaks."""
_LARGEST_JOB = 15_000_000

_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

# CANCELLED comes from a server that stops: this client cancels nothing that it waits for.
_TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds to wait before repeating for the `attempt`-th time (0, 1, 2 …): random, up to 5."""
    return rng.uniform(0, min(5.0, 0.1 * 2 ** min(attempt, 10)))


class Client:
    """A connection to a service. Safe to use from several threads; use ``with`` or `close`.

    Parameters
    ----------
    billing_project : pays for batches that are created; not needed to look at any.
    endpoint, token : the service; without them LONGSHORE_ENDPOINT and LONGSHORE_TOKEN, then the
        service that `longshore up` runs on this machine, also when it has come back elsewhere.
    retry_s : for how many seconds of trouble in a row a call is repeated.

    Raises Unavailable or AuthError, with what to do, when no service or no token is known; nothing
    is sent before the first call. Every error of a call is a `BatchError`.
    """

    def __init__(
        self,
        billing_project: str | None = None,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        retry_s: float = 180.0,
    ) -> None:
        if billing_project is not None and not check_text("billing_project", billing_project):
            raise UsageError("billing_project is empty", hint="e.g. BatchBackend('my-project')")
        self._address = find_service(endpoint, token)
        self._billing_project = billing_project
        self._retry_s = retry_s
        self._closed = False
        self._lock = threading.Lock()
        self._dial(self._address)

    @property
    def endpoint(self) -> str:
        return self._address.endpoint

    def close(self) -> None:
        """Hang up. Batches go on. May be called again; every other call is refused from then on."""
        with self._lock:
            self._closed = True
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.endpoint}>"

    def session(self) -> Session:
        """Who I am to the service, and what it is."""
        request = auth_service_pb2.GetSessionRequest()
        return wire.session(self._call(lambda: self._auth.GetSession, request))

    def create_batch(
        self,
        attributes: Mapping[str, str] | None = None,
        *,
        name: str | None = None,
        billing_project: str | None = None,
        token: str | None = None,
    ) -> BatchBuilder:
        """A batch to add jobs to; the service hears of it at `submit`.

        `token` makes it the same batch whoever submits it: give the same one to repeat a submission
        in another process. Without it a random one is made.
        """
        project = self._billing_project if billing_project is None else billing_project
        if not project:
            raise UsageError("a batch needs a billing project", hint="Client('my-project')")
        whole = check_attributes(attributes)
        if name is not None:
            whole["name"] = check_text("name", name)
        if token is not None:
            token = check_text("token", token)
        return BatchBuilder(self, check_text("billing_project", project), whole, token)

    def get_batch(self, batch_id: int) -> Batch:
        """The handle of a batch. Raises NotFound."""
        batch = Batch(self, _check_id("batch_id", batch_id))
        batch.status()
        return batch

    def list_batches(self, limit: int | None = None) -> Iterator[Batch]:
        """My batches, newest first, all or at most `limit`, read page by page; each has its `last_status`."""
        before: int | None = None
        left = limit
        while left is None or left > 0:
            page = self.page_of_batches(before, _PAGE if left is None else min(left, _PAGE))
            for status in page.rows:
                yield Batch(self, status.id, last_status=status)
            if not page.more or not page.rows:
                return
            before = page.rows[-1].id
            if left is not None:
                left -= len(page.rows)

    def page_of_batches(self, before: int | None = None, size: int = _PAGE) -> Page[BatchStatus]:
        """At most `size` of my batches, newest first: those older than the batch `before`, or the newest."""
        page = self._call(
            lambda: self._batches.ListBatches,
            batch_service_pb2.ListBatchesRequest(page_size=size, before_batch_id=before or 0),
        )
        return Page(tuple(map(wire.batch_status, page.batches)), page.more, page.seq)

    def page_of_jobs(
        self, batch_id: int, after: int = 0, size: int = _PAGE, states: Iterable[str] = ()
    ) -> Page[JobStatus]:
        """At most `size` jobs of a batch, by id, after the job `after`; only those in one of `states`."""
        numbers = [_number("state", state, wire.JOB_STATES) for state in states]
        page = self._call(
            lambda: self._batches.ListJobs,
            batch_service_pb2.ListJobsRequest(
                batch_id=batch_id,
                page_size=size,
                after_job_id=after,
                states=numbers,  # type: ignore[arg-type]  # Numbers of that very enum.
            ),
        )
        return Page(tuple(map(wire.job_status, page.jobs)), page.more, page.seq)

    def watch_events(self, after_seq: int, batch_id: int | None = None) -> Iterator[Events]:
        """What happens to my batches, or to one of them, after `after_seq` (see `Page`); never ends.

        Comes as it is committed, and every few seconds when nothing does.
        """
        request = batch_service_pb2.WatchEventsRequest(after_seq=after_seq, batch_id=batch_id or 0)

        def read(_: float | None) -> Iterator[Events]:
            for message in self._batches.WatchEvents(request, metadata=self._metadata):
                request.after_seq = message.seq
                yield wire.events(message)

        return self._stream(read, None)

    # What the handles call.

    def _create(
        self, request_id: str, billing_project: str, attributes: Mapping[str, str], n_jobs: int
    ) -> int:
        answer = self._call(
            lambda: self._batches.CreateBatch,
            batch_service_pb2.CreateBatchRequest(
                request_id=request_id,
                billing_project=billing_project,
                n_jobs=n_jobs,
                attributes=attributes,
            ),
        )
        return int(answer.batch_id)

    def _fill(
        self, batch_id: int, jobs: Sequence[JobSpec], on_progress: Callable[[int], None] | None
    ) -> None:
        """Send all jobs, and let them run."""
        bunches = _bunches(batch_id, jobs)
        n_sent = 0
        while stream := list(islice(bunches, _STREAM_BUNCHES)):
            trouble = _Trouble(self)
            while True:
                self._check_open()
                try:
                    self._batches.SubmitJobs(iter(stream), timeout=_SUBMIT_S, metadata=self._metadata)
                    break
                except grpc.RpcError as error:
                    trouble.wait_or_raise(error)
            n_sent += sum(len(bunch.jobs) for bunch in stream)
            if on_progress:
                on_progress(n_sent)
        self._call(lambda: self._batches.CloseBatch, batch_service_pb2.CloseBatchRequest(batch_id=batch_id))

    def _discard(self, batch_id: int) -> None:
        """Delete a batch that nobody will close, if that can be done at once."""
        request = batch_service_pb2.DeleteBatchRequest(batch_id=batch_id)
        with suppress(grpc.RpcError, ValueError):  # ValueError: the channel is closed.
            self._batches.DeleteBatch(request, timeout=_DISCARD_S, metadata=self._metadata)

    def _batch_status(self, batch_id: int) -> BatchStatus:
        request = batch_service_pb2.GetBatchRequest(batch_id=batch_id)
        return wire.batch_status(self._call(lambda: self._batches.GetBatch, request))

    def _watch_batch(self, batch_id: int, timeout: float | None) -> Iterator[BatchStatus]:
        """The batch now and whenever it changed, until it is complete. Raises WaitTimeout."""

        def read(remaining: float | None) -> Iterator[BatchStatus]:
            request = batch_service_pb2.WatchBatchRequest(batch_id=batch_id)
            for message in self._batches.WatchBatch(request, timeout=remaining, metadata=self._metadata):
                yield wire.batch_status(message)

        for status in self._stream(read, timeout):
            yield status
            if status.complete:
                return

    def _cancel(self, batch_id: int, reason: str | None) -> None:
        text = check_text("reason", reason or "")
        self._call(
            lambda: self._batches.CancelBatch,
            batch_service_pb2.CancelBatchRequest(batch_id=batch_id, reason=text),
        )

    def _delete(self, batch_id: int) -> None:
        self._call(lambda: self._batches.DeleteBatch, batch_service_pb2.DeleteBatchRequest(batch_id=batch_id))

    def _job_status(self, batch_id: int, job_id: int) -> JobStatus:
        request = batch_service_pb2.GetJobRequest(batch_id=batch_id, job_id=job_id)
        return wire.job_status(self._call(lambda: self._batches.GetJob, request))

    def _jobs(self, batch: Batch, states: Iterable[str]) -> Iterator[Job]:
        wanted = list(states)
        after = 0
        while True:
            page = self.page_of_jobs(batch.id, after, states=wanted)
            for status in page.rows:
                yield Job(batch, status.job_id, last_status=status)
            if not page.more or not page.rows:
                return
            after = page.rows[-1].job_id

    def _log_chunks(
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
    ) -> Iterator[LogChunk]:
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

        def read(remaining: float | None) -> Iterator[LogChunk]:
            for message in self._batches.ReadLog(request, timeout=remaining, metadata=self._metadata):
                if message.chunk:
                    request.offset = message.offset + len(message.chunk)
                    request.limit = max(0, request.limit - len(message.chunk))
                    request.tail_bytes = 0
                yield wire.log_chunk(message)

        if limit == 0:
            return
        for chunk in self._stream(read, timeout):
            yield chunk
            if chunk.end or (limit and request.limit == 0):
                return

    def _dial(self, address: ServiceAddress) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {address.token}"),)
        self._channel = _channel(address)
        self._batches = batch_service_pb2_grpc.BatchServiceStub(self._channel)
        self._auth = auth_service_pb2_grpc.AuthServiceStub(self._channel)

    def _find_again(self) -> None:
        """Go on with the service of this machine where it is now, if that is how it was found."""
        if self._address.file is None:
            return
        with suppress(BatchError):  # It is not back yet.
            address = read_service_file(self._address.file)
            with self._lock:
                # The old channel is not closed: other threads may be about to call, and fail, through it.
                if address not in (None, self._address) and not self._closed:
                    self._dial(address)

    def _call(self, rpc: Callable[[], Callable[..., Response]], request: Any) -> Response:
        """What the RPC answers; `rpc` gives it, on the channel of that moment."""
        trouble = _Trouble(self)
        while True:
            self._check_open()
            try:
                return rpc()(request, timeout=_CALL_S, metadata=self._metadata)
            except grpc.RpcError as error:
                trouble.wait_or_raise(error)

    def _stream(
        self, read: Callable[[float | None], Iterator[Response]], timeout: float | None
    ) -> Iterator[Response]:
        """What `read(remaining seconds)` yields, again and again: a stream that ends was cut off."""
        end = None if timeout is None else time.monotonic() + timeout
        trouble = _Trouble(self)
        while True:
            self._check_open()
            try:
                for value in read(None if end is None else max(0.0, end - time.monotonic())):
                    trouble = _Trouble(self)
                    yield value
                cut: grpc.RpcError | None = None
            except grpc.RpcError as error:
                cut = error
            if end is not None and time.monotonic() >= end:
                raise WaitTimeout(f"not complete after {timeout:g} s") from cut
            trouble.wait_or_raise(cut, until=end)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the connection to {self.endpoint} is closed", hint="ask inside its `with`")


class _Trouble:
    """One call's failures in a row."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._for_s = client._retry_s
        self._rng = random.Random()
        self._attempt = 0
        self._started = 0.0

    def wait_or_raise(self, error: grpc.RpcError | None, until: float | None = None) -> None:
        """Return when it is time to try again; raise the error, as ours, when it makes no sense."""
        now = time.monotonic()
        if self._attempt == 0:
            self._started = now
        if error is not None and (error.code() not in _TRANSIENT or now - self._started >= self._for_s):
            raise _ours(error, self._client.endpoint) from error
        if self._attempt == 4:
            _log.warning(
                "%s does not answer; trying again for up to %g s", self._client.endpoint, self._for_s
            )
        delay = backoff(self._attempt, self._rng)
        time.sleep(delay if until is None else max(0.0, min(delay, until - now)))
        self._attempt += 1
        self._client._find_again()


def _channel(address: ServiceAddress) -> grpc.Channel:
    if address.is_local:
        # gRPC would go to a proxy of the environment even for the machine itself.
        return grpc.insecure_channel(address.endpoint, options=[*_OPTIONS, ("grpc.enable_http_proxy", 0)])
    return grpc.secure_channel(address.endpoint, grpc.ssl_channel_credentials(), options=_OPTIONS)


def _ours(error: grpc.RpcError, endpoint: str) -> BatchError:
    code, details = error.code(), error.details() or ""
    if code in _TRANSIENT:
        details = f"the service at {endpoint} does not answer ({details})"
    return error_of_code(code.name.lower(), details)


def _bunches(batch_id: int, jobs: Sequence[JobSpec]) -> Iterator[batch_service_pb2.SubmitJobsRequest]:
    """Jobs in messages bounded by number and size."""
    bunch = batch_service_pb2.SubmitJobsRequest(batch_id=batch_id, first_job_id=1)
    size = 0
    for job_id, spec in enumerate(jobs, start=1):
        message = wire.job_spec_message(spec)
        n_bytes = message.ByteSize()
        if n_bytes > _LARGEST_JOB:
            raise UsageError(
                f"job {job_id} {spec.name!r} is {n_bytes:,} bytes long; at most {_LARGEST_JOB:,} can be sent",
                hint="fewer files, or a shorter command",
            )
        if bunch.jobs and (len(bunch.jobs) >= _BUNCH_JOBS or size + n_bytes > _BUNCH_BYTES):
            yield bunch
            bunch = batch_service_pb2.SubmitJobsRequest(batch_id=batch_id, first_job_id=job_id)
            size = 0
        bunch.jobs.append(message)
        size += n_bytes
    if bunch.jobs:
        yield bunch


def _number(what: str, word: str, numbers: Mapping[str, int]) -> int:
    if word not in numbers:
        raise UsageError(f"{what} {word!r} is not one of {', '.join(numbers)}")
    return numbers[word]


def _check_id(what: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongType(f"{what} must be a whole number, not {value!r}")
    if not 0 < value < 2**63:
        raise UsageError(f"{what} must be 1 or more: {value}")
    return value
