"""Beside the jobs of a batch: the one under the cursor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes_service import FakeService
from longshore_tui.widgets import preview
from longshore_tui.widgets.preview import Preview

from .conftest import Open

Submit = Callable[..., int]


@pytest.fixture
def batch_id(service: FakeService, submit: Submit) -> int:
    batch_id = submit("joint-calling", n_jobs=3)
    service.batches[batch_id].jobs[1].duration_ms = 1000
    service.finish(batch_id, 1, log=b"hello from one\n")
    service.finish(batch_id, 2, exit_code=3, log=b"begun\n\x1b[31mKeyError\x1b[0m\x1b]0;pwned\x07\n")
    service.batches[batch_id].jobs[2].reason = "exit code 3: KeyError"
    return batch_id


async def test_the_job_under_the_cursor_is_seen_with_the_end_of_its_log(
    batch_id: int, service: FakeService, open_dashboard: Open
) -> None:
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("╭─ 1 job-001 ─", "main   ✓", "log of main", "hello from one")
        await terminal.press("down")
        await terminal.sees("╭─ 2 job-002 ─", "✗ failure  exit 3", "exit code 3: KeyError", "│ KeyError")
        assert "hello from one" not in terminal.text
        await terminal.press("down")
        await terminal.sees("╭─ 3 job-003 ─", "│ · pending")
        service.write(batch_id, 3, b"on the way\n")
        await terminal.sees("│ ▶ running", "│ on the way")
        service.write(batch_id, 3, b"further\n")
        await terminal.sees("│ further")


async def test_it_gives_its_room_to_the_jobs_when_asked_or_when_there_is_too_little(
    batch_id: int, open_dashboard: Open
) -> None:
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("╭─ 1 job-001 ─", "p preview")
        assert "REASON" not in terminal.text
        await terminal.press("p")
        await terminal.sees("REASON", "exit code 3: KeyError")
        assert "╭─ 1 job-001 ─" not in terminal.text
        await terminal.press("p")
        await terminal.sees("╭─ 1 job-001 ─", "hello from one")
        await terminal.resize(80, 24)
        await terminal.until(lambda: "╭" not in terminal.text)
        assert "p preview" not in terminal.text


async def test_nothing_is_asked_for_it_while_nobody_sees_it(
    batch_id: int, service: FakeService, open_dashboard: Open
) -> None:
    async with open_dashboard(batch_id, size=(80, 24)) as terminal:
        await terminal.sees("job-003", "● live")
        await terminal.press("down", "down", "up")
        await terminal.sees("job-003")
    assert not {"WatchJob", "ReadLog"} & set(service.faults.calls)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("hello from one")
        panel = terminal.app.screen.query_one(Preview)
        assert panel.follows
        await terminal.press("enter")
        await terminal.sees("2 Main")
        assert not panel.follows
        await terminal.press("escape")
        await terminal.sees("│ hello from one")


async def test_jobs_that_are_only_passed_by_are_not_asked_for(
    service: FakeService, submit: Submit, open_dashboard: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "_REST_S", 1e6)
    batch_id = submit(n_jobs=300)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("╭─ 1 job-001 ─")
        await terminal.press(*["down"] * 20)
        await terminal.sees("╭─ 21 job-021 ─", "│ · pending")
    assert "WatchJob" not in service.faults.calls
