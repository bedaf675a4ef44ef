"""`longshore cost`: what a batch or a job cost, exactly, and what more it may come to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ..costs import Cost, forecast
from ..handles import Batch
from ..status import AttemptStatus, BatchStatus, JobStatus, Priced
from . import words
from .connection import connect
from .formats import Listing, list_options, write_list
from .output import Column, Look, hint, say
from .targets import Target, TargetType, find_batch


@dataclass(frozen=True, slots=True)
class TriedCost(Priced):
    """An attempt, and whose it is."""

    batch_id: int
    job_id: int
    number: int
    end: str
    reserved_mcpu: int
    main_ms: int
    cost_nanousd: int


def _money(cost: Priced, look: Look) -> str:
    return words.money(cost.cost, look)


def core_hours(cost: Cost, look: Look) -> str:
    """
    >>> core_hours(Cost(0, 5_400_000_000), Look(tty=True)), core_hours(Cost(0, 3_600_000), Look())
    ('1.50', '0.001')
    """
    return f"{cost.core_hours:,.2f}" if look.tty else f"{cost.core_hours:f}"


DAY = Column[Cost]("DAY", lambda cost, _: cost.day.isoformat() if cost.day else "")
RESOURCE = Column[Cost]("RESOURCE", lambda cost, _: cost.resource)
HOURS = Column[Cost]("CORE-HOURS", core_hours, right=True)
COST = Column[Any]("COST", _money, right=True)
JOBS = Listing[JobStatus](
    "job",
    "jobs",
    [
        Column("ID", lambda job, _: f"{job.batch_id}/{job.job_id}"),
        Column("NAME", lambda job, _: job.name, gives_way=True),
        Column("STATE", lambda job, look: words.state(job.state, look)),
        Column("TRIES", lambda job, look: words.count(job.n_attempts, look), right=True),
        Column("CORES", lambda job, _: words.number_of_cores(job.reserved_mcpu), right=True),
        Column("TIME", words.job_duration, right=True),
        Column("COST", lambda job, look: words.money(job.cost, look, so_far=not job.complete), right=True),
    ],
    lambda job: f"{job.batch_id}/{job.job_id}",
)
ATTEMPTS = Listing[TriedCost](
    "attempt",
    "attempts",
    [
        Column("ID", lambda tried, _: f"{tried.batch_id}/{tried.job_id}"),
        Column("TRY", lambda tried, _: str(tried.number), right=True),
        Column("END", lambda tried, _: tried.end),
        Column("CORES", lambda tried, _: words.number_of_cores(tried.reserved_mcpu), right=True),
        Column("TIME", lambda tried, look: words.duration(tried.main_ms, look), right=True),
        COST,
    ],
    lambda tried: f"{tried.batch_id}/{tried.job_id}",
)


@click.command("cost", epilog="Examples: longshore cost last · longshore cost 8120 --by job -o csv")
@click.argument("target", type=TargetType())
@click.option(
    "--by",
    type=click.Choice(["resource", "day", "job", "attempt"]),
    help="What is told apart.  [default: resource; attempt for a job]",
)
@list_options
def command(target: Target, by: str | None, output: str, columns: Sequence[str]) -> None:
    """Show what the batch or job TARGET cost.

    Billed are the reserved cores for as long as main containers ran, in every attempt, by the prices of
    the day. Pulling images, copying files and writing logs is not. A job is shown by its attempts.
    """
    with connect() as client:
        batch = find_batch(client, target)
        if target.job_id is not None:
            if by in ("resource", "day", "job"):
                raise click.UsageError(
                    f"a job is told apart by attempt alone; of its batch: longshore cost {batch.id}"
                )
            status = batch.job(target.job_id).status()
            write_list(ATTEMPTS, _of_job(status), output, columns)
            return
        found = batch.status()
        if by == "job":
            write_list(JOBS, (job for each in batch.jobs() if (job := each.last_status)), output, columns)
        elif by == "attempt":
            write_list(ATTEMPTS, _of_batch(batch), output, columns)
        else:
            parts = client.billing.costs(batch_id=batch.id, by=by or "resource")
            first = DAY if by == "day" else RESOURCE
            listing = Listing[Cost]("cost", "costs", [first, HOURS, COST], lambda cost: str(cost.batch_id))
            write_list(listing, parts, output, columns)
    look = Look.of(sys.stderr)
    if output in ("table", "wide"):
        for line in summary(found, look):
            say(line)
    hint(f"each job's: longshore cost {found.id} --by job")


def summary(batch: BatchStatus, look: Look) -> Iterator[str]:
    """What is exact, what is not yet, and what it may come to: each on a line of its own."""
    cost = words.money(batch.cost, look, so_far=not batch.complete)
    done = f"{batch.n_completed:,} of {batch.n_jobs:,} jobs complete"
    yield f"{cost}  of complete jobs ({done})"
    if batch.complete:
        return
    if batch.unfinished_nanousd:
        yield f"~{words.money(batch.unfinished_cost, look)}  run up so far by jobs that are not complete"
    if (guess := forecast(batch)) is not None:
        usd, how = guess
        yield f"~{words.money(usd, look)}  forecast of the whole ({how})"


def _of_job(job: JobStatus) -> Iterator[TriedCost]:
    return (_tried(job, attempt) for attempt in job.attempts)


def _of_batch(batch: Batch) -> Iterator[TriedCost]:
    for job in batch.jobs():
        if job.last_status is not None and job.last_status.n_attempts:
            yield from _of_job(job.status())


def _tried(job: JobStatus, attempt: AttemptStatus) -> TriedCost:
    return TriedCost(
        job.batch_id, job.job_id, attempt.number, attempt.reason or attempt.state,
        attempt.reserved_mcpu, attempt.main_ms, attempt.cost_nanousd,
    )  # fmt: skip
