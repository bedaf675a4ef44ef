"""A log on the screen: saved, wrapped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes_service import FakeService

from .conftest import Open

Submit = Callable[..., int]
LOG = b"".join(b"\x1b[32mline %d\x1b[0m\xff\n" % n for n in range(200))


@pytest.fixture
def log(service: FakeService, submit: Submit) -> tuple[int, int]:
    """A job that wrote `LOG`."""
    batch_id = submit()
    service.finish(batch_id, 1, log=LOG)
    return batch_id, 1


async def test_a_log_is_saved_whole_and_as_it_was_written(
    log: tuple[int, int], open_dashboard: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_dashboard(*log, size=(160, 35)) as terminal:
        await terminal.sees("line 199")
        await terminal.press("S")
        file = tmp_path / f"longshore-{log[0]}-1-main.log"
        await terminal.sees(f"saved all {len(LOG) / 1000:.3g} kB to {file}")
        assert file.read_bytes() == LOG


async def test_no_file_is_written_over_by_a_log_that_is_saved(
    log: tuple[int, int], open_dashboard: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"longshore-{log[0]}-1-main.log"
    file.write_text("precious")
    async with open_dashboard(*log, size=(160, 35)) as terminal:
        await terminal.sees("line 199")
        await terminal.press("S")
        await terminal.sees("saved all", f"{file.stem}-1.log")
    assert file.read_text() == "precious"
    assert file.with_name(f"{file.stem}-1.log").read_bytes() == LOG


async def test_a_log_that_cannot_be_saved_says_why_and_stays_in_sight(
    log: tuple[int, int], open_dashboard: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    async with open_dashboard(*log, size=(160, 35)) as terminal:
        await terminal.sees("line 199")
        gone.rmdir()
        await terminal.press("S")
        await terminal.sees("No such file or directory", "line 199")
    monkeypatch.chdir(tmp_path)


async def test_long_lines_are_cut_or_wrapped_as_one_likes(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    service.finish(batch_id, 1, log=b"first\n" + b"begin " + b"." * 200 + b" end\nlast\n")
    async with open_dashboard(batch_id, 1, size=(80, 24)) as terminal:
        await terminal.sees("begin ...", "3 lines")
        rows = [terminal.lines.index(terminal.line(word)) for word in ("first", "begin", "last")]
        assert rows == [rows[0], rows[0] + 1, rows[0] + 2]
        assert " end" not in terminal.text
        await terminal.press("w")
        await terminal.sees("begin ...", " end", "wrapped")
        assert terminal.lines.index(terminal.line("last")) == rows[2] + 2
        await terminal.press("w")
        await terminal.until(lambda: " end" not in terminal.text)
        assert "wrapped" not in terminal.text
        await terminal.press(*["right"] * 20)
        await terminal.sees(". end")


async def test_the_end_of_a_wrapped_log_is_followed_however_long_its_lines_are(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    service.write(batch_id, 1, b"".join(b"begin %d " % n + b"." * 200 + b" end %d\n" % n for n in range(40)))
    async with open_dashboard(batch_id, 1, size=(80, 24)) as terminal:
        await terminal.sees("begin 39 ")
        await terminal.press("w")
        await terminal.sees(" end 39", "wrapped · follow ▼")
        service.write(batch_id, 1, b"begin 40 " + b"." * 500 + b" end 40\n")
        await terminal.sees("begin 40 ", " end 40")
        await terminal.press("home")
        await terminal.sees("begin 0 ", " end 0", "F follows")
