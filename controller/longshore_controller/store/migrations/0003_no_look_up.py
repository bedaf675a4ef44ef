"""An attempt's worker is not looked up: that cost a third of the insert, and no worker is ever deleted.

SQLite keeps the constraint, which it cannot drop and which costs it next to nothing.
"""

from __future__ import annotations

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: object, db: Any) -> None:
    on_postgres = isinstance(db, PostgresqlDatabase)
    if on_postgres:
        db.execute_sql("ALTER TABLE attempt DROP CONSTRAINT attempt_worker_id_fkey")
