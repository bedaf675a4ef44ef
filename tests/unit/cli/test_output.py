"""How values are written for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.cli import words
from longshore.cli.formats import json_text, plain
from longshore.cli.output import Column, Look, write_table
from longshore.status import BatchStatus
from longshore.terminal import one_line

PLAIN = Look()
SCREEN = Look(tty=True, colour=False, width=40, now=datetime(2026, 3, 1, 12, tzinfo=UTC))

BATCH = BatchStatus(
    id=8120, billing_project="test", user="ada", state="failure", complete=False, closed=True, n_jobs=3,
    n_pending=0, n_ready=1, n_running=1, n_completed=1, n_succeeded=0, n_failed=1, n_cancelled=0,
    attributes={"name": "align"}, msec_mcpu=1000, cost_nanousd=123_456_789_000_000_001,
    created_at=datetime(2026, 3, 1, 11, 57, tzinfo=UTC), closed_at=None, completed_at=None,
    cancelled_at=None, cancelled_by="", cancel_reason="",
)  # fmt: skip


def test_a_nano_dollar_survives_json_however_much_the_rest_is() -> None:
    text = json_text(plain(BATCH))
    assert json.loads(text, parse_float=Decimal)["cost"] == {"usd": Decimal("123456789.000000001")}


@given(st.integers(min_value=0, max_value=1_000_000_000_000_000))
def test_money_up_to_a_million_dollars_is_exact_also_for_who_reads_it_as_a_float(nanousd: int) -> None:
    usd = json.loads(json_text(plain(replace(BATCH, cost_nanousd=nanousd))))["cost"]["usd"]
    assert isinstance(usd, float)
    assert round(usd * 10**9) == nanousd


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_our_json_says_what_the_standard_library_reads(document: object) -> None:
    assert json.loads(json_text(document)) == document


def test_json_has_times_in_utc_seconds_as_floats_and_ids_as_numbers() -> None:
    said = json.loads(json_text(plain(BATCH)))
    assert said["created_at"] == "2026-03-01T11:57:00.000Z"
    assert said["closed_at"] is None
    assert said["id"] == 8120
    assert "cost_nanousd" not in said


@given(st.text())
def test_nothing_that_steers_a_terminal_is_in_json(text: str) -> None:
    assert all(" " <= each <= "~" or each == "\n" for each in json_text({"name": text}))


def test_a_state_is_told_by_symbol_and_word_and_colour() -> None:
    cell = words.state("Failure", SCREEN)
    assert (cell.text, cell.colour) == ("✗ Failure", "red")


def test_a_state_has_a_symbol_of_its_own_also_in_ascii() -> None:
    states = ["open", "pending", "ready", "running", "success", "failure", "error", "cancelled"]
    look = replace(SCREEN, symbols=False)
    symbols = {words.state(state, look).text.split()[0] for state in states}
    assert len(symbols) == len(states) and all(symbol.isascii() for symbol in symbols)


def test_a_failed_batch_that_still_runs_says_both() -> None:
    assert words.batch_state(BATCH, SCREEN).text == "✗ failure, running"
    assert words.batch_state(replace(BATCH, complete=True), SCREEN).text == "✗ failure"


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        ("0", "$0.00"),
        ("0.000006028", "$0.0000060"),
        ("0.45678", "$0.46"),
        ("1.239", "$1.24"),
        ("12345.6", "$12,345.60"),
    ],
)
def test_on_a_screen_money_is_cents_or_two_digits_that_say_something(usd: str, text: str) -> None:
    assert words.money(Decimal(usd), SCREEN) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (0.4, "now"), (42.3, "42s ago"), (150, "2m30s ago"), (90_000, "1d01h ago"), (-5, "now")],
)
def test_times_are_relative_on_a_screen(seconds: float, text: str) -> None:
    assert words.moment(SCREEN.now - timedelta(seconds=seconds), SCREEN) == text


COLUMNS = [
    Column[tuple[str, str]]("ID", lambda row, _: row[0], right=True),
    Column("NAME", lambda row, _: row[1], gives_way=True),
    Column("END", lambda row, _: "x"),
]


def test_a_table_is_cut_to_the_screen_where_a_column_gives_way(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(COLUMNS, [("1", "n" * 80), ("22", "short")], replace(SCREEN, width=30))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == " 1  " + "n" * 20 + "…  x"
    assert lines[2] == "22  short" + " " * 18 + "x"


def test_columns_are_left_out_where_nothing_more_gives_way(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [COLUMNS[0], Column[tuple[str, str]]("A", lambda row, _: "a" * 10), *COLUMNS[1:]]
    write_table(columns, [("1", "n" * 80)], replace(SCREEN, width=16))
    assert capsys.readouterr().out.splitlines() == ["ID  A", " 1  aaaaaaaaaa"]
    write_table(columns, [("1", "n" * 80)], replace(SCREEN, width=16), whole=True)
    assert "END" in capsys.readouterr().out


def test_a_table_is_whole_when_no_screen_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(COLUMNS, [("1", "n" * 200)], PLAIN)
    assert "n" * 200 in capsys.readouterr().out


def test_wide_characters_take_two_cells(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(COLUMNS, [("1", "日本"), ("2", "abcd")], SCREEN)
    assert capsys.readouterr().out.splitlines()[1:] == [" 1  日本  x", " 2  abcd  x"]


def test_many_rows_are_written_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    written_before_the_last: list[bool] = []

    def rows() -> list[tuple[str, str]]:
        return [(str(i), "a") for i in range(2500)]

    def watched() -> object:
        for row in rows():
            if row[0] == "2499":
                written_before_the_last.append("999" in capsys.readouterr().out)
            yield row

    assert write_table(COLUMNS, watched(), PLAIN) == 2500  # type: ignore[arg-type]
    assert written_before_the_last == [True]


@given(st.text())
def test_a_cell_is_one_line_of_harmless_text(text: str) -> None:
    assert one_line(text).isprintable() or not text.isprintable()
    assert not set(one_line(text)) & set(map(chr, [*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066]))


@pytest.mark.parametrize(
    ("environ", "colour"),
    [
        ({"TERM": "xterm"}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_is_for_terminals_unless_the_environment_says_otherwise(
    environ: dict[str, str], colour: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    assert Look.of(sys.stdout, environ).colour is colour
