"""What a query that is being written may go on with: fields, then values and how often there are which.

States and exit codes are counted already; everything else is counted in what is newest, so that it takes no
longer where there is much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from longshore_controller.core import completion
from longshore_controller.core.completion import Completion, Written
from longshore_controller.core.language import ATTRIBUTE, BATCHES, JOBS
from longshore_controller.core.model import Viewer
from longshore_controller.core.query import BATCH_WORDS, JOB_WORDS
from longshore_controller.core.rows import BatchRow
from longshore_controller.interceptors import viewer
from longshore_controller.store import Store
from longshore_controller.visible import Visible, read

LOOKED_AT = 1_000
"""Batches, the newest; of a batch its first jobs."""
WAYS = 1_000


class Completions(NamedTuple):
    first: int
    """Of the piece of text that they replace ..."""
    length: int
    found: list[Completion]
    n_looked_at: int = 0
    """0: the counts are of all."""


class Completing:
    def __init__(self, store: Store, visible: Visible) -> None:
        self._store = store
        self._visible = visible

    async def query(self, text: str, cursor: int, batch_id: int) -> Completions:
        """Of a batch's jobs, or with 0 of batches. Refusal NOT_FOUND."""
        batch = await self._visible.batch(batch_id) if batch_id else None
        subject = JOBS if batch else BATCHES
        if (before := completion.written(text, cursor, subject)) is None:
            return Completions(cursor, 0, [])
        if not before.field:
            found, n = completion.of_fields(before, subject), 0
        elif batch is not None:
            found, n = await read(self._of_jobs, before, batch)
        else:
            found, n = await read(self._of_batches, before, viewer())
        return Completions(before.first, len(before.text), found, n)

    def _of_jobs(self, before: Written, batch: BatchRow) -> tuple[list[Completion], int]:
        match before.field:
            case "state":
                states = ((JOB_WORDS[state], n) for state, n in self._store.counts(batch).items())
                return completion.of_values(before, completion.counted_words(states, JOBS)), 0
            case "exit" | "reason":
                codes, reasons = Counter[str](), Counter[str]()
                for way, tally in self._store.failures(batch.batch_id, WAYS):
                    codes[way.exit_code] += tally.n
                    reasons[way.manner.partition("#")[0].strip()] += tally.n
                found = codes if before.field == "exit" else reasons
                if before.field == "exit" and batch.n_succeeded:
                    found["0"] += batch.n_succeeded
                return completion.of_values(before, {text: n for text, n in found.items() if text}), 0
            case "attr":
                some = self._store.attributes(batch.batch_id, min(LOOKED_AT, batch.n_jobs))
                return _of_attributes(before, some), len(some)
        return _examples(before), 0

    def _of_batches(self, before: Written, who: Viewer) -> tuple[list[Completion], int]:
        if before.field not in ("state", "user", "project", ATTRIBUTE):
            return _examples(before), 0
        owners = before.field in ("user", "project")
        rows = self._store.newest_batches(who, LOOKED_AT, everybodys=owners)
        if before.field == ATTRIBUTE:
            return _of_attributes(before, [row.attributes for row in rows]), len(rows)
        if before.field == "state":
            words = ((BATCH_WORDS[row.state, row.completed_at_ms is not None], 1) for row in rows)
            return completion.of_values(before, completion.counted_words(words, BATCHES)), len(rows)
        names = Counter(row.user if before.field == "user" else row.billing_project for row in rows)
        if before.field == "user":
            names["me"] = names[who.name]
        return completion.of_values(before, names), len(rows)


def _examples(before: Written) -> list[Completion]:
    return completion.of_values(before, dict.fromkeys(completion.EXAMPLES.get(before.field, ())))


def _of_attributes(before: Written, some: Iterable[Mapping[str, str]]) -> list[Completion]:
    if before.attribute:
        values = Counter(each[before.attribute] for each in some if before.attribute in each)
        return completion.of_values(before, values)
    return completion.of_attributes(before, Counter(name for each in some for name in each))
