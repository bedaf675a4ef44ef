"""PURE. The language in which people say which jobs or batches they want to see.

    query = { term }                    all must match; between them is space of any kind
    term  = ["-"] ( word | number | "any words" | field value )
    field = "state:"                    value: one or several of its words, with commas between

A word occurs in the name, in any case; a number is also the id. What later fields, alternatives, groups
and patterns will look like (``exit:137``, ``cost>=1``, ``OR``, ``( )``, ``/…/``, ``~…``) is refused today
outside of quotes, so that no query will ever change what it means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple, NoReturn

from longshore_controller.core.model import BatchState, JobState

MAX_LENGTH = 1_000
MAX_TERMS = 50


class QueryError(Exception):
    """A query that cannot be read: what is wrong, where, and what was probably meant."""

    def __init__(self, what: str, position: int, length: int, meant: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.position = position
        """Of its first character, from 0."""
        self.length = length
        self.meant = meant
        """To stand there instead."""

    def __str__(self) -> str:
        meant = f"; did you mean {self.meant}?" if self.meant else ""
        return f"character {self.position + 1}: {self.what}{meant}"


class Item(NamedTuple):
    """What a query can ask of a job or a batch."""

    id: int
    name: str
    states: frozenset[str]
    """All words of ``state:`` that hold of it."""


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    """In small letters."""
    number: int | None = None

    def matches(self, item: Item) -> bool:
        return self.number == item.id or self.text in item.name.lower()


@dataclass(frozen=True, slots=True)
class InState:
    words: frozenset[str]

    def matches(self, item: Item) -> bool:
        return not self.words.isdisjoint(item.states)


@dataclass(frozen=True, slots=True)
class Not:
    term: Word | InState

    def matches(self, item: Item) -> bool:
        return not self.term.matches(item)


Term = Word | InState | Not


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked for. Without terms: everything."""

    terms: tuple[Term, ...] = ()

    def matches(self, item: Item) -> bool:
        return all(term.matches(item) for term in self.terms)

    @property
    def asks_owner(self) -> bool:
        """Not only the viewer's own batches are meant, but all that they may see."""
        return False

    @property
    def asks_states(self) -> bool:
        """It may match something now and not later."""
        return any(isinstance(_inner(term), InState) for term in self.terms)

    @property
    def asks_names(self) -> bool:
        return any(isinstance(_inner(term), Word) for term in self.terms)

    @property
    def job_states(self) -> frozenset[JobState]:
        """A job that matches is in one of these; and if no name is asked for, the other way round."""
        asked = [term for term in self.terms if isinstance(_inner(term), InState)]
        return frozenset(
            state for state in JobState if all(term.matches(job_item(0, "", state)) for term in asked)
        )

    @property
    def of_names(self) -> Query:
        """The part whose answer never changes: what matches is among what matches this."""
        return Query(tuple(term for term in self.terms if isinstance(_inner(term), Word)))

    @property
    def words(self) -> list[tuple[str, int | None]]:
        """Whatever matches has each of these in its name, in any case, or that id."""
        return [(term.text, term.number) for term in self.terms if isinstance(term, Word)]


def parse_for_jobs(text: str) -> Query:
    """QueryError."""
    return _parse(text, "job", _JOB_WORDS)


def parse_for_batches(text: str) -> Query:
    """QueryError."""
    return _parse(text, "batch", _BATCH_WORDS)


def job_item(job_id: int, name: str, state: JobState) -> Item:
    return Item(job_id, name, _JOB_STATES[state])


def batch_item(batch_id: int, name: str, state: BatchState, *, complete: bool) -> Item:
    return Item(batch_id, name, _BATCH_STATES[state, complete])


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


_JOB_STATES = {state: frozenset(_words_of_job(state)) for state in JobState}
_BATCH_STATES = {
    (state, complete): frozenset(_words_of_batch(state, complete))
    for state in BatchState
    for complete in (False, True)
}


def _in_order(used: Iterable[frozenset[str]], names: Iterable[str]) -> tuple[str, ...]:
    """First the states, then the groups."""
    names = list(names)
    return (*names, *sorted(frozenset[str]().union(*used) - set(names)))


_JOB_WORDS = _in_order(_JOB_STATES.values(), (s.name.lower() for s in JobState))
_BATCH_WORDS = _in_order(_BATCH_STATES.values(), (s.name.lower() for s in BatchState))


# -- reading -----------------------------------------------------------------------------------------

_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9_.]*)(==|=~|!=|!~|>=|<=|[:=<>])")
_BARE = re.compile(r'[^\s"()]+')
_RESERVED = re.compile(r"[()~/]|(?:AND|OR|NOT)(?![^\s()])")


@lru_cache(256)
def _parse(text: str, subject: str, states: tuple[str, ...]) -> Query:
    if len(text) > MAX_LENGTH:
        raise QueryError(f"at most {MAX_LENGTH:,} characters, got {len(text):,}", MAX_LENGTH, 1)
    if "\0" in text:
        raise QueryError("a NUL character", text.index("\0"), 1)
    terms: list[Term] = []
    at = _after(_SPACE, text, 0)
    while at < len(text):
        if len(terms) == MAX_TERMS:
            raise QueryError(f"at most {MAX_TERMS} terms", at, len(text) - at)
        term, at = _Reading(text, subject, states).term(at)
        terms.append(term)
        at = _after(_SPACE, text, at)
    return Query(tuple(terms))


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


@dataclass(frozen=True, slots=True)
class _Reading:
    """Each method reads what begins at a position; it returns that and where it ends."""

    text: str
    subject: str
    states: tuple[str, ...]

    def term(self, at: int) -> tuple[Term, int]:
        if self.text[at] == "-":
            if not self.text[at + 1 : at + 2].strip():
                raise QueryError("a term must follow the '-'", at, 1, '"-"')
            term, end = self._positive(at + 1)
            return Not(term), end
        return self._positive(at)

    def _positive(self, at: int) -> tuple[Word | InState, int]:
        text = self.text
        if text[at] == '"':
            words, end = self._quoted(at)
            if not words:
                raise QueryError("nothing between the quotes", at, end - at)
            return Word(words.lower()), end
        if (reserved := _RESERVED.match(text, at)) is not None:
            end = max(reserved.end(), _after(_BARE, text, at))
            self._refuse(f"{reserved[0]!r} has no meaning here yet", at, end)
        if (field := _FIELD.match(text, at)) is not None:
            return self._field(field)
        bare = _BARE.match(text, at)
        assert bare is not None  # Neither space nor any of the characters above.
        word = bare[0]
        number = int(word) if word.isdecimal() and len(word) < 20 else None
        return Word(word.lower(), number), bare.end()

    def _quoted(self, at: int) -> tuple[str, int]:
        found = _QUOTED.match(self.text, at)
        if found is None:
            raise QueryError("the quote is not closed", at, len(self.text) - at, self.text[at:] + '"')
        return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL), found.end()

    def _field(self, field: re.Match[str]) -> tuple[InState, int]:
        name, operator = field.groups()
        end = _after(_BARE, self.text, field.end()) if field.end() < len(self.text) else field.end()
        if name.lower() not in _FIELDS:
            near = get_close_matches(name.lower(), _FIELDS, 1)
            value = self.text[field.end() : end]
            meant = f"{near[0]}:{value}" if near else None
            self._refuse(f"{name!r} is not a field; there is {', '.join(_FIELDS)}", field.start(), end, meant)
        if operator not in (":", "="):
            what = f"{name}{operator} cannot be asked"
            raise QueryError(what, field.start(), field.end() - field.start(), f"{name}:")
        return _FIELDS[name.lower()](self, field.end())

    def _state(self, at: int) -> tuple[InState, int]:
        known = ", ".join(self.states)
        if self.text[at : at + 1] == '"':
            value, end = self._quoted(at)
            at += 1
        else:
            end = _after(_BARE, self.text, at)
            value = self.text[at:end]
        words: set[str] = set()
        for word in value.split(","):
            if not word:
                raise QueryError(f"the name of a state is missing: {known}", at, 1)
            if word.lower() not in self.states:
                near = get_close_matches(word.lower(), self.states, 1)
                what = f"{word!r} is no state of a {self.subject}; they are {known}"
                raise QueryError(what, at, len(word), *near)
            words.add(word.lower())
            at += len(word) + 1
        return InState(frozenset(words)), end

    def _refuse(self, what: str, at: int, end: int, meant: str | None = None) -> NoReturn:
        """As a word, it can be asked for in quotes."""
        quoted = self.text[at:end].replace("\\", "\\\\").replace('"', '\\"')
        raise QueryError(what, at, end - at, meant or f'"{quoted}"')


_FIELDS: dict[str, Callable[[_Reading, int], tuple[InState, int]]] = {"state": _Reading._state}


def _inner(term: Term) -> Word | InState:
    return term.term if isinstance(term, Not) else term
