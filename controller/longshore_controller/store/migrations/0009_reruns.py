"""Of which batch the jobs are run again."""

from __future__ import annotations

from typing import Any


def up(migrator: object, db: Any) -> None:
    db.execute_sql("ALTER TABLE batch ADD COLUMN rerun_of BIGINT NOT NULL DEFAULT 0")
    db.execute_sql("CREATE INDEX batch_reruns ON batch (rerun_of, batch_id) WHERE rerun_of <> 0")
