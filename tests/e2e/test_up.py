"""The whole service on one machine, used as its users do: by the command line and by programs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import pytest
from command_line import LONGSHORE
from embedded import EXAMPLES, Up, job, submit


def test_the_first_program_of_the_documentation_runs(up: Up) -> None:
    ran = up.run("submit", str(EXAMPLES / "hello.py"))
    assert ran.code == 0, ran.err + up.logs()
    assert up.run("logs", "last/1").out == b"hello world\n"


def test_files_travel_between_tasks_and_out(up: Up, tmp_path: Path) -> None:
    ran = up.run("submit", str(EXAMPLES / "word_count.py"), str(tmp_path / "out put"))
    assert ran.code == 0, ran.err + up.logs()
    top = (tmp_path / "out put" / "top_ten.txt").read_bytes()
    assert ran.out == top and len(top.splitlines()) == 10
    jobs = up.run("jobs", "last", "-o", "json").document["jobs"]
    assert {job["state"] for job in jobs} == {"Success"}


def test_a_cost_is_exact_to_the_nano_dollar(up: Up, tmp_path: Path) -> None:
    batch = submit(up, tmp_path, job("sleep 0.2"))
    assert up.run("wait", str(batch)).code == 0

    def exactly(*args: str) -> dict[str, object]:
        return json.loads(up.run(*args, "-o", "json").out, parse_float=Decimal)  # type: ignore[no-any-return]

    whole = exactly("get", f"{batch}/1")["job"]
    assert isinstance(whole, dict)
    (attempt,) = whole["attempts"]
    assert attempt["main_s"] >= Decimal("0.2")
    assert whole["cost"] == attempt["cost"] == exactly("get", str(batch))["batch"]["cost"]  # type: ignore[index]
    assert whole["cost"]["usd"] > 0 and whole["cost"]["usd"].as_tuple().exponent >= -9


def test_a_failed_batch_is_10_and_tells_what_it_said_last(up: Up, tmp_path: Path) -> None:
    batch = submit(up, tmp_path, job("echo the last words; exit 3"))
    waited = up.run("wait", str(batch))
    assert waited.code == 10 and "the last words" in waited.err
    (row,) = up.run("jobs", str(batch), "--state", "failed", "-o", "json").document["jobs"]
    assert (row["state"], row["exit_code"]) == ("Failure", 3)


def test_logs_are_followed_to_the_end_of_the_job(up: Up, tmp_path: Path) -> None:
    batch = submit(up, tmp_path, job("for i in 1 2 3; do echo $i; sleep 0.3; done"))
    ran = up.run("logs", "-f", f"{batch}/1")
    assert (ran.code, ran.out) == (0, b"1\n2\n3\n"), ran.err
    assert up.run("logs", f"{batch}/1", "--tail", "1").out == b"3\n"


def test_ctrl_c_detaches_and_cancel_stops(up: Up, tmp_path: Path) -> None:
    batch = submit(up, tmp_path, job("sleep 600"))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *LONGSHORE, "wait", str(batch)],
        env=up.environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as waiting:
        os.close(theirs)
        seen = os.read(ours, 4096)  # The first progress: it waits now.
        os.write(ours, b"\x03")
        while b"detached from" not in seen:
            seen += os.read(ours, 4096)
        assert waiting.wait(30) == 130
    os.close(ours)
    assert up.run("get", str(batch), "-o", "json").document["batch"]["state"] == "running"
    assert up.run("wait", str(batch), "--timeout", "0.3").code == 124
    assert up.run("cancel", str(batch), "--yes", "--reason", "enough").code == 0
    waited = up.run("wait", str(batch), "-o", "json")
    assert waited.code == 11, waited.err
    assert waited.document["batch"]["cancel_reason"] == "enough"


def test_a_deleted_batch_is_not_found(up: Up, tmp_path: Path) -> None:
    batch = submit(up, tmp_path, job("true"))
    assert up.run("wait", str(batch)).code == 0
    assert up.run("delete", str(batch), "--yes").code == 0
    assert up.run("get", str(batch)).code == 3
    assert batch not in [each["id"] for each in up.run("ls", "-o", "json").document["batches"]]


def test_a_second_one_in_the_same_folder_is_refused(up: Up) -> None:
    ran = up.run("up")
    assert ran.code == 6 and str(up.process.pid) in ran.err


def test_its_address_is_for_its_owner_alone(up: Up) -> None:
    file = up.folder / "service.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["endpoint"].startswith("127.0.0.1:")


@pytest.mark.parametrize("child", ["longshore_controller", "longshore_workerd"])
def test_jobs_go_on_when_a_child_is_killed(up: Up, tmp_path: Path, child: str) -> None:
    batch = submit(up, tmp_path, job("echo begun; sleep 3; echo done"))
    until_logged(up, batch, b"begun\n")
    os.kill(up.child(child), 9)
    ran = up.run("wait", str(batch))
    assert ran.code == 0, ran.err + up.logs()
    (attempt,) = up.run("get", f"{batch}/1", "-o", "json").document["job"]["attempts"]
    assert attempt["main_s"] >= 3
    assert up.run("logs", f"{batch}/1").out == b"begun\ndone\n"


def until_logged(up: Up, batch: int, expected: bytes) -> None:
    deadline = time.monotonic() + 30
    while up.run("logs", f"{batch}/1").out != expected:
        assert time.monotonic() < deadline, up.logs()
