"""What follows from what the feed tells."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.status import AttemptStatus, ContainerStatus, Event, JobSpec, JobStatus, Session
from longshore_tui.model import (
    BatchesView,
    Connected,
    Heard,
    JobsView,
    JobView,
    Link,
    LogRead,
    LogText,
    Lost,
    Refused,
    foremost,
    place,
    steps,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = Session("ada", "0", True, "/", "/tmp", (), 16_000, "longshore/task")
SPEC = JobSpec(command=("true",), input_files=(("/a", "/io/a"),), output_files=(("/io/b", "/b"),))


def a_container(name: str, state: str, exit_code: int | None = 0) -> ContainerStatus:
    return ContainerStatus(name, state, "image", exit_code, "", "", None, None, 100, 350, 0)


def a_job(
    state: str, attempt_state: str = "", *containers: ContainerStatus, spec: JobSpec = SPEC
) -> JobStatus:
    records = {each.name: each for each in containers}
    attempt = AttemptStatus("a", 1, "w", attempt_state, "", "", AT, AT, None, 0, 1000, 0, records)
    attempts = (attempt,) if attempt_state else ()
    return JobStatus(
        1, 1, "", state, "", None, 0, 0, 0, len(attempts), 1000, 0, {}, False, None, None, spec, attempts
    )


def states(job: JobStatus) -> list[str]:
    return [step.state for step in steps(job)]


# The connection.


def test_a_connection_goes_from_connecting_to_live_to_stale() -> None:
    link = Link()
    assert link.state(0.0)[0] == "connecting"
    link = link.after(Connected(SESSION, "here:1"), 0.0)
    assert link.state(9.0) == ("live", "● live")
    assert link.state(12.0) == ("stale", "◐ stale 12s")
    assert link.after(Heard(), 12.0).state(12.0)[0] == "live"


def test_a_lost_connection_counts_down_to_the_next_try() -> None:
    link = Link().after(Connected(SESSION, "here:1"), 0.0).after(Lost("gone", 1, 4.0), 10.0)
    assert link.state(11.0) == ("offline", "○ offline · try 2 in 3s")
    assert link.session is SESSION
    assert link.after(Heard(), 12.0).state(12.0)[0] == "live"


def test_a_refusal_stays() -> None:
    assert Link().after(Refused("no", ""), 0.0).state(100.0)[0] == "refused"


# Views.


@pytest.mark.parametrize(
    ("event", "concerned"),
    [
        (Event("attempt ended", 8, ((3, 3),)), True),
        (Event("jobs cancelled", 8, ((1, 2), (3, 9))), True),
        (Event("batch deleted", 8, ()), True),
        (Event("attempt ended", 8, ((4, 4),)), False),
        (Event("attempt ended", 9, ((3, 3),)), False),
        (Event("worker lost", 0, ()), False),
    ],
)
def test_a_job_is_concerned_by_what_happens_to_it(event: Event, concerned: bool) -> None:
    assert JobView(8, 3).concerned_by(event) == concerned


def test_a_list_is_concerned_by_what_it_may_hold() -> None:
    assert BatchesView().concerned_by(Event("batch created", 99, ()))
    assert not BatchesView(before=50).concerned_by(Event("batch created", 99, ()))
    assert BatchesView(before=50).concerned_by(Event("batch completed", 7, ()))
    assert not BatchesView().concerned_by(Event("worker joined", 0, ()))
    assert JobsView(8).concerned_by(Event("attempt ended", 8, ((4, 4),)))


@given(st.lists(st.integers(1, 20), unique=True, max_size=8), st.integers(1, 20), st.integers(0, 8))
def test_a_cursor_stays_at_its_row_or_else_where_it_was(keys: list[int], key: int, index: int) -> None:
    found = place(keys, key, index)
    if key in keys:
        assert keys[found] == key
    elif keys:
        assert found == min(index, len(keys) - 1)
    else:
        assert found == 0


# Containers.


def test_the_containers_follow_from_the_attempt_while_it_runs() -> None:
    assert states(a_job("Ready")) == ["pending", "pending", "pending"]
    assert states(a_job("Running", "assigned")) == ["running", "pending", "pending"]
    assert states(a_job("Running", "started")) == ["success", "running", "pending"]


def test_the_containers_are_what_their_records_say_when_it_has_ended() -> None:
    ended = a_job("Failure", "ended", a_container("input", "Success"), a_container("main", "Failure", 3))
    assert states(ended) == ["success", "failure", "cancelled"]
    assert steps(ended)[1].exit_code == 3
    assert steps(ended)[0].ran_ms == 250


def test_a_job_without_files_has_one_container() -> None:
    assert states(a_job("Ready", spec=JobSpec(command=("true",)))) == ["", "pending", ""]


def test_the_log_to_look_at_first_is_that_of_what_failed() -> None:
    assert foremost(steps(a_job("Error", "ended", a_container("input", "Error", 1)))) == "input"
    assert foremost(steps(a_job("Running", "assigned"))) == "input"
    assert foremost(steps(a_job("Success", "ended", a_container("main", "Success")))) == "main"
    assert foremost(steps(replace(a_job("Pending"), attempts=()))) == "main"


# Logs.


def lines_of(log: bytes, size: int = 1000) -> list[str]:
    text = LogText()
    for at in range(0, len(log), size):
        text.add(LogRead(at, log[at : at + size]))
    text.end()
    return list(text.lines)


@pytest.mark.parametrize(
    ("log", "lines"),
    [
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\n\r\ntwo\n", ["one", "", "two"]),
        (b"10%\r20%\r30%\n", ["30%"]),
        (b"\x1b[1;31mred\x1b[0m\n", ["red"]),
        (b"\x1b]0;title\x07\x1b[2J\n", ["\\x1b]0;title\\x07\\x1b[2J"]),
        ("ü\u202eevil\n".encode(), ["ü\\u202eevil"]),
        (b"bad \xff\xfe\n", ["bad \ufffd\ufffd"]),
        (b"a\tb\n", ["a       b"]),
        (b"x" * 10_000 + b"\nnext\n", ["x" * 8192 + " …(+1,808 characters)", "next"]),
        (b"", []),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_bytes_become_harmless_lines_however_they_are_cut(log: bytes, lines: list[str], size: int) -> None:
    assert lines_of(log, size) == lines


@given(st.binary(max_size=300), st.integers(1, 20))
def test_the_lines_of_a_log_do_not_depend_on_how_it_arrives(log: bytes, size: int) -> None:
    assert lines_of(log, size) == lines_of(log)


def test_a_line_that_is_still_written_is_there_already() -> None:
    text = LogText()
    text.add(LogRead(0, b"password: "))
    assert (list(text.lines), text.last) == ([], "password: ")


def test_the_oldest_lines_give_way_and_are_counted() -> None:
    text = LogText(most=10)
    text.add(LogRead(500, b"line\n" * 25))
    assert (len(text.lines), text.n_dropped, text.n_bytes_before) == (10, 15, 500)
