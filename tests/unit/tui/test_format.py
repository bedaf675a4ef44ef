"""How values read on the screen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore.wire import JOB_STATES
from longshore_tui import format
from longshore_tui.widgets.table import fit
from rich.cells import cell_len


@given(st.lists(st.integers(0, 10**6), min_size=5, max_size=5), st.integers(5, 60))
def test_a_bar_is_as_wide_as_asked_and_hides_nothing(counts: list[int], width: int) -> None:
    succeeded, failed, cancelled, running, _ = counts
    bar = format.bar(width, succeeded, failed, cancelled, running, sum(counts))
    assert len(bar) == width
    if sum(counts):
        for texture, n in zip("█▓▚▒░", counts, strict=True):
            assert (texture in bar) == (n > 0)


@given(st.integers(0, 10**12))
def test_a_duration_has_at_most_seven_characters(ms: int) -> None:
    assert len(format.duration(ms)) <= 7


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_only_the_whole_is_a_hundred_percent(of: int, done: int) -> None:
    assert (format.percent(min(done, of), of) == "100%") == (done >= of)


@given(st.text())
def test_no_text_steers_the_terminal(text: str) -> None:
    shown = format.one_line(text)
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2028" for c in shown)


@given(st.text(alphabet=st.characters(exclude_categories=["C", "M", "Z"])), st.integers(0, 40))
def test_a_cell_is_exactly_as_wide_as_its_column(text: str, width: int) -> None:
    assert cell_len(fit(text, width)) == width


@pytest.mark.parametrize("word", [*JOB_STATES, "open"])
def test_each_state_has_a_symbol_of_its_own_one_cell_wide(word: str) -> None:
    symbols = [format.symbol(each)[0] for each in format.MEANINGS]
    assert cell_len(format.symbol(word)[0]) == 1
    assert symbols.count(format.symbol(word)[0]) == 1


def test_a_state_that_is_not_known_yet_is_still_shown() -> None:
    assert format.state("paused") == ("? paused", format.DIM)


def test_what_is_unfinished_costs_at_least_so_much() -> None:
    assert format.money(22_000, so_far=True) == "≥$0.000022"
    assert format.money(1_234_567_890_000) == "$1,234.57"
