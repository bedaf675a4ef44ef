"""`longshore wait`: until a batch or a job is complete, whatever becomes of it."""

from __future__ import annotations

import sys

import click

from ..failures import batch_failed
from ..handles import Batch, Job
from ..progress import choose_progress
from ..status import BatchStatus, JobStatus
from . import jobs, ls
from .connection import PATIENT_S, connect
from .exits import INTERRUPTED, exit_code_of_state
from .output import Look, output_option, say, write_json, write_table
from .targets import Target, TargetType, find_batch
from .words import money


@click.command("wait")
@click.argument("target", type=TargetType())
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Wait no longer; exit code 124 then. What is waited for goes on.",
)
@click.option("--no-progress", is_flag=True, help="Say nothing before the end.")
@output_option
def command(target: Target, timeout: float | None, no_progress: bool, output: str) -> int:
    """Wait until the batch or job TARGET is complete, then show it.

    Exit code 0: success; 10: failure or error; 11: cancelled; 124: the time is over; 130: Ctrl-C, which
    ends the waiting and nothing else.
    """
    look = Look.of(sys.stdout)
    with connect(PATIENT_S) as client:
        batch = find_batch(client, target)
        try:
            if target.job_id is None:
                done = _wait_for_batch(batch, timeout, no_progress)
                if output == "json":
                    write_json("batch", done)
                else:
                    write_table(ls.COLUMNS, [done], look)
                return exit_code_of_state(done.state)
            job = _wait_for_job(batch.job(target.job_id), timeout, no_progress)
            if output == "json":
                write_json("job", job)
            else:
                write_table(jobs.COLUMNS, [job], look)
            return exit_code_of_state(job.state)
        except KeyboardInterrupt:
            _say_detached(batch, target)
            return INTERRUPTED


def _wait_for_batch(batch: Batch, timeout: float | None, silent: bool) -> BatchStatus:
    with choose_progress(silent) as progress:
        for status in batch.watch(timeout):
            progress.changed(status)
    if status.state != "success" and not silent:
        say(batch_failed(batch, status).message)
    return status


def _wait_for_job(job: Job, timeout: float | None, silent: bool) -> JobStatus:
    if not silent:
        status = job.status()
        if not status.complete:
            say(f"job {job.batch.id}/{job.id} {status.name} is {status.state}; waiting")
    return job.wait(timeout)


def _say_detached(batch: Batch, target: Target) -> None:
    seen = batch.last_status
    so_far = f", {money(seen.cost, Look(tty=True), so_far=True)}" if seen else ""
    what = f"#{batch.id}" if target.job_id is None else f"#{batch.id}/{target.job_id}"
    say(
        f"\ndetached from {what} (still running{so_far}). "
        f"reattach: longshore wait {what[1:]} · cancel: longshore cancel {batch.id}"
    )
