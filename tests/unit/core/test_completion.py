"""What a query may go on with, where its cursor stands."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore_controller.core.completion import Completion, of_fields, of_values, spelled, written
from longshore_controller.core.language import BATCHES, JOBS, QueryError, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, "", "", "")),
        ("st", (0, "st", "", "")),
        ("align -(st", (8, "st", "", "")),
        ("state:", (6, "", "state", "")),
        ("-state:failure,e", (15, "e", "state", "")),
        ('attr.sample="NA', (12, '"NA', "attr", "sample")),
        ('attr."my x"=q', (12, "q", "attr", "my x")),
        ("attr.sa", (0, "attr.sa", "attr", "")),
        ("exit_code!=1", (11, "1", "exit", "")),
        ("user:a", None),
        ("attr:", None),
        ('"state:', None),
        ("4711", None),
    ],
)
def test_the_piece_before_the_cursor_is_found(text: str, expected: tuple[int, str, str, str] | None) -> None:
    found = written(text + " rest", len(text), JOBS)
    assert (None if found is None else tuple(found)) == expected


def test_fields_come_with_the_operator_that_is_asked_most() -> None:
    def offered(begun: str) -> list[str]:
        before = written(begun, len(begun), BATCHES)
        assert before is not None
        return [found.text for found in of_fields(before, BATCHES)]

    assert offered("c") == ["cost>", "created>"]
    assert offered("U") == ["user:"] and offered("attr") == ["attr."] and offered("zz") == []
    assert len(offered("")) == len(BATCHES.fields)


def test_values_come_by_frequency_and_in_the_quotes_that_they_need() -> None:
    values = {"qc": 1, "align": 3, "Align 2": 2, 'a"b': None}
    before = written("attr.stage=al", 13, JOBS)
    assert before is not None
    assert of_values(before, values) == [Completion("align", 3), Completion('"Align 2"', 2)]


@given(st.text(min_size=1, max_size=20).filter(lambda t: "\0" not in t))
def test_what_is_offered_can_be_read(value: str) -> None:
    (term,) = parse(f"attr.{spelled('a b')}={spelled(value)}", JOBS).terms
    assert term.matches({"attr": {"a b": value}})


@given(st.text(alphabet='ab state:=,."\\()-\n>', max_size=40), st.integers(0, 40))
def test_any_text_may_be_completed(text: str, cursor: int) -> None:
    for subject in (JOBS, BATCHES):
        before = written(text, cursor, subject)
        if before is None or before.field:
            continue
        assert text[before.first : min(cursor, len(text))] == before.text
        for found in of_fields(before, subject):
            with suppress(QueryError):  # What stands before it may be wrong already.
                parse(text[: before.first] + found.text + "x", subject)
