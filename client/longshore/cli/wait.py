"""`longshore wait`: until batches or jobs are complete, whatever becomes of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from ..errors import WaitTimeout
from ..failures import batch_failed
from ..handles import Batch, Job
from ..progress import follow
from ..status import BatchStatus, JobStatus
from . import jobs, ls, recent
from .connection import PATIENT_S, connect
from .exits import INTERRUPTED
from .following import exit_code, if_failed_option, progress_of, progress_option, say_detached, timeout_option
from .formats import list_options, write_list, write_one
from .output import say
from .targets import Target, TargetsType, find_batch, find_batches, flat


@click.command("wait", epilog="Example: longshore wait last --timeout 3600 && longshore logs last/1")
@click.argument("targets", metavar="TARGET...", type=TargetsType(), nargs=-1, required=True)
@click.option(
    "--for",
    "until",
    type=click.Choice(["done", "success", "started"]),
    default="done",
    show_default=True,
    help="success: no longer than it can still succeed; started: until a job runs.",
)
@timeout_option
@progress_option
@if_failed_option
@list_options
def command(
    targets: tuple[list[Target], ...],
    until: str,
    timeout: float | None,
    shown: str,
    ok_if_failed: bool,
    output: str,
    columns: Sequence[str],
) -> int:
    """Wait until the batches or the job TARGET are complete, then show them.

    Exit code 0: success; 10: failure or error; 11: cancelled; 124: the time is over; 130: Ctrl-C, which
    ends the waiting and nothing else. Of several batches the first that is not a success counts.
    """
    wanted = flat(targets)
    of_jobs = [target for target in wanted if target.job_id is not None]
    if of_jobs and len(wanted) > 1:
        raise click.UsageError("wait for one job at a time, or for whole batches")
    if of_jobs and until != "done":
        raise click.UsageError(f"--for {until} is for batches; a job is waited for until it is complete")
    deadline = None if timeout is None else time.monotonic() + timeout
    with connect(PATIENT_S) as client:
        if of_jobs:
            batch = find_batch(client, wanted[0])
            job = batch.job(wanted[0].job_id or 0)
            try:
                finished = _wait_for_job(job, timeout, shown)
            except KeyboardInterrupt:
                say_detached(batch, job.id)
                return INTERRUPTED
            if output in ("json", "yaml"):
                write_one("job", finished, output)
            else:
                write_list(jobs.JOBS, [finished], output, columns)
            return exit_code(finished.state, ok_if_failed=ok_if_failed)
        batches = find_batches(client, wanted)
        done = []
        for batch in batches:
            try:
                left = None if deadline is None else max(0.001, deadline - time.monotonic())
                done.append(_wait_for_batch(batch, until, left, shown))
            except KeyboardInterrupt:
                say_detached(batch)
                return INTERRUPTED
            except WaitTimeout:
                raise WaitTimeout(
                    f"batch {batch.id} is not there yet after {timeout:g} s; it goes on"
                ) from None
        recent.remember(client.endpoint, done)
    if output in ("json", "yaml") and len(done) == 1:
        write_one("batch", done[0], output)
    else:
        write_list(ls.BATCHES, done, output, columns)
    if until == "started":
        return 0
    codes = (exit_code(status.state, ok_if_failed=ok_if_failed) for status in done)
    return next((code for code in codes if code), 0)


def _wait_for_batch(batch: Batch, until: str, timeout: float | None, shown: str) -> BatchStatus:
    with progress_of(shown) as progress:
        if until == "done":
            status = follow(batch, progress, timeout)
        else:
            for status in batch.watch(timeout):
                progress.changed(status)
                if _is_there(status, until):
                    break
    if until != "started" and status.state != "success" and shown not in ("none", "json"):
        say(batch_failed(batch, status).message)
    return status


def _is_there(status: BatchStatus, until: str) -> bool:
    if until == "started":
        return status.n_running + status.n_completed > 0 or status.complete
    return status.complete or (until == "success" and status.state in ("failure", "cancelled"))


def _wait_for_job(job: Job, timeout: float | None, shown: str) -> JobStatus:
    if shown not in ("none", "json"):
        status = job.status()
        if not status.complete:
            say(f"job {job.batch.id}/{job.id} {status.name} is {status.state}; waiting")
    return job.wait(timeout)
