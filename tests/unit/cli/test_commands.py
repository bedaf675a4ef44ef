"""Every verb against a service that behaves: what it prints, says and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import LONGSHORE, Run, run_at_terminal, run_in_process
from fakes_service import FakeService
from longshore import Batch, BatchFailedError, Client
from longshore.cli import words
from longshore.cli.output import Look


def submit(client: Client, n_jobs: int = 2, name: str = "align") -> Batch:
    builder = client.create_batch(name=name)
    for i in range(n_jobs):
        builder.create_job(None, ["true"], name=f"part-{i}")
    return builder.submit()


def until_called(service: FakeService, call: str) -> None:
    deadline = time.monotonic() + 30
    while call not in service.faults.calls:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ls_lists_the_newest_first(run: Run, client: Client) -> None:
    submit(client, name="old")
    submit(client, name="new")
    ran = run("ls")
    assert [line.split()[:2] for line in ran.lines] == [["ID", "NAME"], ["2", "new"], ["1", "old"]]
    assert ran.err == ""


def test_ls_ends_after_so_many_as_were_asked_for(run: Run, client: Client) -> None:
    for _ in range(5):
        submit(client)
    assert [batch["id"] for batch in run("ls", "-n", "4", "-o", "json").document["batches"]] == [5, 4, 3, 2]


def test_ls_without_batches_is_an_empty_list(run: Run, service: FakeService) -> None:
    assert run("ls", "-o", "json").document == {"schema": "longshore/v1", "batches": []}
    assert len(run("ls").lines) == 1


def test_get_shows_a_batch_with_its_counts(run: Run, service: FakeService, client: Client) -> None:
    batch = submit(client)
    service.finish(batch.id, 1, exit_code=3)
    ran = run("get", "last")
    shown = {line[:15].strip(): line[17:] for line in ran.lines if line[:15].strip()}
    assert shown["batch"] == "1" and shown["name"] == "align" and shown["jobs"] == "2"
    assert shown["state"] == "failure, running"


def test_get_shows_a_job_with_its_attempts_and_containers(
    run: Run, service: FakeService, client: Client
) -> None:
    batch = submit(client)
    service.finish(batch.id, 2, exit_code=3, log=b"oops")
    ran = run("get", "1/2")
    assert "exit code" in ran.out.decode() and "part-1" in ran.out.decode()
    (row,) = [line for line in ran.lines if " main " in line]
    assert row.split()[:4] == ["1", "main", "Failure", "3"]


def test_get_in_json_is_the_job_itself(run: Run, service: FakeService, client: Client) -> None:
    service.finish(submit(client).id, 2, exit_code=3)
    document = run("get", "1/2", "-o", "json").document
    assert document["schema"] == "longshore/v1"
    job = document["job"]
    assert (job["batch_id"], job["job_id"], job["state"], job["exit_code"]) == (1, 2, "Failure", 3)
    assert isinstance(job["duration_s"], float) and set(job["cost"]) == {"usd"}
    assert job["spec"]["command"] == ["true"]
    assert job["attempts"][0]["containers"]["main"]["exit_code"] == 3


def test_jobs_lists_all_pages(run: Run, client: Client) -> None:
    submit(client, 10)
    assert [job["job_id"] for job in run("jobs", "1", "-o", "json").document["jobs"]] == list(range(1, 11))
    assert len(run("jobs", "1").lines) == 11


def test_jobs_can_be_asked_for_by_state(run: Run, service: FakeService, client: Client) -> None:
    submit(client, 3)
    service.finish(1, 2, exit_code=1)
    assert [line.split()[:3] for line in run("jobs", "1", "-s", "failed").lines[1:]] == [
        ["2", "part-1", "Failure"]
    ]


def test_jobs_of_a_job_says_what_to_write(run: Run) -> None:
    ran = run("jobs", "8120/3")
    assert ran.code == 2 and "longshore jobs 8120" in ran.err


def test_logs_are_the_very_bytes(run: Run, service: FakeService, client: Client) -> None:
    log = bytes(range(256)) * 3 + b"\r\n\x1b[2J"
    service.finish(submit(client).id, 1, log=log)
    assert run("logs", "1/1").out == log


@pytest.mark.parametrize(
    ("log", "n", "tail"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\n", 5, b"a\nb\n"),
        (b"a\n\n\n", 2, b"\n\n"),
        (b"x" * 50 + b"\nlast\n", 1, b"last\n"),
        (b"first\n" + b"y" * 50, 1, b"y" * 50),
        (b"".join(b"%d\n" % i for i in range(100)), 70, b"".join(b"%d\n" % i for i in range(30, 100))),
        (b"a\n", 0, b""),
        (b"", 3, b""),
    ],
    ids=range(9),
)  # fmt: skip
def test_the_tail_of_a_log_is_its_last_lines(
    run: Run,
    service: FakeService,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    log: bytes,
    n: int,
    tail: bytes,
) -> None:
    monkeypatch.setattr("longshore.cli.logs._BLOCK", 16)
    service.finish(submit(client).id, 1, log=log)
    assert run("logs", "1/1", "--tail", str(n)).out == tail


def test_logs_that_are_followed_end_with_the_job(run: Run, service: FakeService, client: Client) -> None:
    submit(client)

    def finish_when_it_is_waited_for() -> None:
        until_called(service, "WatchBatch")
        service.finish(1, 1, log=b"one\ntwo\n")

    worker = threading.Thread(target=finish_when_it_is_waited_for)
    worker.start()
    ran = run("logs", "-f", "1/1")
    worker.join()
    assert ran.out == b"one\ntwo\n"
    assert "waiting for it to start" in ran.err


def test_all_logs_are_told_apart_on_stderr(run: Run, service: FakeService, client: Client) -> None:
    builder = client.create_batch()
    builder.create_job(None, ["true"], input_files=[("/a", "/io/a")])
    builder.submit()
    service.finish(1, 1, log=b"hello\n")
    ran = run("logs", "1/1", "-c", "all")
    assert ran.out == b"hello\n"
    assert [line for line in ran.err.splitlines() if line.startswith("==")] == ["== input ==", "== main =="]


def test_logs_of_what_has_not_run_say_so(run: Run, client: Client) -> None:
    submit(client)
    ran = run("logs", "1/1")
    assert (ran.code, ran.out) == (0, b"")
    assert "has not run: it is Pending" in ran.err


def test_logs_of_a_batch_ask_which_job(run: Run) -> None:
    ran = run("logs", "8120")
    assert ran.code == 2 and "longshore jobs 8120" in ran.err


def test_logs_of_an_attempt_that_was_not_made_name_those_that_were(
    run: Run, service: FakeService, client: Client
) -> None:
    service.finish(submit(client).id, 1)
    ran = run("logs", "1/1", "-a", "2")
    assert ran.code == 2 and "it has: 1" in ran.err


@pytest.mark.parametrize(("exit_code", "returned"), [(0, 0), (7, 10)])
def test_wait_returns_what_became_of_the_batch(
    run: Run, service: FakeService, client: Client, exit_code: int, returned: int
) -> None:
    submit(client, 1)
    service.finish(1, 1, exit_code=exit_code, log=b"the last words\n")
    ran = run("wait", "1")
    assert ran.code == returned
    assert ("the last words" in ran.err) is bool(exit_code)


def test_wait_returns_11_for_a_cancelled_batch(run: Run, client: Client) -> None:
    submit(client).cancel()
    ran = run("wait", "last", "-o", "json", "--progress", "none")
    assert (ran.code, ran.err) == (11, "")
    assert ran.document["batch"]["state"] == "cancelled"


def test_wait_for_a_job_returns_when_that_job_is_complete(
    run: Run, service: FakeService, client: Client
) -> None:
    submit(client, 2)
    service.finish(1, 2)
    ran = run("wait", "1/2")
    assert ran.code == 0 and ran.lines[1].split()[:3] == ["2", "part-1", "Success"]


def test_wait_gives_up_after_its_time_with_124(run: Run, client: Client) -> None:
    submit(client)
    ran = run("wait", "1", "--timeout", "0.2")
    assert ran.code == 124 and ran.out == b""


def test_ctrl_c_ends_the_waiting_and_nothing_else(service: FakeService, client: Client) -> None:
    batch = submit(client)
    with subprocess.Popen([*LONGSHORE, "wait", "1"], stderr=subprocess.PIPE, text=True) as waiting:
        until_called(service, "WatchBatch")
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert "detached from #1 (still running" in said
    assert "reattach: longshore wait 1 · cancel: longshore cancel 1" in said
    assert batch.status().state == "running"


def test_cancel_without_anybody_to_ask_tells_yes_and_does_nothing(run: Run, client: Client) -> None:
    batch = submit(client)
    ran = run("cancel", "1")
    assert ran.code == 2 and "longshore cancel 1 --yes" in ran.err
    assert batch.status().state == "running"


def test_cancel_stops_the_batch_and_records_why(run: Run, client: Client) -> None:
    batch = submit(client)
    ran = run("cancel", "1", "--yes", "--reason", "wrong genome", "-o", "json")
    assert ran.document["batches"][0]["state"] == "cancelled"
    assert batch.status().cancel_reason == "wrong genome"


def test_cancel_of_a_complete_batch_changes_nothing(run: Run, service: FakeService, client: Client) -> None:
    submit(client, 1)
    service.finish(1, 1)
    ran = run("cancel", "1")
    assert ran.code == 0 and "nothing to cancel" in ran.err


@pytest.mark.parametrize("verb", ["cancel", "delete"])
def test_individual_jobs_stay(run: Run, verb: str) -> None:
    ran = run(verb, "8120/3", "--yes")
    assert ran.code == 2
    assert f"individual jobs cannot be {verb.rstrip('e')}" in ran.err and f"longshore {verb} 8120" in ran.err


def test_delete_hides_the_batch(run: Run, client: Client) -> None:
    submit(client)
    assert run("delete", "1", "--yes", "-o", "json").document["deleted"] == [1]
    assert run("get", "1").code == 3


def test_a_terminal_is_asked_with_counts_and_no_is_no(client: Client) -> None:
    batch = submit(client)
    ran = run_at_terminal("cancel", "1", typed=b"n\n")
    assert ran.code == 130
    seen = ran.out
    assert b"Cancel #1 align?" in seen and "· 2 waiting jobs will not run".encode() in seen
    assert b"nothing was changed" in seen
    assert batch.status().state == "running"


def test_a_terminal_is_asked_and_yes_is_yes(client: Client) -> None:
    batch = submit(client)
    assert run_at_terminal("delete", "1", typed=b"y\n").code == 0
    assert batch.id not in [each.id for each in client.list_batches()]


def test_several_batches_are_cancelled_only_when_their_number_is_typed(client: Client) -> None:
    submit(client), submit(client)
    assert run_at_terminal("cancel", "1", "2", typed=b"y\n").code == 130
    assert run_at_terminal("cancel", "1", "2", typed=b"2\n").code == 0


def test_colour_is_left_out_where_it_is_not_wanted(client: Client) -> None:
    submit(client)
    assert b"\x1b[" in run_at_terminal("ls").out
    assert b"\x1b[" not in run_at_terminal("ls", environ={**os.environ, "NO_COLOR": "1"}).out


def test_errors_are_json_on_stderr_for_who_asked_for_json(run: Run, service: FakeService) -> None:
    ran = run("get", "77", "-o", "json")
    assert (ran.code, ran.out) == (3, b"")
    assert json.loads(ran.err)["error"]["code"] == "not_found"


def test_errors_of_usage_are_json_too(run: Run) -> None:
    ran = run("get", "/", "-o", "json")
    assert ran.code == 2 and json.loads(ran.err)["error"]["code"] == "usage"


def test_an_unknown_token_is_4(run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSHORE_TOKEN", "stolen")
    ran = run("ls")
    assert ran.code == 4 and "hint:" in ran.err


def test_no_service_is_7_and_says_up(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LONGSHORE_ENDPOINT", raising=False)
    monkeypatch.setenv("LONGSHORE_HOME", str(tmp_path))
    ran = run("ls")
    assert ran.code == 7 and "longshore up" in ran.err


def test_last_of_nothing_is_3(run: Run, service: FakeService) -> None:
    assert run("get", "last").code == 3


def test_a_reader_that_has_seen_enough_is_not_told_about_it(service: FakeService, client: Client) -> None:
    service.finish(submit(client).id, 1, log=b"line\n" * 30_000)
    command = f"{sys.executable} -m longshore.cli logs 1/1 | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"line\n", b"")


def test_submit_runs_the_program_with_the_service_and_returns_its_code(
    service: FakeService, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, longshore as hp\n"
        "print(hp.Client().session().user, sys.argv[1:])\n"
        "sys.exit(42)\n"
    )  # fmt: skip
    ran = run_in_process("submit", str(program), "--name", "x")
    assert (ran.code, ran.out) == (42, b"ada ['--name', 'x']\n")


def test_submit_of_no_file_is_2(run: Run, service: FakeService) -> None:
    assert run("submit", "nowhere.py").code == 2


def test_version_tells_ours_and_the_services(run: Run, service: FakeService) -> None:
    document = run("version", "-o", "json").document
    assert document["service"] == {"endpoint": service.endpoint, "version": "0"}


def test_the_dashboard_wants_a_terminal(run: Run) -> None:
    ran = run("ui", "8120")
    assert ran.code == 2 and "needs a terminal" in ran.err


def test_the_dashboard_that_is_not_installed_says_how_to(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshore.cli.ui.find_spec", lambda _: None)
    ran = run("ui")
    assert ran.code == 1 and "pip install 'longshore[tui]'" in ran.err


def test_a_verb_that_is_nearly_right_is_suggested(run: Run) -> None:
    ran = run("cancle")
    assert ran.code == 2 and "cancel" in ran.err


def test_a_running_job_shows_its_time_so_far_and_one_that_never_ran_none(
    run: Run, service: FakeService, client: Client
) -> None:
    batch = submit(client)
    service.write(batch.id, 1, b"begun")
    now = datetime.now(UTC)
    running = replace(batch.job(1).status(), started_at=now - timedelta(seconds=90))
    assert words.job_duration(running, Look(tty=True, now=now)) == "1m30s"
    assert words.job_duration(batch.job(2).status(), Look(tty=True)) == ""


def test_nothing_to_cancel_shows_no_table(run: Run, service: FakeService, client: Client) -> None:
    batch = submit(client, 1)
    service.finish(batch.id, 1)
    ran = run("cancel", "1", "--yes")
    assert (ran.code, ran.out) == (0, b"") and "nothing to cancel" in ran.err


def test_failures_shows_every_way_where_an_error_shows_five(
    run: Run, service: FakeService, client: Client
) -> None:
    batch = submit(client, n_jobs=8)
    for job_id in range(1, 9):
        service.finish(batch.id, job_id, exit_code=job_id)
    shown = run("failures", "last").out.decode()
    assert [f"exit code {code} " in shown for code in range(1, 9)] == [True] * 8
    assert "other way" not in shown
    with pytest.raises(BatchFailedError, match="in 3 other ways"):
        batch.wait(timeout=30, check=True)
