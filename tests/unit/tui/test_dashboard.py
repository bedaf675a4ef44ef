"""The dashboard before a service that behaves, over real gRPC."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes_service import TOKEN, FakeService
from longshore import Client, Unavailable, UsageError
from longshore_api.v1 import types_pb2 as types
from longshore_tui.__main__ import run
from longshore_tui.model import LogRead, LogText
from longshore_tui.screens.help import HelpScreen
from longshore_tui.widgets.log_view import LogView
from longshore_tui.widgets.table import Table
from textual.app import App, ComposeResult

from .conftest import Open

Submit = Callable[..., int]
SIZES = [(120, 35), (80, 24)]
HOSTILE = "\x1b]0;pwned\x07\x1b[2J[bold]x[/] \u202e\r\n日本語 {0} %s"


@pytest.mark.parametrize("size", SIZES)
async def test_batches_are_listed_newest_first_with_counts_and_costs(
    service: FakeService, submit: Submit, open_dashboard: Open, size: tuple[int, int]
) -> None:
    submit("first")
    batch_id = submit("second", n_jobs=4)
    service.batches[batch_id].jobs[1].duration_ms = 1000
    service.finish(batch_id, 1)
    service.finish(batch_id, 2, exit_code=3)
    async with open_dashboard(size=size) as terminal:
        await terminal.sees("first", "second", "● live", "2 batches · 2 unfinished · 1 with failures")
        assert re.search(r"second .*█+▓+░+ +50% +4 .* 1 .*≥\$0\.0000060 ", terminal.line("second"))
        assert terminal.text.index("second") < terminal.text.index("first")


async def test_a_new_batch_appears_by_itself_and_the_cursor_stays_at_its_row(
    submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("old")
    async with open_dashboard() as terminal:
        await terminal.sees("old")
        submit("new")
        await terminal.sees("new")
        assert terminal.app.screen.query_one(Table).cursor_key == batch_id


async def test_a_deleted_batch_disappears(client: Client, submit: Submit, open_dashboard: Open) -> None:
    batch_id = submit("doomed")
    async with open_dashboard() as terminal:
        await terminal.sees("doomed")
        client.get_batch(batch_id).delete()
        await terminal.sees("No batches yet", "hp.Pipeline")


async def test_enter_goes_down_to_the_log_and_escape_comes_back(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("joint-calling")
    service.finish(batch_id, 1, log=b"hello from the job\n")
    async with open_dashboard() as terminal:
        await terminal.sees("joint-calling")
        await terminal.press("enter")
        await terminal.sees(f"batches ▸ #{batch_id} joint-calling", "job-001", "✓ success")
        await terminal.press("enter")
        await terminal.sees("▸ 1 job-001", "hello from the job", "exit 0 · attempt 1")
        await terminal.press("escape")
        await terminal.sees("job-001", "EXIT")
        await terminal.press("escape", "escape")
        await terminal.sees("1 batch")


async def test_what_becomes_of_a_job_is_seen_at_once(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=2)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("· pending")
        service.write(batch_id, 1, b"")
        await terminal.sees("▶ running")
        service.finish(batch_id, 1, exit_code=3)
        await terminal.until(lambda: re.search(r"job-001 .* ✗ failure +3 ", terminal.text))
        service.finish(batch_id, 2)
        await terminal.sees("✗ failure  █", "100%")


async def test_a_storm_of_events_becomes_a_few_readings(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=300)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("pending")
        for job_id in range(1, 301):
            service.finish(batch_id, job_id)
        await terminal.sees("✓ 300")
        assert service.faults.calls.count("ListJobs") < 20


async def test_beyond_the_last_row_lies_the_next_page(submit: Submit, open_dashboard: Open) -> None:
    batch_id = submit(n_jobs=8)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-003", "page 1 ▾")
        await terminal.press("end", "down")
        await terminal.sees("job-004", "job-006", "page 2 ▾")
        await terminal.press("pagedown", "pagedown")
        await terminal.sees("job-007", "job-008", "page 3")
        assert "▾" not in terminal.text
        await terminal.press("up")
        await terminal.sees("job-004", "job-006", "page 2 ▾")
        assert terminal.app.screen.query_one(Table).cursor_key == 6


async def test_only_failed_jobs_are_listed_on_request(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=6)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        await terminal.press("f")
        await terminal.sees("No job of this batch has failed.")
        service.finish(batch_id, 5, exit_code=1)
        await terminal.sees("job-005", "failed only")
        assert "job-001" not in terminal.text
        await terminal.press("f")
        await terminal.sees("job-001")


async def test_a_log_grows_while_the_job_runs(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("it waits for the jobs it depends on")
        service.write(batch_id, 1, b"one\nhalf a li")
        await terminal.sees("one", "half a li", "follows ▼")
        service.write(batch_id, 1, b"ne\nthree\n")
        await terminal.sees("half a line", "three")
        service.finish(batch_id, 1)
        await terminal.sees("✓ success")


async def test_a_log_that_was_scrolled_up_stays_where_it_is_until_its_end_is_wanted(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    service.write(batch_id, 1, b"".join(b"line %d.\n" % n for n in range(100)))
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("line 99.")
        await terminal.press("home")
        await terminal.sees("line 0.", "End follows again")
        service.write(batch_id, 1, b"more\n")
        await terminal.sees("101 lines")
        assert "line 0." in terminal.text
        await terminal.press("F")
        await terminal.sees("more", "follows ▼")
        service.write(batch_id, 1, b"even more\n")
        await terminal.sees("even more")


async def test_a_log_view_forgets_its_oldest_lines_without_moving_what_is_looked_at() -> None:
    class Alone(App[None]):
        def compose(self) -> ComposeResult:
            yield LogView()

    text = LogText(most=200)
    text.add(LogRead(0, b"".join(b"line %d.\n" % n for n in range(200))))
    app = Alone()
    async with app.run_test(size=(80, 24)) as pilot:
        view = app.query_one(LogView)
        view.show(text)
        view.focus()
        await pilot.press("pageup", "pageup")
        top = view.render_line(0).text
        assert top.startswith("line 1")
        text.add(LogRead(0, b"more\n" * 50))
        view.grown()
        assert view.render_line(0).text == top
        await pilot.press("F")
        assert view.render_line(23).text.startswith("more")


async def test_a_key_is_heeded_before_the_log_has_its_scrollbar() -> None:
    class Alone(App[None]):
        def compose(self) -> ComposeResult:
            yield LogView()

    text = LogText()
    text.add(LogRead(0, b"".join(b"line %d.\n" % n for n in range(100))))
    async with Alone().run_test(size=(80, 24)) as pilot:
        view = pilot.app.query_one(LogView)
        view.show(text)
        view.action_first()
        await pilot.pause()
        assert view.render_line(0).text.startswith("line 0.")
        assert not view.follows


async def test_the_containers_of_a_job_are_tabs(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(input_files=[("/a", "/io/a")])
    service.write(batch_id, 1, b"copied a\n", types.CONTAINER_INPUT)
    service.write(batch_id, 1, b"from main\n")
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("from main")
        await terminal.press("1")
        await terminal.sees("copied a")
        await terminal.press("3")
        await terminal.sees("This job has no output container, for it has no output files.")
        await terminal.press("tab", "tab")
        await terminal.sees("from main")


async def test_a_job_that_wrote_nothing_says_so(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    service.finish(batch_id, 1)
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("main wrote nothing.")


@pytest.mark.parametrize("size", SIZES)
async def test_hostile_names_and_logs_are_only_text(
    service: FakeService, submit: Submit, open_dashboard: Open, size: tuple[int, int]
) -> None:
    service.user = HOSTILE
    service.notices = [HOSTILE]
    batch_id = submit(HOSTILE)
    job = service.batches[batch_id].jobs[1]
    job.spec.name = job.reason = HOSTILE
    service.finish(batch_id, 1, exit_code=1, log=HOSTILE.encode() + b"\xff\x9b2J\n\x9b3J" + bytes(range(256)))
    async with open_dashboard(size=size) as terminal:
        for part in ("1 batch", "EXIT", "2J", "line down"):
            await terminal.sees(part, "[bold]x[")
            steering = re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", terminal.text)
            assert not steering, (part, steering)
            await terminal.press("question_mark" if part == "2J" else "enter")


async def test_what_was_read_stays_while_the_service_is_away(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("precious")
    async with open_dashboard() as terminal:
        await terminal.sees("precious", "● live")
        service.stop()
        await terminal.sees("○ offline", "does not answer", "precious")
        service.finish(batch_id, 1)
        service.start()
        await terminal.sees("● live", "✓ success")


async def test_a_log_goes_on_where_it_was_after_the_service_was_away(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    service.write(batch_id, 1, b"before\n")
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("before", "1 line ")
        service.stop()
        await terminal.sees("○ offline")
        service.write(batch_id, 1, b"meanwhile\n")
        service.start()
        await terminal.sees("before", "meanwhile", "2 lines")


async def test_streams_that_break_all_the_time_lose_nothing(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    service.faults.cut_every = 5
    service.write(batch_id, 1, b"".join(b"%d\n" % n for n in range(60)))
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("60 lines")
        service.finish(batch_id, 1)
        await terminal.sees("✓ success")


async def test_an_unknown_batch_is_said_to_be_unknown(open_dashboard: Open) -> None:
    async with open_dashboard(77) as terminal:
        await terminal.sees("batch 77 does not exist, or is not yours", "○ refused")
        await terminal.press("escape")
        await terminal.sees("No batches yet")


async def test_a_wrong_token_is_said_to_be_wrong(open_dashboard: Open) -> None:
    async with open_dashboard(token="stolen") as terminal:
        await terminal.sees("unknown token", "LONGSHORE_TOKEN")


async def test_the_service_is_waited_for_from_the_beginning(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    submit("patient")
    service.stop()
    async with open_dashboard() as terminal:
        await terminal.sees("○ offline", "longshore up")
        service.start()
        await terminal.sees("patient", "● live")


async def test_notices_of_the_service_are_in_sight_everywhere(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    service.notices = ["jobs run as plain processes"]
    async with open_dashboard(submit(), 1) as terminal:
        await terminal.sees("! jobs run as plain processes", "▸ 1 job-001")
        await terminal.press("escape")
        await terminal.sees("! jobs run as plain processes", "EXIT")


@pytest.mark.parametrize("width", [60, 79, 80, 99, 100, 110, 120, 200])
async def test_at_any_width_every_line_is_as_wide_as_the_terminal(
    submit: Submit, open_dashboard: Open, width: int
) -> None:
    batch_id = submit("a-name-that-is-longer-than-what-there-is-room-for-" * 3, n_jobs=3)
    async with open_dashboard(size=(width, 24)) as terminal:
        await terminal.sees("1 batch", "COST ELAPSED")
        assert {len(line) for line in terminal.lines} == {width}
        assert str(batch_id) in terminal.line("a-")
        await terminal.press("enter")
        await terminal.sees("job-003", "COST")
        assert {len(line) for line in terminal.lines} == {width}


async def test_help_names_every_key_of_the_footer(submit: Submit, open_dashboard: Open) -> None:
    async with open_dashboard(submit(), size=(120, 50)) as terminal:
        await terminal.sees("job-001")
        in_footer = {
            (each.binding.key, each.binding.description)
            for each in terminal.app.screen.active_bindings.values()
            if each.binding.show and not each.binding.system
        }
        await terminal.press("question_mark")
        await terminal.until(lambda: isinstance(terminal.app.screen, HelpScreen))
        assert in_footer
        for _, does in in_footer:
            await terminal.sees(does)
        await terminal.press("escape")
        await terminal.sees("job-001")


async def test_q_leaves_and_nothing_is_left_running(submit: Submit, open_dashboard: Open) -> None:
    batch_id = submit()
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("job-001")
        await terminal.press("q")
    assert not [thread.name for thread in threading.enumerate() if "Follow" in thread.name]


async def test_the_cursor_keeps_its_row_when_the_terminal_changes(
    submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=3)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-003")
        await terminal.press("end")
        for size in [(80, 24), (60, 12), (120, 35)]:
            await terminal.resize(*size)
            await terminal.sees("job-003")
            assert terminal.app.screen.query_one(Table).cursor_key == 3


def test_without_a_service_that_is_known_it_does_not_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LONGSHORE_HOME", str(tmp_path))
    monkeypatch.delenv("LONGSHORE_ENDPOINT", raising=False)
    with pytest.raises(Unavailable, match="longshore up"):
        run()


def test_a_target_that_is_none_is_refused(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSHORE_ENDPOINT", service.endpoint)
    monkeypatch.setenv("LONGSHORE_TOKEN", TOKEN)
    with pytest.raises(UsageError, match="8120/4705"):
        run("8120/x")
