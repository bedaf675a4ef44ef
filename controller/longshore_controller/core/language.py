"""PURE. The language in which people say which jobs or batches they want to see, as text.

    query  = { line }                    all must match; a line ends where no parenthesis is open
    line   = some { "OR" some }          one of them
    some   = term { ["AND"] term }       all of them
    term   = [ "-" | "NOT" ] ( "(" query ")" | word | number | "any words" | field operator values )
    values = value { "," value }         one of them

A word occurs in the name, in any case; a number is also the id. Spaces may stand around every operator but
the colon. What one day might mean something else (``/…/``, ``~…``) is refused outside of quotes, so that no
query will ever change what it means.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple, NoReturn

from longshore_controller.core import amounts
from longshore_controller.core.amounts import Range
from longshore_controller.core.query import (
    BATCH_WORDS,
    JOB_WORDS,
    All,
    Contains,
    Either,
    Equals,
    Field,
    InState,
    Node,
    Not,
    Query,
    Within,
    Word,
    lowered,
    pattern,
)

MAX_LENGTH = 1_000
MAX_TERMS = 50
MAX_DEPTH = 20
MAX_PATTERN = 200


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


class Kind(NamedTuple):
    """What the values of a field are."""

    operators: tuple[str, ...]
    read: Callable[[str, int], Range] | None = None
    """A value or range of values that have an order, at a time. ValueError."""


_ORDERED = (":", "=", "==", "!=", ">", ">=", "<", "<=")
STATE = Kind((":", "=", "==", "!="))
TEXT = Kind((":", "=", "==", "!=", "=~", "!~"))
"""``:`` means: occurs in it, in any case."""
LABEL = Kind(TEXT.operators)
"""``:`` means: is it."""
NUMBER = Kind(_ORDERED, amounts.number)
CORES = Kind(_ORDERED, amounts.cores)
BYTES = Kind(_ORDERED, amounts.size)
TIME = Kind(_ORDERED, amounts.time)
MONEY = Kind(_ORDERED, amounts.money)
MOMENT = Kind(_ORDERED, amounts.moment)

ATTRIBUTE = "attr"
JOB_FIELDS = {
    "state": STATE,
    "name": TEXT,
    "id": NUMBER,
    "exit": NUMBER,
    "reason": TEXT,
    "dur": TIME,
    "cost": MONEY,
    "attempts": NUMBER,
    "preempted": NUMBER,
    "cpu": CORES,
    "mem": BYTES,
    "started": MOMENT,
    "ended": MOMENT,
    ATTRIBUTE: TEXT,
}
BATCH_FIELDS = {
    "state": STATE,
    "name": TEXT,
    "id": NUMBER,
    "user": LABEL,
    "project": LABEL,
    "cost": MONEY,
    "dur": TIME,
    "created": MOMENT,
    "ended": MOMENT,
    "jobs": NUMBER,
    "failed": NUMBER,
    ATTRIBUTE: TEXT,
}
ALIASES = {
    "exit_code": "exit",
    "duration": "dur",
    "memory": "mem",
    "cores": "cpu",
    "batch_id": "id",
    "job_id": "id",
    "batch": "id",
    "job": "id",
    "billing_project": "project",
    "start_time": "started",
    "end_time": "ended",
    "completed": "ended",
    "n_jobs": "jobs",
    "n_failed": "failed",
}


class Subject(NamedTuple):
    """What is asked for."""

    name: str
    fields: dict[str, Kind]
    states: tuple[str, ...]

    @property
    def shown(self) -> list[str]:
        """The names of fields, as people write them."""
        return [f"{name}.NAME" if name == ATTRIBUTE else name for name in self.fields]

    def called(self, name: str) -> str | None:
        """The field that goes by a name; None: there is none."""
        name = name.lower()
        name = ALIASES.get(name, name)
        return name if name in self.fields else None


def _in_order(words: dict[str, None]) -> tuple[str, ...]:
    """First the states, then the groups."""
    return tuple(sorted(words, key=lambda word: word in ("bad", "live", "done")))


JOBS = Subject(
    "job",
    JOB_FIELDS,
    _in_order({s.name.lower(): None for s in JOB_WORDS} | dict.fromkeys(("bad", "done", "live"))),
)
BATCHES = Subject(
    "batch",
    BATCH_FIELDS,
    _in_order({s.name.lower(): None for s, _ in BATCH_WORDS} | dict.fromkeys(("bad", "done", "live"))),
)


def parse_for_jobs(text: str, now_ms: int = 0) -> Query:
    """``now_ms``: to count ``-2d`` from. QueryError."""
    return parse(text, JOBS, now_ms)


def parse_for_batches(text: str, now_ms: int = 0, me: str = "") -> Query:
    """``me``: whom ``user:me`` means. QueryError."""
    return parse(text, BATCHES, now_ms, me)


def parse(text: str, subject: Subject, now_ms: int = 0, me: str = "") -> Query:
    """QueryError."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"at most {MAX_LENGTH:,} characters, got {len(text):,}", MAX_LENGTH, 1)
    if (wrong := _UNWRITABLE.search(text)) is not None:
        what = "a NUL character" if wrong[0] == "\0" else "half a character"
        raise QueryError(what, wrong.start(), 1)
    return Query(tuple(_Reading(text, subject, now_ms, me).query()))


# -- reading -----------------------------------------------------------------------------------------

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_SPACE = re.compile(r"\s*")
_IN_LINE = re.compile(r"[^\S\r\n]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
OPERATORS = r"(==|=~|!=|!~|>=|<=|[:=<>])"
_FIELD = re.compile(rf"(attr\.(?:[\w.-]+|{_QUOTED.pattern})|[A-Za-z][A-Za-z0-9_.]*){OPERATORS}", re.DOTALL)
_SPACED = re.compile(
    rf"(attr\.(?:[\w.-]+|{_QUOTED.pattern})|[A-Za-z][A-Za-z0-9_.]*)[^\S\r\n]+"
    r'(==|=~|!=|!~|>=|<=|[=<>])(?=[\s"\w$.-])',
    re.DOTALL,
)
_BARE = re.compile(r'[^\s"()]+')
_KEYWORD = re.compile(r"(AND|OR|NOT)(?![^\s()])")
_LATER = re.compile(r"[~/]")


@dataclass(slots=True)
class _Reading:
    """Goes through the text once; each method reads what begins at `at` and leaves it behind."""

    text: str
    subject: Subject
    now_ms: int
    me: str
    at: int = 0
    n_terms: int = 0
    depth: int = 0

    def query(self) -> list[Node]:
        """Up to the end; or in a parenthesis, up to where it is closed."""
        lines: list[Node] = []
        self._skip(_SPACE)
        while self._more():
            line = self._line()
            lines += line.terms if isinstance(line, All) else (line,)
            self._skip(_SPACE)
        if self.at < len(self.text) and not self.depth:
            raise QueryError("no parenthesis is open here", self.at, 1, '")"')
        return lines

    def _line(self) -> Node:
        alternatives = [self._some()]
        while self._keyword("OR"):
            alternatives.append(self._some("OR"))
        return alternatives[0] if len(alternatives) == 1 else Either(tuple(alternatives))

    def _some(self, after: str = "") -> Node:
        """Terms up to the line's end, an OR or the end of a parenthesis; at least one."""
        terms: list[Node] = []
        while True:
            began = self.at
            self._blank()
            if terms and self._keyword("AND"):
                after = "AND"
                self._blank()
            elif terms and (not self._more() or self._crossed(began) or self._is_next("OR")):
                return All(tuple(terms)) if len(terms) > 1 else terms[0]
            word = after
            if self._more() and (found := _KEYWORD.match(self.text, self.at)) and found[0] != "NOT":
                word, began = found[0], self.at
            elif self._more() and not self._crossed(began):
                word = ""
            if word:
                at = self.text.find(word, max(0, began - len(word)))
                raise QueryError(f"{word!r} stands between two terms", at, len(word), f'"{word}"')
            terms.append(self._term())
            after = ""

    def _term(self) -> Node:
        if self.n_terms == MAX_TERMS:
            raise QueryError(f"at most {MAX_TERMS} terms", self.at, len(self.text) - self.at)
        at = self.at
        if self.text[at] == "-":
            if not self.text[at + 1 : at + 2].strip():
                raise QueryError("a term must follow the '-'", at, 1, '"-"')
            self.at += 1
            return Not(self._positive())
        if self._keyword("NOT"):
            self._blank()
            if not self._more() or _KEYWORD.match(self.text, self.at):
                raise QueryError("a term must follow 'NOT'", at, 3, '"NOT"')
            return Not(self._term())
        return self._positive()

    def _positive(self) -> Node:
        text, at = self.text, self.at
        if text[at] == "(":
            return self._group()
        if text[at] == ")":
            raise QueryError("a term is missing here", at, 1, '")"')
        self.n_terms += 1
        if text[at] == '"':
            words = self._quoted()
            if not words:
                raise QueryError("nothing between the quotes", at, self.at - at)
            return Word(lowered(words))
        if (reserved := _LATER.match(text, at) or _KEYWORD.match(text, at)) is not None:
            self._refuse(
                f"{reserved[0]!r} has no meaning here yet", at, max(reserved.end(), self._end_of_bare(at))
            )
        if (field := _FIELD.match(text, at) or _SPACED.match(text, at)) is not None:
            return self._field(field)
        word = text[at : self._end_of_bare(at)]
        self.at += len(word)
        number = int(word) if word.isdecimal() and len(word) < 20 else None
        return Word(lowered(word), number if number is not None and number <= amounts.MOST else None)

    def _group(self) -> Node:
        opened = self.at
        if self.depth == MAX_DEPTH:
            raise QueryError(f"at most {MAX_DEPTH} parentheses in each other", opened, 1)
        self.depth += 1
        self.at += 1
        terms = self.query()
        self.depth -= 1
        if self.at == len(self.text):
            what = self.text[opened:]
            raise QueryError("the parenthesis is not closed", opened, len(what), what.rstrip() + ")")
        self.at += 1
        if not terms:
            raise QueryError("nothing between the parentheses", opened, self.at - opened)
        return terms[0] if len(terms) == 1 else All(tuple(terms))

    # -- fields ------------------------------------------------------------------------------------

    def _field(self, found: re.Match[str]) -> Node:
        written, operator = found[1], found[found.lastindex or 0]
        at = self.at
        self.at = found.end()
        name, _, attribute = written.partition(".")
        if name.lower() == ATTRIBUTE and attribute:
            if attribute[0] == '"':
                attribute = _unquoted(attribute[1:-1])
            field = Field(ATTRIBUTE, attribute)
        else:
            field = Field(self._known(written, at, operator))
        kind = self.subject.fields[field.name]
        if operator not in kind.operators:
            what = f"{written}{operator} cannot be asked; there is {', '.join(kind.operators)}"
            raise QueryError(what, at, self.at - at, f"{written}:")
        if operator != ":":
            self._skip(_IN_LINE)
        if operator in ("=~", "!~"):
            condition: Node = self._pattern(field)
        elif kind is STATE:
            condition = self._states()
        elif kind.read is None:
            condition = self._texts(field, occurs=kind is TEXT and operator == ":")
        else:
            condition = self._ranges(field, kind.read, operator)
        return Not(condition) if operator.startswith("!") else condition

    def _known(self, written: str, at: int, operator: str) -> str:
        name = self.subject.called(written)
        if name is not None and name != ATTRIBUTE:
            return name
        end = self._end_of_bare(self.at)
        value = self.text[self.at : end]
        shown = self.subject.shown
        if name == ATTRIBUTE:
            self._refuse("the name of the attribute is missing", at, end, f"attr.NAME{operator}{value}")
        near = get_close_matches(written.lower(), [*self.subject.fields, *ALIASES], 1, 0.7)
        meant = None
        if self.text[at + len(written)].isspace():  # As where attributes are asked for by their names.
            end, meant = self.at, f"attr.{written} {operator}"
        elif near and (called := self.subject.called(near[0])):
            meant = f"{called}{operator}{value}" if called != ATTRIBUTE else None
        what = f"{written!r} is not a field of a {self.subject.name}; there is {', '.join(shown)}"
        self._refuse(what, at, end, meant)

    def _states(self) -> Node:
        known = ", ".join(self.subject.states)
        at = self.at
        if self.text[at : at + 1] == '"':
            value = self._quoted()
            at += 1
        else:
            self.at = self._end_of_bare(at)
            value = self.text[at : self.at]
        words: set[str] = set()
        for word in value.split(","):
            if not word:
                raise QueryError(f"the name of a state is missing: {known}", at, 1)
            if word.lower() not in self.subject.states:
                near = get_close_matches(word.lower(), self.subject.states, 1)
                what = f"{word!r} is no state of a {self.subject.name}; they are {known}"
                raise QueryError(what, at, len(word), *near)
            words.add(word.lower())
            at += len(word) + 1
        return InState(frozenset(words))

    def _texts(self, field: Field, *, occurs: bool) -> Node:
        texts = [text for text, _, _ in self._values()]
        if occurs:
            return Contains(field, tuple(map(lowered, texts)))
        if field.name == "user" and self.me:
            texts = [self.me if text == "me" else text for text in texts]
        return Equals(field, tuple(texts))

    def _ranges(self, field: Field, read: Callable[[str, int], Range], operator: str) -> Node:
        ranges: list[tuple[int | None, int | None]] = []
        ordered = operator[0] in "<>"
        values = self._values()
        for value, at, length in values:
            try:
                if ordered:
                    if len(values) > 1:
                        raise amounts.Unreadable(f"one value, got {len(values)}")
                    ranges.append(amounts.beyond(operator, read(value, self.now_ms)))
                else:
                    ranges.append(amounts.between(value, read, self.now_ms))
            except amounts.Unreadable as wrong:
                what = (
                    f"{field.name}: {wrong}, got {value[:100]!r}"
                    if len(values) == 1
                    else f"{field.name}: {wrong}"
                )
                raise QueryError(what, at, length, wrong.meant) from None
        return Within(field, tuple(ranges))

    def _pattern(self, field: Field) -> Node:
        at = self.at
        if self.text[at : at + 1] == '"':
            # Only the quote is spelled with a backslash here: the expression has its own.
            self._quoted()
            expression = self.text[at + 1 : self.at - 1].replace('\\"', '"')
        else:
            self.at = self._end_of_bare(at)
            expression = self.text[at : self.at]
            if not expression:
                raise QueryError("a regular expression must follow, in quotes", at, 1, '".*"')
        if len(expression) > MAX_PATTERN:
            what = f"at most {MAX_PATTERN} characters in a regular expression, got {len(expression)}"
            raise QueryError(what, at, self.at - at)
        try:
            return pattern(field, expression)
        except ValueError as wrong:
            raise QueryError(f"this is no regular expression: {wrong}", at, max(1, self.at - at)) from None

    def _values(self) -> list[tuple[str, int, int]]:
        """What stands between commas, each bare or in quotes, and where it stands."""
        values: list[tuple[str, int, int]] = []
        while True:
            at = self.at
            if self.text[at : at + 1] == '"':
                value = self._quoted()
            else:
                end = self._end_of_bare(at)
                comma = self.text.find(",", at, end)
                self.at = end if comma < 0 else comma
                value = self.text[at : self.at]
                if not value:
                    raise QueryError("a value is missing here", at, 1)
            values.append((value, at, max(1, self.at - at)))
            if self.text[self.at : self.at + 1] != ",":
                return values
            self.at += 1

    # -- pieces ------------------------------------------------------------------------------------

    def _quoted(self) -> str:
        found = _QUOTED.match(self.text, self.at)
        if found is None:
            rest = self.text[self.at :]
            raise QueryError("the quote is not closed", self.at, len(rest), rest + '"')
        self.at = found.end()
        return _unquoted(found[1])

    def _end_of_bare(self, at: int) -> int:
        found = _BARE.match(self.text, at)
        return found.end() if found else at

    def _skip(self, space: re.Pattern[str]) -> None:
        found = space.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _blank(self) -> None:
        self._skip(_SPACE if self.depth else _IN_LINE)

    def _more(self) -> bool:
        """A term, or what is none, comes next."""
        return self.at < len(self.text) and self.text[self.at] != ")"

    def _crossed(self, began: int) -> bool:
        """The line is over. In parentheses its end is a space."""
        return not self.depth and self.text[self.at : self.at + 1] in ("\r", "\n")

    def _is_next(self, keyword: str) -> bool:
        found = _KEYWORD.match(self.text, self.at)
        return found is not None and found[0] == keyword

    def _keyword(self, keyword: str) -> bool:
        if not self._is_next(keyword):
            return False
        self.at += len(keyword)
        return True

    def _refuse(self, what: str, at: int, end: int, meant: str | None = None) -> NoReturn:
        """As a word, it can be asked for in quotes."""
        quoted = self.text[at:end].replace("\\", "\\\\").replace('"', '\\"')
        raise QueryError(what, at, end - at, meant or f'"{quoted}"')


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
