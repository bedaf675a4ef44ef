"""The dashboard before the real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded import Up, job, running, submit
from longshore import Client
from longshore.discovery import read_service_file
from longshore_tui.app import Dashboard
from longshore_tui.feed import Feed, connect_to
from terminal import Terminal


async def test_a_batch_a_job_and_its_log_are_seen_while_it_runs(up: Up, tmp_path: Path) -> None:
    batch = submit(up, tmp_path, job("echo begun; sleep 600"))
    address = read_service_file(up.folder / "service.json")
    assert address
    app = Dashboard(Feed(connect_to(address.endpoint, address.token)))
    async with app.run_test(size=(120, 35)) as pilot:
        terminal = Terminal(app, pilot)
        await terminal.sees("● live", f" {batch} ", "▶ running", "≥$0.00")
        await terminal.press("enter")
        await terminal.sees(f"#{batch}", "EXIT", "▶ 1", "▶ running")
        await terminal.press("enter")
        await terminal.sees("begun", "2 Main  ▶", "follow ▼")
        with Client(endpoint=address.endpoint, token=address.token) as client:
            client.get_batch(batch).cancel("seen enough")
        await terminal.sees("begun", "⊘ cancelled")
        await terminal.press("escape")
        await terminal.sees("⊘ cancelled", "100%", "cancelled by", "seen enough")


LINE_BYTES = 400
N_LINES = 600_000
"""Together 240 MB; the service holds logs of at most 268 MB."""
HELD_BYTES = 16 << 20
"""What the dashboard may take for it: 4 MB of the log, what is under way, and its share of noise."""


@pytest.fixture
def plain_up(tmp_path: Path) -> Iterator[Up]:
    with running(tmp_path / "up", "--runtime", "process") as up:
        yield up


def peak_memory() -> int:
    """Of this process, since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def write_large_log(file: Path) -> None:
    rest = b"." * (LINE_BYTES - len("line 0000000 \n"))
    with file.open("wb") as out:
        for first in range(0, N_LINES, 10_000):
            numbers = range(first, first + 10_000)
            out.write(b"".join(b"line %07d %s\n" % (n, rest) for n in numbers))


async def scroll(terminal: Terminal, key: str, line: str) -> None:
    """Press a key until the line is there: it stops where a piece ends that has not come yet."""
    for _ in range(200):
        if line in terminal.text:
            return
        await terminal.press(key)
    await terminal.sees(line)


async def test_a_very_large_log_is_looked_through_with_little_memory(plain_up: Up, tmp_path: Path) -> None:
    batch = submit(plain_up, tmp_path, job("echo begun; sleep 600"))
    address = read_service_file(plain_up.folder / "service.json")
    assert address
    app = Dashboard(Feed(connect_to(address.endpoint, address.token)), batch, 1)
    async with app.run_test(size=(120, 35)) as pilot:
        terminal = Terminal(app, pilot)
        await terminal.sees("begun", "follow ▼")
        await terminal.press("escape")
        # What a worker would push: the file of the controller is this log, byte by byte.
        (file,) = (plain_up.folder / "logs").glob(f"{batch}/1/*/main.log")
        write_large_log(file)
        forget_peak()
        before = peak_memory()
        await terminal.sees("EXIT")
        await terminal.press("enter")
        await terminal.sees(f"line {N_LINES - 1:07}", "100% of 240 MB", "follow ▼")
        await terminal.press("home")
        await terminal.sees("line 0000000", "line 0000025", "0% of 240 MB")
        await terminal.press("slash", *"0000640", "enter")
        await terminal.sees("line 1 of 1 that have it", "line 0000640")
        await scroll(terminal, "pagedown", "line 0000715")  # Beyond the piece that was held.
        await terminal.press("end")
        await terminal.sees(f"line {N_LINES - 1:07}", "100% of 240 MB", "0 that have it in the")
        await terminal.press("escape", "slash", *"LINE 0300000", "enter")  # Far from all that is held.
        await terminal.sees("line 0300000", "line 0300020", "50% of 240 MB")
        await terminal.press("escape", "slash", *"99 .", "enter")
        await terminal.sees("line 0300099")
        await terminal.press("end")
        await terminal.sees(f"line {N_LINES - 1:07}")
        await terminal.press("escape", "slash", *str(N_LINES - 650), "enter")
        await terminal.sees("line 1 of 1 that have it", f"line {N_LINES - 650:07}")
        await scroll(terminal, "pageup", f"line {N_LINES - 725:07}")
        assert peak_memory() - before < HELD_BYTES
