"""`run(open=True)`: the dashboard has the terminal until `q`; nothing that goes wrong there fails the run."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes_service import TOKEN, FakeService
from longshore import BatchBackend, Pipeline

PROGRAM = """
import longshore as hp
p = hp.Pipeline(backend=hp.BatchBackend('test'), name='shown')
p.new_task(name='say').command('echo hello')
batch = p.run(open=True)
print('it is a', batch.last_status.state)
"""
PATIENCE_S = 30.0


class Person:
    """Somebody in front of a terminal in which a program runs."""

    def __init__(self, *args: str, environ: dict[str, str]) -> None:
        self._terminal, theirs = pty.openpty()
        self._process = subprocess.Popen(
            args, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
        )
        os.close(theirs)
        self.seen = ""

    def sees(self, text: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            if not select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0]:
                pytest.fail(f"{text!r} did not come; the terminal says:\n{self.seen[-3000:]}")
            try:
                self.seen += os.read(self._terminal, 1 << 16).decode(errors="replace")
            except OSError:
                pytest.fail(f"{text!r} did not come before the end:\n{self.seen[-3000:]}")

    def types(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def end(self) -> int:
        return self._process.wait(PATIENCE_S)

    def leave(self) -> None:
        """Whatever came of it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._terminal)


@pytest.fixture
def environ(service: FakeService) -> dict[str, str]:
    return {
        **os.environ,
        "LONGSHORE_ENDPOINT": service.endpoint,
        "LONGSHORE_TOKEN": TOKEN,
        "TERM": "xterm-256color",
        "COLUMNS": "100",
        "LINES": "30",
    }


def test_the_dashboard_has_the_terminal_until_it_is_left_and_the_program_goes_on(
    environ: dict[str, str],
) -> None:
    pytest.importorskip("textual")
    person = Person(sys.executable, "-c", PROGRAM, environ=environ)
    try:
        person.sees("look: longshore ui 1")
        person.sees("\x1b[?1049h")  # The other screen of the terminal.
        person.sees("say")
        person.types("qq")  # Back from the batch, and out.
        person.sees("\x1b[?1049l")
        person.sees("it is a success")
        assert person.end() == 0
    finally:
        person.leave()


def test_without_a_terminal_the_command_is_told_and_the_program_goes_on(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "it is a success\n")
    assert "look: longshore ui 1\n" in done.stderr and "\x1b" not in done.stderr


@pytest.mark.parametrize("wrong", ["not installed", "cannot be started"])
def test_a_dashboard_that_cannot_be_had_does_not_fail_the_run(
    backend: BatchBackend,
    wrong: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    if wrong == "not installed":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    else:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    p = Pipeline(backend=backend)
    p.new_task().command("true")
    batch = p.run(open=True, disable_progress_bar=True)
    assert batch.last_status is not None and batch.last_status.state == "success"
    err = capsys.readouterr().err
    assert "longshore ui 1" in err and "note: the dashboard " in err
