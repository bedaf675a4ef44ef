"""The event log is forgotten from its beginning, by number: nobody looks for its age any more."""

from __future__ import annotations

from typing import Any


def up(migrator: object, db: Any) -> None:
    db.execute_sql("DROP INDEX event_log_by_age")
