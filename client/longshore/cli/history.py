"""`longshore history`: who did what to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..status import BatchDeed
from . import words
from .connection import connect
from .formats import Listing, list_options, write_list
from .output import Column
from .targets import Target, TargetType, find_batch

DEEDS = Listing(
    "deed",
    "deeds",
    [
        Column[BatchDeed]("AT", lambda deed, look: words.moment(deed.at, look)),
        Column("USER", lambda deed, _: deed.user, gives_way=True),
        Column("DEED", lambda deed, _: deed.deed),
    ],
    lambda deed: deed.deed,
)


@click.command("history", epilog="Example: longshore history last")
@click.argument("batch", type=TargetType(no_job="{target} is one job; a history is a batch's"))
@list_options
def command(batch: Target, output: str, columns: Sequence[str]) -> None:
    """Show who did what to a BATCH, oldest first."""
    with connect() as client:
        found = find_batch(client, batch)
        write_list(DEEDS, client.people.history(found.id), output, columns)
