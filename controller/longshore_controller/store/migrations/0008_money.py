"""Prices by day, what was used of them, and what billing projects may spend."""

from __future__ import annotations

from typing import Any

TABLES = """
CREATE TABLE rate (                     -- a card is all rows of a first day
    from_day BIGINT NOT NULL,           -- UTC days since 1970-01-01
    resource TEXT NOT NULL,
    usd_per_core_hour TEXT NOT NULL,    -- exact: 1/100 or 0.01
    PRIMARY KEY (from_day, resource)
);
CREATE TABLE ledger (                   -- of attempts that have ended, by the day of use
    batch_id BIGINT NOT NULL,
    day BIGINT NOT NULL,
    resource TEXT NOT NULL,
    project TEXT NOT NULL,
    user_name TEXT NOT NULL,
    mcpu_ms BIGINT NOT NULL CHECK (mcpu_ms >= 0),
    nanousd BIGINT NOT NULL CHECK (nanousd >= 0),
    PRIMARY KEY (batch_id, day, resource)
);
CREATE INDEX ledger_of_project ON ledger (project, day);
CREATE INDEX ledger_of_user ON ledger (user_name, day);
ALTER TABLE billing_project ADD COLUMN limit_nanousd BIGINT;
ALTER TABLE billing_project ADD COLUMN hard SMALLINT NOT NULL DEFAULT 0;
ALTER TABLE billing_project ADD COLUMN closed SMALLINT NOT NULL DEFAULT 0;
ALTER TABLE billing_project ADD COLUMN spent_nanousd BIGINT NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN unfinished_nanousd BIGINT NOT NULL DEFAULT 0
"""

SEED = (("compute", "1/100"), ("disk", "17/11688"), ("ip", "1/4000"), ("service", "1/100"))
"""Dollars per core and hour: the user's document, Billing. The disk's is 0.17 x 100 / 30.4375 / 24 / 16."""


def up(migrator: object, db: Any) -> None:
    for statement in TABLES.split(";"):
        db.execute_sql(statement)
    for resource, usd in SEED:
        db.execute_sql(f"INSERT INTO rate VALUES (0, '{resource}', '{usd}')")
