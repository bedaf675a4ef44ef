"""A window over a log of any size: what is looked at stays until the end is followed again."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from ..log import LogWindow, Run, runs, text_of

BLOCK_BYTES = 256 << 10
"""Of a log that are read at a time when someone scrolls."""
_SIDEWAYS = 8


class LogView(Widget, can_focus=True):
    """Its last column tells where in the log one is."""

    class Moved(Message):
        """Other lines are seen, or whether the end is followed has changed."""

    class Wanted(Message):
        """At most `n` bytes from `offset` on should be told to `LogView.give`."""

        def __init__(self, offset: int, n: int) -> None:
            super().__init__()
            self.offset = offset
            self.n = n

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "line down", show=False),
        Binding("up,k", "move(-1)", "line up", show=False),
        Binding("pagedown,ctrl+d,space", "page(1)", "a screen down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "a screen up", show=False),
        Binding("left", f"sideways(-{_SIDEWAYS})", "left", show=False),
        Binding("right", f"sideways({_SIDEWAYS})", "right", show=False),
        Binding("home", "first", "first line", show=False),
        Binding("F,end,G", "follow", "follow"),
        Binding("w", "wrap", "wrap"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.log_window = LogWindow()
        self.follows = True
        self.wraps = False
        self.top = 0
        """The first line in sight."""
        self.n_new = 0
        """Lines that came since the end is not followed."""
        self.found: list[int] = []
        """Lines that hold what is searched, of those that are held."""
        self._left = 0
        self._search = ""
        self._waits_for: int | None = None
        self._rows: list[Strip] | None = None

    # What is told.

    def show(self) -> None:
        """Another log from now on; its end."""
        self.log_window = LogWindow()
        self.follows = True
        self.top = self.n_new = 0
        self._waits_for = None
        self._changed()

    def add(self, offset: int, data: bytes) -> None:
        """The log goes on."""
        dropped = self.log_window.append(offset, data, may_drop=self.follows)
        if self.follows:
            self.top = self._last_top()
        else:
            self.top = max(0, self.top - dropped)
            self.n_new += data.count(b"\n")
        self._changed()

    def give(self, offset: int, data: bytes) -> None:
        """What was wanted."""
        if offset != self._waits_for:
            return
        self._waits_for = None
        window = self.log_window
        if data and window.start < offset <= window.end < offset + len(data):
            # Some of it may have come by itself meanwhile.
            data = data[window.end - offset :]
            self.top = max(0, self.top - window.extend(window.end, data))
        elif data and offset + len(data) == window.start:
            self.top += window.prepend(offset, data)
        elif data:
            window.replace(offset, data)
            self.top = 0
        last = self._last_top()
        self.top = last if self.follows else min(self.top, last)
        self._changed()

    def search(self, text: str) -> None:
        """Look for `text` in what is held, and go to the last line in sight or above that has it."""
        self._search = text
        self._changed()

    # What people do.

    def action_move(self, by: int) -> None:
        self._go(self.top + by)

    def action_page(self, by: int) -> None:
        self._go(self.top + by * max(1, self.size.height - 1))

    def action_sideways(self, by: int) -> None:
        self._left = max(0, self._left + by)
        self._refresh()

    def action_first(self) -> None:
        self.follows = False
        if self.log_window.start:
            self._want(0, at_once=True)
        self._go(0)

    def action_follow(self) -> None:
        """Go to the end, and stay there."""
        window = self.log_window
        self.follows = True
        self.n_new = 0
        if window.end < window.size:
            self._want(max(0, window.size - BLOCK_BYTES), at_once=True)
        self.top = self._last_top()
        self._moved()

    def action_wrap(self) -> None:
        self.wraps = not self.wraps
        self._left = 0
        self.top = self._last_top() if self.follows else min(self.top, self._last_top())
        self._moved()

    def go_to_match(self, *, forward: bool) -> int | None:
        """Go to the next line that was found; its number among them. None: it is not in what is held.

        Where all is held it begins again at the other end.
        """
        found, again = self.found, self.log_window.is_whole
        if self.follows:
            at = len(found) - 1
        elif forward:
            at = next((i for i, line in enumerate(found) if line > self.top), 0 if again else len(found))
        else:
            at = next((i for i in reversed(range(len(found))) if found[i] < self.top), -1)
            at = len(found) - 1 if at < 0 and again else at
        if not 0 <= at < len(found):
            return None
        self._go_to_line(found[at])
        return at

    def go_to(self, offset: int) -> None:
        """Go to the line that begins there."""
        line = self.log_window.line_at(offset)
        if line is not None:
            self._go_to_line(line)
        else:
            self.follows = False
            self._want(max(0, offset - 1), at_once=True)  # Of a piece it is a line's end that tells lines.
            self._moved()

    def _go_to_line(self, line: int) -> None:
        self.follows = False
        self.top = line
        self._look_ahead()
        self._moved()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_move(-3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_move(3)

    def on_resize(self) -> None:
        if self.follows:
            self.top = self._last_top()
        self._refresh()

    # What is seen.

    @property
    def visible_text(self) -> str:
        """The lines in sight, whole."""
        last = min(self.log_window.n_lines, self.top + self.size.height)
        return "\n".join(text_of(runs(self.log_window.line(line))) for line in range(self.top, last))

    @property
    def where(self) -> int:
        """How much of the log lies above the end of what is in sight, in percent."""
        window = self.log_window
        last = min(window.n_lines, self.top + self.size.height)
        return 100 * window.offset(last) // window.size if window.size else 100

    def render_line(self, y: int) -> Strip:
        rows = self._rows
        if rows is None:
            rows = self._rows = self._draw()
        return rows[y] if y < len(rows) else Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> list[Strip]:
        width, height = max(1, self.size.width - 1), self.size.height
        style = self.rich_style
        window = self.log_window
        found: list[Strip] = []
        for line in range(self.top, min(window.n_lines, self.top + height)):
            strip = Strip(
                [
                    Segment(text, style + _style(look))
                    for text, look in _marked(runs(window.line(line)), self._search)
                ]
            )
            if not self.wraps:
                found.append(strip.crop_extend(self._left, self._left + width, style))
                continue
            for at in range(0, max(1, strip.cell_length), width):
                found.append(strip.crop_extend(at, at + width, style))
            if len(found) >= height and not self.follows:
                break
        blank = Strip.blank(width, style)
        if self.follows and len(found) > height:
            found = found[-height:]
        found = (found + [blank] * height)[:height]
        bar = self._bar(height)
        return [
            Strip.join([strip, Strip([Segment("▐" if each else " ", style + Style(dim=True))])])
            for strip, each in zip(found, bar, strict=True)
        ]

    def _bar(self, height: int) -> list[bool]:
        """Which cells of the last column stand for what is in sight; none when that is all."""
        window = self.log_window
        last = min(window.n_lines, self.top + height)
        begin, end = window.offset(self.top), window.offset(last)
        if not window.size or (begin == 0 and end == window.size):
            return [False] * height
        first = min(height - 1, begin * height // window.size)
        n = max(1, (end - begin) * height // window.size)
        if end >= window.size:
            first = height - n
        return [first <= y < first + n for y in range(height)]

    def _last_top(self) -> int:
        """From which line on the rest can be seen."""
        window, height = self.log_window, max(1, self.size.height)
        if not self.wraps:
            return max(0, window.n_lines - height)
        width = max(1, self.size.width - 1)
        line = window.n_lines
        while line and height > 0:
            line -= 1
            cells = Strip([Segment(text_of(runs(window.line(line))))]).cell_length
            height -= max(1, -(-cells // width))
        return line + 1 if height < 0 and line + 1 < window.n_lines else line

    def _go(self, top: int) -> None:
        last = self._last_top()
        window = self.log_window
        self.top = max(0, min(top, last))
        if top < last or window.end < window.size:
            self.follows = False
        elif top >= last:
            self.follows = True
            self.n_new = 0
        self._look_ahead()
        self._moved()

    def _look_ahead(self) -> None:
        """Ask for the next piece before its lines come into sight."""
        window, height = self.log_window, self.size.height
        if self.top < height and window.start and not self.follows:
            self._want(max(0, window.start - BLOCK_BYTES), before=True)
        elif self.top + 2 * height > window.n_lines and window.end < window.size:
            self._want(window.end)

    def _want(self, offset: int, *, before: bool = False, at_once: bool = False) -> None:
        """Ask for a piece; `at_once`: instead of one that was asked for and has not come."""
        if self._waits_for is None or at_once:
            self._waits_for = offset
            n = self.log_window.start - offset if before else BLOCK_BYTES
            self.post_message(self.Wanted(offset, n))

    def _changed(self) -> None:
        self.found = self.log_window.find(self._search)
        self._moved()

    def _moved(self) -> None:
        self._refresh()
        self.post_message(self.Moved())

    def _refresh(self) -> None:
        self._rows = None
        self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._rows = None


@lru_cache(512)
def _style(words: str) -> Style:
    return Style.parse(words)


def _marked(line: list[Run], search: str) -> list[Run]:
    """The same with what is searched in reverse."""
    if not search:
        return line
    found = []
    for text, style in line:
        rest, low = text, text.lower()
        at = low.find(search.lower()) if len(low) == len(text) else -1
        while at >= 0:
            found += [(rest[:at], style), (rest[at : at + len(search)], f"{style} reverse".strip())]
            rest, low = rest[at + len(search) :], low[at + len(search) :]
            at = low.find(search.lower())
        found.append((rest, style))
    return [run for run in found if run[0]]
