"""`longshore failures`: in which ways the jobs of a batch failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..failures import FailureGroup, find_failures, in_words
from ..progress import number_of_jobs
from ..terminal import clean
from . import words
from .connection import connect
from .formats import Listing, list_options, write_list
from .output import Column, Look, hint, say
from .targets import Target, TargetType, find_batch

COLUMNS = [
    Column[FailureGroup]("JOBS", lambda group, look: words.count(group.n, look), right=True),
    Column("STATE", lambda group, look: words.state(group.state, look)),
    Column("HOW", lambda group, _: group.how, gives_way=True),
    Column("LAST_LINE", lambda group, _: group.last_line or "", gives_way=True),
    Column("EXAMPLE", lambda group, _: f"{group.job.batch_id}/{group.job.job_id}"),
    Column("NAME", lambda group, _: group.job.name, gives_way=True),
    Column("HINT", lambda group, _: group.hint, wide=True),
]
FAILURES = Listing("failure", "failures", COLUMNS, lambda group: f"{group.job.batch_id}/{group.job.job_id}")


@click.command("failures", epilog="Example: longshore failures last")
@click.argument(
    "batch",
    type=TargetType(no_job="{target} is one job: longshore get {target}, or longshore logs {target}"),
)
@list_options
def command(batch: Target, output: str, columns: Sequence[str]) -> None:
    """Show in which ways the jobs of a BATCH failed: how many, how, an example and its last lines.

    Jobs fail in the same way when their exit code or reason is the same and, of up to 50 logs, the last
    line but for its numbers.
    """
    with connect() as client:
        found = find_batch(client, batch)
        status = found.status()
        failures = find_failures(found, status)
    if output != "table" or columns:
        write_list(FAILURES, failures.groups, output, columns)
    elif not failures.groups:
        say(f"no job of batch {status.id} has failed" + ("" if status.complete else " so far"))
    else:
        look = Look.of(sys.stdout)
        click.echo(f"{words.count(failures.n_failed, look)} of {number_of_jobs(status.n_jobs)} failed:")
        for line in in_words(failures, n_groups=len(failures.groups)):
            click.echo(_shown(line, look), color=True)
    if failures.groups:
        example = failures.groups[0].job
        hint(f"the whole log of one: longshore logs {example.batch_id}/{example.job_id}")


def _shown(line: str, look: Look) -> str:
    """What `in_words` says is clean; ASCII where the terminal has no more."""
    text = clean(line if look.symbols else line.replace("×", "x"))
    return look.paint(text, None if line.startswith(" " * 8) else "red")
