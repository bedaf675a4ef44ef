"""The language of filters: what it matches, and how it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore_controller.core.model import BatchState, JobState
from longshore_controller.core.query import (
    MAX_LENGTH,
    QueryError,
    batch_item,
    job_item,
    parse_for_batches,
    parse_for_jobs,
)

S = JobState


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
        ("stat:bad", 0, 8, "state:bad", "'stat' is not a field; there is state"),
        ("x exit:137", 2, 8, '"exit:137"', "'exit' is not a field"),
        ("-cost>=1.00", 1, 10, '"cost>=1.00"', "not a field"),
        ("state>bad", 0, 6, "state:", "cannot be asked"),
        ("a OR b", 2, 2, '"OR"', "'OR' has no meaning here yet"),
        ("(a b)", 0, 1, '"("', "no meaning"),
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
    ],
)
def test_the_states_of_what_matches(query: str, states: set[JobState]) -> None:
    assert parse_for_jobs(query).job_states == states


def test_a_batch_is_live_until_it_is_complete_whatever_its_state() -> None:
    failing = batch_item(1, "", BatchState.FAILURE, complete=False)
    failed = batch_item(1, "", BatchState.FAILURE, complete=True)
    for query, matching in {
        "state:bad": {failing, failed},
        "state:live": {failing},
        "state:done": {failed},
        "-state:failure": set(),
    }.items():
        assert {item for item in (failing, failed) if parse_for_batches(query).matches(item)} == matching
    with pytest.raises(QueryError, match="no state of a batch; they are open, running, success"):
        parse_for_batches("state:pending")
