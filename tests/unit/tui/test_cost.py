"""What a batch cost, in the dashboard: $, on every screen of batches."""

from __future__ import annotations

from collections.abc import Callable

from fakes_service import FakeService
from longshore_api.v1 import billing_service_pb2 as pb
from longshore_tui.screens import cost
from longshore_tui.screens.cost import CostScreen
from pytest import MonkeyPatch

from .conftest import Open

Submit = Callable[..., int]


async def test_a_batch_is_shown_by_resource_and_with_who_pays(
    service: FakeService, submit: Submit, open_dashboard: Open, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "AGAIN_S", 0.05)
    batch_id = submit("waiting", n_jobs=2)
    service.billing.costs = [pb.Cost(resource="com\x1b[2Jpute", nanousd=2_500_000_000, mcpu_ms=5_400_000_000)]
    project = service.batches[batch_id].request.billing_project
    service.billing.projects[project] = pb.Project(
        name=project, limit_nanousd=10 * 10**9, spent_nanousd=8 * 10**9, running_nanousd=10**9
    )
    async with open_dashboard() as terminal:
        await terminal.sees("waiting")
        await terminal.press("$")
        await terminal.sees(f"cost of batch #{batch_id}", "0 of 2 jobs complete", "$2.50", "1.50 core-hours")
        await terminal.sees("$9.00  of its limit of $10.00", "warned")
        assert "\x1b" not in terminal.text
        service.billing.projects[project].limit_nanousd = 9 * 10**9
        await terminal.sees("spent")
        del service.billing.projects[project]
        await terminal.until(lambda: "billing project" not in terminal.text)
        await terminal.press("escape", "enter")
        await terminal.sees("job-002")
        await terminal.press("$")
        await terminal.sees(f"cost of batch #{batch_id}")
        service.batches[batch_id].deleted = True
        await terminal.sees(f"batch {batch_id} does not exist")
        await terminal.press("q")
        await terminal.until(lambda: not isinstance(terminal.app.screen, CostScreen))
