"""A log that grows: it follows its end until someone scrolls up, and again from when they are back."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..model import LogText


class LogView(ScrollView, can_focus=True):
    """Lines of a `LogText`, which are harmless already."""

    class Moved(Message):
        """Whether the end is followed has changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "line down", show=False),
        Binding("up,k", "move(-1)", "line up", show=False),
        Binding("pagedown,ctrl+d,space", "move_pages(1)", "a screen down", show=False),
        Binding("pageup,ctrl+u", "move_pages(-1)", "a screen up", show=False),
        Binding("left", "scroll_left", "left", show=False),
        Binding("right", "scroll_right", "right", show=False),
        Binding("home,g", "first", "first line", show=False),
        Binding("end,G", "follow", "last line", show=False),
        Binding("F", "follow", "follow the end"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.follows = True
        self._text = LogText()
        self._n_seen = 0
        """Lines that the text ever had when it was last looked at."""
        self._n_dropped = 0
        self._widest = 0

    def show(self, text: LogText) -> None:
        """This log from now on; its end."""
        self._text = text
        self._n_seen = self._n_dropped = text.n_dropped
        self._widest = 0
        self.follows = True
        self.grown()

    def grown(self) -> None:
        """The text has more than when it was last looked at."""
        lines = self._text.lines
        dropped = self._text.n_dropped - self._n_dropped
        n_new = min(len(lines), self._text.n_dropped + len(lines) - self._n_seen)
        self._n_dropped += dropped
        self._n_seen = self._n_dropped + len(lines)
        newest = islice(reversed(lines), n_new)
        self._widest = max(self._widest, cell_len(self._text.last), *map(cell_len, newest))
        self.virtual_size = Size(self._widest, len(lines) + bool(self._text.last))
        if self.follows:
            self._to_end()
        elif dropped:
            # What is looked at stays where it is, though lines above it are gone.
            self._look_at(self.scroll_offset.y - dropped)
        self.refresh()

    def action_move(self, lines: int) -> None:
        self._look_at(self.scroll_offset.y + lines)

    def action_move_pages(self, pages: int) -> None:
        self._look_at(self.scroll_offset.y + pages * self.size.height)

    def action_first(self) -> None:
        self._look_at(0)

    def action_follow(self) -> None:
        self._set_follows(True)
        self._to_end()

    def on_resize(self) -> None:
        if self.follows:
            self._to_end()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._set_follows(new_value >= self.max_scroll_y)

    def render_line(self, y: int) -> Strip:
        lines = self._text.lines
        at = y + self.scroll_offset.y
        if at < len(lines):
            line = lines[at]
        elif at == len(lines):
            line = self._text.last
        else:
            return Strip.blank(self.size.width, self.rich_style)
        x = self.scroll_offset.x
        return Strip([Segment(line, self.rich_style)]).crop_extend(x, x + self.size.width, self.rich_style)

    def _to_end(self) -> None:
        self._look_at(self.max_scroll_y)

    def _look_at(self, y: int) -> None:
        """This line is the first on the screen, as far as there are lines below it."""
        # At once: lines that come during an animation would end it where it is. And forced: the
        # scrollbar, without which Textual does not scroll, comes only with the next layout.
        self.scroll_to(y=min(max(0, y), self.max_scroll_y), animate=False, force=True, immediate=True)

    def _set_follows(self, follows: bool) -> None:
        if follows != self.follows:
            self.follows = follows
            self.post_message(self.Moved())
