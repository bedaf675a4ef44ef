"""PURE. Every decision: what came in and the time go in, events come out.

Rules. A request that is refused raises `Refusal` and has changed nothing. Everything else that comes
in, above all a worker's word, is input: unknown, late, repeated or impossible things have no effect.
Each event is applied to the state as it is emitted, so the next decision sees it; none is true for
anybody else before the engine has committed what `take` returns. Long work (cancelling or releasing
many jobs, placing many) is done in slices: `advance` says whether there is more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

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
    Retries,
    StagedJobs,
    Unfit,
    ranges,
)
from longshore_controller.core.money import DAY_MS, RateCard, cost_nanousd, dollars
from longshore_controller.core.rows import Changes
from longshore_controller.core.scheduler import Reservation, Room, placements
from longshore_controller.core.state import Attempt, Batch, Project, State
from longshore_controller.core.verdict import verdict


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
    """Jobs released or placed in one step."""
    slice_cancelled: int = 250
    """Jobs looked at for cancelling in one step: each is a row, and nobody waits for them ..."""
    slice_cancelled_busy: int = 20
    """... in a step that somebody waits for."""
    shun_ms: int = 1_000
    """A worker that refuses or loses an attempt gets nothing for so long, doubling each time ..."""
    shun_most_ms: int = 300_000
    """... up to this, until an attempt on it comes to an end of its own."""
    clock_slack_ms: int = 86_400_000
    """By how much a clock set back across a restart may make an older attempt's bill look too long."""
    remembered_requests: int = 10_000
    """Request ids of complete batches that are known without asking the database."""


@dataclass(slots=True)
class Session:
    """One connection of one worker, the latest. Not state: it dies with the controller."""

    number: int
    hello: Hello | None
    lost_at_ms: int
    """When the worker is lost unless it is heard before."""
    connected: bool = True
    leaving: bool = False
    """It reported a preemption since its Hello: it gets nothing more before its next one."""
    shunned_until_ms: int = 0
    shunned_for_ms: int = 0


@dataclass(frozen=True, slots=True)
class CreateBatch:
    """What a user asks for. ``request_sha256`` is of all the rest: same id, other content, refused."""

    user: str
    billing_project: str
    request_id: str
    request_sha256: bytes
    n_jobs: int
    attributes: dict[str, str] = field(default_factory=dict)
    cancel_after_n_failures: int = 0
    callback: str = ""
    rerun_of: int = 0


@dataclass(frozen=True, slots=True)
class UpdateBatch:
    """Jobs that a user adds to a batch, from ``first_job_id`` on. Same id, other content: refused."""

    batch_id: int
    request_id: str
    request_sha256: bytes
    first_job_id: int
    jobs: StagedJobs


class Reactor:
    """Decides. Plain and synchronous: time is an argument, ids come from ``new_id``."""

    def __init__(self, state: State, new_id: Callable[[], str], limits: Limits, *, now: int) -> None:
        """Workers known from before have a whole lease and grace from ``now`` to come back."""
        self.state = state
        self._new_id = new_id
        self._limits = limits
        self._events: list[ev.Event] = []
        self._bunches: list[tuple[int, int, StagedJobs]] = []
        """Jobs that came with their batches since the last `take`, for their rows: memory has the columns."""
        self._last_session = 0
        self._sessions = {w: Session(0, None, self._lost_at(now), connected=False) for w in state.workers}
        self._progress: dict[str, int] = {}
        """attempt id -> ms its main container has run, by the last word of its worker."""
        self._inherited = set(state.attempts)
        """Attempts assigned before this process began, maybe by another clock."""
        self.kept: Reservation | None = None
        """The worker that is kept for a job too large for what is free; not state, it is found anew."""
        self._ending: list[str] = []
        self._ended: list[str] = []
        """Attempts that ended since the last `take`, and those before it, whose commit may yet fail."""
        self._completed: OrderedDict[tuple[str, str], tuple[int, bytes]] = OrderedDict()
        """(user, request id) -> batch id and content of batches that have left memory lately."""
        self._left: OrderedDict[int, int] = OrderedDict()
        """Batch id -> with how many jobs it has left memory lately."""

    def take(self) -> tuple[list[ev.Event], Changes]:
        """The events since the last call and what they did to rows. Who calls again has committed those."""
        for attempt_id in self._ended:
            self._progress.pop(attempt_id, None)
            self._inherited.discard(attempt_id)
        self._ended, self._ending = self._ending, []
        events, self._events = self._events, []
        changes = self.state.take_changes()
        changes.bunches[:0], self._bunches = self._bunches, []
        return events, changes

    @property
    def emitted(self) -> list[ev.Event]:
        """The events since the last `take`, so far."""
        return self._events

    def resume(self, before: Reactor, now: int) -> None:
        """Take over from a reactor whose memory was thrown away: who it knew, not who is connected.

        Every worker has to say Hello again, and has a whole lease and grace for it.
        """
        self._last_session = before._last_session
        self._progress = {a: ms for a, ms in before._progress.items() if a in self.state.attempts}
        self._inherited &= before._inherited
        self._completed = before._completed
        for worker_id, session in before._sessions.items():
            if worker_id in self.state.workers:
                session.connected, session.lost_at_ms = False, self._lost_at(now)
                self._sessions[worker_id] = session

    # -- users ---------------------------------------------------------------------------------------

    def on_create(
        self, request: CreateBatch, now: int, jobs: tuple[StagedJobs, JobColumns] | None = None
    ) -> int:
        """The batch's id. The same request again: the same id. With its jobs it is closed, too."""
        key = request.user, request.request_id
        known = self._completed.get(key)
        if key in self.state.requests:
            known = self.state.requests[key], self.state.batches[self.state.requests[key]].request_sha256
        if known is not None:
            if known[1] != request.request_sha256:
                raise Refusal(
                    RefusalKind.ALREADY_EXISTS,
                    f"request_id {request.request_id!r} was used for batch {known[0]} with other content; "
                    "make a new one for a new batch",
                )
            return known[0]
        self._require_budget(request.billing_project)
        batch_id = self.state.next_batch_id
        self._emit(
            ev.BatchCreated(
                batch_id, request.user, request.billing_project, request.request_id, request.request_sha256,
                request.n_jobs, request.attributes, now, request.cancel_after_n_failures,
                request.callback, request.rerun_of,
            )
        )  # fmt: skip
        if jobs is not None:
            bunch, columns = jobs
            self._bunches.append((batch_id, 1, bunch))
            self.on_close(batch_id, columns, now)
        return batch_id

    def on_close(self, batch_id: int, columns: JobColumns, now: int) -> None:
        """The batch runs. Idempotent. ``columns`` are its declared jobs, all of them."""
        batch = self.state.batches.get(batch_id)
        if batch is not None and batch.closed_at_ms is None:
            assert len(columns) == batch.n_jobs
            self._emit(ev.BatchClosed(batch_id, now, columns))
            self._stop_at_limit(batch.billing_project, now)

    def on_update(self, wanted: UpdateBatch, left: Batch | None, now: int) -> bool:
        """The jobs are there and may run. The same request again has no second effect.

        ``left``: the batch as its rows are if it is complete, which then runs again. False: it is not in
        memory, and ``left`` is missing or no longer what it is; read it and ask again.
        """
        batch = self.state.batches.get(wanted.batch_id)
        if batch is None:
            if left is None or self._left.get(left.batch_id, left.n_jobs) != left.n_jobs:
                return False
            batch = left
        if (known := batch.updates.get(wanted.request_id)) is not None:
            if known.request_sha256 != wanted.request_sha256:
                raise Refusal(
                    RefusalKind.ALREADY_EXISTS,
                    f"request_id {wanted.request_id!r} has added other jobs to batch {batch.batch_id}, from "
                    f"job {known.first_job_id} on; make a new one to add more",
                )
            return True
        _check_takes_jobs(batch, wanted.first_job_id)
        if batch is left:
            self._emit(ev.BatchReopened(batch.batch_id, batch.user, batch.n_jobs, now, batch))
        self._emit(
            ev.JobsAdded(
                batch.batch_id, wanted.request_id, wanted.request_sha256, wanted.first_job_id,
                len(wanted.jobs), now, wanted.jobs,
            )
        )  # fmt: skip
        return True

    def on_cancel(self, batch_id: int, by: str, reason: str, now: int) -> None:
        """No job of the batch that is not always_run starts from the commit of this on. Idempotent."""
        batch = self.state.batches.get(batch_id)
        if batch is None or batch.cancelled or batch.is_complete:
            return
        self._emit(ev.BatchCancelled(batch_id, by, reason, now))
        for attempt_id in sorted(batch.attempts):
            attempt = self.state.attempts[attempt_id]
            if not attempt.revoked and not batch.runnable(attempt.job_id):
                why = _cancelled_by(batch)
                self._emit(
                    ev.AttemptRevoked(attempt_id, batch_id, attempt.job_id, attempt.worker_id, why, now)
                )

    def on_delete(self, batch_id: int, by: str, user: str, now: int, project: str = "") -> None:
        """Hide the batch of ``user``, which is not deleted yet; when it is unfinished cancel it too."""
        batch = self.state.batches.get(batch_id)
        if batch is not None:
            if batch.deleted_at_ms is not None:
                return
            self.on_cancel(batch_id, by, "batch deleted", now)
        self._emit(ev.BatchDeleted(batch_id, by, user, now, project))

    def on_undelete(self, batch_id: int, by: str, user: str, now: int, project: str = "") -> None:
        """Show the deleted batch of ``user`` again. It stays cancelled if it was."""
        batch = self.state.batches.get(batch_id)
        if batch is None or batch.deleted_at_ms is not None:
            self._emit(ev.BatchUndeleted(batch_id, by, user, now, project))

    def on_end_attempt(self, attempt_id: str, by: str, reason: str, now: int) -> None:
        """Its worker is told to stop it, and the job is tried again. Idempotent: an attempt that has ended,
        or was withdrawn already, stays as it is."""
        attempt = self.state.attempts.get(attempt_id)
        if attempt is not None and not attempt.revoked:
            why = f"ended by {by}{reason and f': {reason}'}"
            self._emit(
                ev.AttemptRevoked(attempt_id, attempt.batch_id, attempt.job_id, attempt.worker_id, why, now)
            )

    def on_called_back(self, batch_id: int, user: str, outcome: str, now: int, project: str = "") -> None:
        """The callback of this complete batch of ``user`` was called."""
        self._emit(ev.BatchCalledBack(batch_id, user, outcome, now, project))

    # -- money ---------------------------------------------------------------------------------------

    def on_set_project(
        self, name: str, limit_nanousd: int | None, by: str, now: int, *, hard: bool, closed: bool
    ) -> None:
        """What the billing project may spend from this on. Idempotent."""
        known = self.state.projects.get(name, Project(name))
        if (known.limit_nanousd, known.hard, known.closed) != (limit_nanousd, hard, closed):
            self._emit(ev.BillingProjectSet(name, limit_nanousd, hard, closed, by, now))
            self._stop_at_limit(name, now)

    def on_set_rates(self, from_day: int, prices: dict[str, str], by: str, now: int) -> None:
        """What core-hours cost from that UTC day on. Idempotent.

        Refusal FAILED_PRECONDITION for a day that has begun: what was used keeps its price.
        """
        card = RateCard(from_day, tuple(sorted((name, Fraction(usd)) for name, usd in prices.items())))
        if card in self.state.rates:
            return
        today = now // DAY_MS
        if from_day <= today:
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION,
                f"from_day: prices of a day that has begun stay; the first that can be set are those of day "
                f"{today + 1} since 1970-01-01, got {from_day}",
            )
        self._emit(ev.RatesSet(from_day, prices, by, now))

    def _require_budget(self, name: str) -> None:
        project = self.state.projects.get(name)
        if project is None or not project.held:
            return
        if project.closed:
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION,
                f"billing project {name!r} is closed: ask its owner to open it, or use another",
            )
        spent, limit = dollars(project.used_nanousd), dollars(project.limit_nanousd or 0)
        raise Refusal(
            RefusalKind.RESOURCE_EXHAUSTED,
            f"billing project {name!r} has spent {spent} of its limit of {limit}: ask its owner to raise it, "
            "or use another",
        )

    def _stop_at_limit(self, name: str, now: int) -> None:
        """Of a project with a hard limit not even what runs goes on beyond it."""
        project = self.state.projects[name]
        if not (project.hard and project.over_limit):
            return
        why = f"billing project {name} has reached its limit of {dollars(project.limit_nanousd or 0)}"
        for batch_id, batch in list(self.state.batches.items()):
            if batch.billing_project == name and batch.closed_at_ms is not None:
                self.on_cancel(batch_id, "budget", why, now)

    # -- admins --------------------------------------------------------------------------------------

    def on_freeze(self, by: str, reason: str, now: int) -> None:
        """Nothing is assigned from this on; what runs goes on. Idempotent; another reason replaces it."""
        if self.state.frozen is None or self.state.frozen.reason != reason:
            self._emit(ev.ServiceFrozen(by, reason, now))

    def on_thaw(self, by: str, now: int) -> None:
        """Attempts are assigned again. Idempotent."""
        if self.state.frozen is not None:
            self._emit(ev.ServiceThawed(by, now))

    def on_drain(self, worker_id: str, by: str, reason: str, now: int) -> None:
        """The worker gets nothing new, until it is undrained. Idempotent; another reason replaces it.

        Refusal NOT_FOUND for a worker that is neither here nor draining.
        """
        self._known_worker(worker_id)
        pause = self.state.draining.get(worker_id)
        if pause is None or pause.reason != reason:
            self._emit(ev.WorkerDraining(worker_id, by, reason, now))

    def on_undrain(self, worker_id: str, by: str, now: int) -> None:
        """The worker gets attempts again. Idempotent. Refusal as in `on_drain`."""
        self._known_worker(worker_id)
        if worker_id in self.state.draining:
            self._emit(ev.WorkerUndrained(worker_id, by, now))

    def _known_worker(self, worker_id: str) -> None:
        if worker_id not in self.state.workers and worker_id not in self.state.draining:
            raise no_worker(worker_id)

    # -- workers -------------------------------------------------------------------------------------

    def on_hello(self, hello: Hello, now: int) -> int:
        """A worker (re)connected: its session number. `orders` says what it should hold."""
        self._last_session += 1
        before = self._sessions.get(hello.worker_id)
        session = Session(self._last_session, hello, self._lost_at(now))
        if before is not None:
            session.shunned_until_ms, session.shunned_for_ms = before.shunned_until_ms, before.shunned_for_ms
        self._sessions[hello.worker_id] = session
        self._record_worker(hello.worker_id, now)
        self._note_progress(hello.worker_id, hello.held, now)
        self._end_forgotten(hello.worker_id, hello.held, hello.spooled, now)
        return session.number

    def on_heartbeat(
        self, worker_id: str, session: int, held: tuple[HeldAttempt, ...], spooled: tuple[str, ...], now: int
    ) -> bool:
        """The lease is extended. True: what the worker holds is not what it should; send `orders`."""
        self.extend_lease(worker_id, session, now)
        self._note_progress(worker_id, held, now)
        attempts = self.state.attempts
        here = {h.attempt_id for h in held}
        gone = here.union(spooled)
        return any(
            i not in attempts or attempts[i].worker_id != worker_id or attempts[i].revoked for i in here
        ) or any(
            i not in gone and now - attempts[i].assigned_at_ms > self._limits.unknown_after_ms
            for i in self.state.workers[worker_id].attempts
        )

    def extend_lease(self, worker_id: str, session: int, now: int) -> None:
        """The worker was heard. Emits nothing. Refused when this is not its session any more."""
        known = self._sessions.get(worker_id)
        if known is None or known.number != session or worker_id not in self.state.workers:
            raise Refusal(RefusalKind.FAILED_PRECONDITION, "this session is over; connect again")
        known.lost_at_ms = self._lost_at(now)

    def orders(self, worker_id: str, held: tuple[HeldAttempt, ...], spooled: tuple[str, ...]) -> Orders:
        """Every attempt that the worker should hold, given what it holds, and all that it should end.

        Also a revoked one that it never heard of: somebody must say that it has ended. Decides nothing.
        """
        here = {h.attempt_id for h in held}
        ended = set(spooled)
        run: list[str] = []
        keep: list[str] = []
        revoke: list[str] = []
        worker = self.state.workers.get(worker_id)
        for attempt_id in sorted(worker.attempts - ended) if worker else ():
            revoked = self.state.attempts[attempt_id].revoked
            (revoke if revoked else keep if attempt_id in here else run).append(attempt_id)
        return Orders(complete=True, run=tuple(run), keep=tuple(keep), revoke=tuple(revoke))

    def on_reports(self, worker_id: str, session: int, reports: tuple[Report, ...], now: int) -> None:
        """Whatever they say may be acknowledged once this is committed, also when it had no effect."""
        self.extend_lease(worker_id, session, now)
        for report in reports:
            attempt = self.state.attempts.get(report.attempt_id)
            if attempt is None or attempt.worker_id != worker_id:
                continue
            if report.state is AttemptState.STARTED:
                self._started(attempt, report.main_ms, now)
            elif report.state is AttemptState.ENDED:
                plausible = _plausible(report)
                self._end(attempt, plausible, now)
                self._judge_worker(worker_id, plausible, now)

    def on_disconnect(self, worker_id: str, session: int) -> None:
        """The connection is gone; the lease runs on. Nothing new is given to the worker meanwhile."""
        known = self._sessions.get(worker_id)
        if known is not None and known.number == session:
            known.connected = False

    # -- time ----------------------------------------------------------------------------------------

    def advance(self, now: int, *, busy: bool = False) -> bool:
        """Do what is due: lost workers, cancelling, releasing, completing, placing. True: call again.

        ``busy``: somebody waits for the commit of this step.
        """
        for worker_id, session in list(self._sessions.items()):
            if now >= session.lost_at_ms:
                self._lose(worker_id, now)
        size = self._limits.slice_jobs
        cancelled = self._limits.slice_cancelled_busy if busy else self._limits.slice_cancelled
        left = self._cancel_jobs(cancelled, now), self._announce(size, now), self._place(size, now)
        return min(left) <= 0

    def next_due(self, now: int) -> int | None:
        """When `advance` has something to do even if nothing comes in."""
        sessions = self._sessions.values()
        shunned = [s.shunned_until_ms for s in sessions if s.shunned_until_ms > now]
        return min([s.lost_at_ms for s in sessions] + shunned, default=None)

    # -- pieces --------------------------------------------------------------------------------------

    def _emit(self, event: ev.Event) -> None:
        self.state.apply(event)
        self._events.append(event)

    def _lost_at(self, now: int) -> int:
        return now + self._limits.lease_ms + self._limits.grace_ms

    def _record_worker(self, worker_id: str, now: int) -> None:
        """What the worker says of itself becomes true once what runs there fits into it."""
        hello = self._sessions[worker_id].hello
        if hello is None:
            return
        worker = self.state.workers.get(worker_id)
        if worker is not None:
            said = hello.name, hello.capacity_mcpu, hello.runtime
            known = worker.name, worker.capacity_mcpu, worker.runtime
            if said == known or worker.capacity_mcpu - worker.free_mcpu > hello.capacity_mcpu:
                return
        self._emit(ev.WorkerJoined(worker_id, hello.name, hello.capacity_mcpu, hello.runtime, now))

    def _end_forgotten(
        self, worker_id: str, held: tuple[HeldAttempt, ...], spooled: tuple[str, ...], now: int
    ) -> None:
        """End what the worker neither holds nor will report, but for what it can still be told to run."""
        known = {h.attempt_id for h in held}.union(spooled)
        for attempt_id in sorted(self.state.workers[worker_id].attempts - known):
            attempt = self.state.attempts[attempt_id]
            if attempt.revoked:
                self._end(attempt, self._end_of(EndReason.REVOKED, attempt, attempt.revoked), now)
            elif attempt.state is AttemptState.STARTED:
                # It must not start a second time under the same id.
                self._end(attempt, self._end_of(EndReason.LOST, attempt, "its worker forgot it"), now)

    def _judge_worker(self, worker_id: str, report: Report, now: int) -> None:
        """A worker that cannot run what it is given gets a pause, or it would burn the whole queue."""
        session, reason = self._sessions[worker_id], report.reason
        if reason is EndReason.PREEMPTED:
            # What had ended before its Hello says nothing of the time since.
            session.leaving |= session.hello is None or report.attempt_id not in session.hello.spooled
        elif reason in (EndReason.REFUSED, EndReason.LOST):
            if now >= session.shunned_until_ms:
                longer = max(2 * session.shunned_for_ms, self._limits.shun_ms)
                session.shunned_for_ms = min(longer, self._limits.shun_most_ms)
            session.shunned_until_ms = now + session.shunned_for_ms
        elif reason in (EndReason.COMPLETED, EndReason.ERROR):
            session.shunned_for_ms = session.shunned_until_ms = 0

    def _note_progress(self, worker_id: str, held: tuple[HeldAttempt, ...], now: int) -> None:
        for h in held:
            attempt = self.state.attempts.get(h.attempt_id)
            if attempt is None or attempt.worker_id != worker_id or not h.main_ms:
                continue
            self._started(attempt, h.main_ms, now)
            ms = max(self._clamp(attempt, h.main_ms, now), self._so_far(attempt))
            self._progress[h.attempt_id] = ms
            if ms - attempt.main_ms >= self._limits.progress_ms:
                self._emit(ev.AttemptProgressed(attempt.attempt_id, attempt.batch_id, attempt.job_id, ms))
                self._stop_at_limit(self.state.batches[attempt.batch_id].billing_project, now)

    def _clamp(self, attempt: Attempt, main_ms: int, now: int) -> int:
        """Nothing ran before it was assigned."""
        longest = now - attempt.assigned_at_ms
        if attempt.attempt_id in self._inherited:
            longest += self._limits.clock_slack_ms
        return max(0, min(main_ms, longest))

    def _started(self, attempt: Attempt, main_ms: int, now: int) -> None:
        if attempt.state < AttemptState.STARTED:
            at = now - self._clamp(attempt, main_ms, now)
            self._emit(ev.AttemptStarted(attempt.attempt_id, attempt.batch_id, attempt.job_id, at))

    def _so_far(self, attempt: Attempt) -> int:
        """Billed time by the last word of its worker."""
        return max(attempt.main_ms, self._progress.get(attempt.attempt_id, 0))

    def _end_of(self, reason: EndReason, attempt: Attempt, message: str) -> Report:
        """An end that its worker does not report: billed by its last word."""
        return Report(attempt.attempt_id, AttemptState.ENDED, self._so_far(attempt), reason, message)

    def _end(self, attempt: Attempt, report: Report, now: int) -> None:
        assert report.reason is not None
        # A worker that was restarted may know less of it than it once said.
        main_ms = max(self._clamp(attempt, report.main_ms, now), self._so_far(attempt))
        if main_ms:
            self._started(attempt, main_ms, now)
        self._ending.append(attempt.attempt_id)
        reason = report.reason
        if reason is EndReason.REVOKED and not attempt.revoked:
            reason = EndReason.LOST
        started = attempt.started_at_ms
        cost = cost_nanousd(attempt.mcpu, started, main_ms, self.state.rates) if started is not None else 0
        batch = self.state.batches[attempt.batch_id]
        assert batch.columns is not None
        judged = verdict(
            reason,
            report.message,
            report.containers,
            batch.tries[attempt.job_id],
            retries=Retries.unpack(batch.columns.retries.get(attempt.job_id, 0)),
            cancelled=not batch.runnable(attempt.job_id),
        )
        self._emit(
            ev.AttemptEnded(
                attempt.attempt_id, attempt.batch_id, attempt.job_id, reason, report.message, main_ms, cost,
                judged.state, judged.exit_code, judged.reason, now, report.containers,
            )
        )  # fmt: skip
        most = batch.cancel_after_n_failures
        if most and batch.n_failed >= most:
            why = f"{batch.n_failed} job{'s' * (batch.n_failed > 1)} failed"
            self.on_cancel(batch.batch_id, f"cancel_after_n_failures={most}", why, now)
        self._stop_at_limit(batch.billing_project, now)
        if attempt.worker_id in self._sessions:
            self._record_worker(attempt.worker_id, now)

    def _lose(self, worker_id: str, now: int) -> None:
        del self._sessions[worker_id]
        if worker_id not in self.state.workers:
            return
        why = "the worker's lease ran out"
        for attempt_id in sorted(self.state.workers[worker_id].attempts):
            attempt = self.state.attempts[attempt_id]
            ended = EndReason.REVOKED if attempt.revoked else EndReason.LOST
            self._end(attempt, self._end_of(ended, attempt, why), now)
        self._emit(ev.WorkerLost(worker_id, why, now))

    def _cancel_jobs(self, left: int, now: int) -> int:
        """Batches take turns, so that nobody waits behind a large one."""
        share = max(1, left // max(1, len(self.state.cancelling)))
        while self.state.cancelling and left > 0:
            batch_id, start = self.state.cancelling.popitem(last=False)
            batch = self.state.batches[batch_id]
            assert batch.columns is not None
            states = batch.columns.states
            end = min(len(states), start + share)
            ids = [at + 1 for at in range(start, end) if states[at] in _CANCELLABLE]
            if end < len(states):
                self.state.cancelling[batch_id] = end
            if ids:
                self._emit(ev.JobsCancelled(batch_id, ranges(ids), _cancelled_by(batch), now))
            left -= max(1, end - start)
        return left

    def _announce(self, left: int, now: int) -> int:
        """Pending jobs whose parents are all complete: Ready or Cancelled; then complete batches."""
        share = max(1, left // max(1, len(self.state.unannounced)))
        while self.state.unannounced and left > 0:
            batch_id, _ = self.state.unannounced.popitem(last=False)
            batch = self.state.batches.get(batch_id)
            left -= 1
            if batch is not None and batch.due:
                left -= self._release(batch, share, now)
                self.state.unannounced[batch_id] = None
            elif batch is not None and batch.is_complete:
                self._completed[batch.user, batch.request_id] = batch_id, batch.request_sha256
                if len(self._completed) > self._limits.remembered_requests:
                    self._completed.popitem(last=False)
                self._left[batch_id] = batch.n_jobs
                if len(self._left) > self._limits.remembered_requests:
                    self._left.popitem(last=False)
                self._emit(ev.BatchCompleted(batch_id, now))
        return left

    def _release(self, batch: Batch, limit: int, now: int) -> int:
        assert batch.columns is not None
        states = batch.columns.states
        ready: list[int] = []
        doomed: list[int] = []
        for at in sorted(batch.due.popleft() for _ in range(min(limit, len(batch.due)))):
            if states[at] & STATE_MASK == JobState.PENDING:
                (doomed if states[at] & DOOMED else ready).append(at + 1)
        if ready:
            self._emit(ev.JobsReady(batch.batch_id, ranges(ready)))
        if doomed:
            why = "a job it depends on did not succeed"
            self._emit(ev.JobsCancelled(batch.batch_id, ranges(doomed), why, now))
        return len(ready) + len(doomed)

    def _available(self, now: int) -> list[str]:
        """Workers that may be given something."""
        return [w for w in self._sessions if self.unfit(w, now) is None]

    def unfit(self, worker_id: str, now: int) -> Unfit | None:
        """Why a worker that is not lost is given nothing; None: it may be given something."""
        s = self._sessions[worker_id]
        if worker_id in self.state.draining:
            return Unfit.DRAINING
        if not s.connected:
            return Unfit.AWAY
        if s.leaving:
            return Unfit.LEAVING
        if now < s.shunned_until_ms:
            return Unfit.SHUNNED
        if now + self._limits.grace_ms + self._limits.lease_ms // 2 > s.lost_at_ms:
            return Unfit.SILENT
        if s.hello is not None and s.hello.capacity_mcpu < self.state.workers[worker_id].capacity_mcpu:
            return Unfit.SHRUNK
        return None

    def heard_at_ms(self, worker_id: str) -> int:
        """When a worker that is not lost was heard last, or the controller began to wait for it."""
        return self._sessions[worker_id].lost_at_ms - self._lost_at(0)

    def shunned_until_ms(self, worker_id: str) -> int:
        """Until when a worker that is not lost is given nothing, for what it could not run."""
        return self._sessions[worker_id].shunned_until_ms

    def _place(self, left: int, now: int) -> int:
        if self.state.frozen is not None:
            return left
        available = self._available(now)
        room = Room(self.state, available, self.kept)
        for p in placements(self.state, available, room):
            tries = self.state.batches[p.batch_id].tries.get(p.job_id)
            number = tries.n_attempts + 1 if tries else 1
            self._emit(
                ev.AttemptAssigned(self._new_id(), p.batch_id, p.job_id, number, p.worker_id, p.mcpu, now)
            )
            left -= 1
            if left <= 0:
                break
        self.kept = room.reserved
        return left


def no_worker(worker_id: str) -> Refusal:
    return Refusal(RefusalKind.NOT_FOUND, f"there is no worker {worker_id!r}")


_CANCELLABLE = frozenset((JobState.PENDING, JobState.PENDING | DOOMED, JobState.READY))
assert not any(byte & ALWAYS_RUN for byte in _CANCELLABLE)


def _check_takes_jobs(batch: Batch, first_job_id: int) -> None:
    if batch.deleted_at_ms is not None:
        raise Refusal(RefusalKind.NOT_FOUND, f"there is no batch {batch.batch_id}")
    if batch.cancelled:
        what = f"batch {batch.batch_id} was cancelled by {batch.cancelled_by}; it takes no more jobs"
    elif batch.closed_at_ms is None:
        what = f"batch {batch.batch_id} is open; submit its jobs and close it before you add more"
    elif first_job_id != batch.n_jobs + 1:
        what = f"batch {batch.batch_id} has {batch.n_jobs} jobs now: the next is not job {first_job_id}"
    else:
        return
    raise Refusal(RefusalKind.FAILED_PRECONDITION, what)


def _cancelled_by(batch: Batch) -> str:
    return f"batch cancelled by {batch.cancelled_by}"


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
