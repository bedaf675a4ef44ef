"""The dashboard in a real terminal, before the real service."""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded import Up, job, submit

PATIENCE_S = 60.0


class Tmux:
    """A terminal of its own, without the settings of whoever runs the tests."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]

    def run(self, *args: str) -> str:
        return subprocess.run([*self._tmux, *args], check=True, capture_output=True, text=True).stdout

    def start(self, up: Up, *command: str) -> None:
        service = f"LONGSHORE_HOME={shlex.quote(str(up.folder))}"
        # Of the size the terminal itself is to be asked.
        unset = " ".join(
            f"-u {name}" for name in ("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN", "COLUMNS", "LINES")
        )
        line = f"env {unset} {service} {shlex.join(command)}; echo left $?; cat"
        self.run("new-session", "-d", "-x", "120", "-y", "35", line)

    @property
    def text(self) -> str:
        return self.run("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def sees(self, *parts: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not all(part in self.text for part in parts):
            if time.monotonic() > end:
                pytest.fail(f"{parts} did not come about; the screen is:\n{self.text}", pytrace=False)
            time.sleep(0.1)


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    if not shutil.which("tmux"):
        pytest.skip("tmux is not installed")
    tmux = Tmux(tmp_path)
    yield tmux
    subprocess.run([*tmux._tmux, "kill-server"], check=False, capture_output=True)


def test_a_job_is_looked_at_and_its_batch_cancelled_with_keys_alone(
    up: Up, tmux: Tmux, tmp_path: Path
) -> None:
    batch = submit(up, tmp_path, job("echo begun; sleep 600"))
    tmux.start(up, sys.executable, "-m", "longshore_tui")
    tmux.sees("batches", "● live", f" {batch} ", "▶ running")
    tmux.press("Enter")
    tmux.sees(f"#{batch}", "EXIT", "only")
    tmux.press("Enter")
    tmux.sees("begun", "2 Main  ▶", "follow ▼")
    tmux.press("c")
    tmux.sees("A single job cannot be cancelled", f"same as: longshore cancel {batch}")
    tmux.press("Right", "Enter")
    tmux.sees("⊘ cancelled", "begun")
    tmux.press("q")
    tmux.sees("EXIT", "⊘ cancelled", "100%", "cancelled by")
    tmux.press("q")
    tmux.sees("1 batch")
    tmux.press("q")
    tmux.sees("left 0")


def test_it_ends_with_its_terminal_also_when_it_is_not_told() -> None:
    """A terminal that is gone reads as the end for ever: it would be read again and again."""
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 35, 120, 0, 0))
    # Nobody listens at this port: that is shown, and the terminal goes away meanwhile.
    environ = {**os.environ, "LONGSHORE_ENDPOINT": "127.0.0.1:1", "LONGSHORE_TOKEN": "none", "TERM": "xterm"}
    line = f"trap '' HUP; exec setsid --ctty {shlex.quote(sys.executable)} -m longshore_tui"
    with subprocess.Popen(["sh", "-c", line], stdin=far, stdout=far, stderr=far, env=environ) as dashboard:
        os.close(far)
        said = b""
        while b"127.0.0.1:1" not in said:
            said += os.read(near, 65536)
        os.close(near)
        try:
            assert dashboard.wait(PATIENCE_S) == 129
        finally:
            dashboard.kill()


def test_without_a_terminal_it_does_not_begin() -> None:
    environ = {**os.environ, "LONGSHORE_ENDPOINT": "127.0.0.1:1", "LONGSHORE_TOKEN": "none"}
    command = [sys.executable, "-m", "longshore_tui"]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, env=environ, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "the dashboard needs a terminal" in ran.stderr
