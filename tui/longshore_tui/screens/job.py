"""A job: how it went, the logs of its containers, its attempts, and what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from longshore.errors import BatchError
from longshore.handles import Batch
from longshore.status import BatchStatus
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Input, Static

from .. import format
from ..feed import Follow, LogFollow, Tell, log_of, read_log, save_log
from ..model import (
    CONTAINERS,
    JobRead,
    LogEnded,
    Lost,
    Refused,
    Step,
    Update,
    attempt_of,
    foremost,
    steps,
)
from ..widgets.log_view import LogView
from .live import LiveScreen, crumb

if TYPE_CHECKING:
    from longshore.status import AttemptStatus, JobStatus

_SHOW_LOG_S = 0.1
TABS = (*CONTAINERS, "attempts", "spec")


class JobScreen(LiveScreen):
    """One job; of its containers the one that failed or runs is in front, until another is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"tab('{name}')", name) for number, name in enumerate(TABS, start=1)),
        Binding("tab,right_square_bracket,m", "next_tab(1)", "next tab", show=False),
        Binding("shift+tab,left_square_bracket", "next_tab(-1)", "tab before", show=False),
        Binding("slash", "search", "search"),
        Binding("n", "match(True)", "next match", show=False),
        Binding("N", "match(False)", "match before", show=False),
        Binding("left_curly_bracket", "attempt(-1)", "attempt before", show=False),
        Binding("right_curly_bracket", "attempt(1)", "next attempt", show=False),
        Binding("S", "save", "save log"),
        Binding("y", "copy", "copy"),
        Binding("z", "zoom", "whole screen", show=False),
        Binding("c", "cancel", "cancel batch", show=False),
    ]
    KEYS: ClassVar[Sequence[str]] = (
        "follow", "search", "wrap", "save", "copy", "match(True)", "attempt(-1)", "zoom", "app.palette",
        "cancel",
    )  # fmt: skip

    class LogTold(Message):
        """The feed told something of the log; for the follow that asked for it."""

        def __init__(self, follow: int, update: Update) -> None:
            super().__init__()
            self.follow = follow
            self.update = update

    class Given(Message):
        """A piece of the log that was asked for."""

        def __init__(self, follow: int, offset: int, data: bytes | BatchError) -> None:
            super().__init__()
            self.follow = follow
            self.offset = offset
            self.data = data

    class Named(Message):
        """The batch of the job, or why nobody knows it; `to_cancel`: that it is to be cancelled."""

        def __init__(self, batch: BatchStatus | BatchError, to_cancel: bool) -> None:
            super().__init__()
            self.batch = batch
            self.to_cancel = to_cancel

    class Saved(Message):
        def __init__(self, path: Path, n_bytes: int | BatchError) -> None:
            super().__init__()
            self.path = path
            self.n_bytes = n_bytes

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
        self._log_of: tuple[str, str] | None = None
        """Attempt and container."""
        self._log_follow: LogFollow | None = None
        self._n_log_follows = 0
        self._log_state = ""
        """``''`` while it grows, ``ended``, ``late`` when the worker owes the rest, or an error."""
        self._search = ""
        self._match: int | None = None

    @property
    def crumbs(self) -> Sequence[str]:
        batch_id, job_id = self.ids
        return ["batches", crumb(f"#{batch_id}", self._batch), crumb(str(job_id), self._job)]

    @property
    def has_read(self) -> bool:
        return self._job is not None

    @property
    def log_view(self) -> LogView:
        return self.query_one(LogView)

    def start(self, tell: Tell) -> Follow:
        return self.dashboard.feed.follow_job(*self.ids, tell)

    def body(self) -> ComposeResult:
        yield Static(id="summary")
        yield Static(id="containers")
        yield LogView()
        yield Static(id="no-log")
        with VerticalScroll(id="text"):
            yield Static(id="text-of-tab")
        yield Static(id="found")
        yield Input(id="search", compact=True, placeholder="a text to look for in the part that is held")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#search").display = False
        self.query_one("#found").display = False
        self.query_one("#text").display = False
        self.query_one("#no-log").display = False
        self.log_view.focus()
        self.set_interval(_SHOW_LOG_S, self._take_log)
        if self._batch is None:
            self._ask_batch(to_cancel=False)

    def tick(self) -> None:
        super().tick()
        self._show_job()

    def on_resize(self) -> None:
        super().on_resize()
        self._show_job()

    def take(self, update: Update) -> None:
        assert isinstance(update, JobRead)
        self._job = update.job
        self._follow_log()
        self._show_job()

    def on_unmount(self) -> None:
        super().on_unmount()
        self._unfollow_log()

    def unfollow(self) -> None:
        super().unfollow()
        self._unfollow_log()

    def clear(self) -> bool:
        if self._search or self.query_one("#search").display:
            self._look_for("")
            self._close_search()
            return True
        if "-zoomed" in self.classes:
            self.remove_class("-zoomed")
            return True
        return False

    def few_words(self) -> str:
        return format.state(self._job.state)[0] if self._job else ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "match":
            return bool(self._search)
        if action == "attempt":
            return self._job is not None and len(self._job.attempts) > 1
        if action in ("search", "save"):
            return self.tab in CONTAINERS
        return super().check_action(action, parameters)

    # Tabs.

    @property
    def tab(self) -> str:
        """The one in front."""
        if self._job is None:
            return self._chosen or "main"
        tabs = self._tabs(self._job)
        if self._chosen in tabs:
            return self._chosen
        return foremost(steps(self._job, self._number))

    def action_tab(self, name: str) -> None:
        if self._job is None:
            return
        if name not in self._tabs(self._job):
            if name in CONTAINERS:
                self.dashboard.say(f"this job has no {name} container, for it has no {name} files")
            return
        self._chosen = name
        self._follow_log()
        self._show_job()
        (self.log_view if name in CONTAINERS else self.query_one("#text")).focus()
        self.show_keys()

    def action_next_tab(self, by: int) -> None:
        if self._job is not None:
            tabs = self._tabs(self._job)
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

    def _tabs(self, job: JobStatus) -> list[str]:
        """Those that have something to show."""
        tabs = [step.name for step in steps(job, self._number) if step.state]
        return [*tabs, *(["attempts"] if job.attempts else []), *(["spec"] if job.spec else [])]

    # The log.

    def _follow_log(self) -> None:
        """Follow the log that is wanted; goes on with one that is followed."""
        job = self._job
        attempt = attempt_of(job, self._number) if job else None
        if attempt is None or self.tab not in CONTAINERS:
            return
        wanted = attempt.id, self.tab
        if wanted == self._log_of and self._log_follow:
            return
        again = wanted == self._log_of
        self._unfollow_log()
        if again and self._log_state == "ended":
            return
        self._n_log_follows += 1
        self._log_of = wanted
        self._log_state = ""
        self._match = None
        self.log_view.show()
        follow = self._n_log_follows

        def tell(update: Update) -> None:
            self.post_message(self.LogTold(follow, update))

        self._log_follow = self.dashboard.feed.follow_log(log_of(*self.ids, self.tab, attempt.id), tell)

    def _unfollow_log(self) -> None:
        if self._log_follow:
            self._take_log()
            self._log_follow.close()
            self._log_follow = None

    def on_job_screen_log_told(self, message: LogTold) -> None:
        if message.follow != self._n_log_follows or not self.is_made:
            return
        update = message.update
        if isinstance(update, LogEnded):
            self._log_state = "late" if update.incomplete else "ended"
        elif isinstance(update, Refused):
            self._log_state = update.error
        elif isinstance(update, Lost):
            return  # The header says it; the log goes on where it was.
        self._take_log()
        self._show_job()

    def _take_log(self) -> None:
        """Called some times a second: a log may come in a great many pieces."""
        if self._log_follow and self.is_made and (piece := self._log_follow.take()):
            if self._log_state == "late":
                self._log_state = ""
            self.log_view.add(*piece)

    def on_log_view_wanted(self, message: LogView.Wanted) -> None:
        if self._log_of is None:
            return
        attempt_id, container = self._log_of
        follow, offset = self._n_log_follows, message.offset
        question = read_log(log_of(*self.ids, container, attempt_id), offset, message.n)

        def done(data: bytes | BatchError) -> None:
            self.post_message(self.Given(follow, offset, data))

        self.dashboard.feed.ask(question, done)

    def on_job_screen_given(self, message: Given) -> None:
        if message.follow != self._n_log_follows:
            return
        if isinstance(message.data, BatchError):
            self.dashboard.say(message.data.message, bad=True)
        self.log_view.give(message.offset, b"" if isinstance(message.data, BatchError) else message.data)

    def on_log_view_moved(self) -> None:
        self._show_job()

    def action_save(self) -> None:
        if self._log_of is None:
            self.dashboard.say("there is no log to save")
            return
        attempt_id, container = self._log_of
        batch_id, job_id = self.ids
        stem = f"longshore-{batch_id}-{job_id}-{container}"
        free = (Path(f"{stem}{f'-{n}' if n else ''}.log") for n in range(1000))
        path = next((path for path in free if not path.exists()), Path(f"{stem}.log")).absolute()

        def done(n_bytes: int | BatchError) -> None:
            self.post_message(self.Saved(path, n_bytes))

        self.dashboard.say(f"saving to {path} …")
        self.dashboard.feed.ask(save_log(log_of(*self.ids, container, attempt_id), path), done)

    def on_job_screen_saved(self, message: Saved) -> None:
        if isinstance(message.n_bytes, BatchError):
            self.dashboard.say(f"{message.path}: {message.n_bytes.message}", bad=True)
        else:
            self.dashboard.say(f"saved all {format.size(message.n_bytes)} to {message.path}")

    def action_copy(self) -> None:
        if self.tab in CONTAINERS:
            text = self.log_view.visible_text
            self.dashboard.copy(text, f"{text.count(chr(10)) + 1} lines")
        elif self._job:
            self.dashboard.copy(self._text_of_tab(self._job).plain, self.tab)

    # The search.

    def action_search(self) -> None:
        if self.tab not in CONTAINERS:
            return
        box = self.query_one("#search", Input)
        box.display = True
        box.value = self._search
        self.set_focus(box)  # At once: what is typed next is for it.
        self.show_keys()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._look_for(event.value)

    def on_input_submitted(self) -> None:
        self._close_search()
        self.action_match(True)

    def action_match(self, forward: bool) -> None:
        if self._search:
            self._match = self.log_view.go_to_match(forward=forward)
            self._show_job()

    def _look_for(self, text: str) -> None:
        self._search = text
        self._match = None
        self.log_view.search(text)

    def _close_search(self) -> None:
        self.query_one("#search").display = False
        self.set_focus(self.log_view)
        self.show_keys()
        self._show_job()

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

    @property
    def _step(self) -> Step | None:
        """The container whose log is in front."""
        found = steps(self._job, self._number) if self._job else ()
        return next((step for step in found if step.name == self.tab), None)

    def _show_job(self) -> None:
        job = self._job
        if job is None or not self.is_made:
            return
        self.query_one("#summary", Static).update(self._summary(job))
        self.query_one("#containers", Static).update(self._containers(job))
        is_log = self.tab in CONTAINERS
        why = self._no_log(job) if is_log else ""
        self.query_one("#no-log", Static).update(Text(why))
        self.query_one("#no-log").display = bool(why)
        self.log_view.display = is_log and not why
        self.query_one("#text").display = not is_log
        if not is_log:
            self.query_one("#text-of-tab", Static).update(self._text_of_tab(job))
        found = self.query_one("#found", Static)
        found.display = bool(self._search) and is_log
        found.update(self._found_words())

    def _summary(self, job: JobStatus) -> Text:
        text = Text.assemble(format.state(job.state))
        attempt = attempt_of(job, self._number)
        parts = []
        if job.exit_code is not None:
            parts.append(f"exit {job.exit_code}")
        if attempt:
            many = len(job.attempts) > 1
            parts.append(f"attempt {attempt.number}{f' of {len(job.attempts)}' if many else ''}")
        if attempt and attempt.worker_id:
            parts.append(f"worker {format.one_line(attempt.worker_id, 40)}")
        if job.reserved_mcpu:
            parts.append(format.cores(job.reserved_mcpu))
        if job.reserved_memory_bytes:
            parts.append(format.size(job.reserved_memory_bytes))
        if job.duration_ms or job.complete:
            parts.append(f"ran {format.duration(job.duration_ms)}")
        parts.append(format.money(job.cost_nanousd, so_far=not job.complete))
        text.append("  " + " · ".join(parts))
        errors = [step.error for step in steps(job, self._number) if step.error]
        if attempt and attempt.reason not in ("", "completed"):
            errors.insert(0, attempt.message or attempt.reason)
        reasons = dict.fromkeys(format.one_line(each) for each in (job.reason, *errors) if each)
        for reason in list(reasons)[:3]:
            text.append(f"\n{reason}", format.WARNING)
        return text

    def _containers(self, job: JobStatus) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        found = {step.name: step for step in steps(job, self._number)}
        tabs = self._tabs(job)
        for number, name in enumerate(TABS, start=1):
            if name not in tabs:
                continue
            text.append(f" {number} {name.title()} ", "reverse" if name == self.tab else "")
            if name == "attempts":
                text.append(f" {len(job.attempts)}")
            if name in found:
                self._say_step(text, found[name])
            text.append("  ")
        text.append(" · ".join(self._log_words()), "dim")
        return text

    def _say_step(self, text: Text, step: Step) -> None:
        symbol, colour = format.symbol(step.state)
        text.append(f" {symbol}", colour)
        if step.exit_code:
            text.append(f" exit {step.exit_code}", colour)
        if step.ran_ms is not None:
            text.append(f" {format.duration(step.ran_ms)}")
        elif step.started_s is not None:
            text.append(f" {format.elapsed(self.now - step.started_s)}")

    def _log_words(self) -> list[str]:
        log = self.log_view
        window = log.log_window
        if self.tab not in CONTAINERS or not window.size:
            return []
        words = []
        if window.start or window.end < window.size:
            words.append(f"{log.where}% of {format.size(window.size)}")
        else:
            words.append(f"{window.n_lines:,} line{'' if window.n_lines == 1 else 's'}")
        if log.wraps:
            words.append("wrapped")
        if self._log_state == "late":
            words.append("the worker has not delivered the rest yet")
        elif self._log_state == "":
            new = f"▼ {log.n_new:,} new · " if log.n_new else ""
            words.append("follow ▼" if log.follows else f"{new}F follows")
        return words

    def _found_words(self) -> Text:
        """What is found is found in what is held; of a large log that is a part."""
        window, found = self.log_view.log_window, self.log_view.found
        text = Text(f"/ {format.one_line(self._search)}  ", format.WARNING)
        if found:
            at = f"line {self._match + 1:,} of " if self._match is not None else ""
            text.append(f"{at}{len(found):,} that have it   n/N next, before")
        else:
            text.append("not there")
        if window.end - window.start < window.size:
            text.append(f"   in the {format.size(window.end - window.start)} around here, not all of the log")
        return text

    def _text_of_tab(self, job: JobStatus) -> Text:
        if self.tab == "spec":
            assert job.spec is not None
            return Text("\n".join(format.document(dict(job.spec))))
        text = Text()
        for attempt in reversed(job.attempts):
            self._say_attempt(text, attempt, job)
        return text

    def _say_attempt(self, text: Text, attempt: AttemptStatus, job: JobStatus) -> None:
        so_far = attempt.state != "ended"
        text.append(f"attempt {attempt.number}", "bold")
        text.append(f"  {attempt.state}")
        if attempt.reason:
            text.append(f", {attempt.reason}")
        text.append(f"   {format.money(attempt.cost_nanousd, so_far=so_far)}\n")
        if attempt.message:
            text.append(f"  {format.one_line(attempt.message)}\n", format.WARNING)
        text.append(f"  worker {format.one_line(attempt.worker_id, 60)}")
        text.append(f"   assigned {attempt.assigned_at.astimezone():%Y-%m-%d %H:%M:%S}")
        if attempt.main_ms or not so_far:
            text.append(f"   main ran {format.duration(attempt.main_ms)}")
        text.append("\n")
        for step in steps(job, attempt.number):
            if not step.state:
                continue
            text.append(f"  {step.name:8}")
            text.append(*format.state(step.state))
            if step.exit_code is not None:
                text.append(f"  exit {step.exit_code}")
            if step.pulled_ms is not None:
                text.append(f"  image fetched in {format.duration(step.pulled_ms)}", "dim")
            if step.ran_ms is not None:
                text.append(f"  ran {format.duration(step.ran_ms)}")
            if step.error:
                text.append(f"  {format.one_line(step.error)}", format.WARNING)
            text.append("\n")
        text.append("\n")

    def _no_log(self, job: JobStatus) -> str:
        """Why no log is shown; '' when one is."""
        step = self._step
        if not job.attempts:
            return {
                "Pending": "The job has not started: it waits for the jobs it depends on.",
                "Ready": "The job has not started: it waits for a worker.",
                "Cancelled": "The job was cancelled before it started.",
            }.get(job.state, "The job has no attempt.")
        if self._log_state not in ("", "late", "ended"):
            return format.one_line(self._log_state)
        if self.log_view.log_window.size or step is None:
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
