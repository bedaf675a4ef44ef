"""A job: how it went, and the logs of its containers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static

from .. import format
from ..feed import Follow
from ..model import (
    CONTAINERS,
    JobRead,
    JobView,
    LogEnded,
    LogRead,
    LogText,
    Lost,
    Refused,
    Step,
    Update,
    View,
    foremost,
    steps,
)
from ..widgets.log_view import LogView
from .live import LiveScreen, crumb

if TYPE_CHECKING:
    from longshore.status import BatchStatus, JobStatus


_SHOW_LOG_S = 0.1


class JobScreen(LiveScreen):
    """One job; of its containers the one that failed or runs is in front, until another is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"container('{name}')", name)
            for number, name in enumerate(CONTAINERS, start=1)
        ),
        Binding("tab", "next_container", "next log", show=False),
    ]

    class LogTold(Message):
        """The feed told something of the log; for the follow that asked for it."""

        def __init__(self, follow: int, update: Update) -> None:
            super().__init__()
            self.follow = follow
            self.update = update

    def __init__(self, batch_id: int, job_id: int, batch: BatchStatus | None = None) -> None:
        super().__init__()
        self._ids = batch_id, job_id
        self._batch = batch
        self._job: JobStatus | None = None
        self._chosen: str | None = None
        self._container = "main"
        self._log = LogText()
        self._log_of: tuple[str, str] | None = None
        """Attempt and container."""
        self._log_is_new = False
        """There is more than what is shown."""
        self._log_follow: Follow | None = None
        self._n_log_follows = 0
        self._log_state = ""
        """``''`` while it grows, ``ended``, ``late`` when the worker owes the rest, or an error."""

    @property
    def view(self) -> View:
        return JobView(*self._ids)

    @property
    def crumbs(self) -> Sequence[str]:
        batch_id, job_id = self._ids
        return ["batches", crumb(f"#{batch_id}", self._batch), crumb(str(job_id), self._job)]

    @property
    def has_read(self) -> bool:
        return self._job is not None

    def body(self) -> ComposeResult:
        yield Static(id="summary")
        yield Static(id="containers")
        yield LogView()
        yield Static(id="no-log")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one(LogView).focus()
        self.set_interval(_SHOW_LOG_S, self._show_log)

    def tick(self) -> None:
        super().tick()
        self._show_job()

    def on_resize(self) -> None:
        super().on_resize()
        self._show_job()

    def take(self, update: Update) -> None:
        assert isinstance(update, JobRead)
        self._batch, self._job = update.batch, update.job
        if self._chosen is None:
            self._container = foremost(steps(update.job))
        self._follow_log()
        self._show_job()

    def on_unmount(self) -> None:
        super().on_unmount()
        self._unfollow_log()

    def action_container(self, name: str) -> None:
        self._chosen = self._container = name
        self._follow_log()
        self._show_job()

    def action_next_container(self) -> None:
        self.action_container(CONTAINERS[(CONTAINERS.index(self._container) + 1) % len(CONTAINERS)])

    # The log.

    def _follow_log(self) -> None:
        """Follow the log that is wanted, of the latest attempt; goes on with one that is followed."""
        job = self._job
        if job is None or not job.attempts or not self._step.state:
            return
        wanted = job.attempts[-1].id, self._container
        if wanted == self._log_of and self._log_follow:
            return
        self._unfollow_log()
        self._n_log_follows += 1
        self._log_of = wanted
        self._log = LogText()
        self._log_state = ""
        self.query_one(LogView).show(self._log)
        follow = self._n_log_follows

        def tell(update: Update) -> None:
            self.post_message(self.LogTold(follow, update))

        attempt_id, container = wanted
        self._log_follow = self.dashboard.feed.follow_log(*self._ids, container, attempt_id, tell)

    def _unfollow_log(self) -> None:
        if self._log_follow:
            self._log_follow.close()
            self._log_follow = None

    def on_job_screen_log_told(self, message: LogTold) -> None:
        if message.follow != self._n_log_follows or not self.is_mounted:
            return
        update = message.update
        if isinstance(update, LogRead):
            self._log.add(update)
            self._log_state = ""
        elif isinstance(update, LogEnded):
            if not update.incomplete:
                self._log.end()
            self._log_state = "late" if update.incomplete else "ended"
        elif isinstance(update, Refused):
            self._log_state = update.error
        elif isinstance(update, Lost):
            return  # The header says it; the log goes on where it was.
        self._log_is_new = True

    def _show_log(self) -> None:
        """Called some times a second: a log may come in a great many pieces."""
        if self._log_is_new:
            self._log_is_new = False
            self.query_one(LogView).grown()
            self._show_job()

    def on_log_view_moved(self) -> None:
        self._show_job()

    # What is shown.

    @property
    def _step(self) -> Step:
        assert self._job is not None
        return steps(self._job)[CONTAINERS.index(self._container)]

    def _show_job(self) -> None:
        job = self._job
        if job is None:
            return
        self.query_one("#summary", Static).update(self._summary(job))
        self.query_one("#containers", Static).update(self._containers(job))
        why = self._no_log(job)
        self.query_one("#no-log", Static).update(Text(why))
        self.query_one("#no-log").display = bool(why)
        self.query_one(LogView).display = not why

    def _summary(self, job: JobStatus) -> Text:
        text = Text.assemble(format.state(job.state))
        parts = []
        if job.exit_code is not None:
            parts.append(f"exit {job.exit_code}")
        if job.n_attempts:
            parts.append(f"attempt {job.n_attempts}")
        if job.attempts and job.attempts[-1].worker_id:
            parts.append(f"worker {format.one_line(job.attempts[-1].worker_id, 40)}")
        if job.reserved_mcpu:
            parts.append(format.cores(job.reserved_mcpu))
        if job.reserved_memory_bytes:
            parts.append(format.size(job.reserved_memory_bytes))
        if job.duration_ms or job.complete:
            parts.append(f"ran {format.duration(job.duration_ms)}")
        parts.append(format.money(job.cost_nanousd, so_far=not job.complete))
        text.append("  " + " · ".join(parts))
        errors = [step.error for step in steps(job) if step.error]
        for reason in dict.fromkeys(each for each in (job.reason, *errors) if each):
            text.append(f"\n{format.one_line(reason)}", format.WARNING)
        return text

    def _containers(self, job: JobStatus) -> Text:
        text = Text()
        for number, step in enumerate(steps(job), start=1):
            symbol, colour = format.symbol(step.state) if step.state else ("–", format.DIM)
            text.append(f" {number} {step.name} ", "reverse" if step.name == self._container else "")
            text.append(f" {symbol}", colour)
            if step.exit_code:
                text.append(f" exit {step.exit_code}", colour)
            if step.ran_ms is not None:
                text.append(f" {format.duration(step.ran_ms)}")
            elif step.started_s is not None:
                text.append(f" {format.elapsed(self.now - step.started_s)}")
            text.append("   ")
        text.append(" · ".join(self._log_words()), "dim")
        return text

    def _log_words(self) -> list[str]:
        words = []
        log, view = self._log, self.query_one(LogView)
        if log.lines:
            words.append(f"{len(log.lines):,} line{'' if len(log.lines) == 1 else 's'}")
        if log.n_dropped or log.n_bytes_before:
            words.append("earlier ones left out")
        if self._log_state == "late":
            words.append("the worker has not delivered the rest yet")
        elif self._log_state == "" and self._log_of:
            words.append("follows ▼" if view.follows else "End follows again")
        return words

    def _no_log(self, job: JobStatus) -> str:
        """Why no log is shown; '' when one is."""
        step = self._step
        if not step.state:
            files = f"{step.name} files"
            return f"This job has no {step.name} container, for it has no {files}."
        if not job.attempts:
            return {
                "Pending": "The job has not started: it waits for the jobs it depends on.",
                "Ready": "The job has not started: it waits for a worker.",
                "Cancelled": "The job was cancelled before it started.",
            }.get(job.state, "The job has no attempt.")
        if self._log_state not in ("", "late", "ended"):
            return format.one_line(self._log_state)
        if self._log.lines or self._log.last:
            return ""
        if step.state == "cancelled":
            return f"{step.name} did not run."
        if step.state == "pending":
            return f"{step.name} has not started yet."
        if self._log_state == "":
            return f"{step.name} has written nothing so far."
        if self._log_state == "late":
            return f"The worker has not delivered the log of {step.name} yet."
        return f"{step.name} wrote nothing."
