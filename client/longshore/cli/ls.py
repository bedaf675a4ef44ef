"""`longshore ls`: batches, newest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from ..status import BatchStatus
from . import recent, words
from .connection import connect
from .formats import Listing, list_options, write_list
from .output import Column, hint
from .queries import BATCH_FIELDS, query_option

COLUMNS = [
    Column[BatchStatus]("ID", lambda batch, _: str(batch.id), right=True),
    Column("NAME", lambda batch, _: batch.name, gives_way=True),
    Column("STATE", words.batch_state),
    Column("JOBS", lambda batch, look: words.count(batch.n_jobs, look), right=True),
    Column("DONE", lambda batch, look: words.count(batch.n_completed, look), right=True),
    Column("FAILED", lambda batch, look: words.count(batch.n_failed, look), right=True),
    Column("RUNNING", lambda batch, look: words.count(batch.n_running, look), right=True, wide=True),
    Column("COST", lambda batch, look: words.money(batch.cost, look, so_far=not batch.complete), right=True),
    Column("CREATED", lambda batch, look: words.moment(batch.created_at, look)),
    Column("COMPLETED", lambda batch, look: words.moment(batch.completed_at, look), wide=True),
    Column("USER", lambda batch, _: batch.user, wide=True),
    Column("PROJECT", lambda batch, _: batch.billing_project, gives_way=True),
]
_KEPT = 50
BATCHES = Listing("batch", "batches", COLUMNS, lambda batch: str(batch.id))


@click.command("ls", epilog="Example: longshore ls -q 'align state:failure' -o csv --columns id,name,cost")
@query_option("align state:failure created>-2d -test", BATCH_FIELDS)
@click.option(
    "-n",
    "--limit",
    metavar="N",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="At most so many; 0 is all.",
)
@list_options
def command(query: str | None, limit: int, output: str, columns: Sequence[str]) -> None:
    """List your batches, newest first."""
    with connect() as client:
        batches = (batch.last_status for batch in client.list_batches(limit or None, query=query))
        newest: list[BatchStatus] = []
        n = write_list(BATCHES, _kept((each for each in batches if each), newest), output, columns)
        recent.remember(client.endpoint, newest)
    if n == 0 and query:
        hint("no batch matches")
    elif n == 0:
        hint("No batches yet. Run a program that uses the service: longshore submit hello.py")
    elif waits := next((b for b in newest if b.n_ready and not b.n_running and not b.complete), None):
        hint(f"nothing of batch {waits.id} runs: longshore why {waits.id}")
    elif newest and newest[0].n_failed:
        hint(f"{newest[0].n_failed:,} failed: longshore failures {newest[0].id}")
    elif n == limit:
        hint(f"the newest {limit}; more: longshore ls --limit 0")
    else:
        hint("one of them: longshore get ID · its jobs: longshore jobs ID")


def _kept(batches: Iterator[BatchStatus], newest: list[BatchStatus]) -> Iterator[BatchStatus]:
    """All of them; the first are put into `newest`, too."""
    for batch in batches:
        if len(newest) < _KEPT:
            newest.append(batch)
        yield batch
