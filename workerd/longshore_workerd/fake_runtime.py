"""A runtime that runs nothing: for benchmarks of everything else, and for tests with real processes.

What a "container" does is asked of it by the job's environment:

    FAKE_RUN_MS=500       how long it runs (default 0)
    FAKE_EXIT_CODE=3      how it ends (default 0)
    FAKE_STDOUT=text      what it says when it starts
    FAKE_START_ERROR=why  it cannot be started, through the user's fault
    FAKE_REFUSE=why       it cannot be started, through the worker's fault
    FAKE_OOM=1            it ends with 137, out of memory
    FAKE_UNKNOWN_END=1    nobody can tell how it ended

An image whose name starts with ``missing`` is not found; a localizer fails if a source does.
Containers outlive the process that started them, as real ones do: their starts, stops and removals
are in a journal, and the rest is arithmetic on the machine's clock.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from longshore_workerd import localizer
from longshore_workerd.machine import clock_ms
from longshore_workerd.runtime import (
    Container,
    ContainerId,
    ContainerSpec,
    ErrorKind,
    Exit,
    Found,
    LogSink,
    Prepared,
    RuntimeRefused,
)

_COMPACT_BYTES = 16 << 20


@dataclass(slots=True)
class _Fate:
    started_at_ms: int
    run_ms: int
    exit_code: int = 0
    oom: bool = False
    known: bool = True
    stdout: str = ""

    def as_dict(self) -> dict[str, object]:
        """As `dataclasses.asdict` would, which is ten times slower."""
        return {name: getattr(self, name) for name in _Fate.__slots__}


@dataclass(slots=True, eq=False)
class _Container:
    fate: _Fate
    sink: LogSink | None = None
    ended: list[asyncio.Future[None]] = field(default_factory=list)
    """Who waits for it to be stopped."""

    def ends_at_ms(self) -> int:
        return self.fate.started_at_ms + self.fate.run_ms


class FakeRuntime:
    """A runtime.Runtime. ``folder`` holds the journal of its containers."""

    name = "fake"
    isolated = False

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "fake-containers"
        self._containers: dict[ContainerId, _Container] = {}
        self._journal = -1
        self._size = 0
        self._removals = b""
        """Not in the journal yet: nothing is lost when a removal is forgotten, it is only done again."""

    async def open(self) -> None:
        self._replay()
        self._compact()

    async def list(self) -> list[Found]:
        now = clock_ms()
        return [Found(id, c.ends_at_ms() > now) for id, c in self._containers.items()]

    async def prepare(self, image: str) -> Prepared:
        if image.startswith("missing"):
            raise RuntimeRefused(ErrorKind.IMAGE_NOT_FOUND, f"there is no image {image}")
        return Prepared(image)

    async def start(self, spec: ContainerSpec, sink: LogSink) -> None:
        if why := spec.env.get("FAKE_START_ERROR"):
            raise RuntimeRefused(ErrorKind.CANNOT_START, why)
        if why := spec.env.get("FAKE_REFUSE"):
            raise RuntimeRefused(ErrorKind.NONE, why)
        container = self._containers.get(spec.id)
        if container is None:
            container = self._containers[spec.id] = _Container(_fate(spec))
            self._write("start", spec.id, container.fate.as_dict())
        self._attach(container, sink)

    async def adopt(self, id: ContainerId, sink: LogSink) -> None:
        if container := self._containers.get(id):
            self._attach(container, sink)

    async def wait(self, id: ContainerId) -> Exit:
        container = self._containers.get(id)
        if container is None:
            return Exit(None, known=False, error="the container is gone")
        while (left_ms := container.ends_at_ms() - clock_ms()) > 0:
            stopped = asyncio.get_running_loop().create_future()
            container.ended.append(stopped)
            await asyncio.wait([stopped], timeout=left_ms / 1000)
            container.ended.remove(stopped)
        if container.sink is not None:
            container.sink.close()
            container.sink = None
        fate = container.fate
        kind = ErrorKind.OUT_OF_MEMORY if fate.oom else ErrorKind.NONE
        return Exit(fate.exit_code, kind, known=fate.known, ran_ms=fate.run_ms)

    async def stop(self, id: ContainerId, grace_s: float) -> None:
        container = self._containers.get(id)
        now = clock_ms()
        if container is None or container.ends_at_ms() <= now:
            return
        container.fate.run_ms = now - container.fate.started_at_ms
        container.fate.exit_code = 143
        self._write("stop", id, {"run_ms": container.fate.run_ms, "exit_code": 143})
        for stopped in container.ended:
            if not stopped.done():
                stopped.set_result(None)

    async def remove(self, id: ContainerId) -> None:
        if id in self._containers:
            await self.stop(id, 0)
            del self._containers[id]
            self._removals += _line("remove", id, {})
            if self._size > _COMPACT_BYTES:
                self._compact()

    async def close(self) -> None:
        if self._journal >= 0:
            os.write(self._journal, self._removals)
            os.close(self._journal)
            self._journal = -1

    def _attach(self, container: _Container, sink: LogSink) -> None:
        container.sink = sink
        sink.write(container.fate.stdout.encode()[sink.size :])

    def _write(self, what: str, id: ContainerId, values: Mapping[str, object]) -> None:
        self._size += os.write(self._journal, self._removals + _line(what, id, values))
        self._removals = b""

    def _replay(self) -> None:
        text = self._path.read_text() if self._path.exists() else ""
        for line in text.splitlines():
            what, attempt_id, number, values = json.loads(line)
            id = ContainerId(attempt_id, Container(number))
            if what == "start":
                self._containers[id] = _Container(_Fate(**values))
            elif what == "remove":
                del self._containers[id]
            else:
                fate = self._containers[id].fate
                fate.run_ms, fate.exit_code = values["run_ms"], values["exit_code"]

    def _compact(self) -> None:
        new = self._path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._journal >= 0:
            os.close(self._journal)
        self._journal, self._size, self._removals = descriptor, 0, b""
        for id, container in self._containers.items():
            self._write("start", id, container.fate.as_dict())
        os.replace(new, self._path)


def _line(what: str, id: ContainerId, values: Mapping[str, object]) -> bytes:
    said = json.dumps(values) if values else "{}"
    return f'["{what}", "{id.attempt_id}", {id.container:d}, {said}]\n'.encode()


def _fate(spec: ContainerSpec) -> _Fate:
    env = spec.env
    oom = env.get("FAKE_OOM") == "1"
    exit_code = 137 if oom else int(env.get("FAKE_EXIT_CODE", "0"))
    stdout = env.get("FAKE_STDOUT", "")
    for source, _ in localizer.decode(env) if localizer.COPIES in env else ():
        if os.path.basename(source).startswith("missing"):
            exit_code, stdout = 1, f"there is no {source}\n"
    run_ms = int(env.get("FAKE_RUN_MS", "0"))
    return _Fate(clock_ms(), run_ms, exit_code, oom, env.get("FAKE_UNKNOWN_END") != "1", stdout)
