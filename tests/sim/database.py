"""A store whose commits fail when a history wants it, with the log and the rows open to everybody's eyes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random

from longshore_controller.core import events as ev
from longshore_controller.core.model import (
    ALWAYS_RUN,
    AttemptState,
    JobColumns,
    JobState,
    Viewer,
    WorkerState,
)
from longshore_controller.core.money import RateCard, with_card
from longshore_controller.core.rows import SERVICE, BatchRow, Changes
from longshore_controller.core.state import Attempt, Batch, Project, State, Worker
from longshore_controller.core.verdict import Tries
from longshore_controller.store import Store, StoreUnavailable
from longshore_controller.store.ledger import Wanted
from world import Job, Rows, bare, columns, fold_log, staged


class InjectedDefect(Exception):
    """Something that nobody foresaw happens within a commit."""


class Records:
    """What was committed, in plain memory: the log, and what the rows should be."""

    def __init__(self) -> None:
        self.plans: dict[int, Sequence[Job]] = {}
        """The jobs that users send, by batch."""
        self.wanted: dict[str, Sequence[Job]] = {}
        """The jobs that come with their batch, by request id."""
        self.more: dict[tuple[int, str], Sequence[Job]] = {}
        """The jobs that are added to a batch, by request id."""
        self._closed_with: dict[int, int] = {}
        """How many jobs a batch was closed with."""
        self.log: list[ev.Event] = []
        self.rows = Rows()

    def record(self, events: list[ev.Event], changes: Changes) -> None:
        whole = {batch_id for batch_id, first, _ in changes.bunches if first == 1}
        for event in events:
            if isinstance(event, ev.BatchCreated) and event.batch_id in whole:
                self.plans[event.batch_id] = self.wanted[event.request_id]
            elif isinstance(event, ev.BatchClosed):
                self.rows.add_jobs(event.batch_id, self.plans[event.batch_id])
                self._closed_with[event.batch_id] = len(self.plans[event.batch_id])
            elif isinstance(event, ev.JobsAdded):
                more = self.more[event.batch_id, event.request_id]
                self.plans[event.batch_id] = [*self.plans[event.batch_id], *more]
        self.rows.write(changes)
        self.log += events

    def folded(self) -> State:
        """What the log comes to."""
        return fold_log(self._with_columns(e) for e in self.log)

    def _with_columns(self, event: ev.Event) -> ev.Event:
        """A closed batch brings its jobs as they were then; those in the log have lived on."""
        if isinstance(event, ev.BatchClosed):
            before = self.plans[event.batch_id][: self._closed_with[event.batch_id]]
            return replace(event, columns=columns(before))
        if isinstance(event, ev.JobsAdded):
            return replace(event, added=staged(self.more[event.batch_id, event.request_id]))
        return event

    def check_store(self, store: Store) -> None:
        """What people read there is what was committed."""
        rows = self.rows
        for batch_id, batch in rows.batches.items():
            assert store.batch(batch_id, with_deleted=True) == batch
            if batch.deleted_at_ms is None and batch.closed_at_ms is not None:
                jobs = [rows.jobs[batch_id, i] for i in range(1, batch.n_jobs + 1)]
                assert [j.row for j in store.jobs(batch_id, limit=1_000)] == jobs
        rows.check_failures(store)
        for attempt_id, attempt in rows.attempts.items():
            assert store.attempt(attempt_id) == attempt
        everybody = Viewer("root", admin=True)
        told_apart = Wanted(by=("batch_id", "day", "resource"))
        costs = {(c.batch_id, c.day, c.resource): c[-2:] for c in store.costs(everybody, told_apart) or ()}
        assert costs == {key: (row.nanousd, row.mcpu_ms) for key, row in rows.ledger.items()}
        assert {p.name: p for p in store.projects(rows.projects.keys())} == rows.projects
        assert {r for r in store.rates() if r.from_day} == {r for card in rows.rates.values() for r in card}
        with store._db.reading() as db:
            ((first,),) = store._db.rows(db, "SELECT MIN(first_seq) FROM event_log")
        forgotten = len(self.log) if first is None else first - 1
        logged = store.events_after(forgotten, 100_000)
        assert logged is not None
        assert [e for _, some in logged for e in some] == [bare(e) for e in self.log[forgotten:]]


class Database(Records):
    """Without a real store, rows in memory keep the store's promises, at the speed of histories.

    With one, every commit goes to both, and what is loaded comes from the real one.
    """

    def __init__(
        self, store: Store | None, rng: Random, on_commit: Callable[[list[ev.Event], Changes], None]
    ) -> None:
        super().__init__()
        self.store = store
        self._rng = rng
        self._on_commit = on_commit
        self.failing = 0.0
        """How likely a commit fails, one way or another."""
        self.failures: list[str] = []
        """What kinds of failures there were."""

    # -- what the engine knows -----------------------------------------------------------------------

    def load(self) -> tuple[State, int]:
        if self._rng.random() < self.failing:
            raise StoreUnavailable("not now")
        if self.store is not None:
            state, seq = self.store.load()
            assert seq == len(self.log), f"the store has {seq} events, {len(self.log)} were committed"
        else:
            state = self._load_rows()
        assert state == self.folded(), "what is loaded is not the fold of the log"
        state.check()
        return state, len(self.log)

    def commit(self, events: list[ev.Event], changes: Changes, at_ms: int) -> int:
        fails = self._rng.random() < self.failing and self._rng.choice(["fails", "is unknown", "breaks"])
        if fails:
            self.failures.append(f"a commit {fails}")
        if fails == "fails":
            raise StoreUnavailable("the connection was refused; nothing was written")
        if fails == "breaks":
            raise InjectedDefect("a row that nobody thought of")
        if self.store is not None:
            self.store.commit(events, changes, at_ms)
        self.record(events, changes)
        self._on_commit(events, changes)
        if fails:
            raise StoreUnavailable("the connection broke within COMMIT; it was written")
        return len(self.log)

    def confirm(self) -> None:
        if self.store is not None:
            self.store.confirm()

    # -- what services know --------------------------------------------------------------------------

    def batch_of_request(self, user: str, request_id: str) -> BatchRow | None:
        rows = self.rows.batches.values()
        return next((b for b in rows if (b.user, b.request_id) == (user, request_id)), None)

    def callbacks_due(self, after_id: int, limit: int) -> list[BatchRow]:
        if self._rng.random() < self.failing:
            raise StoreUnavailable("not now")
        if self.store is not None:
            return self.store.callbacks_due(after_id, limit)
        return [
            row
            for batch_id, row in sorted(self.rows.batches.items())
            if batch_id > after_id
            and (row.callback and not row.callback_outcome)
            and (row.completed_at_ms is not None and row.deleted_at_ms is None)
        ][:limit]

    def stage(self, batch_id: int, jobs: Sequence[Job]) -> None:
        """The jobs of an open batch, in two bunches, one of them sent twice."""
        self.plans[batch_id] = jobs
        half = len(jobs) // 2
        for first, bunch in ((half, jobs[half:]), (0, jobs[:half]), (half, jobs[half:])):
            if self.store is not None and bunch:
                self.store.stage(batch_id, first + 1, staged(bunch))

    def columns(self, batch_id: int) -> JobColumns:
        """The jobs before any of them ran."""
        if self.store is not None:
            return self.store.columns(batch_id)
        return columns(self.plans[batch_id])

    def left_batch(self, batch_id: int) -> Batch | None:
        """A complete batch as it has left memory."""
        row = self.rows.batches[batch_id]
        if row.completed_at_ms is None:
            return None
        if self.store is not None:
            return self.store.left_batch(batch_id)
        return self._batch_of(row)

    # -- three folds of one log ----------------------------------------------------------------------

    def _load_rows(self) -> State:
        """What the rows come to, as store.py says it."""
        state = State()
        for from_day, card in self.rows.rates.items():
            prices = tuple(sorted((r.resource, Fraction(r.usd_per_core_hour)) for r in card))
            state.rates = with_card(state.rates, RateCard(from_day, prices))
        state.projects = {name: Project(*row) for name, row in self.rows.projects.items()}
        for _, row in sorted(self.rows.batches.items()):
            if row.completed_at_ms is None:
                self._load_batch(state, row)
        for w in self.rows.workers.values():
            if w.state is WorkerState.ACTIVE:
                state.workers[w.worker_id] = Worker(
                    w.worker_id, w.name, w.capacity_mcpu, w.runtime, w.joined_at_ms, w.capacity_mcpu
                )
        for a in self.rows.attempts.values():
            if a.state is not AttemptState.ENDED:
                state.add_attempt(
                    Attempt(
                        a.attempt_id, a.batch_id, a.job_id, a.number, a.worker_id, a.mcpu, a.assigned_at_ms,
                        a.state, a.started_at_ms, a.main_ms, a.revoked,
                    )
                )  # fmt: skip
        for paused, pause in self.rows.pauses.items():
            if paused == SERVICE:
                state.frozen = pause
            else:
                state.draining[paused] = pause
        state.next_batch_id = max(self.rows.batches, default=0) + 1
        return state

    def _load_batch(self, state: State, row: BatchRow) -> None:
        batch = self._batch_of(row)
        state.add_batch(batch)
        if batch.columns is None:
            return
        state.load_columns(row.batch_id, batch.columns)
        jobs = [self.rows.jobs[row.batch_id, i] for i in range(1, row.n_jobs + 1)]
        batch.tries = {
            j.job_id: Tries(
                j.n_attempts, j.n_preempted, j.n_lost, j.n_failed, j.duration_ms, j.msec_mcpu,
                j.cost_nanousd, j.started_at_ms,
            )
            for j in jobs
            if j.n_attempts and j.state in (JobState.READY, JobState.RUNNING)
        }  # fmt: skip
        batch.unfinished_nanousd = sum(tries.cost_nanousd for tries in batch.tries.values())

    def _batch_of(self, row: BatchRow) -> Batch:
        """With its jobs, if it is closed."""
        batch = Batch(
            row.batch_id, row.user, row.billing_project, row.request_id, row.request_sha256,
            row.attributes, row.n_jobs, row.created_at_ms, row.closed_at_ms, row.cancelled_at_ms,
            row.cancelled_by, row.cancel_reason, row.deleted_at_ms, row.msec_mcpu, row.cost_nanousd,
            row.cancel_after_n_failures, row.callback, row.rerun_of,
        )  # fmt: skip
        batch.updates = dict(self.rows.updates.get(row.batch_id, {}))
        if row.closed_at_ms is None:
            return batch
        plan = self.plans.get(row.batch_id, ())[: row.n_jobs]
        jobs = [self.rows.jobs[row.batch_id, i] for i in range(1, row.n_jobs + 1)]
        states = bytearray(j.state | ALWAYS_RUN * p.always_run for j, p in zip(jobs, plan, strict=True))
        s = staged(plan)
        retries = {i: r for i, r in enumerate(s.retries, 1) if r}
        batch.take_columns(JobColumns.build(states, s.mcpu, s.parents, retries))
        return batch
