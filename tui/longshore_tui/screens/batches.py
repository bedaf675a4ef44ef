"""All my batches, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from .. import format
from ..feed import Follow, Tell
from ..model import BatchesRead, Update
from ..widgets.table import Column
from .batch import BatchScreen
from .cost import CostScreen
from .lists import ListScreen
from .why import WhyScreen

if TYPE_CHECKING:
    from longshore.status import BatchesView, BatchStatus

FIRST_PROGRAM = """\
import longshore as hp

p = hp.Pipeline(backend=hp.BatchBackend('test'), name='hello')
t = p.new_task(name='hello')
t.command('echo "hello world"')
p.run()
"""
_NO_BATCHES = f"""\
No batches yet. This program makes one:

{"".join(f"    {line}" for line in FIRST_PROGRAM.splitlines(keepends=True))}
Write it to hello.py and run it:  python hello.py

y copies it, ? shows the keys."""


class BatchesScreen(ListScreen["BatchStatus"]):
    """The root."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "mark"),
        Binding("c", "cancel", "cancel"),
        Binding("D", "delete", "delete"),
        Binding("W", "why", "why"),
        Binding("u", "undelete", "undo delete"),
        Binding("dollar_sign", "cost", "cost"),
    ]
    KEYS: ClassVar[Sequence[str]] = (
        "open", "filter", "cancel", "delete", "why", "only_failed", "mark", "app.palette", "copy", "go",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__(
            [
                Column("", lambda batch: format.symbol(batch.state), 1, below_width=110),
                Column("ID", lambda batch: str(batch.id), 6, right=True),
                Column("NAME", lambda batch: format.one_line(batch.name), None),
                Column("STATE", self._state, 12, from_width=110),
                Column("PROGRESS", _bar, 10),
                Column("DONE", _done, 4, right=True, priority=5),
                Column("JOBS", lambda batch: format.count(batch.n_jobs, 7), 7, right=True, priority=4),
                Column("PEND", _waiting, 6, right=True, from_width=100, priority=6),
                Column("RUN", lambda batch: format.count(batch.n_running, 5), 5, right=True, from_width=100),
                Column("OK", lambda batch: format.count(batch.n_succeeded, 6), 6, right=True, from_width=100),
                Column("FAIL", lambda batch: format.count(batch.n_failed, 5), 5, right=True),
                Column(
                    "CANC", lambda batch: format.count(batch.n_cancelled, 5), 5, right=True, from_width=100
                ),
                Column("COST", _cost, 13, right=True),
                Column("ELAPSED", self._elapsed, 7, right=True),
            ],
            key=lambda batch: batch.id,
        )
        self._view: BatchesView | None = None

    @property
    def crumbs(self) -> Sequence[str]:
        return ["batches"]

    def body(self) -> ComposeResult:
        yield from super().body()
        yield Static(id="detail")

    def start(self, tell: Tell) -> Follow:
        return self.dashboard.feed.follow_batches(self.wanted, tell)

    def take(self, update: Update) -> None:
        if isinstance(update, BatchesRead) and update.view.query == self.wanted.query:
            view = update.view
            self._view = view
            if view.whole:
                self.wanted = replace(self.wanted, anchor=view.anchor)
            self.dashboard.seen(view.rows, whole=view)
        super().take(update)
        if self._view and not self._view.n_matching and self._view.n_newer:
            # There is no row that could move.
            self._show_newest()

    def summary(self) -> Text:
        view = self._view
        if view is None:
            return Text()
        text = Text(no_wrap=True, overflow="ellipsis")
        if self.wanted.query:
            text.append(f"/ {format.one_line(self.wanted.query)}   ", format.WARNING)
            text.append(f"{view.n_matching + view.n_newer:,} of {view.n_total:,} batches")
        else:
            text.append(f"{view.n_total:,} batch{'' if view.n_total == 1 else 'es'}")
        rows = [row for at in range(self.table.rows.n) if (row := self.table.rows.get(at))][:1000]
        n_unfinished = sum(not batch.complete for batch in rows)
        n_failing = sum(batch.n_failed > 0 for batch in rows)
        if len(rows) == self.table.rows.n:
            text.append(f" · {n_unfinished:,} unfinished" if n_unfinished else "")
            text.append(f" · {n_failing:,} with failures" if n_failing else "")
        if marked := self.table.marked:
            text.append(f" · ◆ {len(marked):,} marked", "bold")
        if view.n_newer:
            text.append(f"   ▲ {view.n_newer:,} new · Home", format.KEY)
        return text

    def show_summary(self) -> None:
        super().show_summary()
        detail = self.query_one("#detail", Static)
        batch = self.table.cursor_row
        detail.display = batch is not None and self.is_wide and self.app.size.height >= 30
        if batch is not None:
            detail.border_title = Text(f"#{batch.id} {format.one_line(batch.name, 80)}")
            detail.update(self._detail(batch))

    def nothing(self) -> str:
        return _NO_BATCHES if self._view and not self._view.n_total else ""

    def few_words(self) -> str:
        return self.summary().plain

    def clear(self) -> bool:
        if self.table.marked and not self.query_one("#filter").has_focus:
            self.table.unmark()
            return True
        return super().clear()

    def target(self, row: BatchStatus) -> str:
        return str(row.id)

    def open(self, key: int) -> None:
        self.app.push_screen(BatchScreen(key))

    def on_window_table_at_first(self) -> None:
        if self._view and self._view.n_newer:
            self._show_newest()

    def action_copy(self) -> None:
        if self.nothing():
            self.dashboard.copy(FIRST_PROGRAM, "the program")
        else:
            super().action_copy()

    def action_mark(self) -> None:
        self.table.mark()

    def action_cost(self) -> None:
        if (batch_id := self.table.cursor_key) is not None:
            self.app.push_screen(CostScreen(batch_id))

    def action_why(self) -> None:
        if (batch_id := self.table.cursor_key) is not None:
            self.app.push_screen(WhyScreen(batch_id))

    def action_cancel(self) -> None:
        self.dashboard.cancel(self._chosen(), done=self.table.unmark)

    def action_undelete(self) -> None:
        self.dashboard.undelete()

    def action_delete(self) -> None:
        self.dashboard.delete(self._chosen(), done=self.table.unmark)

    def _chosen(self) -> list[BatchStatus]:
        """What is marked, else what the cursor is at."""
        if self.table.marked:
            return [self.table.marked[key] for key in sorted(self.table.marked)]
        row = self.table.cursor_row
        return [row] if row is not None else []

    def _show_newest(self) -> None:
        self.want(replace(self.wanted, first=0, anchor=0))
        self.table.restart()

    def _state(self, batch: BatchStatus) -> format.Part:
        return self.dashboard.badge(batch) or format.state(batch.state)

    def _elapsed(self, batch: BatchStatus) -> str:
        began = batch.created_at.timestamp()
        if batch.completed_at:
            return format.duration((batch.completed_at.timestamp() - began) * 1000)
        return "" if batch.complete else format.elapsed(self.now - began)

    def _detail(self, batch: BatchStatus) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append_text(counts(batch))
        text.append(f"   submitted {batch.created_at.astimezone():%Y-%m-%d %H:%M}")
        text.append(f"\ncost {_cost(batch)}", "bold")
        if batch.unfinished_nanousd and not batch.complete:
            text.append(f" + ~{format.money(batch.unfinished_nanousd)} so far", format.DIM)
        text.append(
            f"   paid by {format.one_line(batch.billing_project, 40)}, user {format.one_line(batch.user, 40)}"
        )
        if not batch.complete and batch.state in ("failure", "cancelled"):
            text.append(f"\nThe state is final; {batch.n_running:,} jobs still run.", format.WARNING)
        if batch.cancelled_at or batch.cancelled_by:
            text.append(f"\n{cancelled_words(batch)}", format.WARNING)
        return text


def counts(batch: BatchStatus, *, short: bool = False) -> Text:
    """How many of its jobs are in each state."""
    text = Text.assemble(format.state(batch.state))
    for word, n in (
        ("success", batch.n_succeeded),
        ("failure", batch.n_failed),
        ("cancelled", batch.n_cancelled),
        ("running", batch.n_running),
        ("ready", batch.n_ready),
        ("pending", batch.n_pending),
    ):
        if n:
            symbol, colour = format.symbol(word)
            text.append(f"  {symbol} {format.some(n) if short else f'{n:,}'}", colour)
    return text


def cancelled_words(batch: BatchStatus) -> str:
    why = f": {batch.cancel_reason}" if batch.cancel_reason else ""
    return format.one_line(f"cancelled by {batch.cancelled_by}{why}")


def _bar(batch: BatchStatus) -> format.Part:
    numbers = batch.n_succeeded, batch.n_failed, batch.n_cancelled, batch.n_running, batch.n_jobs
    return format.bar(10, *numbers), format.symbol(batch.state)[1]


def _done(batch: BatchStatus) -> str:
    return format.percent(batch.n_completed, batch.n_jobs) if batch.closed else "0%"


def _waiting(batch: BatchStatus) -> str:
    return format.count(batch.n_pending + batch.n_ready, 6)


def _cost(batch: BatchStatus) -> str:
    return format.money(batch.cost_nanousd, so_far=not batch.complete)
