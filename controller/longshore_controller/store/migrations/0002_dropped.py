"""Finds batches that were cancelled before they were closed, whose staged jobs are to be dropped."""

from __future__ import annotations

from typing import Any


def up(migrator: object, db: Any) -> None:
    db.execute_sql(
        "CREATE INDEX batch_dropped ON batch (batch_id) WHERE n_jobs = 0 AND cancelled_at_ms IS NOT NULL"
    )
