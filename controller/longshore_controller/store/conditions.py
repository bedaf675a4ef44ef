"""PURE. A query as conditions of SQL: they leave out what cannot match, and `Query.matches` decides the rest.

Where the databases do not agree with it, or with each other, there is no condition: case beyond ASCII,
patterns, texts in JSON. Whatever a user wrote is a parameter; SQL is made of the names of columns alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from longshore_controller.core.model import JobState, Viewer, memory_of
from longshore_controller.core.query import (
    BATCH_WORDS,
    JOB_WORDS,
    All,
    Contains,
    Either,
    Equals,
    InState,
    Item,
    Node,
    Not,
    Query,
    Within,
    Word,
)
from longshore_controller.core.rows import BatchRow

Condition = tuple[str, list[object]]
"""SQL with ``?``, and its parameters."""


class Columns(NamedTuple):
    """Where the fields of items are."""

    numbers: Mapping[str, str]
    """What can be compared as it is; may be NULL."""
    texts: Mapping[str, str]
    """Never NULL; letter by letter what the item has."""
    json: Mapping[str, str]
    """Texts within which the value, or one of the values, stands as JSON has it."""
    in_state: Callable[[frozenset[str]], Condition]
    """Of some words of states."""


def condition(terms: Iterable[Node], columns: Columns, *, like: str) -> Condition:
    """Whatever matches all the terms meets it. ``like`` is the operator that knows no case in ASCII."""
    return _Spelling(columns, like).all(terms, holds=True) or ("TRUE", [])


def both(one: Condition, other: Condition) -> Condition:
    return _joined(" AND ", [one, other])


class _Spelling:
    """Each method says what must hold if a term does or, not ``holds``, if it does not; None: nothing."""

    def __init__(self, columns: Columns, like: str) -> None:
        self._columns = columns
        self._like = like

    def all(self, terms: Iterable[Node], *, holds: bool) -> Condition | None:
        known = [found for term in terms if (found := self.one(term, holds=holds)) is not None]
        return _joined(" AND ", known) if known else None

    def any(self, terms: Iterable[Node], *, holds: bool) -> Condition | None:
        known: list[Condition] = []
        for term in terms:
            if (found := self.one(term, holds=holds)) is None:
                return None
            known.append(found)
        return _joined(" OR ", known)

    def one(self, term: Node, *, holds: bool) -> Condition | None:
        match term:
            case Not(inner):
                return self.one(inner, holds=not holds)
            case All(terms):
                return self.all(terms, holds=True) if holds else self.any(terms, holds=False)
            case Either(terms):
                return self.any(terms, holds=True) if holds else self.all(terms, holds=False)
            case InState(words):
                sql, values = self._columns.in_state(words)
                return (sql, values) if holds else (f"NOT ({sql})", values)
            case Within(field, ranges):
                if (column := self._columns.numbers.get(field.name)) is None:
                    return None
                found = _joined(" OR ", [_in_range(column, *ends) for ends in ranges])
                return found if holds else (f"({column} IS NULL OR NOT ({found[0]}))", found[1])
            case Word(text, number) if holds:
                found_ = self._occurs("name", text)
                if number is None or found_ is None:
                    return found_
                return _joined(" OR ", [found_, (f"{self._columns.numbers['id']} = ?", [number])])
            case Contains(field, texts) if holds:
                return self._one_of([self._occurs(field.name, text) for text in texts])
            case Equals(field, texts):
                if (column := self._columns.texts.get(field.name)) is not None:
                    marks = ", ".join("?" * len(texts))
                    return f"{column} {'' if holds else 'NOT '}IN ({marks})", list(texts)
                if holds:
                    return self._one_of([self._occurs(field.name, text) for text in texts])
        return None

    def _occurs(self, field: str, text: str) -> Condition | None:
        """The longest of its pieces that every database reads in the same way does."""
        column = self._columns.texts.get(field) or self._columns.json[field]
        safe = "[ -~]+" if field in self._columns.texts else r"[ !#-\[\]-~]+"
        piece = max(re.findall(safe, text), key=len, default="")
        if not piece:
            return None
        escaped = re.sub("[!%_]", r"!\g<0>", piece)
        return f"{column} {self._like} ? ESCAPE '!'", [f"%{escaped}%"]

    @staticmethod
    def _one_of(found: list[Condition | None]) -> Condition | None:
        known = [each for each in found if each is not None]
        return _joined(" OR ", known) if len(known) == len(found) else None


def _joined(by: str, conditions: list[Condition]) -> Condition:
    sql = by.join(f"({sql})" for sql, _ in conditions)
    return sql, [value for _, values in conditions for value in values]


def _in_range(column: str, low: int | None, high: int | None) -> Condition:
    if low is None or high is None:
        end = low if high is None else high
        if end is None:
            return f"{column} IS NOT NULL", []
        return f"{column} {'>=' if high is None else '<='} ?", [end]
    return f"{column} BETWEEN ? AND ?", [low, high]


# -- jobs --------------------------------------------------------------------------------------------


def _job_in_state(words: frozenset[str]) -> Condition:
    states: list[object] = [int(state) for state in JobState if not words.isdisjoint(JOB_WORDS[state])]
    return f"job.state IN ({', '.join('?' * len(states))})", states


JOB = Columns(
    numbers={
        "id": "{jobs}.job_id",
        "exit": "job.exit_code",
        "cost": "job.cost_nanousd",
        "dur": "job.duration_ms",
        "attempts": "job.n_attempts",
        "preempted": "job.n_preempted",
        "started": "job.started_at_ms",
        "ended": "job.ended_at_ms",
        "cpu": "job_spec.mcpu",
    },
    texts={"name": "job_spec.name", "reason": "job.reason"},
    json={"attr": "job_spec.attributes"},
    in_state=_job_in_state,
)

_JOB_VALUES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "state": ("job.state", lambda state: JOB_WORDS[state]),
    "reason": ("job.reason", str),
    "name": ("job_spec.name", str),
    "attr": ("job_spec.attributes", lambda text: json.loads(text) if text else {}),
    "mem": ("job_spec.mcpu", memory_of),
}
"""Where the value of a field is, and what makes it of what is there. All others are `JOB.numbers`."""


class Jobs(NamedTuple):
    """How jobs are read whose fields a query asks for."""

    source: str
    """The tables."""
    table: str
    """Which of them says which jobs there are."""
    columns: str
    where: str
    parameters: list[object]
    fields: tuple[tuple[str, Callable[[Any], Any] | None], ...]
    """Of the columns after the id and the state, as they come."""

    def item(self, job_id: int, values: Iterable[Any]) -> Item:
        item = {"id": job_id}
        for (name, make), value in zip(self.fields, values, strict=True):
            item[name] = value if make is None else make(value)
        return item


def of_jobs(query: Query, *, like: str, with_state: bool) -> Jobs:
    """Rows are the id, the state (0 if nobody asks), and what the query asks for."""
    fields = [name for name in sorted(query.asks) if name != "id"]
    found = [_JOB_VALUES.get(name) or (JOB.numbers[name], None) for name in fields]
    where, parameters = condition(query.terms, JOB, like=like)
    asks_spec = any(column.startswith("job_spec.") for column, _ in found)
    asks_job = with_state or any(column.startswith("job.") for column, _ in found)
    table = "job_spec" if asks_spec else "job"
    source = table
    if asks_spec and asks_job:
        source = "job_spec JOIN job ON job.batch_id = job_spec.batch_id AND job.job_id = job_spec.job_id"
    state = "job.state" if asks_job or not asks_spec else "0"
    return Jobs(
        source=source,
        table=table,
        columns=", ".join([f"{table}.job_id", state, *(column for column, _ in found)]),
        where=where.replace("{jobs}", table),
        parameters=parameters,
        fields=tuple((name, make) for name, (_, make) in zip(fields, found, strict=True)),
    )


# -- batches -----------------------------------------------------------------------------------------


def _batch_in_state(words: frozenset[str]) -> Condition:
    wanted = [key for key, those in BATCH_WORDS.items() if not words.isdisjoint(those)]
    parts: list[Condition] = []
    for complete in (True, False):
        states: list[object] = [int(state) for state, over in wanted if over is complete]
        if states:
            marks = ", ".join("?" * len(states))
            is_so = f"batch.completed_at_ms IS {'NOT ' if complete else ''}NULL"
            parts.append((f"{is_so} AND batch.state IN ({marks})", states))
    return _joined(" OR ", parts)


BATCH = Columns(
    numbers={
        "id": "batch.batch_id",
        "cost": "batch.cost_nanousd",
        "created": "batch.created_at_ms",
        "ended": "batch.completed_at_ms",
        "dur": "(batch.completed_at_ms - batch.created_at_ms)",
        "jobs": "batch.n_jobs",
        "failed": "batch.n_failed",
    },
    texts={"user": 'batch."user"', "project": "batch.billing_project"},
    json={"name": "batch.attributes", "attr": "batch.attributes"},
    in_state=_batch_in_state,
)


def seen(viewer: Viewer, *, everybodys: bool) -> Condition:
    """A batch is the viewer's own; or, ``everybodys``, one of those that `Viewer.sees`."""
    if not everybodys:
        return 'batch."user" = ?', [viewer.name]
    if viewer.admin:
        return "TRUE", []
    marks = ", ".join("?" * len(viewer.projects))
    shared = f" OR batch.billing_project IN ({marks})" if marks else ""
    return f'batch."user" = ?{shared}', [viewer.name, *sorted(viewer.projects)]


def item_of(row: BatchRow) -> Item:
    """What a query can ask of a batch."""
    complete = row.completed_at_ms is not None
    return {
        "id": row.batch_id,
        "name": row.attributes.get("name", ""),
        "state": BATCH_WORDS[row.state, complete],
        "cost": row.cost_nanousd,
        "created": row.created_at_ms,
        "ended": row.completed_at_ms,
        "dur": None if row.completed_at_ms is None else row.completed_at_ms - row.created_at_ms,
        "jobs": row.n_jobs,
        "failed": row.n_failed,
        "user": row.user,
        "project": row.billing_project,
        "attr": row.attributes,
    }
