"""Where nothing new is to start: in the whole service, or on one worker."""

from __future__ import annotations

from typing import Any


def up(migrator: object, db: Any) -> None:
    db.execute_sql(
        """CREATE TABLE pause (
            paused TEXT PRIMARY KEY,        -- '' for the service, or a worker's id
            by_user TEXT NOT NULL,
            reason TEXT NOT NULL,
            at_ms BIGINT NOT NULL
        )"""
    )
