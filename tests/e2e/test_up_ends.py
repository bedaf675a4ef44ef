"""How `longshore up` ends, and what the next one in the same folder finds."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from embedded import job, running, submit


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_jobs_that_run_at_the_end_run_again_with_the_next(tmp_path: Path, signum: signal.Signals) -> None:
    service = tmp_path / "service"
    mark = tmp_path / "mark"
    script = f"test -e {mark} || {{ touch {mark}; echo first; sleep 600; }}; echo again"
    with running(service, "--runtime", "process") as up:
        endpoint = json.loads((service / "service.json").read_text())["endpoint"]
        batch = submit(up, tmp_path, job(script))
        while not mark.exists():
            assert up.run("get", str(batch)).code == 0
        assert up.end(signum) == (-9 if signum == signal.SIGKILL else 0)
        assert signum == signal.SIGKILL or not (service / "service.json").exists()
    with (service / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Whatever is left of it has ended now.
    with running(service, "--runtime", "process") as up:
        assert json.loads((service / "service.json").read_text())["endpoint"] == endpoint
        assert up.run("wait", str(batch)).code == 0, up.logs()
        assert up.run("logs", f"{batch}/1").out == b"again\n"
        assert up.run("get", f"{batch}/1", "-o", "json").document["job"]["n_attempts"] == 2


def test_jobs_of_a_worker_that_is_not_there_at_the_end_are_the_nexts(tmp_path: Path) -> None:
    service = tmp_path / "service"
    mark, go_on = tmp_path / "mark", tmp_path / "go on"
    script = f"touch {mark}; for n in {{1..1200}}; do test -e '{go_on}' && exit; sleep 0.05; done; exit 1"
    with running(service, "--runtime", "process") as up:
        batch = submit(up, tmp_path, job(script))
        while not mark.exists():
            assert up.run("get", str(batch)).code == 0
        os.kill(up.child("longshore_workerd"), signal.SIGKILL)
        assert up.end(signal.SIGINT) == 0
        assert "the worker could not stop its jobs" in "".join(up.said)
    with running(service, "--runtime", "process") as up:
        go_on.touch()
        assert up.run("wait", str(batch)).code == 0, up.logs()
        assert up.run("get", f"{batch}/1", "-o", "json").document["job"]["n_attempts"] == 1


def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    refused = pytest.raises(AssertionError, match=r"the controller .*last words")
    with refused, running(tmp_path / "service", "--runtime", "process", "--database", "mysql://nowhere"):
        pass


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = pytest.raises(AssertionError, match=rf"error: port {port} is taken\n.*another --port")
        with refused, running(tmp_path / "service", "--runtime", "process", "--port", str(port)):
            pass


def test_a_database_that_cannot_be_reached_is_said_in_one_line(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/nothing"
    refused = pytest.raises(
        AssertionError,
        match=r"error: the controller cannot start: Postgres database nothing: .*\nhint: start that database",
    )
    with refused, running(tmp_path / "service", "--runtime", "process", "--database", url):
        pass


def test_a_postgres_serves_as_well(tmp_path: Path, postgres_url: str) -> None:
    with running(tmp_path / "service", "--runtime", "process", "--database", postgres_url) as up:
        batch = submit(up, tmp_path, job("echo hello"))
        assert up.run("wait", str(batch)).code == 0, up.logs()
        assert not (tmp_path / "service" / "longshore.db").exists()
