"""SQLite and Postgres behind one face: connections, transactions, the leader's lock, bulk statements.

The writer has one connection of its own, which holds the lock; everybody else borrows from a pool.
Statements are written with ``?`` for parameters.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import peewee
import psycopg
from playhouse.pool import MaxConnectionsExceeded, PooledPostgresqlDatabase, PooledSqliteDatabase
from psycopg.conninfo import conninfo_to_dict

READERS = 8
"""Connections of the pool; who finds none waits."""
WAIT_S = 10
"""For a connection of the pool, or for SQLite's one place to write; then StoreUnavailable."""

Row = Sequence[Any]


class StoreUnavailable(Exception):
    """The database does not answer, or nobody knows whether the commit happened. Repeat after `load`."""


class Contradiction(Exception):
    """A defect: the rows to be written contradict those stored. Nothing was written."""


class Upsert(NamedTuple):
    """How the rows of one table are written by a commit."""

    table: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    guard: str
    """What must hold of the stored row, lest a fact that is final be changed."""
    sums: tuple[str, ...] = ()
    """Columns whose values are added to those that are stored."""


class RangeUpdate(NamedTuple):
    """Jobs first..last of a batch get this state."""

    state: int
    reason: str
    ended_at_ms: int | None
    batch_id: int
    first: int
    last: int


def connect(url: str) -> Dialect:
    """The database that a URL names; nothing is opened yet. ValueError says which URLs there are."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/"):
        return Sqlite(rest)
    if scheme in ("postgresql", "postgres"):
        return Postgres(f"postgresql://{rest}")
    raise ValueError(
        f"the database's URL begins with {scheme!r}: "
        "expected sqlite:///ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE"
    )


class Dialect(ABC):
    """One database. Every method raises StoreUnavailable or Contradiction where the database fails."""

    name: str
    """For people; without a password."""
    like: str
    """The operator that takes large and small letters of ASCII for the same, and no others."""

    def __init__(self, writer: peewee.Database, pool: Any) -> None:
        self.writer = writer
        self._pool = pool

    # -- connections -----------------------------------------------------------------------------

    def open(self) -> bool:
        """Connect the writer anew and take the leader's lock. False: somebody else holds it."""
        with self.failures():
            self.writer.close()
            self._pool.close_idle()
            self.writer.connect()
            return self._take_lock()

    def close(self) -> None:
        """Give up the lock and all connections that are not in use. Never raises."""
        with self.failures(quiet=True):
            self.writer.close()
            self._pool.close_idle()

    @abstractmethod
    def _take_lock(self) -> bool: ...

    # -- units of work ---------------------------------------------------------------------------

    @contextmanager
    def committing(self) -> Iterator[peewee.Database]:
        """One transaction on the writer's connection."""
        with self.failures(), self._turn(), self._transaction(self.writer):
            yield self.writer

    @contextmanager
    def writing(self) -> Iterator[peewee.Database]:
        """One transaction on a connection of the pool."""
        with self.reading() as db, self._turn(), self._transaction(db):
            yield db

    @contextmanager
    def reading(self) -> Iterator[peewee.Database]:
        """A connection of the pool; each statement sees what is committed."""
        with self.failures():
            try:
                with self._pool.connection_context():
                    yield self._pool
            except _LOST:
                # After one lost connection the idle ones are suspect, too.
                self._pool.close_idle()
                raise

    def rows(self, db: peewee.Database, sql: str, *parameters: object) -> list[Any]:
        """All rows of a small result."""
        return list(self.execute(db, sql, *parameters).fetchall())

    def execute(self, db: peewee.Database, sql: str, *parameters: object) -> Any:
        return db.execute_sql(self._spell(sql), parameters)  # type: ignore[no-untyped-call]

    @contextmanager
    def failures(self, *, quiet: bool = False) -> Iterator[None]:
        """The database's exceptions as ours, but for those that say that a statement is wrong."""
        try:
            yield
        except _WRONG:
            raise
        except _REFUSED as error:
            raise Contradiction(_text(error)) from error
        except _FAILED as error:
            if not quiet:
                raise StoreUnavailable(f"{self.name}: {_text(error)}") from error

    def _turn(self) -> AbstractContextManager[object]:
        return nullcontext()

    def _spell(self, sql: str) -> str:
        return sql

    @abstractmethod
    def _transaction(self, db: peewee.Database) -> AbstractContextManager[object]: ...

    # -- bulk ------------------------------------------------------------------------------------

    def together(self) -> AbstractContextManager[object]:
        """What the writer does meanwhile may be sent at once, and answered when it is over."""
        return nullcontext()

    @abstractmethod
    def table_of(self, ids: Sequence[int]) -> tuple[str, str]:
        """A table ``wanted`` with these in its column ``id``, and its parameter."""

    @abstractmethod
    def upsert(self, how: Upsert, rows: Sequence[Row]) -> None:
        """Insert or replace on the writer, `together`. Contradiction when the guard of one does not hold."""

    @abstractmethod
    def change_one(self, sql: str, *parameters: object) -> None:
        """On the writer, `together`. Contradiction when it does not change exactly one row."""

    @abstractmethod
    def update_ranges(self, updates: list[RangeUpdate]) -> None:
        """On the writer, `together`; not overlapping. Contradiction when a job is missing or complete."""

    @abstractmethod
    def insert_jobs(
        self, db: peewee.Database, batch_id: int, first_job_id: int, states: bytes, specs: Iterable[Row]
    ) -> None:
        """Rows of `job` in these states and of `job_spec`. Contradiction when one is there."""


class Sqlite(Dialect):
    """A file. One process at a time, by a lock on a file beside it; in it, one writes at a time."""

    like = "LIKE"

    def __init__(self, path: str) -> None:
        self.name = path
        pragmas = {"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1}
        writer = peewee.SqliteDatabase(
            path, pragmas=pragmas, timeout=WAIT_S, thread_safe=False, check_same_thread=False
        )
        pool = PooledSqliteDatabase(
            path,
            pragmas=pragmas | {"cache_size": -8_000},
            timeout=WAIT_S,
            max_connections=READERS,
            check_same_thread=False,
        )
        super().__init__(writer, pool)
        self._lock_file: int | None = None
        # SQLite's own waiting is by sleeping and trying again; this one is in order and at once.
        self._writes = threading.Lock()

    def _take_lock(self) -> bool:
        if self._lock_file is None:
            file = os.open(f"{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return False
            self._lock_file = file
        return True

    def close(self) -> None:
        super().close()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _turn(self) -> AbstractContextManager[object]:
        return self._writes

    def _transaction(self, db: peewee.Database) -> AbstractContextManager[object]:
        transaction: AbstractContextManager[object] = db.atomic("IMMEDIATE")
        return transaction

    def table_of(self, ids: Sequence[int]) -> tuple[str, str]:
        return "(SELECT value AS id FROM json_each(?)) AS wanted", json.dumps(ids)

    def upsert(self, how: Upsert, rows: Sequence[Row]) -> None:
        sql = _upsert(how, f"VALUES ({', '.join('?' * len(how.columns))})")
        _all_written(self._many(self.writer, sql, rows), len(rows), how)

    def change_one(self, sql: str, *parameters: object) -> None:
        _all_written(self.execute(self.writer, sql, *parameters).rowcount, 1, (sql, parameters))

    def update_ranges(self, updates: list[RangeUpdate]) -> None:
        sql = """UPDATE job SET state = ?, reason = ?, ended_at_ms = ?
            WHERE batch_id = ? AND job_id BETWEEN ? AND ? AND state < 4"""
        _all_written(self._many(self.writer, sql, updates), _jobs_of(updates), updates)

    def insert_jobs(
        self, db: peewee.Database, batch_id: int, first_job_id: int, states: bytes, specs: Iterable[Row]
    ) -> None:
        jobs = ((batch_id, job_id, state) for job_id, state in enumerate(states, first_job_id))
        self._many(db, "INSERT INTO job (batch_id, job_id, state) VALUES (?, ?, ?)", jobs)
        self._many(db, "INSERT INTO job_spec VALUES (?, ?, ?, ?, ?, ?, ?)", specs)

    def _many(self, db: peewee.Database, sql: str, rows: Iterable[Row]) -> int:
        connection: sqlite3.Connection = db.connection()  # type: ignore[no-untyped-call]
        return connection.executemany(sql, rows).rowcount


class Postgres(Dialect):
    """A server. The lock belongs to the writer's session: it is free when the server has ended that."""

    like = 'COLLATE "C" ILIKE'
    _LOCK = 0x4C4F4E47

    def __init__(self, url: str) -> None:
        try:
            parameters: dict[str, Any] = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise ValueError(f"the database's URL cannot be read: {_text(error)}") from None
        database = parameters.pop("dbname", None)
        if not database:
            raise ValueError("the database's URL names no database: expected postgresql://USER@HOST/DATABASE")
        self.name = f"Postgres database {database}"
        settings = {
            "synchronous_commit": "on",
            "jit": "off",  # Statements are short; compiling one costs more than it ever gains.
            "lock_timeout": "5s",
            "statement_timeout": "30s",
            "idle_in_transaction_session_timeout": "30s",
        }
        # A server that vanished without a word is noticed within some 20 s.
        parameters |= {
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            "application_name": "longshore",
            "prefer_psycopg3": True,
        }
        given = str(parameters.pop("options", ""))
        # Every row is found by a key; nobody wants to read a table from end to end, whatever the planner,
        # which knows little about arrays and nothing about a table just filled, may think.
        settings |= dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off")
        writer = peewee.PostgresqlDatabase(
            database, thread_safe=False, options=_options(given, settings), **parameters
        )
        pool = _Pool(
            database,
            max_connections=READERS,
            timeout=WAIT_S,
            options=_options(given, settings),
            **parameters,
        )
        super().__init__(writer, pool)
        self._types: dict[Upsert, tuple[str, ...]] = {}
        self._sent: list[tuple[Any, int, object]] = []
        """Cursors of what was sent together, how many rows each is to change, and what it was."""

    def _take_lock(self) -> bool:
        ((held,),) = self.rows(self.writer, "SELECT pg_try_advisory_lock(?)", self._LOCK)
        return bool(held)

    def _transaction(self, db: peewee.Database) -> AbstractContextManager[object]:
        transaction: AbstractContextManager[object] = db.atomic()
        return transaction

    def _spell(self, sql: str) -> str:
        return sql.replace("?", "%s")

    @contextmanager
    def together(self) -> Iterator[None]:
        connection: psycopg.Connection[Any] = self.writer.connection()  # type: ignore[no-untyped-call]
        self._sent.clear()
        with connection.pipeline():
            yield
        for cursor, wanted, what in self._sent:
            _all_written(cursor.rowcount, wanted, what)

    def table_of(self, ids: Sequence[int]) -> tuple[str, str]:
        return "unnest(?::integer[]) AS wanted (id)", _array("integer", ids)

    def upsert(self, how: Upsert, rows: Sequence[Row]) -> None:
        types = self._types_of(how)
        source = f"SELECT * FROM unnest({', '.join(f'?::{t}[]' for t in types)})"
        self._with_arrays(_upsert(how, source), types, rows, len(rows), how)

    def change_one(self, sql: str, *parameters: object) -> None:
        self._sent.append((self.execute(self.writer, sql, *parameters), 1, (sql, parameters)))

    def update_ranges(self, updates: list[RangeUpdate]) -> None:
        types = ("smallint", "text", "bigint", "bigint", "integer", "integer")
        # "+ 0": else the planner may look through the index by state, once for each range.
        sql = f"""UPDATE job SET state = r.state, reason = r.reason, ended_at_ms = r.ended_at_ms
            FROM unnest({", ".join(f"?::{t}[]" for t in types)})
                AS r (state, reason, ended_at_ms, batch_id, first, last)
            WHERE job.batch_id = r.batch_id AND job.job_id BETWEEN r.first AND r.last AND job.state + 0 < 4"""
        self._with_arrays(sql, types, updates, _jobs_of(updates), updates)

    def _types_of(self, how: Upsert) -> tuple[str, ...]:
        if how not in self._types:
            sql = """SELECT column_name, data_type FROM information_schema.columns
                WHERE table_schema = current_schema() AND table_name = ?"""
            types = dict(self.rows(self.writer, sql, how.table))
            self._types[how] = tuple(types[column] for column in how.columns)
        return self._types[how]

    def _with_arrays(
        self, sql: str, types: Sequence[str], rows: Sequence[Row], wanted: int, what: object
    ) -> None:
        """Send it with each column as one array; it is to change so many rows."""
        arrays = [_array(t, column) for t, column in zip(types, zip(*rows, strict=True), strict=True)]
        self._sent.append((self.execute(self.writer, sql, *arrays), wanted, what))

    def insert_jobs(
        self, db: peewee.Database, batch_id: int, first_job_id: int, states: bytes, specs: Iterable[Row]
    ) -> None:
        self.execute(
            db,
            """INSERT INTO job (batch_id, job_id, state)
            SELECT ?, ? + i, get_byte(?, i) FROM generate_series(0, ? - 1) AS i""",
            *(batch_id, first_job_id, states, len(states)),
        )
        connection: psycopg.Connection[Any] = db.connection()  # type: ignore[no-untyped-call]
        with connection.cursor().copy("COPY job_spec FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "int4", "text", "text", "int4", "int2", "bytea"])
            for row in specs:
                copy.write_row(row)


class _Pool(PooledPostgresqlDatabase):  # type: ignore[misc]
    """Knows without asking the server that it has hung up: then there is something to read."""

    def _is_closed(self, connection: psycopg.Connection[Any]) -> bool:
        if not connection.closed:
            poll = select.poll()
            poll.register(connection.fileno(), select.POLLIN)
            if poll.poll(0):
                connection.close()
        return connection.closed


def _upsert(how: Upsert, source: str) -> str:
    columns = ", ".join(f'"{c}"' for c in how.columns)
    added = {c: f'{how.table}."{c}" + ' if c in how.sums else "" for c in how.columns}
    changes = ", ".join(f'"{c}" = {added[c]}excluded."{c}"' for c in how.columns if c not in how.key)
    return (
        f"INSERT INTO {how.table} ({columns}) {source} "
        f"ON CONFLICT ({', '.join(how.key)}) DO UPDATE SET {changes} WHERE {how.guard}"
    )


def _all_written(written: int, wanted: int, what: object) -> None:
    if written != wanted:
        raise Contradiction(f"{wanted - written} of {wanted} rows are final already or missing: {what}")


def _jobs_of(updates: list[RangeUpdate]) -> int:
    return sum(u.last - u.first + 1 for u in updates)


def _array(kind: str, values: Sequence[Any]) -> str:
    """A Postgres array as text: psycopg's own way of making one takes ten times as long."""
    if kind == "text":
        # Most columns say the same of many rows.
        quoted = {v: "NULL" if v is None else f'"{_escaped(v)}"' for v in set(values)}
        return "{" + ",".join(map(quoted.__getitem__, values)) + "}"
    if kind == "bytea":
        return "{" + ",".join(f'"\\\\x{v.hex()}"' for v in values) + "}"
    return "{" + json.dumps(values)[1:-1] + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _options(given: str, settings: dict[str, str]) -> str:
    return " ".join([given, *(f"-c {key}={value}" for key, value in settings.items())]).strip()


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_WRONG = (peewee.ProgrammingError, psycopg.ProgrammingError, sqlite3.ProgrammingError)
_REFUSED = (
    peewee.IntegrityError,
    peewee.DataError,
    psycopg.IntegrityError,
    psycopg.DataError,
    sqlite3.IntegrityError,
)
_FAILED = (peewee.PeeweeException, psycopg.Error, sqlite3.Error, MaxConnectionsExceeded, OSError)
_LOST = (peewee.OperationalError, peewee.InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
