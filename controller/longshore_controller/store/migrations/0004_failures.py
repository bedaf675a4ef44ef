"""After how many failed jobs a batch is cancelled."""

from __future__ import annotations

from typing import Any


def up(migrator: object, db: Any) -> None:
    db.execute_sql("ALTER TABLE batch ADD COLUMN cancel_after_n_failures INTEGER NOT NULL DEFAULT 0")
