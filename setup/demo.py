"""The whole service on this machine, two programs on it, and what became of them: `make demo`.

Its arguments go to `longshore up`. Everything it makes lies in .build/demo, which the next run replaces.
It talks to the service as a user does, through the command line; only what there is to show is asked of
the client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longshore import Client

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".build" / "demo"
SERVICE_LOG = HOME / "up.log"
LONGSHORE = Path(sys.executable).parent / "longshore"

READY_S = 180
"""For the service to be ready; the first time it makes its two images, which takes seconds."""
STOP_S = 60
"""For the service to end in good order."""


class Failed(Exception):
    """The demo cannot go on; the message says what went wrong and what to do."""


def main() -> None:
    try:
        with service():
            run("examples/hello.py")
            run("examples/word_count.py", str(HOME / "word_count_output"))
            show_batches()
    except Failed as failed:
        sys.exit(f"\nThe demo failed: {failed}\nWhat the service said is in {SERVICE_LOG}.")
    heading("Done. To go on by yourself: `. .venv/bin/activate`, then")
    print("    longshore up                       the service, until Ctrl-C")
    print("    python examples/hello.py           in another terminal")
    print("    longshore ui                       the dashboard: batches, their jobs, their logs, live")
    print(f"Your own service starts empty: what the demo made stays in {HOME.relative_to(ROOT)}.")


@contextmanager
def service() -> Iterator[None]:
    """`longshore up` in the background, found by everything that is started or called from here."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    for variable in ("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN", "LONGSHORE_TOKEN_FILE"):
        os.environ.pop(variable, None)
    os.environ["LONGSHORE_HOME"] = str(HOME)
    heading("$ longshore up")
    with SERVICE_LOG.open("wb") as log:
        # Its own session: a Ctrl-C reaches this program alone, which then ends the service properly.
        up = subprocess.Popen(
            [LONGSHORE, "up", "--dir", HOME, *sys.argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(up)
        print(SERVICE_LOG.read_text(errors="replace").rstrip())
        yield
        if up.poll() is not None:
            raise Failed(f"the service ended by itself, with exit code {up.returncode}")
    finally:
        stop(up)


def wait_until_ready(up: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while not (HOME / "service.json").exists():
        if up.poll() is not None:
            said = SERVICE_LOG.read_text(errors="replace").rstrip()
            raise Failed(f"`longshore up` ended with exit code {up.returncode}:\n{said}")
        if time.monotonic() > deadline:
            raise Failed(f"`longshore up` was not ready after {READY_S} s; is the machine very busy?")
        time.sleep(0.05)


def stop(up: subprocess.Popen[bytes]) -> None:
    up.terminate()
    try:
        up.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(up.pid, 9)
        up.wait()
        raise Failed(f"the service did not stop within {STOP_S} s and was killed") from None


def run(program: str, *arguments: str) -> None:
    """Runs an example. Its progress goes to the terminal; its stdout passes through here."""
    heading(f"$ python {' '.join((program, *arguments))}")
    # Not a terminal as stdout, so that `run(open=True)` says how to open the dashboard and goes on.
    with subprocess.Popen(
        [sys.executable, ROOT / program, *arguments], stdout=subprocess.PIPE, cwd=HOME
    ) as it:
        assert it.stdout
        for line in it.stdout:
            print(line.decode(errors="replace"), end="", flush=True)
    if it.returncode:
        raise Failed(f"{program} ended with exit code {it.returncode}; see its message above")


def show_batches() -> None:
    """Each job's state, exit code, duration and cost, and what its containers wrote."""
    with Client() as client:
        for batch in sorted(client.list_batches(), key=lambda batch: batch.id):
            command("get", str(batch.id))
            command("jobs", str(batch.id))
            for job in batch.jobs():
                command("logs", f"{batch.id}/{job.id}", "-c", "all")
    command("ls")


def command(*arguments: str) -> None:
    heading(f"$ longshore {' '.join(arguments)}")
    if code := subprocess.run([LONGSHORE, *arguments]).returncode:
        raise Failed(f"`longshore {' '.join(arguments)}` ended with exit code {code}")


def heading(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}{text}{plain}", flush=True)


if __name__ == "__main__":
    main()
