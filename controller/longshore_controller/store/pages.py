"""Pages for people: batches, jobs and attempts as rows, in order, as many as are looked at.

Deleted batches are not there, and the jobs of a batch are there once it is closed. What a page costs does
not depend on how many jobs its batch has, but for words in names, which are looked for one by one.
"""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from threading import Lock
from typing import Any, NamedTuple

import peewee

from longshore_controller.core.failures import Tally, Way
from longshore_controller.core.model import (
    AttemptState,
    BatchState,
    ContainerRecord,
    EndReason,
    JobState,
    Viewer,
)
from longshore_controller.core.query import Query
from longshore_controller.core.rows import AttemptRow, BatchRow, JobRow
from longshore_controller.store import conditions
from longshore_controller.store.blocks import BLOCK, Blocks
from longshore_controller.store.conditions import Condition, item_of
from longshore_controller.store.dialect import Dialect
from longshore_controller.store.rows import JobView, from_json

BATCH, JOB, SPEC, ATTEMPT = (peewee.Table(name) for name in ("batch", "job", "job_spec", "attempt"))

ALL = frozenset(JobState)
MOST_RERUNS = 100
SLICE = 20_000
"""Jobs looked at by one statement of a search."""
LOOKS = 16
"""Jobs that are looked at before it is asked whether to stop: a pattern takes up to 3 ms for one."""
FEW = 8
"""Where not one of so many jobs is in the states that are asked for, these are found by the index."""
STRETCH = 50_000
"""Ids of batches that are looked through by one statement."""
MAX_ID = 2**63 - 1
DEEP = 5_000
"""Rows that are counted along the index; beyond them it is known faster which job stands where."""
REMEMBERED = 64
"""Complete batches of which that was asked last: some 30 kB for each that has 1,000,000 jobs."""


class JobsPage(NamedTuple):
    """Some of those jobs of a batch that are in certain states."""

    batch: BatchRow
    n_matching: int
    jobs: list[JobView]


class Found(NamedTuple):
    """The jobs of a batch that match a query."""

    job_ids: array[int]
    """Ascending."""
    states: bytearray
    """Theirs."""
    searched_to: int
    """The last job that was looked at."""


class Pages:
    """Every method raises StoreUnavailable when the database does not answer."""

    _db: Dialect
    _decode_containers: Callable[[bytes], tuple[ContainerRecord, ...]]

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[int, int], Blocks] = OrderedDict()
        """By batch id and number of jobs: a batch that gets more is another one."""
        self._counting = Lock()

    def batch(self, batch_id: int, *, with_deleted: bool = False) -> BatchRow | None:
        row = self._one_batch("batch_id = ?", batch_id)
        return row if row is None or row.deleted_at_ms is None or with_deleted else None

    def batch_of_request(self, user: str, request_id: str) -> BatchRow | None:
        """The batch that this request made, also when it was deleted since."""
        return self._one_batch('"user" = ? AND request_id = ?', user, request_id)

    def reruns(self, batch_id: int) -> list[BatchRow]:
        """Batches that run jobs of this one again, oldest first."""
        query = BATCH.select().where((BATCH.c.rerun_of == batch_id) & BATCH.c.deleted_at_ms.is_null())
        with self._db.reading() as db:
            return list(self._batches(query.order_by(BATCH.c.batch_id).limit(MOST_RERUNS), db))

    def callbacks_due(self, after_id: int, limit: int) -> list[BatchRow]:
        """Complete batches whose callback was not called yet, oldest first."""
        due = (BATCH.c.callback != "") & (BATCH.c.callback_outcome == "") & BATCH.c.deleted_at_ms.is_null()
        query = BATCH.select().where(due & BATCH.c.completed_at_ms.is_null(False))
        query = query.where(BATCH.c.batch_id > after_id).order_by(BATCH.c.batch_id).limit(limit)
        with self._db.reading() as db:
            return list(self._batches(query, db))

    def batches(self, user: str, *, before_id: int | None = None, limit: int) -> list[BatchRow]:
        """A user's batches, newest first."""
        return self._newest(conditions.seen(Viewer(user), everybodys=False), before_id, limit)

    def _newest(self, where: Condition, before_id: int | None, limit: int) -> list[BatchRow]:
        sql = f"""SELECT {_BATCH_COLUMNS} FROM batch WHERE deleted_at_ms IS NULL AND batch_id < ?
            AND ({where[0]}) ORDER BY batch_id DESC LIMIT ?"""
        with self._db.reading() as db:
            rows = self._db.rows(db, sql, MAX_ID if before_id is None else before_id, *where[1], limit)
        return list(map(_batch_row, rows))

    def batches_matching(
        self, viewer: Viewer, query: Query, *, before_id: int | None = None, limit: int, until: float
    ) -> list[BatchRow] | None:
        """Batches that match, newest first: the viewer's own, or, where the query asks whose they are, of all
        that they may see. None when it took until then (`time.monotonic`)."""
        seen = conditions.seen(viewer, everybodys=query.asks_owner)
        if not query.terms:
            return self._newest(seen, before_id, limit)
        wanted = conditions.both(seen, self._may_match(query))
        found: list[BatchRow] = []
        upto = self.newest_batch_id(viewer, query) + 1
        upto = upto if before_id is None else min(before_id, upto)
        while len(found) < limit and upto > 1:
            if time.monotonic() > until:
                return None
            # A stretch of ids at a time: of the rest nobody knows how long it takes.
            first = max(1, upto - STRETCH)
            rows = self._newest(conditions.both(wanted, ("batch_id >= ?", [first])), upto, 1_000)
            found += (row for row in rows if query.matches(item_of(row)))
            upto = rows[-1].batch_id if len(rows) == 1_000 else first
        return found[:limit]

    def batch_ids(self, viewer: Viewer, query: Query) -> tuple[array[int], array[int]]:
        """Ids of the batches that a query is about (see `batches_matching`), and of those that match;
        ascending."""
        seen = conditions.seen(viewer, everybodys=query.asks_owner)
        sql = "SELECT {} FROM batch WHERE deleted_at_ms IS NULL AND ({}) ORDER BY batch_id"
        with self._db.reading() as db:
            rows = self._db.execute(db, sql.format("batch_id", seen[0]), *seen[1])
            ids = array("q", (batch_id for (batch_id,) in rows))
            if not query.terms:
                return ids, ids[:]
            where, values = conditions.both(seen, self._may_match(query))
            found = map(_batch_row, self._db.execute(db, sql.format(_BATCH_COLUMNS, where), *values))
            return ids, array("q", (row.batch_id for row in found if query.matches(item_of(row))))

    def _may_match(self, query: Query) -> Condition:
        return conditions.condition(query.terms, conditions.BATCH, like=self._db.like)

    def newest_batch_id(self, viewer: Viewer, query: Query) -> int:
        """Of the batches that the query is about, matching or not; 0: there is none."""
        newest = self._newest(conditions.seen(viewer, everybodys=query.asks_owner), None, 1)
        return newest[0].batch_id if newest else 0

    def batches_of(self, viewer: Viewer, batch_ids: Collection[int]) -> list[BatchRow]:
        """Those of these that the viewer may see, newest first."""
        of_these = f"batch_id IN ({', '.join('?' * len(batch_ids))})", list[object](batch_ids)
        seen = conditions.seen(viewer, everybodys=True)
        return self._newest(conditions.both(seen, of_these), None, len(batch_ids)) if batch_ids else []

    def job(self, batch_id: int, job_id: int) -> JobView | None:
        with self._db.reading() as db:
            found = run(_jobs(batch_id).where(JOB.c.job_id == job_id), db)
            return next(map(_job_view, found), None)

    def jobs(
        self, batch_id: int, *, after_job_id: int = 0, limit: int, states: Collection[JobState] = ALL
    ) -> list[JobView]:
        """A batch's jobs by id; those in one of these states."""
        query = _jobs(batch_id).where(JOB.c.job_id > after_job_id).order_by(JOB.c.job_id).limit(limit)
        # One look into the index for each state: a page costs the same however rare the state is.
        some = set(states)
        wanted = [query.where(JOB.c.state == state) for state in some] if some < ALL else [query]
        with self._db.reading() as db:
            found = [_job_view(row) for some in wanted for row in run(some, db)]
        return sorted(found, key=lambda job: job.row.job_id)[:limit]

    def jobs_of(self, batch_id: int, job_ids: Sequence[int]) -> list[JobView]:
        """Those of these that there are, by id. The ids ascend."""
        with self._db.reading() as db:
            return self._jobs_of(db, batch_id, job_ids)

    def jobs_in(self, batch_id: int, states: Collection[JobState], first: int, n: int) -> JobsPage | None:
        """Of the jobs in these states those at positions first .. first + n - 1; None: no such batch."""
        with self._db.reading() as db:
            visible = BATCH.select().where((BATCH.c.batch_id == batch_id) & BATCH.c.deleted_at_ms.is_null())
            if (batch := next(self._batches(visible, db), None)) is None:
                return None
            n_matching = self._count(db, batch, states)
            ids = self._ids_in(db, batch, states, first, min(n, n_matching - first), n_matching)
            jobs = [job for job in self._jobs_of(db, batch_id, ids) if job.row.state in states]
        # A commit may have come between the statements.
        return JobsPage(batch, max(n_matching, first + len(jobs) if jobs else 0), jobs)

    def newest_batches(self, viewer: Viewer, limit: int, *, everybodys: bool) -> list[BatchRow]:
        """The viewer's own; or, ``everybodys``, of those that they may see."""
        return self._newest(conditions.seen(viewer, everybodys=everybodys), None, limit)

    def counts(self, batch: BatchRow) -> dict[JobState, int]:
        """How many jobs of a batch are in each state."""
        with self._db.reading() as db:
            return {state: self._count(db, batch, {state}) for state in JobState}

    def attributes(self, batch_id: int, upto: int) -> list[dict[str, str]]:
        """Of a batch's jobs up to that one."""
        sql = "SELECT attributes FROM job_spec WHERE batch_id = ? AND job_id <= ? ORDER BY job_id"
        with self._db.reading() as db:
            return [from_json(text) for (text,) in self._db.rows(db, sql, batch_id, upto)]

    def failures(self, batch_id: int, limit: int) -> list[tuple[Way, Tally]]:
        """In which ways jobs of a batch failed, the most frequent first."""
        with self._db.reading() as db:
            rows = self._db.rows(
                db,
                """SELECT batch_id, state, exit_code, manner, n, first_job_id FROM failure_group
                WHERE batch_id = ? ORDER BY n DESC, first_job_id LIMIT ?""",
                *(batch_id, limit),
            )
        return [(Way(b, JobState(s), code, said), Tally(n, first)) for b, s, code, said, n, first in rows]

    def search_jobs(
        self,
        batch: BatchRow,
        query: Query,
        *,
        after_job_id: int = 0,
        limit: int | None = None,
        with_states: bool = False,
        stop: Callable[[], bool],
    ) -> Found:
        """The first ``limit`` jobs, or all, of a closed batch that match; it asks now and then whether
        to stop."""
        found = Found(array("I"), bytearray(), after_job_id)
        jobs = conditions.of_jobs(query, like=self._db.like, with_state=with_states)
        states = query.job_states
        few = self._roughly(batch, states) * FEW < batch.n_jobs
        last = after_job_id
        while last < batch.n_jobs and (limit is None or len(found.job_ids) < limit):
            if stop():
                break
            first, last = last + 1, min(last + SLICE, batch.n_jobs)
            with self._db.reading() as db:
                if few:
                    ids = self._next_in(db, batch, states, first)
                    last = ids[-1] if len(ids) == SLICE else batch.n_jobs
                    rows = self._rows_among(db, batch.batch_id, jobs, ids)
                else:
                    sql = f"""SELECT {jobs.columns} FROM {jobs.source} WHERE {jobs.table}.batch_id = ?
                        AND {jobs.table}.job_id BETWEEN ? AND ? AND ({jobs.where})
                        ORDER BY {jobs.table}.job_id"""
                    rows = self._db.execute(db, sql, batch.batch_id, first, last, *jobs.parameters)
                for n, (job_id, state, *values) in enumerate(rows, start=1):
                    if n % LOOKS == 0 and stop():
                        return found._replace(searched_to=job_id - 1)
                    if query.matches(jobs.item(job_id, values)):
                        found.job_ids.append(job_id)
                        found.states.append(state)
        return found._replace(searched_to=last)

    def jobs_among(self, batch_id: int, query: Query, job_ids: Sequence[int]) -> list[int]:
        """Those of these that match, ascending."""
        jobs = conditions.of_jobs(query, like=self._db.like, with_state=False)
        with self._db.reading() as db:
            return [
                job_id
                for at in range(0, len(job_ids), SLICE)
                for job_id, _, *values in self._rows_among(db, batch_id, jobs, job_ids[at : at + SLICE])
                if query.matches(jobs.item(job_id, values))
            ]

    def _rows_among(
        self, db: peewee.Database, batch_id: int, jobs: conditions.Jobs, job_ids: Sequence[int]
    ) -> Iterator[Any]:
        wanted, ids = self._db.table_of(job_ids)
        # Left to right: else SQLite may look through all jobs for each of them.
        sql = f"""SELECT {jobs.columns} FROM {wanted} CROSS JOIN {jobs.source}
            WHERE {jobs.table}.batch_id = ? AND {jobs.table}.job_id = wanted.id AND ({jobs.where})
            ORDER BY {jobs.table}.job_id"""
        found: Iterator[Any] = self._db.execute(db, sql, ids, batch_id, *jobs.parameters)
        return found

    def _next_in(
        self, db: peewee.Database, batch: BatchRow, states: Collection[JobState], first: int
    ) -> list[int]:
        """Ids from one on, of jobs in these states, along the index; a slice of them at most."""
        if not states:
            return []
        # Each with a limit of its own: else Postgres would read and sort all of them.
        some = " UNION ALL ".join(
            f"""SELECT job_id FROM (SELECT job_id FROM job WHERE batch_id = ? AND state = {state:d}
            AND job_id BETWEEN ? AND ? ORDER BY job_id LIMIT ?) AS some_{state:d}"""
            for state in sorted(states)
        )
        each = (batch.batch_id, first, batch.n_jobs, SLICE)
        rows = self._db.rows(db, f"{some} ORDER BY job_id LIMIT ?", *each * len(states), SLICE)
        return [job_id for (job_id,) in rows]

    def _roughly(self, batch: BatchRow, states: Collection[JobState]) -> int:
        """Not fewer jobs than are in these states, by the batch's own counters."""
        n = _counted(batch)
        if JobState.ERROR in states and JobState.FAILURE not in states:
            return sum(n[state] for state in states) + batch.n_failed
        return sum(n[state] for state in states)

    def _count(self, db: peewee.Database, batch: BatchRow, states: Collection[JobState]) -> int:
        """From the batch's own counters, where failures and errors are one."""
        n = _counted(batch)
        if batch.n_failed and (JobState.FAILURE in states) != (JobState.ERROR in states):
            sql = "SELECT COALESCE(SUM(n), 0) FROM failure_group WHERE batch_id = ? AND state = ?"
            ((n_errors,),) = self._db.rows(db, sql, batch.batch_id, int(JobState.ERROR))
            # A commit may have come since the batch was read.
            n[JobState.ERROR] = min(int(n_errors), batch.n_failed)
            n[JobState.FAILURE] -= n[JobState.ERROR]
        return sum(n[state] for state in states)

    def _ids_in(
        self,
        db: peewee.Database,
        batch: BatchRow,
        states: Collection[JobState],
        first: int,
        n: int,
        n_matching: int,
    ) -> list[int]:
        """Along the index, which holds each state's jobs in order, from the nearer end; far from both,
        from the block where the page begins."""
        if n <= 0 or not states:
            return []
        after, upto, skip, order = 0, batch.n_jobs, first, "ASC"
        if (from_end := n_matching - first - n) < first:
            skip, order = from_end, "DESC"
        if skip > DEEP and batch.completed_at_ms is not None:
            after, upto, skip = self._blocks_of(db, batch).find(states, first, n)
            order = "ASC"
        # Each with a limit of its own: else Postgres would read and sort all of them.
        some = " UNION ALL ".join(
            f"""SELECT job_id FROM (SELECT job_id FROM job WHERE batch_id = ? AND state = {state:d}
            AND job_id > ? AND job_id <= ? ORDER BY job_id {order} LIMIT ?) AS some_{state:d}"""
            for state in sorted(states)
        )
        rows = self._db.rows(
            db,
            f"{some} ORDER BY job_id {order} LIMIT ? OFFSET ?",
            *(batch.batch_id, after, upto, skip + n) * len(states),
            *(n, skip),
        )
        return sorted(job_id for (job_id,) in rows)

    def _blocks_of(self, db: peewee.Database, batch: BatchRow) -> Blocks:
        """Of a batch that is complete; counted once, by one of those who ask."""
        key = batch.batch_id, batch.n_jobs
        with self._counting:
            if (blocks := self._blocks.get(key)) is None:
                sql = f"""SELECT (job_id - 1) / {BLOCK}, state, COUNT(*) FROM job
                    WHERE batch_id = ? AND job_id <= ? GROUP BY 1, 2"""
                blocks = Blocks(batch.n_jobs, self._db.rows(db, sql, batch.batch_id, batch.n_jobs))
                self._blocks[key] = blocks
                if len(self._blocks) > REMEMBERED:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(key)
            return blocks

    def _jobs_of(self, db: peewee.Database, batch_id: int, job_ids: Sequence[int]) -> list[JobView]:
        if not job_ids:
            return []
        job_id, first, last = JOB.c.job_id, job_ids[0], job_ids[-1]
        dense = last - first + 1 == len(job_ids)
        wanted = job_id.between(first, last) if dense else job_id.in_(list(job_ids))
        return [_job_view(row) for row in run(_jobs(batch_id).where(wanted).order_by(job_id), db)]

    def attempts(self, batch_id: int, job_id: int) -> list[AttemptRow]:
        """A job's attempts, oldest first."""
        query = (
            ATTEMPT.select()
            .join(BATCH, on=(BATCH.c.batch_id == ATTEMPT.c.batch_id))
            .where((ATTEMPT.c.batch_id == batch_id) & (ATTEMPT.c.job_id == job_id))
            .where(BATCH.c.deleted_at_ms.is_null())
        )
        with self._db.reading() as db:
            return list(self._attempts(query.order_by(ATTEMPT.c.number), db))

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        """One attempt, of whatever batch."""
        with self._db.reading() as db:
            return next(self._attempts(ATTEMPT.select().where(ATTEMPT.c.attempt_id == attempt_id), db), None)

    def _one_batch(self, where: str, *values: object) -> BatchRow | None:
        """Every call of a user asks for one. Written out: making the statement anew takes peewee 0.4 ms."""
        with self._db.reading() as db:
            found = self._db.rows(db, f"SELECT {_BATCH_COLUMNS} FROM batch WHERE {where}", *values)
        return next(map(_batch_row, found), None)

    def _batches(self, query: peewee.Select, db: peewee.Database) -> Iterator[BatchRow]:
        for found in run(query.columns(*columns_of(BATCH, BatchRow)), db):
            yield _batch_row(found)

    def _attempts(self, query: peewee.Select, db: peewee.Database) -> Iterator[AttemptRow]:
        for found in run(query.columns(*columns_of(ATTEMPT, AttemptRow)), db):
            row = AttemptRow(*found)
            yield row._replace(
                state=AttemptState(row.state),
                reason=None if row.reason is None else EndReason(row.reason),
                containers=self._decode_containers(bytes(found[-1])),
            )


_BATCH_COLUMNS = ", ".join(f'"{name}"' for name in BatchRow._fields)


def _batch_row(found: Any) -> BatchRow:
    row = BatchRow(*found)
    return row._replace(
        state=BatchState(row.state),
        request_sha256=bytes(row.request_sha256),
        attributes=from_json(found[5]),
    )


def columns_of(table: peewee.Table, row: Any) -> list[Any]:
    return [getattr(table.c, name) for name in row._fields]


def run(query: peewee.Select, db: peewee.Database) -> Any:
    return query.tuples().execute(db)


def _jobs(batch_id: int) -> peewee.Select:
    """The visible jobs of a batch, as `_job_view` wants them."""
    spec = SPEC.c
    query: peewee.Select = (
        JOB.select(*columns_of(JOB, JobRow), spec.name, spec.attributes, spec.mcpu, spec.always_run)
        .join(SPEC, on=((spec.batch_id == JOB.c.batch_id) & (spec.job_id == JOB.c.job_id)))
        .join(BATCH, on=(BATCH.c.batch_id == JOB.c.batch_id))
        # "+ 0": else SQLite looks through all jobs up to that bound for a few by their ids.
        .where((JOB.c.batch_id == batch_id) & (JOB.c.job_id + 0 <= BATCH.c.n_jobs))
        .where(BATCH.c.closed_at_ms.is_null(False) & BATCH.c.deleted_at_ms.is_null())
    )
    return query


def _counted(batch: BatchRow) -> dict[JobState, int]:
    """Jobs by state, where errors are counted among failures."""
    return {
        JobState.PENDING: batch.n_pending,
        JobState.READY: batch.n_ready,
        JobState.RUNNING: batch.n_running,
        JobState.SUCCESS: batch.n_succeeded,
        JobState.FAILURE: batch.n_failed,
        JobState.ERROR: 0,
        JobState.CANCELLED: batch.n_cancelled,
    }


def _job_view(found: Any) -> JobView:
    *row, name, attributes, mcpu, always_run = found
    job = JobRow(*row)
    return JobView(
        job._replace(state=JobState(job.state)), name, from_json(attributes), mcpu, bool(always_run)
    )
