"""A batch's callback is called once when it is complete: by a real service, at a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from integration.controller.service import Running, config_of, job, running
from longshore.cli.formats import plain
from longshore.wire import batch_status
from longshore_controller import callbacks
from longshore_controller.config import Config


class Listener:
    """An HTTP server that keeps what it was sent and answers with ``status``."""

    def __init__(self) -> None:
        self.status = 200
        self.location = ""
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        listener = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.requests.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(listener.status)
                if listener.location:
                    self.send_header("Location", listener.location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/done?of=tides"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'longshore.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def config(tmp_path: Path, database: str) -> Config:
    config = config_of(tmp_path, database)
    return replace(config, service=replace(config.service, private_callbacks=True))


@pytest.fixture
async def service(config: Config) -> AsyncIterator[Running]:
    async with running(config) as service:
        yield service


async def outcome_of(service: Running, batch_id: int) -> str:
    until = time.monotonic() + 20
    while not (outcome := (await service.ada.batch(batch_id)).callback_outcome):
        assert time.monotonic() < until, "not called"
        await asyncio.sleep(0.01)
    return str(outcome)


async def run(service: Running, batch_id: int, exit_code: int = 0) -> None:
    async with service.worker() as workerd:
        (run,) = await workerd.assigned(1)
        await workerd.run_to_end(run.attempt_id, exit_code=exit_code)
        await service.ada.complete(batch_id)


async def test_a_complete_batch_is_told_once_as_the_command_line_prints_it(
    service: Running, listener: Listener
) -> None:
    batch_id = await service.ada.create(1, jobs=[job()], callback=listener.url, attributes={"name": "tides"})
    assert (await service.ada.batch(batch_id)).callback == listener.url
    assert listener.requests == []
    await run(service, batch_id, exit_code=3)
    assert await outcome_of(service, batch_id) == "200 OK"
    ((path, headers, document),) = listener.requests
    assert path == "/done?of=tides"
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{listener.port}"
    printed = plain(batch_status(await service.ada.batch(batch_id)))
    printed["cost"] = {"usd": float(printed["cost"]["usd"])}
    del printed["callback_outcome"]
    assert document == {"schema": "longshore/v1", "batch": printed}
    assert (document["batch"]["state"], document["batch"]["complete"]) == ("failure", True)


@pytest.mark.parametrize(("status", "said"), [(503, "503 Service Unavailable"), (302, "302 Found")])
async def test_what_it_answers_is_kept_and_neither_repeated_nor_followed(
    service: Running, listener: Listener, status: int, said: str
) -> None:
    listener.status, listener.location = status, f"http://127.0.0.1:{listener.port}/elsewhere"
    batch_id = await service.ada.create(0, callback=listener.url)
    await service.ada.close(batch_id)
    assert await outcome_of(service, batch_id) == said
    assert [path for path, _, _ in listener.requests] == ["/done?of=tides"]


async def test_a_server_that_is_not_there_does_not_matter_to_the_batch(service: Running) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        batch_id = await service.ada.create(0, callback=url)
        await service.ada.close(batch_id)
        assert await outcome_of(service, batch_id) == "cannot be called: Connection refused"
    batch = await service.ada.batch(batch_id)
    assert batch.complete


async def test_a_call_that_was_due_when_the_controller_ended_is_made_by_the_next(
    config: Config, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "call", lambda *_: "" if never.wait(60) else "")
        async with running(config) as service:
            batch_id = await service.ada.create(0, callback=listener.url)
            await service.ada.close(batch_id)
            await service.ada.complete(batch_id)
    never.set()
    async with running(config) as service:
        assert await outcome_of(service, batch_id) == "200 OK"
    assert len(listener.requests) == 1
    async with running(config) as service:
        other = await service.ada.create(0, "another", callback=listener.url)
        await service.ada.close(other)
        await outcome_of(service, other)
    assert [document["batch"]["id"] for _, _, document in listener.requests] == [batch_id, other]


async def test_a_deleted_batch_calls_nobody(service: Running, listener: Listener) -> None:
    deleted = await service.ada.create(1, jobs=[job()], callback=listener.url)
    await service.ada.delete(deleted)
    other = await service.ada.create(0, callback=listener.url)
    await service.ada.close(other)
    await outcome_of(service, other)
    assert [document["batch"]["id"] for _, _, document in listener.requests] == [other]


async def test_private_addresses_are_refused_unless_the_operator_allows_them(
    tmp_path: Path, database: str, listener: Listener
) -> None:
    async with running(config_of(tmp_path, database)) as service:
        with pytest.raises(grpc.RpcError) as refused:
            await service.ada.create(0, callback=listener.url)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details() == (
            "callback: 127.0.0.1 is an address of this machine or of a private network"
        )
        batch_id = await service.ada.create(0, callback=f"http://localhost:{listener.port}/")
        await service.ada.close(batch_id)
        assert "localhost leads to" in await outcome_of(service, batch_id)
    assert listener.requests == []


async def test_the_same_request_with_another_callback_is_refused(
    service: Running, listener: Listener
) -> None:
    await service.ada.create(0, "once", callback=listener.url)
    await service.ada.create(0, "once", callback=listener.url)
    with pytest.raises(grpc.RpcError) as refused:
        await service.ada.create(0, "once", callback=listener.url + "1")
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50])
def test_a_server_that_never_finishes_is_left(drip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it says nothing, or one byte after the other."""
    monkeypatch.setattr(callbacks, "LIMIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as accepted:
                accepted.settimeout(20)
                try:
                    for byte in drip:
                        accepted.sendall(bytes([byte]))
                        time.sleep(0.02)
                    while accepted.recv(1000):
                        pass
                except OSError:
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        began = time.monotonic()
        said = callbacks.call(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", True)
        assert time.monotonic() - began < 4
        thread.join()
    assert said == "no answer within 0 s"


def test_what_a_server_says_cannot_reach_a_terminal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as accepted:
                accepted.recv(1000)
                accepted.sendall(b"HTTP/1.1 200 \x1b[2J" + b"a" * 500 + b"\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        said = callbacks.call(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", True)
        thread.join()
    assert said.startswith("200 ?[2Jaaa")
    assert len(said) == callbacks.MAX_OUTCOME
