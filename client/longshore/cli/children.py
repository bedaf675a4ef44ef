"""Child processes of `longshore up`: started, watched, started again, stopped.

Signals are not handled but waited for, in one place and by the only thread of the process: that a child
has ended, and that somebody wants us to end, are answers to the same question.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from . import tied
from .output import say

_ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_ALL = _ENDS | {signal.SIGCHLD}

_STEADY_S = 60.0
"""A child that ran so long was well: if it ends, the next is started at once."""
_LOG_BYTES = 10_000_000
"""A log that is longer is put aside, and the one that was aside is gone."""


class Ended(BaseException):
    """Somebody asked us to end: Ctrl-C, SIGTERM, or the terminal is gone."""


@contextmanager
def signals_waited_for() -> Iterator[None]:
    """In here, signals have no effect but on `next_signal`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        yield
    finally:
        while signal.sigtimedwait(_ENDS, 0):  # Else one that came late would end us in the last moment.
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def next_signal(timeout_s: float) -> None:
    """Wait for that time at most, or until a child may have ended. Raises Ended."""
    found = signal.sigtimedwait(_ALL, max(0.0, timeout_s))
    if found and found.si_signo in _ENDS:
        raise Ended


class Child:
    """A module of Python that runs in a process of its own, which ends with this one."""

    def __init__(self, name: str, module: str, log: Path, lock_fd: int) -> None:
        self.name = name
        self.log = log
        self._module = module
        self._lock_fd = lock_fd
        self._arguments: Sequence[str] = ()
        self._environ: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._log_start = 0
        self._failures = 0
        self._start_again_at: float | None = None

    def start(self, arguments: Sequence[str], environ: dict[str, str]) -> None:
        """Start it with these arguments, now and whenever it must be started again."""
        self._arguments, self._environ = arguments, environ
        self._start()

    def exit_code(self) -> int | None:
        """Of the process that was started last; None while it runs. Negative: killed by that signal."""
        assert self._process is not None, "start() comes first"
        return self._process.poll()

    def tend(self) -> float | None:
        """Start it again if it has ended and its time has come; in how many seconds to look again.

        Each time its log is put aside if it has become long.
        """
        self._put_log_aside()
        now = time.monotonic()
        if self._start_again_at is None:
            code = self.exit_code()
            if code is None:
                return None
            self._failures = 1 if now - self._started_at >= _STEADY_S else self._failures + 1
            delay = min(30.0, 0.25 * 2**self._failures)
            self._start_again_at = now + delay
            say(
                f"the {self.name} has ended ({how(code)}) and is started again in {delay:g} s: {self.log}",
                colour="red",
            )
        if now < self._start_again_at:
            return self._start_again_at - now
        self._start_again_at = None
        self._start()
        say(f"the {self.name} is started again")
        return None

    def stop(self, within_s: float) -> bool:
        """End it in good order; after that time, or when somebody asks once more, at once.

        False: it did not end well when it was asked to, or it had ended before.
        """
        self._start_again_at = None
        if self._process is None or self._process.poll() is not None:
            return self._process is None
        self._process.terminate()
        deadline = time.monotonic() + within_s
        try:
            while self._process.poll() is None and time.monotonic() < deadline:
                next_signal(deadline - time.monotonic())
        except Ended:
            pass
        if (code := self._process.poll()) is not None:
            return code == 0
        say(f"the {self.name} did not end and is killed", colour="red")
        self._process.kill()
        self._process.wait()
        return False

    def last_words(self, n: int = 8) -> str:
        """The end of what this process wrote to its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._log_start, log.seek(0, 2) - 8192))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"({error})"
        return "\n".join(f"  {line}" for line in lines[-n:])

    def _put_log_aside(self) -> None:
        """If it has become long. The process writes on to the same file; lines of that moment may be lost."""
        with suppress(OSError):  # A disk that is full, or a log that somebody removed, ends nobody.
            if self.log.stat().st_size > _LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_suffix(".old.log"))
                os.truncate(self.log, 0)
                self._log_start = 0

    def _start(self) -> None:
        self._put_log_aside()
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    tied.__file__,
                    str(os.getpid()),
                    str(self._lock_fd),
                    self._module,
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                pass_fds=[self._lock_fd],
                start_new_session=True,  # A Ctrl-C is for us alone: we end our children in good order.
            )
        self._started_at = time.monotonic()


def how(exit_code: int) -> str:
    """
    >>> how(-9), how(2)
    ('killed by SIGKILL', 'exit code 2')
    """
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
