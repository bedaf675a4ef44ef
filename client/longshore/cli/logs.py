"""`longshore logs`: what a job's containers wrote, byte for byte; on a terminal without what steers it."""

from __future__ import annotations

import codecs
import io
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import click

from ..handles import Job, Log
from ..status import AttemptStatus, JobStatus
from ..terminal import clean
from .connection import PATIENT_S, QUICK_S, connect
from .exits import INTERRUPTED
from .grep import grep
from .output import say
from .targets import Target, TargetType, find_job

_ALL = 0
_BLOCK = 1 << 16
"""Bytes that are looked through at once for the beginning of the last lines."""


class _Attempt(click.ParamType[int]):
    """1, 2, 3 …, or 0 for all."""

    name = "attempt"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "all":
            return _ALL
        if not str(value).isascii() or not str(value).isdigit() or int(str(value)) < 1:
            self.fail(f"{value!r} is no attempt: write 1, 2, 3 … or all", param, ctx)
        return int(str(value))


class _Pattern(click.ParamType[re.Pattern[bytes]]):
    name = "pattern"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> re.Pattern[bytes]:
        try:
            return re.compile(str(value).encode("utf-8", "surrogateescape"))
        except re.error as error:
            self.fail(f"{value!r} is no regular expression: {error}", param, ctx)


@click.command(
    "logs", epilog="Example: longshore logs last/3 -f · longshore logs 8120/4705 --grep Error -C 2"
)
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
    "-a", "--attempt", type=_Attempt(), metavar="N",
    help="Of the N-th attempt instead of the latest, or of all.",
)  # fmt: skip
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
@click.option("--grep", "pattern", type=_Pattern(), metavar="RE", help="Only lines in which this is found.")
@click.option(
    "-C", "--context", type=click.IntRange(0), metavar="N", help="With --grep also N lines before and after."
)
def command(
    job: Target,
    container: str,
    attempt: int | None,
    follow: bool,
    n_lines: int | None,
    pattern: re.Pattern[bytes] | None,
    context: int | None,
) -> int:
    """Print what the containers of a JOB (8120/4705) wrote, stdout and stderr together.

    Whoever reads it through a pipe or from a file gets the very bytes.
    """
    if context is not None and pattern is None:
        raise click.UsageError("-C says how many lines around those that --grep finds: --grep is missing")
    with connect(PATIENT_S if follow else QUICK_S) as client:
        found = find_job(client, job)
        try:
            status = _started(found) if follow else found.status()
            chosen = _attempts(status, attempt)
            if not chosen:
                why = f" ({status.reason})" if status.reason else ""
                say(f"job {status.batch_id}/{status.job_id} has not run: it is {status.state}{why}")
            for each, name in itertools.product(chosen, _names(status, container)):
                if attempt == _ALL or container == "all":
                    say(f"== {name}{f' of attempt {each.number}' if attempt == _ALL else ''} ==")
                log = found.log(name, each.id)
                arrived = _Arrived(log, follow=follow, n_lines=n_lines)
                write(grep(arrived, pattern, context or 0) if pattern else arrived)
                if not arrived.any and n_lines != 0:
                    say(_why_empty(each, name, status))
        except KeyboardInterrupt:
            say(
                f"\nno longer following {found.batch.id}/{found.id}, which goes on. "
                f"again: longshore logs -f {found.batch.id}/{found.id}"
            )
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


def _attempts(job: JobStatus, number: int | None) -> Sequence[AttemptStatus]:
    """The attempt of that number, all, or the latest without one; none if there is none at all."""
    if number is None:
        return job.attempts[-1:]
    if number == _ALL:
        return job.attempts
    if found := [attempt for attempt in job.attempts if attempt.number == number]:
        return found
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


class _Arrived:
    """The bytes of a log as they arrive, and whether there were `any`."""

    def __init__(self, log: Log, *, follow: bool, n_lines: int | None) -> None:
        self.any = False
        self._log = log
        self._follow = follow
        self._n_lines = n_lines

    def __iter__(self) -> Iterator[bytes]:
        offset = 0 if self._n_lines is None else _start_of_last_lines(self._log, self._n_lines)
        incomplete = False
        for chunk in self._log.chunks(offset, follow=self._follow):
            if chunk.data:
                self.any = True
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


def write(chunks: Iterable[bytes]) -> None:
    """To stdout, each at once: the very bytes, but to a terminal only what it may see."""
    if sys.stdout.isatty():
        _show(chunks)
        return
    out = sys.stdout.buffer
    for chunk in chunks:
        out.write(chunk)
        out.flush()


def _show(chunks: Iterable[bytes]) -> None:
    """As text. What goes back to the start of a line begins a new one."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    last = "\n"
    for chunk in itertools.chain(chunks, [b""]):
        text = decoder.decode(chunk, final=not chunk)
        click.echo(clean(text), nl=False)
        last = text[-1:] or last
    if last != "\n":
        click.echo()
