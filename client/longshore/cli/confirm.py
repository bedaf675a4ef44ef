"""Asking before something is done that cannot be undone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..status import BatchStatus
from . import words
from .output import Look, say

_TYPED_FROM = 100
"""With more running jobs than this, or several batches, a key pressed by mistake is not enough."""

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def confirm(question: str, batches: Sequence[BatchStatus], consequences: Sequence[str], command: str) -> None:
    """Return if the user agrees. `command` is what was asked for, without ``--yes``.

    Raises click.Abort when not, and UsageError, telling ``--yes``, where there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"there is no terminal to ask for confirmation: {command} --yes does not ask")
    say(question)
    for consequence in consequences:
        say(f"  {consequence}")
    n_running = sum(batch.n_running for batch in batches)
    if len(batches) > 1:
        _type(str(len(batches)), "the number of batches")
    elif n_running > _TYPED_FROM:
        _type(str(batches[0].id), "the batch's number")
    elif not click.confirm("Sure?", default=False, err=True):
        raise _kept()


def stopped_jobs(batches: Sequence[BatchStatus]) -> list[str]:
    """What becomes of the jobs of these batches when they are cancelled, in lines."""
    look = Look.of(sys.stderr)
    counts = {
        "running": (sum(b.n_running for b in batches), "will be stopped"),
        "pending": (
            sum(b.n_pending + b.n_ready for b in batches),
            "will not run, unless always_run",
        ),
        "success": (sum(b.n_completed for b in batches), "will be kept, with what was written"),
    }
    names = {"running": "running", "pending": "waiting", "success": "finished"}
    lines = []
    for state, (n, fate) in counts.items():
        if n:
            symbol = words.state(state, look).text.partition(" ")[0] if look.tty else "-"
            lines.append(f"{symbol} {n:,} {names[state]} job{'s' if n != 1 else ''} {fate}")
    return lines


def _type(expected: str, what: str) -> None:
    if (
        click.prompt(f"Type {expected} ({what}) to confirm", default="", show_default=False, err=True)
        != expected
    ):
        raise _kept()


def _kept() -> click.Abort:
    say("nothing was changed")
    return click.Abort()
