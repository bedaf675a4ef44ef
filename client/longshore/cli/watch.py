"""`longshore watch`: a batch live, in the lines below the prompt; in a pipe a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import click

from ..failures import batch_failed, how_it_ended
from ..handles import Batch
from ..progress import choose_progress, counts, follow
from ..status import BatchStatus, JobStatus
from ..terminal import one_line
from . import recent, words
from .connection import PATIENT_S, connect
from .exits import INTERRUPTED
from .following import exit_code, if_failed_option, say_detached, timeout_option
from .output import Look, say
from .targets import Target, TargetType, find_batch

if TYPE_CHECKING:
    from rich.text import Text

_RUNNING, _FAILED = 8, 4
"""Jobs that are shown."""
_EVERY_S = 1.0
"""How often the service is asked which jobs these are, at most."""
_BAR = 30


@click.command("watch", epilog="Example: longshore watch last")
@click.argument(
    "batch",
    type=TargetType(no_job="{target} is one job: longshore logs -f {target}, or longshore wait {target}"),
)
@timeout_option
@if_failed_option
def command(batch: Target, timeout: float | None, ok_if_failed: bool) -> int:
    """Watch a BATCH live until it is complete: how far it is, what runs, what has failed.

    Exit codes are those of `longshore wait`. Ctrl-C ends the watching and nothing else.
    """
    with connect(PATIENT_S) as client:
        found = find_batch(client, batch)
        try:
            status = _watch_live(found, timeout) if _can_draw() else _watch_in_lines(found, timeout)
        except KeyboardInterrupt:
            say_detached(found, again="watch")
            return INTERRUPTED
        recent.remember(client.endpoint, [status])
        if status.state != "success":
            say(batch_failed(found, status).message)
    return exit_code(status.state, ok_if_failed=ok_if_failed)


def _can_draw() -> bool:
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return False
    try:
        import rich.live  # noqa: F401
    except ImportError:
        return False
    return True


def _watch_in_lines(batch: Batch, timeout: float | None) -> BatchStatus:
    with choose_progress(kind="plain") as progress:
        return follow(batch, progress, timeout)


def _watch_live(batch: Batch, timeout: float | None) -> BatchStatus:
    from rich.console import Console
    from rich.live import Live

    look = Look.of(sys.stdout)
    console = Console(highlight=False, markup=False, emoji=False, no_color=not look.colour)
    shown: Callable[[], Text] | None = None

    def draw() -> Text:
        from rich.text import Text

        return shown() if shown else Text("")

    asked_at = float("-inf")
    jobs: list[JobStatus] = []
    with Live(get_renderable=draw, console=console, refresh_per_second=4) as live:
        for status in batch.watch(timeout):
            if status.complete or time.monotonic() - asked_at >= _EVERY_S:
                jobs = _worth_seeing(batch, status)
                asked_at = time.monotonic()
            shown = _picture(status, jobs, look)
            live.refresh()
    return status


def _worth_seeing(batch: Batch, status: BatchStatus) -> list[JobStatus]:
    """Some that run and some that have failed."""
    found: list[JobStatus] = []
    for n, most, states in (
        (status.n_running, _RUNNING, ["Running"]),
        (status.n_failed, _FAILED, ["Failure", "Error"]),
    ):
        if n:
            found += [job.last_status for job in islice(batch.jobs(states=states), most) if job.last_status]
    return found


def _picture(status: BatchStatus, jobs: list[JobStatus], look: Look) -> Callable[[], Text]:
    """What draws these; durations go on while nothing changes."""

    def draw() -> Text:
        from rich.text import Text

        now = replace(look, now=Look().now)
        text = Text(no_wrap=True, overflow="ellipsis" if look.symbols else "crop", end="")
        cell = words.batch_state(status, now)
        text.append(f"#{status.id} {one_line(status.name)}".rstrip() + "  ", style="bold")
        text.append(cell.text, style=_style(cell.colour))
        end = status.completed_at or now.now
        ran = int((end - (status.closed_at or status.created_at)).total_seconds() * 1000)
        text.append(f"  {words.duration(max(0, ran), now)}\n")
        share = status.n_completed / status.n_jobs if status.n_jobs else 1.0
        full = int(share * _BAR)
        marks = ("█", "░") if look.symbols else ("#", "-")
        text.append(marks[0] * full + marks[1] * (_BAR - full), style=_style(cell.colour))
        so_far = counts(status)
        if not look.symbols:
            so_far = so_far.translate(_IN_ASCII)
        text.append(f"  {share:4.0%}  {so_far}")
        for job in jobs:
            state = words.state(job.state, now)
            text.append("\n  ")
            text.append(state.text.partition(" ")[0], style=_style(state.colour))
            text.append(f" {job.job_id} {one_line(job.name)}".rstrip())
            how = words.job_duration(job, now) if job.state == "Running" else one_line(how_it_ended(job))
            text.append(f"  {how}", style="bright_black")
        left_out = status.n_running + status.n_failed - len(jobs)
        if left_out > 0 and not status.complete:
            text.append(f"\n  and {left_out:,} more: longshore jobs {status.id}", style="bright_black")
        return text

    return draw


_IN_ASCII = str.maketrans({"✓": "+", "✗": "x", "⊘": "-", "▶": ">", "·": ".", "≥": ">"})


def _style(colour: str | None) -> str:
    return colour or "default"
