"""Runs containers as plain processes of this user: no isolation, for one user on one machine.

A container is a session of its own. Its leader is no child of workerd but of a keeper (keeper.py), a small
process that outlives workerd: it sees every end, and writes down how it was. So a restarted workerd
finds every process and every exit code: it follows what the keepers before have written, and starts
all else with one of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import stat
from contextlib import suppress
from pathlib import Path

from longshore_workerd import keepers, localizer
from longshore_workerd.keepers import Keeper, Place
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

_SAFE = re.compile(r"/[A-Za-z0-9._/-]*")
"""Paths that mean the same in any quoting of any shell."""

# `/io` where a path begins: not in the middle of another path, not as the start of a longer name;
# also right after a one-letter option (-I/io/include).
_IO_PATH = re.compile(r"(?:(?<![\w./~})\]*?%+-])|(?<=[\s'\"=]-[A-Za-z]))/io(?![\w.-])")

_TAIL_S = 0.1
_CHUNK = 1 << 20
_PUNCH_BYTES = 8 << 20

_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_libc = ctypes.CDLL(None, use_errno=True)

_UNKNOWN = Exit(None, known=False, error="the process ended without a word about its exit code")


class _Process:
    """One container that this object follows."""

    __slots__ = ("_offset", "_output", "_punched", "adopted", "ended", "place", "running", "silent", "sink")

    def __init__(self, place: Place, sink: LogSink, *, adopted: bool) -> None:
        self.place = place
        self.sink = sink
        self.adopted = adopted
        """Another keeper than ours looks after it, or none."""
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.running = True
        self.silent = True
        """It has not said anything yet."""
        self._output = -1
        self._offset = sink.size
        self._punched = 0

    def drain(self) -> bool:
        """Gives the sink a chunk of what was written; false when there was nothing new."""
        if self._output < 0:
            try:
                self._output = os.open(self.place.output, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            self.silent = False
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
        self._folder = folder.absolute()
        self._processes: dict[ContainerId, _Process] = {}
        self._others: dict[str, Place] = {}
        """What keepers before ours have started, by name."""
        self._kept: dict[int, _Process] = {}
        """What ours has started, or is about to, and has not ended."""
        self._answers: dict[int, asyncio.Future[tuple[object, ...]]] = {}
        self._aliases: set[str] = set()
        """Attempts that were given a link, because their folder's own path is not safe in a shell."""
        self._keeper: Keeper | None = None
        self._opening = asyncio.Lock()
        self._tail: asyncio.Task[None] | None = None
        self._finishing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """EngineAway while the keeper of the workerd before might still start something."""
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2:  # what whoever started us left open is not for commands; Python's own never is
                with suppress(OSError):
                    os.set_inheritable(fd, False)
        async with self._opening:
            if self._keeper is None:
                try:
                    self._keeper, self._others = await keepers.start(self._folder, self._heard, self._lost)
                except keepers.Busy as busy:
                    raise EngineAway(str(busy)) from busy
        if self._tail is None:
            self._tail = asyncio.create_task(self._follow(), name="process outputs")

    async def list(self) -> list[Found]:
        found = [Found(id, process.running) for id, process in self._processes.items()]
        for name, place in self._others.items():
            attempt_id, _, container = name.rpartition("-")
            id = ContainerId(attempt_id, Container[container.upper()])
            if id not in self._processes:
                record, kept = place.record()
                found.append(Found(id, kept and record is not None and record.exit_code < 0))
        return found

    async def prepare(self, image: str) -> Prepared:
        return Prepared(image)

    async def start(self, spec: ContainerSpec, sink: LogSink) -> None:
        if spec.id in self._processes:
            return
        if self._keeper is None:
            await self.open()
        name = _name(spec.id)
        if name in self._others:
            return await self.adopt(spec.id, sink)
        verb, *what = self._order(spec)
        assert self._keeper is not None
        place = self._keeper.take()
        process = self._kept[place.number] = _Process(place, sink, adopted=False)
        answer = self._answers[place.number] = asyncio.get_running_loop().create_future()
        self._keeper.say(verb, place.number, name, *what)
        if refused := await answer:
            users, why = refused
            await self._clear(place, silent=True)
            kind = ErrorKind.CANNOT_START if users else ErrorKind.NONE
            raise RuntimeRefused(kind, f"cannot start {spec.command[0]!r}: {why}")
        self._processes[spec.id] = process

    async def adopt(self, id: ContainerId, sink: LogSink) -> None:
        place = self._others.get(_name(id))
        if id not in self._processes and place is not None:
            process = self._processes[id] = _Process(place, sink, adopted=True)
            self._look_after(process)

    async def wait(self, id: ContainerId) -> Exit:
        if (process := self._processes.get(id)) is None:
            return Exit(None, known=False, error="there is no such process")
        return process.ended.result() if process.ended.done() else await asyncio.shield(process.ended)

    async def stop(self, id: ContainerId, grace_s: float) -> None:
        if process := self._processes.get(id):
            self._signal(process, signal.SIGTERM)
            await asyncio.wait([process.ended], timeout=grace_s)
            self._signal(process, signal.SIGKILL)

    async def remove(self, id: ContainerId) -> None:
        place = self._others.get(_name(id))
        if process := self._processes.get(id):
            place = process.place
            self._signal(process, signal.SIGKILL)
            if not process.ended.done():
                await asyncio.wait([process.ended])
        elif place is not None:
            record, kept = place.record()
            while record is not None and record.exit_code < 0 and kept:
                keepers.stop(record, signal.SIGKILL)
                await asyncio.sleep(0.01)
                record, kept = place.record()
        if place is not None:
            await self._clear(place, silent=process is not None and process.silent)
        self._processes.pop(id, None)
        was_before = self._others.pop(_name(id), None) is not None
        if was_before or id.attempt_id in self._aliases:
            self._aliases.discard(id.attempt_id)
            with suppress(FileNotFoundError):
                os.unlink(_alias(id.attempt_id))

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
        self._kept.clear()

    async def _clear(self, place: Place, *, silent: bool = False) -> None:
        if not place.clear(silent=silent):
            await asyncio.to_thread(place.clear_files)
        if self._keeper is not None:
            self._keeper.give_back(place)

    def _heard(self, what: str, number: int, *rest: object) -> None:
        """From our keeper."""
        if what == "ended":
            (exit_code,) = rest
            assert isinstance(exit_code, int)
            self._finish(self._kept.pop(number), Exit(exit_code))
            return
        if what == "refused":
            del self._kept[number]
        answer = self._answers.pop(number)
        if not answer.done():
            answer.set_result(rest)

    def _lost(self) -> None:
        """Our keeper was killed. What it looked after may not run on: nobody would see how it ends."""
        log.error("the keeper of processes is gone, see %s/errors: what it had started stops", self._folder)
        self._keeper = None
        for process in self._kept.values():
            process.adopted = True
            self._look_after(process)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(())  # It may have been started, and must not be a second time.
        self._answers.clear()
        self._kept.clear()

    def _look_after(self, process: _Process) -> None:
        """Our keeper does not. When nobody does it is stopped."""
        record, kept = process.place.record()
        if record is not None and record.exit_code >= 0:
            self._finish(process, Exit(record.exit_code, ran_ms=max(0, record.ended_ms - record.since_ms)))
        elif not kept:
            if record is not None:
                keepers.stop(record, signal.SIGKILL)
            self._finish(process, _UNKNOWN)

    def _signal(self, process: _Process, number: int) -> None:
        if not process.running:
            return
        if not process.adopted and self._keeper is not None:
            self._keeper.say("signal", process.place.number, int(number))
        elif record := process.place.record()[0]:
            keepers.stop(record, number)

    def _order(self, spec: ContainerSpec) -> tuple[object, ...]:
        """What the keeper is to do, in the paths of this machine."""
        io_folder = os.path.abspath(spec.io_folder)
        if not _SAFE.fullmatch(io_folder):
            self._aliases.add(spec.id.attempt_id)
            io_folder = _make_alias(io_folder, spec.id.attempt_id)
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
            log.error("the log of %s is not complete: %s", process.place.output, error)
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
                    log.warning("cannot write the log of %s: %s", process.place.output, error)
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


def _make_alias(path: str, attempt_id: str) -> str:
    """A link to it that any shell takes literally."""
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
