"""PURE. What the dashboard knows: the updates that tell about the service, and what follows from them.

An update is told by the feed; everything here is a fold of updates. `now` is seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longshore.status import AttemptStatus, BatchesView, BatchStatus, JobStatus, JobsView, Session

CONTAINERS = ("input", "main", "output")
FAILED = "state:bad"
"""The term of a query that leaves what has failed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows `first` to `first + n - 1` of those that match `query`, counted from the batch `anchor`."""

    query: str = ""
    first: int = 0
    n: int = 200
    anchor: int = 0


# What the feed tells.


@dataclass(frozen=True, slots=True)
class Heard:
    """The service is alive."""

    session: Session


@dataclass(frozen=True, slots=True)
class BatchesRead:
    view: BatchesView


@dataclass(frozen=True, slots=True)
class JobsRead:
    view: JobsView


@dataclass(frozen=True, slots=True)
class JobRead:
    job: JobStatus


@dataclass(frozen=True, slots=True)
class QueryRefused:
    """The service cannot read a query; the window goes on with the one before.

    `position`: of the character where it fails, from 0.
    """

    query: str
    position: int
    error: str


@dataclass(frozen=True, slots=True)
class LogEnded:
    """Nothing follows; `incomplete`: but the worker may still deliver some."""

    incomplete: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The service does not answer; it is asked again in `retry_s` seconds."""

    error: str
    tries: int
    retry_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The service said no, and will not be asked again."""

    error: str
    hint: str


Update = Heard | BatchesRead | JobsRead | JobRead | QueryRefused | LogEnded | Lost | Refused

_STALE_S = 10.0


@dataclass(frozen=True, slots=True)
class Link:
    """What is known about the connection."""

    session: Session | None = None
    heard_at: float | None = None
    lost: Lost | None = None
    lost_at: float = 0.0
    refused: Refused | None = None

    def after(self, update: Heard | Lost | Refused, now: float) -> Link:
        if isinstance(update, Lost):
            return replace(self, lost=update, lost_at=now, refused=None)
        if isinstance(update, Refused):
            return replace(self, refused=update, lost=None)
        return Link(update.session, heard_at=now)

    def state(self, now: float) -> tuple[str, str]:
        """``connecting``, ``live``, ``stale``, ``offline`` or ``refused``, and the same for people."""
        if self.refused:
            return "refused", "○ refused"
        if self.lost:
            wait_s = max(0.0, self.lost_at + self.lost.retry_s - now)
            return "offline", f"○ offline · retry {self.lost.tries} in {wait_s:.0f}s"
        if self.heard_at is None:
            return "connecting", "◐ connecting"
        silent_s = now - self.heard_at
        if silent_s > _STALE_S:
            return "stale", f"◐ stale {silent_s:.0f}s"
        return "live", "● live"


# A query.


def with_term(query: str, term: str) -> str:
    """The query with this term as well, or without it when it had it.

    >>> with_term('align', 'state:bad'), with_term('align state:bad', 'state:bad')
    ('align state:bad', 'align')
    >>> with_term('align OR sort', 'state:bad'), with_term('(align OR sort) state:bad', 'state:bad')
    ('(align OR sort) state:bad', '(align OR sort)')
    """
    terms = query.split()
    if term in terms and ("OR" not in terms or (terms[-1] == term and terms[-2] != "OR")):
        return " ".join(each for each in terms if each != term)
    return narrowed(query, term)


def narrowed(query: str, term: str) -> str:
    """What matches both."""
    return " ".join([f"({query})" if "OR" in query.split() else query, term]).strip()


# A job.


@dataclass(frozen=True, slots=True)
class Step:
    """A container of an attempt. `state`: a job's word, or ``''`` when there is no such container."""

    name: str
    state: str
    started_s: float | None = None
    """Seconds since 1970."""
    ran_ms: int | None = None
    pulled_ms: int | None = None
    """How long its image was fetched; not billed."""
    exit_code: int | None = None
    error: str = ""


def attempt_of(job: JobStatus, number: int | None) -> AttemptStatus | None:
    """The attempt of this number, or the latest; None when it has none so far."""
    chosen = [each for each in job.attempts if each.number == number]
    return (chosen or job.attempts)[-1] if job.attempts else None


def steps(job: JobStatus, number: int | None = None) -> tuple[Step, ...]:
    """The three containers of an attempt, as far as they are known.

    Their records come when the attempt ends; until then follows from its state which of them runs.
    """
    attempt = attempt_of(job, number)
    spec = job.spec
    has = {
        "input": spec is None or bool(spec.input_files),
        "main": True,
        "output": spec is None or bool(spec.output_files),
    }
    if attempt is None or attempt.state == "ended":
        # It never came to what has no record.
        rest = dict.fromkeys(CONTAINERS, "cancelled" if job.complete else "pending")
    elif attempt.state == "started":
        rest = {"input": "success", "main": "running", "output": "pending"}
    else:
        rest = {"input": "running", "main": "pending", "output": "pending"}
    found = []
    for name in CONTAINERS:
        record = attempt.containers.get(name) if attempt else None
        if record is None or record.state == "Pending":
            started = attempt.started_at if attempt and name == "main" else None
            found.append(
                Step(
                    name,
                    rest[name] if has[name] else "",
                    started_s=started.timestamp() if started and rest[name] == "running" else None,
                )
            )
            continue
        pulled = record.pull_started_ms is not None and record.pull_ended_ms is not None
        ran = record.started_ms is not None and record.ended_ms is not None
        found.append(
            Step(
                name,
                record.state.lower(),
                ran_ms=(record.ended_ms or 0) - (record.started_ms or 0) if ran else None,
                pulled_ms=(record.pull_ended_ms or 0) - (record.pull_started_ms or 0) if pulled else None,
                exit_code=record.exit_code,
                error=record.error or record.error_kind,
            )
        )
    return tuple(found)


def foremost(containers: Sequence[Step]) -> str:
    """Whose log to look at first: of the one that failed, else of the one that runs, else main."""
    for state in ("error", "failure", "running"):
        for step in containers:
            if step.state == state:
                return step.name
    return "main"


# What is done to batches.

TYPED_FROM = 100
"""With more running jobs than this, a key pressed by mistake is not enough."""


def consequences(batches: Sequence[BatchStatus]) -> list[tuple[str, str]]:
    """What becomes of the jobs of these batches when they are cancelled: a state, and words."""
    n_running = sum(batch.n_running for batch in batches)
    n_waiting = sum(batch.n_pending + batch.n_ready for batch in batches)
    n_missing = sum(batch.n_jobs - _n_known(batch) for batch in batches if not batch.closed)
    n_done = sum(batch.n_completed for batch in batches)
    lines = []
    if n_running:
        lines.append(("running", f"{_jobs(n_running, 'running')} will be stopped"))
    if n_waiting:
        lines.append(("pending", f"{_jobs(n_waiting, 'waiting')} will not run, unless always_run"))
    if n_missing > 0:
        lines.append(("open", f"{_jobs(n_missing, 'missing')} can no longer be submitted"))
    if n_done:
        lines.append(("success", f"{_jobs(n_done, 'finished')} will be kept, with what was written"))
    return lines


def confirmed_by(batches: Sequence[BatchStatus]) -> str:
    """What has to be typed before these are cancelled or deleted; '' when a key is enough."""
    if len(batches) > 1:
        return str(len(batches))
    return str(batches[0].id) if batches[0].n_running > TYPED_FROM else ""


def _n_known(batch: BatchStatus) -> int:
    return batch.n_pending + batch.n_ready + batch.n_running + batch.n_completed


def _jobs(n: int, kind: str) -> str:
    return f"{n:,} {kind} job{'' if n == 1 else 's'}"
