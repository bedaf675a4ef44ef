"""The dashboard as an application: the connection, the stack of screens, what is done to batches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

from longshore.errors import BatchError
from longshore.status import BatchesView, BatchStatus
from longshore.terminal import clean
from rich.segment import Segment
from textual.app import App
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.command import CommandPalette
from textual.filter import LineFilter
from textual.message import Message
from textual.screen import Screen

from . import format, themes
from .feed import Feed, cancel, delete, rerun, undelete
from .model import Heard, Link, Lost, Refused, Update, confirmed_by, consequences
from .palette import Commands
from .screens.batch import BatchScreen
from .screens.batches import BatchesScreen
from .screens.confirm import ConfirmScreen
from .screens.job import JobScreen
from .screens.live import LiveScreen
from .screens.menu import Chosen, MenuScreen

_MOST_COPIED = 74_994
"""Bytes; terminals drop longer ones without a word."""


class Harmless(LineFilter):
    """The last gate before the terminal: no control byte passes, whichever widget let it through."""

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self._table = format.IN_ASCII if ascii_only else {}

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(_harmless(text).translate(self._table), style) for text, style, control in segments]


def _harmless(text: str) -> str:
    if clean(text) == text and "\t" not in text and "\n" not in text:
        return text
    return "".join("�" if clean(each) != each or each in "\t\n" else each for each in text)


class Dashboard(App[None]):
    """Begins with the batches, or above them with one batch, or one job of it.

    `clock` tells the seconds since 1970; `tab`: a job's tab that is in front at first; `theme`: one of
    `themes.NAMES`.
    """

    CSS_PATH = "app.tcss"
    TITLE = "longshore"
    COMMANDS = {Commands}
    COMMAND_PALETTE_BINDING = "f12"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,f1", "app.menu", "help"),
        Binding("ctrl+p,colon", "app.palette", "commands"),
    ]

    class SessionTold(Message):
        def __init__(self, update: Update) -> None:
            super().__init__()
            self.update = update

    class Rerun(Message):
        """The failed jobs of a batch run again as a new one, or why not."""

        def __init__(self, batch: BatchStatus, answer: int | BatchError) -> None:
            super().__init__()
            self.batch = batch
            self.answer = answer

    class Done(Message):
        """What was asked for batches is confirmed, or refused."""

        def __init__(
            self, batches: Sequence[BatchStatus], what: str, error: BatchError | None, done: Callable[[], Any]
        ) -> None:
            super().__init__()
            self.batches = batches
            self.what = what
            self.error = error
            self.done = done

    def __init__(
        self,
        feed: Feed,
        batch_id: int | None = None,
        job_id: int | None = None,
        *,
        tab: str | None = None,
        theme: str = themes.DEFAULT,
        clock: Callable[[], float] = time.time,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        super().__init__()
        self.feed = feed
        self.clock = clock
        self.link = Link()
        self._lost_at: float | None = None
        self._begin_with = batch_id, job_id, tab
        self._root: Screen[Any] | None = None
        self._begin_in = theme
        self._badges: dict[int, str] = {}
        """Batches of which something was asked that is not seen yet: ``cancelling`` or ``deleting``."""
        self._deleted: Sequence[BatchStatus] = ()
        """What was deleted last, and can be shown again."""
        self.animation_level = "none"
        self._filters.append(Harmless(ascii_only=is_plain(environ)))

    def on_mount(self) -> None:
        for name in themes.NAMES:
            self.register_theme(themes.theme(name))
        self.theme = self._begin_in
        self.session = self.feed.follow_session(
            lambda told: self.post_message(self.SessionTold(told)) and None
        )
        batch_id, job_id, tab = self._begin_with
        self.push_screen(BatchesScreen())
        if batch_id is not None:
            self.go_to(batch_id, job_id, tab)
        self._root = self.screen_stack[-1]

    def on_unmount(self) -> None:
        self.feed.close()

    # The looks.

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return themes.variables(themes.DEFAULT)

    def use_theme(self, name: str) -> None:
        """One of `themes.NAMES`, from now on."""
        self.theme = name

    def watch_theme(self, name: str) -> None:
        """Texts have the names of their looks: these have other colours now."""
        if name in themes.NAMES:
            self.console.push_theme(themes.styles(name))
            for screen in self._live_screens():
                screen.redraw()

    # The connection.

    def on_dashboard_session_told(self, message: SessionTold) -> None:
        update = message.update
        assert isinstance(update, Heard | Lost | Refused)
        now = self.clock()
        was_lost, self.link = self.link.lost, self.link.after(update, now)
        if isinstance(update, Lost):
            self._lost_at = self._lost_at or now
        for screen in self._live_screens():
            if was_lost and isinstance(update, Heard):
                screen.hurry()
            screen.show_header()
            if not screen.has_read:
                screen.show_empty()
        if was_lost and isinstance(update, Heard):
            away_s = now - (self._lost_at or now)
            self._lost_at = None
            if away_s > 1:
                self.say(f"live again after {format.elapsed(away_s)}")

    def _live_screens(self) -> list[LiveScreen]:
        """Those in sight: the one in front, or behind a dialog."""
        live = [screen for screen in self.screen_stack if isinstance(screen, LiveScreen)]
        return [screen for screen in live[-1:] if screen.is_made]

    # Where to go.

    def is_root(self, screen: Screen[Any]) -> bool:
        """Whether nobody came to this screen from another: it began with it, or one went up from there."""
        stack = self.screen_stack
        root = self._root if self._root in stack else stack[min(1, len(stack) - 1)]
        return screen in stack and stack.index(screen) <= stack.index(root)

    def go_to(self, batch_id: int, job_id: int | None = None, tab: str | None = None) -> None:
        """Show a batch or a job; whoever goes back comes to the batch, then to the batches."""
        self.go_to_batches()
        self.push_screen(BatchScreen(batch_id))
        if job_id is not None:
            self.push_screen(JobScreen(batch_id, job_id, tab=tab))

    def go_to_batches(self) -> None:
        while len(self.screen_stack) > 2:
            self.pop_screen()

    def action_menu(self) -> None:
        if isinstance(self.screen, LiveScreen):
            self.push_screen(MenuScreen(cast("Screen[object]", self.screen)), self._chosen)

    def action_palette(self) -> None:
        if isinstance(self.screen, LiveScreen):
            self.push_screen(
                CommandPalette(id="--command-palette", placeholder="a command, 8120 or 8120/4705")
            )

    def _chosen(self, chosen: Chosen | None) -> None:
        if chosen:
            self.press(chosen)

    def press(self, chosen: Chosen) -> None:
        """Do what a key would do."""
        node, action = chosen
        self.run_worker(self.run_action(action, node), exit_on_error=True)

    # What is done to batches.

    def badge(self, batch: BatchStatus) -> format.Part | None:
        """What was asked of a batch and is not seen yet."""
        word = self._badges.get(batch.id)
        return (f"⊘ {word}", format.WARNING) if word else None

    def seen(self, batches: Sequence[BatchStatus], whole: BatchesView | None = None) -> None:
        """So it is now with these: what was asked of them may be confirmed."""
        for batch in batches:
            if self._badges.get(batch.id) == "cancelling" and (batch.cancelled_by or batch.complete):
                del self._badges[batch.id]

    def cancel(
        self, batches: Sequence[BatchStatus], *, note: str = "", done: Callable[[], Any] = lambda: None
    ) -> None:
        """Cancel these batches if that is possible and wanted; `done` when it is confirmed."""
        open_ones = [batch for batch in batches if not batch.complete]
        if batches and not open_ones:
            complete = " ".join(f"#{batch.id}" for batch in batches[:5])
            self.say(f"{complete}: complete, there is nothing to cancel")
        elif open_ones and self._can_send():
            lines = [("", note)] if note else []
            lines += [*consequences(open_ones), ("", "This cannot be undone.")]
            self._confirm("cancel", open_ones, lines, done)

    def delete(self, batches: Sequence[BatchStatus], *, done: Callable[[], Any] = lambda: None) -> None:
        """Delete these batches: a finished one at once, otherwise when it is wanted."""
        if not batches or not self._can_send():
            return
        if len(batches) == 1 and batches[0].complete:
            self._send("delete", batches, done)
            return
        open_ones = [batch for batch in batches if not batch.complete]
        lines = [("", "They are cancelled first.")] if open_ones else []
        lines += [*consequences(open_ones)] if open_ones else []
        lines += [("", "It is hidden everywhere, and still billed; u shows it again, cancelled as it is.")]
        self._confirm("delete", batches, lines, done)

    def undelete(self) -> None:
        """Show again what was deleted last."""
        if not self._deleted:
            self.say("nothing was deleted here; by its number: longshore undelete N")
        elif self._can_send():
            self._send("undelete", self._deleted, lambda: None)

    def rerun(self, batch: BatchStatus) -> None:
        """Run the failed jobs of a complete batch again, if that is wanted; then show the new one."""
        if not batch.complete or not batch.n_failed:
            why = "no job has failed" if batch.complete else "it is not complete"
            self.say(f"#{batch.id}: {why}, there is nothing to run again")
            return
        lines = [
            ("Failure", f"{batch.n_failed:,} failed, and what was cancelled because of them, as a new batch"),
            ("", "What succeeded is not run again. A pipeline's intermediate files are gone if its"),
            ("", "scratch was removed when it ended: jobs that read some will fail."),
        ]
        title = f"Rerun batch #{batch.id} {batch.name}".rstrip()
        command = f"longshore rerun {batch.id} --failed"

        def answered(answer: int | BatchError) -> None:
            self.post_message(self.Rerun(batch, answer))

        def decided(yes: bool | None) -> None:
            if yes and self._can_send():
                self.feed.ask(rerun(batch.id), answered)

        self.push_screen(ConfirmScreen(f"{title}?", lines, "", "rerun them", command), decided)

    def on_dashboard_rerun(self, message: Rerun) -> None:
        batch, answer = message.batch, message.answer
        if isinstance(answer, int):
            command = f"longshore rerun {batch.id} --failed"
            self.say(f"#{answer} runs what failed in #{batch.id}; same as: {command}")
            self.go_to(answer)
        else:
            self.say(f"rerun #{batch.id}: {answer.message}", bad=True)

    def _confirm(
        self,
        what: str,
        batches: Sequence[BatchStatus],
        lines: Sequence[tuple[str, str]],
        done: Callable[[], Any],
    ) -> None:
        many = len(batches) > 1
        title = f"{len(batches)} batches" if many else f"batch #{batches[0].id} {batches[0].name}".rstrip()
        if many:
            largest = sorted(batches, key=lambda batch: -batch.n_jobs)[:3]
            names = ", ".join(f"#{b.id} {b.name} ({b.n_jobs:,} jobs)" for b in largest)
            lines = [("", f"{names}{', …' if len(batches) > 3 else ''}"), *lines]
        screen = ConfirmScreen(
            f"{what.title()} {title}?", lines, confirmed_by(batches), f"{what} it", _command(what, batches)
        )

        def decided(yes: bool | None) -> None:
            if yes and self._can_send():
                self._send(what, batches, done)

        self.push_screen(screen, decided)

    def _can_send(self) -> bool:
        """Whether there is a service to hear it; nothing is kept for later."""
        if self.link.state(self.clock())[0] in ("live", "stale"):
            return True
        self.say("offline – not sent", bad=True)
        return False

    def _send(self, what: str, batches: Sequence[BatchStatus], done: Callable[[], Any]) -> None:
        ids = [batch.id for batch in batches]
        doing = {"cancel": "cancelling", "delete": "deleting"}
        if what in doing:
            self._badges.update(dict.fromkeys(ids, doing[what]))
        self._refresh_rows()

        def answered(error: BatchError | None) -> None:
            self.post_message(self.Done(batches, what, error, done))

        self.feed.ask({"cancel": cancel, "delete": delete, "undelete": undelete}[what](ids), answered)

    def on_dashboard_done(self, message: Done) -> None:
        names = " ".join(f"#{batch.id}" for batch in message.batches[:5])
        if message.error:
            for batch in message.batches:
                self._badges.pop(batch.id, None)
            self.say(f"{message.what} {names}: {message.error.message}", bad=True)
        else:
            if message.what == "delete":
                for batch in message.batches:
                    self._badges.pop(batch.id, None)
                self._deleted = message.batches
                undo = _command("undelete", message.batches)
                self.say(f"deleted {names}, still billed · u undoes it (or {undo})")
            elif message.what == "undelete":
                self._deleted = ()
                self.say(f"{names} in the list again; same as: {_command('undelete', message.batches)}")
            message.done()
        self._refresh_rows()

    def _refresh_rows(self) -> None:
        for screen in self._live_screens():
            screen.tick()

    # To the user.

    def say(self, words: str, *, bad: bool = False) -> None:
        """A line that goes away by itself."""
        self.notify(
            format.one_line(words), severity="warning" if bad else "information", timeout=5, markup=False
        )

    def copy(self, text: str, what: str) -> None:
        """To the clipboard of the terminal, also over ssh (OSC 52)."""
        if len(text.encode()) > _MOST_COPIED:
            self.say(f"that is more than a terminal copies ({_MOST_COPIED:,} bytes); S saves it", bad=True)
            return
        self.copy_to_clipboard(text)
        self.say(f"copied {what}")


def is_plain(environ: Mapping[str, str], encoding: str | None = None) -> bool:
    """Whether the terminal has only ASCII."""
    encoding = encoding or getattr(sys.__stdout__, "encoding", None) or "utf-8"
    return (
        bool(environ.get("LONGSHORE_PLAIN"))
        or environ.get("TERM") == "linux"
        or "utf" not in encoding.lower()
    )


def _command(what: str, batches: Sequence[BatchStatus]) -> str:
    ids = [str(batch.id) for batch in batches]
    return f"longshore {what} {' '.join(ids[:8])}{' …' if len(ids) > 8 else ''}"
