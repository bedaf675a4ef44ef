"""All my batches, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from .. import format
from ..model import BatchesRead, BatchesView, Update, View
from ..widgets.table import Column, Table
from .batch import BatchScreen
from .live import PagedScreen

if TYPE_CHECKING:
    from longshore.status import BatchStatus

_FIRST_PROGRAM = """\
No batches yet. This program makes one:

    import longshore as hp

    p = hp.Pipeline(backend=hp.BatchBackend('test'), name='hello')
    t = p.new_task(name='hello')
    t.command('echo "hello world"')
    p.run()

Write it to hello.py and run it:  longshore submit hello.py"""


class BatchesScreen(PagedScreen["BatchStatus"]):
    """The root."""

    def __init__(self) -> None:
        super().__init__(
            [
                Column("", lambda batch: format.symbol(batch.state), 1, below_width=110),
                Column("ID", lambda batch: str(batch.id), 6, right=True),
                Column("NAME", lambda batch: format.one_line(batch.name), None),
                Column("STATE", lambda batch: format.state(batch.state), 11, from_width=110),
                Column("PROGRESS", _bar, 10),
                Column("DONE", _done, 4, right=True, from_width=72),
                Column("JOBS", lambda batch: format.count(batch.n_jobs), 9, right=True, from_width=72),
                Column("PEND", _waiting, 7, right=True, from_width=100),
                Column("RUN", lambda batch: format.count(batch.n_running), 6, right=True, from_width=100),
                Column("OK", lambda batch: format.count(batch.n_succeeded), 7, right=True, from_width=100),
                Column("FAIL", lambda batch: format.count(batch.n_failed), 6, right=True),
                Column("CANC", lambda batch: format.count(batch.n_cancelled), 6, right=True, from_width=100),
                Column("COST", _cost, 14, right=True),
                Column("ELAPSED", self._elapsed, 7, right=True),
            ],
            key=lambda batch: batch.id,
        )

    @property
    def view(self) -> View:
        return BatchesView(self.start)

    @property
    def crumbs(self) -> Sequence[str]:
        return ["batches"]

    def take(self, update: Update) -> None:
        assert isinstance(update, BatchesRead)
        self.show_page(update.page)

    def summary(self) -> Text:
        rows = self.page.rows if self.page else ()
        n_unfinished = sum(not batch.complete for batch in rows)
        n_failing = sum(batch.n_failed > 0 for batch in rows)
        parts = [f"{len(rows):,} batches" if len(rows) != 1 else "1 batch"]
        parts += [f"{n_unfinished:,} unfinished"] if n_unfinished else []
        parts += [f"{n_failing:,} with failures"] if n_failing else []
        parts += [self.page_words] if self.page_words else []
        return Text(" · ".join(parts))

    def nothing(self) -> str:
        return "" if self.page and self.page.rows else _FIRST_PROGRAM

    def on_table_opened(self, message: Table.Opened) -> None:
        self.app.push_screen(BatchScreen(message.key))

    def _elapsed(self, batch: BatchStatus) -> str:
        began = batch.created_at.timestamp()
        if batch.completed_at:
            return format.duration((batch.completed_at.timestamp() - began) * 1000)
        return "" if batch.complete else format.elapsed(self.now - began)


def _bar(batch: BatchStatus) -> format.Part:
    numbers = batch.n_succeeded, batch.n_failed, batch.n_cancelled, batch.n_running, batch.n_jobs
    return format.bar(10, *numbers), format.symbol(batch.state)[1]


def _done(batch: BatchStatus) -> str:
    return format.percent(batch.n_completed, batch.n_jobs) if batch.closed else "0%"


def _waiting(batch: BatchStatus) -> str:
    return format.count(batch.n_pending + batch.n_ready)


def _cost(batch: BatchStatus) -> str:
    return format.money(batch.cost_nanousd, so_far=not batch.complete)
