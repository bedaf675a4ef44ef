"""`longshore ls`: batches, newest first."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from ..status import BatchStatus
from . import words
from .connection import connect
from .output import Column, Look, hint, output_option, write_json, write_table

COLUMNS = [
    Column[BatchStatus]("ID", lambda batch, _: str(batch.id), right=True),
    Column("NAME", lambda batch, _: batch.name, gives_way=True),
    Column("STATE", words.batch_state),
    Column("JOBS", lambda batch, look: words.count(batch.n_jobs, look), right=True),
    Column("DONE", lambda batch, look: words.count(batch.n_completed, look), right=True),
    Column("FAILED", lambda batch, look: words.count(batch.n_failed, look), right=True),
    Column("COST", lambda batch, look: words.money(batch.cost, look, so_far=not batch.complete), right=True),
    Column("CREATED", lambda batch, look: words.moment(batch.created_at, look)),
    Column("PROJECT", lambda batch, _: batch.billing_project, gives_way=True),
]


@click.command("ls")
@click.option(
    "-n",
    "--limit",
    metavar="N",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="At most so many; 0 is all.",
)
@output_option
def command(limit: int, output: str) -> None:
    """List your batches, newest first."""
    with connect() as client:
        batches = (batch.last_status for batch in client.list_batches(limit or None))
        shown = (status for status in batches if status)
        if output == "json":
            write_json("batches", shown)
        else:
            _write(shown, limit)


def _write(batches: Iterator[BatchStatus], limit: int) -> None:
    n = write_table(COLUMNS, batches, Look.of(sys.stdout))
    if n == 0:
        hint("No batches yet. Run a program that uses the service: longshore submit hello.py")
    elif n == limit:
        hint(f"the newest {limit}; more: longshore ls --limit 0")
    else:
        hint("one of them: longshore get ID · its jobs: longshore jobs ID")
