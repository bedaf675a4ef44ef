"""What was used and who pays, read from rows: the ledger, billing projects, prices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from longshore_controller.core.model import Viewer
from longshore_controller.core.rows import ProjectRow, RateRow
from longshore_controller.store.dialect import Dialect

GROUPS = ("day", "project", "user_name", "batch_id", "resource")
"""By what costs can be told apart."""
MOST_COSTS = 10_000


class CostRow(NamedTuple):
    """None: rows were not told apart by it."""

    day: int | None
    project: str | None
    user_name: str | None
    batch_id: int | None
    resource: str | None
    nanousd: int
    mcpu_ms: int


class Wanted(NamedTuple):
    """Which costs, and how to tell them apart."""

    project: str = ""
    user: str = ""
    batch_id: int = 0
    since_day: int = 0
    until_day: int | None = None
    by: tuple[str, ...] = ()


class Ledger:
    """A part of the store for any thread. Every method raises StoreUnavailable."""

    _db: Dialect

    def project(self, name: str) -> ProjectRow | None:
        found = self._projects(" WHERE name = ?", [name])
        return found[0] if found else None

    def projects(self, names: Collection[str] | None) -> list[ProjectRow]:
        """Those, or all, by name."""
        if names is None:
            return self._projects("", [])
        if not names:
            return []
        marks = ", ".join("?" * len(names))
        return self._projects(f" WHERE name IN ({marks})", sorted(names))

    def rates(self) -> list[RateRow]:
        """All cards, by day and resource."""
        with self._db.reading() as db:
            sql = "SELECT from_day, resource, usd_per_core_hour FROM rate ORDER BY from_day, resource"
            return [RateRow(*row) for row in self._db.rows(db, sql)]

    def costs(self, viewer: Viewer, wanted: Wanted) -> list[CostRow] | None:
        """Of what the viewer may see, in the order of what they are told apart by. None: too many rows.

        ``mcpu_ms`` counts once what several resources were charged for.
        """
        terms, values = _visible(viewer)
        for term, value in (
            ("project = ?", wanted.project),
            ("user_name = ?", wanted.user),
            ("batch_id = ?", wanted.batch_id),
            ("day >= ?", wanted.since_day),
            ("day < ?", wanted.until_day),
        ):
            if value:
                terms.append(term)
                values.append(value)
        columns = [name if name in wanted.by else "NULL" for name in GROUPS]
        group = ", ".join(name for name in GROUPS if name in wanted.by)
        inner = f"""SELECT {", ".join(GROUPS)}, nanousd, mcpu_ms FROM ledger
            WHERE {" AND ".join(terms) or "1 = 1"}"""
        if "resource" not in wanted.by:  # Each resource of a batch and day is charged for the same time.
            inner = f"""SELECT day, project, user_name, batch_id, NULL AS resource,
                SUM(nanousd) AS nanousd, MAX(mcpu_ms) AS mcpu_ms
                FROM ({inner}) AS found GROUP BY day, project, user_name, batch_id"""
        sql = f"""SELECT {", ".join(columns)}, SUM(nanousd), SUM(mcpu_ms) FROM ({inner}) AS used
            {f"GROUP BY {group} ORDER BY {group}" if group else ""} LIMIT {MOST_COSTS + 1}"""
        with self._db.reading() as db:
            rows = self._db.rows(db, sql, *values)
        if len(rows) > MOST_COSTS:
            return None
        # Of nothing at all there is one row of sums, which are NULL.
        return [CostRow._make((*r[:5], int(r[5]), int(r[6]))) for r in rows if r[5] is not None]

    def _projects(self, where: str, values: Sequence[object]) -> list[ProjectRow]:
        sql = f"""SELECT name, limit_nanousd, hard, closed, spent_nanousd
            FROM billing_project{where} ORDER BY name"""
        with self._db.reading() as db:
            rows = self._db.rows(db, sql, *values)
        return [ProjectRow(name, limit, bool(h), bool(c), spent) for name, limit, h, c, spent in rows]


def _visible(viewer: Viewer) -> tuple[list[str], list[object]]:
    if viewer.admin:
        return [], []
    marks = ", ".join("?" * len(viewer.projects))
    shared = f" OR project IN ({marks})" if marks else ""
    return [f"(user_name = ?{shared})"], [viewer.name, *sorted(viewer.projects)]
