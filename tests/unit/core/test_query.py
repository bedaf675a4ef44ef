"""The language of filters: what it matches, and how it refuses."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore_controller.core.language import MAX_LENGTH, QueryError, parse_for_batches, parse_for_jobs
from longshore_controller.core.model import BatchState, JobState
from longshore_controller.core.query import BATCH_WORDS, JOB_WORDS, Item

S = JobState


def job_item(job_id: int, name: str, state: JobState) -> Item:
    return {"id": job_id, "name": name, "state": JOB_WORDS[state]}


def batch_item(name: str, state: BatchState, *, complete: bool) -> Item:
    return {"id": 1, "name": name, "state": BATCH_WORDS[state, complete]}


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("", True),
        (" \n\t", True),
        ("ALIGN", True),
        ("lign-0", True),
        ("sort", False),
        ("-sort", True),
        ("-align", False),
        ("align 7", True),
        ("4711", True),
        ("-4711", False),
        ("471", False),
        ("004", True),
        ("align\nstate:failure", True),
        ("align state:success", False),
        ("STATE:Failure,error", True),
        ("state=bad", True),
        ("state:done", True),
        ("state:live", False),
        ("-state:live,success", True),
        ('state:"failure"', True),
        ('"n-004 é x"', True),
        ('-"n-004 é x"', False),
        ('"N-004 É"', True),
        ('"-004"', True),
        ('"\\"q\\" \\\\"', True),
        ('"4711"', False),
        ('"state:failure"', False),
    ],
)
def test_what_a_query_matches(query: str, matches: bool) -> None:
    job = job_item(4711, 'align-004 é x7 "q" \\', S.FAILURE)
    assert parse_for_jobs(query).matches(job) is matches


@pytest.mark.parametrize(
    ("query", "position", "length", "meant", "says"),
    [
        ("a state:failur", 8, 6, "failure", "'failur' is no state of a job"),
        ("state:bad,canceled", 10, 8, "cancelled", "no state"),
        ("state:zzz", 6, 3, None, "pending, ready, running, success, failure, error, cancelled, bad"),
        ("state:", 6, 1, None, "the name of a state is missing"),
        ("state:bad,", 10, 1, None, "missing"),
        ('state:"bad,x', 6, 6, '"bad,x"', "not closed"),
        ("stat:bad", 0, 8, "state:bad", "'stat' is not a field of a job; there is state"),
        ("x exti:137", 2, 8, "exit:137", "'exti' is not a field"),
        ("-qwertz>=1.00", 1, 12, '"qwertz>=1.00"', "not a field"),
        ("created>-2d", 0, 11, '"created>-2d"', "not a field of a job"),
        ("sample = NA12878", 0, 8, "attr.sample =", "not a field"),
        ("attr:x", 0, 6, "attr.NAME:x", "the name of the attribute is missing"),
        ("state>bad", 0, 6, "state:", "cannot be asked"),
        ("a OR", 2, 2, '"OR"', "'OR' stands between two terms"),
        ("a OR AND b", 5, 3, '"AND"', "'AND' stands between two terms"),
        ("OR a", 0, 2, '"OR"', "stands between"),
        ("a\nOR b", 2, 2, '"OR"', "stands between"),
        ("a NOT", 2, 3, '"NOT"', "a term must follow"),
        ("(a b", 0, 4, "(a b)", "not closed"),
        ("a b)", 3, 1, '")"', "no parenthesis is open"),
        ("a ( )", 2, 3, None, "nothing between the parentheses"),
        ("(" * 21 + "a", 20, 1, None, "at most 20 parentheses"),
        ("exit:abc", 5, 3, None, "exit: a whole number, got 'abc'"),
        ("exit:1,x", 7, 1, None, "a whole number"),
        ("exit:..", 5, 2, None, "a range"),
        ("exit>1,2", 5, 1, None, "one value, got 2"),
        ("exit:", 5, 1, None, "a value is missing"),
        ("cost>1e3", 5, 3, None, "dollars, e.g. 1.00, got '1e3'"),
        ("dur>10x", 4, 3, None, "a time, e.g. 90s"),
        ("started>2d", 8, 2, "-2d", "so long ago as -2d"),
        ("started:-2d", 8, 3, None, "one instant"),
        ("started>2026-02-29", 8, 10, None, "no such day"),
        ("started>2026-02-28T24:00", 8, 16, None, "no such time"),
        ("cpu>=4cores", 5, 6, None, "cores, e.g. 4 or 0.5"),
        ("mem>x", 4, 1, None, "a size"),
        ('name=~"("', 6, 3, None, "this is no regular expression: missing )"),
        ("name=~" + "x" * 201, 6, 201, None, "at most 200 characters"),
        ("exit=~1", 0, 6, "exit:", "exit=~ cannot be asked"),
        ("name>a", 0, 5, "name:", "cannot be asked; there is :, =, ==, !=, =~, !~"),
        ("a /b/", 2, 3, '"/b/"', "no meaning"),
        ("~a", 0, 2, '"~a"', "no meaning"),
        ('a "b c', 2, 4, '"b c"', "not closed"),
        ('""', 0, 2, None, "nothing between the quotes"),
        ("a -", 2, 1, '"-"', "a term must follow"),
        ("a - b", 2, 1, '"-"', "a term must follow"),
        ("a\0", 1, 1, None, "NUL"),
        ("x" * (MAX_LENGTH + 1), MAX_LENGTH, 1, None, "at most 1,000 characters, got 1,001"),
        ("x " * 51, 100, 2, None, "at most 50 terms"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place_and_what_was_meant(
    query: str, position: int, length: int, meant: str | None, says: str
) -> None:
    with pytest.raises(QueryError) as caught:
        parse_for_jobs(query)
    error = caught.value
    assert (error.position, error.length, error.meant) == (position, length, meant)
    assert says in str(error) and str(error).startswith(f"character {position + 1}: ")


@given(st.text(alphabet='ab1 -:"=\\state,OR()~/é', max_size=30))
def test_any_text_is_read_or_refused_within_it(text: str) -> None:
    try:
        parse_for_jobs(text)
    except QueryError as error:
        assert 0 <= error.position <= len(text)
        assert error.length >= 1


@given(st.text(min_size=1, max_size=20).filter(lambda t: "\0" not in t), st.text(max_size=10))
def test_any_name_can_be_asked_for_in_quotes(name: str, around: str) -> None:
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse_for_jobs(quoted).matches(job_item(1, around + name, S.READY))


@pytest.mark.parametrize(
    ("query", "states"),
    [
        ("", set(S)),
        ("x -y 7", set(S)),
        ("state:bad", {S.FAILURE, S.ERROR}),
        ("state:live", {S.READY, S.RUNNING}),
        ("state:done -state:bad", {S.SUCCESS, S.CANCELLED}),
        ("state:pending,live x", {S.PENDING, S.READY, S.RUNNING}),
        ("state:ready state:running", set()),
        ("exit:137", {S.FAILURE, S.ERROR}),
        ("exit<1", {S.SUCCESS, S.FAILURE, S.ERROR}),
        ("-exit:137", set(S)),
        ("state:ready OR exit>0", {S.READY, S.FAILURE, S.ERROR}),
        ("-(state:done OR state:ready)", {S.PENDING, S.RUNNING}),
        ("-(state:done name:x)", set(S)),
        ("(state:done OR name:x) -state:bad", set(S) - {S.FAILURE, S.ERROR}),
    ],
)
def test_the_states_of_what_matches(query: str, states: set[JobState]) -> None:
    assert parse_for_jobs(query).job_states == states


def test_a_batch_is_live_until_it_is_complete_whatever_its_state() -> None:
    failing = batch_item("", BatchState.FAILURE, complete=False)
    failed = batch_item("", BatchState.FAILURE, complete=True)
    for query, matching in {
        "state:bad": [failing, failed],
        "state:live": [failing],
        "state:done": [failed],
        "-state:failure": [],
    }.items():
        assert [item for item in (failing, failed) if parse_for_batches(query).matches(item)] == matching
    with pytest.raises(QueryError, match="no state of a batch; they are open, running, success"):
        parse_for_batches("state:pending")


NOW = 1_795_392_000_000
"""2026-11-23, midnight."""
A_JOB: Item = {
    "id": 4711,
    "name": "align-004",
    "state": JOB_WORDS[S.FAILURE],
    "exit": 137,
    "reason": "main: Out of memory",
    "dur": 600_001,
    "cost": 1_000_000_000,
    "attempts": 2,
    "preempted": 0,
    "cpu": 4_000,
    "mem": 15_000_000_000,
    "started": NOW - 3_600_000,
    "ended": None,
    "attr": {"sample": "NA12878", "my stage": "Qc, 2", "empty": ""},
}


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("exit:137", True),
        ("exit:1,137", True),
        ("exit=1..136,138..", False),
        ("exit!=137", False),
        ("exit:..137", True),
        ("dur>10m", True),
        ("dur>=600", True),
        ("dur:10m", False),
        ("dur<1h30m dur>0.5h", False),
        ("dur:9m..11m", True),
        ("cost>=1.00", True),
        ("cost>$1", False),
        ("cost=$1.000000000", True),
        ("attempts>1 preempted:0", True),
        ("cpu>=4 cpu<4500m", True),
        ("mem:15G", True),
        ("mem>14Gi", False),
        ("id:5..90", False),
        ("id:4711", True),
        ("id>99999999999999999999", False),
        ("started>-2h", True),
        ("started>-1h", False),
        ("started:2026-11-22", True),
        ("started>=2026-11-22T23:00", True),
        ("started>2026-11-22", False),
        ("started<=2026-11-22T22:59Z", False),
        ("started:2026-11-01..2026-11-22", True),
        ("started:-2h..now", True),
        ("ended<now", False),
        ("-ended<now", True),
        ("ended!=2026-11-22", True),
        ('reason:"out of memory"', True),
        ('reason="out of memory"', False),
        ("name=align-004", True),
        ("name==ALIGN-004", False),
        ("name:ALIGN", True),
        ("name!=align-004", False),
        ("name:x,align", True),
        ('name=~"^al.*4$"', True),
        ("name=~^al.*4$", True),
        ('name=~"AL"', False),
        ('name=~"(?i)AL"', True),
        ('name!~"align"', False),
        ('name=~"\\d{3}"', True),
        ("attr.sample=NA12878", True),
        ("attr.sample:na1", True),
        ("attr.sample=na12878", False),
        ("attr.other=x", False),
        ("attr.other!=x", True),
        ("-attr.other:x", True),
        ('attr.empty:""', True),
        ('attr.other:""', False),
        ('attr."my stage"="Qc, 2"', True),
        ('attr."my stage":qc,other', True),
        ("align OR sort", True),
        ("sort OR align exit:1", False),
        ("(sort OR align) exit:137", True),
        ("-(align exit:1)", True),
        ("NOT sort AND NOT (merge OR split)", True),
        ("NOT -align", True),
        ("sort OR\talign", True),
        ("sort OR merge\nalign", False),
        ("align OR merge\nexit = 137 OR exit = 1", True),
        ("(sort\nOR\nalign)", True),
        # What users of Hail know.
        ("state = failure", True),
        ("cost >= 1.00\nduration > 600\njob_id = 4711", True),
        ("exit_code != 137", False),
        ('name =~ "al.g"', True),
        ("attr.sample = NA12878", True),
    ],
)
def test_what_a_query_matches_by_fields(query: str, matches: bool) -> None:
    assert parse_for_jobs(query, NOW).matches(A_JOB) is matches


def test_the_owners_of_batches_are_asked_for_and_one_is_me() -> None:
    batch = {"user": "ada", "project": "genomics"}
    for query, matches in {
        "user:me": True,
        "user:bob,ada": True,
        "user:ad": False,
        "project:genomics": True,
    }.items():
        parsed = parse_for_batches(query, me="ada")
        assert parsed.asks_owner and parsed.matches(batch) is matches
    assert not parse_for_batches("ada state:bad").asks_owner


def test_letters_beyond_ascii_are_themselves_when_their_small_ones_are_ascii() -> None:
    """Databases look for the ASCII in a word; they would not find it in these."""
    for name in ("\N{KELVIN SIGN}elvin", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}stanbul"):
        item = job_item(1, name, S.READY)
        assert not parse_for_jobs("kelvin OR istanbul").matches(item)
        assert parse_for_jobs(f'"{name}"').matches(item)
        assert parse_for_jobs(name[1:].upper()).matches(item)


@pytest.mark.parametrize(
    "expression",
    ["(a+)+$", "(a|aa)+$", "(x+x+)+y", "((a*)*)*b", "(?:a?){100}a{100}$", "([a-z]?){99}é", ".*" * 100],
)
def test_no_pattern_runs_away(expression: str) -> None:
    names = ["a" * 1_024 + "!", "x" * 100_000]
    try:
        query = parse_for_jobs(f'name=~"{expression}"')
    except QueryError as refused:
        assert "too large" in str(refused)
        return
    for name in names:
        began = time.process_time()
        for _ in range(5):
            query.matches(job_item(1, name, S.READY))
        assert (time.process_time() - began) / 5 < 0.05


PIECES = [
    *"ab1 -:=<>~/()\"\\,.\n\t\0é%;'$", "state", "failure", "OR", "AND", "NOT", "attr.", "name", "=~", "!~",
    "!=", "exit", "dur", "10m", "cost", "1.00", "created", "-2d", "2026-11-22", "..", "--", "' OR 1=1",
    "\u2028", "İ", "id", "[", "{9}", "(?i)", "\ud800", "9" * 25, "user:me",
]  # fmt: skip


def test_thousands_of_random_texts_are_read_or_refused_within_them() -> None:
    rng = random.Random(4)
    n_read = 0
    for _ in range(5_000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 12)))
        for parse in (parse_for_jobs, parse_for_batches):
            parsed: Any
            try:
                parsed = parse(text)
            except QueryError as error:
                assert 0 <= error.position <= len(text) and error.length >= 1
                assert str(error).startswith(f"character {error.position + 1}: ")
            else:
                n_read += 1
                assert parsed == parse(text)
    assert n_read > 500


@given(st.lists(st.sampled_from(PIECES), max_size=15).map("".join) | st.text(max_size=40))
def test_whatever_is_read_can_be_asked(text: str) -> None:
    try:
        query = parse_for_jobs(text, NOW)
    except QueryError as error:
        assert 0 <= error.position <= len(text) and error.length >= 1
        return
    assert query.matches(A_JOB) in (True, False)
    assert query.asks <= A_JOB.keys()
    if query.matches(A_JOB):
        assert S.FAILURE in query.job_states
        assert query.lasting.matches(A_JOB)
