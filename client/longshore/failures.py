"""What went wrong in a batch, in words: failures grouped by how they ended, with their last lines."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from .errors import BatchError, BatchFailedError
from .handles import Batch, Job
from .progress import number_of_jobs
from .status import BatchStatus, JobStatus
from .terminal import clean

_LOOKED_AT = 1000
_GROUPS = 5
_LINES = 5
_LOG_S = 5.0
"""How long to wait for the end of a log that is still on its way from its worker."""


def batch_failed(batch: Batch, status: BatchStatus) -> BatchFailedError:
    """The error for a complete batch that is not a success. Asks for its failed jobs and their logs."""
    title = f"batch {status.id}" + (f" '{clean(status.name)}'" if status.name else "")
    if status.state == "cancelled":
        by = f" by {clean(status.cancelled_by)}" if status.cancelled_by else ""
        why = f": {clean(status.cancel_reason)}" if status.cancel_reason else ""
        lines = [f"{title} was cancelled{by}{why}"]
    else:
        of = number_of_jobs(status.n_jobs)
        ways, lines = _groups(batch, status.n_failed)
        how = f", {ways[0]}" if len(ways) == 1 else ""
        lines.insert(0, f"{title} failed: {status.n_failed:,} of {of}{how}")
    lines.append(f"  logs: longshore logs {status.id}/JOB    dashboard: longshore ui {status.id}")
    return BatchFailedError("\n".join(lines), batch=batch, status=status)


def how_it_ended(job: JobStatus) -> str:
    """One line: the reason of a job, or its exit code.

    Equal for jobs that failed in the same way.
    """
    reason = clean(job.reason)
    code = "" if job.exit_code is None else f"exit code {job.exit_code}"
    return ", ".join(filter(None, (reason, code))) or job.state


def _groups(batch: Batch, n_failed: int) -> tuple[list[str], list[str]]:
    """In which ways jobs failed; and each with its number, an example, and the last lines of that."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], Job] = {}
    for job in islice(batch.jobs(["Failure", "Error"]), _LOOKED_AT):
        assert job.last_status is not None
        signature = job.last_status.state, how_it_ended(job.last_status)
        counts[signature] += 1
        examples.setdefault(signature, job)
    lines = []
    for signature, n in counts.most_common(_GROUPS):
        job = examples[signature]
        name = clean(job.last_status.name) if job.last_status else ""
        state, how = signature
        lines.append(f"  {n:>5,}×  {state:<7}  {how}    e.g. job {job.id} {name}".rstrip())
        lines += [f"            {line}" for line in _last_lines(job)]
    if rest := len(counts) - _GROUPS if len(counts) > _GROUPS else 0:
        lines.append(f"         and {rest} other ways to fail")
    if n_failed > _LOOKED_AT:
        lines.append(f"         (of the first {_LOOKED_AT:,} failed jobs)")
    return [how for _, how in counts], lines


def _last_lines(job: Job) -> list[str]:
    """The end of the log of the container that failed, or that it is empty; nothing if there is none."""
    try:
        status = job.status()
        containers = status.containers.values()
        failed = next((c.name for c in containers if c.state in ("Failure", "Error")), "main")
        text = job.log(failed).tail(_LINES, follow=True, timeout=_LOG_S)
    except BatchError:
        return []  # The failure is the news; a log that is missing must not hide it.
    silence = [] if status.exit_code is None else ["(it wrote nothing)"]
    return [clean(line)[:200] for line in text.splitlines()] or silence
