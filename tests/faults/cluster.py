"""A real service in a folder of its own: its programs as processes, to be killed, frozen and started again.

    cluster = Cluster(tmp_path)
    cluster.controller.start()
    worker = cluster.worker("w1")
    worker.start()

Whatever is waited for is a fact that `until` looks at; only the moments at which something is broken come
from a clock.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import docker
from longshore import Client
from longshore_workerd.runtime import Container

T = TypeVar("T")
Settings = Mapping[str, Mapping[str, object]]

WITHIN_S = 60.0
"""For what takes a moment on an idle machine."""


def until(fact: Callable[[], T], *, within_s: float = WITHIN_S, or_else: Callable[[], str] = str) -> T:
    """The first true value of ``fact``; else an AssertionError with the words of ``or_else``."""
    deadline = time.monotonic() + within_s
    while not (found := fact()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {or_else()}"
        time.sleep(0.005)
    return found


class Program:
    """A program that is started again and again with the same arguments; one process at a time."""

    def __init__(self, module: str, arguments: list[str], log: Path, environ: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self.log = log
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def start(self) -> None:
        assert self._process is None or self._process.poll() is not None, "it runs"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ
            )

    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """As kill -9 does, also when it is frozen; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def clear(self) -> None:
        """Nothing of it is left on the machine; it has been killed."""

    def end(self) -> int:
        """Ask it to end; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(WITHIN_S)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def said(self) -> str:
        """All that its processes wrote."""
        return self.log.read_text() if self.log.exists() else ""


class Controller(Program):
    """`start` returns when it listens."""

    def __init__(self, config: Path, endpoint_file: Path, log: Path) -> None:
        super().__init__("longshore_controller", ["--config", str(config)], log, os.environ)
        self._endpoint_file = endpoint_file

    def start(self) -> None:
        self._endpoint_file.unlink(missing_ok=True)
        super().start()
        until(lambda: self._endpoint_file.exists() or self.has_ended(), or_else=self.said)
        assert not self.has_ended(), self.said()


class Ran(NamedTuple):
    """A container of the fake runtime, by the worker's clock."""

    attempt_id: str
    container: Container
    began_ms: int
    ended_ms: int
    """When it ends by itself, or was stopped."""


class Worker(Program):
    """The first `start` returns when it has joined, for a token makes one worker."""

    def __init__(
        self, folder: Path, runtime: str, arguments: list[str], log: Path, environ: Mapping[str, str]
    ) -> None:
        place = ["--state-dir", str(folder), "--runtime", runtime]
        super().__init__("longshore_workerd", [*place, *arguments], log, environ)
        self.folder = folder
        self._runtime = runtime

    def start(self) -> None:
        super().start()
        until(lambda: self._identity.exists() or self.has_ended(), or_else=self.said)
        assert self._identity.exists(), self.said()

    @property
    def id(self) -> str:
        return str(json.loads(self._identity.read_text())["worker_id"])

    def clear(self) -> None:
        """Remove what it left in its engine when it was killed."""
        if self._runtime != "docker" or not self._identity.exists():
            return
        api = docker.from_env(environment=self._environ).api
        for container in api.containers(all=True, filters={"label": f"longshore.worker={self.id}"}):
            api.remove_container(container["Id"], force=True, v=True)
        api.close()

    @property
    def _identity(self) -> Path:
        return self.folder / "identity.json"

    def containers(self) -> list[Ran]:
        """What the fake runtime has run since this worker was started, in order."""
        found: dict[tuple[str, int], Ran] = {}
        journal = self.folder / "fake-containers"
        for line in journal.read_text().splitlines(keepends=True) if journal.exists() else ():
            if not line.endswith("\n"):
                continue  # It is being written.
            what, attempt_id, container, values = json.loads(line)
            key = attempt_id, container
            if what == "start":
                began = values["started_at_ms"]
                found[key] = Ran(attempt_id, Container(container), began, began + values["run_ms"])
            elif what == "stop":
                found[key] = found[key]._replace(ended_ms=found[key].began_ms + values["run_ms"])
        return list(found.values())

    def mains(self) -> list[Ran]:
        return [ran for ran in self.containers() if ran.container is Container.MAIN]


class Cluster:
    """Nothing runs before it is started. Use `running`, so that nothing runs afterwards."""

    def __init__(
        self,
        folder: Path,
        database: str = "",
        *,
        store: Path = Path("/"),
        logs: Path | None = None,
        workers: Mapping[str, int] | None = None,
    ) -> None:
        """``database``: a URL, else SQLite in the folder. ``workers``: that section of the configuration."""
        self.folder = folder
        self.database = database or f"sqlite:///{folder / 'longshore.db'}"
        self._store = store
        self._endpoint = f"unix:{folder / 'socket'}"
        self._settings: Settings = {
            "server": {"listen": self._endpoint, "endpoint_file": str(folder / "endpoint")},
            "database": {"url": self.database},
            "store": {
                "folder": str(store),
                "remote_tmpdir": str(folder / "tmp") if store == Path("/") else "",
                "logs": str(logs or folder / "logs"),
            },
            "service": {
                "embedded": True,
                "owner": "ann",
                "owner_token_file": str(folder / "owner.token"),
                "activation_token_file": str(folder / "activation.token"),
            },
            "workers": {**(workers or {})},
        }
        self.controller = self._controller("controller", self._settings)
        self.programs: list[Program] = [self.controller]

    def second_controller(self) -> Controller:
        """Of the same database, at another address."""
        server = {name: f"{value}-2" for name, value in self._settings["server"].items()}
        second = self._controller("controller-2", {**self._settings, "server": server})
        self.programs.append(second)
        return second

    def worker(
        self, name: str, *, cores: int = 4, runtime: str = "fake", environ: Mapping[str, str] | None = None
    ) -> Worker:
        arguments = [
            *("--controller", self._endpoint),
            *("--activation-token-file", str(self.folder / "activation.token")),
            *("--cores", str(cores)),
            *("--name", name),
            *("--store", str(self._store)),
        ]
        log = self.folder / f"{name}.log"
        worker = Worker(self.folder / name, runtime, arguments, log, {**os.environ, **(environ or {})})
        self.programs.append(worker)
        return worker

    def client(self, *, retry_s: float = 120.0) -> Client:
        token = (self.folder / "owner.token").read_text().strip()
        return Client("test", endpoint=self._endpoint, token=token, retry_s=retry_s)

    def said(self) -> str:
        """What all of them wrote, for whoever must find out why a test failed."""
        return "".join(f"\n== {program.log.name}\n{program.said()}" for program in self.programs)

    def _controller(self, name: str, settings: Settings) -> Controller:
        config = self.folder / f"{name}.toml"
        lines: list[str] = []
        for section, values in settings.items():
            # Strings, numbers and truths look in JSON as they do in TOML.
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        config.write_text("\n".join(lines) + "\n")
        endpoint_file = Path(str(settings["server"]["endpoint_file"]))
        return Controller(config, endpoint_file, self.folder / f"{name}.log")


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """Its controller runs meanwhile, and whatever else was started; nothing does afterwards."""
    try:
        cluster.controller.start()
        yield cluster
    except BaseException:
        print(cluster.said())
        raise
    finally:
        for program in reversed(cluster.programs):
            program.kill()
            program.clear()
