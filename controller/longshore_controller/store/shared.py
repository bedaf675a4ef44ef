"""What any thread may do with the store: stage jobs, read the log, look tokens up; and read pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import takewhile

import peewee

from longshore_controller.core.events import Event
from longshore_controller.core.model import (
    ContainerRecord,
    JobColumns,
    Refusal,
    RefusalKind,
    StagedJobs,
    initial_states,
)
from longshore_controller.store.dialect import Contradiction, Dialect, StoreUnavailable, connect
from longshore_controller.store.directory import Directory
from longshore_controller.store.fresh import FreshSpecs
from longshore_controller.store.ledger import Ledger
from longshore_controller.store.pages import Pages
from longshore_controller.store.rows import (
    Unpacking,
    pack,
    sha256,
    spec_rows,
)

Containers = tuple[ContainerRecord, ...]


class SharedStore(Directory, Ledger, Pages):
    """The part of the store for any thread. Every method raises StoreUnavailable when the database does
    not answer; then nothing happened."""

    epoch = 0
    """Ours, from `open` on. Greater than that of everybody who led before."""

    def __init__(
        self,
        url: str,
        *,
        encode_events: Callable[[list[Event]], bytes],
        decode_events: Callable[[bytes], list[Event]],
        encode_containers: Callable[[Containers], bytes],
        decode_containers: Callable[[bytes], Containers],
    ) -> None:
        """Nothing is opened yet. ValueError says what is wrong with the URL."""
        super().__init__()
        self._db: Dialect = connect(url)
        self._encode_events = encode_events
        self._decode_events = decode_events
        self._encode_containers = encode_containers
        self._decode_containers = decode_containers
        self._fresh = FreshSpecs()

    # -- jobs on their way in--------------------------------------------------------

    def stage(self, batch_id: int, first_job_id: int, jobs: StagedJobs) -> None:
        """A bunch of an open batch, all or nothing; nobody sees it before the batch is closed.

        The same bunch again changes nothing. Refusal: ALREADY_EXISTS for other jobs under the same ids;
        INVALID_ARGUMENT for ids beyond the declared number; NOT_FOUND; FAILED_PRECONDITION when the
        batch is closed or cancelled.
        """
        packed = pack(jobs)
        content = sha256(jobs, packed)
        last_job_id = first_job_id + len(jobs) - 1
        taken = Refusal(
            RefusalKind.ALREADY_EXISTS,
            f"batch {batch_id} has other jobs under some of the ids {first_job_id} to {last_job_id}; "
            "send each job once, and repeat a bunch as it was",
        )
        try:
            with self._db.writing() as db:
                if self._is_known(db, batch_id, first_job_id, last_job_id, content) or not len(jobs):
                    return
                inserted = self._db.execute(
                    db,
                    """INSERT INTO bunch (batch_id, first_job_id, n_jobs, sha256, columns)
                    VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
                    *(batch_id, first_job_id, len(jobs), content, packed),
                )
                if not inserted.rowcount:
                    # Somebody else staged it since we looked.
                    if self._is_known(db, batch_id, first_job_id, last_job_id, content):
                        return
                    raise taken
                states = bytes(initial_states(jobs.parents, bytes(len(jobs))))
                rows = spec_rows(batch_id, first_job_id, jobs)
                self._db.insert_jobs(db, batch_id, first_job_id, states, rows)
                self._record(db, f"jobs {first_job_id} to {last_job_id}", batch_id)
            self._fresh.add(batch_id, first_job_id, jobs.specs)
        except Contradiction as overlap:
            raise taken from overlap

    def _is_known(
        self, db: peewee.Database, batch_id: int, first_job_id: int, last_job_id: int, content: bytes
    ) -> bool:
        """This very bunch is there. Refusal when it may not come any more."""
        rows = self._db.rows(
            db,
            """SELECT b.n_jobs, b.closed_at_ms, b.cancelled_at_ms, b.deleted_at_ms, bunch.sha256
            FROM batch b LEFT JOIN bunch ON bunch.batch_id = b.batch_id AND bunch.first_job_id = ?
            WHERE b.batch_id = ?""",
            *(first_job_id, batch_id),
        )
        if not rows or rows[0][3] is not None:
            raise Refusal(RefusalKind.NOT_FOUND, f"there is no batch {batch_id}")
        n_jobs, closed_at_ms, cancelled_at_ms, _, known = rows[0]
        if cancelled_at_ms is not None:
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION, f"batch {batch_id} was cancelled; it takes no more jobs"
            )
        if known is not None and bytes(known) == content:
            return True
        if closed_at_ms is not None:
            raise Refusal(RefusalKind.FAILED_PRECONDITION, f"batch {batch_id} is closed; make a new batch")
        if first_job_id < 1 or last_job_id > n_jobs:
            raise Refusal(
                RefusalKind.INVALID_ARGUMENT,
                f"jobs: ids {first_job_id} to {last_job_id}, but batch {batch_id} was created "
                f"with n_jobs = {n_jobs}: its ids are 1 to {n_jobs}",
            )
        return False

    def columns(self, batch_id: int) -> JobColumns:
        """A batch's jobs as they were submitted, before any of them ran.

        Refusal NOT_FOUND; FAILED_PRECONDITION names the first missing job and says how many are missing.
        """
        with self._db.reading() as db:
            rows = self._db.rows(db, "SELECT n_jobs FROM batch WHERE batch_id = ?", batch_id)
            if not rows:
                raise Refusal(RefusalKind.NOT_FOUND, f"there is no batch {batch_id}")
            n_jobs: int = rows[0][0]
            unpacked = self._unpack(db, batch_id, n_jobs)
        if unpacked.n_missing:
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION,
                f"{unpacked.n_missing} of the {n_jobs} jobs of batch {batch_id} are missing, "
                f"the first is job {unpacked.first_missing}; submit them, then close the batch",
            )
        return unpacked.columns(initial_states(unpacked.parents, unpacked.always_run))

    def _unpack(self, db: peewee.Database, batch_id: int, n_jobs: int) -> Unpacking:
        unpacked = Unpacking()
        bunches = self._db.execute(
            db,
            "SELECT first_job_id, n_jobs, columns FROM bunch "
            "WHERE batch_id = ? AND first_job_id <= ? ORDER BY first_job_id",
            *(batch_id, n_jobs),
        )
        for bunch in bunches:
            unpacked.add(*bunch)
        unpacked.expect(n_jobs + 1)
        return unpacked

    def drop_staged(self) -> int:
        """Drop a bunch that was staged for a batch which was then cancelled instead of closed: nobody will
        ever see it. How many were dropped; repeat until 0."""
        with self._db.writing() as db:
            # Such a batch has lost its jobs; whatever is staged for it came before.
            bunches = self._db.rows(
                db,
                """SELECT bunch.batch_id, bunch.first_job_id, bunch.n_jobs
                FROM batch JOIN bunch ON bunch.batch_id = batch.batch_id
                WHERE batch.n_jobs = 0 AND batch.cancelled_at_ms IS NOT NULL LIMIT 1""",
            )
            for batch_id, first, n in bunches:
                for table in ("job", "job_spec"):
                    sql = f"DELETE FROM {table} WHERE batch_id = ? AND job_id BETWEEN ? AND ?"
                    self._db.execute(db, sql, batch_id, first, first + n - 1)
                sql = "DELETE FROM bunch WHERE batch_id = ? AND first_job_id = ?"
                self._db.execute(db, sql, batch_id, first)
        return len(bunches)

    def fresh_specs(self, keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Those of the specs that are at hand, without asking the database: of jobs submitted lately."""
        return {key: spec for key in keys if (spec := self._fresh.get(*key)) is not None}

    def specs(self, keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Specs by (batch id, job id); those that do not exist are left out."""
        by_batch: dict[int, list[int]] = defaultdict(list)
        for batch_id, job_id in keys:
            by_batch[batch_id].append(job_id)
        found: dict[tuple[int, int], bytes] = {}
        with self._db.reading() as db:
            for batch_id, job_ids in by_batch.items():
                wanted, ids = self._db.table_of(job_ids)
                # Id by id: of a join, either database may read the whole batch, once or for each id.
                sql = f"""SELECT id, (SELECT spec FROM job_spec WHERE batch_id = ? AND job_id = wanted.id)
                    FROM {wanted}"""
                for job_id, spec in self._db.execute(db, sql, batch_id, ids):
                    if spec is not None:
                        found[batch_id, job_id] = bytes(spec)
        return found

    # -- the log---------------------------------------------------------------------

    def events_after(self, seq: int, limit: int) -> list[tuple[int, list[Event]]] | None:
        """The events after number ``seq``, of at most ``limit`` commits, oldest first.

        Each item: the number of its last event, and the events. Empty: there are none yet. None: the log
        does not reach back so far, or not to such a number at all; take a snapshot.
        """
        with self._db.reading() as db:
            ((last_seq,),) = self._db.rows(db, "SELECT last_seq FROM leader")
            rows = self._db.rows(
                db,
                """SELECT first_seq, last_seq, events FROM event_log
                WHERE last_seq > ? ORDER BY last_seq LIMIT ?""",
                *(seq, limit),
            )
        if seq > last_seq or (rows and rows[0][0] > seq + 1) or (not rows and seq < last_seq):
            return None
        commits = [(last, first, self._decode_events(bytes(events))) for first, last, events in rows]
        return [(last, events[max(0, seq + 1 - first) :]) for last, first, events in commits]

    def forget_events(self, before_ms: int) -> int:
        """Drop the commits older than this from the log, whose rows stay. How many; repeat until 0.

        From its beginning: where a clock was set back between two commits, the later one waits for the
        earlier, or followers would miss it without a word."""
        with self._db.writing() as db:
            first = self._db.rows(db, "SELECT last_seq, at_ms FROM event_log ORDER BY last_seq LIMIT 1000")
            old = [last_seq for last_seq, _ in takewhile(lambda row: row[1] < before_ms, first)]
            if old:
                self._db.execute(db, "DELETE FROM event_log WHERE last_seq <= ?", old[-1])
        return len(old)

    # -- who may come in-------------------------------------------------------------

    def ensure_project(self, name: str) -> None:
        """The billing project exists."""
        if not self.project_exists(name):
            self._insert("INSERT INTO billing_project (name) VALUES (?)", name)

    def project_exists(self, name: str) -> bool:
        return self._look_up("SELECT name FROM billing_project WHERE name = ?", name) is not None

    def add_activation_token(self, sha256: bytes) -> None:
        """Whoever knows the token with this hash may become a worker, once."""
        self._insert("INSERT INTO activation_token (sha256) VALUES (?)", sha256)

    def consume_activation_token(self, sha256: bytes) -> bool:
        """It was there; it is no more. True for one caller, however many call at once. StoreUnavailable
        also when somebody else leads now, who would not know that a new token is needed."""
        with self._db.writing() as db:
            ((epoch,),) = self._db.rows(db, "SELECT epoch FROM leader")
            if epoch != self.epoch:
                raise StoreUnavailable(f"epoch {self.epoch} is over: another controller leads")
            sql = "DELETE FROM activation_token WHERE sha256 = ?"
            return bool(self._db.execute(db, sql, sha256).rowcount)

    def add_worker_token(self, worker_id: str, sha256: bytes) -> None:
        """Whoever knows the token with this hash is that worker."""
        with self._recorded(f"worker {worker_id}") as db:
            sql = "INSERT INTO worker_token (sha256, worker_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
            self._db.execute(db, sql, sha256, worker_id)

    def worker_of_token(self, sha256: bytes) -> str | None:
        return self._look_up("SELECT worker_id FROM worker_token WHERE sha256 = ?", sha256)

    def _insert(self, sql: str, *values: object) -> None:
        with self._db.writing() as db:
            self._db.execute(db, f"{sql} ON CONFLICT DO NOTHING", *values)

    def _look_up(self, sql: str, key: object) -> str | None:
        with self._db.reading() as db:
            found = self._db.rows(db, sql, key)
        return str(found[0][0]) if found else None
