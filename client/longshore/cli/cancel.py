"""`longshore cancel`: start no more jobs of a batch and stop those that run."""

from __future__ import annotations

from collections.abc import Sequence

import click

from . import ls
from .confirm import confirm, stopped_jobs, yes_option
from .connection import connect
from .formats import list_options, write_list
from .output import say
from .targets import Target, TargetsType, find_batches, flat

_NO_JOB = "individual jobs cannot be cancelled; the whole batch can: longshore cancel {batch}"


@click.command("cancel", epilog="Example: longshore cancel 8120 8100-8110 --reason 'wrong genome'")
@click.argument("batches", metavar="BATCH...", type=TargetsType(no_job=_NO_JOB), nargs=-1, required=True)
@click.option("--reason", help="Shown to whoever looks at the batch.")
@yes_option
@list_options
def command(
    batches: tuple[list[Target], ...], reason: str | None, yes: bool, output: str, columns: Sequence[str]
) -> None:
    """Cancel batches: no job starts any more but those that always run, and running ones are stopped.

    Individual jobs cannot be cancelled.
    """
    with connect() as client:
        found = find_batches(client, flat(batches))
        before = [batch.last_status or batch.status() for batch in found]
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
        if unfinished or output != "table":
            write_list(ls.BATCHES, after, output, columns)
