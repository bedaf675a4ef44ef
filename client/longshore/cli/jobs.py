"""`longshore jobs`: the jobs of a batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice

import click

from ..handles import Batch
from ..status import BatchStatus, JobStatus
from . import words
from .connection import connect
from .formats import Listing, list_options, write_list
from .output import Column, hint, say
from .queries import JOB_FIELDS, query_option
from .targets import Target, TargetType, find_batch

COLUMNS = [
    Column[JobStatus]("JOB", lambda job, _: str(job.job_id), right=True),
    Column("NAME", lambda job, _: job.name, gives_way=True),
    Column("STATE", lambda job, look: words.state(job.state, look)),
    Column("EXIT", lambda job, _: "" if job.exit_code is None else str(job.exit_code), right=True),
    Column("DURATION", words.job_duration, right=True),
    Column("COST", lambda job, look: words.money(job.cost, look, so_far=not job.complete), right=True),
    Column("CORES", lambda job, _: words.number_of_cores(job.reserved_mcpu), right=True),
    Column("MEMORY", lambda job, look: words.size(job.reserved_memory_bytes, look), right=True, wide=True),
    Column("TRIES", lambda job, _: str(job.n_attempts), right=True),
    Column("STARTED", lambda job, look: words.moment(job.started_at, look), wide=True),
    Column("ENDED", lambda job, look: words.moment(job.ended_at, look), wide=True),
    Column("REASON", lambda job, _: job.reason, gives_way=True),
]
JOBS = Listing("job", "jobs", COLUMNS, lambda job: f"{job.batch_id}/{job.job_id}")
_WITHOUT_REASON = Listing(JOBS.one, JOBS.many, COLUMNS[:-1], JOBS.id_of)
_LOOKED_AT = 1000
_CANCELLED = "batch cancelled"
"""With this begins the reason of jobs that ended with their batch."""

_STATES = {
    state.lower(): (state,)
    for state in ("Pending", "Ready", "Running", "Success", "Failure", "Error", "Cancelled")
} | {"failed": ("Failure", "Error")}


@click.command("jobs", epilog="Example: longshore jobs last -s failed -o id")
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
@query_option("align exit:137 dur>10m -name:qc", JOB_FIELDS)
@click.option(
    "-n",
    "--limit",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="At most so many; 0, the default, is all.",
)
@list_options
def command(
    batch: Target, states: tuple[str, ...], query: str | None, limit: int, output: str, columns: Sequence[str]
) -> None:
    """List the jobs of a BATCH."""
    with connect() as client:
        wanted = [word for state in states for word in _STATES[state]]
        found = find_batch(client, batch)
        shown = _statuses(found, query, wanted, limit)
        if output != "table" or columns:
            n = write_list(JOBS, shown, output, columns)
        else:
            n = _write_table(shown, found)
    hint(f"what one wrote: longshore logs {batch}/JOB" if n else "no such jobs")


def _statuses(batch: Batch, query: str | None, states: list[str], limit: int) -> Iterator[JobStatus]:
    found = batch.jobs(query, states=states)
    return islice((job.last_status for job in found if job.last_status), limit or None)


def _write_table(jobs: Iterator[JobStatus], batch: Batch) -> int:
    """What all of them have for a reason, as those of a cancelled batch do, is said once on a terminal."""
    first = list(islice(jobs, _LOOKED_AT))
    more = next(jobs, None)
    reasons = [job.reason for job in first if job.reason]
    cancelled = all(reason.startswith(_CANCELLED) for reason in reasons)
    alike = len(reasons) > 1 and (cancelled or len(set(reasons)) == 1)
    if more is not None or not alike or not sys.stdout.isatty():
        return write_list(JOBS, _chained(first, more, jobs), "table")
    n = write_list(_WITHOUT_REASON, first, "table")
    why = _why_cancelled(batch.status()) if cancelled else reasons[0]
    say(f"{'all' if len(reasons) == n else f'{len(reasons):,} of them'}: {why}")
    return n


def _why_cancelled(batch: BatchStatus) -> str:
    by = f" by {batch.cancelled_by}" if batch.cancelled_by else ""
    return f"{_CANCELLED}{by}{f': {batch.cancel_reason}' if batch.cancel_reason else ''}"


def _chained(
    first: list[JobStatus], more: JobStatus | None, rest: Iterator[JobStatus]
) -> Iterator[JobStatus]:
    yield from first
    if more is not None:
        yield more
    yield from rest
