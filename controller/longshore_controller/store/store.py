"""The store as the engine knows it: load everything, commit, be the only one who does."""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path

import peewee
from playhouse import migrations

from longshore_controller.core.events import Event
from longshore_controller.core.failures import FAILED, tallied
from longshore_controller.core.model import (
    AttemptState,
    JobColumns,
    Pause,
    Range,
    Update,
    WorkerState,
    initial_states,
    ranges,
)
from longshore_controller.core.money import RateCard, Rates
from longshore_controller.core.rows import (
    SERVICE,
    AttemptRow,
    BatchRow,
    Changes,
    JobRangeRow,
    JobRow,
    ProjectRow,
    RateRow,
    UpdateRow,
    WorkerRow,
)
from longshore_controller.core.state import Attempt, Batch, Project, State, Worker
from longshore_controller.core.verdict import Tries
from longshore_controller.store.dialect import Contradiction, RangeUpdate, StoreUnavailable, Upsert
from longshore_controller.store.pages import ATTEMPT, BATCH, columns_of, run
from longshore_controller.store.rows import pack, sha256, spec_rows, to_json
from longshore_controller.store.shared import SharedStore

SLICE = 50_000
"""Rows read at a time of a batch that is loaded."""


HANDOVER_S = 1.0
"""A database server lets go of a lock a moment after its holder has gone."""


class EpochLost(Exception):
    """Somebody else is the leader now; the process must end."""


class StoreInUse(Exception):
    """Another process has the store open. The message says which."""


class Store(SharedStore):
    """One database with one writer.

    StoreUnavailable from `commit` may also mean that nobody knows whether it happened.
    """

    _in_doubt = False
    """A commit has failed; what is in the rows is only known after `load`."""

    def open(self) -> None:
        """Become the leader: take the lock, bring the schema up to date, raise the epoch.

        StoreInUse while another process leads.
        """
        until = time.monotonic() + HANDOVER_S
        while not (leads := self._db.open()) and time.monotonic() < until:
            time.sleep(0.05)
        if not leads:
            holder = self._holder()
            self._db.close()
            raise StoreInUse(f"{self._db.name} is in use by {holder}; end it before you start another")
        with self._db.failures():
            migrations.run(self._db.writer, str(Path(__file__).parent / "migrations"))
        with self._db.committing() as db:
            ((self.epoch,),) = self._db.rows(
                db,
                """INSERT INTO leader (id, epoch, holder, last_seq) VALUES (1, 1, ?, 0)
                ON CONFLICT (id) DO UPDATE SET epoch = leader.epoch + 1, holder = excluded.holder
                RETURNING epoch""",
                f"process {os.getpid()} on {socket.gethostname()}",
            )

    def close(self) -> None:
        """Stop leading. Never raises."""
        self._db.close()

    def load(self) -> tuple[State, int]:
        """Everything that is not over, and the number of the last event. The writer's thread only.

        After a failure it connects again. EpochLost when somebody else led meanwhile.
        """
        held = self._db.open() if self._in_doubt else True
        self._in_doubt = True
        with self._db.committing() as db:
            ((epoch, last_seq),) = self._db.rows(db, "SELECT epoch, last_seq FROM leader")
            if epoch != self.epoch:
                raise EpochLost(f"epoch {self.epoch} is over, {epoch} has begun")
            if not held:
                raise StoreUnavailable(f"{self._db.name}: the lock of our lost connection is not free yet")
            state = self._load_state(db)
        self._in_doubt = False
        return state, last_seq

    def commit(self, events: list[Event], changes: Changes, at_ms: int) -> int:
        """Make the events and what they changed durable, all or nothing; the last one's number.

        The writer's thread only. After an exception nothing is committed any more until `load`.
        EpochLost when somebody else leads now; Contradiction when a row would leave a final state or
        break a constraint.
        """
        if self._in_doubt:
            raise StoreUnavailable("the last commit failed: load first")
        self._in_doubt = True
        with self._db.committing() as db:
            last_seq = self._raise_seq(db, len(events))
            with self._db.together():
                self._append(db, events, last_seq, at_ms)
                self._write(db, changes)
        self._in_doubt = False
        for batch_id, first_job_id, jobs in changes.bunches:
            self._fresh.add(batch_id, first_job_id, jobs.specs)
        for batch_id, row in changes.batches.items():
            if row.completed_at_ms is not None:
                self._fresh.forget(batch_id)
        return last_seq

    def confirm(self) -> None:
        """We still lead. The writer's thread only. After an exception nothing is committed until `load`."""
        if self._in_doubt:
            raise StoreUnavailable("the last commit failed: load first")
        self._in_doubt = True
        with self._db.failures():
            ((epoch,),) = self._db.rows(self._db.writer, "SELECT epoch FROM leader")
        if epoch != self.epoch:
            raise EpochLost(f"epoch {self.epoch} is over, {epoch} has begun")
        self._in_doubt = False

    def _holder(self) -> str:
        try:
            with self._db.reading() as db:
                found = self._db.rows(db, "SELECT holder FROM leader")
        except (StoreUnavailable, peewee.ProgrammingError):
            found = []  # It is still making its tables.
        return str(found[0][0]) if found else "a process that has just started"

    def _raise_seq(self, db: peewee.Database, by: int) -> int:
        rows = self._db.rows(
            db,
            "UPDATE leader SET last_seq = last_seq + ? WHERE epoch = ? RETURNING last_seq",
            *(by, self.epoch),
        )
        if not rows:
            raise EpochLost(f"epoch {self.epoch} is over")
        return int(rows[0][0])

    def _append(self, db: peewee.Database, events: list[Event], last_seq: int, at_ms: int) -> None:
        self._db.execute(
            db,
            "INSERT INTO event_log (first_seq, last_seq, at_ms, epoch, events) VALUES (?, ?, ?, ?, ?)",
            *(last_seq - len(events) + 1, last_seq, at_ms, self.epoch, self._encode_events(events)),
        )

    def _write(self, db: peewee.Database, changes: Changes) -> None:
        for batch_id, n_jobs in changes.reopened:
            self._db.change_one(_REOPEN, batch_id, n_jobs)
        if changes.updates:
            self._db.upsert(_UPDATES, changes.updates)
        for batch_id, first, bunch in changes.bunches:
            packed = pack(bunch)
            self._db.upsert(_BUNCHES, [(batch_id, first, len(bunch), sha256(bunch, packed), packed)])
            self._db.upsert(_SPECS, list(spec_rows(batch_id, first, bunch)))
            states = enumerate(initial_states(bunch.parents, bytes(len(bunch))), start=first)
            waiting = [(batch_id, i, state) for i, state in states if (batch_id, i) not in changes.jobs]
            if waiting:
                self._db.upsert(_NEW_JOBS, waiting)
        if updates := list(_disjoint(changes.job_ranges, changes.jobs)):
            self._db.update_ranges(updates)
        if changes.jobs:
            self._db.upsert(_JOBS, list(changes.jobs.values()))
        # Only where a batch has failed jobs at all are its jobs looked at here.
        if any(batch.n_failed for batch in changes.batches.values()):
            self._count_failures(db, changes)
        if changes.workers:
            self._db.upsert(_WORKERS, list(changes.workers.values()))
        if changes.attempts:
            # A job's former attempt ends before its next one lives: each row is checked at once.
            attempts = sorted(changes.attempts.values(), key=lambda a: a.state is not AttemptState.ENDED)
            self._db.upsert(_ATTEMPTS, [(*a[:-1], self._encode_containers(a.containers)) for a in attempts])
        if changes.batches:
            at = BatchRow._fields.index("attributes")
            batches = changes.batches.values()
            rows = [(*b[:at], to_json(b.attributes), *b[at + 1 :]) for b in batches]
            self._db.upsert(_BATCHES, rows)
        for paused, pause in changes.pauses.items():
            if pause is not None:
                self._db.upsert(_PAUSES, [(paused, pause.by, pause.reason, pause.at_ms)])
            else:
                self._db.execute(db, "DELETE FROM pause WHERE paused = ?", paused)
        for batch_id, deleted_at_ms in changes.deletions:
            if deleted_at_ms is None:
                sql = "UPDATE batch SET deleted_at_ms = NULL WHERE batch_id = ?"
                self._db.execute(db, sql, batch_id)
            else:
                sql = "UPDATE batch SET deleted_at_ms = COALESCE(deleted_at_ms, ?) WHERE batch_id = ?"
                self._db.execute(db, sql, deleted_at_ms, batch_id)
        if changes.audit:
            self._append_audit(db, changes.audit)
        if changes.ledger:
            self._db.upsert(_LEDGER, list(changes.ledger.values()))
        if changes.projects:
            self._db.upsert(
                _PROJECTS, [(*p[:2], int(p.hard), int(p.closed), *p[4:]) for p in changes.projects.values()]
            )
        for from_day, card in changes.rates.items():
            self._db.execute(db, "DELETE FROM rate WHERE from_day = ?", from_day)
            self._db.upsert(_RATES, card)
        for called in changes.called_back:
            self._db.execute(
                db,
                "UPDATE batch SET callback_outcome = ? WHERE batch_id = ? AND completed_at_ms IS NOT NULL",
                *(called.callback_outcome, called.batch_id),
            )

    def _count_failures(self, db: peewee.Database, changes: Changes) -> None:
        """A job that has failed stays so: its row is written once like that."""
        failed = (
            (job.batch_id, job.job_id, job.state, job.exit_code, job.reason)
            for job in changes.jobs.values()
            if job.state in FAILED
        )
        for way, tally in tallied(failed).items():
            self._db.execute(db, _COUNT_FAILURES, *way, *tally)

    def _load_state(self, db: peewee.Database) -> State:
        state = State()
        state.rates = self._load_rates(db)
        sql = """SELECT name, limit_nanousd, hard, closed, spent_nanousd FROM billing_project
            WHERE limit_nanousd IS NOT NULL OR hard <> 0 OR closed <> 0 OR spent_nanousd > 0"""
        for name, limit, hard, closed, spent in self._db.rows(db, sql):
            state.projects[name] = Project(name, limit, bool(hard), bool(closed), spent)
        for row in self._batches(BATCH.select().where(BATCH.c.completed_at_ms.is_null()), db):
            batch = _batch_of(row)
            state.add_batch(batch)
            if row.closed_at_ms is not None:
                state.load_columns(row.batch_id, self._load_columns(db, row))
                batch.tries = self._load_tries(db, row)
                batch.unfinished_nanousd = sum(tries.cost_nanousd for tries in batch.tries.values())
        sql = """SELECT batch_id, request_id, request_sha256, first_job_id, n_jobs FROM batch_update
            WHERE batch_id IN (SELECT batch_id FROM batch WHERE completed_at_ms IS NULL)"""
        for batch_id, request_id, content, first, n in self._db.rows(db, sql):
            state.batches[batch_id].updates[request_id] = Update(bytes(content), first, n)
        query = _WORKER.select(*columns_of(_WORKER, WorkerRow)).where(_WORKER.c.state == WorkerState.ACTIVE)
        for worker_id, name, capacity, runtime, _, joined, _, _ in run(query, db):
            state.workers[worker_id] = Worker(worker_id, name, capacity, runtime, joined, capacity)
        live = ATTEMPT.select().where(ATTEMPT.c.state != AttemptState.ENDED)
        for a in self._attempts(live, db):
            state.add_attempt(
                Attempt(
                    a.attempt_id, a.batch_id, a.job_id, a.number, a.worker_id, a.mcpu, a.assigned_at_ms,
                    a.state, a.started_at_ms, a.main_ms, a.revoked,
                )
            )  # fmt: skip
        for paused, *pause in self._db.rows(db, "SELECT paused, by_user, reason, at_ms FROM pause"):
            if paused == SERVICE:
                state.frozen = Pause(*pause)
            else:
                state.draining[paused] = Pause(*pause)
        ((last,),) = self._db.rows(db, "SELECT MAX(batch_id) FROM batch")
        state.next_batch_id = (last or 0) + 1
        return state

    def left_batch(self, batch_id: int) -> Batch | None:
        """A complete batch as it has left memory, with its jobs. From any thread. None: it is not."""
        with self._db.reading() as db:
            query = BATCH.select().where(
                (BATCH.c.batch_id == batch_id) & BATCH.c.completed_at_ms.is_null(False)
            )
            if (row := next(self._batches(query, db), None)) is None:
                return None
            batch = _batch_of(row)
            sql = """SELECT request_id, request_sha256, first_job_id, n_jobs FROM batch_update
                WHERE batch_id = ?"""
            for request_id, content, first, n in self._db.rows(db, sql, batch_id):
                batch.updates[request_id] = Update(bytes(content), first, n)
            batch.take_columns(self._load_columns(db, row))
        return batch

    def _load_rates(self, db: peewee.Database) -> Rates:
        cards: dict[int, list[tuple[str, Fraction]]] = defaultdict(list)
        sql = "SELECT from_day, resource, usd_per_core_hour FROM rate ORDER BY from_day, resource"
        for from_day, resource, usd in self._db.rows(db, sql):
            cards[from_day].append((resource, Fraction(usd)))
        return tuple(RateCard(from_day, tuple(prices)) for from_day, prices in cards.items())

    def _load_columns(self, db: peewee.Database, row: BatchRow) -> JobColumns:
        unpacked = self._unpack(db, row.batch_id, row.n_jobs)
        states = unpacked.always_run
        found = 0
        for first in range(1, row.n_jobs + 1, SLICE):
            jobs = self._db.rows(
                db,
                "SELECT job_id, state FROM job WHERE batch_id = ? AND job_id BETWEEN ? AND ?",
                *(row.batch_id, first, min(first + SLICE - 1, row.n_jobs)),
            )
            for job_id, state in jobs:
                states[job_id - 1] |= state
            found += len(jobs)
        if found != row.n_jobs or unpacked.n_missing:
            raise Contradiction(f"batch {row.batch_id} is closed but has {found} of its {row.n_jobs} jobs")
        return unpacked.columns(states)

    def _load_tries(self, db: peewee.Database, row: BatchRow) -> dict[int, Tries]:
        sql = """SELECT job_id, n_attempts, n_preempted, n_lost, n_failed, duration_ms, msec_mcpu,
                cost_nanousd, started_at_ms
            FROM job
            WHERE batch_id = ? AND state IN (2, 3) AND job_id <= ? AND n_attempts > 0"""
        return {r[0]: Tries(*r[1:]) for r in self._db.rows(db, sql, row.batch_id, row.n_jobs)}


def _batch_of(row: BatchRow) -> Batch:
    """Without its jobs."""
    return Batch(
        row.batch_id, row.user, row.billing_project, row.request_id, row.request_sha256,
        row.attributes, row.n_jobs, row.created_at_ms, row.closed_at_ms, row.cancelled_at_ms,
        row.cancelled_by, row.cancel_reason, row.deleted_at_ms, row.msec_mcpu, row.cost_nanousd,
        row.cancel_after_n_failures, row.callback, row.rerun_of,
    )  # fmt: skip


_WORKER = peewee.Table("worker")
_COUNT_FAILURES = """
    INSERT INTO failure_group (batch_id, state, exit_code, manner, n, first_job_id) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (batch_id, state, exit_code, manner) DO UPDATE SET n = failure_group.n + excluded.n,
        first_job_id = CASE WHEN excluded.first_job_id < failure_group.first_job_id
            THEN excluded.first_job_id ELSE failure_group.first_job_id END"""
_BATCHES = Upsert("batch", ("batch_id",), BatchRow._fields, "batch.completed_at_ms IS NULL")
_JOBS = Upsert("job", ("batch_id", "job_id"), JobRow._fields, "job.state < 4")
_ATTEMPTS = Upsert("attempt", ("attempt_id",), AttemptRow._fields, "attempt.state < 90")
_BUNCHES = Upsert(
    "bunch",
    ("batch_id", "first_job_id"),
    ("batch_id", "first_job_id", "n_jobs", "sha256", "columns"),
    "FALSE",
)
_SPECS = Upsert(
    "job_spec",
    ("batch_id", "job_id"),
    ("batch_id", "job_id", "name", "attributes", "mcpu", "always_run", "spec"),
    "FALSE",
)
_UPDATES = Upsert("batch_update", ("batch_id", "request_id"), UpdateRow._fields, "FALSE")
_REOPEN = """UPDATE batch SET completed_at_ms = NULL WHERE batch_id = ? AND n_jobs = ?
    AND completed_at_ms IS NOT NULL AND cancelled_at_ms IS NULL AND deleted_at_ms IS NULL"""
"""Only of what was read before: nothing else has become of the batch since."""
_NEW_JOBS = Upsert("job", ("batch_id", "job_id"), ("batch_id", "job_id", "state"), "FALSE")
_PAUSES = Upsert("pause", ("paused",), ("paused", "by_user", "reason", "at_ms"), "TRUE")
_LEDGER = Upsert(
    "ledger",
    ("batch_id", "day", "resource"),
    ("batch_id", "day", "resource", "project", "user_name", "mcpu_ms", "nanousd"),
    "TRUE",
    ("mcpu_ms", "nanousd"),
)
_PROJECTS = Upsert("billing_project", ("name",), ProjectRow._fields, "TRUE")
_RATES = Upsert("rate", ("from_day", "resource"), RateRow._fields, "TRUE")
_WORKERS = Upsert("worker", ("worker_id",), WorkerRow._fields, "TRUE")


def _disjoint(job_ranges: list[JobRangeRow], jobs: Collection[tuple[int, int]]) -> Iterator[RangeUpdate]:
    """What the ranges come to when the last word on each job counts, and `jobs` says it of those there."""
    said: dict[int, set[int]] = defaultdict(set)
    for batch_id, job_id in jobs:
        said[batch_id].add(job_id)
    for row in reversed(job_ranges):
        before = said[row.batch_id]
        wanted = range(row.first, row.last + 1)
        whole: tuple[Range, ...] = ((row.first, row.last),)
        pieces = whole if before.isdisjoint(wanted) else ranges([i for i in wanted if i not in before])
        before.update(wanted)
        for first, last in pieces:
            yield RangeUpdate(row.state, row.reason, row.ended_at_ms, row.batch_id, first, last)
