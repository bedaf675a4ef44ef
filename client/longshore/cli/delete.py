"""`longshore delete`: hide batches from every list; an unfinished one is cancelled too."""

from __future__ import annotations

import click

from .confirm import confirm, stopped_jobs, yes_option
from .connection import connect
from .output import SCHEMA, json_text, output_option, say
from .targets import Target, TargetType, find_batch

_NO_JOB = "individual jobs cannot be deleted; the whole batch can: longshore delete {batch}"


@click.command("delete")
@click.argument("batches", metavar="BATCH...", type=TargetType(no_job=_NO_JOB), nargs=-1, required=True)
@yes_option
@output_option
def command(batches: tuple[Target, ...], yes: bool, output: str) -> None:
    """Remove batches from all lists. They are still billed; unfinished ones are cancelled.

    Individual jobs cannot be deleted.
    """
    with connect() as client:
        found = [find_batch(client, target) for target in batches]
        before = [batch.status() for batch in found]
        if not yes:
            which = " ".join(str(status.id) for status in before)
            names = ", ".join(f"#{status.id} {status.name}".rstrip() for status in before)
            unfinished = [status for status in before if not status.complete]
            it_goes = "It disappears" if len(before) == 1 else "They disappear"
            is_billed = "is" if len(before) == 1 else "are"
            lines = [
                *(stopped_jobs(unfinished) if unfinished else []),
                f"{it_goes} from all lists and {is_billed} still billed. This cannot be undone.",
            ]
            confirm(f"Delete {names}?", before, lines, f"longshore delete {which}")
        for batch in found:
            batch.delete()
        if output == "json":
            click.echo(json_text({"schema": SCHEMA, "deleted": [batch.id for batch in found]}))
            return
        for status in before:
            say(f"deleted #{status.id} {status.name}".rstrip() + ", still billed")
