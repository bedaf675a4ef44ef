"""What is known of a long list, and of whom the table asks it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from longshore_tui import themes
from longshore_tui.rows import MOST_PAGES, PAGE, Rows, window_of
from longshore_tui.widgets.table import Column, WindowTable
from textual.app import App, ComposeResult


def numbers(first: int, n: int) -> list[int]:
    return list(range(first, first + n))


def test_only_what_was_looked_at_lately_is_kept() -> None:
    rows = Rows[int](lambda row: row)
    for page in range(MOST_PAGES * 2):
        rows.put(page * PAGE, numbers(page * PAGE, PAGE), 1_000_000)
    assert len(rows) == MOST_PAGES * PAGE
    assert rows.get(0) is None
    assert rows.get((MOST_PAGES * 2 - 1) * PAGE) is not None


def test_rows_that_turn_up_elsewhere_say_that_all_has_shifted() -> None:
    rows = Rows[int](lambda row: row)
    rows.put(0, numbers(0, 300), 300)
    assert rows.put(0, numbers(1, 100), 300) is None
    assert rows.get(200) is None
    assert rows.position(1) == 0


def test_a_row_that_changed_is_told_with_its_position() -> None:
    rows = Rows[tuple[int, str]](lambda row: row[0])
    rows.put(0, [(1, "a"), (2, "a"), (3, "a")], 3)
    assert rows.change([(2, "b"), (9, "b")]) == {1}
    assert rows.get(1) == (2, "b")
    assert rows.put(0, [(1, "a"), (2, "b"), (3, "c")], 3) == {2}


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_what_is_asked_holds_what_is_in_sight(top: int, height: int) -> None:
    first, n = window_of(top, height)
    assert first <= top
    assert first + n >= top + height
    assert n <= 1000


class Alone(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.console.push_theme(themes.styles(themes.DEFAULT))
        self.asked: list[tuple[int, int]] = []

    @property
    def table(self) -> WindowTable[int]:
        return self.query_one(WindowTable)

    def compose(self) -> ComposeResult:
        columns: list[Column[int]] = [
            Column("ID", str, 9, right=True),
            Column("NAME", lambda n: f"row {n}", None),
        ]
        yield WindowTable(columns, lambda row: row)

    def on_mount(self) -> None:
        self.table.focus()

    def on_window_table_wanted(self, message: WindowTable.Wanted) -> None:
        self.asked.append((message.first, message.n))
        n = 1_000_000
        self.table.put(message.first, numbers(message.first, min(message.n, n - message.first)), n)

    def lines(self) -> Iterator[str]:
        return (self.table.render_line(y).text for y in range(self.table.size.height))


async def test_a_million_rows_take_no_time_and_no_memory() -> None:
    app = Alone()
    async with app.run_test(size=(120, 35)) as pilot:

        async def mount() -> None:
            table = WindowTable[int]([Column("ID", str, 9)], lambda row: row)
            await app.mount(table)
            table.put(0, numbers(0, 200), 1_000_000)
            await pilot.pause()

        # Of this thread, and the best of three: what else goes on in the process is not the table's.
        took = []
        for _ in range(3):
            began = time.thread_time()
            await mount()
            took.append(time.thread_time() - began)
        assert min(took) < 0.3
        tracemalloc.start()
        try:
            await mount()
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()


async def test_the_end_of_a_million_rows_is_one_question_away() -> None:
    app = Alone()
    async with app.run_test(size=(120, 35)) as pilot:
        await pilot.pause()
        n_asked = len(app.asked)
        await pilot.press("end")
        await pilot.pause()
        assert len(app.asked) - n_asked == 1
        assert "row 999999" in "".join(app.lines())
        assert app.table.cursor_key == 999_999


async def test_rows_that_are_not_known_yet_are_said_to_be_on_their_way() -> None:
    app = Alone()
    async with app.run_test(size=(80, 24)):
        app.table.rows.clear()
        app.table.rows.n = 10
        assert "⋯" in app.table.render_line(1).text


async def test_only_rows_in_sight_are_painted_again() -> None:
    app = Alone()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        painted: list[int] = []
        render = app.table.render_line
        app.table.render_line = lambda y: painted.append(y) or render(y)  # type: ignore[method-assign, func-returns-value]
        for _ in range(10_000):
            app.table.change([3, 150_000])
        await pilot.pause()
        assert set(painted) <= {4}
        assert len(painted) < 50


@given(st.integers(0, 99), st.integers(-50, 50))
def test_the_row_under_the_cursor_stays_the_same(cursor: int, shift: int) -> None:
    rows = Rows[int](lambda row: row)
    rows.put(0, numbers(0, 100), 100)
    rows.put(0, numbers(shift, 100), 100)
    found = rows.position(cursor)
    assert found == (cursor - shift if 0 <= cursor - shift < 100 else None)
