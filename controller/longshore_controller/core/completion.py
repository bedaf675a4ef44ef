"""PURE. How a query that is being written may go on: what stands before the cursor, and which words fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from longshore_controller.core.language import ATTRIBUTE, LABEL, NUMBER, OPERATORS, STATE, TEXT, Kind, Subject
from longshore_controller.core.query import lowered

MOST = 50
"""Of what is offered."""


class Written(NamedTuple):
    """The piece before the cursor that is to be completed."""

    first: int
    text: str
    field: str
    """Whose value it is; empty: it is the beginning of a field."""
    attribute: str = ""
    """Of ``attr``: which. Empty where the name of one is written."""


class Completion(NamedTuple):
    """What could stand there instead."""

    text: str
    n: int | None = None
    """How many there are of it, of what was looked at."""


EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "dur": ("10m", "1h", "1d"),
    "cost": ("0.01", "1.00", "10.00"),
    "created": ("-1h", "-1d", "-7d"),
    "started": ("-10m", "-1h", "-1d"),
    "ended": ("-10m", "-1h", "-1d"),
    "cpu": ("1", "4", "16"),
    "mem": ("3.75G", "15G"),
    "attempts": ("1", "2"),
    "preempted": ("0", "1"),
    "jobs": ("100", "1000"),
    "failed": ("0", "1"),
}
"""Of what is not counted: how values are written."""

_NAME = r'attr\.(?:[\w.-]+|"(?:[^"\\]|\\.)*")|[A-Za-z][A-Za-z0-9_.]*'
_BEGIN = r"(?:^|(?<=[\s(]))[-]?"
_VALUE = re.compile(
    rf'{_BEGIN}({_NAME}){OPERATORS}((?:(?:[^\s"(),]+|"(?:[^"\\]|\\.)*"),)*)("[^"]*|[^\s"(),]*)\Z'
)
_WORD = re.compile(rf"{_BEGIN}([A-Za-z][\w.-]*|)\Z")


def written(text: str, cursor: int, subject: Subject) -> Written | None:
    """None: nothing that is known goes on from there."""
    head = text[:cursor]
    if (value := _VALUE.search(head)) is not None:
        name, _, attribute = value[1].partition(".")
        field = subject.called(value[1]) or (ATTRIBUTE if name.lower() == ATTRIBUTE else None)
        if field is None or (field == ATTRIBUTE and not attribute):
            return None
        attribute = attribute.strip('"') if field == ATTRIBUTE else ""
        return Written(value.start(4), value[4], field, attribute)
    if head.count('"') % 2 or (word := _WORD.search(head)) is None:
        return None
    if word[1].lower().startswith(f"{ATTRIBUTE}."):
        return Written(word.start(1), word[1], ATTRIBUTE)
    return Written(word.start(1), word[1], "")


def of_fields(before: Written, subject: Subject) -> list[Completion]:
    """The fields that begin like that, as they are written with the operator that is asked most."""

    def begun(name: str, kind: Kind) -> str:
        if name == ATTRIBUTE:
            return f"{name}."
        return f"{name}:" if kind in (STATE, TEXT, LABEL, NUMBER) else f"{name}>"

    return [
        Completion(begun(name, kind))
        for name, kind in subject.fields.items()
        if name.startswith(before.text.lower())
    ]


def of_attributes(before: Written, names: Counter[str]) -> list[Completion]:
    found = {f"{ATTRIBUTE}.{spelled(name)}=": n for name, n in names.items()}
    return _fitting(found, before.text)


def of_values(before: Written, values: Mapping[str, int | None]) -> list[Completion]:
    """The most frequent first."""
    return _fitting({spelled(value): n for value, n in values.items()}, before.text)


def spelled(value: str) -> str:
    """As it must be written to be read as one value."""
    if re.fullmatch(r"[\w.+/@-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def counted_words(states: Iterable[tuple[frozenset[str], int]], subject: Subject) -> dict[str, int | None]:
    """How many are there of each word of ``state:``; of those that say something of any."""
    n = Counter[str]()
    for words, how_many in states:
        for word in words:
            n[word] += how_many
    return {word: n[word] for word in subject.states}


def _fitting(found: Mapping[str, int | None], begun: str) -> list[Completion]:
    begun = lowered(begun.lstrip('"'))
    fitting = [
        Completion(text, n) for text, n in found.items() if lowered(text.lstrip('"')).startswith(begun)
    ]
    return sorted(fitting, key=lambda completion: -(completion.n or 0))[:MOST]
