"""PURE. What is true now, of everything that is not complete: a fold of the event log.

Rule 1: ``State.apply`` is the only mutation, and it never refuses: deciding is the reactor's.
Rule 2: what is complete leaves; it lives on in its rows alone.
Rule 3: everything that a row records and an event changed is noted, once, until `take_changes`.

``State.check`` says what must hold at every instant; the tests call it after every step.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from longshore_controller.core import events as ev
from longshore_controller.core.model import (
    ALWAYS_RUN,
    DOOMED,
    STATE_MASK,
    AttemptState,
    JobColumns,
    JobState,
    Pause,
    StagedJobs,
    Update,
    WorkerState,
    batch_state,
)
from longshore_controller.core.money import (
    SEED_RATES,
    RateCard,
    Rates,
    charges,
    cost_nanousd,
    dollars,
    with_card,
)
from longshore_controller.core.rows import (
    SERVICE,
    AttemptRow,
    BatchRow,
    CalledBackRow,
    Changes,
    DeletionRow,
    JobRangeRow,
    JobRow,
    LedgerRow,
    ProjectRow,
    RateRow,
    ReopenedRow,
    UpdateRow,
    WorkerRow,
)
from longshore_controller.core.verdict import Tries


@dataclass(slots=True)
class Attempt:
    """An attempt that has not ended."""

    attempt_id: str
    batch_id: int
    job_id: int
    number: int
    worker_id: str
    mcpu: int
    assigned_at_ms: int
    state: AttemptState = AttemptState.ASSIGNED
    started_at_ms: int | None = None
    main_ms: int = 0
    revoked: str = ""
    """Why the controller withdrew it; empty while it has not."""

    def accrued_nanousd(self, rates: Rates) -> int:
        """What it has run up, as far as that is durable."""
        return cost_nanousd(self.mcpu, self.started_at_ms or 0, self.main_ms, rates) if self.main_ms else 0

    def row(self) -> AttemptRow:
        return AttemptRow(
            self.attempt_id, self.batch_id, self.job_id, self.number, self.worker_id, self.mcpu, self.state,
            None, "", self.revoked, self.assigned_at_ms, self.started_at_ms, None, self.main_ms, 0, (),
        )  # fmt: skip

    def ended_row(self, e: ev.AttemptEnded) -> AttemptRow:
        return AttemptRow(
            self.attempt_id, self.batch_id, self.job_id, self.number, self.worker_id, self.mcpu,
            AttemptState.ENDED, e.reason, e.message, self.revoked, self.assigned_at_ms, self.started_at_ms,
            e.at_ms, e.main_ms, e.cost_nanousd, e.containers,
        )  # fmt: skip


@dataclass(slots=True)
class Worker:
    """A worker that is not lost."""

    worker_id: str
    name: str
    capacity_mcpu: int
    runtime: str
    joined_at_ms: int
    free_mcpu: int = 0
    attempts: set[str] = field(default_factory=set)

    def row(self) -> WorkerRow:
        return WorkerRow(
            self.worker_id, self.name, self.capacity_mcpu, self.runtime, WorkerState.ACTIVE,
            self.joined_at_ms, None, "",
        )  # fmt: skip


@dataclass(slots=True)
class Batch:
    """A batch that is not complete. Open: no columns yet."""

    batch_id: int
    user: str
    billing_project: str
    request_id: str
    request_sha256: bytes
    attributes: dict[str, str]
    n_jobs: int
    created_at_ms: int
    closed_at_ms: int | None = None
    cancelled_at_ms: int | None = None
    cancelled_by: str = ""
    cancel_reason: str = ""
    deleted_at_ms: int | None = None
    msec_mcpu: int = 0
    """Of completed jobs, with all their attempts; so is the cost."""
    cost_nanousd: int = 0
    cancel_after_n_failures: int = 0
    """0: never."""
    callback: str = ""
    rerun_of: int = 0
    updates: dict[str, Update] = field(default_factory=dict)
    """By request id: jobs that were added to it."""
    unfinished_nanousd: int = 0
    """What its unfinished jobs have run up so far: attempts that ended, and those that run as far as that is
    durable."""
    columns: JobColumns | None = None
    counts: list[int] = field(default_factory=lambda: [0] * 8)
    """Jobs by state; index is the JobState."""
    tries: dict[int, Tries] = field(default_factory=dict)
    """By job id: jobs that had an attempt and are not complete."""
    attempts: set[str] = field(default_factory=set)
    due: deque[int] = field(default_factory=deque, compare=False)
    """Positions of Pending jobs whose parents are all complete; the reactor announces them."""
    ready_from: dict[int, int] = field(default_factory=dict, compare=False)
    """By ready class: no Ready job of the class stands before this position (0 when absent)."""

    def take_columns(self, columns: JobColumns) -> None:
        """These are its jobs; counters and what is due follow from them."""
        self.columns = columns
        for state in JobState:
            self.counts[state] = sum(
                columns.states.count(state | bits) for bits in (0, ALWAYS_RUN, DOOMED, ALWAYS_RUN | DOOMED)
            )
        pending = (JobState.PENDING, JobState.PENDING | ALWAYS_RUN, JobState.PENDING | DOOMED)
        if columns.children and self.n_complete:
            positions = enumerate(columns.states)
            self.due = deque(i for i, s in positions if s in pending and not columns.waiting[i])

    @property
    def n_complete(self) -> int:
        return sum(self.counts[JobState.SUCCESS :])

    @property
    def n_failed(self) -> int:
        return self.counts[JobState.FAILURE] + self.counts[JobState.ERROR]

    @property
    def is_complete(self) -> bool:
        """Every job is in a final state (and BatchCompleted is due)."""
        return self.closed_at_ms is not None and self.n_complete == self.n_jobs

    @property
    def cancelled(self) -> bool:
        return self.cancelled_at_ms is not None

    def runnable(self, job_id: int) -> bool:
        """Cancelling the batch does not concern this job."""
        return not self.cancelled or (self.columns is not None and self.columns.always_run(job_id))

    def row(self, completed_at_ms: int | None = None) -> BatchRow:
        c, failed = self.counts, self.n_failed
        state = batch_state(
            closed=self.closed_at_ms is not None, cancelled=self.cancelled, n_jobs=self.n_jobs,
            n_succeeded=c[JobState.SUCCESS], n_failed=failed, n_cancelled=c[JobState.CANCELLED],
        )  # fmt: skip
        return BatchRow(
            self.batch_id, self.user, self.billing_project, self.request_id, self.request_sha256,
            self.attributes, self.n_jobs, state, c[JobState.PENDING], c[JobState.READY],
            c[JobState.RUNNING], c[JobState.SUCCESS], failed, c[JobState.CANCELLED],
            self.msec_mcpu, self.cost_nanousd, self.created_at_ms,
            self.closed_at_ms, completed_at_ms, self.cancelled_at_ms, self.cancelled_by, self.cancel_reason,
            self.deleted_at_ms, self.cancel_after_n_failures, self.callback,
            rerun_of=self.rerun_of, unfinished_nanousd=self.unfinished_nanousd,
        )  # fmt: skip

    def job_row(
        self, job_id: int, attempt_id: str | None, *, exit_code: int | None = None, reason: str = "",
        ended_at_ms: int | None = None,
    ) -> JobRow:  # fmt: skip
        assert self.columns is not None
        t = self.tries[job_id]
        return JobRow(
            self.batch_id, job_id, self.columns.state(job_id), reason, exit_code, attempt_id, t.n_attempts,
            t.n_preempted, t.n_lost, t.n_failed, t.duration_ms, t.msec_mcpu, t.cost_nanousd, t.started_at_ms,
            ended_at_ms,
        )  # fmt: skip


@dataclass(slots=True)
class User:
    """What a user holds and waits for. Derived."""

    running_mcpu: int = 0
    batches: dict[int, None] = field(default_factory=dict)
    """Ids of closed batches, oldest first (ids only grow)."""


WARN_AT = 80
"""Percent of a billing project's limit from which on whoever submits is warned."""


@dataclass(slots=True)
class Project:
    """Who pays. Made when a batch names it first, or when something is set."""

    name: str
    limit_nanousd: int | None = None
    hard: bool = False
    closed: bool = False
    spent_nanousd: int = 0
    """By attempts that have ended, whatever became of their jobs and batches."""
    accrued_nanousd: int = field(default=0, compare=False)
    """By attempts that run, as far as that is durable. Derived."""

    @property
    def used_nanousd(self) -> int:
        return self.spent_nanousd + self.accrued_nanousd

    @property
    def over_limit(self) -> bool:
        return self.limit_nanousd is not None and self.used_nanousd >= self.limit_nanousd

    @property
    def held(self) -> bool:
        """Nothing of it starts."""
        return self.closed or self.over_limit

    @property
    def warning(self) -> str:
        """For whoever submits: how much of the limit is spent, once it is most of it."""
        if not self.limit_nanousd or (percent := 100 * self.used_nanousd // self.limit_nanousd) < WARN_AT:
            return ""
        spent, limit = dollars(self.used_nanousd), dollars(self.limit_nanousd)
        return f"billing project {self.name} has spent {percent} % of its limit: {spent} of {limit}"

    def row(self) -> ProjectRow:
        return ProjectRow(self.name, self.limit_nanousd, self.hard, self.closed, self.spent_nanousd)


class CheckFailed(AssertionError):
    """An invariant does not hold. The message says which, about what."""


class State:
    """All batches, attempts and workers that are not over. See the module's rules."""

    def __init__(self) -> None:
        self.batches: dict[int, Batch] = {}
        self.attempts: dict[str, Attempt] = {}
        self.workers: dict[str, Worker] = {}
        self.next_batch_id = 1
        self.frozen: Pause | None = None
        """No attempt is assigned."""
        self.rates: Rates = SEED_RATES
        self.projects: dict[str, Project] = {}
        self.draining: dict[str, Pause] = {}
        """Workers that are given nothing new, by id; also such as are lost and may come back."""
        # Derived from the above. The last two are work lists: `apply` adds, the reactor takes away.
        self.users: dict[str, User] = {}
        self.requests: dict[tuple[str, str], int] = {}
        """(user, request id) -> batch id, of the batches here."""
        self.cancelling: OrderedDict[int, int] = OrderedDict()
        """Cancelled batches -> first position that may still need cancelling."""
        self.unannounced: OrderedDict[int, None] = OrderedDict()
        """Batches whose `due` is not empty, or that may be complete."""
        self._changes = Changes()
        self._dirty_batches: dict[int, None] = {}
        self._dirty_projects: dict[str, None] = {}

    # -- what is true ------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        return (
            self.batches == other.batches
            and self.attempts == other.attempts
            and self.workers == other.workers
            and self.next_batch_id == other.next_batch_id
            and self.frozen == other.frozen
            and self.draining == other.draining
            and self.rates == other.rates
            and self._known_projects() == other._known_projects()
        )

    __hash__ = None  # type: ignore[assignment]

    def _known_projects(self) -> dict[str, Project]:
        """Those of which there is more to say than that they exist."""
        return {name: project for name, project in self.projects.items() if project != Project(name)}

    def held(self, batch: Batch) -> bool:
        """Nothing of the batch starts: its billing project is closed or has reached its limit."""
        return self.projects[batch.billing_project].held

    def latest_at_ms(self) -> int:
        """The latest instant that anything here happened at; 0 when there is nothing."""
        batches = [b.cancelled_at_ms or b.closed_at_ms or b.created_at_ms for b in self.batches.values()]
        attempts = [max(a.assigned_at_ms, a.started_at_ms or 0) for a in self.attempts.values()]
        workers = [w.joined_at_ms for w in self.workers.values()]
        pauses = [p.at_ms for p in (self.frozen, *self.draining.values()) if p is not None]
        return max(batches + attempts + workers + pauses, default=0)

    def take_changes(self) -> Changes:
        """The rows that changed since the last call."""
        changes = self._changes
        for batch_id in self._dirty_batches:
            if (batch := self.batches.get(batch_id)) is not None:
                changes.batches[batch_id] = batch.row()
        self._dirty_batches = {}
        changes.projects = {name: self.projects[name].row() for name in self._dirty_projects}
        self._dirty_projects = {}
        self._changes = Changes()
        return changes

    # -- the fold ----------------------------------------------------------------------------------

    def apply(self, event: ev.Event) -> None:
        """Make it true. Events of what is not here any more (it is complete) change nothing here."""
        match event:
            case ev.AttemptAssigned():
                self._assigned(event)
            case ev.AttemptStarted():
                attempt = self.attempts[event.attempt_id]
                attempt.state = AttemptState.STARTED
                attempt.started_at_ms = event.at_ms
                self._note_attempt(attempt)
            case ev.AttemptEnded():
                self._ended(event)
            case ev.JobsReady():
                self._ready(event)
            case ev.AttemptProgressed():
                self._progressed(event)
            case ev.AttemptRevoked():
                attempt = self.attempts[event.attempt_id]
                attempt.revoked = event.reason
                self._note_attempt(attempt)
            case ev.JobsCancelled():
                self._cancelled(event)
            case ev.BatchCreated():
                batch = Batch(
                    event.batch_id, event.user, event.billing_project, event.request_id, event.request_sha256,
                    event.attributes, event.n_jobs, event.at_ms,
                    cancel_after_n_failures=event.cancel_after_n_failures, callback=event.callback,
                    rerun_of=event.rerun_of,
                )  # fmt: skip
                self.add_batch(batch)
                self._note(batch)
            case ev.BatchClosed():
                batch = self.batches[event.batch_id]
                batch.closed_at_ms = event.at_ms
                assert event.columns is not None
                self._set_columns(batch, event.columns)
                self._note(batch)
            case ev.BatchReopened():
                assert event.batch is not None
                self._reopen(event, event.batch)
            case ev.JobsAdded():
                assert event.added is not None
                self._add_jobs(event, event.added)
            case ev.BatchCancelled():
                batch = self.batches[event.batch_id]
                batch.cancelled_at_ms, batch.cancelled_by = event.at_ms, event.by
                batch.cancel_reason = event.reason
                if batch.closed_at_ms is None:
                    batch.closed_at_ms, batch.n_jobs = event.at_ms, 0
                    self._set_columns(batch, JobColumns.empty())
                self.cancelling[batch.batch_id] = 0
                self._note(batch)
            case ev.BatchDeleted() | ev.BatchUndeleted():
                deleted_at_ms = event.at_ms if isinstance(event, ev.BatchDeleted) else None
                if (batch_ := self.batches.get(event.batch_id)) is not None:
                    batch_.deleted_at_ms = deleted_at_ms
                    self._note(batch_)
                else:
                    self._changes.deletions.append(DeletionRow(event.batch_id, deleted_at_ms))
                    self._changes.owners[event.batch_id] = event.user, event.billing_project
            case ev.BatchCalledBack():
                if event.batch_id not in self.batches:
                    self._changes.called_back.append(CalledBackRow(event.batch_id, event.outcome))
                    self._changes.owners[event.batch_id] = event.user, event.billing_project
            case ev.BatchCompleted():
                self._completed(event)
            case ev.WorkerJoined():
                worker = self.workers.get(event.worker_id)
                used = worker.capacity_mcpu - worker.free_mcpu if worker else 0
                self.workers[event.worker_id] = Worker(
                    event.worker_id, event.name, event.capacity_mcpu, event.runtime, event.at_ms,
                    event.capacity_mcpu - used, worker.attempts if worker else set(),
                )  # fmt: skip
                self._changes.workers[event.worker_id] = self.workers[event.worker_id].row()
            case ev.WorkerLost():
                worker = self.workers.pop(event.worker_id)
                self._changes.workers[event.worker_id] = worker.row()._replace(
                    state=WorkerState.LOST, lost_at_ms=event.at_ms, reason=event.reason
                )
            case ev.ServiceFrozen():
                self.frozen = self._changes.pauses[SERVICE] = Pause(event.by, event.reason, event.at_ms)
            case ev.ServiceThawed():
                self.frozen = self._changes.pauses[SERVICE] = None
            case ev.WorkerDraining():
                pause = Pause(event.by, event.reason, event.at_ms)
                self.draining[event.worker_id] = self._changes.pauses[event.worker_id] = pause
            case ev.WorkerUndrained():
                del self.draining[event.worker_id]
                self._changes.pauses[event.worker_id] = None

            case ev.RatesSet():
                prices = tuple(sorted((name, Fraction(usd)) for name, usd in event.prices.items()))
                self.rates = with_card(self.rates, RateCard(event.from_day, prices))
                rows = [RateRow(event.from_day, name, usd) for name, usd in event.prices.items()]
                self._changes.rates[event.from_day] = rows
            case ev.BillingProjectSet():
                project = self.projects.setdefault(event.project, Project(event.project))
                project.limit_nanousd, project.hard = event.limit_nanousd, event.hard
                project.closed = event.closed
                self._dirty_projects[project.name] = None

    def _progressed(self, e: ev.AttemptProgressed) -> None:
        attempt = self.attempts[e.attempt_id]
        batch = self.batches[attempt.batch_id]
        before = attempt.accrued_nanousd(self.rates)
        attempt.main_ms = e.main_ms
        more = attempt.accrued_nanousd(self.rates) - before
        self.projects[batch.billing_project].accrued_nanousd += more
        batch.unfinished_nanousd += more
        self._note_attempt(attempt)
        self._note(batch)

    def _assigned(self, e: ev.AttemptAssigned) -> None:
        batch = self.batches[e.batch_id]
        attempt = Attempt(e.attempt_id, e.batch_id, e.job_id, e.number, e.worker_id, e.mcpu, e.at_ms)
        self._set_job_state(batch, e.job_id, JobState.RUNNING)
        tries = batch.tries.get(e.job_id)
        if tries is None:
            tries = batch.tries[e.job_id] = Tries()
        tries.n_attempts = e.number
        tries.started_at_ms = e.at_ms
        self.add_attempt(attempt)
        self._changes.jobs[e.batch_id, e.job_id] = batch.job_row(e.job_id, e.attempt_id)
        self._note_attempt(attempt)
        self._note(batch)

    def _ended(self, e: ev.AttemptEnded) -> None:
        attempt = self.attempts.pop(e.attempt_id)
        batch = self.batches[attempt.batch_id]
        worker = self.workers[attempt.worker_id]
        worker.free_mcpu += attempt.mcpu
        worker.attempts.discard(e.attempt_id)
        self.users[batch.user].running_mcpu -= attempt.mcpu
        batch.attempts.discard(e.attempt_id)
        self._charge(batch, attempt, e)

        tries = batch.tries[e.job_id]
        tries.duration_ms += e.main_ms
        tries.msec_mcpu += e.main_ms * attempt.mcpu
        tries.cost_nanousd += e.cost_nanousd
        tries.count(e.reason, e.job_state)
        self._set_job_state(batch, e.job_id, e.job_state)
        self._changes.attempts[e.attempt_id] = attempt.ended_row(e)
        self._changes.jobs[e.batch_id, e.job_id] = batch.job_row(
            e.job_id, e.attempt_id, exit_code=e.exit_code, reason=e.job_reason,
            ended_at_ms=e.at_ms if e.job_state.is_complete else None,
        )  # fmt: skip
        if e.job_state.is_complete:
            self._finish(batch, tries)
            del batch.tries[e.job_id]
            self._tell_children(batch, e.job_id, e.job_state)
        self._note(batch)

    def _finish(self, batch: Batch, tries: Tries) -> None:
        """What the job has used is the batch's from now on."""
        batch.msec_mcpu += tries.msec_mcpu
        batch.cost_nanousd += tries.cost_nanousd
        batch.unfinished_nanousd -= tries.cost_nanousd

    def _charge(self, batch: Batch, attempt: Attempt, e: ev.AttemptEnded) -> None:
        project = self.projects[batch.billing_project]
        accrued = attempt.accrued_nanousd(self.rates)
        project.accrued_nanousd -= accrued
        batch.unfinished_nanousd += e.cost_nanousd - accrued
        if not e.cost_nanousd or attempt.started_at_ms is None:
            return
        project.spent_nanousd += e.cost_nanousd
        self._dirty_projects[project.name] = None
        ledger = self._changes.ledger
        for charge in charges(attempt.mcpu, attempt.started_at_ms, e.main_ms, self.rates):
            key = batch.batch_id, charge.day, charge.resource
            before = ledger.get(key)
            used, cost = (before.mcpu_ms, before.nanousd) if before else (0, 0)
            ledger[key] = LedgerRow(
                *key, project.name, batch.user, used + charge.mcpu_ms, cost + charge.nanousd
            )

    def _ready(self, e: ev.JobsReady) -> None:
        batch = self.batches[e.batch_id]
        for first, last in e.jobs:
            for job_id in range(first, last + 1):
                self._set_job_state(batch, job_id, JobState.READY)
            self._changes.job_ranges.append(JobRangeRow(e.batch_id, first, last, JobState.READY, "", None))
        self._note(batch)

    def _cancelled(self, e: ev.JobsCancelled) -> None:
        batch = self.batches[e.batch_id]
        for first, last in e.jobs:
            row = JobRangeRow(e.batch_id, first, last, JobState.CANCELLED, e.reason, e.at_ms)
            self._changes.job_ranges.append(row)
            for job_id in range(first, last + 1):
                self._set_job_state(batch, job_id, JobState.CANCELLED)
                if (tries := batch.tries.get(job_id)) is not None:
                    self._finish(batch, tries)
                    row_ = batch.job_row(job_id, None, reason=e.reason, ended_at_ms=e.at_ms)
                    previous = self._changes.jobs.get((e.batch_id, job_id))
                    if previous is not None:
                        self._changes.jobs[e.batch_id, job_id] = row_._replace(attempt_id=previous.attempt_id)
                    del batch.tries[job_id]
                self._tell_children(batch, job_id, JobState.CANCELLED)
        self._note(batch)

    def _reopen(self, e: ev.BatchReopened, batch: Batch) -> None:
        self.add_batch(batch)
        user = self.users.setdefault(batch.user, User())
        user.batches = dict.fromkeys(sorted([*user.batches, batch.batch_id]))
        self._changes.reopened.append(ReopenedRow(e.batch_id, e.n_jobs))
        self._note(batch)

    def _add_jobs(self, e: ev.JobsAdded, jobs: StagedJobs) -> None:
        batch = self.batches[e.batch_id]
        columns = batch.columns
        assert columns is not None and len(columns) == batch.n_jobs == e.first_job_id - 1
        if columns.extend(jobs):
            batch.ready_from.clear()
        batch.n_jobs += e.n_jobs
        batch.updates[e.request_id] = Update(e.request_sha256, e.first_job_id, e.n_jobs)
        for at in range(e.first_job_id - 1, batch.n_jobs):
            state = columns.states[at] & STATE_MASK
            batch.counts[state] += 1
            if state == JobState.READY:
                ready = columns.ready[at]
                batch.ready_from[ready] = min(batch.ready_from.get(ready, 0), at)
            elif not columns.waiting[at]:
                batch.due.append(at)
        self.unannounced[batch.batch_id] = None
        self._changes.bunches.append((e.batch_id, e.first_job_id, jobs))
        self._changes.updates.append(
            UpdateRow(e.batch_id, e.request_id, e.request_sha256, e.first_job_id, e.n_jobs, e.at_ms)
        )
        self._note(batch)

    def _completed(self, e: ev.BatchCompleted) -> None:
        batch = self.batches.pop(e.batch_id)
        del self.requests[batch.user, batch.request_id]
        self.cancelling.pop(e.batch_id, None)
        user = self.users[batch.user]
        del user.batches[e.batch_id]
        if not user.batches and not user.running_mcpu:
            del self.users[batch.user]
        self._changes.batches[e.batch_id] = batch.row(e.at_ms)
        self._changes.owners[e.batch_id] = batch.user, batch.billing_project

    # -- pieces of the fold, and of loading ----------------------------------------------------------

    def add_batch(self, batch: Batch) -> None:
        """A batch enters: newly created, or loaded from its row (columns by `load_columns`)."""
        self.batches[batch.batch_id] = batch
        self.projects.setdefault(batch.billing_project, Project(batch.billing_project))
        self.requests[batch.user, batch.request_id] = batch.batch_id
        self.next_batch_id = max(self.next_batch_id, batch.batch_id + 1)

    def load_columns(self, batch_id: int, columns: JobColumns) -> None:
        """The jobs of a loaded, closed batch."""
        batch = self.batches[batch_id]
        self._set_columns(batch, columns)
        if batch.cancelled:
            self.cancelling[batch_id] = 0

    def add_attempt(self, attempt: Attempt) -> None:
        """An attempt enters: newly assigned, or loaded from its row (after its batch and worker)."""
        self.attempts[attempt.attempt_id] = attempt
        worker = self.workers[attempt.worker_id]
        worker.free_mcpu -= attempt.mcpu
        worker.attempts.add(attempt.attempt_id)
        batch = self.batches[attempt.batch_id]
        batch.attempts.add(attempt.attempt_id)
        self.users[batch.user].running_mcpu += attempt.mcpu
        accrued = attempt.accrued_nanousd(self.rates)
        batch.unfinished_nanousd += accrued
        self.projects[batch.billing_project].accrued_nanousd += accrued

    def _set_columns(self, batch: Batch, columns: JobColumns) -> None:
        batch.take_columns(columns)
        user = self.users.setdefault(batch.user, User())
        in_order = not user.batches or next(reversed(user.batches)) < batch.batch_id
        user.batches[batch.batch_id] = None
        if not in_order:  # It was open for longer than one that was made after it.
            user.batches = dict.fromkeys(sorted(user.batches))
        self.unannounced[batch.batch_id] = None

    def _set_job_state(self, batch: Batch, job_id: int, state: JobState) -> None:
        assert batch.columns is not None
        byte = batch.columns.states[job_id - 1]
        batch.counts[byte & STATE_MASK] -= 1
        batch.counts[state] += 1
        at = job_id - 1
        batch.columns.states[at] = state | byte & ALWAYS_RUN
        if state is JobState.READY:
            ready = batch.columns.ready[at] = batch.columns.class_of(at)
            batch.ready_from[ready] = min(batch.ready_from.get(ready, 0), at)
        else:
            batch.columns.ready[at] = 0

    def _tell_children(self, batch: Batch, job_id: int, state: JobState) -> None:
        columns = batch.columns
        assert columns is not None
        states, waiting = columns.states, columns.waiting
        for child in columns.children_of(job_id):
            waiting[child] -= 1
            byte = states[child]
            if byte & STATE_MASK != JobState.PENDING:
                continue
            if state is not JobState.SUCCESS and not byte & ALWAYS_RUN:
                states[child] = byte | DOOMED
            if not waiting[child]:
                batch.due.append(child)
        self.unannounced[batch.batch_id] = None

    def _note(self, batch: Batch) -> None:
        self._dirty_batches[batch.batch_id] = None
        self._changes.owners[batch.batch_id] = batch.user, batch.billing_project

    def _note_attempt(self, attempt: Attempt) -> None:
        self._changes.attempts[attempt.attempt_id] = attempt.row()
        batch = self.batches[attempt.batch_id]
        self._changes.owners[batch.batch_id] = batch.user, batch.billing_project

    # -- invariants ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise CheckFailed unless everything that must hold at every instant holds.

        RELIABILITY's I2, I4-I8 as far as memory knows them, and that the derived fields are derived.
        """
        running: dict[str, int] = {}
        accrued: dict[str, int] = {}
        of_batch_accrued: dict[int, int] = {}
        live: dict[tuple[int, int], str] = {}
        of_batch: dict[int, set[str]] = {b: set() for b in self.batches}
        of_worker: dict[str, set[str]] = {w: set() for w in self.workers}
        for attempt in self.attempts.values():
            key = attempt.batch_id, attempt.job_id
            _require(key not in live, f"job {key} has two live attempts", attempt)
            live[key] = attempt.attempt_id
            _require(attempt.worker_id in self.workers, "its worker is not here", attempt)
            of_worker[attempt.worker_id].add(attempt.attempt_id)
            of_batch[attempt.batch_id].add(attempt.attempt_id)
            batch = self.batches[attempt.batch_id]
            _require(
                attempt.number == batch.tries[attempt.job_id].n_attempts, "number is not the last", attempt
            )
            started = attempt.started_at_ms is not None
            _require(started == (attempt.state >= AttemptState.STARTED), "started or not", attempt)
            _require(attempt.main_ms >= 0 and (started or not attempt.main_ms), "billed time", attempt)
            _require(
                bool(attempt.revoked) or batch.runnable(attempt.job_id), "runs though cancelled", attempt
            )
            running[batch.user] = running.get(batch.user, 0) + attempt.mcpu
            so_far = attempt.accrued_nanousd(self.rates)
            accrued[batch.billing_project] = accrued.get(batch.billing_project, 0) + so_far
            of_batch_accrued[batch.batch_id] = of_batch_accrued.get(batch.batch_id, 0) + so_far
        for name, project in self.projects.items():
            _require(project.accrued_nanousd == accrued.get(name, 0), f"running costs of {name}", project)
        for batch in self.batches.values():
            tried = sum(tries.cost_nanousd for tries in batch.tries.values())
            expected = tried + of_batch_accrued.get(batch.batch_id, 0)
            _require(batch.unfinished_nanousd == expected, f"costs of unfinished jobs: {expected}", batch)
        for worker in self.workers.values():
            _require(worker.attempts == of_worker[worker.worker_id], "attempts of the worker", worker)
            used = sum(self.attempts[a].mcpu for a in worker.attempts)
            _require(worker.free_mcpu == worker.capacity_mcpu - used, "free cores do not add up", worker)
            _require(worker.free_mcpu >= 0, "more cores used than there are", worker)
        for name, user in self.users.items():
            _require(user.running_mcpu == running.get(name, 0), f"running cores of {name}", user)
        closed = {(b.user, i) for i, b in self.batches.items() if b.closed_at_ms is not None}
        _require(
            closed == {(u, i) for u, x in self.users.items() for i in x.batches}, "users' batches", closed
        )
        requests = {(b.user, b.request_id): i for i, b in self.batches.items()}
        _require(self.requests == requests, "request ids are not those of the batches", self.requests)
        _require(self.cancelling.keys() <= self.batches.keys(), "cancels what is gone", self.cancelling)
        for batch in self.batches.values():
            _require(batch.attempts == of_batch[batch.batch_id], "attempts of the batch", batch.batch_id)
            self._check_batch(batch, live)

    def _check_batch(self, batch: Batch, live: dict[tuple[int, int], str]) -> None:
        name = f"batch {batch.batch_id}"
        _require(
            self.requests.get((batch.user, batch.request_id)) == batch.batch_id, "request is not known", name
        )
        if (columns := batch.columns) is None:
            _require(batch.closed_at_ms is None and not batch.attempts, "open, yet something runs", name)
            return
        _require(batch.n_jobs == len(columns), "number of jobs", name)
        counts = [0] * 8
        waiting = [0] * len(columns)
        lost_parent = [False] * len(columns)
        for i, byte in enumerate(columns.states):
            state = JobState(byte & STATE_MASK)
            counts[state] += 1
            for child in columns.children_of(i + 1):
                _require(child > i, f"job {child + 1} depends on a later job", name)
                waiting[child] += not state.is_complete
                lost_parent[child] |= state.is_complete and state is not JobState.SUCCESS
        _require(counts == batch.counts, f"counters {batch.counts} are not {counts}", name)
        _require(waiting == list(columns.waiting), "waiting counts are not those of the parents", name)
        due = set(batch.due)
        _require(
            batch.batch_id in self.unannounced or not (due or batch.is_complete),
            "nobody will announce it",
            name,
        )
        uncancelled_from = self.cancelling.get(batch.batch_id, len(columns)) if batch.cancelled else 0
        for i, byte in enumerate(columns.states):
            job, state, always = (
                f"job {batch.batch_id}/{i + 1}",
                JobState(byte & STATE_MASK),
                byte & ALWAYS_RUN,
            )
            key = (batch.batch_id, i + 1)
            _require(
                (state is JobState.RUNNING) == (key in live), "Running means exactly one live attempt", job
            )
            if state is JobState.PENDING:
                _require(bool(waiting[i]) != (i in due), "waits for nobody and is not due, or both", job)
                _require(bool(byte & DOOMED) == (lost_parent[i] and not always), "doomed by its parents", job)
            else:
                _require(not byte & DOOMED, "doomed but not Pending", job)
                _require(state is JobState.CANCELLED or not waiting[i], "went on before its parents", job)
            if lost_parent[i] and not always:
                _require(state in (JobState.PENDING, JobState.CANCELLED), "ran though a parent failed", job)
            _require(not (always and state is JobState.CANCELLED), "always_run was cancelled", job)
            ready = columns.class_of(i) if state is JobState.READY else 0
            _require(columns.ready[i] == ready, "ready class", job)
            _require(
                not ready or batch.ready_from.get(ready, 0) <= i, "Ready before the scheduler's hint", job
            )
            waits = state in (JobState.PENDING, JobState.READY)
            _require(not (waits and not always and i < uncancelled_from), "passed over by the cancel", job)
            if (tries := batch.tries.get(i + 1)) is not None:
                _require(not state.is_complete, "tries of a complete job", job)
                ended = tries.n_preempted + tries.n_lost + tries.n_failed
                _require(ended <= tries.n_attempts, "more ends than attempts", job)


def _require(holds: bool, what: str, about: object) -> None:
    if not holds:
        raise CheckFailed(f"{what}: {about}")


def fold(state: State, events: Iterable[ev.Event]) -> State:
    """The state after these events."""
    for event in events:
        state.apply(event)
    return state
