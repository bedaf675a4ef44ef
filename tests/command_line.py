"""The command line in a process of its own, with pipes or at a terminal, and what came of it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LONGSHORE = [sys.executable, "-m", "longshore.cli"]


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


def run_in_process(*args: str, environ: Mapping[str, str] = os.environ) -> Ran:
    done = subprocess.run(
        [*LONGSHORE, *args], env=dict(environ), capture_output=True, timeout=60, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr.decode())


def run_at_terminal(*args: str, typed: bytes = b"", environ: Mapping[str, str] = os.environ) -> Ran:
    """stdin, stdout and stderr are one terminal, 100 cells wide; all that appeared there is `out`."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*LONGSHORE, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environ, "TERM": "xterm", "COLUMNS": "100", "LANG": "C.UTF-8"},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        os.write(ours, typed)
        seen = b"".join(_until_closed(ours))
        os.close(ours)
        return Ran(process.wait(), seen, "")


def _until_closed(terminal: int) -> Iterator[bytes]:
    while True:
        if not select.select([terminal], [], [], 30)[0]:
            raise AssertionError("nothing appeared at the terminal for 30 s")
        try:
            read = os.read(terminal, 65536)
        except OSError:  # The other side is closed.
            return
        if not read:
            return
        yield read
