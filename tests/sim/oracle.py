"""Who sees everything: what was committed, what really ran, what was promised; and says when they differ.

Nothing here asks the controller's memory. It follows the log by rules of its own, written from the
product's promises, and holds it against what the machines really did.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from longshore_controller.core import events as ev
from longshore_controller.core.model import (
    MAX_LOST,
    MAX_PREEMPTED,
    AttemptState,
    BatchState,
    EndReason,
    JobState,
    Range,
    Report,
    WorkerState,
)
from longshore_controller.core.money import (
    DAY_MS,
    SEED_RATES,
    RateCard,
    Rates,
    charges,
    cost_nanousd,
    with_card,
)
from longshore_controller.core.reactor import Limits
from longshore_controller.core.rows import SERVICE, JobRow
from world import Job, Rows

CANCEL_WITHIN_MS = 120_000
"""No container of a cancelled batch runs longer than this after the cancel, whatever breaks."""

SEEN_WITHIN_MS = 6_000
"""Who can see a container again, sees it within this time: an engine that was away is asked every 5 s."""

Key = tuple[int, int]


class Violation(AssertionError):
    """A promise was broken. The message says which."""


def require(holds: object, promise: str, about: object) -> None:
    if not holds:
        raise Violation(f"{promise}: {about}")


class Machine(Protocol):
    """What the oracle sees of a machine."""

    @property
    def lease_until_ms(self) -> int:
        """In true time."""

    @property
    def is_watched(self) -> bool:
        """A workerd lives there."""

    @property
    def is_gone(self) -> bool:
        """It is off, and with it all that ran there."""


@dataclass
class KnownJob:
    plan: Job
    state: JobState
    ends: Counter[EndReason] = field(default_factory=Counter)
    own_failures: int = 0
    n_attempts: int = 0


@dataclass
class KnownBatch:
    request: tuple[str, str]
    n_jobs: int
    closed: bool = False
    cancelled_at_ms: int | None = None
    complete: bool = False
    n_completions: int = 0
    deleted: bool = False
    updates: set[str] = field(default_factory=set)
    jobs: dict[int, KnownJob] = field(default_factory=dict)


@dataclass
class KnownAttempt:
    key: Key
    worker_id: str
    mcpu: int
    started: bool = False
    revoked: bool = False
    billed_ms: int = 0
    ended: bool = False


@dataclass
class Run:
    """A main container, as it really was."""

    key: Key
    machine: Machine
    started_ms: int
    ended_ms: int | None = None
    cut: bool = False
    """It ended with its machine: how long it ran nobody saw."""
    blurred: bool = False
    """Its workerd could not see when it began or ended; it must not say more than was."""
    unseen_end: bool = False
    """Nobody waited for it when it ended: its engine was away, its workerd frozen, or busy with coming
    back. It counts as running until somebody sees; only workerd's own clock is believed."""
    seen_ms: int = 0
    """When somebody could see again what had become of it."""
    guarded_ms: int = 0
    """When somebody was there again, after it had run on without a lease and without anybody to stop it."""

    def ran_ms(self, now: int) -> int:
        return (now if self.ended_ms is None else self.ended_ms) - self.started_ms


CALLBACK, TOLD = "http://10.0.0.1/done", "200 OK"
"""Where some users want to be told of a batch's end, and what is answered there."""


class Oracle:
    """``now`` is true time. Every method raises Violation."""

    def __init__(self, limits: Limits, plans: Mapping[int, Sequence[Job]], now: Callable[[], int]) -> None:
        self._limits = limits
        self._plans = plans
        self._now = now
        self.batches: dict[int, KnownBatch] = {}
        self.attempts: dict[str, KnownAttempt] = {}
        self.workers: dict[str, int] = {}
        """Those not lost, and their capacity."""
        self.spent = 0
        """By attempts that have ended."""
        self.limit: int | None = None
        self.rates: Rates = SEED_RATES
        self.frozen = False
        self.draining: set[str] = set()
        self.machines: dict[str, Machine] = {}
        self.runs: dict[str, Run] = {}
        """By attempt id."""
        self.hidden: dict[int, bool] = {}
        """Batches whose user was told that they are deleted; False: that they are not any more."""
        self.told: dict[str, Report] = {}
        """What each attempt's own worker said of its end, from when it was on disk."""
        self.seen: Counter[str] = Counter()
        """What has happened, by name: a generator that never does something shows it here."""
        self._used: Counter[str] = Counter()
        self._cores: Counter[str] = Counter()
        """What each user has running."""
        self._heard: dict[str, tuple[int, int]] = {}
        self._kept: dict[str, int] = {}
        """What was heard of each attempt when the database was last reached in time."""
        self._new_words: list[str] = []
        self._lives = 0
        self.called_back: Counter[int] = Counter()
        """How often somebody was told that a batch is complete."""

    # -- what becomes true ---------------------------------------------------------------------------

    def committed(self, events: list[ev.Event]) -> None:
        """Each event may follow those before it."""
        kept = True
        """The first one that is assigned may be a job for which a worker was kept: it is before its turn."""
        for event in events:
            self.seen[type(event).__name__] += 1
            match event:
                case ev.BatchCreated():
                    self._created(event)
                case ev.BatchClosed():
                    self._closed(event)
                case ev.BatchCancelled():
                    self._batch_cancelled(event)
                case ev.JobsReady():
                    self._jobs_ready(event)
                case ev.JobsCancelled():
                    self._jobs_cancelled(event)
                case ev.AttemptAssigned():
                    if not kept:
                        self._require_turn(event)
                    kept = False
                    self._assigned(event)
                case ev.AttemptStarted():
                    attempt = self._live(event.attempt_id)
                    require(not attempt.started, "an attempt starts once", event)
                    attempt.started = True
                case ev.AttemptProgressed():
                    attempt = self._live(event.attempt_id)
                    require(event.main_ms > attempt.billed_ms, "billed time only grows", event)
                    self._require_ran(event.attempt_id, event.main_ms)
                    attempt.billed_ms = event.main_ms
                case ev.AttemptRevoked():
                    attempt = self._live(event.attempt_id)
                    require(not attempt.revoked, "an attempt is revoked once", event)
                    require(event.worker_id == attempt.worker_id, "its own worker is told", event)
                    attempt.revoked = True
                case ev.AttemptEnded():
                    self._ended(event)
                    self.spent += event.cost_nanousd
                case ev.WorkerJoined():
                    require(self._used[event.worker_id] <= event.capacity_mcpu, "it fits", event)
                    self.workers[event.worker_id] = event.capacity_mcpu
                case ev.WorkerLost():
                    self._lost(event)
                case ev.BillingProjectSet():
                    self.limit = event.limit_nanousd
                case ev.RatesSet():
                    today = self._now() // DAY_MS
                    require(event.from_day >= today, "prices of a day that has begun stay", event)
                    prices = tuple(sorted((name, Fraction(usd)) for name, usd in event.prices.items()))
                    self.rates = with_card(self.rates, RateCard(event.from_day, prices))
                case ev.ServiceFrozen():
                    self.frozen = True
                case ev.ServiceThawed():
                    require(self.frozen, "only what is frozen is thawed", event)
                    self.frozen = False
                case ev.WorkerDraining():
                    known = event.worker_id in self.machines
                    require(known, "only a worker drains", event)
                    self.draining.add(event.worker_id)
                case ev.WorkerUndrained():
                    require(event.worker_id in self.draining, "only what drains is undrained", event)
                    self.draining.discard(event.worker_id)
                case ev.BatchCompleted():
                    batch = self.batches[event.batch_id]
                    states = [j.state for j in batch.jobs.values()]
                    require(batch.closed and not batch.complete, "a closed batch completes once", event)
                    require(all(s.is_complete for s in states), "a complete batch's jobs are", states)
                    batch.complete = True
                    batch.n_completions += 1
                case ev.BatchCalledBack():
                    require(self.called_back[event.batch_id] > 0, "what is said to be told was told", event)
                    require(event.outcome == TOLD, "and what came of it", event)
                case ev.BatchReopened():
                    self._reopened(event)
                case ev.JobsAdded():
                    self._added(event)
                case ev.BatchDeleted() | ev.BatchUndeleted():
                    require(event.batch_id in self.batches, "what is deleted exists", event)
                    self.batches[event.batch_id].deleted = isinstance(event, ev.BatchDeleted)

    def call_back(self, url: str, body: bytes, private: bool) -> str:
        """Whoever is to be told of a batch's end is told this."""
        batch_id = json.loads(body)["batch"]["id"]
        require(url == CALLBACK, "who asked for it is told", url)
        require(self.batches[batch_id].n_completions, "a batch is complete before that is told", batch_id)
        self.called_back[batch_id] += 1
        return TOLD

    def _created(self, e: ev.BatchCreated) -> None:
        require(e.batch_id not in self.batches, "a batch id is used once", e)
        request = e.user, e.request_id
        require(all(b.request != request for b in self.batches.values()), "a request counts once", e)
        self.batches[e.batch_id] = KnownBatch(request, e.n_jobs)

    def _closed(self, e: ev.BatchClosed) -> None:
        batch = self.batches[e.batch_id]
        require(not batch.closed, "a batch is closed once", e)
        batch.closed = True
        for job_id, plan in enumerate(self._plans[e.batch_id][: batch.n_jobs], 1):
            state = JobState.PENDING if plan.parents else JobState.READY
            batch.jobs[job_id] = KnownJob(plan, state)
        require(len(batch.jobs) == batch.n_jobs, "all declared jobs are there", e)

    def _reopened(self, e: ev.BatchReopened) -> None:
        batch = self.batches[e.batch_id]
        require(batch.complete, "only what is complete is reopened", e)
        require(e.n_jobs == batch.n_jobs, "it is reopened with the jobs that it had", (e, batch.n_jobs))
        batch.complete = False

    def _added(self, e: ev.JobsAdded) -> None:
        batch = self.batches[e.batch_id]
        takes = batch.closed and not (batch.complete or batch.deleted or batch.cancelled_at_ms)
        require(takes, "jobs are added to what runs", (e, batch))
        require(e.request_id not in batch.updates, "an update counts once", e)
        require(e.first_job_id == batch.n_jobs + 1, "ids are contiguous", (e, batch.n_jobs))
        batch.updates.add(e.request_id)
        plans = self._plans[e.batch_id][batch.n_jobs : batch.n_jobs + e.n_jobs]
        require(len(plans) == e.n_jobs, "all jobs of an update are there", e)
        for job_id, plan in enumerate(plans, e.first_job_id):
            batch.jobs[job_id] = KnownJob(plan, JobState.PENDING if plan.parents else JobState.READY)
        batch.n_jobs += e.n_jobs

    def _batch_cancelled(self, e: ev.BatchCancelled) -> None:
        batch = self.batches[e.batch_id]
        require(not batch.complete and batch.cancelled_at_ms is None, "a batch is cancelled once", e)
        self.seen["cancel of a batch that is " + ("closed" if batch.closed else "open")] += 1
        batch.cancelled_at_ms = self._now()
        if not batch.closed:
            batch.closed, batch.n_jobs = True, 0

    def _jobs_ready(self, e: ev.JobsReady) -> None:
        batch = self.batches[e.batch_id]
        for job in self._jobs(batch, e.jobs):
            require(job.state is JobState.PENDING, "only what waits becomes Ready", e)
            self._require_parents(batch, job)
            job.state = JobState.READY

    def _jobs_cancelled(self, e: ev.JobsCancelled) -> None:
        batch = self.batches[e.batch_id]
        for job in self._jobs(batch, e.jobs):
            require(job.state in (JobState.PENDING, JobState.READY), "only what does not run", e)
            require(not job.plan.always_run, "always_run is not cancelled", e)
            if batch.cancelled_at_ms is None:
                parents = [batch.jobs[p].state for p in job.plan.parents]
                require(all(p.is_complete for p in parents), "it is known that it cannot run", e)
                require(any(p is not JobState.SUCCESS for p in parents), "a parent did not succeed", e)
            job.state = JobState.CANCELLED

    def _assigned(self, e: ev.AttemptAssigned) -> None:
        batch = self.batches[e.batch_id]
        job = batch.jobs[e.job_id]
        require(e.attempt_id not in self.attempts, "an attempt id is used once", e)
        require(job.state is JobState.READY, "only a Ready job is given away", (e, job))
        self._require_parents(batch, job)
        require(job.plan.always_run or batch.cancelled_at_ms is None, "nothing starts after a cancel", e)
        job.n_attempts += 1
        require(e.number == job.n_attempts, "attempts are numbered", e)
        require(e.mcpu == job.plan.mcpu, "it gets the cores it reserved", e)
        require(e.worker_id in self.workers, "its worker is there", e)
        require(not self.frozen, "nothing is assigned while the service is frozen", e)
        within = self.limit is None or self.spent < self.limit
        require(within, "nothing is assigned when the limit is spent", (e, self.spent, self.limit))
        require(e.worker_id not in self.draining, "nothing is assigned to a worker that drains", e)
        self._cores[batch.request[0]] += e.mcpu
        self._used[e.worker_id] += e.mcpu
        require(self._used[e.worker_id] <= self.workers[e.worker_id], "a worker's cores suffice", e)
        job.state = JobState.RUNNING
        self.attempts[e.attempt_id] = KnownAttempt((e.batch_id, e.job_id), e.worker_id, e.mcpu)

    def _require_turn(self, e: ev.AttemptAssigned) -> None:
        """Whoever has fewer cores is served first, and of one user the earlier job, as far as they are no
        larger: they would have fitted there, too."""
        mine = self.batches[e.batch_id]
        user = mine.request[0]
        turn = not mine.jobs[e.job_id].plan.always_run, e.job_id
        for batch_id, batch in self.batches.items():
            whose = batch.request[0]
            if batch.complete or self._cores[whose] > self._cores[user]:
                continue
            if whose == user and batch_id > e.batch_id:
                continue
            for job_id, job in batch.jobs.items():
                able = job.plan.always_run or batch.cancelled_at_ms is None
                if job.state is not JobState.READY or not able or job.plan.mcpu > e.mcpu:
                    continue
                if whose == user:
                    before = batch_id < e.batch_id or (not job.plan.always_run, job_id) < turn
                    require(not before, "of one user the earlier job is served first", (e, batch_id, job_id))
                else:
                    fewer = self._cores[whose] < self._cores[user]
                    require(not fewer, "who has the fewest cores is served first", (e, batch_id, job_id))

    def _ended(self, e: ev.AttemptEnded) -> None:
        attempt = self._live(e.attempt_id)
        batch = self.batches[e.batch_id]
        job = batch.jobs[e.job_id]
        require(attempt.key == (e.batch_id, e.job_id), "it is its own job's end", e)
        require(job.state is JobState.RUNNING, "it ran until now", e)
        attempt.ended = True
        self._used[attempt.worker_id] -= attempt.mcpu
        self._cores[batch.request[0]] -= attempt.mcpu
        self.seen[f"ended: {e.reason.name}"] += 1
        self.seen[f"{e.reason.name} makes a job {e.job_state.name}"] += 1
        self._check_bill(attempt, e)
        cancelled = batch.cancelled_at_ms is not None and not job.plan.always_run
        wanted = _verdict(e, job, cancelled)
        require(e.job_state is wanted, f"what this end means for the job is {wanted.name}", e)
        job.ends[e.reason] += 1
        users_own = e.reason in (EndReason.COMPLETED, EndReason.ERROR)
        job.own_failures += users_own and e.job_state is not JobState.SUCCESS
        job.state = e.job_state

    def _lost(self, e: ev.WorkerLost) -> None:
        left = [a for a in self.attempts.values() if a.worker_id == e.worker_id and not a.ended]
        require(not left, "a lost worker's attempts have ended", e)
        del self.workers[e.worker_id]
        machine = self.machines[e.worker_id]
        over = machine.is_gone or machine.lease_until_ms <= self._now()
        require(over, "a worker is not lost before its lease is over", (e, machine.lease_until_ms))

    def _check_bill(self, attempt: KnownAttempt, e: ev.AttemptEnded) -> None:
        self._require_ran(e.attempt_id, e.main_ms)
        require(e.main_ms >= attempt.billed_ms, "billed time only grows", (e, attempt))
        told = self.told.get(e.attempt_id)
        run = self.runs.get(e.attempt_id)
        by_report = told is not None and (told.message, told.containers) == (e.message, e.containers)
        if e.reason not in (EndReason.LOST, EndReason.REVOKED):
            require(by_report, "only its own worker says how an attempt ended", (e, told))
            require(told is not None and told.reason is e.reason, "its reason is kept", (e, told))
        if by_report and told is not None and told.reason is EndReason.REVOKED:
            require(attempt.revoked, "nobody stops what is not revoked", (e, attempt))
        if by_report and run is not None and not run.cut and not run.blurred:
            require(e.main_ms == run.ran_ms(self._now()), "a reported end is billed exactly", (e, run))
        elif not by_report:
            self.seen["an end nobody reported"] += 1
            machine = self.machines[attempt.worker_id]
            hopeless = told is None or machine.is_gone or machine.lease_until_ms <= self._now()
            require(hopeless, "what a worker knows of an end is waited for", (e, told))
            heard_ms, life = self._heard.get(e.attempt_id, (0, self._lives))
            if life != self._lives:
                heard_ms = self._kept.get(e.attempt_id, 0) - self._limits.progress_ms
            require(e.main_ms >= heard_ms, "billed by its last word", (e, heard_ms))

    def _require_ran(self, attempt_id: str, main_ms: int) -> None:
        run = self.runs.get(attempt_id)
        ran_ms = run.ran_ms(self._now()) if run else 0
        if run is not None and run.unseen_end and run.ended_ms is not None:
            seen_ms = run.seen_ms if run.machine.is_watched else self._now()
            ran_ms += max(0, seen_ms - run.ended_ms) + SEEN_WITHIN_MS
        require(main_ms <= ran_ms, "never billed for more than ran", (attempt_id, main_ms, ran_ms))

    def _live(self, attempt_id: str) -> KnownAttempt:
        attempt = self.attempts[attempt_id]
        require(not attempt.ended, "an attempt ends once, and nothing comes after", attempt_id)
        return attempt

    def _jobs(self, batch: KnownBatch, jobs: Iterable[Range]) -> list[KnownJob]:
        return [batch.jobs[i] for first, last in jobs for i in range(first, last + 1)]

    def _require_parents(self, batch: KnownBatch, job: KnownJob) -> None:
        parents = [batch.jobs[p].state for p in job.plan.parents]
        good = all(p.is_complete if job.plan.always_run else p is JobState.SUCCESS for p in parents)
        require(good, "no job goes before its parents", (job, parents))

    def withdrawn(self, attempt_id: str) -> None:
        """The user was told that this attempt ends now, or has ended."""
        attempt = self.attempts[attempt_id]
        require(attempt.revoked or attempt.ended, "what is answered to have ended ends", attempt_id)
        self.seen["an attempt that its owner ended"] += attempt.revoked

    # -- what really happens -------------------------------------------------------------------------

    def controller_died(self) -> None:
        self._lives += 1

    def heard(self, attempt_id: str, main_ms: int) -> None:
        """The controller has heard a heartbeat with this in it."""
        if main_ms > self._heard.get(attempt_id, (0, 0))[0]:
            self._heard[attempt_id] = main_ms, self._lives
            self._new_words.append(attempt_id)

    def step_ended(self, *, committed: bool) -> None:
        """Whatever had to be made durable of what was heard is durable now, or the database would not."""
        if committed:
            self._kept.update({attempt_id: self._heard[attempt_id][0] for attempt_id in self._new_words})
        self._new_words.clear()

    def ordered(self, worker_id: str, attempt_ids: Iterable[str]) -> None:
        """A worker is told to run these."""
        for attempt_id in attempt_ids:
            attempt = self.attempts.get(attempt_id)
            require(attempt is not None, "nothing is ordered before it is committed", attempt_id)
            require(attempt and attempt.worker_id == worker_id, "orders reach their worker", attempt_id)

    def told_end(self, worker_id: str, report: Report) -> None:
        """A worker has it on disk how an attempt of its own ended."""
        attempt = self.attempts[report.attempt_id]
        require(attempt.worker_id == worker_id, "a worker knows of its own attempts only", report)
        told = self.told.get(report.attempt_id, report)
        require(told == report, "what a worker has told of an end it tells again", (told, report))
        self.told[report.attempt_id] = report

    def acked(self, worker_id: str, attempt_id: str, state: AttemptState) -> None:
        """A worker hears that it may forget this."""
        attempt = self.attempts.get(attempt_id)
        if attempt is not None and attempt.worker_id == worker_id:
            known = attempt.ended or (attempt.started and state is AttemptState.STARTED)
            require(known, f"what is acknowledged ({state.name}) is committed", (attempt_id, attempt))

    def main_starts(self, machine: Machine, attempt_id: str) -> None:
        attempt = self.attempts[attempt_id]
        batch_id, job_id = attempt.key
        batch = self.batches[batch_id]
        require(attempt_id not in self.runs, "an attempt's main container starts once", attempt_id)
        for parent in batch.jobs[job_id].plan.parents:
            require(batch.jobs[parent].state.is_complete, "no job runs before its parents", attempt.key)
        require(batch.jobs[job_id].state is not JobState.SUCCESS, "what succeeded never runs again", attempt)
        for other_id, other in self.runs.items():
            if other.key == attempt.key and other.ended_ms is None:
                orphan = not other.machine.is_watched and other.machine.lease_until_ms <= self._now()
                if not (orphan or self._now() <= other.guarded_ms + self._limits.grace_ms):
                    raise Violation(f"two containers of job {attempt.key}: {other_id} and {attempt_id}")
                self.seen["overlap with a container that nobody guarded"] += 1
        self.runs[attempt_id] = Run(attempt.key, machine, self._now())

    def main_ends(self, attempt_id: str, *, cut: bool = False) -> None:
        run = self.runs[attempt_id]
        run.ended_ms, run.cut = self._now(), cut
        late_ms = 0 if cut else run.ended_ms - max(run.machine.lease_until_ms, run.guarded_ms)
        watched = late_ms <= self._limits.grace_ms or not run.machine.is_watched
        require(watched, "nothing runs on after its worker's lease and the grace", (attempt_id, late_ms))
        batch = self.batches[run.key[0]]
        if batch.cancelled_at_ms is not None and not batch.jobs[run.key[1]].plan.always_run:
            went_on_ms = run.ended_ms - max(run.started_ms, batch.cancelled_at_ms, run.guarded_ms)
            in_time = went_on_ms <= CANCEL_WITHIN_MS
            require(in_time, "a cancelled batch's containers stop soon", (attempt_id, went_on_ms))

    # -- the end -------------------------------------------------------------------------------------

    def is_over(self) -> bool:
        """All that may complete is complete, and nothing runs."""
        return all(b.complete for b in self.batches.values() if b.closed) and all(
            r.ended_ms is not None for r in self.runs.values()
        )

    def check_rows(self, rows: Rows) -> None:
        """Everything is over; the rows are what the attempts come to."""
        attempts: dict[Key, list[str]] = {}
        for attempt_id, attempt in self.attempts.items():
            require(attempt.ended, "every attempt ends", attempt_id)
            attempts.setdefault(attempt.key, []).append(attempt_id)
        require(rows.attempts.keys() == self.attempts.keys(), "every attempt has a row", rows.attempts.keys())
        self._check_ledger(rows)
        paused = {*self.draining, *([SERVICE] if self.frozen else [])}
        require(rows.pauses.keys() == paused, "what is paused has a row", rows.pauses)
        for worker_id, worker in rows.workers.items():
            active = worker.state is WorkerState.ACTIVE
            require(active == (worker_id in self.workers), "a worker is lost or not", worker)
        for batch_id, batch in self.batches.items():
            jobs = [rows.jobs[batch_id, i] for i in range(1, batch.n_jobs + 1) if batch.closed]
            for job in jobs:
                self._check_job(job, attempts.get((batch_id, job.job_id), []), rows)
            self._check_batch(batch_id, batch, jobs, rows)

    def _check_ledger(self, rows: Rows) -> None:
        """What every attempt used, by day and resource, and nothing else."""
        used: Counter[tuple[int, int, str]] = Counter()
        costs: Counter[tuple[int, int, str]] = Counter()
        for a in rows.attempts.values():
            for charge in charges(a.mcpu, a.started_at_ms or 0, a.main_ms, self.rates):
                key = a.batch_id, charge.day, charge.resource
                used[key] += charge.mcpu_ms
                costs[key] += charge.nanousd
        booked = {key: (row.mcpu_ms, row.nanousd) for key, row in rows.ledger.items()}
        expected = {key: (n, costs[key]) for key, n in used.items()}
        require(booked == expected, f"the ledger is the sum of the attempts {expected}", booked)
        spent = {name: project.spent_nanousd for name, project in rows.projects.items()}
        total = sum(costs.values())
        require(sum(spent.values()) == total == self.spent, "and what was spent is its sum", (spent, total))

    def _check_job(self, job: JobRow, attempt_ids: list[str], rows: Rows) -> None:
        known = self.batches[job.batch_id].jobs[job.job_id]
        tries = [rows.attempts[a] for a in attempt_ids]
        require(job.state is known.state, "a job's row says its state", (job, known))
        require([a.number for a in tries] == list(range(1, len(tries) + 1)), "attempts are dense", job)
        lost = known.ends[EndReason.LOST] + known.ends[EndReason.REFUSED]
        counts = len(tries), known.ends[EndReason.PREEMPTED], lost, known.own_failures
        counted = job.n_attempts, job.n_preempted, job.n_lost, job.n_failed
        require(counted == counts, f"a job's tries are counted {counts}", job)
        for a in tries:
            started_ms = 0 if a.started_at_ms is None else a.started_at_ms
            cost = cost_nanousd(a.mcpu, started_ms, a.main_ms, self.rates)
            require(a.cost_nanousd == cost, f"an attempt costs {cost}", a)
        totals = (
            sum(a.main_ms for a in tries),
            sum(a.main_ms * a.mcpu for a in tries),
            sum(a.cost_nanousd for a in tries),
        )
        said = job.duration_ms, job.msec_mcpu, job.cost_nanousd
        require(said == totals, f"a job costs what its attempts cost {totals}", job)
        if tries:
            require(job.attempt_id == tries[-1].attempt_id, "a job names its last attempt", job)
            require(job.started_at_ms == tries[-1].assigned_at_ms, "and when that began", job)

    def _check_batch(self, batch_id: int, batch: KnownBatch, jobs: list[JobRow], rows: Rows) -> None:
        row = rows.batches[batch_id]
        if batch_id in self.hidden:
            is_hidden = row.deleted_at_ms is not None
            require(is_hidden is self.hidden[batch_id], "a batch is hidden as its user was told", row)
        if not batch.closed:
            require(row.state is BatchState.OPEN, "what is not closed is open", row)
            return
        n = Counter(j.state for j in jobs)
        failed = n[JobState.FAILURE] + n[JobState.ERROR]
        counts = (0, 0, 0, n[JobState.SUCCESS], failed, n[JobState.CANCELLED])
        counted = row.n_pending, row.n_ready, row.n_running, row.n_succeeded, row.n_failed, row.n_cancelled
        require(row.n_jobs == len(jobs) and counted == counts, f"a batch counts its jobs {counts}", row)
        totals = sum(j.msec_mcpu for j in jobs), sum(j.cost_nanousd for j in jobs)
        require((row.msec_mcpu, row.cost_nanousd) == totals, f"a batch costs its jobs' cost {totals}", row)
        require(row.completed_at_ms is not None, "it is complete", row)
        told = self.called_back[batch_id]
        if row.callback and row.deleted_at_ms is None:
            require(told and row.callback_outcome == TOLD, "who asked for it is told", row)
        require(
            told <= bool(row.callback) * (batch.n_completions + self._lives),
            "and once each time, but for controllers that died",
            row,
        )
        if failed:
            state = BatchState.FAILURE
        elif n[JobState.CANCELLED] or (batch.cancelled_at_ms is not None and not jobs):
            state = BatchState.CANCELLED
        else:
            state = BatchState.SUCCESS
        require(row.state is state, f"by the rules it is {state.name}", row)
        self.seen[f"batch: {state.name}"] += 1


def _verdict(e: ev.AttemptEnded, job: KnownJob, cancelled: bool) -> JobState:
    """The table of job states, once more."""
    if e.reason in (EndReason.COMPLETED, EndReason.ERROR):
        if e.reason is EndReason.COMPLETED and not any(c.exit_code for c in e.containers):
            return JobState.SUCCESS
        if job.own_failures < job.plan.retries and not cancelled:
            return JobState.READY
        return JobState.ERROR if e.reason is EndReason.ERROR else JobState.FAILURE
    if cancelled:
        return JobState.CANCELLED
    like_it = (
        [EndReason.PREEMPTED] if e.reason is EndReason.PREEMPTED else [EndReason.LOST, EndReason.REFUSED]
    )
    so_far = sum(job.ends[reason] for reason in like_it) + 1
    lost = job.plan.max_lost or MAX_LOST
    preempted = job.plan.max_preempted or MAX_PREEMPTED
    most = {EndReason.PREEMPTED: preempted, EndReason.LOST: lost, EndReason.REFUSED: lost}
    return JobState.ERROR if so_far >= most.get(e.reason, so_far + 1) else JobState.READY
