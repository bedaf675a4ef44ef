"""`longshore retry`: end an attempt that is stuck, so that its job is tried again."""

from __future__ import annotations

import click

from .connection import connect
from .formats import output_option, write_one
from .output import say
from .targets import Target, TargetType, find_job

_NO_BATCH = "which job of batch {batch}? Write {batch}/JOB; those that run: longshore jobs {batch} -s running"


@click.command("retry", epilog="Example: longshore retry 8120/4705 --reason 'hangs since midnight'")
@click.argument("job", type=TargetType(no_batch=_NO_BATCH))
@click.option("--reason", help="Shown to whoever looks at the attempt.")
@click.option(
    "--attempt", "attempt_id", metavar="ID", help="Only if it is still this one (see: attempts -o wide)."
)
@output_option
def command(job: Target, reason: str | None, attempt_id: str | None, output: str) -> None:
    """End the attempt of a JOB (8120/4705) that is under way; the job is tried again.

    It is not counted as a failure of the job. What ran until then is billed.
    """
    with connect() as client:
        handle = find_job(client, job)
        ended = handle.end_attempt(attempt_id, reason)
        where = f"{handle.batch.id}/{handle.id}"
        if ended is None:
            status = handle.last_status
            raise click.UsageError(
                f"job {where} is not running: it is {status.state if status else 'unknown'}"
            )
        if output != "table":
            write_one("attempt", ended, output)
            return
        if ended.state == "ended":
            say(f"attempt {ended.number} of job {where} has ended already ({ended.reason})")
        else:
            say(f"attempt {ended.number} of job {where} is being stopped; the job is tried again")
