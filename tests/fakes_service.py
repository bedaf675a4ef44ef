"""A service in this process that behaves: it keeps batches in memory and runs jobs as processes.

Clients reach it over real gRPC, so that every message passes the real codec. `Faults` makes the
network bad: requests refused before they have an effect, answers lost after it, streams cut off.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, Self

import grpc
from fake_billing import FakeBilling
from fake_fleet import FakeFleet
from fake_people import FakeTokens
from longshore_api.v1 import admin_service_pb2_grpc as admin_grpc
from longshore_api.v1 import auth_service_pb2 as auth_pb
from longshore_api.v1 import auth_service_pb2_grpc as auth_grpc
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import batch_service_pb2_grpc as batch_grpc
from longshore_api.v1 import billing_service_pb2_grpc as billing_grpc
from longshore_api.v1 import event_pb2 as events
from longshore_api.v1 import types_pb2 as types

TOKEN = "a-token"
CODES = grpc.StatusCode
DONE = (
    types.JOB_STATE_SUCCESS,
    types.JOB_STATE_FAILURE,
    types.JOB_STATE_ERROR,
    types.JOB_STATE_CANCELLED,
)
_STATES_OF = {
    "bad": ("failure", "error"),
    "live": ("open", "ready", "running"),
    "done": ("success", "failure", "error", "cancelled"),
}
_IO = re.compile(r"(?<![\w./-])/io(?=/|\b)")


@dataclass
class Faults(grpc.ServerInterceptor):
    """Trouble at every n-th call, or every n-th message of an answering stream; 0 = never."""

    refuse_every: int = 0
    """UNAVAILABLE, and no effect."""
    lose_every: int = 0
    """The effect, and then UNAVAILABLE."""
    cut_every: int = 0
    """A stream of answers breaks before its n-th message."""
    calls: list[str] = field(default_factory=list)
    """Names of the calls that came in."""

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        name = details.method.rpartition("/")[2]
        if handler.response_streaming:
            kind = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            return kind(
                self._streaming(name, behaviour),
                handler.request_deserializer,
                handler.response_serializer,
            )
        kind = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
        return kind(self._single(name, behaviour), handler.request_deserializer, handler.response_serializer)

    def _single(self, name: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            self.calls.append(name)
            n = len(self.calls)
            context.set_trailing_metadata((("longshore-request-id", f"request-{n}"),))
            if self.refuse_every and n % self.refuse_every == 0:
                context.abort(CODES.UNAVAILABLE, "refused on purpose")
            answer = behaviour(request, context)
            if self.lose_every and n % self.lose_every == 0:
                context.abort(CODES.UNAVAILABLE, "answer lost on purpose")
            return answer

        return call

    def _streaming(self, name: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        messages = count(1)

        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self.calls.append(name)
            context.set_trailing_metadata((("longshore-request-id", f"request-{len(self.calls)}"),))
            for message in behaviour(request, context):
                if self.cut_every and next(messages) % self.cut_every == 0:
                    context.abort(CODES.UNAVAILABLE, "cut off on purpose")
                yield message

        return call


@dataclass
class FakeJob:
    spec: types.JobSpec
    job_id: int
    state: types.JobState.ValueType = types.JOB_STATE_PENDING
    reason: str = ""
    exit_code: int | None = None
    logs: dict[int, bytes] = field(default_factory=dict)
    duration_ms: int = 0
    runs: int = 0
    revoked: str = ""

    def parents_done(self, batch: FakeBatch) -> bool:
        return all(batch.jobs[parent].state in DONE for parent in self.spec.parents)


@dataclass
class FakeBatch:
    batch_id: int
    request: pb.CreateBatchRequest
    jobs: dict[int, FakeJob] = field(default_factory=dict)
    closed: bool = False
    cancelled: str | None = None
    deleted: bool = False
    updates: dict[str, pb.UpdateBatchRequest] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.closed and all(job.state in DONE for job in self.jobs.values())

    def n(self, *states: types.JobState.ValueType) -> int:
        return sum(job.state in states for job in self.jobs.values())


class FakeService(FakeTokens, batch_grpc.BatchServiceServicer):
    """The service. `runs_jobs=False`: nothing runs until the test says `finish`."""

    def __init__(self, folder: Path, *, runs_jobs: bool = True, page: int = 1000) -> None:
        super().__init__()
        self.folder = folder
        self.faults = Faults()
        self.batches: dict[int, FakeBatch] = {}
        self.store_folder = "/"
        self.notices: list[str] = []
        self.billing = FakeBilling()
        self.fleet = FakeFleet()
        self.reasons = [pb.Reason(code="NO_WORKER", text="there is no worker", fix="start one", jobs=[3])]
        """Of everything that is asked about."""
        self.user = "ada"
        self.port = 0
        self._log: list[events.Event] = []
        self._noted: dict[tuple[int, int], Any] = {}
        self._page = page
        self._runs_jobs = runs_jobs
        self._changed = threading.Condition()
        self._stopping = False
        self._server: grpc.Server | None = None
        self._runner = threading.Thread(target=self._run_jobs, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; after `stop`, on the same port again."""
        self._server = grpc.server(
            ThreadPoolExecutor(32),
            interceptors=[self.faults],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20)],
        )
        auth_grpc.add_AuthServiceServicer_to_server(self, self._server)
        batch_grpc.add_BatchServiceServicer_to_server(self, self._server)
        admin_grpc.add_AdminServiceServicer_to_server(self.fleet, self._server)
        billing_grpc.add_BillingServiceServicer_to_server(self.billing, self._server)
        self.port = self._server.add_insecure_port(self.endpoint)
        self._server.start()

    def stop(self) -> None:
        """Hang up on everybody, as a service does that is killed; the batches stay."""
        assert self._server is not None
        self._server.stop(grace=0).wait()

    def __enter__(self) -> Self:
        self.start()
        self._runner.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._runner.join()
        self.stop()

    def finish(self, batch_id: int, job_id: int, exit_code: int = 0, log: bytes = b"") -> None:
        """What a worker would report of a job."""
        with self._changed:
            self._end(self.batches[batch_id], self.batches[batch_id].jobs[job_id], exit_code, {2: log})

    def write(self, batch_id: int, job_id: int, log: bytes, container: int = types.CONTAINER_MAIN) -> None:
        """A container of the job runs, and wrote this."""
        with self._changed:
            job = self.batches[batch_id].jobs[job_id]
            job.state = types.JOB_STATE_RUNNING
            job.runs = max(1, job.runs)
            job.logs[container] = job.logs.get(container, b"") + log
            self._changed.notify_all()

    # Calls.

    def GetSession(
        self, request: auth_pb.GetSessionRequest, context: grpc.ServicerContext
    ) -> auth_pb.Session:
        self._check_token(context)
        return auth_pb.Session(
            user=self.user,
            version="0",
            embedded=True,
            store_folder=self.store_folder,
            remote_tmpdir=str(self.folder / "tmp"),
            notices=self.notices,
            largest_worker_mcpu=16_000,
            default_image="longshore/task",
        )

    def CreateBatch(
        self, request: pb.CreateBatchRequest, context: grpc.ServicerContext
    ) -> pb.CreateBatchResponse:
        self._check_token(context)
        if request.billing_project == "secret":
            context.abort(
                CODES.PERMISSION_DENIED, f"billing project {request.billing_project!r} is not yours"
            )
        with self._changed:
            for batch in self.batches.values():
                if batch.request.request_id == request.request_id:
                    if batch.request != request:
                        context.abort(CODES.ALREADY_EXISTS, "another batch has this request_id")
                    return pb.CreateBatchResponse(batch_id=batch.batch_id)
            batch = FakeBatch(len(self.batches) + 1, request)
            batch.closed = bool(request.jobs)
            for job_id, spec in enumerate(request.jobs, start=1):
                if not spec.command:
                    context.abort(CODES.INVALID_ARGUMENT, f"jobs[{job_id}].command: required")
                batch.jobs[job_id] = FakeJob(spec, job_id)
            self.batches[batch.batch_id] = batch
            self._changed.notify_all()
            return pb.CreateBatchResponse(batch_id=batch.batch_id)

    def SubmitJobs(
        self, request_iterator: Iterator[pb.SubmitJobsRequest], context: grpc.ServicerContext
    ) -> pb.SubmitJobsResponse:
        n = 0
        for request in request_iterator:
            with self._changed:
                batch = self._batch(request.batch_id, context)
                for job_id, spec in enumerate(request.jobs, start=request.first_job_id):
                    if not spec.command:
                        context.abort(CODES.INVALID_ARGUMENT, f"jobs[{job_id}].command: required")
                    known = batch.jobs.setdefault(job_id, FakeJob(spec, job_id))
                    if known.spec != spec:
                        context.abort(CODES.ALREADY_EXISTS, f"job {job_id} is there and is another")
                    n += 1
        return pb.SubmitJobsResponse(n_jobs=n)

    def CloseBatch(
        self, request: pb.CloseBatchRequest, context: grpc.ServicerContext
    ) -> pb.CloseBatchResponse:
        with self._changed:
            batch = self._batch(request.batch_id, context)
            missing = batch.request.n_jobs - len(batch.jobs)
            if missing:
                context.abort(CODES.FAILED_PRECONDITION, f"{missing} jobs are missing")
            batch.closed = True
            self._changed.notify_all()
        return pb.CloseBatchResponse()

    def UpdateBatch(
        self, request: pb.UpdateBatchRequest, context: grpc.ServicerContext
    ) -> pb.UpdateBatchResponse:
        with self._changed:
            batch = self._batch(request.batch_id, context)
            known = batch.updates.setdefault(request.request_id, request)
            if known != request:
                context.abort(CODES.ALREADY_EXISTS, "another update has this request_id")
            if known is request:
                if batch.cancelled is not None or request.first_job_id != len(batch.jobs) + 1:
                    del batch.updates[request.request_id]
                    context.abort(CODES.FAILED_PRECONDITION, f"batch {batch.batch_id} takes no such jobs")
                for job_id, spec in enumerate(request.jobs, request.first_job_id):
                    batch.jobs[job_id] = FakeJob(spec, job_id)
                batch.request.n_jobs = len(batch.jobs)
                self._settle(batch)
            self._changed.notify_all()
        return pb.UpdateBatchResponse(n_jobs=request.first_job_id - 1 + len(request.jobs))

    def CancelBatch(
        self, request: pb.CancelBatchRequest, context: grpc.ServicerContext
    ) -> pb.CancelBatchResponse:
        with self._changed:
            batch = self._batch(request.batch_id, context)
            if batch.cancelled is None and not batch.complete:
                batch.cancelled = request.reason
                for job in batch.jobs.values():
                    if job.state not in DONE and not job.spec.always_run:
                        job.state = types.JOB_STATE_CANCELLED
            self._changed.notify_all()
        return pb.CancelBatchResponse()

    def DeleteBatch(
        self, request: pb.DeleteBatchRequest, context: grpc.ServicerContext
    ) -> pb.DeleteBatchResponse:
        with self._changed:
            if batch := self.batches.get(request.batch_id):
                batch.deleted = True
            self._changed.notify_all()
        return pb.DeleteBatchResponse()

    def UndeleteBatch(
        self, request: pb.UndeleteBatchRequest, context: grpc.ServicerContext
    ) -> pb.UndeleteBatchResponse:
        self._check_token(context)
        with self._changed:
            if request.batch_id not in self.batches:
                self._not_found(context, f"batch {request.batch_id} does not exist, or is not yours")
            self.batches[request.batch_id].deleted = False
            self._changed.notify_all()
        return pb.UndeleteBatchResponse()

    def EndAttempt(
        self, request: pb.EndAttemptRequest, context: grpc.ServicerContext
    ) -> pb.EndAttemptResponse:
        with self._changed:
            _, job = self._job(request.batch_id, request.job_id, context)
            if not job.runs or request.attempt_id != "a" * 32:
                self._not_found(context, f"there is no attempt {request.attempt_id}")
            if job.state not in DONE:
                job.revoked = f"ended by {self.user}: {request.reason}".removesuffix(": ")
            self._changed.notify_all()
        return pb.EndAttemptResponse()

    def GetBatch(self, request: pb.GetBatchRequest, context: grpc.ServicerContext) -> types.Batch:
        with self._changed:
            message = self._batch_message(self._batch(request.batch_id, context))
            again = [b.batch_id for b in self.batches.values() if b.request.rerun_of == request.batch_id]
            message.reruns.extend(again)
            return message

    def GetBatchHistory(
        self, request: pb.GetBatchHistoryRequest, context: grpc.ServicerContext
    ) -> pb.GetBatchHistoryResponse:
        with self._changed:
            batch = self._batch_message(self._batch(request.batch_id, context))
        return pb.GetBatchHistoryResponse(
            deeds=[pb.BatchDeed(at_ms=batch.created_at_ms, user=batch.user, deed="CreateBatch")]
        )

    def ListBatches(
        self, request: pb.ListBatchesRequest, context: grpc.ServicerContext
    ) -> pb.ListBatchesResponse:
        self._check_token(context)
        with self._changed:
            seq = self._note_changes()
            found = [
                self._batch_message(batch)
                for batch in reversed(self.batches.values())
                if not batch.deleted
                and (batch.batch_id < request.before_batch_id or not request.before_batch_id)
            ]
        found = [each for each in found if self._matches(request.query, each, context)]
        size = min(request.page_size, self._page)
        return pb.ListBatchesResponse(batches=found[:size], more=len(found) > size, seq=seq)

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> types.Job:
        with self._changed:
            return self._job_message(*self._job(request.batch_id, request.job_id, context), whole=True)

    def ListJobs(self, request: pb.ListJobsRequest, context: grpc.ServicerContext) -> pb.ListJobsResponse:
        with self._changed:
            batch = self._batch(request.batch_id, context)
            seq = self._note_changes()
            found = [
                self._job_message(batch, job, with_spec=request.with_spec)
                for job_id, job in sorted(batch.jobs.items())
                if job_id > request.after_job_id and (not request.states or job.state in request.states)
            ]
        found = [each for each in found if self._matches(request.query, each, context)]
        size = min(request.page_size, self._page)
        return pb.ListJobsResponse(jobs=found[:size], more=len(found) > size, seq=seq)

    def CompleteQuery(
        self, request: pb.CompleteQueryRequest, context: grpc.ServicerContext
    ) -> pb.CompleteQueryResponse:
        """Of states alone."""
        self._check_token(context)
        head = request.text[: request.cursor]
        begun = head.rpartition("state:")[2]
        found = [word for word in ("failure", "error", "running") if word.startswith(begun)]
        if "state:" not in head or " " in begun:
            return pb.CompleteQueryResponse(first=len(head))
        return pb.CompleteQueryResponse(
            first=len(head) - len(begun),
            length=len(begun),
            completions=(pb.QueryCompletion(text=word, n=n) for n, word in enumerate(found, 1)),
            n_looked_at=7,
        )

    def FailureGroups(
        self, request: pb.FailureGroupsRequest, context: grpc.ServicerContext
    ) -> pb.FailureGroupsResponse:
        with self._changed:
            batch = self._batch(request.batch_id, context)
            failed = [self._job_message(batch, job) for _, job in sorted(batch.jobs.items())]
        failed = [job for job in failed if job.state in (types.JOB_STATE_FAILURE, types.JOB_STATE_ERROR)]
        groups: dict[Any, pb.FailureGroup] = {}
        for job in failed:
            group = groups.setdefault((job.state, job.exit_code, job.reason), pb.FailureGroup(example=job))
            group.n += 1
        ordered = sorted(groups.values(), key=lambda group: -group.n)
        return pb.FailureGroupsResponse(groups=ordered, n_failed=len(failed))

    def WatchBatch(
        self, request: pb.WatchBatchRequest, context: grpc.ServicerContext
    ) -> Iterator[types.Batch]:
        last = None
        while context.is_active():
            with self._changed:
                message = self._batch_message(self._batch(request.batch_id, context))
                if message == last:
                    self._changed.wait(0.5)
                    continue
            yield message
            last = message
            if message.complete:
                return

    def WatchJob(self, request: pb.WatchJobRequest, context: grpc.ServicerContext) -> Iterator[types.Job]:
        last = None
        while context.is_active():
            with self._changed:
                batch, job = self._job(request.batch_id, request.job_id, context)
                message = self._job_message(batch, job, whole=True)
                if message == last:
                    self._changed.wait(0.5)
                    continue
            yield message
            last = message
            if message.state in DONE:
                return

    def WatchSession(
        self, request: auth_pb.GetSessionRequest, context: grpc.ServicerContext
    ) -> Iterator[auth_pb.Session]:
        while context.is_active():
            yield self.GetSession(request, context)
            with self._changed:
                self._changed.wait(0.5)

    def WatchBatches(
        self, request_iterator: Iterator[pb.BatchesWindow], context: grpc.ServicerContext
    ) -> Iterator[pb.BatchesView]:
        self._check_token(context)
        anchors: dict[int, int] = {}
        """What 0 meant when a window was opened; by its identity."""

        def look(window: pb.BatchesWindow) -> pb.BatchesView:
            rows = [self._batch_message(each) for each in reversed(self.batches.values()) if not each.deleted]
            newest = rows[0].batch_id if rows else 0
            anchor = window.anchor_batch_id or anchors.setdefault(id(window), newest)
            matching = [row for row in rows if self._matches(window.query, row, context)]
            upto = [row for row in matching if row.batch_id <= anchor]
            return pb.BatchesView(
                rows=upto[window.first : window.first + (window.n or 50)],
                first=window.first,
                n_matching=len(upto),
                n_newer=len(matching) - len(upto),
                anchor_batch_id=anchor,
                n_total=len(rows),
                query=window.query,
            )

        yield from self._views(request_iterator, context, look, lambda row: row.batch_id)

    def WatchJobs(
        self, request_iterator: Iterator[pb.JobsWindow], context: grpc.ServicerContext
    ) -> Iterator[pb.JobsView]:
        def look(window: pb.JobsWindow) -> pb.JobsView:
            batch = self._batch(window.batch_id, context)
            rows = [self._job_message(batch, job) for _, job in sorted(batch.jobs.items())]
            matching = [row for row in rows if self._matches(window.query, row, context)]
            return pb.JobsView(
                rows=matching[window.first : window.first + (window.n or 50)],
                first=window.first,
                n_matching=len(matching),
                batch=self._batch_message(batch),
                query=window.query,
            )

        yield from self._views(request_iterator, context, look, lambda row: row.job_id)

    def WatchEvents(
        self, request: pb.WatchEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchEventsResponse]:
        self._check_token(context)
        seq = request.after_seq
        while context.is_active():
            with self._changed:
                if self._note_changes() == seq:
                    self._changed.wait(0.5)
                    self._note_changes()
                news = self._log[seq:]
            seq += len(news)
            yield pb.WatchEventsResponse(
                seq=seq,
                events=[
                    event
                    for event in news
                    if request.batch_id in (0, getattr(event, str(event.WhichOneof("kind"))).batch_id)
                ],
            )

    def Explain(self, request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.Explanation:
        self._check_token(context)
        with self._changed:
            if request.job_id:
                self._job(request.batch_id, request.job_id, context)
            else:
                self._batch(request.batch_id, context)
        return pb.Explanation(reasons=self.reasons)

    def ReadLog(self, request: pb.ReadLogRequest, context: grpc.ServicerContext) -> Iterator[pb.LogChunk]:
        at = request.offset
        done = False
        while not done and context.is_active():
            with self._changed:
                _, job = self._job(request.batch_id, request.job_id, context)
                done = not request.follow or job.state in DONE or self._stopping
                log = job.logs.get(request.container, b"")
                if not done and at == len(log):
                    self._changed.wait(0.5)
                    continue
            if request.tail_bytes:
                at = max(0, len(log) - request.tail_bytes)
                request.tail_bytes = 0
            end = min(len(log), request.offset + request.limit) if request.limit else len(log)
            while at < end:  # Small pieces, so that readers must put them together.
                yield pb.LogChunk(offset=at, chunk=log[at : min(at + 7, end)])
                at = min(at + 7, end)
        yield pb.LogChunk(offset=at, end=True)

    def SearchLog(self, request: pb.SearchLogRequest, context: grpc.ServicerContext) -> pb.SearchLogResponse:
        with self._changed:
            _, job = self._job(request.batch_id, request.job_id, context)
            log, text = job.logs.get(request.container, b"").lower(), request.text.encode().lower()
        if request.backward:
            at = log.rfind(text, 0, request.offset + len(text) - 1)
        else:
            at = log.find(text, request.offset)
        if at < 0:
            return pb.SearchLogResponse(end=True)
        return pb.SearchLogResponse(line_offset=log.rfind(b"\n", 0, at) + 1, searched_to=at)

    # Inside; callers hold the lock.

    def _views(
        self,
        windows: Iterator[Any],
        context: grpc.ServicerContext,
        look: Callable[[Any], Any],
        key: Callable[[Any], int],
    ) -> Iterator[Any]:
        """Views of the latest window: whole at first, then its rows that changed."""
        latest: list[Any] = []

        def listen() -> None:
            try:
                for window in windows:
                    with self._changed:
                        latest.append(window)
                        self._changed.notify_all()
            except grpc.RpcError:
                pass  # The client has hung up.

        threading.Thread(target=listen, daemon=True).start()
        window = seen = None
        while context.is_active():
            with self._changed:
                if not latest:
                    self._changed.wait(0.5)
                    continue
                view = look(latest[-1])
                if latest[-1] is window and view == seen:
                    self._changed.wait(0.5)
                    continue
                sent = type(view)()
                sent.CopyFrom(view)
                before: dict[int, Any] = {} if seen is None else {key(row): row for row in seen.rows}
                whole = latest[-1] is not window or list(before) != [key(row) for row in view.rows]
                if not whole:
                    del sent.rows[:]
                    sent.rows.extend(row for row in view.rows if before[key(row)] != row)
                sent.whole = whole
                window, seen = latest[-1], view
            yield sent

    def _matches(self, query: str, row: Any, context: grpc.ServicerContext) -> bool:
        """The terms of JobsWindow.query."""
        is_job = isinstance(row, types.Job)
        name = row.name if is_job else row.attributes["name"]
        states = types.JobState if is_job else types.BatchState
        state = states.Name(row.state).removeprefix("JOB_STATE_").removeprefix("BATCH_STATE_").lower()
        for term in query.split():
            bare = term.removeprefix("-")
            field, colon, values = bare.partition(":")
            if not colon:
                number = row.job_id if is_job else row.batch_id
                found = bare.lower() in name.lower() or bare == str(number)
            elif field == "state":
                found = any(state in _STATES_OF.get(value, (value,)) for value in values.split(","))
            else:
                context.abort(
                    CODES.INVALID_ARGUMENT, f"query: at {query.index(term) + 1}: no field {field!r}"
                )
            if found is term.startswith("-"):
                return False
        return True

    def _check_token(self, context: grpc.ServicerContext) -> None:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            context.abort(CODES.UNAUTHENTICATED, "unknown token")

    def _batch(self, batch_id: int, context: grpc.ServicerContext) -> FakeBatch:
        self._check_token(context)
        batch = self.batches.get(batch_id)
        if batch is None or batch.deleted:
            self._not_found(context, f"batch {batch_id} does not exist, or is not yours")
        return batch

    def _job(self, batch_id: int, job_id: int, context: grpc.ServicerContext) -> tuple[FakeBatch, FakeJob]:
        batch = self._batch(batch_id, context)
        if job_id not in batch.jobs:
            self._not_found(context, f"batch {batch_id} has no job {job_id}")
        return batch, batch.jobs[job_id]

    def _not_found(self, context: grpc.ServicerContext, details: str) -> NoReturn:
        context.abort(CODES.NOT_FOUND, details)
        raise AssertionError  # abort raises

    def _batch_message(self, batch: FakeBatch) -> types.Batch:
        failed = batch.n(types.JOB_STATE_FAILURE, types.JOB_STATE_ERROR)
        succeeded = batch.n(types.JOB_STATE_SUCCESS)
        cancelled = batch.n(types.JOB_STATE_CANCELLED)
        if not batch.closed:
            state = types.BATCH_STATE_OPEN
        elif failed:
            state = types.BATCH_STATE_FAILURE
        elif succeeded == len(batch.jobs):
            state = types.BATCH_STATE_SUCCESS
        elif cancelled or batch.cancelled is not None:
            state = types.BATCH_STATE_CANCELLED
        else:
            state = types.BATCH_STATE_RUNNING
        return types.Batch(
            batch_id=batch.batch_id,
            billing_project=batch.request.billing_project,
            cancel_after_n_failures=batch.request.cancel_after_n_failures,
            rerun_of=batch.request.rerun_of,
            callback=batch.request.callback,
            user=self.user,
            state=state,
            closed=batch.closed,
            complete=batch.complete,
            n_jobs=batch.request.n_jobs,
            n_pending=batch.n(types.JOB_STATE_PENDING),
            n_ready=batch.n(types.JOB_STATE_READY),
            n_running=batch.n(types.JOB_STATE_RUNNING),
            n_completed=batch.n(*DONE),
            n_succeeded=succeeded,
            n_failed=failed,
            n_cancelled=cancelled,
            attributes=batch.request.attributes,
            created_at_ms=1_700_000_000_000,
            cost_nanousd=sum(6 * job.duration_ms for job in batch.jobs.values()),
            cancelled_by=self.user if batch.cancelled is not None else "",
            cancel_reason=batch.cancelled or "",
        )

    def _job_message(
        self, batch: FakeBatch, job: FakeJob, *, whole: bool = False, with_spec: bool = False
    ) -> types.Job:
        message = types.Job(
            batch_id=batch.batch_id,
            job_id=job.job_id,
            name=job.spec.name,
            state=job.state,
            reason=job.reason,
            exit_code=job.exit_code,
            duration_ms=job.duration_ms,
            cost_nanousd=6 * job.duration_ms,
            n_attempts=job.runs,
            reserved_mcpu=1000,
            attributes=job.spec.attributes,
        )
        if whole or with_spec:
            message.spec.CopyFrom(job.spec)
        if whole and job.runs:
            attempt = message.attempts.add(attempt_id="a" * 32, number=1, main_ms=job.duration_ms)
            attempt.assigned_at_ms = 1_700_000_000_000
            attempt.revoked = job.revoked
            attempt.state = types.ATTEMPT_STATE_ENDED if job.state in DONE else types.ATTEMPT_STATE_STARTED
            for container, log in job.logs.items():
                attempt.containers.add(
                    container=types.Container.ValueType(container),
                    exit_code=job.exit_code,
                    log_bytes=len(log),
                )
        return message

    def _note_changes(self) -> int:
        """Put what has changed since somebody last asked into the log of events; its length."""
        for batch in self.batches.values():
            now: dict[int, Any] = {0: (batch.closed, batch.complete, batch.cancelled, batch.deleted)}
            now.update((job.job_id, (job.state, job.runs)) for job in batch.jobs.values())
            for job_id, state in now.items():
                known = self._noted.get((batch.batch_id, job_id))
                if known == state:
                    continue
                self._noted[batch.batch_id, job_id] = state
                self._log.append(_event_of(batch, batch.jobs.get(job_id), new=known is None))
        return len(self._log)

    def _end(self, batch: FakeBatch, job: FakeJob, exit_code: int, logs: dict[int, bytes]) -> None:
        if job.state not in DONE:
            job.exit_code = exit_code
            job.logs = logs
            job.runs += 1
            job.state = types.JOB_STATE_FAILURE if exit_code else types.JOB_STATE_SUCCESS
        self._settle(batch)
        self._changed.notify_all()

    def _settle(self, batch: FakeBatch) -> None:
        """Cancel what a failed parent cancels; parents come before their children."""
        for job in batch.jobs.values():
            waits = job.state == types.JOB_STATE_PENDING and not job.spec.always_run
            bad = any(batch.jobs[p].state != types.JOB_STATE_SUCCESS for p in job.spec.parents)
            if waits and bad and job.parents_done(batch):
                job.state = types.JOB_STATE_CANCELLED

    # The worker.

    def _run_jobs(self) -> None:
        while True:
            with self._changed:
                while not (found := self._next_job()) and not self._stopping:
                    self._changed.wait()
                if self._stopping or found is None:
                    return
                batch, job = found
                job.state = types.JOB_STATE_RUNNING
                self._changed.notify_all()
            started = time.monotonic()
            exit_code, log = self._run(job.spec)
            with self._changed:
                job.duration_ms = round(1000 * (time.monotonic() - started))
                self._end(batch, job, exit_code, {2: log})

    def _next_job(self) -> tuple[FakeBatch, FakeJob] | None:
        if not self._runs_jobs:
            return None
        return next(
            (
                (batch, job)
                for batch in self.batches.values()
                if batch.closed
                for job in batch.jobs.values()
                if job.state == types.JOB_STATE_PENDING and job.parents_done(batch)
            ),
            None,
        )

    def _run(self, spec: types.JobSpec) -> tuple[int, bytes]:
        """All three containers of a job as one, with /io in a folder of its own."""
        io = self.folder / "io" / hashlib.sha1(os.urandom(8)).hexdigest()
        io.mkdir(parents=True)

        def here(text: str) -> str:
            return _IO.sub(str(io), text)

        try:
            for copy in spec.input_files:
                _copy(copy.source, here(copy.destination))
            done = subprocess.run(
                [here(argument) for argument in spec.command],
                env={**os.environ, **{key: here(value) for key, value in spec.env.items()}},
                cwd=io,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode == 0 or spec.always_copy_output:
                for copy in spec.output_files:
                    _copy(here(copy.source), copy.destination)
        except OSError as error:
            return 1, str(error).encode()
        return done.returncode, done.stdout


def _event_of(batch: FakeBatch, job: FakeJob | None, *, new: bool) -> events.Event:
    batch_id = batch.batch_id
    if job is None:
        if new:
            return events.Event(batch_created=events.BatchCreated(batch_id=batch_id))
        if batch.deleted:
            return events.Event(batch_deleted=events.BatchDeleted(batch_id=batch_id))
        if batch.complete:
            return events.Event(batch_completed=events.BatchCompleted(batch_id=batch_id))
        return events.Event(batch_closed=events.BatchClosed(batch_id=batch_id))
    jobs = [events.JobRange(first=job.job_id, last=job.job_id)]
    if job.state == types.JOB_STATE_RUNNING:
        assigned = events.AttemptAssigned(batch_id=batch_id, job_id=job.job_id)
        return events.Event(attempt_assigned=assigned)
    if job.runs:
        return events.Event(attempt_ended=events.AttemptEnded(batch_id=batch_id, job_id=job.job_id))
    if job.state == types.JOB_STATE_CANCELLED:
        return events.Event(jobs_cancelled=events.JobsCancelled(batch_id=batch_id, jobs=jobs))
    return events.Event(jobs_ready=events.JobsReady(batch_id=batch_id, jobs=jobs))


def _copy(source: str, destination: str) -> None:
    into = destination.endswith("/")
    sources = [source]
    if not os.path.exists(source) and glob.has_magic(source):
        sources, into = sorted(glob.glob(source)), True
    if not sources:
        raise FileNotFoundError(f"{source} matches nothing")
    for each in sources:
        to = os.path.join(destination, os.path.basename(each)) if into else destination
        os.makedirs(os.path.dirname(to), exist_ok=True)
        if os.path.isdir(each):
            shutil.copytree(each, to, dirs_exist_ok=True)
        else:
            shutil.copyfile(each, to)
