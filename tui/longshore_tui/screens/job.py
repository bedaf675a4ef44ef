"""A job: how it went, the logs of its containers, its attempts, and what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from longshore.errors import BatchError
from longshore.handles import Batch
from longshore.status import BatchStatus
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Static

from .. import format, job_text
from ..feed import Follow, Tell
from ..job_text import TABS, tabs_of
from ..model import CONTAINERS, JobRead, Update, attempt_of, foremost, steps
from ..widgets.log_pane import LogPane
from .live import LiveScreen, crumb
from .why import WhyScreen

if TYPE_CHECKING:
    from longshore.status import JobStatus


class JobScreen(LiveScreen):
    """One job; of its containers the one that failed or runs is in front, until another is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"tab('{name}')", name) for number, name in enumerate(TABS, start=1)),
        Binding("tab,right_square_bracket,m", "next_tab(1)", "next tab", show=False),
        Binding("shift+tab,left_square_bracket", "next_tab(-1)", "tab before", show=False),
        Binding("left_curly_bracket", "attempt(-1)", "attempt before", show=False),
        Binding("right_curly_bracket", "attempt(1)", "next attempt", show=False),
        Binding("y", "copy", "copy"),
        Binding("z", "zoom", "whole screen", show=False),
        Binding("c", "cancel", "cancel batch", show=False),
        Binding("W", "why", "why", show=False),
    ]
    KEYS: ClassVar[Sequence[str]] = (
        "follow", "search", "wrap", "save", "copy", "match(True)", "attempt(-1)", "zoom", "why",
        "app.palette", "cancel",
    )  # fmt: skip

    class Named(Message):
        """The batch of the job, or why nobody knows it; `to_cancel`: that it is to be cancelled."""

        def __init__(self, batch: BatchStatus | BatchError, to_cancel: bool) -> None:
            super().__init__()
            self.batch = batch
            self.to_cancel = to_cancel

    def __init__(
        self, batch_id: int, job_id: int, batch: BatchStatus | None = None, tab: str | None = None
    ) -> None:
        super().__init__()
        self.ids = batch_id, job_id
        self._batch = batch
        self._job: JobStatus | None = None
        self._number: int | None = None
        """Of the attempt that was chosen; None: the latest."""
        self._chosen = tab

    @property
    def crumbs(self) -> Sequence[str]:
        batch_id, job_id = self.ids
        return ["batches", crumb(f"#{batch_id}", self._batch), crumb(str(job_id), self._job)]

    @property
    def has_read(self) -> bool:
        return self._job is not None

    @property
    def log_pane(self) -> LogPane:
        return self.query_one(LogPane)

    def start(self, tell: Tell) -> Follow:
        return self.dashboard.feed.follow_job(*self.ids, tell)

    def body(self) -> ComposeResult:
        yield Static(id="summary")
        yield Static(id="containers")
        yield LogPane(*self.ids)
        with VerticalScroll(id="text"):
            yield Static(id="text-of-tab")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#text").display = False
        self.log_pane.view.focus()
        if self._batch is None:
            self._ask_batch(to_cancel=False)

    def tick(self) -> None:
        super().tick()
        self._show_job()

    def on_resize(self) -> None:
        super().on_resize()
        self._show_job()

    def redraw(self) -> None:
        super().redraw()
        self._show_job()

    def take(self, update: Update) -> None:
        assert isinstance(update, JobRead)
        self._job = update.job
        self._follow_log()
        self._show_job()

    def unfollow(self) -> None:
        super().unfollow()
        if self.is_made:
            self.log_pane.unfollow()

    def clear(self) -> bool:
        if self.log_pane.clear():
            return True
        if "-zoomed" in self.classes:
            self.remove_class("-zoomed")
            return True
        return False

    def few_words(self) -> str:
        return format.state(self._job.state)[0] if self._job else ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "attempt":
            return self._job is not None and len(self._job.attempts) > 1
        return super().check_action(action, parameters)

    # Tabs.

    @property
    def tab(self) -> str:
        """The one in front."""
        if self._job is None:
            return self._chosen or "main"
        if self._chosen in tabs_of(self._job, self._number):
            return self._chosen
        return foremost(steps(self._job, self._number))

    def action_tab(self, name: str) -> None:
        if self._job is None:
            return
        if name not in tabs_of(self._job, self._number):
            if name in CONTAINERS:
                self.dashboard.say(f"this job has no {name} container, for it has no {name} files")
            return
        self._chosen = name
        self._follow_log()
        self._show_job()
        (self.log_pane.view if name in CONTAINERS else self.query_one("#text")).focus()
        self.show_keys()

    def action_next_tab(self, by: int) -> None:
        if self._job is not None:
            tabs = tabs_of(self._job, self._number)
            self.action_tab(tabs[(tabs.index(self.tab) + by) % len(tabs)])

    def action_attempt(self, by: int) -> None:
        job = self._job
        if job is None or not (attempt := attempt_of(job, self._number)):
            return
        at = max(0, min(job.attempts.index(attempt) + by, len(job.attempts) - 1))
        last = at == len(job.attempts) - 1
        self._number = None if last else job.attempts[at].number
        self._follow_log()
        self._show_job()

    def action_zoom(self) -> None:
        self.toggle_class("-zoomed")

    def action_copy(self) -> None:
        if self.tab in CONTAINERS:
            text = self.log_pane.view.visible_text
            self.dashboard.copy(text, f"{text.count(chr(10)) + 1} lines")
        elif self._job:
            self.dashboard.copy(self._text_of_tab(self._job).plain, self.tab)

    # The log.

    def _follow_log(self) -> None:
        """Follow the log that is in front."""
        attempt = attempt_of(self._job, self._number) if self._job else None
        if attempt is not None and self.tab in CONTAINERS:
            self.log_pane.follow(attempt.id, self.tab)

    def on_log_pane_changed(self) -> None:
        self._show_job()

    def on_descendant_focus(self) -> None:
        if self.is_made:
            self.show_keys()

    def action_why(self) -> None:
        self.app.push_screen(WhyScreen(*self.ids))

    # The batch.

    def action_cancel(self) -> None:
        self._ask_batch(to_cancel=True)

    def _ask_batch(self, *, to_cancel: bool) -> None:
        batch_id = self.ids[0]

        def done(batch: BatchStatus | BatchError) -> None:
            self.post_message(self.Named(batch, to_cancel))

        self.dashboard.feed.ask(lambda client: Batch(client, batch_id).status(), done)

    def on_job_screen_named(self, message: Named) -> None:
        if isinstance(message.batch, BatchStatus):
            self._batch = message.batch
            self.show_header()
            if message.to_cancel:
                note = "A single job cannot be cancelled; this is about the whole batch."
                self.dashboard.cancel([message.batch], note=note)
        elif message.to_cancel:
            self.dashboard.say(f"{message.batch.message} – not sent", bad=True)

    # What is shown.

    def _show_job(self) -> None:
        job = self._job
        if job is None or not self.is_made:
            return
        self.query_one("#summary", Static).update(job_text.summary(job, self._number))
        pane, is_log = self.log_pane, self.tab in CONTAINERS
        tabs = job_text.tabs(job, self._number, self.tab, self.now)
        if is_log:
            tabs.append(" · ".join(pane.words()), format.DIM)
        self.query_one("#containers", Static).update(tabs)
        pane.display = is_log
        self.query_one("#text").display = not is_log
        if is_log:
            pane.explain(job_text.without_log(job, self._number, self.tab, pane.state, pane.is_empty))
        else:
            self.query_one("#text-of-tab", Static).update(self._text_of_tab(job))

    def _text_of_tab(self, job: JobStatus) -> Text:
        return job_text.spec(job) if self.tab == "spec" else job_text.attempts(job)
