"""`longshore logs`: what a job's containers wrote, byte for byte; on a terminal without what steers it."""

from __future__ import annotations

import codecs
import io
import itertools
import sys
from collections.abc import Iterator

import click

from ..handles import Job, Log
from ..status import AttemptStatus, JobStatus
from ..terminal import clean
from .connection import PATIENT_S, QUICK_S, connect
from .exits import INTERRUPTED
from .output import say
from .targets import Target, TargetType, find_job

_BLOCK = 1 << 16
"""Bytes that are looked through at once for the beginning of the last lines."""


@click.command("logs")
@click.argument(
    "job",
    type=TargetType(
        no_batch="which job of batch {batch}? Write {batch}/JOB; they are listed by: longshore jobs {batch}"
    ),
)
@click.option(
    "-c",
    "--container",
    type=click.Choice(["main", "input", "output", "all"]),
    default="main",
    show_default=True,
)
@click.option(
    "-a", "--attempt", type=click.IntRange(1), metavar="N", help="Of the N-th attempt instead of the latest."
)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on until the container has ended; waits for it to start."
)
@click.option(
    "--tail",
    "n_lines",
    type=click.IntRange(0),
    metavar="N",
    help="Only the last N lines, and with -f what follows them.",
)
def command(job: Target, container: str, attempt: int | None, follow: bool, n_lines: int | None) -> int:
    """Print what the containers of a JOB (8120/4705) wrote, stdout and stderr together.

    Whoever reads it through a pipe or from a file gets the very bytes.
    """
    with connect(PATIENT_S if follow else QUICK_S) as client:
        found = find_job(client, job)
        try:
            status = _started(found) if follow else found.status()
            chosen = _attempt(status, attempt)
            if chosen is None:
                why = f" ({status.reason})" if status.reason else ""
                say(f"job {status.batch_id}/{status.job_id} has not run: it is {status.state}{why}")
                return 0
            for name in _names(status, container):
                if container == "all":
                    say(f"== {name} ==")
                log = found.log(name, chosen.id)
                written = _write(_bytes(log, follow=follow, n_lines=n_lines))
                if not written and n_lines != 0:
                    say(_why_empty(chosen, name, status))
        except KeyboardInterrupt:
            say(f"\nno longer following {found.batch.id}/{found.id}, which goes on")
            return INTERRUPTED
    return 0


def _started(job: Job) -> JobStatus:
    """The job as soon as it has an attempt, or is complete without one."""
    status = job.status()
    if status.attempts or status.complete:
        return status
    say(f"job {status.batch_id}/{status.job_id} is {status.state}; waiting for it to start")
    for _ in job.batch.watch():
        status = job.status()
        if status.attempts or status.complete:
            break
    return status


def _attempt(job: JobStatus, number: int | None) -> AttemptStatus | None:
    """The attempt of that number, the latest without one; None if there is none at all."""
    if number is None:
        return job.attempts[-1] if job.attempts else None
    for attempt in job.attempts:
        if attempt.number == number:
            return attempt
    have = ", ".join(str(attempt.number) for attempt in job.attempts) or "none yet"
    raise click.UsageError(f"job {job.batch_id}/{job.job_id} has no attempt {number}; it has: {have}")


def _names(job: JobStatus, container: str) -> list[str]:
    if container != "all":
        return [container]
    spec = job.spec
    wanted = {"input": not spec or spec.input_files, "main": True, "output": not spec or spec.output_files}
    return [name for name, has in wanted.items() if has]


def _why_empty(attempt: AttemptStatus, name: str, job: JobStatus) -> str:
    container = attempt.containers.get(name)
    has_ended = attempt.state == "ended" or (container is not None and container.ended_ms is not None)
    if container is None or container.started_ms is None:
        why = f": {container.error}" if container and container.error else ""
        return f"{name} {'did not run' if has_ended else 'has not started'}{why}"
    return f"{name} wrote nothing" + ("" if has_ended else " yet")


def _bytes(log: Log, *, follow: bool, n_lines: int | None) -> Iterator[bytes]:
    offset = 0 if n_lines is None else _start_of_last_lines(log, n_lines)
    incomplete = False
    for chunk in log.chunks(offset, follow=follow):
        if chunk.data:
            yield chunk.data
        incomplete = chunk.incomplete
    if incomplete:
        say("the rest of this log has not arrived from its worker yet")


def _start_of_last_lines(log: Log, n_lines: int) -> int:
    """Where the last `n_lines` lines of what is there now begin. Reads backwards, a block at a time."""
    end = at = max((chunk.offset + len(chunk.data) for chunk in log.chunks(tail_bytes=1)), default=0)
    if n_lines == 0:
        return end
    missing = n_lines
    while at > 0:
        start = max(0, at - _BLOCK)
        block = log.read(start, at - start)
        if at == end and block.endswith(b"\n"):
            missing += 1  # The one that ends the last line.
        position = len(block)
        while (position := block.rfind(b"\n", 0, position)) >= 0:
            missing -= 1
            if missing == 0:
                return start + position + 1
        at = start
    return 0


def _write(chunks: Iterator[bytes]) -> int:
    """To stdout, each at once; how many bytes there were."""
    if sys.stdout.isatty():
        return _show(chunks)
    out = sys.stdout.buffer
    n = 0
    for chunk in chunks:
        n += out.write(chunk)
        out.flush()
    return n


def _show(chunks: Iterator[bytes]) -> int:
    """As text that a terminal may see. What goes back to the start of a line begins a new one."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    n = 0
    last = "\n"
    for chunk in itertools.chain(chunks, [b""]):
        n += len(chunk)
        text = decoder.decode(chunk, final=not chunk)
        click.echo(clean(text), nl=False)
        last = text[-1:] or last
    if last != "\n":
        click.echo()
    return n
