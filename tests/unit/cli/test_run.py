"""`longshore run`: one job, its words, its exit code."""

from __future__ import annotations

import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import longshore.progress
import pytest
from command_line import LONGSHORE, Run
from fakes_service import TOKEN, FakeService
from longshore import Client
from longshore.cli import recent
from longshore.cli import run as run_module
from longshore_api.v1 import types_pb2 as types


@pytest.fixture
def worker(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """A service that runs jobs."""
    with FakeService(folders / "service") as service:
        monkeypatch.setenv("LONGSHORE_ENDPOINT", service.endpoint)
        monkeypatch.setenv("LONGSHORE_TOKEN", TOKEN)
        yield service


@pytest.mark.parametrize("code", [0, 1, 42, 124])
def test_the_jobs_own_exit_code_is_returned(run: Run, worker: FakeService, code: int) -> None:
    ran = run("run", "--", "bash", "-c", f"echo out; echo err >&2; exit {code}")
    assert ran.code == code
    assert sorted(ran.lines) == ["err", "out"], "its log is stdout; what is said to people is not"


def test_no_shell_comes_between(run: Run, worker: FakeService) -> None:
    assert run("run", "printf", "%s|", "a b", "$HOME", "-x").out == b"a b|$HOME|-x|"


def test_files_go_in_and_out(run: Run, worker: FakeService, tmp_path: Path) -> None:
    Path("reads=1.txt").write_text("c\nb\na\n")
    ran = run(
        *("run", "--in", "reads=1.txt", "--in", "reads=1.txt=again"),
        *("--out", "sorted=result/sorted.txt", "--", "bash", "-c"),
        "sort /io/again > /io/sorted",
    )
    assert ran.code == 2, "a name that a shell could mind is refused"
    ran = run(
        *("run", "--in", "reads=1.txt=again", "--out", "sorted=result/sorted.txt"),
        *("--", "bash", "-c", "sort /io/again > /io/sorted"),
    )
    assert ran.code == 0, ran.err
    assert Path("result/sorted.txt").read_text() == "a\nb\nc\n"


def test_the_environment_is_given_by_value_or_by_name(
    run: Run, worker: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPLE", "NA12878")
    ran = run("run", "-e", "SAMPLE", "--env", "N=1=2", "--", "bash", "-c", "echo $SAMPLE $N")
    assert ran.lines == ["NA12878 1=2"]
    assert run("run", "-e", "NOT_SET", "--", "true").code == 2


def test_what_was_asked_for_is_what_the_job_gets(run: Run, service: FakeService) -> None:
    options = "--image busybox --cpu 500m --mem 7.5G --storage 50G --retries 2 --timeout 60 --name x -d"
    ran = run("--billing-project", "lab", "run", *options.split(), "--", "true")
    assert ran.lines == ["1/1"]
    spec = service.batches[1].jobs[1].spec
    assert (spec.image, spec.name, spec.retries, spec.timeout_ms) == ("busybox", "x", 2, 60_000)
    assert spec.resources == types.Resources(
        cpu_mcpu=500, memory_bytes=7_500_000_000, storage_bytes=50 * 10**9
    )
    assert service.batches[1].request.billing_project == "lab"
    assert recent.seen() == [(1, "x")]


def test_a_request_that_cannot_be_is_2(run: Run, service: FakeService) -> None:
    assert run("run", "--cpu", "many", "--", "true").code == 2
    assert run("run").code == 2
    assert not service.batches or not any(batch.closed for batch in service.batches.values())


def test_a_service_that_cannot_be_reached_is_125(
    folders: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run("run", "--", "true")
    assert ran.code == 125 and "longshore up" in ran.err


def test_a_job_that_could_not_be_run_is_125_and_a_cancelled_one_11(
    run: Run, service: FakeService, client: Client
) -> None:
    def end(state: types.JobState.ValueType, reason: str) -> None:
        until_called(service, "WatchBatch")
        with service._changed:
            job = service.batches[len(service.batches)].jobs[1]
            job.state, job.reason = state, reason
            service._changed.notify_all()

    for state, code in ((types.JOB_STATE_ERROR, 125), (types.JOB_STATE_CANCELLED, 11)):
        service.faults.calls.clear()
        ending = threading.Thread(target=end, args=(state, "no such image"))
        ending.start()
        ran = run("run", "--", "true")
        ending.join()
        assert ran.code == code and "no such image" in ran.err


def test_ctrl_c_detaches_and_says_how_to_come_back(service: FakeService, client: Client) -> None:
    with subprocess.Popen([*LONGSHORE, "run", "--", "true"], stderr=subprocess.PIPE, text=True) as running:
        until_called(service, "WatchBatch")
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "reattach: longshore logs -f 1/1 · cancel: longshore cancel 1" in said
    assert client.get_batch(1).status().state == "running"


def test_whose_reader_has_gone_says_that_the_job_has_not(worker: FakeService) -> None:
    command = "yes | head -n 100000"
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(LONGSHORE)} run -- bash -c '{command}' | head -n 1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "y\n" and "reattach: longshore logs -f 1/1" in done.stderr
    assert "Traceback" not in done.stderr


def until_called(service: FakeService, call: str) -> None:
    deadline = time.monotonic() + 30
    while call not in service.faults.calls:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_run_says_why_nothing_runs_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeService(tmp_path / "service", runs_jobs=False) as service:
        monkeypatch.setenv("LONGSHORE_ENDPOINT", service.endpoint)
        monkeypatch.setenv("LONGSHORE_TOKEN", TOKEN)
        monkeypatch.setattr(longshore.progress, "_FIRST_LOOK_S", 0.05)
        monkeypatch.setattr(longshore.progress, "_LOOK_S", 0.05)
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            service.finish(1, 1)

        with Client("test") as client:
            builder = client.create_batch()
            builder.create_job(None, ["true"])
            job = builder.submit().job(1)
            service.batches[1].jobs[1].state = types.JOB_STATE_READY
            monkeypatch.setattr(run_module, "say", say)
            assert run_module._next_attempt(job, 0).complete
        assert said == ["nothing runs: there is no worker (start one)"]
