"""A batch and its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from .. import format
from ..model import JobsRead, JobsView, Update, View
from ..widgets.table import Column, Table
from .job import JobScreen
from .live import PagedScreen, crumb

if TYPE_CHECKING:
    from longshore.status import BatchStatus, JobStatus


class BatchScreen(PagedScreen["JobStatus"]):
    """One batch: its counters, and a page of its jobs."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("f", "only_failed", "failed only")]

    def __init__(self, batch_id: int) -> None:
        super().__init__(
            [
                Column("ID", lambda job: str(job.job_id), 7, right=True),
                Column("NAME", lambda job: format.one_line(job.name), None),
                Column("STATE", lambda job: format.state(job.state), 11),
                Column("EXIT", _exit_code, 4, right=True),
                Column("ATT", lambda job: format.count(job.n_attempts), 3, right=True),
                Column("TIME", self._time, 7, right=True),
                Column("COST", _cost, 13, right=True),
                Column("REASON", lambda job: format.one_line(job.reason), 36, from_width=110),
            ],
            key=lambda job: job.job_id,
        )
        self._batch_id = batch_id
        self._batch: BatchStatus | None = None
        self._only_failed = False

    @property
    def view(self) -> View:
        return JobsView(self._batch_id, self.start or 0, self._only_failed)

    @property
    def crumbs(self) -> Sequence[str]:
        crumbs = ["batches", crumb(f"#{self._batch_id}", self._batch)]
        return [*crumbs, "failed only"] if self._only_failed else crumbs

    def take(self, update: Update) -> None:
        assert isinstance(update, JobsRead)
        self._batch = update.batch
        self.show_page(update.page)

    def summary(self) -> Text:
        batch = self._batch
        if batch is None:
            return Text()
        text = Text()
        text.append(*format.state(batch.state))
        if not batch.complete and batch.state in ("failure", "cancelled"):
            text.append(", unfinished")
        width = 24 if self.app.size.width >= 110 else 12
        numbers = batch.n_succeeded, batch.n_failed, batch.n_cancelled, batch.n_running, batch.n_jobs
        text.append("  ").append(format.bar(width, *numbers), format.symbol(batch.state)[1])
        text.append(f" {format.percent(batch.n_completed, batch.n_jobs)} ")
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
                text.append(f" {symbol} {n:,}", colour)
        text.append(f"  {format.money(batch.cost_nanousd, so_far=not batch.complete)}", "bold")
        if self.page_words:
            text.append(f"  {self.page_words}", "dim")
        if batch.cancelled_at or batch.cancelled_by:
            why = f": {batch.cancel_reason}" if batch.cancel_reason else ""
            text.append(f"\ncancelled by {format.one_line(batch.cancelled_by + why)}", format.DIM)
        return text

    def nothing(self) -> str:
        if self.page is None or self.page.rows:
            return ""
        if self._only_failed:
            return "No job of this batch has failed.\n\nf shows all its jobs again."
        if self._batch and not self._batch.closed:
            return f"The batch is open: none of its {self._batch.n_jobs:,} jobs has been submitted so far."
        return "This batch has no jobs."

    def action_only_failed(self) -> None:
        self._only_failed = not self._only_failed
        self.first_page()

    def on_table_opened(self, message: Table.Opened) -> None:
        self.app.push_screen(JobScreen(self._batch_id, message.key, self._batch))

    def _time(self, job: JobStatus) -> str:
        if job.state == "Running" and job.started_at:
            return format.elapsed(self.now - job.started_at.timestamp())
        return format.duration(job.duration_ms) if job.duration_ms or job.exit_code is not None else ""


def _exit_code(job: JobStatus) -> str:
    return "" if job.exit_code is None else str(job.exit_code)


def _cost(job: JobStatus) -> str:
    if not job.n_attempts or (not job.complete and not job.cost_nanousd):
        return ""
    return format.money(job.cost_nanousd, so_far=not job.complete)
