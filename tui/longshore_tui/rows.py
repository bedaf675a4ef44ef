"""PURE. A window's rows of a long list whose other rows nobody here knows; what is in sight, and where."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Row = TypeVar("Row")

PAGE = 100
MOST_PAGES = 40


class Rows(Generic[Row]):
    """Rows by their position from 0, in pages; those that were not looked at for longest are forgotten.

    `key` tells a row's number, by which it is known wherever it is.
    """

    def __init__(self, key: Callable[[Row], int]) -> None:
        self.n = 0
        """Of the whole list."""
        self._key = key
        self._pages: OrderedDict[int, dict[int, Row]] = OrderedDict()
        self._positions: dict[int, int] = {}

    def __len__(self) -> int:
        """How many rows are known."""
        return len(self._positions)

    def get(self, position: int) -> Row | None:
        """The row there; None while it is not known."""
        page = self._pages.get(position // PAGE)
        if page is None:
            return None
        self._pages.move_to_end(position // PAGE)
        return page.get(position)

    def position(self, key: int) -> int | None:
        """Where the row of this number is, if it is known."""
        return self._positions.get(key)

    def put(self, first: int, rows: Sequence[Row], n: int) -> set[int] | None:
        """The list has `n` rows, and these from `first` on; the positions that changed, None: many.

        Rows that turn up elsewhere say that the list has shifted: what was known beyond them is forgotten.
        """
        known = [self.get(first + i) for i in range(len(rows))]
        shifted = self.n != n or any(
            old is not None and self._key(old) != self._key(new) for old, new in zip(known, rows, strict=True)
        )
        if shifted:
            self.clear()
            self.n = n
        changed = {first + i for i, (old, new) in enumerate(zip(known, rows, strict=True)) if old != new}
        for i, row in enumerate(rows):
            self._set(first + i, row)
        while len(self._pages) > MOST_PAGES:
            _, page = self._pages.popitem(last=False)
            for row in page.values():
                self._positions.pop(self._key(row), None)
        return None if shifted else changed

    def change(self, rows: Sequence[Row]) -> set[int]:
        """These rows are different now, wherever they are; the positions of those that are known."""
        changed = set()
        for row in rows:
            if (position := self._positions.get(self._key(row))) is not None:
                self._pages[position // PAGE][position] = row
                changed.add(position)
        return changed

    def clear(self) -> None:
        self.n = 0
        self._pages.clear()
        self._positions.clear()

    def _set(self, position: int, row: Row) -> None:
        page = self._pages.setdefault(position // PAGE, {})
        if (old := page.get(position)) is not None:
            self._positions.pop(self._key(old), None)
        page[position] = row
        self._positions[self._key(row)] = position
        self._pages.move_to_end(position // PAGE)


def window_of(top: int, height: int) -> tuple[int, int]:
    """The first row and the number of rows to know when `height` rows from `top` on are in sight.

    Whole pages, with one before and one after, so that little is asked while one scrolls.

    >>> window_of(0, 30), window_of(250, 30), window_of(190, 30)
    ((0, 200), (100, 300), (0, 400))
    """
    first = max(0, top // PAGE - 1)
    last = (top + max(1, height) - 1) // PAGE + 1
    return first * PAGE, (last - first + 1) * PAGE
