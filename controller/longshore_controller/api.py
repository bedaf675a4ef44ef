"""What users call: checked, asked of the engine or the store, answered. No decisions.

Reads come from the store, in threads; changes are the engine's. Whatever is somebody else's is answered
like what does not exist.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

from longshore_api.v1 import (
    batch_service_pb2,
    batch_service_pb2_grpc,
    types_pb2,
)

from longshore_controller.completing import Completing
from longshore_controller.core.events import Event
from longshore_controller.core.model import JobColumns, Refusal, RefusalKind, StagedJobs, Viewer
from longshore_controller.core.query import Query
from longshore_controller.core.reactor import CreateBatch as Wanted
from longshore_controller.core.reactor import UpdateBatch as Update
from longshore_controller.core.rows import AttemptRow, BatchRow
from longshore_controller.engine import Engine
from longshore_controller.explain import Explaining
from longshore_controller.feed import RESET, Committed, Feed, Following
from longshore_controller.interceptors import caller, viewer
from longshore_controller.logs import LogId, LogReading, Logs
from longshore_controller.store import JobView, Store
from longshore_controller.views import ALIVE_EVERY_S, Views
from longshore_controller.visible import MAX_ID, Visible, may_concern, no_batch, read
from longshore_controller.wire import people, records, submission

LIST_S = 10.0
"""For looking at what may match one by one before a list is answered."""
SEARCH_S = 2.0
"""For looking through a log before it is said how far one came."""
LOG_PAGE = 500
"""Commits read at a time from the event log."""
EVENTS_PER_MESSAGE = 10_000
HISTORY = 1_000
"""Deeds told of a batch's history."""
SPEC_BYTES_PER_PAGE = 4 << 20
"""In one answer with specs."""
BUNCHES_PER_CALL = 2
WHOLE = 32
"""Batches that come with their jobs, on their way into commits at once: a commit is not to take long."""
BUNCHES = 4
"""Staged at once; of one call, and of all. The database has a handful of connections."""

Context = Any


class BatchService(batch_service_pb2_grpc.BatchServiceServicer):
    def __init__(
        self,
        store: Store,
        engine: Engine,
        feed: Feed,
        logs: Logs,
        bounds: submission.Bounds,
        *,
        makes_projects: bool,
    ) -> None:
        """``makes_projects``: a billing project exists once it is named."""
        self._store = store
        self._engine = engine
        self._feed = feed
        self._logs = logs
        self._bounds = bounds
        self._makes_projects = makes_projects
        self._staging = asyncio.Semaphore(BUNCHES)
        self._whole = asyncio.Semaphore(WHOLE)
        self._visible = Visible(store, engine)
        self._completing = Completing(store, self._visible)
        self._views = Views(store, feed, self._visible)
        self._explaining = Explaining(store, engine, self._visible)
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        """By batch id: see `_alone`."""

    # -- changes -----------------------------------------------------------------------------------

    async def CreateBatch(
        self, request: batch_service_pb2.CreateBatchRequest, context: Context
    ) -> batch_service_pb2.CreateBatchResponse:
        async with self._whole if request.jobs else nullcontext():
            return await self._create(request)

    async def _create(
        self, request: batch_service_pb2.CreateBatchRequest
    ) -> batch_service_pb2.CreateBatchResponse:
        wanted, jobs, known = await read(self._wanted, request, viewer())
        if known is None:
            batch_id = await self._engine.submit(lambda r, now: r.on_create(wanted, now, jobs))
        elif known.request_sha256 == wanted.request_sha256:
            batch_id = known.batch_id
        else:
            raise Refusal(
                RefusalKind.ALREADY_EXISTS,
                f"request_id {wanted.request_id!r} was used for batch {known.batch_id} with other content; "
                "make a new one for a new batch",
            )
        project = self._engine.project(wanted.billing_project)
        warning = project.warning if project else ""
        return batch_service_pb2.CreateBatchResponse(batch_id=batch_id, warning=warning)

    async def SubmitJobs(
        self, requests: AsyncIterator[batch_service_pb2.SubmitJobsRequest], context: Context
    ) -> batch_service_pb2.SubmitJobsResponse:
        n_jobs = 0
        visible: set[int] = set()
        staging: set[asyncio.Task[None]] = set()
        try:
            async for request in requests:
                if request.batch_id not in visible:
                    await self._visible.batch(request.batch_id)
                    visible.add(request.batch_id)
                if len(staging) >= BUNCHES_PER_CALL:
                    done, staging = await asyncio.wait(staging, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*done)  # Of two that failed one is raised, and both are heard.
                n_jobs += len(request.jobs)
                staging.add(asyncio.create_task(self._stage(request)))
            await asyncio.gather(*staging)
        finally:
            for task in staging:
                task.cancel()
            await asyncio.gather(*staging, return_exceptions=True)
        return batch_service_pb2.SubmitJobsResponse(n_jobs=n_jobs)

    async def CloseBatch(
        self, request: batch_service_pb2.CloseBatchRequest, context: Context
    ) -> batch_service_pb2.CloseBatchResponse:
        submission.check_fields(request)
        batch_id = request.batch_id
        row = await self._visible.batch(batch_id)
        if row.closed_at_ms is None:
            columns = await read(self._store.columns, batch_id)
            await self._engine.submit(lambda r, now: r.on_close(batch_id, columns, now))
        elif row.cancelled_at_ms == row.closed_at_ms and not row.n_jobs:
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION,
                f"batch {batch_id} was cancelled by {row.cancelled_by} before it was closed; make a new one",
            )
        return batch_service_pb2.CloseBatchResponse()

    async def UpdateBatch(
        self, request: batch_service_pb2.UpdateBatchRequest, context: Context
    ) -> batch_service_pb2.UpdateBatchResponse:
        wanted = await read(submission.update_batch, request, self._bounds)
        async with self._alone(wanted.batch_id), self._whole:
            while not await self._update(wanted):
                pass
        n_jobs = wanted.first_job_id - 1 + len(wanted.jobs)
        return batch_service_pb2.UpdateBatchResponse(n_jobs=n_jobs)

    async def CancelBatch(
        self, request: batch_service_pb2.CancelBatchRequest, context: Context
    ) -> batch_service_pb2.CancelBatchResponse:
        reason, user = submission.reason(request), caller()
        batch_id = request.batch_id
        await self._visible.batch(batch_id)
        await self._engine.submit(lambda r, now: r.on_cancel(batch_id, user, reason, now))
        return batch_service_pb2.CancelBatchResponse()

    async def DeleteBatch(
        self, request: batch_service_pb2.DeleteBatchRequest, context: Context
    ) -> batch_service_pb2.DeleteBatchResponse:
        submission.check_fields(request)
        batch_id, user = request.batch_id, caller()
        async with self._alone(batch_id):
            row = await self._visible.batch(batch_id, with_deleted=True)
            if row.deleted_at_ms is None:
                await self._engine.submit(
                    lambda r, now: r.on_delete(batch_id, user, row.user, now, row.billing_project)
                )
        return batch_service_pb2.DeleteBatchResponse()

    async def UndeleteBatch(
        self, request: batch_service_pb2.UndeleteBatchRequest, context: Context
    ) -> batch_service_pb2.UndeleteBatchResponse:
        submission.check_fields(request)
        batch_id, user = request.batch_id, caller()
        async with self._alone(batch_id):
            row = await self._visible.batch(batch_id, with_deleted=True)
            if row.deleted_at_ms is not None:
                await self._engine.submit(
                    lambda r, now: r.on_undelete(batch_id, user, row.user, now, row.billing_project)
                )
        return batch_service_pb2.UndeleteBatchResponse()

    async def EndAttempt(
        self, request: batch_service_pb2.EndAttemptRequest, context: Context
    ) -> batch_service_pb2.EndAttemptResponse:
        reason, attempt_id, user = submission.reason(request), submission.ended_attempt(request), caller()
        key = request.batch_id, request.job_id
        await self._visible.job(*key)
        attempt = await self._named_attempt(*key, attempt_id)
        if attempt.ended_at_ms is None:
            await self._engine.submit(lambda r, now: r.on_end_attempt(attempt_id, user, reason, now))
        return batch_service_pb2.EndAttemptResponse()

    # -- pages -------------------------------------------------------------------------------------

    async def GetBatch(self, request: batch_service_pb2.GetBatchRequest, context: Context) -> types_pb2.Batch:
        submission.check_fields(request)
        row = await self._visible.batch(request.batch_id)
        message = records.batch_message(row)
        if row.n_failed or row.n_cancelled:
            who = viewer()
            reruns = await read(self._store.reruns, row.batch_id)
            message.reruns.extend(r.batch_id for r in reruns if who.sees(r.user, r.billing_project))
        return message

    async def ListBatches(
        self, request: batch_service_pb2.ListBatchesRequest, context: Context
    ) -> batch_service_pb2.ListBatchesResponse:
        size = submission.page_size(request)
        query = submission.batches_query(request.query, self._engine.now_ms(), caller())
        before = min(request.before_batch_id, MAX_ID) or None
        seq = self._engine.seq
        until = time.monotonic() + LIST_S
        rows = await read(
            self._store.batches_matching, viewer(), query, before_id=before, limit=size + 1, until=until
        )
        if rows is None:
            raise _too_long()
        return batch_service_pb2.ListBatchesResponse(
            batches=map(records.batch_message, rows[:size]), more=len(rows) > size, seq=seq
        )

    async def GetBatchHistory(
        self, request: batch_service_pb2.GetBatchHistoryRequest, context: Context
    ) -> batch_service_pb2.GetBatchHistoryResponse:
        submission.check_fields(request)
        await self._visible.batch(request.batch_id)
        deeds = await read(self._store.history, request.batch_id, HISTORY)
        return batch_service_pb2.GetBatchHistoryResponse(deeds=map(people.deed_message, deeds))

    async def GetJob(self, request: batch_service_pb2.GetJobRequest, context: Context) -> types_pb2.Job:
        submission.check_fields(request)
        key = request.batch_id, request.job_id
        job = await self._visible.job(*key)
        specs = await read(self._store.specs, [key])
        attempts = await read(self._store.attempts, *key)
        return records.whole_job_message(job, specs[key], attempts)

    async def ListJobs(
        self, request: batch_service_pb2.ListJobsRequest, context: Context
    ) -> batch_service_pb2.ListJobsResponse:
        size, states = submission.page_size(request), submission.job_states(request)
        query = submission.jobs_query(request.query, self._engine.now_ms(), states)
        after = min(request.after_job_id, submission.MAX_JOBS)
        batch = await self._visible.batch(request.batch_id)
        seq = self._engine.seq
        if not query.asks_states_alone:
            jobs = await self._search(batch, query, after, size + 1)
        else:
            jobs = await read(
                self._store.jobs,
                request.batch_id,
                after_job_id=after,
                limit=size + 1,
                states=query.job_states,
            )
        if request.with_spec:
            keys = [(job.row.batch_id, job.row.job_id) for job in jobs[:size]]
            specs = await read(self._store.specs, keys)
            messages = records.job_messages_with_specs(jobs[:size], specs, SPEC_BYTES_PER_PAGE)
        else:
            messages = list(map(records.job_message, jobs[:size]))
        return batch_service_pb2.ListJobsResponse(jobs=messages, more=len(jobs) > len(messages), seq=seq)

    async def Explain(
        self, request: batch_service_pb2.ExplainRequest, context: Context
    ) -> batch_service_pb2.Explanation:
        submission.check_fields(request)
        if request.job_id:
            reasons = [await self._explaining.job(request.batch_id, request.job_id)]
        else:
            reasons = await self._explaining.batch(request.batch_id)
        return batch_service_pb2.Explanation(reasons=map(records.reason_message, reasons))

    async def CompleteQuery(
        self, request: batch_service_pb2.CompleteQueryRequest, context: Context
    ) -> batch_service_pb2.CompleteQueryResponse:
        text, cursor = submission.query_so_far(request)
        answer = await self._completing.query(text, cursor, request.batch_id)
        return batch_service_pb2.CompleteQueryResponse(
            first=answer.first,
            length=answer.length,
            completions=(batch_service_pb2.QueryCompletion(text=c.text, n=c.n) for c in answer.found),
            n_looked_at=answer.n_looked_at,
        )

    async def FailureGroups(
        self, request: batch_service_pb2.FailureGroupsRequest, context: Context
    ) -> batch_service_pb2.FailureGroupsResponse:
        limit = submission.failures_limit(request)
        batch = await self._visible.batch(request.batch_id)
        tallies = [tally for _, tally in await read(self._store.failures, batch.batch_id, limit)]
        ids = sorted(tally.first_job_id for tally in tallies)
        examples = {job.row.job_id: job for job in await read(self._store.jobs_of, batch.batch_id, ids)}
        groups = (
            batch_service_pb2.FailureGroup(
                n=tally.n, example=records.job_message(examples[tally.first_job_id])
            )
            for tally in tallies
            if tally.first_job_id in examples  # The batch may have been deleted meanwhile.
        )
        # Jobs may have failed since the batch was read.
        n_failed = max(batch.n_failed, sum(tally.n for tally in tallies))
        return batch_service_pb2.FailureGroupsResponse(groups=groups, n_failed=n_failed)

    # -- streams -----------------------------------------------------------------------------------

    def WatchBatch(
        self, request: batch_service_pb2.WatchBatchRequest, context: Context
    ) -> AsyncIterator[Any]:
        submission.check_fields(request)
        return self._views.batch(request.batch_id)

    async def WatchEvents(
        self, request: batch_service_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[Any]:
        submission.check_fields(request)
        # An admin may look at any batch, but is not told of everybody's.
        batch_id, who = request.batch_id, replace(viewer(), admin=False)
        if batch_id:
            await self._visible.batch(batch_id)
        mine = _Mine(self._store, who, batch_id)
        with self._feed.follow(batch=batch_id) if batch_id else self._feed.follow(viewer=who) as following:
            seq, behind = request.after_seq, True
            if not request.HasField("after_seq"):
                seq, behind = self._engine.seq, False
                yield batch_service_pb2.WatchEventsResponse(seq=seq)
            while True:
                while behind:
                    commits = await read(self._store.events_after, min(seq, MAX_ID), LOG_PAGE)
                    if commits is None:
                        seq = self._engine.seq
                        yield batch_service_pb2.WatchEventsResponse(seq=seq, reset=True)
                        behind = False
                        continue
                    for last_seq, events in commits:
                        for message in _event_messages(seq, last_seq, await mine.among(events)):
                            yield message
                        seq = last_seq
                    behind = bool(commits)
                # What was committed up to here is in the mailbox, or was told.
                told = self._engine.seq
                news = await following.next(ALIVE_EVERY_S)
                if news is None:
                    seq = max(seq, told)
                    yield batch_service_pb2.WatchEventsResponse(seq=seq)
                elif news is RESET:
                    behind = True
                else:
                    for told, written in _messages_of(news, seq):
                        yield written
                        seq = told

    def WatchBatches(
        self, requests: AsyncIterator[batch_service_pb2.BatchesWindow], context: Context
    ) -> AsyncIterator[Any]:
        me, now_ms = caller(), self._engine.now_ms
        return self._views.batches(submission.batches_window(w, now_ms(), me) async for w in requests)

    def WatchJobs(
        self, requests: AsyncIterator[batch_service_pb2.JobsWindow], context: Context
    ) -> AsyncIterator[Any]:
        now_ms = self._engine.now_ms
        return self._views.jobs(submission.jobs_window(w, now_ms()) async for w in requests)

    def WatchJob(
        self, request: batch_service_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[types_pb2.Job]:
        submission.check_fields(request)
        return self._views.job(request.batch_id, request.job_id)

    async def ReadLog(
        self, request: batch_service_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[batch_service_pb2.LogChunk]:
        query = submission.log_query(request)
        job = await self._visible.job(query.batch_id, query.job_id)
        with self._feed.follow(batch=query.batch_id) as following:
            attempt = await self._attempt(query, following)
            if attempt is None:
                yield batch_service_pb2.LogChunk(end=True, incomplete=not job.row.state.is_complete)
                return
            log = LogId(query.batch_id, query.job_id, attempt.attempt_id, query.container)
            with self._logs.watching(log, following.wake):
                reading = LogReading(self._store, self._logs, log, attempt, following)
                async for piece in reading.pieces(query):
                    yield batch_service_pb2.LogChunk(**piece._asdict())

    async def SearchLog(
        self, request: batch_service_pb2.SearchLogRequest, context: Context
    ) -> batch_service_pb2.SearchLogResponse:
        wanted = submission.log_search(request)
        key = wanted.batch_id, wanted.job_id
        await self._visible.job(*key)
        if wanted.attempt_id:
            attempt: AttemptRow | None = await self._named_attempt(*key, wanted.attempt_id)
        else:
            attempt = next(iter((await read(self._store.attempts, *key))[-1:]), None)
        if attempt is None:
            return batch_service_pb2.SearchLogResponse(end=True)
        log = LogId(*key, attempt.attempt_id, wanted.container)
        until = time.monotonic() + SEARCH_S
        found = await self._logs.find(log, wanted.text, wanted.offset, backward=wanted.backward, until=until)
        return batch_service_pb2.SearchLogResponse(**found._asdict())

    # -- pieces ------------------------------------------------------------------------------------

    async def _update(self, wanted: Update) -> bool:
        """False: the batch became complete meanwhile, or runs again."""
        row = await self._visible.batch(wanted.batch_id)
        is_over = row.completed_at_ms is not None
        left = await read(self._store.left_batch, row.batch_id) if is_over else None
        return await self._engine.submit(lambda r, now: r.on_update(wanted, left, now))

    def _alone(self, batch_id: int) -> asyncio.Lock:
        """Held by who reads a complete batch and changes it then: what was read stays true meanwhile."""
        turn = self._turns.get(batch_id)
        if turn is None:
            turn = self._turns[batch_id] = asyncio.Lock()
        return turn

    async def _search(self, batch: BatchRow, query: Query, after_job_id: int, limit: int) -> list[JobView]:
        """Jobs that are looked at one by one, for a bounded time."""
        if batch.closed_at_ms is None:
            return []
        until = time.monotonic() + LIST_S
        found = await read(
            self._store.search_jobs,
            batch,
            query,
            after_job_id=after_job_id,
            limit=limit,
            stop=lambda: time.monotonic() > until,
        )
        if len(found.job_ids) < limit and found.searched_to < batch.n_jobs:
            raise _too_long()
        return await read(self._store.jobs_of, batch.batch_id, found.job_ids[:limit])

    def _wanted(
        self, request: batch_service_pb2.CreateBatchRequest, who: Viewer
    ) -> tuple[Wanted, tuple[StagedJobs, JobColumns] | None, BatchRow | None]:
        """What is asked for, its jobs if they are here, and the batch that was made of it. In a thread."""
        wanted, jobs = submission.create_batch(request, who.name, self._bounds)
        known = self._store.batch_of_request(wanted.user, wanted.request_id)
        if known is None:
            self._check_member(who, wanted.billing_project)
            if wanted.rerun_of:
                before = self._store.batch(wanted.rerun_of)
                if before is None or not who.sees(before.user, before.billing_project):
                    raise no_batch(wanted.rerun_of)
        return wanted, (jobs, jobs.columns()) if jobs else None, known

    def _check_member(self, who: Viewer, project: str) -> None:
        """Whoever first names a project of a service that makes them becomes its owner."""
        if project in who.projects or self._store.member_role(project, who.name) is not None:
            return
        if self._makes_projects and self._store.found_project(project, who.name):
            return
        raise Refusal(
            RefusalKind.PERMISSION_DENIED,
            f"billing project {project!r}: you are not a member; ask its owner, or use another",
        )

    async def _stage(self, request: batch_service_pb2.SubmitJobsRequest) -> None:
        def stage() -> None:
            jobs = submission.staged_jobs(request, self._bounds)
            self._store.stage(request.batch_id, request.first_job_id, jobs)

        async with self._staging:
            await read(stage)

    async def _attempt(self, query: submission.LogQuery, following: Following) -> AttemptRow | None:
        """Whose log is asked for; None: the job has none, and either never will or nobody waits."""
        key = query.batch_id, query.job_id
        if query.attempt_id:
            return await self._named_attempt(*key, query.attempt_id)
        while not (attempts := await read(self._store.attempts, *key)):
            if not query.follow or (await self._visible.job(*key)).row.state.is_complete:
                return None
            while not may_concern(await following.next(), query.job_id):
                pass
        return attempts[-1]

    async def _named_attempt(self, batch_id: int, job_id: int, attempt_id: str) -> AttemptRow:
        row = await read(self._store.attempt, attempt_id)
        if row is None or (row.batch_id, row.job_id) != (batch_id, job_id):
            job = f"job {job_id} of batch {batch_id}"
            raise Refusal(RefusalKind.NOT_FOUND, f"there is no attempt {attempt_id} of {job}")
        return row


class _Mine:
    """Which events concern what somebody sees, or one batch."""

    def __init__(self, store: Store, viewer: Viewer, batch_id: int) -> None:
        self._store = store
        self._viewer = viewer
        self._batch_id = batch_id
        self._known: dict[int, bool] = {}

    async def among(self, events: list[Event]) -> list[Event]:
        for batch_id in {getattr(event, "batch_id", 0) for event in events} - self._known.keys():
            self._known[batch_id] = await self._is_mine(batch_id)
        return [event for event in events if self._known[getattr(event, "batch_id", 0)]]

    async def _is_mine(self, batch_id: int) -> bool:
        if not batch_id or self._batch_id:
            return bool(batch_id) and batch_id == self._batch_id
        row = await read(self._store.batch, batch_id, with_deleted=True)
        return row is not None and self._viewer.sees(row.user, row.billing_project)


def _messages_of(news: list[Committed], seq: int) -> Iterator[tuple[int, bytes]]:
    """News after that number, each with the number that is told with it.

    What was committed while the last message was under way comes in one, so that who is slow, or one of
    many, is told in fewer messages. Each commit's is written once for all who watch.
    """
    parts: list[bytes] = []
    n_events = 0
    for committed in news:
        if committed.seq <= seq:
            continue
        if parts and n_events + len(committed.events) > EVENTS_PER_MESSAGE:
            yield seq, b"".join(parts)
            parts, n_events = [], 0
        *pieces, last = _written(committed, seq)
        for piece in pieces:
            yield seq, piece
        parts.append(last)
        n_events += len(committed.events)
        seq = committed.seq
    if parts:
        # Messages one after another are one: all their events, and the last one's number.
        yield seq, b"".join(parts)


def _written(committed: Committed, before: int) -> list[bytes]:
    """One commit's events; but for those of very many they are the same whatever came before."""
    if len(committed.events) > EVENTS_PER_MESSAGE:
        return [m.SerializeToString() for m in _event_messages(before, committed.seq, committed.events)]
    if (messages := committed.made.get("events")) is None:
        found = _event_messages(before, committed.seq, committed.events)
        messages = committed.made["events"] = [message.SerializeToString() for message in found]
    return messages


def _event_messages(
    before: int, seq: int, events: list[Event]
) -> Iterator[batch_service_pb2.WatchEventsResponse]:
    """One commit's, in messages of bounded size; who goes on after one of the first gets all again."""
    for at in range(0, len(events), EVENTS_PER_MESSAGE):
        some = events[at : at + EVENTS_PER_MESSAGE]
        last = at + len(some) == len(events)
        yield batch_service_pb2.WatchEventsResponse(
            seq=seq if last else before, events=map(records.event_message, some)
        )


def _too_long() -> Refusal:
    return Refusal(
        RefusalKind.RESOURCE_EXHAUSTED,
        f"query: looking through what may match took longer than {LIST_S:.0f} s; "
        "ask for fewer at once by states or ids, e.g. id:1..100000",
    )
