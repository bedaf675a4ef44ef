"""A list of rows with a cursor that stays at its row when the list is read again.

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

from ..format import Part
from ..model import place

Row = TypeVar("Row")


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


class Table(ScrollView, Generic[Row], can_focus=True):
    """A page of rows. `key` tells a row's number, by which it is known."""

    class Opened(Message):
        """Enter was pressed at a row, or the row under the cursor was clicked."""

        def __init__(self, key: int) -> None:
            super().__init__()
            self.key = key

    class Left(Message):
        """The cursor was moved beyond the first or the last row."""

        def __init__(self, *, forward: bool) -> None:
            super().__init__()
            self.forward = forward

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("down,j", "move(1)", "next row", show=False),
        Binding("up,k", "move(-1)", "row before", show=False),
        Binding("pagedown,ctrl+d,space", "page(1)", "a screen down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "a screen up", show=False),
        Binding("home,g", "end(False)", "first row", show=False),
        Binding("end,G", "end(True)", "last row", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--title", "table--cursor"}

    def __init__(self, columns: Sequence[Column[Row]], key: Callable[[Row], int]) -> None:
        super().__init__()
        self._columns = columns
        self._key = key
        self._rows: Sequence[Row] = ()
        self._cursor = 0

    @property
    def cursor_key(self) -> int | None:
        return self._key(self._rows[self._cursor]) if self._rows else None

    def show(self, rows: Sequence[Row]) -> None:
        """These rows from now on; the cursor stays at its row, which stays where it is on the screen."""
        before = self._cursor
        self._cursor = place([self._key(row) for row in rows], self.cursor_key, before)
        self._rows = rows
        self.virtual_size = Size(0, len(rows) + 1)
        moved = self._cursor - before
        if moved and self.scroll_offset.y:
            self.scroll_to(y=self.scroll_offset.y + moved, animate=False, force=True, immediate=True)
        self._keep_cursor_in_sight()

    def turn(self, rows: Sequence[Row], *, to_last: bool = False) -> None:
        """Another page, with the cursor at its first or last row."""
        self._rows = ()
        self._cursor = 0
        self.show(rows)
        self._go_to(len(rows) - 1 if to_last else 0)

    def action_open(self) -> None:
        if (key := self.cursor_key) is not None:
            self.post_message(self.Opened(key))

    def action_move(self, by: int) -> None:
        if self._rows and not 0 <= self._cursor + by < len(self._rows):
            self.post_message(self.Left(forward=by > 0))
        else:
            self._go_to(self._cursor + by)

    def action_page(self, by: int) -> None:
        at = self._cursor
        self._go_to(at + by * max(1, self._height - 1))
        if at == self._cursor:
            self.action_move(by)

    def action_end(self, last: bool) -> None:
        self._go_to(len(self._rows) - 1 if last else 0)

    def on_click(self, event: events.Click) -> None:
        row = event.y - 1 + self.scroll_offset.y
        if event.y < 1 or row >= len(self._rows):
            return
        if row == self._cursor:
            self.action_open()
        self._go_to(row)

    def render_line(self, y: int) -> Strip:
        columns = [c for c in self._columns if c.from_width <= self.app.size.width < c.below_width]
        whole = self.scrollable_content_region.width
        left = max(0, whole - 1 - sum(c.width or 0 for c in columns) - len(columns))
        widths = [left if c.width is None else c.width for c in columns]
        if y == 0:
            style = self.get_component_rich_style("table--title")
            cells: list[Part | str] = [column.title for column in columns]
        else:
            row = y - 1 + self.scroll_offset.y
            if row >= len(self._rows):
                return Strip.blank(whole, self.rich_style)
            at_cursor = row == self._cursor
            style = self.get_component_rich_style("table--cursor") if at_cursor else self.rich_style
            cells = [column.cell(self._rows[row]) for column in columns]
        segments = [Segment(" ", style)]
        for column, width, cell in zip(columns, widths, cells, strict=True):
            text, colour = (cell, "") if isinstance(cell, str) else cell
            text = fit(text, width, right=column.right) + " "
            segments.append(Segment(text, style + Style(color=colour) if colour else style))
        return Strip(segments).adjust_cell_length(whole, style)

    @property
    def _height(self) -> int:
        """Rows in sight."""
        return max(1, self.size.height - 1)

    def _go_to(self, row: int) -> None:
        self._cursor = max(0, min(row, len(self._rows) - 1))
        self._keep_cursor_in_sight()

    def _keep_cursor_in_sight(self) -> None:
        top = self.scroll_offset.y
        seen = max(self._cursor - self._height + 1, min(top, self._cursor))
        if seen != top:
            self.scroll_to(y=seen, animate=False, force=True, immediate=True)
        self.refresh()

    def on_resize(self) -> None:
        self._keep_cursor_in_sight()
