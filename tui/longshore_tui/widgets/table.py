"""A list of any length, of which the rows in sight are known; the cursor stays at its row.

Column widths are fixed; on narrow terminals columns are left out, and one column takes what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..format import DIM, Part
from ..rows import Rows, window_of

Row = TypeVar("Row")

_NARROWEST = 12
"""Of the column that takes what is left; other columns give way before it is narrower."""


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """`cell` gives text that is harmless already; `width` None: what the others leave."""

    title: str
    cell: Callable[[Row], Part | str]
    width: int | None
    right: bool = False
    from_width: int = 0
    """Shown on terminals of at least so many cells …"""
    below_width: int = 1_000_000
    """… and of fewer than so many."""
    priority: int = 0
    """Where there is still too little room those of the highest number are left out; 0: never."""


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Exactly `width` cells: the middle of what is too long gives way.

    >>> fit('align-chr20-000123', 10), fit('7', 3, right=True)
    ('align-…123', '  7')
    """
    length = cell_len(text)
    if length > width:
        for_tail = max(0, (width - 1) // 3)
        tail = text[len(text) - for_tail :]
        while cell_len(tail) > for_tail:
            tail = tail[1:]
        return set_cell_size(text, max(0, width - 1 - cell_len(tail))) + "…"[:width] + tail
    padding = " " * (width - length)
    return padding + text if right else text + padding


class WindowTable(ScrollView, Generic[Row], can_focus=True):
    """Rows by position, as far as they are known. `key` tells a row's number, by which it is known."""

    class Opened(Message):
        """Enter was pressed at a row, or the row under the cursor was clicked."""

        def __init__(self, key: int) -> None:
            super().__init__()
            self.key = key

    class Wanted(Message):
        """Other rows are in sight, or near it: `n` of them from `first` on should be known."""

        def __init__(self, first: int, n: int) -> None:
            super().__init__()
            self.first = first
            self.n = n

    class AtFirst(Message):
        """Somebody wants to be at the first row."""

    class Moved(Message):
        """The cursor is at another row, or rows were marked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("down,j", "move(1)", "next row", show=False),
        Binding("up,k", "move(-1)", "row before", show=False),
        Binding("pagedown,ctrl+d", "page(1)", "a screen down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "a screen up", show=False),
        Binding("home", "first", "first row, and what is new", show=False),
        Binding("end,G", "last", "last row", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--title", "table--cursor", "table--marked"}

    def __init__(self, columns: Sequence[Column[Row]], key: Callable[[Row], int]) -> None:
        super().__init__()
        self.rows = Rows[Row](key)
        self.marked: dict[int, Row] = {}
        """By number, as they were when they were marked."""
        self.cursor = 0
        """A position."""
        self.empty = ""
        """What is said when the list has no rows."""
        self._columns = columns
        self._key = key
        self._cursor_key: int | None = None
        self._wanted = (0, 0)
        self._top_wanted: int | None = None
        self._restart = False

    @property
    def cursor_key(self) -> int | None:
        return self._cursor_key

    @property
    def cursor_row(self) -> Row | None:
        return self.rows.get(self.cursor)

    def on_mount(self) -> None:
        self._ask()

    # What the service tells.

    def put(self, first: int, rows: Sequence[Row], n: int) -> None:
        """The list has `n` rows, and these from `first` on. The row under the cursor stays where it is."""
        if self._restart:
            self._restart = False
            self.rows.clear()
        changed = self.rows.put(first, rows, n)
        found = None if self._cursor_key is None else self.rows.position(self._cursor_key)
        moved = 0
        if found is not None:
            moved, self.cursor = found - self.cursor, found
        elif first <= self.cursor < first + max(1, len(rows)) or self.cursor >= n:
            # Its row is gone; the cursor stays in its place.
            self._place(self.cursor)
        if self.virtual_size.height != n + 1:
            self.virtual_size = Size(0, n + 1)
        for number in self.marked:
            if (at := self.rows.position(number)) is not None and (row := self.rows.get(at)) is not None:
                self.marked[number] = row
        if moved:
            self._look_from(self.scroll_offset.y + moved)
        if changed is None or moved:
            self._keep_cursor_in_sight()
            self.refresh()
        else:
            self._refresh_rows(changed)
        self._ask()
        self.post_message(self.Moved())

    def change(self, rows: Sequence[Row]) -> None:
        """These rows are different now."""
        self._refresh_rows(self.rows.change(rows))
        for row in rows:
            if self._key(row) in self.marked:
                self.marked[self._key(row)] = row
        self.post_message(self.Moved())

    def restart(self, cursor: int = 0, key: int | None = None) -> None:
        """What is told next is of another list, in which the cursor is there."""
        self._restart = True
        self._wanted = (0, 0)
        self.cursor, self._cursor_key = cursor, key
        self._top_wanted = max(0, cursor - self._height // 2)
        self._ask()

    def go_to(self, position: int, key: int | None = None) -> None:
        """Move the cursor there; `key`: the number of the row there, where that is known."""
        self.cursor = max(0, position)
        row = self.cursor_row
        self._cursor_key = key if row is None else self._key(row)
        self._keep_cursor_in_sight()
        self.refresh()
        self.post_message(self.Moved())

    # What people do.

    def action_open(self) -> None:
        if self._cursor_key is not None:
            self.post_message(self.Opened(self._cursor_key))

    def action_move(self, by: int) -> None:
        self._go(self.cursor + by)

    def action_page(self, by: int) -> None:
        self._go(self.cursor + by * max(1, self._height - 1))

    def action_first(self) -> None:
        self._go(0)
        self.post_message(self.AtFirst())

    def action_last(self) -> None:
        self._go(self.rows.n - 1)

    def mark(self) -> None:
        """Mark the row under the cursor, or unmark it, and go on to the next."""
        row = self.cursor_row
        if row is None:
            return
        if self.marked.pop(self._key(row), None) is None:
            self.marked[self._key(row)] = row
        self._go(self.cursor + 1)
        self.refresh()

    def unmark(self) -> None:
        self.marked.clear()
        self.refresh()
        self.post_message(self.Moved())

    def on_click(self, event: events.Click) -> None:
        position = event.y - 1 + self.scroll_offset.y
        if event.y < 1 or position >= self.rows.n:
            return
        if position == self.cursor:
            self.action_open()
        self._go(position)

    def on_resize(self) -> None:
        self._keep_cursor_in_sight()
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._ask()

    # What is seen.

    def render_line(self, y: int) -> Strip:
        whole = self.scrollable_content_region.width
        columns = _shown(self._columns, self.app.size.width, whole)
        left = max(0, whole - 1 - sum(c.width or 0 for c in columns) - len(columns))
        widths = [left if c.width is None else c.width for c in columns]
        style = self.rich_style
        mark = " "
        if y == 0:
            style = self.get_component_rich_style("table--title")
            cells: list[Part | str] = [column.title for column in columns]
        else:
            position = y - 1 + self.scroll_offset.y
            if position >= self.rows.n:
                words = self.empty.split("\n") if not self.rows.n else []
                text = f"  {words[y - 2]}" if 2 <= y < 2 + len(words) else ""
                return Strip([Segment(fit(text, whole), style + self._look(DIM))])
            row = self.rows.get(position)
            if position == self.cursor:
                style = self.get_component_rich_style("table--cursor")
            if row is None:
                return Strip([Segment(fit("  ⋯", whole), style + self._look(DIM))])
            if self._key(row) in self.marked:
                mark = "◆"
            cells = [column.cell(row) for column in columns]
        segments = [Segment(mark, style)]
        for column, width, cell in zip(columns, widths, cells, strict=True):
            text, look = (cell, "") if isinstance(cell, str) else cell
            text = fit(text, width, right=column.right) + " "
            segments.append(Segment(text, style + self._look(look) if look else style))
        return Strip(segments).adjust_cell_length(whole, style)

    def _look(self, name: str) -> Style:
        return self.app.console.get_style(name)

    @property
    def _height(self) -> int:
        """Rows in sight."""
        return max(1, self.size.height - 1)

    def _go(self, position: int) -> None:
        self._place(position)
        self._keep_cursor_in_sight()
        self.refresh()
        self.post_message(self.Moved())

    def _place(self, position: int) -> None:
        self.cursor = max(0, min(position, self.rows.n - 1))
        row = self.cursor_row
        self._cursor_key = None if row is None else self._key(row)

    def _keep_cursor_in_sight(self) -> None:
        top = self.scroll_offset.y
        if self._top_wanted is not None and self.rows.n:
            top, self._top_wanted = self._top_wanted, None
            self._look_from(top)
        seen = max(self.cursor - self._height + 1, min(top, self.cursor))
        if seen != self.scroll_offset.y:
            self._look_from(seen)

    def _look_from(self, y: int) -> None:
        self.scroll_to(y=y, animate=False, force=True, immediate=True)

    def _refresh_rows(self, positions: set[int]) -> None:
        top = self.scroll_offset.y
        for position in positions:
            if top <= position < top + self._height:
                self.refresh_line(position + 1)

    def _ask(self) -> None:
        """Say which rows should be known, when these are others than before."""
        top = self._top_wanted if self._top_wanted is not None else self.scroll_offset.y
        wanted = window_of(top, max(self._height, 20))
        if wanted != self._wanted:
            self._wanted = wanted
            self.post_message(self.Wanted(*wanted))


def _shown(columns: Sequence[Column[Row]], terminal: int, width: int) -> list[Column[Row]]:
    """The columns that there is room for."""
    shown = [c for c in columns if c.from_width <= terminal < c.below_width]

    def missing() -> int:
        return sum(_NARROWEST if c.width is None else c.width for c in shown) + len(shown) + 1 - width

    while missing() > 0 and (worst := max(shown, key=lambda c: c.priority)).priority:
        shown.remove(worst)
    return shown
