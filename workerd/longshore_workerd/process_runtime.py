"""Runs containers as plain processes of this user: no isolation, for one user on one machine.

A container is a session of its own, led by a small shell that outlives workerd: it starts the
command, waits for it, writes down how it ended and kills what the command left behind. So a
restarted workerd finds every process and every exit code. Nothing but files is kept:

    <folder>/<attempt id>-<main|input|output>/
        record      "<line of /proc/PID/stat of the shell>", then "exit N" and the machine's uptime;
                    "stop 15" or "stop 9" of workerd's own signals. No line at all: it never ran.
        output      standard output and error; what the sink has taken is punched out of it
        work/       where the command starts
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import re
import shutil
import signal
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from longshore_workerd import localizer
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

log = logging.getLogger(__name__)

# The traps let the shell outlive the signals that stop() sends to the whole session; a command does
# not inherit them. `exec` passes by what the shell would do itself (echo, test). The last act kills
# the session, the shell included: nothing of a job runs on.
_SHELL = """
trap : TERM INT HUP QUIT
read -r self </proc/$$/stat && cd "$1" && echo "$self" >&3 || exit
shift
ulimit -c 0
(exec "$@" 3>&-)
code=$?
read -r uptime rest </proc/uptime
echo "exit $code $uptime" >&3
kill -KILL 0
"""

_INHERITED = re.compile(r"HOME|LANG|LC_\w+|LOGNAME|PATH|SHELL|TERM|TMPDIR|TZ|USER")
"""What a command gets of workerd's own environment. Nothing that could be a secret of the service."""

_SAFE = re.compile(r"/[A-Za-z0-9._/-]*")
"""Paths that mean the same in any quoting of any shell."""

# `/io` where a path begins: not in the middle of another path, not as the start of a longer name;
# also right after a one-letter option (-I/io/include).
_IO_PATH = re.compile(r"(?:(?<![\w./~})\]*?%+-])|(?<=[\s'\"=]-[A-Za-z]))/io(?![\w.-])")

_TICKS = os.sysconf("SC_CLK_TCK")
_TAIL_S = 0.1
_FIRST_WORDS_S = 1.0
_CHUNK = 1 << 20
_PUNCH_BYTES = 8 << 20

_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Record:
    """What the file `record` says."""

    pid: int = 0
    """Of the shell; 0 = it never ran."""
    started: str = ""
    """Its start in clock ticks since boot: with the pid, a name that is never given twice."""
    exit_code: int | None = None
    ran_ms: int | None = None
    """From start to end, rounded down: the kernel counts a start in ticks."""

    @classmethod
    def read(cls, path: Path) -> _Record:
        pid, started = 0, ""
        exit_code = stopped = ran_ms = None
        with suppress(FileNotFoundError):
            for line in path.read_text().splitlines():
                word, _, rest = line.partition(" ")
                if word == "exit":
                    code, uptime_s = rest.split()
                    exit_code = int(code)
                    ran_ms = max(0, int(float(uptime_s) * 1000) - (int(started) + 1) * 1000 // _TICKS)
                elif word == "stop":
                    stopped = 128 + int(rest)
                elif not pid and (fields := line.rpartition(")")[2].split()):
                    pid, started = int(word), fields[19]
        # A shell that was killed with its session writes nothing: then our own signal tells.
        return cls(pid, started, stopped if exit_code is None else exit_code, ran_ms)


class _Process:
    """One container that this object follows."""

    def __init__(self, folder: Path, record: _Record, sink: LogSink, *, started_here: bool) -> None:
        self.folder = folder
        self.started_here = started_here
        self.pid = record.pid
        self.sink = sink
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.pidfd = -1
        self._output = os.open(folder / "output", os.O_RDWR | os.O_CREAT, 0o600)
        self._offset = sink.size
        self._punched = 0

    @property
    def running(self) -> bool:
        return self.pidfd >= 0

    def drain(self) -> bool:
        """Gives the sink a chunk of what was written; false when there was nothing new."""
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

    def signal(self, number: int) -> None:
        """Sends it to the whole session's first group, and writes down that it was us."""
        with suppress(OSError):
            fd = os.open(self.folder / "record", os.O_WRONLY | os.O_APPEND)
            os.write(fd, b"stop %d\n" % number)
            os.close(fd)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        if self.running:
            os.close(self.pidfd)
            self.pidfd = -1
        if self._output >= 0:
            os.close(self._output)
            self._output = -1


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
        self._tail: asyncio.Task[None] | None = None
        self._finishing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2:  # what whoever started us left open is not for commands; Python's own never is
                with suppress(OSError):
                    os.set_inheritable(fd, False)
        if self._tail is None:
            self._tail = asyncio.create_task(self._follow_outputs(), name="process outputs")

    async def list(self) -> list[Found]:
        found = []
        for entry in sorted(self._folder.iterdir()):
            attempt_id, _, container = entry.name.rpartition("-")
            if not attempt_id or container.upper() not in Container.__members__:
                log.warning("%s is no container of this runtime: left alone", entry)
                continue
            id = ContainerId(attempt_id, Container[container.upper()])
            pidfd = _pidfd(await _first_words(entry))
            found.append(Found(id, running=pidfd >= 0))
            if pidfd >= 0:
                os.close(pidfd)
        return found

    async def prepare(self, image: str) -> Prepared:
        return Prepared(image)

    async def start(self, spec: ContainerSpec, sink: LogSink) -> None:
        if spec.id in self._processes:
            return
        folder = self._path(spec.id)
        if folder.exists():
            return await self.adopt(spec.id, sink)
        argv, env = self._command(spec)
        _check_executable(argv[0], env)
        pid = _spawn(folder, argv, env)
        # From here on the shell exists, whatever becomes of us.
        self._watch(spec.id, _Process(folder, _Record(pid), sink, started_here=True), os.pidfd_open(pid))

    async def adopt(self, id: ContainerId, sink: LogSink) -> None:
        if id in self._processes or not self._path(id).exists():
            return
        record = _Record.read(self._path(id) / "record")
        process = _Process(self._path(id), record, sink, started_here=False)
        pidfd = _pidfd(record)
        if pidfd >= 0:
            self._watch(id, process, pidfd)
        else:
            self._processes[id] = process
            await self._finish(process)

    async def wait(self, id: ContainerId) -> Exit:
        if process := self._processes.get(id):
            return await asyncio.shield(process.ended)
        return Exit(None, known=False, error="there is no such process")

    async def stop(self, id: ContainerId, grace_s: float) -> None:
        process = self._processes.get(id)
        if process is None or not process.running:
            return
        process.signal(signal.SIGTERM)
        await asyncio.wait([process.ended], timeout=grace_s)
        if process.running:
            process.signal(signal.SIGKILL)

    async def remove(self, id: ContainerId) -> None:
        process = self._processes.pop(id, None)
        if process is None and (pidfd := _pidfd(record := _Record.read(self._path(id) / "record"))) >= 0:
            os.killpg(record.pid, signal.SIGKILL)
            os.close(pidfd)
        elif process is not None and process.running:
            process.signal(signal.SIGKILL)
            await process.ended
        _alias(id.attempt_id).unlink(missing_ok=True)
        folder = self._path(id)
        try:
            (folder / "work").rmdir()
        except OSError:
            await asyncio.to_thread(_remove_tree, folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)

    async def close(self) -> None:
        if self._tail is not None:
            self._tail.cancel()
            self._tail = None
        for process in self._processes.values():
            if process.running:
                asyncio.get_running_loop().remove_reader(process.pidfd)
            process.close()
            process.ended.cancel()
        self._processes.clear()

    def _path(self, id: ContainerId) -> Path:
        return self._folder / f"{id.attempt_id}-{id.container.name.lower()}"

    def _command(self, spec: ContainerSpec) -> tuple[tuple[str, ...], dict[str, str]]:
        """Argument vector and environment, in the paths of this machine."""
        env = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
        io_folder = _shell_safe(spec.io_folder, spec.id.attempt_id)
        if spec.command[:1] == (localizer.COMMAND,):
            # Its paths are data, and it knows itself where /io and the store are.
            sources = {mount.target: str(mount.source) for mount in spec.mounts}
            prefix = spec.env.get(localizer.STORE_PREFIX, "")
            env |= spec.env | {localizer.IO: io_folder, localizer.STORE_PREFIX: sources.get(prefix, prefix)}
            return (sys.executable, "-I", "-S", localizer.__file__, *spec.command[1:]), env
        env |= {name: at_home(value, io_folder) for name, value in spec.env.items()}
        return tuple(at_home(word, io_folder) for word in spec.command), env

    def _watch(self, id: ContainerId, process: _Process, pidfd: int) -> None:
        process.pidfd = pidfd
        self._processes[id] = process
        asyncio.get_running_loop().add_reader(pidfd, self._died, process)

    def _died(self, process: _Process) -> None:
        """The shell is dead, and with it, if it came to its last line, the whole session."""
        asyncio.get_running_loop().remove_reader(process.pidfd)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # before the pid is free to be used again
        with suppress(ChildProcessError):
            os.waitpid(process.pid, 0)
        os.close(process.pidfd)
        process.pidfd = -1
        task = asyncio.create_task(self._finish(process))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _finish(self, process: _Process) -> None:
        """The rest of the output goes to the sink, then it is known how the container ended."""
        try:
            while process.drain():
                await asyncio.sleep(0)
            process.sink.close()
        except OSError as error:
            log.error("the log of %s is not complete: %s", process.folder.name, error)
        process.close()
        record = _Record.read(process.folder / "record")
        if record.exit_code is None:
            process.ended.set_result(
                Exit(None, known=False, error="the process ended without a word about its exit code")
            )
        else:
            ran_ms = None if process.started_here else record.ran_ms
            process.ended.set_result(Exit(record.exit_code, ran_ms=ran_ms))

    async def _follow_outputs(self) -> None:
        """Moves what running processes print to their logs, ten times a second."""
        while True:
            await asyncio.sleep(_TAIL_S)
            for process in [p for p in self._processes.values() if p.running]:
                try:
                    # A rushing one gets its turn and no more: the others and the loop wait for it.
                    for _ in range(8):
                        if not process.running or not process.drain():
                            break
                except OSError as error:
                    log.warning("cannot write the log of %s: %s", process.folder.name, error)
                await asyncio.sleep(0)


def at_home(text: str, io_folder: str) -> str:
    """The text with /io replaced by the folder wherever a path begins with it.

    >>> at_home("cat /io/a '/io/b c' >/io/d --out=/io/e -I/io/f", "/w/1")
    "cat /w/1/a '/w/1/b c' >/w/1/d --out=/w/1/e -I/w/1/f"
    >>> at_home("ls src/io ~/io /ion /io-2 $HOME/io", "/w/1")
    'ls src/io ~/io /ion /io-2 $HOME/io'
    """
    return _IO_PATH.sub(lambda _: io_folder, text)


def _spawn(folder: Path, argv: tuple[str, ...], env: Mapping[str, str]) -> int:
    """Starts the shell in a session of its own; its standard error is the container's output too."""
    output, record = os.fspath(folder / "output"), os.fspath(folder / "record")
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        (folder / "work").mkdir(parents=True)
        return os.posix_spawn(
            "/bin/sh",
            ["longshore", "-c", _SHELL, "sh", os.fspath(folder / "work"), *argv],
            env,
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGINT],  # Python ignores or catches these
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, output, append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_OPEN, 3, record, append, 0o600),
            ],
        )
    except (OSError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        # The kernel's limit on arguments and environment is the user's affair, all else is ours.
        users = isinstance(error, ValueError) or error.errno == errno.E2BIG
        kind = ErrorKind.CANNOT_START if users else ErrorKind.NONE
        raise RuntimeRefused(kind, f"cannot start {argv[0]!r}: {error}") from error


def _check_executable(program: str, env: Mapping[str, str]) -> None:
    """Says no to what cannot be started, as an engine does, instead of exiting 127."""
    if shutil.which(program, path=env.get("PATH", os.defpath)) is None:
        where = "no such executable file" if "/" in program else "not found in PATH"
        raise RuntimeRefused(ErrorKind.CANNOT_START, f"cannot start {program!r}: {where}")


def _pidfd(record: _Record) -> int:
    """A descriptor of the shell that wrote the record, if it still lives; else -1."""
    if not record.pid:
        return -1
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return -1
    with suppress(OSError):
        fields = _stat(record.pid).rpartition(")")[2].split()
        if fields[19] == record.started and fields[0] not in "ZX":
            return pidfd
    os.close(pidfd)
    return -1


async def _first_words(folder: Path) -> _Record:
    """What its shell wrote. One that a workerd started in its last moment is given time to do so."""
    while not (record := _Record.read(folder / "record")).pid:
        if not 0 <= time.time() - folder.stat().st_mtime < _FIRST_WORDS_S:
            break
        await asyncio.sleep(0.01)
    return record


def _stat(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text()


def _shell_safe(folder: Path, attempt_id: str) -> str:
    """A path to the folder that any shell takes literally: the folder's own, or a link to it."""
    path = os.fspath(folder.absolute())
    if _SAFE.fullmatch(path):
        return path
    link = _alias(attempt_id)
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


def _alias(attempt_id: str) -> Path:
    return Path(f"/tmp/longshore-{os.getuid()}") / attempt_id


def _remove_tree(folder: Path) -> None:
    """Removes it, also what a command made unreadable for its own owner."""
    for path, names, _ in os.walk(folder):
        for name in names:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                with suppress(OSError):
                    os.chmod(inner, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
