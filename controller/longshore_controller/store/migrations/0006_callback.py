"""Who is told when a batch is complete, and what came of it."""

from __future__ import annotations

from typing import Any


def up(migrator: object, db: Any) -> None:
    db.execute_sql("ALTER TABLE batch ADD COLUMN callback TEXT NOT NULL DEFAULT ''")
    db.execute_sql("ALTER TABLE batch ADD COLUMN callback_outcome TEXT NOT NULL DEFAULT ''")
    db.execute_sql(
        "CREATE INDEX batch_callback_due ON batch (batch_id) WHERE callback <> '' AND callback_outcome = ''"
    )
