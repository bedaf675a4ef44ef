"""How a result is written: as a table for people, or as JSON, YAML, CSV or ids for programs.

Documents say their schema; in them everything that is not printable ASCII is escaped, times are RFC 3339
in UTC, durations seconds, money exact dollars.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain, islice
from typing import Any, Generic, TypeVar

import click

from ..status import Record
from ..terminal import clean, one_line
from .output import Column, Look, cells_of, write_table

T = TypeVar("T", bound=Record)
Decorated = Callable[..., Any]

SCHEMA = "longshore/v1"
_OF_ONE = ("table", "json", "yaml")
_OF_MANY = ("table", "wide", "json", "jsonl", "yaml", "csv", "id")


class _Names(click.ParamType[tuple[str, ...]]):
    name = "names"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return tuple(filter(None, (each.strip().lower() for each in str(value).split(","))))


def output_option(command: Decorated) -> Decorated:
    """`-o` of a command that writes one thing; as `output`."""
    return _format_option(_OF_ONE)(command)


def list_options(command: Decorated) -> Decorated:
    """`-o` and `--columns` of a command that writes a list; as `output` and `columns`."""
    chosen = click.option(
        "--columns", type=_Names(), default="", metavar="NAME,NAME",
        help="Only these columns of table, wide or csv, in this order.",
    )  # fmt: skip
    return _format_option(_OF_MANY)(chosen(command))


def _format_option(formats: Sequence[str]) -> Callable[[Decorated], Decorated]:
    def preferred() -> str:
        wanted = os.environ.get("LONGSHORE_OUTPUT", "")
        return wanted if wanted in formats else formats[0]

    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=preferred,
        show_default="LONGSHORE_OUTPUT, or table",
        help="How to write the result.",
    )


@dataclass(frozen=True)
class Listing(Generic[T]):
    """What a list of such records is called, and what of them is shown."""

    one: str
    many: str
    columns: Sequence[Column[T]]
    id_of: Callable[[T], str]


def write_list(listing: Listing[T], records: Iterable[T], output: str, columns: Sequence[str] = ()) -> int:
    """Write the records as they come; how many there were. `columns`: their names, of a table or CSV.

    Raises UsageError, before the first record is asked for, when columns are chosen that there are not.
    """
    shown = _chosen(listing, output, columns)
    if output in ("table", "wide"):
        return write_table(shown, records, Look.of(sys.stdout), whole=output == "wide" or bool(columns))
    rest = iter(records)
    first = list(islice(rest, 1))  # Before anything is written: what cannot be read leaves no half document.
    written = _Counted(chain(first, rest))
    if output == "csv":
        _write_csv(shown, written)
    elif output == "id":
        for record in written:
            click.echo(one_line(listing.id_of(record)))
    elif output == "jsonl":
        for record in written:
            click.echo(json_line({"schema": SCHEMA, listing.one: plain(record)}))
            sys.stdout.flush()
    elif output == "yaml":
        _write_yaml_list(listing.many, written)
    else:
        _write_json_list(listing.many, written)
    return written.n


def write_one(key: str, record: Record | Mapping[str, object] | Sequence[object], output: str) -> None:
    """One document, JSON or YAML: `{"schema": …, key: record}`."""
    document = {"schema": SCHEMA, key: plain(record)}
    click.echo(json_text(document) if output == "json" else yaml_text(document), nl=output == "json")


def _chosen(listing: Listing[T], output: str, names: Sequence[str]) -> list[Column[T]]:
    if not names:
        return [column for column in listing.columns if output != "table" or not column.wide]
    if output not in ("table", "wide", "csv"):
        raise click.UsageError(f"--columns are those of table, wide and csv; {output} is always whole")
    by_name = {column.title.lower(): column for column in listing.columns}
    if unknown := [name for name in names if name not in by_name]:
        raise click.UsageError(f"there is no column {unknown[0]!r}; there are: {', '.join(by_name)}")
    return [by_name[name] for name in names]


class _Counted(Iterator[T]):
    def __init__(self, records: Iterator[T]) -> None:
        self.n = 0
        self._records = records

    def __next__(self) -> T:
        record = next(self._records)
        self.n += 1
        return record


def plain(value: Any) -> Any:
    """A status for JSON: milliseconds become seconds (`duration_ms`: `duration_s`), money exact dollars."""
    if isinstance(value, Record):
        return dict(_plain_item(key, value[key]) for key in value if not key.endswith("_nanousd"))
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, date):
        return value.isoformat()
    return value


def _plain_item(key: str, value: Any) -> tuple[str, Any]:
    if key in ("cost", "unfinished_cost"):
        return key, {"usd": value}
    if key.endswith("_ms"):
        return f"{key[:-3]}_s", None if value is None else Decimal(value).scaleb(-3)
    return key, plain(value)


def rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# JSON.


def json_text(document: object) -> str:
    """JSON in which decimals keep all their digits, and which no terminal minds."""
    return "".join(_json(document, "\n"))


def json_line(document: object) -> str:
    """The same on one line."""
    return "".join(_json(document, ""))


def _write_json_list(key: str, records: Iterable[Record]) -> None:
    click.echo(f'{{\n  "schema": "{SCHEMA}",\n  "{key}": [', nl=False)
    comma = ""
    for record in records:
        click.echo(comma + "\n    " + "".join(_json(plain(record), "\n    ")), nl=False)
        comma = ","
    click.echo("\n  ]\n}" if comma else "]\n}")


def _json(value: object, newline: str) -> Iterator[str]:
    if isinstance(value, (Mapping, list)) and value:
        opening, closing = ("{", "}") if isinstance(value, Mapping) else ("[", "]")
        pairs = value.items() if isinstance(value, Mapping) else ((None, each) for each in value)
        deeper = f"{newline}  " if newline else ""
        for i, (key, each) in enumerate(pairs):
            yield ("," if i else opening) + deeper if newline else ", " if i else opening
            if key is not None:
                yield _escaped(key) + ": "
            yield from _json(each, deeper)
        yield newline + closing
    elif isinstance(value, Decimal):
        yield _number(value)
    else:
        yield _escaped(value)


def _escaped(value: object) -> str:
    return json.dumps(value).replace("\x7f", "\\u007f")


def _number(value: Decimal) -> str:
    whole, _, fraction = f"{value:f}".partition(".")
    return f"{whole}.{fraction.rstrip('0') or '0'}"


# YAML, CSV.


def yaml_text(document: object) -> str:
    """YAML, otherwise as `json_text`; lines of a text stand below each other where that is safe."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    def of_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def of_number(dumper: yaml.SafeDumper, value: Decimal) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:float", _number(value))

    Dumper.add_representer(str, of_text)
    Dumper.add_representer(Decimal, of_number)
    text: str = yaml.dump(document, Dumper=Dumper, sort_keys=False, width=100)
    return text


def _write_yaml_list(key: str, records: Iterable[Record]) -> None:
    click.echo(f"schema: {SCHEMA}")
    none = True
    for record in records:
        if none:
            click.echo(f"{key}:")
        none = False
        click.echo(yaml_text([plain(record)]), nl=False)
    if none:
        click.echo(f"{key}: []")


def _write_csv(columns: Sequence[Column[T]], records: Iterable[T]) -> None:
    """Titles in lower case, then whole values without signs of units; CRLF only where a text has it."""
    look = Look(bare=True)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([column.title.lower() for column in columns])
    for record in records:
        writer.writerow([clean(cell.text) for cell in cells_of(columns, record, look)])
