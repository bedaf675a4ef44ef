"""The whole service on one machine: a controller and a worker as children, in one folder.

The folder holds everything and is used by one `longshore up` at a time: whoever has the lock on its
file `lock`, or a child of whoever had it. The database, the files and the logs stay for the next one.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..discovery import ServiceAddress, is_alive, write_service_file
from ..errors import BatchError, Conflict
from .children import Child, how, next_signal
from .output import say

_START_S = 60.0
"""For the controller to listen, and for the worker to join, on a busy machine."""
_LEFT_S = 40.0
"""For the children of one that was killed to end: longer than they need to stop their jobs."""
_STOP_WORKER_S = 25.0
_STOP_CONTROLLER_S = 15.0
_LOOK_AGAIN_S = 0.05
_LOGS_S = 60.0
"""How often the length of the children's logs is looked at."""
_CANNOT_START = re.compile(r"cannot start: (.+?)(?: +\[[\w.]+\])?$", re.MULTILINE)
"""The line of a child's log that says all, without the name of its logger."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started."""

    runtime: str
    """``docker`` or ``process``."""
    mcpu: int
    """What the worker offers."""
    port: int
    """0: any."""
    database: str
    """A URL; empty: SQLite in the folder."""
    notices: tuple[str, ...]
    """What users are to know; every client shows it."""


@contextmanager
def occupied(folder: Path) -> Iterator[int]:
    """Have the folder for oneself; the descriptor of the lock, for children.

    Waits for what a killed `longshore up` left behind to end. Raises Conflict when one runs there,
    OSError when the folder cannot be used.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LEFT_S
        told = False
        while not _try_lock(lock):
            if (pid := _owner(lock)) and is_alive(pid):
                raise Conflict(
                    f"a service runs in {folder} already, as process {pid}",
                    hint=f"stop it with Ctrl-C in its terminal or with kill {pid}; "
                    "a second one needs a folder of its own: longshore up --dir FOLDER",
                )
            if time.monotonic() > deadline:
                raise Conflict(
                    f"processes of an earlier service hold {folder / 'lock'}", hint=f"fuser {folder / 'lock'}"
                )
            if not told:
                say(f"the service that was killed in {folder} is still ending; waiting for it")
                told = True
            next_signal(_LOOK_AGAIN_S)
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        (folder / "service.json").unlink(missing_ok=True)
        yield lock
    finally:
        os.close(lock)


class EmbeddedService:
    """The two children of one folder, which is `occupied`."""

    def __init__(self, folder: Path, plan: Plan, lock_fd: int) -> None:
        self._folder = folder
        self._plan = plan
        self._controller = Child("controller", "longshore_controller", folder / "controller.log", lock_fd)
        self._worker = Child("worker", "longshore_workerd", folder / "worker.log", lock_fd)
        self._joined = False

    def start(self) -> ServiceAddress:
        """Start both; where the service is, once the worker has joined and clients can find it.

        Raises BatchError with the last words of a child that could not start.
        """
        address = self._start_controller()
        self._start_worker(address.endpoint)
        self._joined = True
        write_service_file(self._folder, address, os.getpid())
        return address

    def watch(self) -> None:
        """Start again what ends. Returns only by raising Ended."""
        while True:
            pauses = [self._controller.tend(), self._worker.tend()]
            next_signal(min((pause for pause in pauses if pause is not None), default=_LOGS_S))

    def stop(self) -> None:
        """End both in good order, first the worker with its jobs. Also of what has only half started."""
        (self._folder / "service.json").unlink(missing_ok=True)
        if not self._worker.stop(_STOP_WORKER_S) and self._joined:
            say(
                "the worker could not stop its jobs: those that run go on by themselves, "
                "and the next `longshore up` in this folder sees to them",
                colour="red",
            )
        self._controller.stop(_STOP_CONTROLLER_S)

    def _start_controller(self) -> ServiceAddress:
        remembered = self._folder / "port"
        if self._plan.port:
            _check_port(self._plan.port)
        port = self._plan.port or _last_port(remembered)
        endpoint_file = self._folder / "endpoint"
        endpoint_file.unlink(missing_ok=True)
        config = self._folder / "controller.toml"
        settings = self._settings(f"127.0.0.1:{port}")
        _write_toml(config, settings)
        self._controller.start(["--config", str(config)], _without(settings))
        self._wait_for(self._controller, lambda: bool(_text(endpoint_file)), "does not listen")
        endpoint = _text(endpoint_file)
        remembered.write_text(endpoint.rpartition(":")[2] + "\n")
        # Started again it must be where the worker and all clients know it.
        _write_toml(config, self._settings(endpoint))
        return ServiceAddress(endpoint, _text(self._folder / "owner.token"))

    def _start_worker(self, endpoint: str) -> None:
        state = self._worker_folder()
        epoch = state / "epoch"
        seen = _text(epoch)
        self._worker.start(
            [
                *("--controller", endpoint),
                *("--state-dir", str(state)),
                *("--activation-token-file", str(self._folder / "activation.token")),
                *("--runtime", self._plan.runtime),
                *("--cores", f"{self._plan.mcpu / 1000:g}"),
                *("--owner", f"{os.getuid()}:{os.getgid()}"),
                "--stop-jobs-on-exit",
            ],
            dict(os.environ),
        )
        # Each start of the controller begins an epoch, which the worker writes down when it is welcomed.
        self._wait_for(self._worker, lambda: _text(epoch) != seen, "does not join")

    def _worker_folder(self) -> Path:
        """Of the worker that the database knows: another database, another worker."""
        if self._plan.database:
            return self._folder / f"worker-{hashlib.sha256(self._plan.database.encode()).hexdigest()[:8]}"
        return self._folder / "worker"

    def _settings(self, listen: str) -> dict[str, dict[str, object]]:
        folder = self._folder
        return {
            "server": {"listen": listen, "endpoint_file": str(folder / "endpoint")},
            "database": {"url": self._plan.database or f"sqlite:///{folder / 'longshore.db'}"},
            "store": {"folder": "/", "remote_tmpdir": str(folder / "tmp"), "logs": str(folder / "logs")},
            "service": {
                "embedded": True,
                "owner": user(),
                "owner_token_file": str(folder / "owner.token"),
                "activation_token_file": str(folder / "activation.token"),
                "notices": list(self._plan.notices),
                "private_callbacks": True,
            },
            "workers": {"largest_mcpu": self._plan.mcpu},
        }

    def _wait_for(self, child: Child, fact: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _START_S
        while not fact():
            code = child.exit_code()
            if code is not None or time.monotonic() > deadline:
                hint = f"all of its words are in {child.log}"
                if reason := _CANNOT_START.search(child.last_words()):
                    if "database" in reason[1] and self._plan.database:
                        hint = f"start that database, or give another --database; {hint}"
                    raise BatchError(f"the {child.name} cannot start: {reason[1]}", hint=hint)
                what = f"{otherwise} after {_START_S:g} s" if code is None else f"cannot start ({how(code)})"
                raise BatchError(
                    f"the {child.name} {what}. Its last words:\n{child.last_words()}",
                    hint=hint,
                )
            next_signal(_LOOK_AGAIN_S)


def _check_port(port: int) -> None:
    """Raises BatchError when it cannot be listened at; the controller would say it in words of gRPC."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As gRPC does.
        try:
            trial.bind(("127.0.0.1", port))
            trial.listen()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            what = f"port {port} is taken" if taken else f"port {port} cannot be used: {error.strerror}"
            raise BatchError(what, hint="choose another --port, or none") from error


def _last_port(remembered: Path) -> int:
    """Where programs that wait know the service; 0, any, when there was none or somebody else is there."""
    try:
        port = int(_text(remembered))
        _check_port(port)
    except (BatchError, ValueError, OverflowError):
        return 0
    return port


def _write_toml(file: Path, settings: dict[str, dict[str, object]]) -> None:
    """Strings, numbers, truths and lists look in JSON as they do in TOML."""
    lines = ["# Written by `longshore up` at each start."]
    for section, values in settings.items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    file.touch(mode=0o600)  # The URL of a database can hold a password.
    file.write_text("\n".join(lines) + "\n")


def _without(settings: dict[str, dict[str, object]]) -> dict[str, str]:
    """The environment, in which nothing contradicts these settings."""
    ours = {f"LONGSHORE_CONTROLLER_{s}_{key}".upper() for s, values in settings.items() for key in values}
    return {name: value for name, value in os.environ.items() if name not in ours}


def _text(file: Path) -> str:
    """What stands in it; nothing while it is not there."""
    with suppress(FileNotFoundError):
        return file.read_text().strip()
    return ""


def user() -> str:
    """The name of the account that this process belongs to; its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: int) -> int:
    """Whoever had the lock last; 0 if that is not written there."""
    text = os.pread(lock, 32, 0)
    return int(text) if text.isdigit() else 0
