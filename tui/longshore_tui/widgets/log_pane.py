"""The log of one container, whichever it is: it is followed, looked through, and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from longshore.errors import BatchError
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, Static

from .. import format
from ..feed import LogFollow, find_in_log, log_of, read_log, save_log
from ..model import LogEnded, Lost, Refused, Update
from .log_view import LogView

if TYPE_CHECKING:
    from longshore.handles import Log
    from longshore.service import Client

    from ..app import Dashboard

_SHOW_S = 0.1


class LogPane(Vertical):
    """What was told of a log stays when it is not followed any more, and goes on when it is again."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "search"),
        Binding("n", "match(True)", "next match", show=False),
        Binding("N", "match(False)", "match before", show=False),
        Binding("S", "save", "save log"),
    ]

    class Changed(Message):
        """Another part is seen, more is known, or what `state` and `words` tell is different."""

    class Told(Message):
        """The feed told something; for the follow that asked for it."""

        def __init__(self, follow: int, update: Update) -> None:
            super().__init__()
            self.follow = follow
            self.update = update

    class Given(Message):
        """A piece that was asked for."""

        def __init__(self, follow: int, offset: int, data: bytes | BatchError) -> None:
            super().__init__()
            self.follow = follow
            self.offset = offset
            self.data = data

    class Found(Message):
        """Where the next line begins that has what is searched, in all of the log."""

        def __init__(self, follow: int, text: str, offset: int | None | BatchError) -> None:
            super().__init__()
            self.follow = follow
            self.text = text
            self.offset = offset

    class Saved(Message):
        def __init__(self, path: Path, n_bytes: int | BatchError) -> None:
            super().__init__()
            self.path = path
            self.n_bytes = n_bytes

    def __init__(self, batch_id: int, job_id: int) -> None:
        super().__init__()
        self.state = ""
        """``''`` while it grows, ``ended``, ``late`` when the worker owes the rest, or an error."""
        self._ids = batch_id, job_id
        self._shown: tuple[str, str] | None = None
        """Attempt and container."""
        self._follow: LogFollow | None = None
        self._n_follows = 0
        self._search = ""
        self._match: int | None = None
        self._looks = False
        """Whether the next match is being looked for in all of the log."""

    @property
    def view(self) -> LogView:
        return self.query_one(LogView)

    @property
    def is_empty(self) -> bool:
        return not self.view.log_window.size

    def compose(self) -> ComposeResult:
        yield LogView()
        yield Static(id="no-log")
        yield Static(id="found")
        yield Input(id="search", compact=True, placeholder="a text to look for")

    def on_mount(self) -> None:
        for each in ("#no-log", "#found", "#search"):
            self.query_one(each).display = False
        self.set_interval(_SHOW_S, self._take)

    def on_unmount(self) -> None:
        self.unfollow()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self._search) if action == "match" else True

    # Which log.

    def follow(self, attempt_id: str, container: str) -> None:
        """Follow this log from now on; goes on with one that is followed, or was shown last."""
        wanted = attempt_id, container
        if wanted == self._shown and (self._follow or self.state == "ended"):
            return
        self.unfollow()
        self._n_follows += 1
        self._shown = wanted
        self.state = ""
        self._match = None
        self.view.show()
        number = self._n_follows

        def tell(update: Update) -> None:
            self.post_message(self.Told(number, update))

        self._follow = self._dashboard.feed.follow_log(self._log(), tell)

    def unfollow(self) -> None:
        if self._follow:
            self._take()
            self._follow.close()
            self._follow = None

    def explain(self, why: str) -> None:
        """Say why there is nothing to see; '' when there is."""
        self.query_one("#no-log", Static).update(Text(why))
        self.query_one("#no-log").display = bool(why)
        self.view.display = not why
        if not why and self.screen.focused is None:
            self.screen.set_focus(self.view)  # It lost the focus when it was hidden.

    def words(self) -> list[str]:
        """How much there is, what of it is seen, and whether more comes."""
        window = self.view.log_window
        if not window.size:
            return []
        words = []
        if window.start or window.end < window.size:
            words.append(f"{self.view.where}% of {format.size(window.size)}")
        else:
            words.append(f"{window.n_lines:,} line{'' if window.n_lines == 1 else 's'}")
        if self.view.wraps:
            words.append("wrapped")
        if self.state == "late":
            words.append("the worker has not delivered the rest yet")
        elif self.state == "":
            new = f"▼ {self.view.n_new:,} new · " if self.view.n_new else ""
            words.append("follow ▼" if self.view.follows else f"{new}F follows")
        return words

    # What is told.

    def on_log_pane_told(self, message: Told) -> None:
        if message.follow != self._n_follows:
            return
        update = message.update
        if isinstance(update, LogEnded):
            self.state = "late" if update.incomplete else "ended"
        elif isinstance(update, Refused):
            self.state = update.error
        elif isinstance(update, Lost):
            return  # The header says it; the log goes on where it was.
        self._take()
        self.post_message(self.Changed())

    def _take(self) -> None:
        """Called some times a second: a log may come in a great many pieces."""
        if self._follow and self.is_attached and (piece := self._follow.take()):
            if self.state == "late":
                self.state = ""
            self.view.add(*piece)

    def on_log_view_wanted(self, message: LogView.Wanted) -> None:
        message.stop()
        if self._shown is None:
            return
        number, offset = self._n_follows, message.offset

        def done(data: bytes | BatchError) -> None:
            self.post_message(self.Given(number, offset, data))

        self._dashboard.feed.ask(read_log(self._log(), offset, message.n), done)

    def on_log_pane_given(self, message: Given) -> None:
        if message.follow != self._n_follows:
            return
        if isinstance(message.data, BatchError):
            self._dashboard.say(message.data.message, bad=True)
        self.view.give(message.offset, b"" if isinstance(message.data, BatchError) else message.data)

    def on_log_view_moved(self, message: LogView.Moved) -> None:
        message.stop()
        self._show_found()
        self.post_message(self.Changed())

    # The search.

    def clear(self) -> bool:
        """End the search; False when there is none."""
        if not self._search and not self.query_one("#search").display:
            return False
        self._look_for("")
        self._close_search()
        return True

    def action_search(self) -> None:
        box = self.query_one("#search", Input)
        box.display = True
        box.value = self._search
        self.screen.set_focus(box)  # At once: what is typed next is for it.

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._look_for(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._close_search()
        self.action_match(True)

    def action_match(self, forward: bool) -> None:
        """Go to the next line that has it, or the one before; from the log's end, to the last one."""
        if not self._search or self._looks:
            return
        window = self.view.log_window
        forward = forward and not self.view.follows
        self._match = self.view.go_to_match(forward=forward)
        if self._match is None and not window.is_whole:
            self._looks = True
            number, text = self._n_follows, self._search

            def done(offset: int | None | BatchError) -> None:
                self.post_message(self.Found(number, text, offset))

            offset = window.end if forward else window.start
            self._dashboard.feed.ask(find_in_log(self._log(), text, offset, forward=forward), done)
        self._show_found()

    def on_log_pane_found(self, message: Found) -> None:
        self._looks = False
        if (message.follow, message.text) != (self._n_follows, self._search):
            return
        if isinstance(message.offset, BatchError):
            self._dashboard.say(message.offset.message, bad=True)
        elif message.offset is not None:
            self.view.go_to(message.offset)
        else:
            self._dashboard.say(f"not in the log: {format.one_line(message.text)}")
        self._show_found()

    def _look_for(self, text: str) -> None:
        self._search = text
        self._match = None
        self.view.search(text)
        self._show_found()

    def _close_search(self) -> None:
        self.query_one("#search").display = False
        self.screen.set_focus(self.view)

    def _show_found(self) -> None:
        """Counted is what is held; of a large log that is a part."""
        shown = self.query_one("#found", Static)
        shown.display = bool(self._search)
        window, found = self.view.log_window, self.view.found
        text = Text(f"/ {format.one_line(self._search)}  ", format.WARNING)
        if self._looks:
            text.append("looking through all of the log …")
        elif window.is_whole and not found:
            text.append("not there")
        else:
            at = f"line {self._match + 1:,} of " if self._match is not None else ""
            text.append(f"{at}{len(found):,} that have it")
            if not window.is_whole:
                text.append(f" in the {format.size(window.end - window.start)} around here")
            text.append("   n/N next, before")
        shown.update(text)

    # Saving.

    def action_save(self) -> None:
        """Write the whole log to a new file in the working directory."""
        if self._shown is None:
            self._dashboard.say("there is no log to save")
            return
        batch_id, job_id = self._ids
        stem = f"longshore-{batch_id}-{job_id}-{self._shown[1]}"
        free = (Path(f"{stem}{f'-{n}' if n else ''}.log") for n in range(1000))
        try:
            path = next((path for path in free if not path.exists()), Path(f"{stem}.log")).absolute()
        except OSError as error:  # The working directory is gone.
            self._dashboard.say(f"saving the log: {error}", bad=True)
            return

        def done(n_bytes: int | BatchError) -> None:
            self.post_message(self.Saved(path, n_bytes))

        self._dashboard.say(f"saving to {path} …")
        self._dashboard.feed.ask(save_log(self._log(), path), done)

    def on_log_pane_saved(self, message: Saved) -> None:
        if isinstance(message.n_bytes, BatchError):
            self._dashboard.say(f"{message.path}: {message.n_bytes.message}", bad=True)
        else:
            self._dashboard.say(f"saved all {format.size(message.n_bytes)} to {message.path}")

    @property
    def _dashboard(self) -> Dashboard:
        return cast("Dashboard", self.app)

    def _log(self) -> Callable[[Client], Log]:
        assert self._shown
        attempt_id, container = self._shown
        return log_of(*self._ids, container, attempt_id)
