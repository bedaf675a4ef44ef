"""What is done to batches from the dashboard: cancelling and deleting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes_service import FakeService
from longshore_tui.screens.confirm import ConfirmScreen

from .conftest import Open

Submit = Callable[..., int]


async def test_nothing_is_cancelled_by_a_key_pressed_by_mistake(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("precious", n_jobs=3)
    service.finish(batch_id, 1)
    async with open_dashboard() as terminal:
        await terminal.sees("precious")
        await terminal.press("c")
        await terminal.sees(
            f"Cancel batch #{batch_id} precious?", "2 waiting jobs will not run",
            "1 finished job will be kept",
            f"same as: longshore cancel {batch_id}",
        )  # fmt: skip
        await terminal.press("enter")
        await terminal.until(lambda: not isinstance(terminal.app.screen, ConfirmScreen))
        await terminal.press("c", "escape")
        await terminal.press("c", "q")
        await terminal.until(lambda: not isinstance(terminal.app.screen, ConfirmScreen))
    assert "CancelBatch" not in service.faults.calls


async def test_a_batch_is_cancelled_once_and_is_said_to_be_until_it_is(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    submit("doomed", n_jobs=3)
    async with open_dashboard() as terminal:
        await terminal.sees("doomed")
        await terminal.press("c", "right", "enter", "enter")
        await terminal.sees("⊘ cancelled")
        assert "cancelling" not in terminal.line("doomed")
    assert service.faults.calls.count("CancelBatch") == 1


@pytest.mark.parametrize("typed", ["", "7", "1"])
async def test_much_is_cancelled_only_by_typing_its_number(
    service: FakeService, submit: Submit, open_dashboard: Open, typed: str
) -> None:
    batch_id = submit("large", n_jobs=101)
    for job_id in range(1, 102):
        service.write(batch_id, job_id, b"")
    async with open_dashboard() as terminal:
        await terminal.sees("large")
        await terminal.press("c")
        await terminal.sees(f"Type {batch_id} to confirm", "101 running jobs will be stopped")
        await terminal.press(*typed, "enter")
        if typed == str(batch_id):
            await terminal.sees("⊘ cancelled")
        else:
            await terminal.sees(f"that is not {batch_id}; nothing was done")
    assert service.faults.calls.count("CancelBatch") == (typed == str(batch_id))


async def test_marked_batches_are_cancelled_together_by_typing_how_many(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    for name in ("one", "two", "three"):
        submit(name)
    async with open_dashboard() as terminal:
        await terminal.sees("three")
        await terminal.press("space", "space")
        await terminal.sees("◆ 2 marked")
        await terminal.press("c")
        await terminal.sees("Cancel 2 batches?", "same as: longshore cancel 2 3", "Type 2 to confirm")
        await terminal.press("2", "enter")
        await terminal.until(lambda: "cancelled" in terminal.line("three"))
        await terminal.until(lambda: "cancelled" in terminal.line(" two "))
        await terminal.until(lambda: "marked" not in terminal.text)
        assert "▶ running" in terminal.line(" one ")


async def test_c_on_a_job_says_that_only_its_batch_can_be_cancelled(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("whole", n_jobs=2)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-002")
        await terminal.press("c")
        await terminal.sees("A single job cannot be cancelled", f"Cancel batch #{batch_id} whole?")
        await terminal.press("escape", "enter")
        await terminal.sees("▸ 1 job-001")
        await terminal.press("c")
        await terminal.sees("A single job cannot be cancelled", f"Cancel batch #{batch_id} whole?")


async def test_a_finished_batch_is_deleted_at_once(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("over")
    service.finish(batch_id, 1)
    async with open_dashboard() as terminal:
        await terminal.sees("over")
        await terminal.press("c")
        await terminal.sees(f"#{batch_id}: complete, there is nothing to cancel")
        await terminal.press("D")
        await terminal.sees(
            "No batches yet", f"deleted #{batch_id}, still billed", f"longshore undelete {batch_id}"
        )
        await terminal.press("u")
        await terminal.sees(f"#{batch_id} in the list again", "✓ success")
        await terminal.press("u")
        await terminal.sees("nothing was deleted here")


async def test_an_unfinished_batch_is_deleted_when_that_is_wanted(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("runs")
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        await terminal.press("D")
        await terminal.sees(f"Delete batch #{batch_id} runs?", "They are cancelled first", "still billed")
        await terminal.press("left", "enter")
        await terminal.sees("No batches yet")


async def test_nothing_is_sent_later_that_could_not_be_sent(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    submit("safe")
    async with open_dashboard() as terminal:
        await terminal.sees("safe", "● live")
        service.stop()
        await terminal.sees("○ offline · retry")
        await terminal.press("c", "D")
        await terminal.sees("offline – not sent", "safe")
        service.start()
        await terminal.sees("● live")
    assert not {"CancelBatch", "DeleteBatch"} & set(service.faults.calls)


async def test_what_is_refused_is_explained_and_leaves_no_trace(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("gone")
    async with open_dashboard() as terminal:
        await terminal.sees("gone")
        await terminal.press("c", "right")
        service.faults.refuse_every = 1
        await terminal.press("enter")
        await terminal.sees(f"cancel #{batch_id}:", "does not answer")
        assert "cancelling" not in terminal.text


async def test_what_the_cursor_is_at_can_be_copied(submit: Submit, open_dashboard: Open) -> None:
    batch_id = submit(n_jobs=3)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-003")
        await terminal.press("down", "y")
        await terminal.sees(f"copied {batch_id}/2")
        assert terminal.app.clipboard == f"{batch_id}/2"


async def test_failed_jobs_are_run_again_when_that_is_wanted_and_then_shown(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("broken", n_jobs=2)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        await terminal.press("r")
        await terminal.sees(f"#{batch_id}: it is not complete")
        service.finish(batch_id, 1, exit_code=1)
        service.finish(batch_id, 2)
        await terminal.sees("✗ failure")
        await terminal.press("r")
        await terminal.sees(
            f"Rerun batch #{batch_id} broken?", "1 failed", f"longshore rerun {batch_id} --failed"
        )
        await terminal.press("enter")
        assert len(service.batches) == 1
        await terminal.press("r", "right", "enter")
        await terminal.sees(f"#{batch_id + 1} runs what failed in #{batch_id}")
        await terminal.until(lambda: "job-002" not in terminal.text)
    assert service.batches[batch_id + 1].request.rerun_of == batch_id
