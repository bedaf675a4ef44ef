"""`longshore jobs`: the jobs of a batch."""

from __future__ import annotations

import sys
from itertools import islice

import click

from ..status import JobStatus
from . import words
from .connection import connect
from .output import Column, Look, hint, output_option, write_json, write_table
from .targets import Target, TargetType, find_batch

COLUMNS = [
    Column[JobStatus]("JOB", lambda job, _: str(job.job_id), right=True),
    Column("NAME", lambda job, _: job.name, gives_way=True),
    Column("STATE", lambda job, look: words.state(job.state, look)),
    Column("EXIT", lambda job, _: "" if job.exit_code is None else str(job.exit_code), right=True),
    Column("DURATION", words.job_duration, right=True),
    Column("COST", lambda job, look: words.money(job.cost, look, so_far=not job.complete), right=True),
    Column("CORES", lambda job, _: words.number_of_cores(job.reserved_mcpu), right=True),
    Column("TRIES", lambda job, _: str(job.n_attempts), right=True),
    Column("REASON", lambda job, _: job.reason, gives_way=True),
]

_STATES = {
    state.lower(): (state,)
    for state in ("Pending", "Ready", "Running", "Success", "Failure", "Error", "Cancelled")
} | {"failed": ("Failure", "Error")}


@click.command("jobs")
@click.argument(
    "batch",
    type=TargetType(
        no_job="{target} is one job: longshore get {target}; all jobs of its batch: longshore jobs {batch}"
    ),
)
@click.option(
    "-s",
    "--state",
    "states",
    metavar="STATE",
    multiple=True,
    type=click.Choice(list(_STATES), case_sensitive=False),
    help="Only jobs in this state, e.g. running, or failed for failure and error. May be repeated.",
)
@click.option(
    "-n",
    "--limit",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="At most so many; 0, the default, is all.",
)
@output_option
def command(batch: Target, states: tuple[str, ...], limit: int, output: str) -> None:
    """List the jobs of a BATCH."""
    with connect() as client:
        wanted = [word for state in states for word in _STATES[state]]
        found = find_batch(client, batch).jobs(states=wanted)
        shown = islice((job.last_status for job in found if job.last_status), limit or None)
        if output == "json":
            write_json("jobs", shown)
            return
        n = write_table(COLUMNS, shown, Look.of(sys.stdout))
        hint(f"what one wrote: longshore logs {batch}/JOB" if n else "no such jobs")
