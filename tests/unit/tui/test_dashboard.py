"""The dashboard before a service that behaves, over real gRPC."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from fakes_service import TOKEN, FakeService
from longshore import Client, Unavailable, UsageError
from longshore_api.v1 import types_pb2 as types
from longshore_tui.__main__ import run
from longshore_tui.screens.live import LiveScreen
from longshore_tui.screens.menu import MenuScreen
from longshore_tui.widgets.key_bar import keys_of
from longshore_tui.widgets.table import WindowTable

from .conftest import Open

Submit = Callable[..., int]
SIZES = [(120, 35), (80, 24)]


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


async def test_a_new_batch_is_counted_and_moves_nothing_until_somebody_wants_to_see_it(
    submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit("old")
    async with open_dashboard() as terminal:
        await terminal.sees("old")
        row = terminal.line("old")
        submit("newer")
        await terminal.sees("▲ 1 new · Home")
        assert terminal.line("old") == row
        assert terminal.table.cursor_key == batch_id
        assert "newer" not in terminal.text
        await terminal.press("home")
        await terminal.sees("newer")
        assert "▲" not in terminal.text
        assert terminal.text.index("newer") < terminal.text.index("old ")


async def test_the_first_batch_appears_by_itself(submit: Submit, open_dashboard: Open) -> None:
    async with open_dashboard() as terminal:
        await terminal.sees("No batches yet", "hp.Pipeline")
        submit("first")
        await terminal.sees("first", "1 batch")


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
        await terminal.sees("100%  ✗ failure  ✓ 1  ✗ 1")


async def test_a_window_is_followed_wherever_one_scrolls(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=1500)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        await terminal.press("end")
        await terminal.sees("job-1500")
        service.finish(batch_id, 1499, exit_code=3)
        await terminal.until(lambda: "✗ failure" in terminal.line("job-1499"))
        await terminal.press("pageup", "pageup")
        assert terminal.table.cursor < 1450
        await terminal.press("g", "g")
        await terminal.sees("job-001")
    assert service.faults.calls.count("WatchJobs") == 1
    assert not {"ListJobs", "GetBatch", "GetJob", "WatchEvents"} & set(service.faults.calls)


async def test_only_failed_jobs_are_listed_on_request(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=6)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        await terminal.press("down", "down", "f")
        await terminal.sees("Nothing matches  state:bad", "esc shows all again")
        service.finish(batch_id, 5, exit_code=1)
        await terminal.sees("job-005", "/ state:bad", "1 of 6 jobs")
        assert "job-001" not in terminal.text
        await terminal.press("f")
        await terminal.sees("job-001")
        await terminal.until(lambda: terminal.table.cursor_key == 3)


async def test_a_filter_is_asked_while_it_is_typed_and_escape_comes_back_to_the_row(
    submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=200)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        await terminal.press(*["pagedown"] * 3)
        key = terminal.table.cursor_key
        await terminal.press("slash", *"job-199")
        await terminal.sees("job-199", "1 of 200 jobs")
        await terminal.press("enter")
        await terminal.sees("/ job-199")
        await terminal.press("escape")
        await terminal.until(lambda: terminal.table.cursor_key == key)
        await terminal.sees(f"job-{key:03}")


async def test_a_query_that_cannot_be_read_is_shown_where_it_fails(
    submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=3)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-003")
        # However slowly it is typed: what is asked on the way is found in every name.
        await terminal.press("slash", *"job job:red", "enter")
        await terminal.sees("no field 'job'", "job-003")
        assert terminal.line("no field").index("^") == 2 + len("job ")
        await terminal.press("escape")
        await terminal.until(lambda: "no field" not in terminal.text)
        await terminal.press("slash", *"002", "enter")
        await terminal.sees("1 of 3 jobs")


async def test_n_goes_from_one_failed_job_to_the_next(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=400)
    for job_id in (20, 210, 390):
        service.finish(batch_id, job_id, exit_code=1)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        for key, job_id in (("n", 20), ("n", 210), ("n", 390), ("N", 210), ("N", 20)):
            await terminal.press(key)
            await terminal.at(job_id)
            await terminal.sees(f"job-{job_id:03}")
        await terminal.press("N")
        await terminal.sees("no failed job there")


async def test_n_finds_failed_jobs_in_a_filtered_list(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=40)
    service.finish(batch_id, 14, exit_code=1)
    service.finish(batch_id, 33, exit_code=1)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        await terminal.press("slash", "3", "enter")
        await terminal.sees("13 of 40 jobs")
        await terminal.press("n")
        await terminal.until(lambda: terminal.table.cursor_key == 33)
        assert terminal.table.cursor == 6


async def test_a_log_grows_while_the_job_runs(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("it waits for the jobs it depends on")
        service.write(batch_id, 1, b"one\nhalf a li")
        await terminal.sees("one", "half a li", "follow ▼")
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
        await terminal.sees("line 0.", "F follows")
        service.write(batch_id, 1, b"more\n")
        await terminal.sees("101 lines", "▼ 1 new")
        assert "line 0." in terminal.text
        await terminal.press("F")
        await terminal.sees("more", "follow ▼")
        service.write(batch_id, 1, b"even more\n")
        await terminal.sees("even more")


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
        await terminal.sees("this job has no output container, for it has no output files")
        assert "3 Output" not in terminal.text
        await terminal.press("4")
        await terminal.sees("attempt 1  started")
        await terminal.press("5")
        await terminal.sees("command:", "  - true", "input_files:")
        await terminal.press("2")
        await terminal.sees("from main")


async def test_a_job_that_wrote_nothing_says_so(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    service.finish(batch_id, 1)
    async with open_dashboard(batch_id, 1) as terminal:
        await terminal.sees("main wrote nothing.")


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
        await terminal.sees("batch 77 does not exist, or is not yours")
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


async def test_the_menu_finds_a_key_and_presses_it(submit: Submit, open_dashboard: Open) -> None:
    async with open_dashboard(submit(), size=(120, 50)) as terminal:
        await terminal.sees("job-001")
        await terminal.press("question_mark")
        await terminal.until(lambda: isinstance(terminal.app.screen, MenuScreen))
        await terminal.sees("failed only", "cancel batch", "? F1")
        await terminal.press(*"exit")
        await terminal.sees("✗ failure", "exit code not 0")
        await terminal.press(*["backspace"] * 4)
        await terminal.sees("cancel batch")
        await terminal.press(*"failed only")
        await terminal.until(lambda: "cancel batch" not in terminal.text)
        await terminal.press("enter")
        await terminal.sees("/ state:bad")


@pytest.mark.parametrize("width", [80, 120, 200])
async def test_the_last_line_has_at_most_twelve_keys_all_of_which_are_bound(
    submit: Submit, open_dashboard: Open, width: int
) -> None:
    batch_id = submit()
    async with open_dashboard(size=(width, 30)) as terminal:
        for part in ("1 batch", "job-001", "has not started"):
            await terminal.sees(part)
            screen = terminal.app.screen
            assert isinstance(screen, LiveScreen)
            keys = keys_of(cast(Any, screen))
            assert {"app.menu", "app.palette"} <= keys.keys()
            shown = terminal.lines[-1].split("  ")
            assert len([each for each in shown if each.strip()]) <= 12
            assert "? help" in terminal.lines[-1]
            await terminal.press("enter")
    assert batch_id


async def test_the_palette_jumps_to_a_job(service: FakeService, submit: Submit, open_dashboard: Open) -> None:
    batch_id = submit("far", n_jobs=3)
    service.finish(batch_id, 2, log=b"found me\n")
    async with open_dashboard() as terminal:
        await terminal.sees("far")
        await terminal.press("ctrl+p", *f"{batch_id}/2")
        await terminal.sees(f"open batch {batch_id}, job 2")
        await terminal.press("enter")
        await terminal.sees(f"batches ▸ #{batch_id} far ▸ 2 job-002", "found me")
        await terminal.press("g", "b")
        await terminal.sees("1 batch")


@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_q_leaves_at_once_where_it_began_and_nothing_is_left_running(
    submit: Submit, open_dashboard: Open, depth: int
) -> None:
    batch_id = submit()
    async with open_dashboard(*(batch_id, 1)[:depth]) as terminal:
        await terminal.sees(("1 batch", "EXIT", "it waits for the jobs")[depth], "q quit")
        await terminal.press("q")
    assert terminal.app.return_code == 0
    assert not terminal.app.is_running
    assert not [thread.name for thread in threading.enumerate() if "Follow" in thread.name]


async def test_q_goes_back_to_where_it_began_and_leaves_there(submit: Submit, open_dashboard: Open) -> None:
    batch_id = submit()
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001", "q quit")
        await terminal.press("enter")
        await terminal.sees("it waits for the jobs", "esc back")
        await terminal.press("q")
        await terminal.sees("EXIT", "q quit")
        await terminal.press("q")
    assert terminal.app.return_code == 0


async def test_who_went_up_from_where_it_began_leaves_from_there(
    submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit()
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-001")
        await terminal.press("escape")
        await terminal.sees("1 batch", "q quit")
        await terminal.press("enter")
        await terminal.sees("EXIT", "esc back")
        await terminal.press("q")
        await terminal.sees("1 batch", "q quit")
        await terminal.press("q")
    assert terminal.app.return_code == 0


async def test_the_cursor_keeps_its_row_when_the_terminal_changes(
    submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=3)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-003")
        await terminal.press("end")
        for size in [(80, 24), (60, 15), (120, 35)]:
            await terminal.resize(*size)
            await terminal.sees("job-003")
            assert terminal.app.screen.query_one(WindowTable).cursor_key == 3


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


async def test_a_filter_is_completed_with_what_there_is_and_how_much_of_it(
    service: FakeService, submit: Submit, open_dashboard: Open
) -> None:
    batch_id = submit(n_jobs=3)
    service.finish(batch_id, 2, exit_code=1)
    async with open_dashboard(batch_id) as terminal:
        await terminal.sees("job-003")
        await terminal.press("slash", *"state:fa")
        await terminal.sees("tab", "failure 1")
        await terminal.press("tab")
        await terminal.sees("state:failure", "1 of 3 jobs")
        await terminal.press("enter")
        await terminal.sees("/ state:failure")
        assert "tab   failure" not in terminal.text
