"""`longshore get`: everything about one batch or one job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping

import click

from ..status import BatchStatus, JobStatus
from . import recent, words
from .attempts import write_attempts
from .connection import connect
from .formats import output_option, write_one
from .output import Cell, Look, hint, write_fields
from .targets import Target, TargetType, find_batch


@click.command("get", epilog="Examples: longshore get last · longshore get 8120/4705 -o json")
@click.argument("target", type=TargetType())
@output_option
def command(target: Target, output: str) -> None:
    """Show the batch or job TARGET."""
    look = Look.of(sys.stdout)
    with connect() as client:
        batch = find_batch(client, target)
        if target.job_id is not None:
            job = batch.job(target.job_id).status()
            if output != "table":
                write_one("job", job, output)
                return
            write_fields(_job_fields(job, look), look)
            write_attempts(job, look)
            if job.state in ("Pending", "Ready"):
                hint(f"why it does not run: longshore why {job.batch_id}/{job.job_id}")
            else:
                hint(f"what it wrote: longshore logs {job.batch_id}/{job.job_id}")
            return
        found = batch.status()
        recent.remember(client.endpoint, [found])
        if output != "table":
            write_one("batch", found, output)
            return
        write_fields(_batch_fields(found, look), look)
        if found.n_ready and not found.n_running:
            hint(f"why nothing runs: longshore why {found.id}")
        elif found.n_failed:
            again = f", again: longshore rerun {found.id} --failed" if found.complete else ""
            hint(f"{found.n_failed:,} failed: longshore failures {found.id}{again}")
        else:
            hint(f"its jobs: longshore jobs {found.id} · live: longshore ui {found.id}")


def _batch_fields(batch: BatchStatus, look: Look) -> Iterator[tuple[str, str | Cell]]:
    yield "batch", str(batch.id)
    yield "name", batch.name
    yield "state", words.batch_state(batch, look)
    if batch.cancelled_at or batch.cancelled_by:
        yield "cancelled", f"{words.moment(batch.cancelled_at, look)} by {batch.cancelled_by}".strip()
        yield "reason", batch.cancel_reason
    yield "rerun of", f"batch {batch.rerun_of}" if batch.rerun_of else ""
    yield "run again by", ", ".join(f"batch {batch_id}" for batch_id in batch.reruns)
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
    yield "preempted at most", str(spec.max_preempted or "")
    yield "lost at most", str(spec.max_lost or "")
    yield "always runs", "yes" if spec.always_run else ""
    yield "always copies output", "yes" if spec.always_copy_output else ""


def _attributes(attributes: Mapping[str, str]) -> Iterator[tuple[str, str | Cell]]:
    for key, value in attributes.items():
        yield "attribute", f"{key}={value}"
