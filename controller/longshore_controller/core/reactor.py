"""PURE. Every decision: what came in and the time go in, events come out.

Rules. A request that is refused raises `Refusal` and has changed nothing. Everything else that comes
in, above all a worker's word, is input: unknown, late, repeated or impossible things have no effect.
Each event is applied to the state as it is emitted, so the next decision sees it; none is true for
anybody else before the engine has committed what `take` returns. Long work (cancelling or releasing
many jobs, placing many) is done in slices: `advance` says whether there is more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from longshore_controller.core import events as ev
from longshore_controller.core.model import (
    ALWAYS_RUN,
    DOOMED,
    STATE_MASK,
    AttemptState,
    ContainerName,
    EndReason,
    HeldAttempt,
    Hello,
    JobColumns,
    JobState,
    Orders,
    Refusal,
    RefusalKind,
    Report,
    ranges,
)
from longshore_controller.core.scheduler import placements
from longshore_controller.core.state import Attempt, Batch, Changes, State


@dataclass(frozen=True, slots=True)
class Limits:
    """Every tunable of the core, its unit, and what happens when it runs out."""

    lease_ms: int = 30_000
    """A worker that hears nothing for so long stops its containers."""
    grace_ms: int = 10_000
    """Lease and grace after its last word a worker is lost: its attempts end and are tried again."""
    unknown_after_ms: int = 10_000
    """An attempt assigned this long ago that its worker does not mention: it is told again."""
    progress_ms: int = 60_000
    """How often billed time of a running attempt is made durable."""
    slice_jobs: int = 1_000
    """Jobs cancelled, released or placed in one step."""


@dataclass(slots=True)
class Session:
    """One connection of one worker, the latest. Not state: it dies with the controller."""

    number: int
    lost_at_ms: int
    """When the worker is lost unless it is heard before."""
    connected: bool = True


@dataclass(frozen=True, slots=True)
class CreateBatch:
    """What a user asks for. ``request_sha256`` is of all the rest: same id, other content, refused."""

    user: str
    billing_project: str
    request_id: str
    request_sha256: bytes
    n_jobs: int
    attributes: dict[str, str] = field(default_factory=dict)


class Reactor:
    """Decides. Plain and synchronous: time is an argument, ids come from ``new_id``."""

    def __init__(self, state: State, new_id: Callable[[], str], limits: Limits, *, now: int) -> None:
        """Workers known from before have a whole lease and grace from ``now`` to come back."""
        self.state = state
        self._new_id = new_id
        self._limits = limits
        self._events: list[ev.Event] = []
        self._last_session = 0
        self._sessions = {w: Session(0, self._lost_at(now), connected=False) for w in state.workers}
        self._progress: dict[str, int] = {}
        """attempt id -> ms its main container has run, by the last word of its worker."""

    def take(self) -> tuple[list[ev.Event], Changes]:
        """The events since the last call and what they did to rows."""
        events, self._events = self._events, []
        return events, self.state.take_changes()

    def resume(self, before: Reactor, now: int) -> None:
        """Take over the connections of a reactor whose memory was thrown away after a failed commit."""
        self._last_session = before._last_session
        self._progress = {a: ms for a, ms in before._progress.items() if a in self.state.attempts}
        for worker_id, session in before._sessions.items():
            if worker_id in self.state.workers:
                self._sessions[worker_id] = session
                session.lost_at_ms = self._lost_at(now)

    # -- users ---------------------------------------------------------------------------------------

    def on_create(self, request: CreateBatch, now: int) -> int:
        """The batch's id. The same request again: the same id."""
        known = self.state.requests.get((request.user, request.request_id))
        if known is not None:
            if self.state.batches[known].request_sha256 != request.request_sha256:
                raise Refusal(
                    RefusalKind.ALREADY_EXISTS,
                    f"request_id {request.request_id!r} was used for batch {known} with other content; "
                    "make a new one for a new batch",
                )
            return known
        batch_id = self.state.next_batch_id
        self._emit(
            ev.BatchCreated(
                batch_id, request.user, request.billing_project, request.request_id, request.request_sha256,
                request.n_jobs, request.attributes, now,
            )
        )  # fmt: skip
        return batch_id

    def on_close(self, batch_id: int, columns: JobColumns, now: int) -> None:
        """The batch runs. Idempotent. ``columns`` are its declared jobs, all of them."""
        batch = self.state.batches.get(batch_id)
        if batch is not None and batch.closed_at_ms is None:
            assert len(columns) == batch.n_jobs
            self._emit(ev.BatchClosed(batch_id, now, columns))

    def on_cancel(self, batch_id: int, by: str, reason: str, now: int) -> None:
        """No job of the batch that is not always_run starts from the commit of this on. Idempotent."""
        batch = self.state.batches.get(batch_id)
        if batch is not None and not batch.cancelled and not batch.is_complete:
            self._emit(ev.BatchCancelled(batch_id, by, reason, now))

    def on_delete(self, batch_id: int, by: str, now: int) -> None:
        """Hide the batch; when it is unfinished cancel it too. Idempotent."""
        batch = self.state.batches.get(batch_id)
        if batch is not None:
            if batch.deleted_at_ms is not None:
                return
            self.on_cancel(batch_id, by, "batch deleted", now)
        self._emit(ev.BatchDeleted(batch_id, by, now))

    # -- workers -------------------------------------------------------------------------------------

    def on_hello(self, hello: Hello, now: int) -> tuple[int, Orders]:
        """A worker (re)connected: its session number and every attempt that it should hold."""
        worker = self.state.workers.get(hello.worker_id)
        used = worker.capacity_mcpu - worker.free_mcpu if worker else 0
        if worker is None or (worker.capacity_mcpu != hello.capacity_mcpu and used <= hello.capacity_mcpu):
            self._emit(ev.WorkerJoined(hello.worker_id, hello.name, hello.capacity_mcpu, hello.runtime, now))
        self._last_session += 1
        self._sessions[hello.worker_id] = Session(self._last_session, self._lost_at(now))
        self._note_progress(hello.worker_id, hello.held, now)
        return self._last_session, self._orders(hello.worker_id, hello.held, hello.spooled, now)

    def on_heartbeat(
        self, worker_id: str, session: int, held: tuple[HeldAttempt, ...], spooled: tuple[str, ...], now: int
    ) -> Orders | None:
        """The lease is extended. Orders only when what the worker holds is not what it should hold."""
        self._heard(worker_id, session, now)
        self._note_progress(worker_id, held, now)
        attempts = self.state.attempts
        here = {h.attempt_id for h in held}
        gone = here.union(spooled)
        diverged = any(i not in attempts or attempts[i].worker_id != worker_id for i in here) or any(
            i not in gone and now - attempts[i].assigned_at_ms > self._limits.unknown_after_ms
            for i in self.state.workers[worker_id].attempts
        )
        diverged = diverged or any(attempts[i].revoked for i in here if i in attempts)
        return self._orders(worker_id, held, spooled, now) if diverged else None

    def on_reports(self, worker_id: str, session: int, reports: tuple[Report, ...], now: int) -> None:
        """Whatever they say may be acknowledged once this is committed, also when it had no effect."""
        self._heard(worker_id, session, now)
        for report in reports:
            attempt = self.state.attempts.get(report.attempt_id)
            if attempt is None or attempt.worker_id != worker_id:
                continue
            if report.state is AttemptState.STARTED:
                self._started(attempt, report.main_ms, now)
            elif report.state is AttemptState.ENDED:
                self._end(attempt, _plausible(report), now)

    def on_disconnect(self, worker_id: str, session: int) -> None:
        """The connection is gone; the lease runs on. Nothing new is given to the worker meanwhile."""
        known = self._sessions.get(worker_id)
        if known is not None and known.number == session:
            known.connected = False

    # -- time ----------------------------------------------------------------------------------------

    def advance(self, now: int) -> bool:
        """Do what is due: lost workers, cancelling, releasing, completing, placing. True: call again."""
        for worker_id, session in list(self._sessions.items()):
            if now >= session.lost_at_ms:
                self._lose(worker_id, now)
        size = self._limits.slice_jobs
        left = self._cancel_jobs(size, now), self._announce(size, now), self._place(size, now)
        return min(left) <= 0

    def next_due(self) -> int | None:
        """When `advance` has something to do even if nothing comes in."""
        return min((s.lost_at_ms for s in self._sessions.values()), default=None)

    # -- pieces --------------------------------------------------------------------------------------

    def _emit(self, event: ev.Event) -> None:
        self.state.apply(event)
        self._events.append(event)

    def _lost_at(self, now: int) -> int:
        return now + self._limits.lease_ms + self._limits.grace_ms

    def _heard(self, worker_id: str, session: int, now: int) -> None:
        known = self._sessions.get(worker_id)
        if known is None or known.number != session or worker_id not in self.state.workers:
            raise Refusal(RefusalKind.FAILED_PRECONDITION, "this session is over; connect again")
        known.lost_at_ms = self._lost_at(now)

    def _orders(
        self, worker_id: str, held: tuple[HeldAttempt, ...], spooled: tuple[str, ...], now: int
    ) -> Orders:
        here = {h.attempt_id for h in held}
        run: list[str] = []
        keep: list[str] = []
        for attempt_id in sorted(self.state.workers[worker_id].attempts):
            attempt = self.state.attempts[attempt_id]
            if attempt_id in spooled:
                continue
            if attempt_id in here:
                if not attempt.revoked:
                    keep.append(attempt_id)
            elif attempt.revoked:
                self._end(attempt, _end_of(EndReason.REVOKED, attempt, attempt.revoked), now)
            elif attempt.state is AttemptState.STARTED:
                # It must not start a second time under the same id.
                self._end(
                    attempt, _end_of(EndReason.LOST, attempt, "the worker does not know it any more"), now
                )
            else:
                run.append(attempt_id)
        return Orders(complete=True, run=tuple(run), keep=tuple(keep))

    def _note_progress(self, worker_id: str, held: tuple[HeldAttempt, ...], now: int) -> None:
        for h in held:
            attempt = self.state.attempts.get(h.attempt_id)
            if attempt is None or attempt.worker_id != worker_id or not h.main_ms:
                continue
            self._started(attempt, h.main_ms, now)
            ms = self._clamp(attempt, h.main_ms, now)
            self._progress[h.attempt_id] = ms
            if ms - attempt.main_ms >= self._limits.progress_ms:
                self._emit(ev.AttemptProgressed(attempt.attempt_id, attempt.batch_id, attempt.job_id, ms))

    def _clamp(self, attempt: Attempt, main_ms: int, now: int) -> int:
        """Billed time never shrinks, and nothing ran before it was assigned."""
        so_far = max(attempt.main_ms, self._progress.get(attempt.attempt_id, 0))
        return max(so_far, min(main_ms, now - attempt.assigned_at_ms), 0)

    def _started(self, attempt: Attempt, main_ms: int, now: int) -> None:
        if attempt.state < AttemptState.STARTED:
            at = now - self._clamp(attempt, main_ms, now)
            self._emit(ev.AttemptStarted(attempt.attempt_id, attempt.batch_id, attempt.job_id, at))

    def _end(self, attempt: Attempt, report: Report, now: int) -> None:
        assert report.reason is not None
        main_ms = self._clamp(attempt, report.main_ms, now)
        if main_ms:
            self._started(attempt, main_ms, now)
        self._progress.pop(attempt.attempt_id, None)
        reason = report.reason
        if reason is EndReason.REVOKED and not attempt.revoked:
            reason = EndReason.LOST
        self._emit(
            ev.AttemptEnded(
                attempt.attempt_id, attempt.batch_id, attempt.job_id, reason, report.message, main_ms, now,
                report.containers,
            )
        )  # fmt: skip

    def _lose(self, worker_id: str, now: int) -> None:
        del self._sessions[worker_id]
        if worker_id not in self.state.workers:
            return
        why = "the worker's lease ran out"
        for attempt_id in sorted(self.state.workers[worker_id].attempts):
            attempt = self.state.attempts[attempt_id]
            ended = EndReason.REVOKED if attempt.revoked else EndReason.LOST
            self._end(attempt, _end_of(ended, attempt, why), now)
        self._emit(ev.WorkerLost(worker_id, why, now))

    def _cancel_jobs(self, left: int, now: int) -> int:
        for batch_id, start in list(self.state.cancelling.items()):
            if left <= 0:
                break
            batch = self.state.batches[batch_id]
            assert batch.columns is not None
            states = batch.columns.states
            at, ids = start, []
            while at < len(states) and left > 0:
                byte = states[at]
                if byte in _CANCELLABLE:
                    ids.append(at + 1)
                    left -= 1
                at += 1
            reason = f"batch cancelled by {batch.cancelled_by}"
            if ids:
                self._emit(ev.JobsCancelled(batch_id, ranges(ids), reason, now))
            if start == 0:
                for attempt_id in sorted(batch.attempts):
                    attempt = self.state.attempts[attempt_id]
                    if not attempt.revoked and not batch.runnable(attempt.job_id):
                        self._emit(
                            ev.AttemptRevoked(
                                attempt_id, batch_id, attempt.job_id, attempt.worker_id, reason, now
                            )
                        )
            if at < len(states):
                self.state.cancelling[batch_id] = at
            else:
                del self.state.cancelling[batch_id]
        return left

    def _announce(self, left: int, now: int) -> int:
        """Pending jobs whose parents are all complete: Ready or Cancelled; then complete batches."""
        while self.state.unannounced and left > 0:
            batch_id = next(iter(self.state.unannounced))
            batch = self.state.batches.get(batch_id)
            if batch is not None and batch.due:
                left -= self._release(batch, left, now)
                continue
            del self.state.unannounced[batch_id]
            if batch is not None and batch.is_complete:
                self._emit(ev.BatchCompleted(batch_id, now))
        return left

    def _release(self, batch: Batch, limit: int, now: int) -> int:
        assert batch.columns is not None
        states = batch.columns.states
        batch.due.sort(reverse=True)
        ready: list[int] = []
        doomed: list[int] = []
        for _ in range(min(limit, len(batch.due))):
            at = batch.due.pop()
            if states[at] & STATE_MASK != JobState.PENDING:
                continue
            (doomed if states[at] & DOOMED else ready).append(at + 1)
        if ready:
            self._emit(ev.JobsReady(batch.batch_id, ranges(ready)))
        if doomed:
            why = "a job it depends on did not succeed"
            self._emit(ev.JobsCancelled(batch.batch_id, ranges(doomed), why, now))
        return len(ready) + len(doomed)

    def _place(self, left: int, now: int) -> int:
        connected = [w for w, s in self._sessions.items() if s.connected]
        if left <= 0 or not connected:
            return left
        for p in placements(self.state, connected):
            tries = self.state.batches[p.batch_id].tries.get(p.job_id)
            number = tries.n_attempts + 1 if tries else 1
            self._emit(
                ev.AttemptAssigned(self._new_id(), p.batch_id, p.job_id, number, p.worker_id, p.mcpu, now)
            )
            left -= 1
            if left <= 0:
                break
        return left


_CANCELLABLE = frozenset((JobState.PENDING, JobState.PENDING | DOOMED, JobState.READY))
assert not any(byte & ALWAYS_RUN for byte in _CANCELLABLE)


def _end_of(reason: EndReason, attempt: Attempt, message: str) -> Report:
    return Report(attempt.attempt_id, AttemptState.ENDED, attempt.main_ms, reason, message)


def _plausible(report: Report) -> Report:
    """A worker's report of an end, or LOST where it says what cannot be."""
    codes = {c.container: c.exit_code for c in report.containers}
    ok = report.reason is not None and len(codes) == len(report.containers)
    if ok and report.reason is EndReason.COMPLETED:
        ok = codes.get(ContainerName.MAIN) is not None or bool(codes.get(ContainerName.INPUT))
    if ok:
        return report
    return Report(
        report.attempt_id, AttemptState.ENDED, report.main_ms, EndReason.LOST, "its report makes no sense"
    )
