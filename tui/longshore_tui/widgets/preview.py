"""Beside the jobs of a batch: the one under the cursor, how far it is, and the last lines of its log."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.containers import Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from .. import format, job_text
from ..feed import Follow, LogFollow, log_of
from ..log import runs
from ..model import CONTAINERS, JobRead, Update, attempt_of, foremost, steps

if TYPE_CHECKING:
    from longshore.status import JobStatus
    from textual.app import ComposeResult

    from ..app import Dashboard

_TAIL_BYTES = 8 << 10
_REST_S = 0.25
"""How long the cursor stays before a job is asked for."""
_SHOW_LOG_S = 0.25


class Preview(Vertical):
    """Follows a job and the log of one of its containers: what failed, or runs, or ran last."""

    class Told(Message):
        """The feed told something of the job; for the follow that asked for it."""

        def __init__(self, follow: int, update: Update) -> None:
            super().__init__()
            self.follow = follow
            self.update = update

    def __init__(self, batch_id: int) -> None:
        super().__init__()
        self._batch_id = batch_id
        self._job: JobStatus | None = None
        self._tail = b""
        self._n_follows = 0
        self._follow: Follow | None = None
        self._log_follow: LogFollow | None = None
        self._log_of: tuple[str, str] | None = None
        """Attempt and container."""
        self._rest: Timer | None = None

    @property
    def follows(self) -> bool:
        return self._follow is not None

    def compose(self) -> ComposeResult:
        yield Static(id="preview-job")
        yield Static(id="preview-log")

    def on_mount(self) -> None:
        self.set_interval(_SHOW_LOG_S, self._take)

    def on_resize(self) -> None:
        self._draw()

    def on_unmount(self) -> None:
        self.stop()

    def show(self, row: JobStatus | None) -> None:
        """This job from now on, as a list knows it; what the list does not know is asked for."""
        known = self._job
        if row is None or known is None or known.job_id != row.job_id:
            self.stop()
            self._job = row
            self._rest = self.set_timer(_REST_S, self._begin) if row else None
        elif not known.attempts:
            self._job = row
        self._draw()

    def stop(self) -> None:
        """Follow nothing; what was seen is forgotten."""
        self._n_follows += 1
        if self._rest:
            self._rest.stop()
        for follow in (self._follow, self._log_follow):
            if follow:
                follow.close()
        self._follow = self._log_follow = self._log_of = self._job = None
        self._tail = b""

    def on_preview_told(self, message: Told) -> None:
        if message.follow == self._n_follows and isinstance(message.update, JobRead):
            self._job = message.update.job
            self._follow_log(self._job)
            self._draw()

    def _begin(self) -> None:
        number = self._n_follows

        def tell(update: Update) -> None:
            self.post_message(self.Told(number, update))

        if self._job:
            self._follow = self._dashboard.feed.follow_job(self._batch_id, self._job.job_id, tell)

    def _follow_log(self, job: JobStatus) -> None:
        attempt, container = attempt_of(job, None), foremost(steps(job))
        if attempt is None or (attempt.id, container) == self._log_of:
            return
        if self._log_follow:
            self._log_follow.close()
        self._log_of = attempt.id, container
        self._tail = b""
        log = log_of(self._batch_id, job.job_id, container, attempt.id)
        # What became of the log is seen with the job; here it is only looked at.
        self._log_follow = self._dashboard.feed.follow_log(log, lambda update: None, tail_bytes=_TAIL_BYTES)

    def _take(self) -> None:
        if self._log_follow and (piece := self._log_follow.take()):
            self._tail = (self._tail + piece[1])[-_TAIL_BYTES:]
            self._draw()

    def _draw(self) -> None:
        job = self._job
        about = self.query_one("#preview-job", Static)
        if job is None:
            about.update("")
            self.query_one("#preview-log", Static).update("")
            return
        width = max(10, self.content_size.width)
        self.border_title = Text(f"{job.job_id} {format.one_line(job.name, width)}")
        about.update(job_text.preview(job, width, self._dashboard.clock()))
        self.query_one("#preview-log", Static).update(self._last_lines(width))

    def _last_lines(self, width: int) -> Text:
        text = Text(no_wrap=True)
        if self._log_of and self._tail.strip():
            container = self._log_of[1]
            assert container in CONTAINERS
            text.append(f"── log of {container} ".ljust(width, "─"), format.DIM)
            room = max(1, self.query_one("#preview-log").size.height - 1)
            for line in self._tail.rstrip(b"\n").split(b"\n")[-room:]:
                text.append("\n")
                for words, look in runs(line[: 8 * width]):
                    text.append(words, look)
        return text

    @property
    def _dashboard(self) -> Dashboard:
        return cast("Dashboard", self.app)
