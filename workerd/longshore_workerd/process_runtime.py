"""Runs containers as plain processes of this user: no isolation, for one user on one machine.

A container is a session of its own. Its leader is no child of workerd but of a keeper (keeper.py), a small
process that outlives workerd: it sees every end, and writes down how it was. So a restarted workerd
finds every process and every exit code: it reads the records of the keeper that it has lost, and starts
all else with one of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import shutil
import signal
import socket
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from longshore_workerd import keeper, localizer
from longshore_workerd.runtime import (
    Container,
    ContainerId,
    ContainerSpec,
    EngineAway,
    ErrorKind,
    Exit,
    Found,
    LogSink,
    Prepared,
    RuntimeRefused,
)

log = logging.getLogger(__name__)

_INHERITED = re.compile(r"HOME|LANG|LC_\w+|LOGNAME|PATH|SHELL|TERM|TMPDIR|TZ|USER")
"""What a command gets of workerd's own environment. Nothing that could be a secret of the service."""

_SAFE = re.compile(r"/[A-Za-z0-9._/-]*")
"""Paths that mean the same in any quoting of any shell."""

# `/io` where a path begins: not in the middle of another path, not as the start of a longer name;
# also right after a one-letter option (-I/io/include).
_IO_PATH = re.compile(r"(?:(?<![\w./~})\]*?%+-])|(?<=[\s'\"=]-[A-Za-z]))/io(?![\w.-])")

_TICKS = os.sysconf("SC_CLK_TCK")
_TAIL_S = 0.1
_LOCK_TRIES, _LOCK_AGAIN_S = 500, 0.01
_CHUNK = 1 << 20
_PUNCH_BYTES = 8 << 20

_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_libc = ctypes.CDLL(None, use_errno=True)

_UNKNOWN = Exit(None, known=False, error="the process ended without a word about its exit code")


@dataclass(frozen=True, slots=True)
class _Record:
    """What a keeper has written about a container."""

    kept: bool
    """It looks after it now. Otherwise what is not written will never be."""
    pid: int = 0
    """Of the session's leader."""
    began_ms: int = 0
    """It was started between then ..."""
    begun_ms: int = 0
    """... and then: with the pid, a name that is never given twice."""
    exit_code: int | None = None
    ended_ms: int = 0

    @classmethod
    def read(cls, path: str) -> _Record | None:
        """None: there never was such a container, or it was removed."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            kept = False
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                kept = True
            started, _, ended = os.read(file, 200).decode().partition("\n")
        finally:
            os.close(file)
        numbers = [int(number) for number in started.split()]
        exit = [int(number) for number in ended.split()[1:]]
        return cls(kept, *numbers, *exit)

    @property
    def exit(self) -> Exit:
        """How it ended, for one who has not seen it from its start on."""
        if self.exit_code is None:
            return _UNKNOWN
        return Exit(self.exit_code, ran_ms=max(0, self.ended_ms - self.begun_ms))

    def signal(self, number: int) -> None:
        """To the whole session's first group, if it is still the one that was started."""
        if not self.pid or self.exit_code is not None:
            return
        with suppress(OSError):
            pidfd = os.pidfd_open(self.pid)
            try:
                started_ms = int(_stat(self.pid).rpartition(")")[2].split()[19]) * 1000 // _TICKS
                if self.began_ms - 1000 // _TICKS <= started_ms <= self.begun_ms:
                    os.killpg(self.pid, number)
            finally:
                os.close(pidfd)


class _Process:
    """One container that this object follows."""

    def __init__(self, path: str, sink: LogSink, *, adopted: bool) -> None:
        self.path = path
        self.sink = sink
        self.adopted = adopted
        """Another keeper than ours looks after it, or none."""
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.running = True
        self._output = -1
        self._offset = sink.size
        self._punched = 0

    def drain(self) -> bool:
        """Gives the sink a chunk of what was written; false when there was nothing new."""
        if self._output < 0:
            try:
                self._output = os.open(self.path + keeper.OUTPUT, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        chunk = os.pread(self._output, _CHUNK, self._offset)
        if not chunk:
            return False
        self.sink.write(chunk)
        self._offset += len(chunk)
        if self._offset - self._punched >= _PUNCH_BYTES:
            # Else a command that prints without end would fill the disk with what the log has cut.
            # A file system that cannot do it keeps the bytes until the container is removed.
            length = ctypes.c_int64(self._offset - self._punched)
            _libc.fallocate(self._output, _PUNCH_HOLE, ctypes.c_int64(self._punched), length)
            self._punched = self._offset
        return True

    def close(self) -> None:
        self.running = False
        if self._output >= 0:
            os.close(self._output)
            self._output = -1


class _Keeper(asyncio.Protocol):
    """The keeper that this workerd has started, and what it says."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self._runtime = runtime
        self._received = bytearray()
        self._to_say: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._left = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        for message in keeper.unpack(self._received):
            self._runtime.heard(*message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left.set()
        if self._transport is not None:
            self._transport = None
            self._runtime.lost_keeper()

    def say(self, *message: object) -> None:
        """With all else that is said in this turn of the loop."""
        if not self._to_say:
            asyncio.get_running_loop().call_soon(self._flush)
        self._to_say.append(keeper.pack(*message))

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._to_say))
        self._to_say.clear()

    async def leave(self) -> None:
        """It looks after what runs, and ends when nothing does. What was said before is heard."""
        self._flush()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
            await self._left.wait()


class ProcessRuntime:
    """Implements `Runtime` with processes of this user.

    What it cannot do, said plainly: limits of memory and of cores are not enforced, images and
    networks have no meaning, a command sees all files of this user, and a process that leaves its
    session (setsid) is not found when the container ends.

    The path /io in commands and environment becomes the attempt's folder. `longshore-localizer` as
    command is this package's localizer. All calls belong to one event loop.
    """

    name = "process"
    isolated = False

    def __init__(self, folder: Path) -> None:
        """`folder` is for this runtime alone, and the same at every start."""
        self._folder = folder
        self._processes: dict[ContainerId, _Process] = {}
        self._by_name: dict[str, _Process] = {}
        """Of our own keeper's those that have not ended."""
        self._starting: dict[str, asyncio.Future[tuple[object, ...]]] = {}
        self._keeper: _Keeper | None = None
        self._tail: asyncio.Task[None] | None = None
        self._finishing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """EngineAway while the keeper of the workerd before might still start something."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2:  # what whoever started us left open is not for commands; Python's own never is
                with suppress(OSError):
                    os.set_inheritable(fd, False)
        if self._keeper is None:
            self._keeper = await self._start_keeper()
        if self._tail is None:
            self._tail = asyncio.create_task(self._follow(), name="process outputs")

    async def _start_keeper(self) -> _Keeper:
        ours, its = socket.socketpair()
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        errors = os.fspath(self._folder / "errors")
        try:
            await _take(lock)
            os.set_inheritable(lock, True)
            its.set_inheritable(True)
            program = [sys.executable, "-I", "-S", keeper.__file__]
            os.posix_spawn(
                sys.executable,
                [*program, os.fspath(self._folder), str(its.fileno()), str(lock)],
                {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)},
                setsid=True,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                ],
            )
        except BlockingIOError as error:
            ours.close()
            raise EngineAway(f"the keeper before has not let go of {self._folder / 'lock'}") from error
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
            os.close(lock)
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(lambda: _Keeper(self), sock=ours))[1]

    async def list(self) -> list[Found]:
        found = []
        for entry in sorted(os.listdir(self._folder)):
            name, dot, _ = entry.rpartition(keeper.RECORD)
            attempt_id, _, container = name.rpartition("-")
            if dot and attempt_id and container.upper() in Container.__members__:
                record = _Record.read(self._path(name) + keeper.RECORD)
                if record is not None:
                    found.append(Found(ContainerId(attempt_id, Container[container.upper()]), record.kept))
                    if not record.kept:
                        _abandon(self._path(name), record)
        return found

    async def prepare(self, image: str) -> Prepared:
        return Prepared(image)

    async def start(self, spec: ContainerSpec, sink: LogSink) -> None:
        if spec.id in self._processes:
            return
        verb, *what = self._order(spec)
        if self._keeper is None:
            await self.open()
        assert self._keeper is not None
        name = _name(spec.id)
        process = self._by_name[name] = _Process(self._path(name), sink, adopted=False)
        answer = self._starting[name] = asyncio.get_running_loop().create_future()
        self._keeper.say(verb, name, *what)
        match await answer:
            case ("started",):
                self._processes[spec.id] = process
            case ("exists",):
                del self._by_name[name]
                await self.adopt(spec.id, sink)
            case (_, users, why):
                del self._by_name[name]
                kind = ErrorKind.CANNOT_START if users else ErrorKind.NONE
                raise RuntimeRefused(kind, f"cannot start {spec.command[0]!r}: {why}")

    async def adopt(self, id: ContainerId, sink: LogSink) -> None:
        path = self._path(_name(id))
        record = None if id in self._processes else _Record.read(path + keeper.RECORD)
        if record is not None:
            process = self._processes[id] = _Process(path, sink, adopted=True)
            if not record.kept:
                self._finish(process, record.exit)

    async def wait(self, id: ContainerId) -> Exit:
        if (process := self._processes.get(id)) is None:
            return Exit(None, known=False, error="there is no such process")
        return process.ended.result() if process.ended.done() else await asyncio.shield(process.ended)

    async def stop(self, id: ContainerId, grace_s: float) -> None:
        process = self._processes.get(id)
        if process is None or not process.running:
            return
        self._signal(process, signal.SIGTERM)
        await asyncio.wait([process.ended], timeout=grace_s)
        self._signal(process, signal.SIGKILL)

    async def remove(self, id: ContainerId) -> None:
        path = self._path(_name(id))
        if process := self._processes.get(id):
            self._signal(process, signal.SIGKILL)
            await asyncio.wait([process.ended])
            self._processes.pop(id, None)
        else:
            while (record := _Record.read(path + keeper.RECORD)) and record.kept:
                record.signal(signal.SIGKILL)
                await asyncio.sleep(0.01)
        for file in (_alias(id.attempt_id), path + keeper.OUTPUT):
            with suppress(FileNotFoundError):
                os.unlink(file)
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:
            await asyncio.to_thread(_remove_tree, path)
        with suppress(FileNotFoundError):
            os.unlink(path + keeper.RECORD)

    async def close(self) -> None:
        if self._tail is not None:
            self._tail.cancel()
            self._tail = None
        if self._keeper is not None:
            left, self._keeper = self._keeper, None
            await left.leave()
        for process in self._processes.values():
            process.close()
            process.ended.cancel()
        self._processes.clear()
        self._by_name.clear()

    def heard(self, what: str, name: str, *rest: object) -> None:
        """From our keeper."""
        if what != "ended":
            answer = self._starting.pop(name)
            if not answer.done():
                answer.set_result((what, *rest))
        elif process := self._by_name.pop(name, None):
            (exit_code,) = rest
            assert isinstance(exit_code, int)
            self._finish(process, Exit(exit_code))

    def lost_keeper(self) -> None:
        """Ours was killed. What it looked after may not run on, since nobody would see how it ends."""
        log.error("the keeper of processes is gone: what it had started is stopped")
        self._keeper = None
        for name, answer in self._starting.items():
            self._by_name.pop(name, None)
            if not answer.done():
                answer.set_exception(EngineAway("the keeper of processes was killed"))
        self._starting.clear()
        for process in self._by_name.values():
            self._look_after(process)
        self._by_name.clear()

    def _look_after(self, process: _Process) -> None:
        """It is another keeper's, or nobody's: sees to its end."""
        record = _Record.read(process.path + keeper.RECORD)
        if record is None or not record.kept:
            if record is not None:
                _abandon(process.path, record)
            self._finish(process, record.exit if record else _UNKNOWN)

    def _signal(self, process: _Process, number: signal.Signals) -> None:
        if not process.running:
            return
        if not process.adopted and self._keeper is not None:
            self._keeper.say("signal", os.path.basename(process.path), int(number))
        elif record := _Record.read(process.path + keeper.RECORD):
            record.signal(number)

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _order(self, spec: ContainerSpec) -> tuple[object, ...]:
        """What the keeper is to do, in the paths of this machine."""
        io_folder = _shell_safe(spec.io_folder, spec.id.attempt_id)
        if spec.command[:1] == (localizer.COMMAND,):
            # Its paths are data, and it knows itself where /io and the store are.
            sources = {mount.target: str(mount.source) for mount in spec.mounts}
            prefix = spec.env.get(localizer.STORE_PREFIX, "")
            here = {localizer.IO: io_folder, localizer.STORE_PREFIX: sources.get(prefix, prefix)}
            return "copy", spec.env | here
        env = {name: at_home(value, io_folder) for name, value in spec.env.items()}
        return "start", tuple(at_home(word, io_folder) for word in spec.command), env

    def _finish(self, process: _Process, exit: Exit) -> None:
        """It has ended: the rest of its output goes to the sink, then that is known."""
        process.running = False
        try:
            more = process.drain()
        except OSError:
            more = True
        if not more:
            self._finished(process, exit)
            return
        task = asyncio.create_task(self._finish_long(process, exit))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _finish_long(self, process: _Process, exit: Exit) -> None:
        try:
            while process.drain():
                await asyncio.sleep(0)
        except OSError as error:
            log.error("the log of %s is not complete: %s", process.path, error)
        self._finished(process, exit)

    def _finished(self, process: _Process, exit: Exit) -> None:
        process.sink.close()
        process.close()
        if not process.ended.done():
            process.ended.set_result(exit)

    async def _follow(self) -> None:
        """Ten times a second moves what is printed to the logs, and looks after what is adopted."""
        while True:
            await asyncio.sleep(_TAIL_S)
            for process in [p for p in self._processes.values() if p.running]:
                try:
                    # A rushing one gets its turn and no more: the others and the loop wait for it.
                    for _ in range(8):
                        if not process.running or not process.drain():
                            break
                except OSError as error:
                    log.warning("cannot write the log of %s: %s", process.path, error)
                if process.running and process.adopted:
                    self._look_after(process)
                await asyncio.sleep(0)


def at_home(text: str, io_folder: str) -> str:
    """The text with /io replaced by the folder wherever a path begins with it.

    >>> at_home("cat /io/a '/io/b c' >/io/d --out=/io/e -I/io/f", "/w/1")
    "cat /w/1/a '/w/1/b c' >/w/1/d --out=/w/1/e -I/w/1/f"
    >>> at_home("ls src/io ~/io /ion /io-2 $HOME/io", "/w/1")
    'ls src/io ~/io /ion /io-2 $HOME/io'
    """
    return _IO_PATH.sub(lambda _: io_folder, text)


async def _take(lock: int) -> None:
    """BlockingIOError when it is not free within a moment."""
    for _ in range(_LOCK_TRIES):
        with suppress(BlockingIOError):
            return flock(lock, LOCK_EX | LOCK_NB)
        await asyncio.sleep(_LOCK_AGAIN_S)
    flock(lock, LOCK_EX | LOCK_NB)


def _abandon(path: str, record: _Record) -> None:
    """Nobody looks after the container: if it still runs, it is stopped."""
    if record.pid:
        record.signal(signal.SIGKILL)
        return
    # Its keeper was killed while it was starting it. There it begins.
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd") == path:
                os.kill(int(pid), signal.SIGKILL)


def _stat(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text()


def _shell_safe(folder: Path, attempt_id: str) -> str:
    """A path to the folder that any shell takes literally: the folder's own, or a link to it."""
    path = os.path.abspath(folder)
    if _SAFE.fullmatch(path):
        return path
    link = Path(_alias(attempt_id))
    link.parent.mkdir(mode=0o700, exist_ok=True)
    found = link.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RuntimeRefused(
            ErrorKind.NONE, f"{link.parent} is not a folder of this user alone: remove it, then try again"
        )
    if not link.is_symlink() or os.readlink(link) != path:
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    return str(link)


def _alias(attempt_id: str) -> str:
    return f"/tmp/longshore-{os.getuid()}/{attempt_id}"


def _name(id: ContainerId) -> str:
    return f"{id.attempt_id}-{_NAMES[id.container]}"


_NAMES = {container: container.name.lower() for container in Container}


def _remove_tree(folder: str) -> None:
    """Removes it, also what a command made unreadable for its own owner."""
    for path, names, _ in os.walk(folder):
        for name in names:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                with suppress(OSError):
                    os.chmod(inner, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
