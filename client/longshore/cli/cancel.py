"""`longshore cancel`: start no more jobs of a batch and stop those that run."""

from __future__ import annotations

import sys

import click

from . import ls
from .confirm import confirm, stopped_jobs, yes_option
from .connection import connect
from .output import Look, output_option, say, write_json, write_table
from .targets import Target, TargetType, find_batch

_NO_JOB = "individual jobs cannot be cancelled; the whole batch can: longshore cancel {batch}"


@click.command("cancel")
@click.argument("batches", metavar="BATCH...", type=TargetType(no_job=_NO_JOB), nargs=-1, required=True)
@click.option("--reason", help="Shown to whoever looks at the batch.")
@yes_option
@output_option
def command(batches: tuple[Target, ...], reason: str | None, yes: bool, output: str) -> None:
    """Cancel batches: no job starts any more but those that always run, and running ones are stopped.

    Individual jobs cannot be cancelled.
    """
    with connect() as client:
        found = [find_batch(client, target) for target in batches]
        before = [batch.status() for batch in found]
        unfinished = [status for status in before if not status.complete]
        for status in before:
            if status.complete:
                say(f"batch {status.id} is complete ({status.state}): there is nothing to cancel")
        if unfinished and not yes:
            which = " ".join(str(status.id) for status in unfinished)
            names = ", ".join(f"#{status.id} {status.name}".rstrip() for status in unfinished)
            lines = [*stopped_jobs(unfinished), "This cannot be undone."]
            confirm(f"Cancel {names}?", unfinished, lines, f"longshore cancel {which}")
        for batch, status in zip(found, before, strict=True):
            if not status.complete:
                batch.cancel(reason)
        after = [batch.status() for batch in found]
        if output == "json":
            write_json("batches", after)
        elif unfinished:
            write_table(ls.COLUMNS, after, Look.of(sys.stdout))
