"""What is held of a log, and how its lines read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore_tui.log import LONGEST_LINE, MOST_BYTES, LogWindow, runs, text_of

HOSTILE = [
    b"\x1b]0;title\x07",
    b"\x1b]52;c;cHduZWQ=\x07",
    b"\x1b]8;;http://evil\x1b\\\\link\x1b]8;;\x1b\\\\",
    b"\x1bP1$r0m\x1b\\\\",
    b"\x1b[2J\x1b[H",
    b"\x1b[?1049h",
    b"\x1bc",
    b"\x9b2J\x9d0;x\x9c",
    "\x9b2J\x90q\x9c".encode(),
    b"\x1b",
    b"\x1b[",
    b"\x1b]52;c;never ends",
    b"a\x08b\x00c\x7f",
    "\u202egnp.exe\u2066".encode(),
    b"\xff\xfe\xc3",
    bytes(range(256)),
]


def shown(raw: bytes) -> str:
    return text_of(runs(raw))


@pytest.mark.parametrize("raw", HOSTILE)
def test_nothing_in_a_line_steers_the_terminal(raw: bytes) -> None:
    text = shown(b"begin" + raw + b"end")
    assert not [c for c in text if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066\u200f"]


@given(st.binary(max_size=200))
def test_no_bytes_become_control_characters(raw: bytes) -> None:
    assert all(ord(c) >= 32 and not 127 <= ord(c) < 160 for c in shown(raw))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"10%\r20%\r30%", "30%"),
        (b"one\r", "one"),
        (b"\x1b[1;31mred\x1b[0m plain", "red plain"),
        (b"\x1b]0;title\x07\x1b[2Jafter", "after"),
        (b"bad \xff\xfe", "bad \ufffd\ufffd"),
        (b"a\tb", "a       b"),
        (b"", ""),
    ],
)
def test_a_line_reads_as_it_would_in_a_terminal(raw: bytes, text: str) -> None:
    assert shown(raw) == text


def test_a_very_long_line_is_cut_and_says_by_how_much() -> None:
    assert shown(b"x" * 10_000) == "x" * LONGEST_LINE + " …(+1,808 bytes)"
    assert len(shown("é".encode() * 3_000_000)) < LONGEST_LINE


def test_a_character_that_the_cut_goes_through_is_left_out() -> None:
    assert "\ufffd" not in shown(b"x" + "é".encode() * 5000)


@pytest.mark.parametrize(
    ("codes", "style"),
    [
        ("1;4;31", "bold underline color(1)"),
        ("38;5;200", "color(200)"),
        ("48;2;1;2;3", "on #010203"),
        ("97;44", "color(15) on color(4)"),
        ("31;39", ""),
        ("1;22", ""),
        ("999999999999;8;5", ""),
        ("38;5", ""),
    ],
)
def test_colours_become_styles(codes: str, style: str) -> None:
    found = runs(f"\x1b[{codes}mx".encode())
    assert found == [("x", style)]


# What is held.


def lines(window: LogWindow) -> list[bytes]:
    return [window.line(at) for at in range(window.n_lines)]


def test_a_log_grows_line_by_line() -> None:
    window = LogWindow()
    window.append(0, b"one\nha", may_drop=True)
    window.append(6, b"lf\n", may_drop=True)
    assert lines(window) == [b"one", b"half"]
    assert window.size == window.end == 9


def test_what_came_before_is_not_taken_again() -> None:
    window = LogWindow()
    window.append(0, b"one\ntwo\n", may_drop=True)
    window.append(4, b"two\nthree\n", may_drop=True)
    assert lines(window) == [b"one", b"two", b"three"]


def test_a_tail_begins_with_a_whole_line() -> None:
    window = LogWindow()
    window.append(100, b"lf a line\nwhole\n", may_drop=True)
    assert (window.start, lines(window)) == (110, [b"whole"])


def test_the_piece_before_comes_above_what_is_seen() -> None:
    window = LogWindow()
    window.append(8, b"\nthree\nfour\n", may_drop=True)
    assert window.start == 9
    added = window.prepend(0, b"one\ntwo!\n"[:9])
    assert added == 2
    assert lines(window) == [b"one", b"two!", b"three", b"four"]


def test_nobody_who_looks_elsewhere_is_moved_by_what_comes() -> None:
    window = LogWindow()
    window.append(0, b"x" * 99 + b"\n", may_drop=True)
    full = (b"y" * 99 + b"\n") * (MOST_BYTES // 100)
    window.append(100, full, may_drop=False)
    assert (window.end, window.size) == (100, 100 + len(full))
    window.append(window.size, b"more\n", may_drop=False)
    assert lines(window) == [b"x" * 99]
    window.append(window.size, b"end\n", may_drop=True)
    assert lines(window) == [b"end"]


def test_two_lines_that_a_piece_cut_in_two_are_one_again() -> None:
    window = LogWindow()
    window.replace(10, b"no end in sight")
    window.prepend(0, b"one\nbegin-")
    assert lines(window) == [b"one", b"begin-no end in sight"]


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 7, 65_536, 1_000_000]), st.sampled_from([b"a", b"a\n", b"\n"])),
        max_size=20,
    )
)
def test_never_more_is_held_than_is_allowed(pieces: list[tuple[int, bytes]]) -> None:
    window = LogWindow()
    at = 0
    for n, unit in pieces:
        window.append(at, unit * n, may_drop=True)
        at += n * len(unit)
        assert window.end - window.start <= MOST_BYTES
        assert (window.size, window.end) == (at, at) or not at


def test_scrolling_back_through_a_large_log_holds_a_bounded_piece() -> None:
    log = b"".join(b"line %07d\n" % n for n in range(600_000))
    window = LogWindow()
    window.append(len(log) - 100_000, log[-100_000:], may_drop=True)
    while window.start:
        first = window.line(0)
        offset = max(0, window.start - 262_144)
        added = window.prepend(offset, log[offset : window.start])
        assert window.line(added) == first
        assert window.end - window.start <= MOST_BYTES
    assert window.line(0) == b"line 0000000"
    while window.end < len(log):
        offset = window.end
        window.extend(offset, log[offset : offset + 262_144])
        assert window.end - window.start <= MOST_BYTES
    assert window.line(window.n_lines - 1) == b"line 0599999"


def test_what_is_searched_is_found_in_any_case() -> None:
    window = LogWindow()
    window.append(0, b"ok\nERROR one\nok\nerror error\n", may_drop=True)
    assert window.find("Error") == [1, 3]
    assert window.find("") == []
