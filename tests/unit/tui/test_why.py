"""Why something does not run, in the dashboard: W, on every screen that shows a batch or a job."""

from __future__ import annotations

from collections.abc import Callable

from fakes_service import FakeService
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_tui.screens import why
from longshore_tui.screens.why import WhyScreen
from pytest import MonkeyPatch

from .conftest import Open

Submit = Callable[..., int]


async def test_w_says_why_on_every_screen(service: FakeService, submit: Submit, open_dashboard: Open) -> None:
    batch_id = submit("waiting", n_jobs=2)
    async with open_dashboard() as terminal:
        await terminal.sees("waiting")
        await terminal.press("W")
        await terminal.sees(f"batch #{batch_id}", "there is no worker", "→ start one")
        await terminal.press("escape", "enter")
        await terminal.sees("job-002")
        await terminal.press("down", "W")
        await terminal.sees(f"job {batch_id}/2", f"batch #{batch_id}", "there is no worker")
        await terminal.press("q")
        await terminal.until(lambda: not isinstance(terminal.app.screen, WhyScreen))
        await terminal.press("enter")
        await terminal.sees("▸ 2 job-002")
        await terminal.press("W")
        await terminal.sees(f"job {batch_id}/2", "there is no worker")


async def test_it_is_asked_again_and_says_so_when_it_cannot_be(
    service: FakeService, submit: Submit, open_dashboard: Open, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(why, "AGAIN_S", 0.05)
    batch_id = submit("waiting")
    async with open_dashboard() as terminal:
        await terminal.sees("waiting")
        await terminal.press("W")
        await terminal.sees("there is no worker")
        service.reasons = [pb.Reason(code="RUNNING", text="1 job is\x1b[2J running")]
        await terminal.sees("1 job is")
        assert "\x1b" not in terminal.text and "no worker" not in terminal.text
        service.batches[batch_id].deleted = True
        await terminal.sees(f"batch {batch_id} does not exist")


async def test_what_the_service_notes_is_on_every_screen(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    submit("waiting")
    async with open_dashboard() as terminal:
        await terminal.sees("waiting")
        service.notices.append("the service is frozen by root: a new network")
        await terminal.sees("! the service is frozen by root")
        await terminal.press("enter")
        await terminal.sees("job-001", "! the service is frozen by root")
