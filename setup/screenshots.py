"""Pictures of every screen of the dashboard before a real service, in docs/screenshots: `make screenshots`.

The service runs a program with jobs of every kind on this machine, without Docker. Each screen is
exported as SVG and, where `rsvg-convert` is installed, as PNG to look at. `--readme` makes the one picture
of the README anew, docs/dashboard.svg, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longshore import Client
from longshore_tui import themes
from longshore_tui.app import Dashboard
from longshore_tui.feed import Feed, connect_to
from textual.pilot import Pilot

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "screenshots"
OF_README = ROOT / "docs" / "dashboard.svg"
SIZES = ((120, 35), (80, 24))
PATIENCE_S = 120.0

_WORK = """for i in $(seq 1 400); do
  printf '\\033[2m%s\\033[0m [M::process] read %d sequences\\n' "$(date +%T)" $((i * 10000))
  [ $((i % 9)) = 0 ] && printf '\\033[33mWARNING\\033[0m low mapping quality for 1.2%% of reads\\n'
  sleep 0.02
done
"""


def main() -> None:
    if sys.argv[1:] == ["--readme"]:
        # As most people have it: with Docker, where there is an engine.
        with service("auto"), Client("genomics") as client:
            batch_id = submit(client)
            asyncio.run(take_picture_of_readme(batch_id))
            client.get_batch(batch_id).cancel()
        print(f"{OF_README.relative_to(ROOT)}: {OF_README.stat().st_size:,} bytes")
        return
    PICTURES.mkdir(parents=True, exist_ok=True)
    with service(), Client("genomics") as client:
        batch_id = submit(client)
        for width, height in SIZES:
            asyncio.run(take_pictures(batch_id, width, height))
        client.get_batch(batch_id).cancel()
    if converter := shutil.which("rsvg-convert"):
        for svg in sorted(PICTURES.glob("*.svg")):
            subprocess.run([converter, "-o", svg.with_suffix(".png"), svg], check=True)
    print(f"{len(list(PICTURES.glob('*.svg')))} pictures in {PICTURES.relative_to(ROOT)}")


@contextmanager
def service(runtime: str = "process") -> Iterator[None]:
    """`longshore up` in a folder of its own, found by everything that is called from here."""
    for variable in ("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN", "LONGSHORE_TOKEN_FILE", "NO_COLOR"):
        os.environ.pop(variable, None)
    with tempfile.TemporaryDirectory() as home:
        os.environ["LONGSHORE_HOME"] = home
        command = [sys.executable, "-m", "longshore.cli", "up", "--dir", home, "--runtime", runtime]
        process = subprocess.Popen(
            [*command, "--cores", "4"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait(lambda: (Path(home) / "service.json").exists(), "the service did not come up")
            yield
        finally:
            process.terminate()
            process.wait()


def submit(client: Client) -> int:
    """Batches in every state; the id of the one that is looked at, whose jobs are in every state."""
    for name, n, exit_code in (("nightly-qc", 7, 0), ("plink-merge", 3, 0), ("sample-swap-check", 5, 1)):
        small = client.create_batch(name=name)
        for number in range(1, n + 1):
            small.create_job(None, ["bash", "-c", f"echo {name}; exit {exit_code}"], name=f"part-{number}")
        small.submit().wait()
    doomed = client.create_batch(name="rf-train-sweep")
    doomed.create_job(None, ["sleep", "1000"], name="train")
    doomed.submit().cancel("wrong genome")
    large = client.create_batch(name="joint-calling-chr20")
    for number in range(1, 13):
        end = "echo \"KeyError: 'AC_adj'\" >&2; exit 1" if number % 5 == 4 else "echo done"
        end = f"sleep 0.{number % 7}; {end}"
        large.create_job(None, ["bash", "-c", end], name=f"split-{number:06}")
    for number in range(1, 61):
        large.create_job(None, ["bash", "-c", f"{_WORK * 30}"], name=f"align-{number:06}")
    batch = large.submit()
    wait(lambda: batch.status().n_completed >= 12, "the jobs did not run")
    wait(lambda: batch.status().n_running >= 2, "the jobs did not run")
    return batch.id


class Camera:
    """The dashboard, and pictures of it."""

    def __init__(self, app: Dashboard, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def text(self) -> str:
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips())

    async def sees(self, *parts: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not all(part in self.text for part in parts):
            if time.monotonic() > end:
                sys.exit(f"{parts} did not come about; the screen is:\n{self.text}")
            await asyncio.sleep(0.05)
        await self.pilot.pause()

    def take(self, file: Path) -> None:
        # Without this what draws it leaves the spaces out with which a text begins.
        svg = self.app.export_screenshot(title="longshore").replace("<text ", '<text xml:space="preserve" ')
        file.write_text(svg)


async def take_picture_of_readme(batch_id: int) -> None:
    """A batch while it runs, and beside its jobs one that runs."""
    app = Dashboard(Feed(connect_to()), batch_id)
    async with app.run_test(size=(120, 30)) as pilot:
        camera = Camera(app, pilot)
        await camera.sees("split-000001", "● live")
        await pilot.press(*["down"] * 13)
        await camera.sees("╭─ 14 align", "main   ▶", "[M::process] read", "WARNING")
        camera.take(OF_README)


async def take_pictures(batch_id: int, width: int, height: int) -> None:
    app = Dashboard(Feed(connect_to()))
    async with app.run_test(size=(width, height)) as pilot:
        camera = Camera(app, pilot)
        sees = camera.sees

        def take(name: str) -> None:
            camera.take(PICTURES / f"{name}-{width}x{height}.svg")

        await sees("joint", "● live")
        take("batches")
        await pilot.press("slash", *"state:bad", "enter")
        await sees("/ state:bad", " of ")
        take("batches-filter")
        await pilot.press("escape")
        await sees("nightly")
        await pilot.press("question_mark")
        await sees("type to look for")
        take("menu")
        await pilot.press("escape", "enter")
        await sees("split-000001", "✓ success")
        take("batch")
        await pilot.press("c")
        await sees("same as: longshore cancel")
        take("cancel")
        await pilot.press("escape", "n", "enter")
        await sees("KeyError")
        take("job-failed")
        await pilot.press("4")
        await sees("attempt 1")
        take("job-attempts")
        await pilot.press("5")
        await sees("command:")
        take("job-spec")
        app.go_to(batch_id, 13)
        await sees("follow ▼", "WARNING")
        take("job")
        await pilot.press("slash", *"warning", "enter")
        await sees("that have it")
        take("job-search")
        await pilot.press("escape", "g", "b")
        for theme in themes.NAMES[1:]:
            app.use_theme(theme)
            await sees("joint", "● live")
            take(f"batches-{theme}")


def wait(fact: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > end:
            sys.exit(otherwise)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
