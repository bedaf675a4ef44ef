"""The dashboard before the real service."""

from __future__ import annotations

from pathlib import Path

from embedded import Up, job, submit
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
