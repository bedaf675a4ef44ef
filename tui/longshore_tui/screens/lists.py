"""What the two lists share: a window of rows, a filter, the row under the cursor, marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Generic, cast

from longshore.errors import BatchError
from longshore.status import QueryCompletions
from longshore.terminal import clean
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, Static

from ..feed import WindowFollow, complete_query
from ..format import WARNING, one_line
from ..model import FAILED, BatchesRead, JobsRead, QueryRefused, Update, Wanted, with_term
from ..widgets.filter import FilterInput
from ..widgets.table import Column, Row, WindowTable
from .live import LiveScreen

_TYPING_S = 0.15
"""How long nothing was typed before it is asked."""


class ListScreen(LiveScreen, Generic[Row]):
    """A list of which a window is followed. Rows never move under the cursor by themselves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter"),
        Binding("f", "only_failed", "failed only"),
        Binding("y", "copy", "copy", show=False),
    ]

    def __init__(self, columns: Sequence[Column[Row]], key: Callable[[Row], int], query: str = "") -> None:
        super().__init__()
        self.wanted = Wanted(query)
        self.n_matching: int | None = None
        self._columns = columns
        self._key = key
        self._good_query = ""
        self._before_filter: tuple[int, int | None] | None = None
        """The cursor's place in the whole list."""
        self._typing: Timer | None = None
        self._problem: QueryRefused | None = None

    @property
    def table(self) -> WindowTable[Row]:
        return cast("WindowTable[Row]", self.query_one(WindowTable))

    @property
    def has_read(self) -> bool:
        return self.n_matching is not None

    def body(self) -> ComposeResult:
        yield Static(id="summary")
        yield FilterInput(
            id="filter", compact=True, placeholder="words  state:failure,error  exit:137  dur>10m  -word"
        )
        yield Static(id="offered")
        yield Static(id="problem")
        yield WindowTable[Row](self._columns, self._key)

    def summary(self) -> Text:
        """The lines above the list."""
        raise NotImplementedError

    def target(self, row: Row) -> str:
        """What commands call a row."""
        raise NotImplementedError

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#filter").display = False
        self.query_one("#problem").display = False
        self.query_one("#offered").display = False
        self.table.focus()

    def on_resize(self) -> None:
        super().on_resize()
        if self.is_made:
            self.show_summary()

    def tick(self) -> None:
        super().tick()
        self.table.refresh()

    def redraw(self) -> None:
        super().redraw()
        if self.is_made:
            self.show_summary()
            self.table.refresh()

    @property
    def filtered_batch(self) -> int | None:
        """The batch whose jobs are filtered; None: batches are."""
        return None

    # The window.

    def want(self, wanted: Wanted) -> None:
        """Follow other rows."""
        self.wanted = wanted
        if isinstance(self._follow, WindowFollow):
            self._follow.show(wanted)

    def on_window_table_wanted(self, message: WindowTable.Wanted) -> None:
        self.want(replace(self.wanted, first=message.first, n=message.n))

    def take(self, update: Update) -> None:
        if isinstance(update, QueryRefused):
            self._refuse(update)
            return
        assert isinstance(update, BatchesRead | JobsRead)
        view = update.view
        if view.query != self.wanted.query:
            return  # It answers what is not asked any more.
        self._good_query = view.query
        rows = cast("Sequence[Row]", view.rows)
        self.n_matching = view.n_matching
        self.table.empty = self.no_match()
        if view.whole:
            self.table.put(view.first, rows, view.n_matching)
        else:
            self.table.change(rows)
        self.show_summary()

    def show_summary(self) -> None:
        self.query_one("#summary", Static).update(self.summary())
        problem = self.query_one("#problem", Static)
        problem.display = self._problem is not None
        if self._problem:
            caret = Text(" " * (2 + self._problem.position) + "^ ", WARNING)
            problem.update(caret.append(one_line(self._problem.error, 200)))

    def on_window_table_opened(self, message: WindowTable.Opened) -> None:
        self.open(message.key)

    def open(self, key: int) -> None:
        raise NotImplementedError

    def on_window_table_moved(self) -> None:
        self.show_summary()

    # The filter.

    def set_query(self, query: str) -> None:
        """Show what matches; of an empty query all, with the cursor where it was."""
        self._problem = None
        if query == self.wanted.query:
            return
        table = self.table
        if not self.wanted.query:
            self._before_filter = table.cursor, table.cursor_key
        cursor, key = (self._before_filter or (0, None)) if not query else (0, None)
        self.want(replace(self.wanted, query=query, first=0))
        self.table.restart(cursor, key)
        self.show_header()
        self.show_summary()

    def action_filter(self) -> None:
        box = self.query_one("#filter", FilterInput)
        box.display = True
        box.value = self.wanted.query
        self._complete()
        self.set_focus(box)  # At once: what is typed next is for it.
        self.show_keys()

    def action_only_failed(self) -> None:
        self.set_query(with_term(self.wanted.query, FAILED))

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._typing:
            self._typing.stop()
        self._typing = self.set_timer(_TYPING_S, lambda: self._typed(event.value))
        self._offer(None)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._typing:
            self._typing.stop()
        self.set_query(event.value.strip())
        self._close_filter()

    def _typed(self, value: str) -> None:
        box = self.query_one("#filter", FilterInput)
        if box.display and box.value == value:
            self.set_query(value.strip())
            self._complete()

    # What it may go on with.

    class Offered(Message):
        """The answer of the service for a text and the place of its cursor."""

        def __init__(self, asked: tuple[str, int], found: QueryCompletions | BatchError) -> None:
            super().__init__()
            self.asked = asked
            self.found = found

    def _complete(self) -> None:
        box = self.query_one("#filter", FilterInput)
        asked = box.value, box.cursor_position
        question = complete_query(*asked, self.filtered_batch)
        self.dashboard.feed.ask(question, lambda found: self.post_message(self.Offered(asked, found)))

    def on_list_screen_offered(self, message: Offered) -> None:
        if not isinstance(message.found, BatchError):  # Without it one can type as well.
            self._offer(message)

    def _offer(self, message: Offered | None) -> None:
        box, line = self.query_one("#filter", FilterInput), self.query_one("#offered", Static)
        if message is None:
            box.offered = None
        elif isinstance(message.found, BatchError) or not box.offer(message.asked, message.found):
            return
        shown = box.shown()
        line.display = box.display and shown is not None
        line.update(shown or "")

    def _close_filter(self) -> None:
        self._problem = None
        self.query_one("#filter", FilterInput).display = False
        self._offer(None)
        self.set_focus(self.table)
        self.show_summary()
        self.show_keys()

    def _refuse(self, problem: QueryRefused) -> None:
        if problem.query == self.wanted.query:
            self._problem = problem
            self.wanted = replace(self.wanted, query=self._good_query)
            self.table.restart()
        self.show_summary()

    def clear(self) -> bool:
        if self.query_one("#filter").display or self.wanted.query or self._problem:
            if self._typing:
                self._typing.stop()
            self._problem = None
            self.set_query("")
            self._close_filter()
            return True
        return False

    # The row under the cursor.

    def action_copy(self) -> None:
        if (row := self.table.cursor_row) is not None:
            self.dashboard.copy(self.target(row), self.target(row))

    def no_match(self) -> str:
        """What to say when nothing matches; '' when something does."""
        if self.n_matching or not self.wanted.query:
            return ""
        return f"Nothing matches  {clean(self.wanted.query)}\n\nesc shows all again, / changes the filter."
