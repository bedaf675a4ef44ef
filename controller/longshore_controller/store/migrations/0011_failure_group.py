"""In which ways the jobs of a batch failed, counted as they do: nobody looks through the failed ones."""

from __future__ import annotations

from typing import Any

from longshore_controller.core.failures import tallied
from longshore_controller.core.model import JobState

TABLE = """
CREATE TABLE failure_group (
    batch_id BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    exit_code TEXT NOT NULL,            -- empty: there is none
    manner TEXT NOT NULL,               -- the reason, but for its numbers
    n INTEGER NOT NULL CHECK (n >= 1),
    first_job_id INTEGER NOT NULL,      -- the least
    PRIMARY KEY (batch_id, state, exit_code, manner)
)
"""


def up(migrator: object, db: Any) -> None:
    db.execute_sql(TABLE)
    rows = db.execute_sql("SELECT batch_id, job_id, state, exit_code, reason FROM job WHERE state IN (5, 6)")
    mark = db.param
    ways = tallied((b, j, JobState(s), code, reason) for b, j, s, code, reason in rows)
    for way, tally in ways.items():
        marks = ", ".join([mark] * 6)
        db.execute_sql(f"INSERT INTO failure_group VALUES ({marks})", (*way, *tally))
