"""`longshore attempts`: where and when a job ran, each time, and what its containers did."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import click

from ..status import AttemptStatus, ContainerStatus, JobStatus
from . import words
from .connection import connect
from .formats import Listing, list_options, write_list
from .output import Cell, Column, Look, hint, say, write_table
from .targets import Target, TargetType, find_job


def _message(attempt: AttemptStatus) -> str:
    """Who wanted its end, if somebody did, says more than that its worker stopped it."""
    return attempt.revoked or attempt.message


COLUMNS = [
    Column[AttemptStatus]("ATTEMPT", lambda attempt, _: str(attempt.number), right=True),
    Column("STATE", lambda attempt, _: attempt.state),
    Column("REASON", lambda attempt, _: attempt.reason),
    Column("ASSIGNED", lambda attempt, look: words.moment(attempt.assigned_at, look)),
    Column("STARTED", lambda attempt, look: words.moment(attempt.started_at, look), wide=True),
    Column("ENDED", lambda attempt, look: words.moment(attempt.ended_at, look), wide=True),
    Column("BILLED", lambda attempt, look: words.duration(attempt.main_ms, look), right=True),
    Column("COST", lambda attempt, look: words.money(attempt.cost, look), right=True),
    Column("WORKER", lambda attempt, _: attempt.worker_id, gives_way=True),
    Column("ID", lambda attempt, _: attempt.id, wide=True),
    Column("MESSAGE", lambda attempt, _: _message(attempt), gives_way=True),
]
ATTEMPTS = Listing("attempt", "attempts", COLUMNS, lambda attempt: attempt.id)


@click.command("attempts", epilog="Example: longshore attempts 8120/4705 -o wide")
@click.argument(
    "job",
    type=TargetType(
        no_batch="which job of batch {batch}? Write {batch}/JOB; they are listed by: longshore jobs {batch}"
    ),
)
@list_options
def command(job: Target, output: str, columns: Sequence[str]) -> None:
    """Show where and when a JOB (8120/4705) ran, each time, and what its containers did."""
    with connect() as client:
        status = find_job(client, job).status()
    if output != "table" or columns:
        write_list(ATTEMPTS, status.attempts, output, columns)
    elif status.attempts:
        write_attempts(status, Look.of(sys.stdout), said=())
    else:
        why = f" ({status.reason})" if status.reason else ""
        say(f"job {status.batch_id}/{status.job_id} has not run: it is {status.state}{why}")
    if len(status.attempts) > 1:
        hint(f"what an earlier one wrote: longshore logs {status.batch_id}/{status.job_id} -a 1")


def write_attempts(job: JobStatus, look: Look, said: Sequence[str] | None = None) -> None:
    """A table of its attempts, and one of their containers; nothing of a job that never ran.

    `said` was said before: the reason of the job, if nothing else is given.
    """
    if not job.attempts:
        return
    attempts = list(_said_once(job, (job.reason,) if said is None else said))
    if said is None:
        click.echo()
    columns = [column for column in COLUMNS if not column.wide]
    write_table(columns, attempts, look)
    click.echo()
    rows = [_Container(attempt, each) for attempt in attempts for each in attempt.containers.values()]
    write_table(_CONTAINER_COLUMNS, rows, look)


def _said_once(job: JobStatus, before: Sequence[str]) -> Iterator[AttemptStatus]:
    """The attempts without messages that stand further up already."""
    said = set(before)
    for attempt in job.attempts:
        message = "" if attempt.message in said else attempt.message
        said.add(attempt.message)
        containers = {
            name: replace(each, error="") if each.error in said else each
            for name, each in attempt.containers.items()
        }
        yield replace(attempt, message=message, containers=containers)


@dataclass(frozen=True, slots=True)
class _Container:
    attempt: AttemptStatus
    status: ContainerStatus


def _state(row: _Container, look: Look) -> str | Cell:
    """One that waits for what will never come has not run."""
    if row.status.state == "Pending" and row.attempt.state == "ended":
        return "did not run"
    return words.state(row.status.state, look)


_CONTAINER_COLUMNS = [
    Column[_Container]("ATTEMPT", lambda row, _: str(row.attempt.number), right=True),
    Column("CONTAINER", lambda row, _: row.status.name),
    Column("STATE", _state),
    Column(
        "EXIT", lambda row, _: "" if row.status.exit_code is None else str(row.status.exit_code), right=True
    ),
    Column("PULL", lambda row, look: _between(row.status.pull_started_ms, row.status.pull_ended_ms, look)),
    Column("RUN", lambda row, look: _between(row.status.started_ms, row.status.ended_ms, look), right=True),
    Column("LOG", lambda row, look: words.size(row.status.log_bytes, look), right=True),
    Column("IMAGE", lambda row, _: row.status.image, gives_way=True),
    Column(
        "ERROR",
        lambda row, _: ": ".join(filter(None, (row.status.error_kind, row.status.error))),
        gives_way=True,
    ),
]


def _between(start_ms: int | None, end_ms: int | None, look: Look) -> str:
    return "" if start_ms is None or end_ms is None else words.duration(end_ms - start_ms, look)
