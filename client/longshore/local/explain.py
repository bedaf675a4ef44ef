"""Why a job of a run on this machine is where it is, in words like the service's."""

from __future__ import annotations

from collections.abc import Sequence

from ..status import BatchStatus, JobStatus, Reason


def of_job(job: JobStatus, parents: Sequence[JobStatus]) -> Reason:
    """``parents`` are the jobs it depends on."""
    incomplete = [p for p in parents if not p.complete]
    match job.state:
        case "Pending":
            first = (f"{p.job_id} {p.name}".rstrip() + f" ({p.state.lower()})" for p in incomplete[:3])
            named = ", ".join(first)
            more = f" and {len(incomplete) - 3:,} more" if len(incomplete) > 3 else ""
            text = f"waits for {len(incomplete):,} of the {len(parents):,} jobs it depends on: {named}{more}"
            return Reason("PARENTS", text, jobs=tuple(p.job_id for p in incomplete[:3]))
        case "Ready":
            return Reason("NO_ROOM", "waits for free cores of this machine", "wait until jobs end")
        case "Running":
            return Reason("RUNNING", "it runs on this machine", since=job.started_at)
        case "Success":
            return Reason("SUCCESS", "it succeeded", since=job.ended_at)
        case "Failure":
            text = f"its command ended with exit code {job.exit_code}"
            return Reason("FAILURE", text, "read the end of what it wrote: job.log().tail()", job.ended_at)
        case state:
            words = {"Error": "", "Cancelled": "it was cancelled: "}.get(state, "")
            return Reason(state.upper(), words + (job.reason or state.lower()), since=job.ended_at)


def of_batch(batch: BatchStatus) -> tuple[Reason, ...]:
    """What matters most first."""
    found = []
    if batch.state == "cancelled" or batch.cancelled_at is not None:
        why = f": {batch.cancel_reason}" if batch.cancel_reason else ""
        found.append(Reason("CANCELLED", f"the batch was cancelled{why}", since=batch.cancelled_at))
    if batch.complete:
        text = f"the batch is complete: {batch.n_failed:,} of {batch.n_jobs:,} jobs failed"
        found.append(Reason("COMPLETE", text, since=batch.completed_at))
    for code, n, text in (
        ("NO_ROOM", batch.n_ready, "waiting for free cores of this machine"),
        ("RUNNING", batch.n_running, "running"),
        ("PARENTS", batch.n_pending, "waiting for jobs of the batch that are not complete"),
    ):
        if n:
            found.append(Reason(code, f"{n:,} job{' is' if n == 1 else 's are'} {text}"))
    return tuple(found)
