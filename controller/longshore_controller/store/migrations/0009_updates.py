"""Jobs that were added to a batch, by the request that added them."""

from __future__ import annotations

from typing import Any


def up(migrator: object, db: Any) -> None:
    blob = db.field_types.get("BLOB", "BLOB")
    db.execute_sql(
        f"""CREATE TABLE batch_update (
            batch_id BIGINT NOT NULL,
            request_id TEXT NOT NULL,
            request_sha256 {blob} NOT NULL,
            first_job_id INTEGER NOT NULL CHECK (first_job_id >= 1),
            n_jobs INTEGER NOT NULL CHECK (n_jobs >= 1),
            at_ms BIGINT NOT NULL,
            PRIMARY KEY (batch_id, request_id),
            UNIQUE (batch_id, first_job_id)
        )"""
    )
