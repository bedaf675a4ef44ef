"""One command of a task without an image: a bash of the user's own, in a session of its own."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL of what was cancelled or ran too long."""

# As the service's plain processes have it: /io where a path begins, not in the middle of another path,
# not as the start of a longer name; also right after a one-letter option (-I/io/include).
_IO_PATH = re.compile(r"(?:(?<![\w./~})\]*?%+-])|(?<=[\s'\"=]-[A-Za-z]))/io(?![\w.-])")

# Python ignores or catches these; a command that is started should do neither.
_DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


_Polled = int | _HasDescriptor


class CannotStart(Exception):
    """The command cannot be started, and why."""


class Bell:
    """Once rung it stays rung, and whoever polls its descriptor wakes up."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._rung = False

    def fileno(self) -> int:
        """Readable when it was rung."""
        return self._reader

    @property
    def rung(self) -> bool:
        return self._rung

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            os.write(self._writer, b"!")

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    exit_code: int
    timed_out: bool = False
    stopped: bool = False
    """It was told to, and did not run too long."""
    error_kind: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a command has to end before it wants to."""

    timeout_s: float | None
    stop: Sequence[Bell]
    """Then it gets SIGTERM, and after a while SIGKILL ..."""
    kill: Bell
    """... and now SIGKILL at once."""


def run_process(
    command: Sequence[str],
    env: Mapping[bytes, bytes],
    *,
    io_folder: str,
    work_folder: str,
    log: str,
    limits: Limits,
) -> Ended:
    """Run a compiled command in `work_folder`; its output goes to the file `log`.

    Both folders' paths mean the same in any quoting of any shell. Raises CannotStart.
    """
    argv = [at_home(word, io_folder) for word in command]
    if argv[:2] == ["bash", "-c"]:  # On the same line, so that bash counts lines as it does elsewhere.
        argv[2] = f"cd {work_folder} || exit; {argv[2]}"
    try:
        pid = os.posix_spawn(
            _program(argv[0]),
            argv,
            env,
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ),
        )
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot start {argv[0]!r}: {error}") from error
    return _see_end(pid, limits)


def at_home(text: str, io_folder: str) -> str:
    """The text with /io replaced by the folder wherever a path begins with it.

    >>> at_home("cat /io/a '/io/b c' >/io/d --out=/io/e -I/io/f ~/io src/io", "/w/1")
    "cat /w/1/a '/w/1/b c' >/w/1/d --out=/w/1/e -I/w/1/f ~/io src/io"
    """
    return _IO_PATH.sub(lambda _: io_folder, text)


def _see_end(pid: int, limits: Limits) -> Ended:
    """Wait for it, see that it heeds its limits, and that nothing of it runs on."""
    pidfd = os.pidfd_open(pid)
    try:
        timed_out = stopped = False
        if not wait(pidfd, limits.timeout_s, limits.stop):
            stopped = any(bell.rung for bell in limits.stop)
            timed_out = not stopped
            os.killpg(pid, signal.SIGTERM)
            if not wait(pidfd, GRACE_S, (limits.kill,)):
                os.killpg(pid, signal.SIGKILL)
                wait(pidfd, None, ())
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # Before the pid is free to be used again.
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code if code >= 0 else 128 - code, timed_out, stopped)


def wait(readable: _Polled | None, timeout_s: float | None, bells: Sequence[Bell]) -> bool:
    """True: it is readable. False: the time is over, or a bell was rung."""
    poll = select.poll()
    for each in (*bells, *(() if readable is None else (readable,))):
        poll.register(each, select.POLLIN)
    end = None if timeout_s is None else time.monotonic() + timeout_s
    descriptor = readable if readable is None or isinstance(readable, int) else readable.fileno()
    while True:
        left_ms = None if end is None else max(0.0, 1000 * (end - time.monotonic()))
        ready = [fd for fd, _ in poll.poll(left_ms)]
        if descriptor in ready:
            return True
        if ready or left_ms == 0:
            return False


@cache
def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise CannotStart(f"cannot start {name!r}: not found in PATH")
    return path
