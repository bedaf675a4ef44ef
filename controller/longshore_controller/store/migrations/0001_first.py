"""Batches, jobs, attempts, workers, the event log, and who may come in.

One schema for both databases. The CHECKs are a second net under the core's invariants: they refuse a
contradiction, they decide nothing. There are no foreign keys from jobs and attempts to batches: they
would cost a look-up for every row of a bulk load, and nothing is ever deleted.
"""

from __future__ import annotations

from typing import Any

TABLES = """
CREATE TABLE leader (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch BIGINT NOT NULL,              -- raised by everyone who opens the store; each commit checks it
    holder TEXT NOT NULL,               -- who that is, for people
    last_seq BIGINT NOT NULL            -- of the last committed event; outlives the log
);

CREATE TABLE event_log (                -- one row for each commit
    last_seq BIGINT PRIMARY KEY,
    first_seq BIGINT NOT NULL CHECK (first_seq BETWEEN 1 AND last_seq),
    at_ms BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    events {BLOB} NOT NULL
);
CREATE INDEX event_log_by_age ON event_log (at_ms);

CREATE TABLE batch (
    batch_id BIGINT PRIMARY KEY,
    "user" TEXT NOT NULL,
    billing_project TEXT NOT NULL,
    request_id TEXT NOT NULL,
    request_sha256 {BLOB} NOT NULL,
    attributes TEXT NOT NULL,           -- a JSON object
    n_jobs INTEGER NOT NULL CHECK (n_jobs >= 0),
    state SMALLINT NOT NULL CHECK (state BETWEEN 1 AND 5),
    n_pending INTEGER NOT NULL CHECK (n_pending >= 0),
    n_ready INTEGER NOT NULL CHECK (n_ready >= 0),
    n_running INTEGER NOT NULL CHECK (n_running >= 0),
    n_succeeded INTEGER NOT NULL CHECK (n_succeeded >= 0),
    n_failed INTEGER NOT NULL CHECK (n_failed >= 0),
    n_cancelled INTEGER NOT NULL CHECK (n_cancelled >= 0),
    msec_mcpu BIGINT NOT NULL CHECK (msec_mcpu >= 0),
    cost_nanousd BIGINT NOT NULL CHECK (cost_nanousd >= 0),
    created_at_ms BIGINT NOT NULL,
    closed_at_ms BIGINT,
    completed_at_ms BIGINT,             -- set: nothing but deleted_at_ms changes any more
    cancelled_at_ms BIGINT,
    cancelled_by TEXT NOT NULL,
    cancel_reason TEXT NOT NULL,
    deleted_at_ms BIGINT,
    UNIQUE ("user", request_id),
    CHECK ((state = 1) = (closed_at_ms IS NULL)),
    CHECK (n_pending + n_ready + n_running + n_succeeded + n_failed + n_cancelled
        = CASE WHEN closed_at_ms IS NULL THEN 0 ELSE n_jobs END),
    CHECK (completed_at_ms IS NULL OR n_succeeded + n_failed + n_cancelled = n_jobs),
    CHECK (completed_at_ms IS NULL OR closed_at_ms IS NOT NULL)
);
CREATE INDEX batch_of_user ON batch ("user", batch_id);
CREATE INDEX batch_incomplete ON batch (batch_id) WHERE completed_at_ms IS NULL;

CREATE TABLE bunch (                    -- jobs that came together: what the core needs of them, packed
    batch_id BIGINT NOT NULL,
    first_job_id INTEGER NOT NULL CHECK (first_job_id >= 1),
    n_jobs INTEGER NOT NULL CHECK (n_jobs >= 1),
    sha256 {BLOB} NOT NULL,             -- of the whole content: the same bunch again is no error
    columns {BLOB} NOT NULL,            -- see rows.py
    PRIMARY KEY (batch_id, first_job_id)
);

CREATE TABLE job_spec (                 -- what of a job never changes
    batch_id BIGINT NOT NULL,
    job_id INTEGER NOT NULL CHECK (job_id >= 1),
    name TEXT NOT NULL,
    attributes TEXT NOT NULL,           -- a JSON object, or empty
    mcpu INTEGER NOT NULL CHECK (mcpu >= 0),
    always_run SMALLINT NOT NULL,
    spec {BLOB} NOT NULL,
    PRIMARY KEY (batch_id, job_id)
);

CREATE TABLE job (                      -- what of a job changes; made with its spec, in its first state
    batch_id BIGINT NOT NULL,
    job_id INTEGER NOT NULL,
    state SMALLINT NOT NULL CHECK (state BETWEEN 1 AND 7),
    reason TEXT NOT NULL DEFAULT '',
    exit_code INTEGER,
    attempt_id TEXT,                    -- its latest
    n_attempts INTEGER NOT NULL DEFAULT 0 CHECK (n_attempts >= 0),
    n_preempted INTEGER NOT NULL DEFAULT 0 CHECK (n_preempted >= 0),
    n_lost INTEGER NOT NULL DEFAULT 0 CHECK (n_lost >= 0),
    n_failed INTEGER NOT NULL DEFAULT 0 CHECK (n_failed >= 0),
    duration_ms BIGINT NOT NULL DEFAULT 0 CHECK (duration_ms >= 0),
    msec_mcpu BIGINT NOT NULL DEFAULT 0 CHECK (msec_mcpu >= 0),
    cost_nanousd BIGINT NOT NULL DEFAULT 0 CHECK (cost_nanousd >= 0),
    started_at_ms BIGINT,
    ended_at_ms BIGINT,
    PRIMARY KEY (batch_id, job_id),
    CHECK ((state >= 4) = (ended_at_ms IS NOT NULL)),
    CHECK (state <> 3 OR (attempt_id IS NOT NULL AND n_attempts >= 1)),
    CHECK (n_preempted + n_lost + n_failed <= n_attempts)
);
CREATE INDEX job_by_state ON job (batch_id, state, job_id);

CREATE TABLE worker (
    worker_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    capacity_mcpu INTEGER NOT NULL CHECK (capacity_mcpu >= 0),
    runtime TEXT NOT NULL,
    state SMALLINT NOT NULL CHECK (state IN (1, 2)),
    joined_at_ms BIGINT NOT NULL,
    lost_at_ms BIGINT,
    reason TEXT NOT NULL,
    CHECK ((state = 2) = (lost_at_ms IS NOT NULL))
);

CREATE TABLE attempt (
    attempt_id TEXT PRIMARY KEY,
    batch_id BIGINT NOT NULL,
    job_id INTEGER NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    worker_id TEXT NOT NULL REFERENCES worker (worker_id),
    mcpu INTEGER NOT NULL CHECK (mcpu >= 0),
    state SMALLINT NOT NULL CHECK (state IN (10, 30, 90)),
    reason SMALLINT,
    message TEXT NOT NULL,
    revoked TEXT NOT NULL,
    assigned_at_ms BIGINT NOT NULL,
    started_at_ms BIGINT,
    ended_at_ms BIGINT,
    main_ms BIGINT NOT NULL CHECK (main_ms >= 0),
    cost_nanousd BIGINT NOT NULL CHECK (cost_nanousd >= 0),
    containers {BLOB} NOT NULL,
    UNIQUE (batch_id, job_id, number),
    CHECK ((state = 90) = (ended_at_ms IS NOT NULL)),
    CHECK ((state = 90) = (reason IS NOT NULL)),
    CHECK (main_ms = 0 OR started_at_ms IS NOT NULL),
    CHECK (state <> 30 OR started_at_ms IS NOT NULL)
);
CREATE UNIQUE INDEX one_live_attempt ON attempt (batch_id, job_id) WHERE state <> 90;

CREATE TABLE users (name TEXT PRIMARY KEY);
CREATE TABLE user_token (sha256 {BLOB} PRIMARY KEY, user_name TEXT NOT NULL REFERENCES users (name));
CREATE TABLE billing_project (name TEXT PRIMARY KEY);
CREATE TABLE activation_token (sha256 {BLOB} PRIMARY KEY);
CREATE TABLE worker_token (sha256 {BLOB} PRIMARY KEY, worker_id TEXT NOT NULL)
"""


def up(migrator: object, db: Any) -> None:
    blob = db.field_types.get("BLOB", "BLOB")
    for statement in TABLES.replace("{BLOB}", blob).split(";\n"):
        db.execute_sql(statement)
