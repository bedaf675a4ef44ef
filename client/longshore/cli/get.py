"""`longshore get`: everything about one batch or one job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import click

from ..status import AttemptStatus, BatchStatus, ContainerStatus, JobStatus
from . import words
from .connection import connect
from .output import Cell, Column, Look, hint, output_option, write_fields, write_json, write_table
from .targets import Target, TargetType, find_batch


@click.command("get")
@click.argument("target", type=TargetType())
@output_option
def command(target: Target, output: str) -> None:
    """Show the batch or job TARGET."""
    look = Look.of(sys.stdout)
    with connect() as client:
        batch = find_batch(client, target)
        if target.job_id is None:
            found = batch.status()
            if output == "json":
                write_json("batch", found)
            else:
                write_fields(_batch_fields(found, look), look)
                _hint_about_batch(found)
            return
        job = batch.job(target.job_id).status()
        if output == "json":
            write_json("job", job)
        else:
            _write_job(job, look)
            hint(f"what it wrote: longshore logs {job.batch_id}/{job.job_id}")


def _batch_fields(batch: BatchStatus, look: Look) -> Iterator[tuple[str, str | Cell]]:
    yield "batch", str(batch.id)
    yield "name", batch.name
    yield "state", words.batch_state(batch, look)
    if batch.cancelled_at or batch.cancelled_by:
        yield "cancelled", f"{words.moment(batch.cancelled_at, look)} by {batch.cancelled_by}".strip()
        yield "reason", batch.cancel_reason
    yield "billing project", batch.billing_project
    yield "user", batch.user
    yield "jobs", words.count(batch.n_jobs, look)
    for state, n in {
        "pending": batch.n_pending,
        "ready": batch.n_ready,
        "running": batch.n_running,
        "success": batch.n_succeeded,
        "failure": batch.n_failed,
        "cancelled": batch.n_cancelled,
    }.items():
        if n:
            yield "", Cell(f"{words.count(n, look)} {words.state(state, look).text}", words.colour_of(state))
    yield "cost", words.money(batch.cost, look, so_far=not batch.complete)
    yield "created", words.moment(batch.created_at, look)
    yield "submitted", words.moment(batch.closed_at, look)
    yield "complete", words.moment(batch.completed_at, look)
    yield from _attributes({k: v for k, v in batch.attributes.items() if k != "name"})


def _hint_about_batch(batch: BatchStatus) -> None:
    if batch.n_failed:
        hint(f"{batch.n_failed:,} failed: longshore jobs {batch.id} --state failed")
    else:
        hint(f"its jobs: longshore jobs {batch.id} · live: longshore ui {batch.id}")


def _write_job(job: JobStatus, look: Look) -> None:
    write_fields(_job_fields(job, look), look)
    if job.attempts:
        attempts = list(_said_once(job))
        click.echo()
        write_table(_ATTEMPT_COLUMNS, attempts, look)
        click.echo()
        rows = [_Container(attempt.number, each) for attempt in attempts for each in _containers(attempt)]
        write_table(_CONTAINER_COLUMNS, rows, look)


def _said_once(job: JobStatus) -> Iterator[AttemptStatus]:
    """The attempts without messages that stand further up already."""
    said = {job.reason}
    for attempt in job.attempts:
        message = "" if attempt.message in said else attempt.message
        said.add(attempt.message)
        containers = {
            name: replace(each, error="") if each.error in said else each
            for name, each in attempt.containers.items()
        }
        yield replace(attempt, message=message, containers=containers)


def _job_fields(job: JobStatus, look: Look) -> Iterator[tuple[str, str | Cell]]:
    yield "job", f"{job.batch_id}/{job.job_id}"
    yield "name", job.name
    yield "state", words.state(job.state, look)
    yield "reason", job.reason
    yield "exit code", "" if job.exit_code is None else str(job.exit_code)
    yield "duration", words.job_duration(job, look)
    yield "cost", words.money(job.cost, look, so_far=not job.complete)
    memory = words.size(job.reserved_memory_bytes, look)
    yield "reserved", f"{words.cores(job.reserved_mcpu)}, {memory} of memory"
    yield from _attributes(job.attributes)
    spec = job.spec
    if spec is None:
        return
    asked = [
        words.cores(spec.cpu_mcpu) if spec.cpu_mcpu else "",
        f"{words.size(spec.memory_bytes, look)} of memory" if spec.memory_bytes else "",
        f"{words.size(spec.storage_bytes, look)} of storage" if spec.storage_bytes else "",
    ]
    yield "asked for", ", ".join(filter(None, asked))
    yield "image", spec.image
    yield "command", shlex.join(spec.command)
    for name, value in spec.env.items():
        yield "environment", f"{name}={value}"
    yield "after jobs", ", ".join(map(str, spec.parents))
    for source, destination in spec.input_files:
        yield "input", f"{source} → {destination}" if look.symbols else f"{source} -> {destination}"
    for source, destination in spec.output_files:
        yield "output", f"{source} → {destination}" if look.symbols else f"{source} -> {destination}"
    yield "timeout", words.duration(spec.timeout_ms or None, look)
    yield "retries", str(spec.retries or "")
    yield "always runs", "yes" if spec.always_run else ""
    yield "always copies output", "yes" if spec.always_copy_output else ""


def _attributes(attributes: Mapping[str, str]) -> Iterator[tuple[str, str | Cell]]:
    for key, value in attributes.items():
        yield "attribute", f"{key}={value}"


_ATTEMPT_COLUMNS = [
    Column[AttemptStatus]("ATTEMPT", lambda attempt, _: str(attempt.number), right=True),
    Column("STATE", lambda attempt, _: attempt.state),
    Column("REASON", lambda attempt, _: attempt.reason),
    Column("ASSIGNED", lambda attempt, look: words.moment(attempt.assigned_at, look)),
    Column("BILLED", lambda attempt, look: words.duration(attempt.main_ms, look), right=True),
    Column("COST", lambda attempt, look: words.money(attempt.cost, look), right=True),
    Column("WORKER", lambda attempt, _: attempt.worker_id, gives_way=True),
    Column("MESSAGE", lambda attempt, _: attempt.message, gives_way=True),
]


@dataclass(frozen=True, slots=True)
class _Container:
    attempt: int
    status: ContainerStatus


_CONTAINER_COLUMNS = [
    Column[_Container]("ATTEMPT", lambda row, _: str(row.attempt), right=True),
    Column("CONTAINER", lambda row, _: row.status.name),
    Column("STATE", lambda row, look: words.state(row.status.state, look)),
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


def _containers(attempt: AttemptStatus) -> Iterator[ContainerStatus]:
    yield from attempt.containers.values()


def _between(start_ms: int | None, end_ms: int | None, look: Look) -> str:
    return "" if start_ms is None or end_ms is None else words.duration(end_ms - start_ms, look)
