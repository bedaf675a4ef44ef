"""A cluster in one line: the reactor, a clock, workers that behave; with a store, each step is committed.

    world = World()
    world.hello("w1", cores=2)
    batch = world.submit(Job(), Job(parents=[1]))
    world.settle()
    world.end(world.attempt_of(batch, 1))
    world.settle()
    assert world.job(batch, 2).state is JobState.RUNNING

What a test asks for is put to the reactor at once and becomes true for everybody else, the workers above
all, by `step`, which commits. `check` says whether memory, log and rows agree.
"""

from __future__ import annotations

import itertools
import json
import pickle
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from longshore_controller.core import events as ev
from longshore_controller.core.failures import FAILED, tallied
from longshore_controller.core.model import (
    ALWAYS_RUN,
    AttemptState,
    ContainerName,
    ContainerRecord,
    EndReason,
    HeldAttempt,
    Hello,
    JobColumns,
    JobState,
    Pause,
    Refusal,
    Report,
    Retries,
    StagedJobs,
    Update,
    initial_states,
)
from longshore_controller.core.reactor import CreateBatch, Limits, Reactor, UpdateBatch
from longshore_controller.core.rows import (
    AttemptRow,
    BatchRow,
    Changes,
    JobRow,
    LedgerRow,
    ProjectRow,
    RateRow,
    WorkerRow,
)
from longshore_controller.core.state import Batch, State
from longshore_controller.store import Store

LATER = 1_700_000_000_000


@dataclass(frozen=True)
class Job:
    """What a test wants of a job."""

    parents: Sequence[int] = ()
    mcpu: int = 1000
    always_run: bool = False
    retries: int = 0
    max_preempted: int = 0
    max_lost: int = 0
    name: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


def staged(jobs: Sequence[Job]) -> StagedJobs:
    """The bunch of these jobs."""
    return StagedJobs(
        always_run=bytes(ALWAYS_RUN * job.always_run for job in jobs),
        mcpu=array("I", (job.mcpu for job in jobs)),
        retries=array("I", (Retries.pack(j.retries, j.max_preempted, j.max_lost) for j in jobs)),
        parents=[array("I", job.parents).tobytes() for job in jobs],
        names=[job.name for job in jobs],
        attributes=[job.attributes for job in jobs],
        specs=[json.dumps([list(job.parents), job.name]).encode() for job in jobs],
    )


def columns(jobs: Sequence[Job]) -> JobColumns:
    """The columns of a batch of these jobs, none of which has run."""
    s = staged(jobs)
    retries = {i: r for i, r in enumerate(s.retries, 1) if r}
    return JobColumns.build(initial_states(s.parents, s.always_run), s.mcpu, s.parents, retries)


def open_store(url: str) -> Store:
    """A store with codecs that need no wire."""
    store = new_store(url)
    store.open()
    return store


def new_store(url: str) -> Store:
    return Store(
        url,
        encode_events=_encode_events,
        decode_events=pickle.loads,
        encode_containers=pickle.dumps,
        decode_containers=pickle.loads,
    )


def _encode_events(events: list[ev.Event]) -> bytes:
    return pickle.dumps([bare(e) for e in events])


def bare(event: ev.Event) -> ev.Event:
    """Without what is no part of the fact."""
    match event:
        case ev.BatchClosed():
            return replace(event, columns=None)
        case ev.BatchReopened():
            return replace(event, batch=None)
        case ev.JobsAdded():
            return replace(event, added=None)
        case _:
            return event


@dataclass
class FakeWorker:
    """A workerd without containers: holds attempts, keeps ends until they are acknowledged."""

    worker_id: str
    mcpu: int
    session: int | None = None
    held: dict[str, int] = field(default_factory=dict)
    """attempt id -> ms that its main container has run."""
    spool: dict[str, Report] = field(default_factory=dict)

    def holding(self) -> tuple[HeldAttempt, ...]:
        return tuple(HeldAttempt(attempt_id, ms) for attempt_id, ms in self.held.items())


class Rows:
    """What the rows should be, by writing down each commit's changes one row after another."""

    def __init__(self) -> None:
        self.batches: dict[int, BatchRow] = {}
        self.jobs: dict[tuple[int, int], JobRow] = {}
        self.attempts: dict[str, AttemptRow] = {}
        self.workers: dict[str, WorkerRow] = {}
        self.updates: dict[int, dict[str, Update]] = {}
        """By batch and request id."""
        self.pauses: dict[str, Pause] = {}
        self.ledger: dict[tuple[int, int, str], LedgerRow] = {}
        self.projects: dict[str, ProjectRow] = {}
        self.rates: dict[int, list[RateRow]] = {}

    def add_jobs(self, batch_id: int, jobs: Sequence[Job]) -> None:
        self.add_bunch(batch_id, 1, staged(jobs))

    def add_bunch(self, batch_id: int, first_job_id: int, bunch: StagedJobs) -> None:
        for job_id, parents in enumerate(bunch.parents, first_job_id):
            state = JobState.PENDING if parents else JobState.READY
            nothing = (0, 0, 0, 0, 0, 0, 0, None, None)
            self.jobs[batch_id, job_id] = JobRow(batch_id, job_id, state, "", None, None, *nothing)

    def read(self, store: Store, state: State) -> None:
        """Of what is not over yet."""
        for batch_id in state.batches:
            batch = store.batch(batch_id, with_deleted=True)
            assert batch is not None
            self.batches[batch_id] = batch
            for job in store.jobs(batch_id, limit=batch.n_jobs):
                self.jobs[batch_id, job.row.job_id] = job.row
                self.attempts |= {a.attempt_id: a for a in store.attempts(batch_id, job.row.job_id)}

    def check_failures(self, store: Store) -> None:
        """They are counted in the store as they stand here."""
        failed = [row for row in self.jobs.values() if row.state in FAILED]
        counted = tallied((row.batch_id, row.job_id, row.state, row.exit_code, row.reason) for row in failed)
        for batch_id in self.batches:
            found = dict(store.failures(batch_id, 1_000))
            assert found == {way: tally for way, tally in counted.items() if way.batch_id == batch_id}

    def write(self, changes: Changes) -> None:
        for batch_id, n_jobs in changes.reopened:
            batch = self.batches[batch_id]
            complete = batch.completed_at_ms is not None and batch.n_jobs == n_jobs
            assert complete and batch.deleted_at_ms is None, f"only what is complete is reopened: {batch}"
        for batch_id, request_id, content, first, n, _ in changes.updates:
            update = Update(content, first, n)
            assert self.updates.setdefault(batch_id, {}).setdefault(request_id, update) is update
        for batch_id, first_job_id, bunch in changes.bunches:
            self.add_bunch(batch_id, first_job_id, bunch)
        assert not any(self.jobs[key].state.is_complete for key in changes.jobs), "left a final state"
        for r in changes.job_ranges:
            for key in ((r.batch_id, i) for i in range(r.first, r.last + 1)):
                job = self.jobs[key]
                self.jobs[key] = job._replace(state=r.state, reason=r.reason, ended_at_ms=r.ended_at_ms)
        for key, row in changes.jobs.items():
            self.jobs[key] = row
        self.attempts |= changes.attempts
        self.workers |= changes.workers
        self.batches |= changes.batches
        for paused, pause in changes.pauses.items():
            self.pauses.pop(paused, None)
            if pause is not None:
                self.pauses[paused] = pause
        for charged, more in changes.ledger.items():
            before = self.ledger.get(charged)
            used, cost = (before.mcpu_ms, before.nanousd) if before else (0, 0)
            self.ledger[charged] = more._replace(mcpu_ms=used + more.mcpu_ms, nanousd=cost + more.nanousd)
        self.projects |= changes.projects
        self.rates |= changes.rates
        for batch_id, deleted_at_ms in changes.deletions:
            self.batches[batch_id] = self.batches[batch_id]._replace(deleted_at_ms=deleted_at_ms)
        for batch_id, outcome in changes.called_back:
            self.batches[batch_id] = self.batches[batch_id]._replace(callback_outcome=outcome)


class World:
    """See the module. Times are virtual; ids are counted, and with a store begin with its epoch."""

    def __init__(self, store: Store | None = None, limits: Limits | None = None) -> None:
        self.store = store
        self.limits = limits or Limits()
        self.now = LATER
        self.workers: dict[str, FakeWorker] = {}
        self.plans: dict[int, list[Job]] = {}
        """The jobs of each batch, as a test wants them."""
        self.log: list[list[ev.Event]] = []
        """The events of each commit."""
        self.rows = Rows()
        self.seq = 0
        life = f"{store.epoch}." if store is not None else ""
        self._ids = (f"a{life}{i}" for i in itertools.count(1))
        self._requests = (f"request {life}{i}" for i in itertools.count(1))
        self._to_acknowledge: list[tuple[FakeWorker, str]] = []
        state = State()
        if store is not None:
            state, self.seq = store.load()
            self.rows.read(store, state)
        self._begin(state)

    def _begin(self, state: State) -> None:
        self.reactor = Reactor(state, lambda: next(self._ids), self.limits, now=self.now)

    @property
    def state(self) -> State:
        return self.reactor.state

    # -- users -----------------------------------------------------------------------------------

    def submit(self, *jobs: Job, user: str = "ann") -> int:
        """A batch of these jobs, created, staged and closed; its id."""
        batch_id = self.create(*jobs, user=user)
        self.step()
        self.stage(batch_id)
        self.close(batch_id)
        return batch_id

    def create(self, *jobs: Job, user: str = "ann", whole: bool = False) -> int:
        """An open batch that will have these jobs, or a whole one; the next `step` commits it."""
        request_id = next(self._requests)
        wanted = CreateBatch(user, "project", request_id, b"sha", len(jobs), {"name": request_id})
        bunch = staged(jobs)
        batch_id = self.reactor.on_create(wanted, self.now, (bunch, bunch.columns()) if whole else None)
        self.plans[batch_id] = list(jobs)
        return batch_id

    def stage(self, batch_id: int, bunch: int = 1000) -> None:
        """Send the jobs of a batch that is committed."""
        jobs = self.plans[batch_id]
        for at in range(0, len(jobs), bunch):
            if self.store is not None:
                self.store.stage(batch_id, at + 1, staged(jobs[at : at + bunch]))

    def close(self, batch_id: int) -> None:
        """All jobs were sent: they may run."""
        self.rows.add_jobs(batch_id, self.plans[batch_id])
        self.reactor.on_close(batch_id, self.columns(batch_id), self.now)

    def columns(self, batch_id: int) -> JobColumns:
        """A batch's jobs before any ran, out of their rows if there are rows."""
        return self.store.columns(batch_id) if self.store is not None else columns(self.plans[batch_id])

    def cancel(self, batch_id: int) -> None:
        self.reactor.on_cancel(batch_id, "ann", "no longer wanted", self.now)

    def delete(self, batch_id: int) -> None:
        """Delete a batch that is committed and not yet deleted; others are left alone."""
        row = self.rows.batches.get(batch_id)
        if row is not None and row.deleted_at_ms is None:
            self.reactor.on_delete(batch_id, row.user, row.user, self.now)

    # -- admins ----------------------------------------------------------------------------------

    def freeze(self, reason: str = "a new network") -> None:
        self.reactor.on_freeze("root", reason, self.now)

    def thaw(self) -> None:
        self.reactor.on_thaw("root", self.now)

    def drain(self, worker_id: str, reason: str = "a new disk") -> None:
        """A worker that is here, or was drained."""
        self.reactor.on_drain(worker_id, "root", reason, self.now)

    def undrain(self, worker_id: str) -> None:
        self.reactor.on_undrain(worker_id, "root", self.now)

    # -- users, later --------------------------------------------------------------------------

    def add(self, batch_id: int, *jobs: Job, request_id: str = "") -> bool:
        """Add jobs to a batch, which may be complete; False: it does not take any."""
        wanted = UpdateBatch(
            batch_id, request_id or next(self._requests), b"more", len(self.plans[batch_id]) + 1, staged(jobs)
        )
        try:
            there = self.reactor.on_update(wanted, None, self.now)
            if not there:
                self.settle()  # What it has become is committed.
                assert self.store is not None, "without a store nobody knows what has left memory"
                assert self.reactor.on_update(wanted, self.store.left_batch(batch_id), self.now)
        except Refusal:
            return False
        self.plans[batch_id] = [*self.plans[batch_id], *jobs]
        return True

    def undelete(self, batch_id: int) -> None:
        """Show a batch again that is committed and deleted; others are left alone."""
        row = self.rows.batches.get(batch_id)
        if row is not None and row.deleted_at_ms is not None:
            self.reactor.on_undelete(batch_id, row.user, row.user, self.now)

    def end_attempt(self, attempt_id: str) -> None:
        """Its owner wants it to end."""
        self.reactor.on_end_attempt(attempt_id, "ann", "it hangs", self.now)

    # -- workers ---------------------------------------------------------------------------------

    def hello(self, worker_id: str = "w1", *, cores: float = 4) -> FakeWorker:
        """The worker (re)connects; then it holds what it is told to, and reports what it has spooled."""
        worker = self.workers.setdefault(worker_id, FakeWorker(worker_id, int(1000 * cores)))
        hello = Hello(
            worker_id=worker_id,
            name=f"host of {worker_id}",
            boot_id="boot",
            incarnation="1",
            capacity_mcpu=worker.mcpu,
            runtime="fake",
            held=worker.holding(),
            spooled=tuple(worker.spool),
        )
        worker.session = self.reactor.on_hello(hello, self.now)
        self.settle()
        self._obey(worker)
        for report in list(worker.spool.values()):
            self._report(worker, report)
        return worker

    def disconnect(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        if worker.session is not None:
            self.reactor.on_disconnect(worker_id, worker.session)
            worker.session = None

    def heartbeat(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        if worker.session is not None and self._in_session(worker):
            diverged = self.reactor.on_heartbeat(
                worker_id, worker.session, worker.holding(), tuple(worker.spool), self.now
            )
            if diverged:
                self.settle()
                self._obey(worker)

    def start(self, attempt_id: str, main_ms: int = 1) -> None:
        """Its worker says that the main container has run so long."""
        worker = self._holder(attempt_id)
        worker.held[attempt_id] = main_ms
        self._report(worker, Report(attempt_id, AttemptState.STARTED, main_ms))

    def end(
        self,
        attempt_id: str,
        exit_code: int = 0,
        reason: EndReason = EndReason.COMPLETED,
        main_ms: int = 1,
    ) -> None:
        """Its worker says that it has ended, and will say so again until it is acknowledged."""
        worker = self._holder(attempt_id)
        worker.held.pop(attempt_id, None)
        main = ContainerRecord(ContainerName.MAIN, exit_code=exit_code)
        report = Report(attempt_id, AttemptState.ENDED, main_ms, reason, "as the test says", (main,))
        worker.spool[attempt_id] = report
        self._report(worker, report)

    def _holder(self, attempt_id: str) -> FakeWorker:
        return next(w for w in self.workers.values() if attempt_id in w.held or attempt_id in w.spool)

    def _in_session(self, worker: FakeWorker) -> bool:
        """Its session is the current one; else the worker notices that it is not."""
        try:
            self.reactor.on_reports(worker.worker_id, worker.session or 0, (), self.now)
        except Refusal:
            worker.session = None
        return worker.session is not None

    def _report(self, worker: FakeWorker, report: Report) -> None:
        if worker.session is not None and self._in_session(worker):
            self.reactor.on_reports(worker.worker_id, worker.session, (report,), self.now)
            if report.state is AttemptState.ENDED:
                self._to_acknowledge.append((worker, report.attempt_id))

    def _obey(self, worker: FakeWorker) -> None:
        """Complete orders: hold exactly these."""
        orders = self.reactor.orders(worker.worker_id, worker.holding(), tuple(worker.spool))
        worker.held = {a: worker.held.get(a, 0) for a in orders.run + orders.keep}

    # -- time and truth --------------------------------------------------------------------------

    def pass_time(self, ms: int) -> None:
        self.now += ms

    def step(self) -> bool:
        """Decide what is due, commit all since the last step, tell the workers. True: there is more.

        What the store raises passes through; then nothing was told, and `reload` is due.
        """
        more = self.reactor.advance(self.now)
        events, changes = self.reactor.take()
        self.state.check()
        if events and self.store is not None:
            self.seq = self.store.commit(events, changes, self.now)
        for worker, attempt_id in self._to_acknowledge:
            worker.spool.pop(attempt_id, None)
        self._to_acknowledge.clear()
        if events:
            self.committed(events, changes)
        return more or bool(self._to_acknowledge)

    def committed(self, events: list[ev.Event], changes: Changes) -> None:
        """These are true now: note them, tell the workers."""
        self.log.append(events)
        self.rows.write(changes)
        for event in events:
            if isinstance(event, ev.AttemptAssigned | ev.AttemptRevoked):
                worker = self.workers[event.worker_id]
                if worker.session is None:
                    continue
                if isinstance(event, ev.AttemptAssigned):
                    worker.held[event.attempt_id] = 0
                elif event.attempt_id in worker.held:
                    self.end(event.attempt_id, 137, EndReason.REVOKED, worker.held[event.attempt_id])
            elif isinstance(event, ev.WorkerLost):
                self.workers[event.worker_id].session = None

    def settle(self) -> None:
        """Step until nothing is left to do at this instant."""
        while self.step():
            pass

    def reload(self) -> None:
        """Memory is thrown away and loaded again; every worker has to connect again."""
        assert self.store is not None
        state, self.seq = self.store.load()
        self._to_acknowledge.clear()
        for worker in self.workers.values():
            worker.session = None
        before = self.reactor
        self._begin(state)
        self.reactor.resume(before, self.now)

    # -- what is ---------------------------------------------------------------------------------

    def job(self, batch_id: int, job_id: int) -> JobRow:
        return self.rows.jobs[batch_id, job_id]

    def batch(self, batch_id: int) -> BatchRow:
        return self.rows.batches[batch_id]

    def attempt_of(self, batch_id: int, job_id: int) -> str:
        """The live attempt of a job that has one."""
        return next(
            a.attempt_id
            for a in self.rows.attempts.values()
            if (a.batch_id, a.job_id) == (batch_id, job_id) and a.state is not AttemptState.ENDED
        )

    def check(self) -> None:
        """Nothing waits to be committed; then memory, the fold of the log and the rows say the same.

        Of a world that began with nothing.
        """
        self.state.check()
        assert fold_log(self.with_jobs(self.log)) == self.state
        if self.store is not None:
            state, seq = self.store.load()
            assert state == self.state
            assert seq == self.seq == sum(map(len, self.log))
            state.check()
            self.rows.check_failures(self.store)

    def with_jobs(self, log: list[list[ev.Event]]) -> Iterator[ev.Event]:
        """The logged events with the jobs as they were then: out of their rows, or as the test sent them."""
        declared: dict[int, int] = {}
        for event in itertools.chain.from_iterable(log):
            if isinstance(event, ev.BatchClosed):
                event = replace(
                    event, columns=columns(self.plans[event.batch_id][: declared[event.batch_id]])
                )
            elif isinstance(event, ev.JobsAdded):
                first = event.first_job_id
                added = self.plans[event.batch_id][first - 1 : first - 1 + event.n_jobs]
                event = replace(event, added=staged(added))
            elif isinstance(event, ev.BatchCreated):
                declared[event.batch_id] = event.n_jobs
            yield event


def fold_log(events: Iterable[ev.Event]) -> State:
    """The state after these events; what was complete and gets more jobs is taken as it was left."""
    state = State()
    left: dict[int, Batch] = {}
    for event in events:
        match event:
            case ev.BatchCompleted():
                left[event.batch_id] = state.batches[event.batch_id]
            case ev.BatchReopened():
                event = replace(event, batch=left.pop(event.batch_id))
            case ev.BatchDeleted() if event.batch_id in left:
                left[event.batch_id].deleted_at_ms = event.at_ms
            case ev.BatchUndeleted() if event.batch_id in left:
                left[event.batch_id].deleted_at_ms = None
            case _:
                pass
        state.apply(event)
    return state


def random_jobs(rng: random.Random, most: int = 12) -> list[Job]:
    """A small graph of jobs of all kinds."""
    return [
        Job(
            parents=sorted(rng.sample(range(1, i + 1), min(i, rng.choice([0, 0, 1, 2])))),
            mcpu=rng.choice([250, 500, 1000, 4000]),
            always_run=rng.random() < 0.2,
            retries=rng.choice([0, 0, 0, 1, 3]),
            name=f"job {i + 1}",
            attributes={"sample": str(i)} if rng.random() < 0.3 else {},
        )
        for i in range(rng.randint(0, most))
    ]


def pause_something(world: World, rng: random.Random) -> None:
    """Freeze or thaw the service, drain a worker or take that back; most often the latter of each."""
    state = world.state
    known = sorted({*state.workers, *state.draining})
    if rng.random() < 0.5:
        world.thaw() if state.frozen else world.freeze(rng.choice(["a new network", "money"]))
    elif known:
        worker_id = rng.choice(known)
        world.undrain(worker_id) if worker_id in state.draining else world.drain(worker_id)


def more_jobs(rng: random.Random, n: int) -> list[Job]:
    """To be added to a batch of ``n`` jobs."""
    return [
        replace(job, parents=sorted(rng.sample(range(1, n + i + 1), min(n + i, rng.choice([0, 1, 2])))))
        for i, job in enumerate(random_jobs(rng, most=4) or [Job()])
    ]


def with_limits(rng: random.Random, jobs: list[Job]) -> list[Job]:
    """Some of them say how often they may be preempted, or lost."""
    return [
        replace(job, max_preempted=rng.choice([0, 1, 2]), max_lost=rng.choice([0, 0, 1, 2]))
        if rng.random() < 0.15
        else job
        for job in jobs
    ]


def do_something(world: World, rng: random.Random, n_workers: int = 3) -> None:
    """One thing that a user, a worker, the network or the clock might do next."""
    world.pass_time(rng.randint(0, 3_000))
    chance = rng.random()
    open_ones = [b.batch_id for b in world.state.batches.values() if b.closed_at_ms is None]
    if chance > 0.97 and world.store is not None:
        if known := [i for i in world.rows.batches if i in world.plans]:
            batch_id = rng.choice(known)
            world.step()
            world.add(batch_id, *more_jobs(rng, len(world.plans[batch_id])))
    elif chance < 0.10:
        (world.submit if rng.random() < 0.8 else world.create)(
            *with_limits(rng, random_jobs(rng)), user=rng.choice(["ann", "bob"])
        )
    elif chance < 0.13 and open_ones:
        batch_id = rng.choice(open_ones)
        world.step()
        world.stage(batch_id, bunch=rng.randint(1, 5))
        world.close(batch_id)
    elif chance < 0.18 and world.state.batches:
        world.cancel(rng.choice(list(world.state.batches)))
    elif chance < 0.21 and world.rows.batches:
        (world.delete if rng.random() < 0.6 else world.undelete)(rng.choice(list(world.rows.batches)))
    elif chance < 0.22:
        world.pass_time(60_000)
    elif chance < 0.24:
        pause_something(world, rng)
    else:
        worker_id = f"w{rng.randint(1, n_workers)}"
        worker = world.workers.get(worker_id)
        if worker is None or worker.session is None:
            world.hello(worker_id, cores=rng.choice([1, 4]))
        elif chance < 0.26:
            world.disconnect(worker_id)
        elif chance < 0.40:
            world.heartbeat(worker_id)
        elif worker.held:
            attempt_id = rng.choice(list(worker.held))
            if rng.random() < 0.3:
                world.start(attempt_id, rng.randint(1, 5_000))
            elif rng.random() < 0.1:
                world.end_attempt(attempt_id)
            else:
                reasons = [*EndReason, *[EndReason.COMPLETED] * 6]
                code = rng.choice([0, 0, 0, 1])
                world.end(attempt_id, code, rng.choice(reasons), rng.randint(0, 5_000))
