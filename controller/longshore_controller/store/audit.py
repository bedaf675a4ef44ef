"""Who did what: a row in the transaction of the deed itself; refusals apart, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import peewee

from longshore_controller.core.rows import AuditRow
from longshore_controller.store.dialect import Dialect

deed: ContextVar[AuditRow | None] = ContextVar("deed", default=None)
"""On whose behalf something is changed just now. What changes without one is nobody's deed: it follows from
others', or the service does it of itself."""


class Audit:
    _db: Dialect

    @contextmanager
    def _recorded(self, about: str = "", batch_id: int | None = None) -> Iterator[peewee.Database]:
        """A transaction with the row of the deed that is done in it."""
        with self._db.writing() as db:
            yield db
            self._record(db, about, batch_id)

    def _record(self, db: peewee.Database, about: str = "", batch_id: int | None = None) -> None:
        if (done := deed.get()) is not None:
            self._append_audit(db, [done._replace(object=about or done.object, batch_id=batch_id)])

    def _append_audit(self, db: peewee.Database, rows: Sequence[AuditRow]) -> None:
        marks = ", ".join(["(" + ", ".join("?" * len(AuditRow._fields)) + ")"] * len(rows))
        values = [value for row in rows for value in row]
        self._db.execute(db, f"INSERT INTO audit ({', '.join(AuditRow._fields)}) VALUES {marks}", *values)

    def add_refusals(self, rows: Sequence[AuditRow]) -> None:
        """StoreUnavailable: none was written."""
        with self._db.writing() as db:
            for at in range(0, len(rows), 50):
                self._append_audit(db, rows[at : at + 50])

    def audit(
        self, *, batch_id: int = 0, user: str = "", since_ms: int = 0, before_id: int | None, limit: int
    ) -> list[tuple[int, AuditRow]]:
        """Newest first, each with its number."""
        where, values = ["at_ms >= ?"], [since_ms]
        given: list[tuple[str, int | str | None]] = [
            ("batch_id = ?", batch_id),
            ("actor = ?", user),
            ("audit_id < ?", before_id),
        ]
        for condition, value in given:
            if value:
                where.append(condition)
                values.append(value)  # type: ignore[arg-type]
        sql = f"""SELECT audit_id, {", ".join(AuditRow._fields)} FROM audit
            WHERE {" AND ".join(where)} ORDER BY audit_id DESC LIMIT ?"""
        with self._db.reading() as db:
            return [(row[0], AuditRow(*row[1:])) for row in self._db.rows(db, sql, *values, limit)]

    def history(self, batch_id: int, limit: int) -> list[AuditRow]:
        """The latest deeds about a batch, oldest first; without refusals."""
        sql = f"""SELECT {", ".join(AuditRow._fields)} FROM audit
            WHERE batch_id = ? AND outcome = 'OK' ORDER BY audit_id DESC LIMIT ?"""
        with self._db.reading() as db:
            return [AuditRow(*row) for row in reversed(self._db.rows(db, sql, batch_id, limit))]
