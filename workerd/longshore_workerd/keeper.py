"""Starts the processes of the process runtime, outlives workerd, and writes down how each one ended.

Standard library and localizer.py only. Workerd starts it once, as `python -I -S keeper.py FOLDER SOCKET
LOCK` (two descriptors), with the environment that commands inherit. Its FOLDER is its own. Each container
has a number there while it is not removed, which workerd gives:

    records      lines of equal length, that of container N the Nth; see `Record`. Locked (flock) for as
                 long as the keeper lives.
    <N>/         where the command starts. Used again when it was left as it was found.
    <N>.output   standard output and error, if there was any

Through SOCKET it is told, and says, as `pack` has it:

    ("start", N, name, argv, env)     ("started", N) or ("refused", N, whether the user is to blame, why)
    ("copy", N, name, env)            the same for a localizer, which is a process that waits for that
    ("signal", N, number)             for the whole session of that container
                                      ("ended", N, code), once the rest of its output is in the file

When workerd is gone, LOCK is let go: from then on nothing is started. What runs is looked after to its
end, and so long the keeper lives. It is itself looked after by nobody: what runs without it is stopped by
workerd, the one that lives or the next.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from longshore_workerd import localizer

TYPE_CHECKING = False  # As type checkers read it; `typing` itself takes long to import.
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

RECORDS, OUTPUT = "records", ".output"
RECORD_BYTES = 256
MODE = 0o700
"""Of the folder where a command starts."""

IDLE = 16
"""Helpers that wait for work; when more are needed they are made."""
_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 16
_PIPES_BYTES = 1 << 20
"""As much as a pipe can be made to hold."""


def pack(*message: Any) -> bytes:
    """One message as it travels."""
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


def unpack(received: bytearray) -> Iterator[Any]:
    """The whole messages at its start, which are taken away."""
    start = 0
    while len(received) >= (begin := start + _LENGTH.size):
        end = begin + _LENGTH.unpack_from(received, start)[0]
        if len(received) < end:
            break
        yield marshal.loads(memoryview(received)[begin:end])
        start = end
    del received[:start]


def now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Record:
    """What is written of a container. (No dataclass: they take long to import.)"""

    __slots__ = ("began_ms", "begun_ms", "ended_ms", "exit_code", "name", "pid", "since_ms")

    def __init__(
        self,
        name: str,
        pid: int,
        began_ms: int,
        begun_ms: int,
        since_ms: int,
        exit_code: int = -1,
        ended_ms: int = 0,
    ) -> None:
        """``pid`` leads the session. By CLOCK_BOOTTIME it was started between ``began_ms`` and ``begun_ms``:
        together a name that is never given twice. ``exit_code`` -1: it has not ended."""
        self.name = name
        self.pid = pid
        self.began_ms = began_ms
        self.begun_ms = begun_ms
        self.since_ms = since_ms
        """The container has run since then; in a localizer's process others have run before."""
        self.exit_code = exit_code
        self.ended_ms = ended_ms

    def line(self) -> bytes:
        """OSError when it would be too long."""
        start = f"{self.name} {self.pid} {self.began_ms} {self.begun_ms} {self.since_ms}"
        line = f"{start} {self.exit_code} {self.ended_ms}".encode().ljust(RECORD_BYTES - 1) + b"\n"
        if len(line) > RECORD_BYTES:
            raise OSError(errno.ENAMETOOLONG, f"a container cannot be named {self.name!r}")
        return line

    @classmethod
    def read(cls, line: bytes) -> Record | None:
        """None: no container is there."""
        name, *numbers = line.split() or [b""]
        return cls(name.decode(), *map(int, numbers)) if len(numbers) == 6 else None


class _CannotStart(Exception):
    """What is to be started is not there, or is no program; and why."""


class _Helper:
    """A process in which one localizer runs after the other; it takes long to make."""

    def __init__(self) -> None:
        self.began_ms = now_ms()
        self.socket, its = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self._serve(its)
        its.close()
        self.begun_ms = now_ms()

    def give(self, output: int, env: dict[str, str]) -> None:
        socket.send_fds(self.socket, [b"."], [output])
        self.socket.sendall(pack(env))

    def answer(self) -> int | None:
        """The exit code; None: it has died. BlockingIOError: it is still at work."""
        try:
            code = self.socket.recv(1, socket.MSG_DONTWAIT)
        except ConnectionError:
            code = b""
        return code[0] if code else None

    def _serve(self, keeper: socket.socket) -> None:
        """The whole life of the other process; does not return."""
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in os.listdir("/proc/self/fd"):
                if int(descriptor) not in (0, 1, 2, keeper.fileno()):
                    with suppress(OSError):  # the one of the listing
                        os.close(int(descriptor))
            silence = os.dup(1)
            received = bytearray()
            while (given := socket.recv_fds(keeper, 1, 1))[0]:
                os.dup2(given[1][0], 1)
                os.close(given[1][0])
                while not (messages := list(unpack(received))):
                    if not (chunk := keeper.recv(_CHUNK)):
                        return  # it was killed
                    received += chunk
                with open(1, "w", closefd=False) as sys.stdout:
                    try:
                        code = localizer.main(messages[0][0])
                    except Exception as error:
                        code = 1
                        print(f"error: {error!r}")
                os.dup2(silence, 1)
                keeper.sendall(bytes([code]))
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)


class _Child:
    """One container that runs."""

    def __init__(self, number: int, record: Record, pipe: int, helper: _Helper | None) -> None:
        self.number = number
        self.record = record
        self.pipe = pipe
        """Its output comes from there; -1 after it has closed its end."""
        self.helper = helper
        self.output = -1
        """A file, made when there is something to be kept."""

    def keep(self) -> bool:
        """Moves some output into the file; false when there will be no more. BlockingIOError: not now."""
        chunk = os.read(self.pipe, _CHUNK)
        if not chunk:
            return False
        # What a full disk does not take is cut out: the command is not to be disturbed by that.
        with suppress(OSError):
            if self.output < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self.output = os.open(f"{self.number}{OUTPUT}", flags, 0o600)
            left = memoryview(chunk)
            while left:
                left = left[os.write(self.output, left) :]
        return True

    def signal(self, number: int) -> None:
        try:
            os.killpg(self.record.pid, number)
        except ProcessLookupError:  # a helper that is not yet the leader of a session
            os.kill(self.record.pid, number)


class Keeper:
    def __init__(self, folder: str, workerd: socket.socket, lock: int) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._records = os.open(f"{folder}/{RECORDS}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._records, fcntl.LOCK_EX)
        self._workerd = workerd
        self._lock = lock
        self._is_alone = False
        self._received = bytearray()
        self._to_say = bytearray()
        self._waits = False
        """Workerd has to listen before more can be said."""
        self._children: dict[int, _Child] = {}
        self._by_number: dict[int, _Child] = {}
        self._by_pipe: dict[int, _Child] = {}
        self._by_helper: dict[int, _Child] = {}
        self._idle: list[_Helper] = []
        self._environment = dict(os.environb)
        self._events = select.epoll()
        self._deaths, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        workerd.setblocking(False)
        self._events.register(workerd, select.EPOLLIN)
        self._events.register(self._deaths, select.EPOLLIN)

    def run(self) -> None:
        """Until workerd is gone and so are all that it started."""
        os.fchdir(self._folder)
        while self._children or not self._is_alone:
            for descriptor, what in self._events.poll():
                with suppress(BlockingIOError):  # that of one which has gone, and its number is another's now
                    self._see(descriptor, what)
            self._reap()
            if self._to_say and not self._is_alone:
                self._speak()

    def _see(self, descriptor: int, what: int) -> None:
        """Something can be read there."""
        if descriptor == self._deaths:
            os.read(self._deaths, _CHUNK)
        elif child := self._by_pipe.get(descriptor):
            if not child.keep():
                self._no_more(child)
        elif child := self._by_helper.get(descriptor):
            assert child.helper is not None
            if (code := child.helper.answer()) is None:
                self._events.unregister(descriptor)  # `_reap` sees to the rest
            else:
                self._dismiss(child.helper)
                self._end(child, code)
        elif not self._is_alone and descriptor == self._workerd.fileno() and what & ~select.EPOLLOUT:
            self._listen()

    def _listen(self) -> None:
        try:
            chunk = self._workerd.recv(1 << 20)
        except ConnectionError:
            chunk = b""
        if not chunk:
            self._be_alone()
        self._received += chunk
        for verb, number, *rest in unpack(self._received):
            if verb == "signal":
                if child := self._by_number.get(number):
                    child.signal(*rest)
            else:
                self._to_say += self._start(verb, number, *rest)

    def _speak(self) -> None:
        try:
            sent = self._workerd.send(self._to_say)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            return self._be_alone()
        del self._to_say[:sent]
        if self._waits != bool(self._to_say):
            self._waits = not self._waits
            self._events.modify(self._workerd, select.EPOLLIN | (select.EPOLLOUT if self._waits else 0))

    def _be_alone(self) -> None:
        self._is_alone = True
        self._events.unregister(self._workerd)
        self._workerd.close()
        os.close(self._lock)

    def _start(self, verb: str, number: int, name: str, *what: Any) -> bytes:
        """The answer."""
        try:
            pipe, its_end = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            return pack("refused", number, False, str(error))
        try:
            if verb == "copy":
                child = self._copy(number, name, pipe, its_end, *what)
            else:
                child = self._spawn(number, name, pipe, its_end, *what)
        except (OSError, _CannotStart) as error:
            os.close(pipe)
            return pack("refused", number, isinstance(error, _CannotStart), str(error))
        finally:
            os.close(its_end)
        os.set_blocking(pipe, False)
        self._events.register(pipe, select.EPOLLIN)
        self._children[child.record.pid] = self._by_number[number] = self._by_pipe[pipe] = child
        return pack("started", number)

    def _write(self, child: _Child) -> None:
        os.pwrite(self._records, child.record.line(), child.number * RECORD_BYTES)

    def _spawn(
        self, number: int, name: str, pipe: int, output: int, argv: tuple[str, ...], env: dict[str, str]
    ) -> _Child:
        environment = self._environment | {os.fsencode(k): os.fsencode(v) for k, v in env.items()}
        actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        began_ms = now_ms()
        try:
            _enter(number)
            path = _executable(argv[0], os.fsdecode(environment.get(b"PATH", os.fsencode(os.defpath))))
            pid = _execute(path, argv, environment, actions)
        finally:
            os.fchdir(self._folder)
        begun_ms = now_ms()
        child = _Child(number, Record(name, pid, began_ms, begun_ms, begun_ms), pipe, None)
        try:
            self._write(child)
        except OSError:  # nobody could find it
            child.signal(signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        return child

    def _copy(self, number: int, name: str, pipe: int, output: int, env: dict[str, str]) -> _Child:
        helper = self._idle.pop() if self._idle else _Helper()
        child = _Child(
            number, Record(name, helper.pid, helper.began_ms, helper.begun_ms, now_ms()), pipe, helper
        )
        try:
            self._write(child)
            helper.give(output, env)
        except OSError:
            helper.socket.close()
            raise
        self._events.register(helper.socket, select.EPOLLIN)
        self._by_helper[helper.socket.fileno()] = child
        return child

    def _dismiss(self, helper: _Helper) -> None:
        """It has done its work. Some are kept for the next."""
        self._events.unregister(helper.socket)
        del self._by_helper[helper.socket.fileno()]
        if len(self._idle) < IDLE:
            self._idle.append(helper)
        else:
            helper.socket.close()

    def _reap(self) -> None:
        while True:
            try:
                died = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if died is None:
                return
            child = self._children.get(died.si_pid)
            if child is not None:
                # Nothing of it runs on. As long as it was not waited for, its number is not given again.
                child.signal(signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(died.si_pid, 0)[1])
            if child is None:
                self._idle = [helper for helper in self._idle if helper.pid != died.si_pid]
                continue
            if child.helper is not None:
                del self._by_helper[child.helper.socket.fileno()]
                child.helper.socket.close()
            self._end(child, code if code >= 0 else 128 - code)

    def _end(self, child: _Child, exit_code: int) -> None:
        child.record.exit_code = exit_code
        child.record.ended_ms = now_ms()
        if child.pipe >= 0:
            with suppress(BlockingIOError):
                for _ in range(_PIPES_BYTES // _CHUNK):  # What has left the session may print for ever.
                    if not child.keep():
                        break
            self._no_more(child)
        if child.output >= 0:
            os.close(child.output)
        del self._children[child.record.pid], self._by_number[child.number]
        with suppress(OSError):  # as good as killed: without the line nobody knows
            self._write(child)
        if not self._is_alone:
            self._to_say += pack("ended", child.number, exit_code)

    def _no_more(self, child: _Child) -> None:
        self._events.unregister(child.pipe)
        del self._by_pipe[child.pipe]
        os.close(child.pipe)
        child.pipe = -1


_USERS = {
    *(errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.E2BIG),
    *(errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ETXTBSY),
}
"""What an execve says of the command that was asked for. All else is the machine's affair."""
_IGNORED = [signal.SIGPIPE, signal.SIGXFSZ]
"""By Python; and what is ignored would be inherited."""


def _enter(number: int) -> None:
    try:
        os.chdir(str(number))
    except FileNotFoundError:
        os.mkdir(str(number), MODE)
        os.chdir(str(number))


def _execute(
    path: str,
    argv: tuple[str, ...],
    environment: dict[bytes, bytes],
    actions: list[tuple[int, int, int]],
) -> int:
    try:
        return os.posix_spawn(path, argv, environment, file_actions=actions, setsid=True, setsigdef=_IGNORED)
    except ValueError as error:
        raise _CannotStart(str(error)) from error
    except OSError as error:
        if error.errno in _USERS:
            raise _CannotStart(os.strerror(error.errno)) from error
        raise


def _executable(program: str, path: str) -> str:
    """Where it is, found as a shell would find it."""
    if "/" in program:
        return program
    for folder in path.split(os.pathsep):
        candidate = f"{folder or '.'}/{program}"
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    raise _CannotStart("not found in PATH")


def main(folder: str, workerd: str, lock: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for descriptor in (int(workerd), int(lock)):
        os.set_inheritable(descriptor, False)
    Keeper(folder, socket.socket(fileno=int(workerd)), int(lock)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
