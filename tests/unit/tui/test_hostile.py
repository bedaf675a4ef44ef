"""Names, reasons and logs of others never steer the terminal, on any screen."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import pytest
from fakes_service import FakeService
from longshore.terminal import clean
from longshore_tui.app import Harmless
from rich.segment import Segment
from textual.color import Color

from .conftest import Open

_PIECES = [
    "\x1b[2J", "\x1b[H", "\x1b[?1049l", "\x1b[6n", "\x1bc", "\x1b]0;pwned\x07", "\x1b]2;t\x1b\\", "\x1b(0",
    "\x1b]52;c;cm0gLXJmIC8=\x07", "\x1b]8;;http://evil\x1b\\x\x1b]8;;\x1b\\", "\x1bP+q544e\x1b\\",
    "\x1b^x\x1b\\",
    "\x1b_Gf=100;AAAA\x1b\\", "\x1b]1337;File=:AA\x07", "\x9b2J", "\x9d0;x\x9c", "\x90q\x9c", "\x85", "\x9f",
    "\x00", "\x07", "\x08\x08\x08", "\x0b\x0c", "\x0e\x0f", "\x7f", "\r\n", "\r", "\t\t",
    "\x1b", "\x1b[", "\x1b]",
    "\u202e", "\u2066", "\u200f", "\u200b", "\u2028", "\u2029", "\ufeff", "\u061c", "\u00ad", "\U000e0041",
    "[bold]", "[/]", "[/bold]", "[@click=app.quit]x[/]", "[link=http://evil]x", "{0}", "%s%n", "${x}",
    "\\x1b[2J",
    "日本語", "👩‍👩‍👧", "e\u0301" * 5, "Z\u0341\u0342", "ﷺ", "\ufffd", "\U0001f600", "a" * 300, " " * 80, "",
]  # fmt: skip
HOSTILE = [
    *_PIECES,
    *(f"{a}{b}" for a, b in zip(_PIECES, reversed(_PIECES), strict=True)),
]
BAD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def test_there_are_enough_of_them() -> None:
    assert len(set(HOSTILE)) >= 100


@pytest.mark.parametrize("size", [(120, 35), (80, 24)])
async def test_no_control_byte_reaches_any_screen(
    service: FakeService, submit: Callable[..., int], open_dashboard: Open, size: tuple[int, int]
) -> None:
    everything = "".join(HOSTILE)
    service.user, service.notices = everything[:200], [everything]
    batch_id = submit("first", n_jobs=len(HOSTILE))
    for at, (job, text) in enumerate(zip(service.batches[batch_id].jobs.values(), HOSTILE, strict=True)):
        job.spec.name = job.reason = text
        job.spec.env["HOSTILE"] = text
        if at == 0:
            raw = b"".join(each.encode() + b"\n" for each in HOSTILE)
            service.finish(batch_id, 1, exit_code=1, log=raw + bytes(range(256)) + b"\xff\xfe\n")
    for text in HOSTILE:
        service.batches[submit()].request.attributes["name"] = text
    # The batch with the hostile jobs and log has a hostile name too.
    service.batches[batch_id].request.attributes["name"] = "\x1b]0;pwned\x07[/bold]\x1b[2J"
    service.batches[batch_id].request.attributes["\x1b[2J"] = everything
    seen = ""

    def look() -> None:
        nonlocal seen
        assert not (found := BAD.findall(terminal.text.replace("\n", ""))), (found, terminal.text)
        strips = terminal.app.screen._compositor.render_strips()
        assert not [segment for strip in strips for segment in strip if segment.control]
        seen += terminal.text

    async with open_dashboard(size=size) as terminal:
        await terminal.sees(f"{len(HOSTILE) + 1} batches")
        look()
        for _ in range(len(HOSTILE) // 15):
            await terminal.press("pagedown")
            look()
        await terminal.press("end")
        await terminal.sees("pwned")
        await terminal.until(lambda: terminal.table.cursor_key == batch_id)
        look()
        await terminal.press("c")
        await terminal.sees("Cancel batch")
        look()
        await terminal.press("escape", "enter")
        await terminal.sees("1 Jobs")
        for _ in range(len(HOSTILE) // 15):
            await terminal.press("pagedown")
            look()
        await terminal.press("2")
        await terminal.sees("billing_project: test")
        look()
        await terminal.press("1", "home", "enter")
        await terminal.sees("exit 1")
        for key in ("home", "pagedown", "pagedown", "w", "pagedown", "slash", "e", "enter", "n", "4", "5"):
            await terminal.press(key)
            look()
        await terminal.press("question_mark")
        await terminal.sees("type to look for")
        look()
    assert {"[bold]", "[/bold]", "日本語", "\\x1b[2J"} - {part for part in HOSTILE if part in seen} == set()


def test_the_last_gate_holds_whatever_a_widget_lets_through() -> None:
    gate = Harmless(ascii_only=False)
    for text in HOSTILE:
        for segment in gate.apply([Segment(text)], Color(0, 0, 0)):
            assert clean(segment.text) == segment.text
            assert not [c for c in segment.text if unicodedata.category(c) == "Cc"]


def test_on_a_plain_terminal_our_own_signs_are_ascii() -> None:
    gate = Harmless(ascii_only=True)
    ours = "·○▶✓✗⊘…▲▼●◐█▓▚▒░▸≥⋯◆"
    (segment,) = gate.apply([Segment(ours)], Color(0, 0, 0))
    assert segment.text.isascii()
    assert len(segment.text) == len(ours)
