"""A real `longshore up` in a folder of its own, and batches for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from command_line import LONGSHORE, Ran, run_in_process

EXAMPLES = Path(__file__).parents[1] / "examples"


class Up:
    """A running `longshore up`, and commands that find it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        service = ("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN", "LONGSHORE_TOKEN_FILE")
        self.environ = {name: value for name, value in os.environ.items() if name not in service}
        self.environ["LONGSHORE_HOME"] = str(folder)
        self.process = subprocess.Popen(
            [*LONGSHORE, "up", "--dir", str(folder), *options],
            env=self.environ,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stderr
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("Longshore is up"):
                break
        else:
            self.process.stderr.close()
            code = self.process.wait(60)
            raise AssertionError(f"it did not come up ({code}):\n{''.join(self.said)}{self.logs()}")
        self._listener = threading.Thread(target=self.said.extend, args=(self.process.stderr,))
        self._listener.start()

    def run(self, *args: str) -> Ran:
        return run_in_process(*args, environ=self.environ)

    def logs(self) -> str:
        """What its children wrote, for whoever must find out why a test failed."""
        return "".join(f"\n== {log.name}\n{log.read_text()}" for log in self.folder.glob("*.log"))

    def child(self, module: str) -> int:
        """The process id of one of our own two children."""
        pid = self.process.pid
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            if module in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
                return child
        raise AssertionError(f"there is no {module} among the children of {pid}")

    def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signum)
        code = self.process.wait(60)
        self._listener.join()
        assert self.process.stderr
        self.process.stderr.close()
        return code


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Up]:
    up = Up(folder, *options)
    try:
        yield up
    except BaseException:
        print("".join(up.said), up.logs())
        raise
    finally:
        up.end()


def submit(up: Up, folder: Path, program: str) -> int:
    """Run a program that ends by submitting a batch, and print its id; that id."""
    file = folder / "program.py"
    file.write_text(f"import longshore as hp\nclient = hp.Client('test')\n{program}\n")
    ran = up.run("submit", str(file))
    assert ran.code == 0, ran.err + up.logs()
    return int(json.loads(ran.out))


def job(script: str) -> str:
    """A program for `submit`: a batch of one job that runs this script."""
    return (
        "batch = client.create_batch(name='one')\n"
        f"batch.create_job(None, ['bash', '-c', {script!r}], name='only')\n"
        "print(batch.submit().id)"
    )
