"""What went wrong in a batch, in words: failures grouped by how they ended, with their last lines."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice

from .errors import BatchError, BatchFailedError
from .handles import AnyBatch, AnyJob, AnyLog, Batch
from .progress import number_of_jobs
from .status import BatchStatus, FailureCounts, JobStatus, Record
from .steps import finish
from .terminal import clean, one_line

_LOOKED_AT = 1000
"""Failed jobs that are asked for one by one; and of these, those whose log is read for its last line."""
_LOGS_READ = 50
_LOGS_S = 10.0
_GROUPS = 5
_LINES = 5
_LINE_LENGTH = 200
_NEWS_EVERY_S = 2.0
_LOG_S = 5.0
"""How long to wait for the end of a log that is still on its way from its worker."""

_VARIABLE = re.compile(r"0x[0-9a-f]+|\b(?=[a-f]*[0-9])[0-9a-f]{8,}\b|[0-9]+(?:[.,][0-9]+)*", re.IGNORECASE)

_Manner = tuple[str, int | None, str]

_BY_EXIT_CODE = {
    126: "a program in the command cannot be executed: is it a script without its x bit?",
    127: "a program in the command was not found: is it in the image?",
    137: "it was killed: if it needs more memory, ask for it with .memory(…)",
}


@dataclass(frozen=True, slots=True)
class FailureGroup(Record):
    """Jobs that failed in the same way, as far as one can tell from outside."""

    n: int
    state: str
    """``Failure`` or ``Error``."""
    how: str
    """The reason or the exit code, in words."""
    last_line: str | None
    """Of the example's log; None where the logs were not read."""
    job: JobStatus
    """An example."""
    lines: tuple[str, ...]
    """The end of its log."""
    hint: str
    """What to do about it; often ``''``."""


@dataclass(frozen=True, slots=True)
class Failures(Record):
    """The failed jobs of a batch."""

    groups: tuple[FailureGroup, ...]
    """The largest first."""
    n_looked_at: int
    n_failed: int


def find_failures(batch: Batch, status: BatchStatus) -> Failures:
    """Group the failed jobs of a batch; asks for them and for their logs, of some 50 at most.

    >>> failures = find_failures(batch, batch.status())
    >>> [(group.n, group.how, group.last_line) for group in failures.groups]
    [(1, 'exit code 3', "KeyError: 'x'")]
    """
    return finish(_find(batch, status))


def batch_failed(batch: Batch, status: BatchStatus) -> BatchFailedError:
    """The error for a complete batch that is not a success. Asks for its failed jobs and their logs.

    >>> print(batch_failed(batch, batch.status()).message)
    batch 1 'hello' failed: 1 of 2 jobs, exit code 3
          1×  Failure  exit code 3: KeyError: 'x'    e.g. job 2 fail
      all: longshore failures 1    log: longshore logs 1/2    dashboard: longshore ui 1
    """
    return finish(failure_of(batch, status))


class FirstFailures:
    """Tells of each way in which jobs of a batch fail, once, while it still runs."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._known: set[tuple[_Manner, str]] = set()
        self._seen: set[int] = set()
        self._n_failed = 0
        self._looked_at = -_NEWS_EVERY_S

    def news(self, status: BatchStatus) -> list[str]:
        """A line for each way that was not told of before; asks, but not often and not for much."""
        now = time.monotonic()
        if status.n_failed == self._n_failed or now - self._looked_at < _NEWS_EVERY_S:
            return []
        if len(self._known) >= _GROUPS or len(self._seen) >= _LOGS_READ:
            return []
        self._n_failed, self._looked_at = status.n_failed, now
        try:
            return self._look()
        except BatchError:
            return []  # It is told in the end, too.

    def _look(self) -> list[str]:
        lines = []
        for job in islice(self._batch.jobs(states=("Failure", "Error")), _LOOKED_AT):
            listed = job.last_status
            if listed is None or job.id in self._seen:
                continue
            if len(self._seen) >= _LOGS_READ:
                break
            self._seen.add(job.id)
            line = ""
            if listed.state == "Failure":
                last = finish(_tail(job, "main", 1, 0.0)) or [""]
                line = clean(last[-1])[:_LINE_LENGTH]
            if (manner := (_manner(listed), signature(line))) not in self._known:
                self._known.add(manner)
                name = f" {one_line(listed.name)}" if listed.name else ""
                how = how_it_ended(listed) + (f": {line}" if line else "")
                lines.append(f"job {job.id}{name} is {listed.state}: {how}")
        return lines


async def failure_of(batch: AnyBatch, status: BatchStatus) -> BatchFailedError:
    """As `batch_failed`, for either kind of batch."""
    title = f"batch {status.id}" + (f" '{one_line(status.name)}'" if status.name else "")
    if status.state == "cancelled":
        by = f" by {clean(status.cancelled_by)}" if status.cancelled_by else ""
        why = f": {clean(status.cancel_reason)}" if status.cancel_reason else ""
        lines = [f"{title} was cancelled{by}{why}"]
        if batch._kept:
            lines.append(f"  look: longshore ui {status.id}")
        return BatchFailedError("\n".join(lines), batch=batch, status=status)
    try:
        failures = await _find(batch, status)
    except BatchError as error:  # The failure is the news; what cannot be asked must not hide it.
        lines = [f"{title} failed: {status.n_failed:,} of {number_of_jobs(status.n_jobs)}"]
        lines.append(f"  (which ones cannot be asked: {error.message})")
        return BatchFailedError("\n".join(lines), batch=batch, status=status)
    groups = failures.groups
    how = f", {groups[0].how}" if len(groups) == 1 else ""
    lines = [f"{title} failed: {status.n_failed:,} of {number_of_jobs(status.n_jobs)}{how}"]
    lines += in_words(failures)
    if batch._kept:
        log = f"    log: longshore logs {status.id}/{groups[0].job.job_id}" if groups else ""
        lines.append(f"  all: longshore failures {status.id}{log}    dashboard: longshore ui {status.id}")
    batch._failures = failures
    return BatchFailedError("\n".join(lines), batch=batch, status=status)


def in_words(failures: Failures, n_groups: int = _GROUPS) -> list[str]:
    """Each group: its number, how, an example, what to do, and the last lines of the example's log.

    Of the groups after the first `n_groups` only how many there are.
    """
    lines = []
    for group in failures.groups[:n_groups]:
        what = group.how
        if group.last_line is None and group.state == "Failure" and not group.lines:
            what += " (logs not read)"
        elif group.last_line:
            what += f": {group.last_line}"
        example = f"e.g. job {group.job.job_id} {one_line(group.job.name)}".rstrip()
        lines.append(f"  {group.n:>5,}×  {group.state:<7}  {what}    {example}")
        if group.hint:
            lines.append(f"            hint: {group.hint}")
        shown = group.lines[:-1] if group.last_line and len(group.lines) == 1 else group.lines
        lines += [f"            {line}" for line in shown]
    if rest := failures.groups[n_groups:]:
        n = sum(group.n for group in rest)
        lines.append(f"  {n:>5,}×  in {len(rest)} other way{'' if len(rest) == 1 else 's'}")
    if failures.n_failed > failures.n_looked_at:
        lines.append(f"         (of the first {failures.n_looked_at:,} failed jobs)")
    return lines


def how_it_ended(job: JobStatus) -> str:
    """One line: the reason of a job, or its exit code.

    Equal for jobs that failed in the same way.
    """
    reason = one_line(job.reason)
    code = "" if job.exit_code is None else f"exit code {job.exit_code}"
    return ", ".join(filter(None, (reason, code))) or job.state


def _manner(job: JobStatus) -> _Manner:
    """What is the same of jobs that ended in the same way, but for their logs."""
    return job.state, job.exit_code, signature(job.reason)


def signature(line: str) -> str:
    """What is the same in lines that tell of the same.

    >>> signature("KeyError: 'AC_adj' at 0x7f3a, sample 4711")
    "KeyError: 'AC_adj' at #, sample #"
    """
    return _VARIABLE.sub("#", line)


async def _find(batch: AnyBatch, status: BatchStatus) -> Failures:
    until = time.monotonic() + _LOGS_S
    if status.n_failed > _LOOKED_AT and (counted := await batch._calls.failure_counts(batch.id)) is not None:
        return await _of_very_many(batch, counted, until)
    groups: dict[tuple[_Manner, str | None], list[JobStatus]] = {}
    last_lines: dict[int, str] = {}
    n = n_read = 0
    async with aclosing(batch._calls.jobs(batch.id, None, ("Failure", "Error"))) as jobs:
        async for job in jobs:
            line = None
            if job.state == "Failure" and n_read < _LOGS_READ and time.monotonic() < until:
                n_read += 1
                tail = await _tail(AnyJob(batch, job.job_id), "main", 1, until)
                line = last_lines[job.job_id] = clean("".join(tail or ()))[:_LINE_LENGTH]
            key = _manner(job), None if line is None else signature(line)
            groups.setdefault(key, []).append(job)
            n += 1
            if n == _LOOKED_AT:
                break
    found = [
        await _group(batch, len(jobs), jobs[0], last_lines.get(jobs[0].job_id), until)
        for jobs in sorted(groups.values(), key=len, reverse=True)
    ]
    return Failures(tuple(found), n, max(n, status.n_failed))


async def _of_very_many(batch: AnyBatch, counted: FailureCounts, until: float) -> Failures:
    """As the service counts them: all, but by their logs none is told from another."""
    groups = [await _group(batch, count.n, count.job, None, until) for count in counted.counts]
    return Failures(tuple(groups), counted.n_failed, counted.n_failed)


async def _group(
    batch: AnyBatch, n: int, job: JobStatus, last_line: str | None, until: float
) -> FailureGroup:
    return FailureGroup(
        n=n,
        state=job.state,
        how=how_it_ended(job),
        last_line=last_line,
        job=job,
        lines=tuple(await _last_lines(batch, job, until)),
        hint=_hint(job),
    )


def _hint(job: JobStatus) -> str:
    reason = job.reason.lower()
    if "out of memory" in reason:
        had = job.reserved_memory_bytes
        return f"it had {had / 1e9:g} GB: .memory('{had / 5e8:g}G')" if had else "ask for more: .memory(…)"
    if "timed out" in reason:
        return "give it more time: .timeout(seconds)"
    if "out of disk" in reason:
        return "ask for more: .storage(…)"
    if reason.endswith(("does not exist", "matches nothing")):
        return "its commands did not write it" if reason.startswith("/io/") else "is this input's path right?"
    return _BY_EXIT_CODE.get(job.exit_code or 0, "")


async def _last_lines(batch: AnyBatch, listed: JobStatus, until: float) -> Iterable[str]:
    """The end of the log of the container that failed, or that it is empty; nothing if there is none."""
    job = AnyJob(batch, listed.job_id)
    try:
        containers = (await job._ask_status()).containers.values()
    except BatchError:
        return ()  # The failure is the news; what cannot be asked must not hide it.
    failed = next((c.name for c in containers if c.state in ("Failure", "Error")), "main")
    lines = await _tail(job, failed, _LINES, until)
    if lines is None:
        return ()
    silence = [] if listed.exit_code is None else ["(it wrote nothing)"]
    return [clean(line)[:_LINE_LENGTH] for line in lines] or silence


async def _tail(job: AnyJob, container: str, n: int, until: float) -> list[str] | None:
    """The last lines of a log; None if it cannot be read in time."""
    left = min(_LOG_S, max(0.1, until - time.monotonic()))
    try:
        return (await AnyLog(job, container, None, follow=True)._tail(n, None, left)).splitlines()
    except BatchError:
        return None
