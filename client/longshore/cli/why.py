"""`longshore why`: why a batch or a job does not run, or how it ended, and what to do."""

from __future__ import annotations

import sys

import click

from ..status import Reason
from ..terminal import clean
from . import words
from .connection import connect
from .formats import output_option, write_one
from .output import Look
from .targets import Target, TargetType, find_batch


@click.command("why", epilog="Examples: longshore why last · longshore why 8120/4705")
@click.argument("target", type=TargetType())
@output_option
def command(target: Target, output: str) -> None:
    """Say why the batch or job TARGET does not run, or how it ended, and what to do about it."""
    with connect() as client:
        batch = find_batch(client, target)
        reasons = batch.why() if target.job_id is None else (batch.job(target.job_id).why(),)
    if output != "table":
        write_one("reasons", list(reasons), output)
        return
    look = Look.of(sys.stdout)
    for reason in reasons:
        click.echo(_line(reason, look), color=True)
        if reason.fix:
            arrow = "→" if look.symbols else "->"
            click.echo(look.paint(f"  {arrow} {clean(reason.fix)}", "bright_black"), color=True)


def _line(reason: Reason, look: Look) -> str:
    since = f", since {words.moment(reason.since, look)}" if reason.since and not look.tty else ""
    if reason.since and look.tty:
        since = f" ({words.moment(reason.since, look)})"
    return clean(reason.text).replace("\n", " ") + since
