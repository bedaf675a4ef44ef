"""What commands write for people: tables and fields on stdout, words on stderr.

Text of others (names, reasons, errors) passes `clean` on its way, so that it can never steer a terminal.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from shutil import get_terminal_size
from typing import Generic, TextIO, TypeVar

import click

from ..terminal import clean, one_line

T = TypeVar("T")

_PAGE = 1000
"""Rows of a table that are aligned with each other and written together."""
_NARROWEST = 8
"""A column that gives way keeps so many cells."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a stream is written to.

    A terminal gets colours, symbols, relative times and what fits its width; everything else plain
    and whole values, for files and other programs.
    """

    tty: bool = False
    colour: bool = False
    symbols: bool = True
    """Other than ASCII; matters on a terminal only."""
    bare: bool = False
    """Without signs of units, for a program that calculates."""
    width: int = 80
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Look:
        tty = stream.isatty()
        term = environ.get("TERM")
        simple = bool(environ.get("LONGSHORE_PLAIN"))
        wants_colour = bool(environ.get("FORCE_COLOR")) or (tty and term != "dumb")
        return cls(
            tty=tty,
            colour=wants_colour and not environ.get("NO_COLOR") and not simple,
            symbols=not simple and term != "linux" and "utf" in (stream.encoding or "").lower(),
            width=get_terminal_size().columns,
        )

    def paint(self, text: str, colour: str | None) -> str:
        return click.style(text, fg=colour) if colour and self.colour else text


def say(text: str, *, colour: str | None = None) -> None:
    """A line for people, on stderr."""
    click.echo(Look.of(sys.stderr).paint(clean(text), colour), err=True, color=True)


def hint(text: str) -> None:
    """What one might do next; only where somebody reads."""
    if sys.stderr.isatty():
        say(text, colour="bright_black")


@dataclass(frozen=True, slots=True)
class Cell:
    """A text of a table; its colour tells nothing that the text does not."""

    text: str
    colour: str | None = None


@dataclass(frozen=True)
class Column(Generic[T]):
    """`cell` makes what stands in it, for the look that the table gets."""

    title: str
    cell: Callable[[T, Look], str | Cell]
    right: bool = False
    gives_way: bool = False
    """Is cut when the terminal is too narrow."""
    wide: bool = False
    """Is shown only to who asks for it."""


def write_table(columns: Sequence[Column[T]], rows: Iterable[T], look: Look, *, whole: bool = False) -> int:
    """Write the rows under their titles to stdout, a page at a time; how many there were.

    On a terminal that is too narrow the last columns are left out, unless it is to be `whole`.
    """
    remaining = iter(rows)
    widths = [_width(column.title) for column in columns]
    n = 0
    while (page := [_cells(columns, row, look) for row in islice(remaining, _PAGE)]) or n == 0:
        for cells in page:
            widths = [max(width, _width(cell.text)) for width, cell in zip(widths, cells, strict=True)]
        if look.tty:
            widths = _fitted(columns, widths, look.width)
            while not whole and len(widths) > 1 and _line_width(widths) > look.width:
                widths = _fitted(columns, widths[:-1], look.width)
            columns = columns[: len(widths)]
        lines = [[Cell(column.title, "bright_black") for column in columns], *page] if n == 0 else page
        for cells in lines:
            click.echo(_line(columns, cells[: len(columns)], widths, look), color=True)
        n += len(page)
        if not page:
            break
    return n


def _cells(columns: Sequence[Column[T]], row: T, look: Look) -> list[Cell]:
    return [Cell(one_line(cell.text), cell.colour) for cell in cells_of(columns, row, look)]


def cells_of(columns: Sequence[Column[T]], row: T, look: Look) -> list[Cell]:
    """As they are, not made safe to show."""
    made = (column.cell(row, look) for column in columns)
    return [cell if isinstance(cell, Cell) else Cell(cell) for cell in made]


def _line(columns: Sequence[Column[T]], cells: list[Cell], widths: list[int], look: Look) -> str:
    parts = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        text = _cut(cell.text, width, look) if look.tty else cell.text
        blank = " " * (width - _width(text))
        painted = look.paint(text, cell.colour)
        parts.append(blank + painted if column.right else painted + blank)
    return "  ".join(parts).rstrip()


def _fitted(columns: Sequence[Column[T]], widths: list[int], available: int) -> list[int]:
    """Narrower where a column gives way, the widest first, until the line fits or nothing gives."""
    widths = list(widths)
    givers = [i for i in range(len(widths)) if columns[i].gives_way]
    while (over := _line_width(widths) - available) > 0:
        widest = max(givers, key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            break
        others = max((widths[i] for i in givers if i != widest), default=0)
        widths[widest] = max(_NARROWEST, min(widths[widest] - 1, max(others, widths[widest] - over)))
    return widths


def _line_width(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _cut(text: str, width: int, look: Look) -> str:
    if _width(text) <= width:
        return text
    end = "…" if look.symbols else "~"
    while text and _width(text) + 1 > width:
        text = text[:-1]
    return text + end


def _width(text: str) -> int:
    """How many cells of a terminal it takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


def write_fields(fields: Iterable[tuple[str, str | Cell]], look: Look) -> None:
    """Names and values below each other; a value without a text is left out, its lines are kept apart."""
    shown = [(name, value if isinstance(value, Cell) else Cell(value)) for name, value in fields]
    shown = [(name, cell) for name, cell in shown if cell.text]
    indent = 2 + max((len(name) for name, _ in shown), default=0)
    for name, cell in shown:
        for i, line in enumerate(clean(cell.text).splitlines()):
            title = (name if i == 0 else "").ljust(indent)
            click.echo(look.paint(title, "bright_black") + look.paint(line, cell.colour), color=True)
