"""`longshore undelete`: show deleted batches again."""

from __future__ import annotations

import click

from ..handles import Batch
from . import recent
from .connection import connect
from .formats import output_option, write_one
from .output import say
from .targets import Target, TargetsType, flat

_NO_JOB = "a batch is undeleted with all its jobs: longshore undelete {batch}"
_BY_NUMBER = "a deleted batch is in no list: name it by its number, e.g. longshore undelete 8112"


@click.command("undelete", epilog="Example: longshore undelete 8112")
@click.argument("batches", metavar="BATCH...", type=TargetsType(no_job=_NO_JOB), nargs=-1, required=True)
@output_option
def command(batches: tuple[list[Target], ...], output: str) -> None:
    """Show deleted batches again, each named by its number. What was cancelled with them stays cancelled."""
    ids = [target.batch_id for target in flat(batches)]
    if None in ids:
        raise click.UsageError(_BY_NUMBER)
    with connect() as client:
        found = [Batch(client, batch_id) for batch_id in ids]
        for batch in found:
            batch.undelete()
        after = [batch.status() for batch in found]
        recent.remember(client.endpoint, after)
        if output != "table":
            write_one("undeleted", [status.id for status in after], output)
            return
        for status in after:
            say(f"#{status.id} {status.name}".rstrip() + f" is in the lists again ({status.state})")
