"""The controller as a process: how it starts, what it leaves, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import batch_service_pb2_grpc as batch_grpc

PATIENCE_S = 60
"""A machine may be busy."""


class Process:
    """One controller in a folder, with all it says on stderr in `said`."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        environment = {
            "SERVER_LISTEN": "127.0.0.1:0",
            "SERVER_ENDPOINT_FILE": str(folder / "endpoint"),
            "SERVER_GRACE_MS": "100",
            "DATABASE_URL": f"sqlite://{folder / 'longshore.db'}",
            "STORE_FOLDER": "/",
            "STORE_LOGS": str(folder / "logs"),
            "SERVICE_EMBEDDED": "true",
            "SERVICE_OWNER": "ada",
            "SERVICE_OWNER_TOKEN_FILE": str(folder / "owner.token"),
            "SERVICE_ACTIVATION_TOKEN_FILE": str(folder / "activation.token"),
            **settings,
        }
        ours = {f"LONGSHORE_CONTROLLER_{name}": value for name, value in environment.items()}
        self._stderr = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "longshore_controller"], env=os.environ | ours, stderr=self._stderr
        )

    @property
    def said(self) -> str:
        return (self.folder / "stderr").read_text()

    def until(self, fact: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not fact():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.01)

    def started(self) -> str:
        """Where it listens."""
        self.until((self.folder / "endpoint").exists)
        return (self.folder / "endpoint").read_text().strip()

    def create_batch(self, request_id: str = "r") -> int:
        endpoint = self.started()
        token = (self.folder / "owner.token").read_text().strip()
        with grpc.insecure_channel(endpoint) as channel:
            answer = batch_grpc.BatchServiceStub(channel).CreateBatch(
                pb.CreateBatchRequest(request_id=request_id, billing_project="test"),
                metadata=(("authorization", f"Bearer {token}"),),
                timeout=PATIENCE_S,
                wait_for_ready=True,
            )
        return int(answer.batch_id)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._stderr.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a controller in a folder of this test; what still runs at its end is killed."""
    made: list[Process] = []

    def start(name: str = "one", **settings: str) -> Process:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(Process(folder, **settings))
        return made[-1]

    yield start
    for process in made:
        process.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_asked_and_leaves_no_endpoint(start: Callable[..., Process], number: int) -> None:
    controller = start()
    controller.started()
    assert controller.end(number) == 0, controller.said
    assert not (controller.folder / "endpoint").exists()
    assert "Traceback" not in controller.said


def test_secrets_are_for_its_user_alone_and_the_owners_stays(start: Callable[..., Process]) -> None:
    controller = start()
    batch_id = controller.create_batch()
    files = [controller.folder / name for name in ("owner.token", "activation.token")]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    owner, activation = (file.read_text() for file in files)
    controller.end()
    again = start()
    assert again.create_batch() == batch_id
    assert files[0].read_text() == owner
    assert files[1].read_text() != activation


def test_a_token_that_others_can_read_is_refused(start: Callable[..., Process]) -> None:
    first = start()
    first.started()
    first.end()
    (first.folder / "owner.token").chmod(0o644)
    second = start()
    assert second.process.wait(PATIENCE_S) == 1
    assert "others can read the token; chmod 600 it" in second.said


def test_two_cannot_lead_one_database(start: Callable[..., Process]) -> None:
    first = start()
    first.started()
    second = start("two", DATABASE_URL=f"sqlite://{first.folder / 'longshore.db'}")
    assert second.process.wait(PATIENCE_S) == 1
    assert f"is in use by process {first.process.pid} on" in second.said


def test_a_leader_that_was_replaced_ends(start: Callable[..., Process]) -> None:
    controller = start()
    controller.create_batch()
    with sqlite3.connect(controller.folder / "longshore.db") as db:
        db.execute("UPDATE leader SET epoch = epoch + 1")
    db.close()
    with pytest.raises(grpc.RpcError):
        controller.create_batch("another")
    assert controller.process.wait(PATIENCE_S) == 1
    assert "epoch 1 is over" in controller.said


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"DATABASE_URL": "sqlite:///no/such/folder/x.db"}, "unable to open database file"),
        ({"DATABASE_URL": "postgresql://nobody@/no_such?host=/nowhere"}, "cannot start: Postgres database"),
        ({"DATABASE_URL": "postgresql://ada@db"}, "names no database"),
        ({"SERVER_LISTEN": "127.0.0.1:1"}, ""),
    ],
)
def test_what_it_cannot_do_is_said_and_ends_it(
    start: Callable[..., Process], settings: dict[str, str], reason: str
) -> None:
    if "SERVER_LISTEN" in settings:
        first = start()
        settings, reason = {"SERVER_LISTEN": first.started()}, "server.listen: cannot listen on 127.0.0.1:"
    controller = start("other", **settings)
    assert controller.process.wait(PATIENCE_S) == 1, controller.said
    assert reason in controller.said
    assert "Traceback" not in controller.said


def test_its_lines_can_be_json(start: Callable[..., Process]) -> None:
    controller = start(SERVER_LOG_FORMAT="json")
    controller.create_batch()
    controller.end()
    lines = [json.loads(line) for line in controller.said.splitlines()]
    (rpc,) = [line for line in lines if line["event"] == "rpc"]
    assert (rpc["method"], rpc["caller"], rpc["code"], rpc["level"]) == (
        "/longshore_api.v1.BatchService/CreateBatch",
        "user ada",
        "OK",
        "info",
    )


def test_what_was_acknowledged_survives_a_kill(start: Callable[..., Process]) -> None:
    controller = start()
    batch_id = controller.create_batch()
    controller.end(signal.SIGKILL)
    (controller.folder / "endpoint").unlink()
    assert start().create_batch() == batch_id


def test_it_listens_on_a_unix_socket(start: Callable[..., Process], tmp_path: Path) -> None:
    controller = start(SERVER_LISTEN=f"unix:{tmp_path}/s")
    assert controller.started() == f"unix:{tmp_path}/s"
    assert controller.create_batch() == 1
