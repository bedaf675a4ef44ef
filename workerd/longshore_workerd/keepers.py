"""Workerd's side of keeper.py: starts a keeper, and reads what those of before have written.

A folder of folders, one for each keeper. `lock` beside them belongs to the keeper that may start containers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from typing import Any

from longshore_workerd import keeper
from longshore_workerd.keeper import RECORD_BYTES, Record

_log = logging.getLogger(__name__)

_INHERITED = re.compile(r"HOME|LANG|LC_\w+|LOGNAME|PATH|SHELL|TERM|TMPDIR|TZ|USER")
"""What a command gets of workerd's own environment. Nothing that could be a secret of the service."""
LOCK_WITHIN_S = 5.0
_LOCK_AGAIN_S = 0.01
_TICKS = os.sysconf("SC_CLK_TCK")


class Busy(Exception):
    """The keeper of the workerd before might still start something."""


class Place:
    """Where a keeper has, or had, one container."""

    __slots__ = ("folder", "number", "output", "work")

    def __init__(self, folder: str, number: int) -> None:
        self.folder = folder
        self.number = number
        self.work = f"{folder}/{number}"
        self.output = f"{folder}/{number}{keeper.OUTPUT}"

    def record(self) -> tuple[Record | None, bool]:
        """What is written of it, and whether its keeper lives: if not, nothing more will be."""
        with _records(self.folder, os.O_RDONLY) as file:
            kept = _is_locked(file)
            return Record.read(os.pread(file, RECORD_BYTES, self.number * RECORD_BYTES)), kept

    def clear(self, *, silent: bool = False) -> bool:
        """Nothing is left, and it can be used again. False: there are files, and it takes `clear_files`.

        ``silent``: there is no output.
        """
        if not silent:
            with suppress(FileNotFoundError):
                os.unlink(self.output)
        try:
            as_made = not os.listdir(self.work) and stat.S_IMODE(os.stat(self.work).st_mode) == keeper.MODE
        except OSError as error:
            as_made = isinstance(error, FileNotFoundError)
        if as_made:
            self._blank()
        return as_made

    def clear_files(self) -> None:
        """Also what a command made unreadable for its own owner."""
        with suppress(OSError):
            os.chmod(self.work, 0o700)
        for path, names, _ in os.walk(self.work):
            for name in names:
                inner = os.path.join(path, name)
                if not os.path.islink(inner):
                    with suppress(OSError):
                        os.chmod(inner, 0o700)
        shutil.rmtree(self.work, ignore_errors=True)
        self._blank()

    def _blank(self) -> None:
        with _records(self.folder, os.O_WRONLY) as file:
            os.pwrite(file, b"\n".rjust(RECORD_BYTES), self.number * RECORD_BYTES)


class Keeper(asyncio.Protocol):
    """One that runs. It looks after what it has started when this object is gone, too."""

    def __init__(self, folder: str, pid: int, heard: Callable[..., None], lost: Callable[[], None]) -> None:
        """``heard`` is told what it says, ``lost`` when it was killed."""
        self._folder = folder
        self._pid = pid
        self._heard = heard
        self._lost = lost
        self._received = bytearray()
        self._to_say: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._gone = asyncio.Event()
        self._free: list[Place] = []
        self._n_places = 0

    def take(self) -> Place:
        """For one more container."""
        if self._free:
            return self._free.pop()
        self._n_places += 1
        return Place(self._folder, self._n_places - 1)

    def give_back(self, place: Place) -> None:
        """It was cleared. Nothing when it was not ours."""
        if place.folder == self._folder:
            self._free.append(place)

    def say(self, *message: Any) -> None:
        """With all else that is said in this turn of the loop."""
        if not self._to_say:
            asyncio.get_running_loop().call_soon(self._flush)
        self._to_say.append(keeper.pack(*message))

    async def leave(self) -> None:
        """What was said is heard, then nothing more is said. It ends when nothing runs."""
        self._flush()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
            await self._gone.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        for message in keeper.unpack(self._received):
            self._heard(*message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        if self._transport is not None:
            self._transport = None
            os.kill(self._pid, signal.SIGKILL)  # Whatever has happened, it must not start more.
            os.waitpid(self._pid, 0)
            stop_all_in(self._folder)
            self._lost()

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._to_say))
        self._to_say.clear()


async def start(
    folder: Path, heard: Callable[..., None], lost: Callable[[], None]
) -> tuple[Keeper, dict[str, Place]]:
    """One that may start containers, and those that earlier ones started, by name. Busy.

    Of these nothing runs that no keeper looks after.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    ours, its = socket.socketpair()
    try:
        await _take(lock)
        others, own = await asyncio.to_thread(_others, folder)
        os.mkdir(own, 0o700)
        pid = _spawn(folder, own, its, lock)
    except BaseException:
        ours.close()
        raise
    finally:
        its.close()
        os.close(lock)
    loop = asyncio.get_running_loop()
    protocol = (await loop.create_unix_connection(lambda: Keeper(own, pid, heard, lost), sock=ours))[1]
    return protocol, others


def stop(record: Record, number: int) -> None:
    """Signals the whole session's first group, if it is still the one that was started."""
    with suppress(OSError):
        pidfd = os.pidfd_open(record.pid)
        try:
            started_ms = int(_stat(record.pid).rpartition(")")[2].split()[19]) * 1000 // _TICKS
            if record.exit_code < 0 and record.began_ms - 1000 // _TICKS <= started_ms <= record.begun_ms:
                os.killpg(record.pid, number)
        finally:
            os.close(pidfd)


async def _take(lock: int) -> None:
    deadline = asyncio.get_running_loop().time() + LOCK_WITHIN_S
    while True:
        try:
            return flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise Busy("the keeper of the workerd before does not let go of its lock") from error
        await asyncio.sleep(_LOCK_AGAIN_S)


def _others(folder: Path) -> tuple[dict[str, Place], str]:
    """What earlier keepers have, and a folder for the next one."""
    others: dict[str, Place] = {}
    numbers = sorted(int(name) for name in os.listdir(folder) if name.isascii() and name.isdigit())
    for number in numbers:
        path = f"{folder}/{number}"
        with _records(path, os.O_RDONLY | os.O_CREAT) as file:
            kept = _is_locked(file)
            text = os.pread(file, os.fstat(file).st_size, 0)
        lines = [text[at : at + RECORD_BYTES] for at in range(0, len(text), RECORD_BYTES)]
        records = {i: record for i, line in enumerate(lines) if (record := Record.read(line))}
        if not kept:
            for record in records.values():
                stop(record, signal.SIGKILL)
            stop_all_in(path)
            if not records:
                shutil.rmtree(path, ignore_errors=True)
        others |= {record.name: Place(path, i) for i, record in records.items()}
    return others, f"{folder}/{max(numbers, default=0) + 1}"


def stop_all_in(folder: str) -> None:
    """A keeper that was killed while it was starting something had no time to write that down."""
    real = os.path.realpath(folder)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd").startswith(f"{real}/"):
                os.kill(int(pid), signal.SIGKILL)


def _spawn(folder: Path, own: str, socket: socket.socket, lock: int) -> int:
    os.set_inheritable(lock, True)
    socket.set_inheritable(True)
    program = [sys.executable, "-I", "-S", keeper.__file__, own, str(socket.fileno()), str(lock)]
    return os.posix_spawn(
        sys.executable,
        program,
        {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)},
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, f"{folder}/errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        ],
    )


@contextmanager
def _records(folder: str, flags: int) -> Iterator[int]:
    file = os.open(f"{folder}/{keeper.RECORDS}", flags | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _is_locked(file: int) -> bool:
    try:
        flock(file, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _stat(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text()
