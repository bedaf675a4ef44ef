"""`longshore delete`: hide batches from every list; an unfinished one is cancelled too."""

from __future__ import annotations

import click

from . import recent
from .confirm import confirm, stopped_jobs, yes_option
from .connection import connect
from .formats import output_option, write_one
from .output import say
from .targets import Target, TargetsType, find_batches, flat

_NO_JOB = "individual jobs cannot be deleted; the whole batch can: longshore delete {batch}"


@click.command("delete", epilog="Example: longshore delete 8100-8110,8112 --yes")
@click.argument("batches", metavar="BATCH...", type=TargetsType(no_job=_NO_JOB), nargs=-1, required=True)
@yes_option
@output_option
def command(batches: tuple[list[Target], ...], yes: bool, output: str) -> None:
    """Remove batches from all lists. They are still billed; unfinished ones are cancelled.

    Individual jobs cannot be deleted.
    """
    with connect() as client:
        found = find_batches(client, flat(batches))
        before = [batch.last_status or batch.status() for batch in found]
        if not yes:
            which = " ".join(str(status.id) for status in before)
            names = ", ".join(f"#{status.id} {status.name}".rstrip() for status in before)
            unfinished = [status for status in before if not status.complete]
            it_goes = "It disappears" if len(before) == 1 else "They disappear"
            is_billed = "is" if len(before) == 1 else "are"
            undo = f"longshore undelete {which}"
            lines = [
                *(stopped_jobs(unfinished) if unfinished else []),
                f"{it_goes} from all lists and {is_billed} still billed. To undo it: {undo}",
            ]
            confirm(f"Delete {names}?", before, lines, f"longshore delete {which}")
        for batch in found:
            batch.delete()
        recent.forget(client.endpoint, [batch.id for batch in found])
        if output != "table":
            write_one("deleted", [batch.id for batch in found], output)
            return
        for status in before:
            undo = f"longshore undelete {status.id}"
            say(f"deleted #{status.id} {status.name}".rstrip() + f", still billed; to undo it: {undo}")
