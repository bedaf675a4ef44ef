"""A batch and its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from longshore.errors import BatchError
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Static

from .. import format
from ..feed import Follow, Tell, next_failed
from ..model import JobsRead, Update
from ..widgets.preview import Preview
from ..widgets.table import Column
from .cost import CostScreen
from .job import JobScreen
from .lists import ListScreen
from .live import crumb
from .why import WhyScreen

if TYPE_CHECKING:
    from longshore.status import BatchStatus, JobStatus


class BatchScreen(ListScreen["JobStatus"]):
    """One batch: its counters, its jobs, and what was asked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "next_failed(True)", "next failed"),
        Binding("N", "next_failed(False)", "failed before"),
        Binding("c", "cancel", "cancel batch"),
        Binding("r", "rerun", "rerun failed"),
        Binding("D", "delete", "delete batch"),
        Binding("p", "preview", "preview"),
        Binding("W", "why", "why"),
        Binding("dollar_sign", "cost", "cost"),
        Binding("1", "tab('jobs')", "jobs"),
        Binding("2", "tab('spec')", "spec"),
        Binding("tab,right_square_bracket", "other_tab", "next tab", show=False),
    ]
    KEYS: ClassVar[Sequence[str]] = (
        "open", "filter", "only_failed", "next_failed(True)", "cancel", "rerun", "why", "preview",
        "app.palette", "delete", "copy", "go",
    )  # fmt: skip

    class Found(Message):
        """The failed job that was looked for: its position and id, or none; or why nobody knows."""

        def __init__(self, found: tuple[int, int] | None | BatchError) -> None:
            super().__init__()
            self.found = found

    def __init__(self, batch_id: int, query: str = "") -> None:
        super().__init__(
            [
                Column("ID", lambda job: str(job.job_id), 7, right=True),
                Column("NAME", lambda job: format.one_line(job.name), None),
                Column("STATE", lambda job: format.state(job.state), 11),
                Column("EXIT", _exit_code, 4, right=True),
                Column("ATT", lambda job: format.count(job.n_attempts, 3), 3, right=True, priority=4),
                Column("TIME", self._time, 7, right=True, priority=3),
                Column("COST", _cost, 13, right=True),
                Column("REASON", lambda job: format.one_line(job.reason), 38, from_width=110, priority=5),
            ],
            key=lambda job: job.job_id,
            query=query,
        )
        self.batch_id = batch_id
        self._batch: BatchStatus | None = None
        self._tab = "jobs"
        self._with_preview = True

    @property
    def crumbs(self) -> Sequence[str]:
        return ["batches", crumb(f"#{self.batch_id}", self._batch)]

    def body(self) -> ComposeResult:
        *above, table = super().body()
        yield from above
        with Horizontal(id="list"):
            yield table
            yield Preview(self.batch_id)
        with VerticalScroll(id="spec"):
            yield Static(id="spec-text")

    def start(self, tell: Tell) -> Follow:
        return self.dashboard.feed.follow_jobs(self.batch_id, self.wanted, tell)

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#spec").display = False
        self.show_summary()

    def take(self, update: Update) -> None:
        if isinstance(update, JobsRead) and update.view.batch is not None:
            self._batch = update.view.batch
            self.dashboard.seen([self._batch])
            self.query_one("#spec-text", Static).update(self._spec(self._batch))
        super().take(update)

    def show_summary(self) -> None:
        super().show_summary()
        preview = self.query_one(Preview)
        preview.display = self.is_wide and self._with_preview
        if self._follow is not None and preview.display and self._tab == "jobs":
            preview.show(self.table.cursor_row)
        else:
            preview.stop()

    def unfollow(self) -> None:
        super().unfollow()
        if self.is_made:
            self.query_one(Preview).stop()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "preview":
            return self.is_wide and self._tab == "jobs"
        return super().check_action(action, parameters)

    def action_preview(self) -> None:
        """Show it, or give the jobs its room."""
        self._with_preview = not self._with_preview
        self.show_summary()

    def summary(self) -> Text:
        batch = self._batch
        if batch is None:
            return Text()
        badge = self.dashboard.badge(batch)
        text = Text(no_wrap=True, overflow="ellipsis")
        width = 36 if self.is_wide else 16
        numbers = batch.n_succeeded, batch.n_failed, batch.n_cancelled, batch.n_running, batch.n_jobs
        for texture in format.bar(width, *numbers):
            text.append(texture, format.TEXTURES[texture])
        text.append(f" {format.percent(batch.n_completed, batch.n_jobs)}  ", "bold")
        from .batches import cancelled_words, counts

        text.append_text(counts(batch, short=not self.is_wide))
        if badge:
            text.append("  ").append(*badge)
        if not batch.complete and batch.state in ("failure", "cancelled"):
            text.append("  unfinished", format.WARNING)
        if batch.cancelled_at or batch.cancelled_by:
            text.append(f"\n{cancelled_words(batch)}", format.DIM)
        text.append("\n")
        for number, name in enumerate(("jobs", "spec"), start=1):
            text.append(f" {number} {name.title()} ", "reverse" if name == self._tab else "")
            text.append(" ")
        cost = format.money(batch.cost_nanousd, so_far=not batch.complete)
        text.append(f"  {cost}", "bold")
        if batch.unfinished_nanousd and not batch.complete:
            text.append(f" + ~{format.money(batch.unfinished_nanousd)} so far", format.DIM)
        if self.wanted.query and self.n_matching is not None:
            text.append(f"   / {format.one_line(self.wanted.query)}   ", format.WARNING)
            text.append(f"{self.n_matching:,} of {batch.n_jobs:,} jobs")
        return text

    def nothing(self) -> str:
        if self._batch is None or self.n_matching or self.wanted.query or self._tab != "jobs":
            return ""
        if not self._batch.closed:
            return f"The batch is open: none of its {self._batch.n_jobs:,} jobs has been submitted so far."
        return "This batch has no jobs."

    def few_words(self) -> str:
        from .batches import counts

        return counts(self._batch, short=True).plain if self._batch else ""

    def target(self, row: JobStatus) -> str:
        return f"{self.batch_id}/{row.job_id}"

    def open(self, key: int) -> None:
        self.app.push_screen(JobScreen(self.batch_id, key, self._batch))

    def action_tab(self, name: str) -> None:
        self._tab = name
        self.query_one("#spec").display = name == "spec"
        self.query_one("#list").display = name == "jobs"
        (self.table if name == "jobs" else self.query_one("#spec")).focus()
        self.show_empty()
        self.show_summary()
        self.show_keys()

    @property
    def filtered_batch(self) -> int | None:
        return self.batch_id

    def action_other_tab(self) -> None:
        self.action_tab("spec" if self._tab == "jobs" else "jobs")

    def action_next_failed(self, forward: bool) -> None:
        at = self.table.cursor_key or self.table.cursor + 1
        question = next_failed(self.batch_id, self.wanted.query, at, forward=forward)
        self.dashboard.feed.ask(question, lambda found: self.post_message(self.Found(found)))

    def on_batch_screen_found(self, message: Found) -> None:
        if isinstance(message.found, BatchError):
            self.dashboard.say(message.found.message, bad=True)
        elif message.found is None:
            self.dashboard.say("no failed job there")
        else:
            self.table.go_to(*message.found)

    def action_cost(self) -> None:
        """Of the batch, by resource; and who pays."""
        self.app.push_screen(CostScreen(self.batch_id))

    def action_why(self) -> None:
        """Of the job under the cursor, and of the batch."""
        job_id = self.table.cursor_key if self._tab == "jobs" else None
        self.app.push_screen(WhyScreen(self.batch_id, job_id or 0))

    def action_cancel(self) -> None:
        if self._batch is not None:
            note = "A single job cannot be cancelled; this is about the whole batch."
            self.dashboard.cancel([self._batch], note=note)

    def action_rerun(self) -> None:
        if self._batch is not None:
            self.dashboard.rerun(self._batch)

    def action_delete(self) -> None:
        if self._batch is not None:
            self.dashboard.delete([self._batch], done=self.dashboard.go_to_batches)

    def _time(self, job: JobStatus) -> str:
        if job.state == "Running" and job.started_at:
            return format.elapsed(self.now - job.started_at.timestamp())
        return format.duration(job.duration_ms) if job.duration_ms or job.exit_code is not None else ""

    def _spec(self, batch: BatchStatus) -> Text:
        times = {
            "created": batch.created_at,
            "closed": batch.closed_at,
            "completed": batch.completed_at,
            "cancelled": batch.cancelled_at,
        }
        said = {
            "batch": batch.id,
            "user": batch.user,
            "billing_project": batch.billing_project,
            "jobs": batch.n_jobs,
            **({"rerun_of": batch.rerun_of} if batch.rerun_of else {}),
            "attributes": dict(batch.attributes),
            **{word: f"{at.astimezone():%Y-%m-%d %H:%M:%S}" for word, at in times.items() if at},
        }
        return Text("\n".join(format.document(said)))


def _exit_code(job: JobStatus) -> str:
    return "" if job.exit_code is None else str(job.exit_code)


def _cost(job: JobStatus) -> str:
    if not job.n_attempts or (not job.complete and not job.cost_nanousd):
        return ""
    return format.money(job.cost_nanousd, so_far=not job.complete)
