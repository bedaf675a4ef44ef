"""Who people are, how they come in, whose members they are, and what they did."""

from __future__ import annotations

from typing import Any

from peewee import PostgresqlDatabase

TABLES = """
ALTER TABLE users ADD COLUMN admin SMALLINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN subject TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN email TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN service_identity TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN created_at_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN suspended_at_ms BIGINT;
CREATE UNIQUE INDEX user_of_subject ON users (issuer, subject) WHERE issuer <> '';
CREATE INDEX user_of_email ON users (email) WHERE email <> '';

ALTER TABLE user_token ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE user_token ADD COLUMN scope SMALLINT NOT NULL DEFAULT 3 CHECK (scope BETWEEN 1 AND 3);
ALTER TABLE user_token ADD COLUMN created_at_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE user_token ADD COLUMN expires_at_ms BIGINT;
ALTER TABLE user_token ADD COLUMN ends_at_ms BIGINT;
ALTER TABLE user_token ADD COLUMN last_used_at_ms BIGINT;
ALTER TABLE user_token ADD COLUMN revoked_at_ms BIGINT;
CREATE INDEX token_of_user ON user_token (user_name);

CREATE TABLE billing_member (
    project TEXT NOT NULL,
    user_name TEXT NOT NULL REFERENCES users (name),
    role SMALLINT NOT NULL CHECK (role IN (1, 2)),
    PRIMARY KEY (project, user_name)
);
CREATE INDEX project_of_member ON billing_member (user_name);
CREATE INDEX batch_of_project ON batch (billing_project, batch_id);

CREATE TABLE audit (
    audit_id {ID},
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    role TEXT NOT NULL,
    token_id TEXT NOT NULL,
    peer TEXT NOT NULL,
    method TEXT NOT NULL,
    batch_id BIGINT,
    object TEXT NOT NULL,
    outcome TEXT NOT NULL,
    request_id TEXT NOT NULL,
    times INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX audit_of_batch ON audit (batch_id, audit_id) WHERE batch_id IS NOT NULL;
CREATE INDEX audit_of_actor ON audit (actor, audit_id)
"""
# user_token: expires_at_ms moves on while it is used, up to ends_at_ms; NULL is never.
# audit: nothing in here is a secret; `times` is more than 1 for denials that were counted together.


def up(migrator: object, db: Any) -> None:
    on_postgres = isinstance(db, PostgresqlDatabase)
    numbered = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY" if on_postgres else "INTEGER PRIMARY KEY"
    for statement in TABLES.replace("{ID}", numbered).split(";\n"):
        db.execute_sql(statement)
