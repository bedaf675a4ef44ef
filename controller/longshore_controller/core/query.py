"""PURE. Which jobs or batches people want to see, as a tree of conditions; `language.py` reads it from text.

`Query.matches` decides. The store leaves out beforehand what its own conditions, made of the same tree,
can tell apart; so a pattern, and letters beyond ASCII in any case, mean the same in every database.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import re2  # type: ignore[import-untyped]

from longshore_controller.core.model import BatchState, JobState

Item = Mapping[str, Any]
"""What a query asks of a job or a batch, by the field's name: all that is in `Query.asks`, at least.

``state`` is the set of its words, ``attr`` a dictionary; moments and times are ms, ``cost`` is nano-dollars,
``cpu`` thousandths of a core, ``mem`` bytes. None: there is none, and no condition but its opposite holds.
"""

MAX_LOOKED_AT = 1_024
"""Characters of one text that a pattern looks at."""
_PATTERN_BYTES = 16 << 10
"""What a pattern may take when it is compiled, which bounds what looking at one character costs."""

LASTING = frozenset({"id", "name", "cpu", "mem", "attr"})
"""Fields of a job that never change."""


class Field(NamedTuple):
    name: str
    attribute: str = ""
    """Of ``attr``: which."""

    def of(self, item: Item) -> Any:
        value = item[self.name]
        return value.get(self.attribute) if self.name == "attr" else value


@dataclass(frozen=True, slots=True)
class Word:
    """Occurs in the name, in any case; or is the id."""

    text: str
    """`lowered`."""
    number: int | None = None

    def matches(self, item: Item) -> bool:
        return (self.number is not None and self.number == item["id"]) or self.text in lowered(item["name"])


@dataclass(frozen=True, slots=True)
class InState:
    words: frozenset[str]

    def matches(self, item: Item) -> bool:
        return not self.words.isdisjoint(item["state"])


@dataclass(frozen=True, slots=True)
class Within:
    """A number in one of these ranges, both ends included; None: without end."""

    field: Field
    ranges: tuple[tuple[int | None, int | None], ...]

    def matches(self, item: Item) -> bool:
        value = self.field.of(item)
        return value is not None and any(
            (low is None or low <= value) and (high is None or value <= high) for low, high in self.ranges
        )


@dataclass(frozen=True, slots=True)
class Contains:
    """One of these occurs in a text, in any case."""

    field: Field
    texts: tuple[str, ...]
    """`lowered`."""

    def matches(self, item: Item) -> bool:
        if (value := self.field.of(item)) is None:
            return False
        value = lowered(value)
        return any(text in value for text in self.texts)


@dataclass(frozen=True, slots=True)
class Equals:
    """A text is one of these, letter by letter."""

    field: Field
    texts: tuple[str, ...]

    def matches(self, item: Item) -> bool:
        return self.field.of(item) in self.texts


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression finds something in a text, in a time that grows with the text's length alone."""

    field: Field
    expression: str
    compiled: Any = dataclasses.field(compare=False, repr=False)

    def matches(self, item: Item) -> bool:
        value = self.field.of(item)
        return value is not None and self.compiled.search(value[:MAX_LOOKED_AT]) is not None


@dataclass(frozen=True, slots=True)
class Not:
    term: Node

    def matches(self, item: Item) -> bool:
        return not self.term.matches(item)


@dataclass(frozen=True, slots=True)
class All:
    terms: tuple[Node, ...]

    def matches(self, item: Item) -> bool:
        return all(term.matches(item) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Either:
    terms: tuple[Node, ...]

    def matches(self, item: Item) -> bool:
        return any(term.matches(item) for term in self.terms)


Node = Word | InState | Within | Contains | Equals | Pattern | Not | All | Either


@dataclass(frozen=True)
class Query:
    """What was asked for: all of these terms. Without terms: everything."""

    terms: tuple[Node, ...] = ()

    def matches(self, item: Item) -> bool:
        return all(term.matches(item) for term in self.terms)

    @cached_property
    def asks(self) -> frozenset[str]:
        """The fields that an item must have."""
        return asked(self.terms)

    @property
    def asks_owner(self) -> bool:
        """Not only the viewer's own batches are meant, but all that they may see."""
        return not self.asks.isdisjoint(("user", "project"))

    @property
    def asks_states_alone(self) -> bool:
        return self.asks <= {"state"}

    @property
    def lasting(self) -> Query:
        """The part whose answer never changes for a job: what matches is among what matches this."""
        return Query(tuple(term for term in self.terms if asked([term]) <= LASTING))

    @property
    def is_apart(self) -> bool:
        """Of a job: each term asks for states alone, or only for what never changes."""
        return all(asked([term]) <= LASTING or asked([term]) <= {"state"} for term in self.terms)

    @property
    def job_states(self) -> frozenset[JobState]:
        """A job that matches is in one of these; if only states are asked for, also the other way round."""
        return frozenset(state for state in JobState if _could(All(self.terms), state, holds=True))

    def in_states(self, states: Iterable[JobState]) -> Query:
        """The same of jobs in these states; of none given: of all."""
        words = frozenset(state.name.lower() for state in states)
        return Query((*self.terms, InState(words))) if words else self


def pattern(field: Field, expression: str) -> Pattern:
    """ValueError says what is wrong with it."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_BYTES
    options.never_capture = True
    try:
        return Pattern(field, expression, re2.compile(expression, options))
    except re2.error as wrong:
        said = wrong.args[0] if wrong.args else b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise ValueError(text or "it cannot be read") from None


def asked(terms: Iterable[Node]) -> frozenset[str]:
    """The fields of items that these look at."""
    fields: set[str] = set()
    for term in terms:
        match term:
            case Word(_, number):
                fields |= {"name"} if number is None else {"name", "id"}
            case InState():
                fields.add("state")
            case Not(inner):
                fields |= asked([inner])
            case All(inner) | Either(inner):
                fields |= asked(inner)
            case _:
                fields.add(term.field.name)
    return frozenset(fields)


_KEPT = re.compile("[^İ\N{KELVIN SIGN}]+")


def lowered(text: str) -> str:
    """In small letters. None that is not ASCII becomes one that is: on ASCII the databases agree."""
    return text.lower() if text.isascii() else _KEPT.sub(lambda part: part[0].lower(), text)


def _could(node: Node, state: JobState, *, holds: bool) -> bool:
    """It may hold of some job in that state; or, not ``holds``, may not."""
    match node:
        case InState(words):
            return words.isdisjoint(JOB_WORDS[state]) is not holds
        case Within(Field("exit")) if holds:
            ended = (JobState.FAILURE, JobState.ERROR)
            return state in ended or (state is JobState.SUCCESS and node.matches({"exit": 0}))
        case Not(inner):
            return _could(inner, state, holds=not holds)
        case All(terms) | Either(terms):
            could = [_could(term, state, holds=holds) for term in terms]
            return all(could) if isinstance(node, All) is holds else any(could)
        case _:
            return True


# -- words of states ---------------------------------------------------------------------------------


def _words_of_job(state: JobState) -> Iterable[str]:
    yield state.name.lower()
    if state in (JobState.FAILURE, JobState.ERROR):
        yield "bad"
    if state in (JobState.READY, JobState.RUNNING):
        yield "live"
    if state.is_complete:
        yield "done"


def _words_of_batch(state: BatchState, complete: bool) -> Iterable[str]:
    yield state.name.lower()
    if state is BatchState.FAILURE:
        yield "bad"
    yield "done" if complete else "live"


JOB_WORDS = {state: frozenset(_words_of_job(state)) for state in JobState}
"""All words of ``state:`` that hold of a job."""
BATCH_WORDS = {
    (state, complete): frozenset(_words_of_batch(state, complete))
    for state in BatchState
    for complete in (False, True)
}
"""The same of a batch, which is complete or not."""
