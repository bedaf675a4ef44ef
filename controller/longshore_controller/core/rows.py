"""PURE. What rows record: plain values, taken from the state after each step and written by the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from longshore_controller.core.model import (
    AttemptState,
    BatchState,
    ContainerRecord,
    EndReason,
    JobState,
    Pause,
    StagedJobs,
    WorkerState,
)


class BatchRow(NamedTuple):
    batch_id: int
    user: str
    billing_project: str
    request_id: str
    request_sha256: bytes
    attributes: dict[str, str]
    n_jobs: int
    state: BatchState
    n_pending: int
    n_ready: int
    n_running: int
    n_succeeded: int
    n_failed: int
    n_cancelled: int
    msec_mcpu: int
    cost_nanousd: int
    created_at_ms: int
    closed_at_ms: int | None
    completed_at_ms: int | None
    cancelled_at_ms: int | None
    cancelled_by: str
    cancel_reason: str
    deleted_at_ms: int | None
    cancel_after_n_failures: int = 0
    callback: str = ""
    callback_outcome: str = ""
    rerun_of: int = 0
    unfinished_nanousd: int = 0
    """What its unfinished jobs have run up so far, by the last word of their workers."""


class JobRow(NamedTuple):
    batch_id: int
    job_id: int
    state: JobState
    reason: str
    exit_code: int | None
    attempt_id: str | None
    n_attempts: int
    n_preempted: int
    n_lost: int
    n_failed: int
    duration_ms: int
    msec_mcpu: int
    cost_nanousd: int
    started_at_ms: int | None
    ended_at_ms: int | None


class JobRangeRow(NamedTuple):
    """Jobs first..last got this state, and nothing else about them changed but reason and end."""

    batch_id: int
    first: int
    last: int
    state: JobState
    reason: str
    ended_at_ms: int | None


class AttemptRow(NamedTuple):
    attempt_id: str
    batch_id: int
    job_id: int
    number: int
    worker_id: str
    mcpu: int
    state: AttemptState
    reason: EndReason | None
    message: str
    revoked: str
    assigned_at_ms: int
    started_at_ms: int | None
    ended_at_ms: int | None
    main_ms: int
    cost_nanousd: int
    containers: tuple[ContainerRecord, ...]


class WorkerRow(NamedTuple):
    worker_id: str
    name: str
    capacity_mcpu: int
    runtime: str
    state: WorkerState
    joined_at_ms: int
    lost_at_ms: int | None
    reason: str


SERVICE = ""
"""What is paused when all is; else it is a worker's id."""


class DeletionRow(NamedTuple):
    """A batch that has left memory was deleted, or is not any more."""

    batch_id: int
    deleted_at_ms: int | None


class ReopenedRow(NamedTuple):
    """A batch that was complete with so many jobs is not any more; its other changes follow."""

    batch_id: int
    n_jobs: int


class UpdateRow(NamedTuple):
    """By which request jobs were added to a batch."""

    batch_id: int
    request_id: str
    request_sha256: bytes
    first_job_id: int
    n_jobs: int
    at_ms: int


class LedgerRow(NamedTuple):
    """What a batch used of a resource on a UTC day, by its attempts that have ended; of one commit, a sum."""

    batch_id: int
    day: int
    resource: str
    project: str
    user: str
    mcpu_ms: int
    nanousd: int


class ProjectRow(NamedTuple):
    name: str
    limit_nanousd: int | None
    hard: bool
    closed: bool
    spent_nanousd: int


class RateRow(NamedTuple):
    from_day: int
    resource: str
    usd_per_core_hour: str


class CalledBackRow(NamedTuple):
    """What came of calling the callback of a batch that has left memory."""

    batch_id: int
    callback_outcome: str


class AuditRow(NamedTuple):
    """Who did what, or was refused what; it holds no secret."""

    at_ms: int
    actor: str
    role: str
    token_id: str
    peer: str
    method: str
    batch_id: int | None = None
    object: str = ""
    outcome: str = "OK"
    request_id: str = ""
    times: int = 1


@dataclass(slots=True)
class Changes:
    """What the events since the last `take_changes` did to rows. Ranges are written first, in order."""

    batches: dict[int, BatchRow] = field(default_factory=dict)
    job_ranges: list[JobRangeRow] = field(default_factory=list)
    jobs: dict[tuple[int, int], JobRow] = field(default_factory=dict)
    attempts: dict[str, AttemptRow] = field(default_factory=dict)
    workers: dict[str, WorkerRow] = field(default_factory=dict)
    deletions: list[DeletionRow] = field(default_factory=list)
    called_back: list[CalledBackRow] = field(default_factory=list)
    ledger: dict[tuple[int, int, str], LedgerRow] = field(default_factory=dict)
    """By batch, day and resource: to be added to what is there."""
    projects: dict[str, ProjectRow] = field(default_factory=dict)
    rates: dict[int, list[RateRow]] = field(default_factory=dict)
    """By first day: the whole card."""
    pauses: dict[str, Pause | None] = field(default_factory=dict)
    """By SERVICE or worker id: nothing new starts there; None: it does again."""
    bunches: list[tuple[int, int, StagedJobs]] = field(default_factory=list)
    """Jobs that came with their batch or were added to it, by batch id and the first one's id. Their rows
    are written before all others."""
    reopened: list[ReopenedRow] = field(default_factory=list)
    updates: list[UpdateRow] = field(default_factory=list)
    audit: list[AuditRow] = field(default_factory=list)
    """Whose deeds the events are."""
    owners: dict[int, tuple[str, str]] = field(default_factory=dict)
    """batch id -> user and billing project, of every batch an event was about: for whom it is news."""
