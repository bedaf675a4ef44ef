"""PURE. Everything that can happen, in the past tense: the table of contents of the product.

Events hold ids, numbers and ranges, never specs. They are what is committed, what memory folds
(``state.py``), what rows record (``store.py``) and what followers read. ``event.proto`` says the
same for the wire; ``wire.py`` translates. None is ever changed; those of attempts are not ``frozen`` only
because that makes them five times as slow to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from longshore_controller.core.model import (
    ContainerRecord,
    EndReason,
    JobColumns,
    JobState,
    Range,
    StagedJobs,
)

if TYPE_CHECKING:
    from longshore_controller.core.state import Batch


@dataclass(frozen=True, slots=True)
class BatchCreated:
    """A user created a batch; it is open."""

    batch_id: int
    user: str
    billing_project: str
    request_id: str
    request_sha256: bytes
    n_jobs: int
    attributes: dict[str, str]
    at_ms: int
    cancel_after_n_failures: int = 0
    """0: never."""
    callback: str = ""
    """URL that is told of the batch's completion; empty: none."""
    rerun_of: int = 0
    """The batch whose failed jobs these are; 0: of none."""


@dataclass(frozen=True, slots=True)
class BatchClosed:
    """All declared jobs are there; they may run from now on.

    ``columns`` are the jobs themselves, read from their immutable rows; they are not part of the
    fact and are not written to the log: a fold of the log takes them from the rows again.
    """

    batch_id: int
    at_ms: int
    columns: JobColumns | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class BatchReopened:
    """A batch that was complete gets more jobs, in the same commit; it is back in memory.

    ``batch`` is how it was left, read from its rows; like the columns of `BatchClosed` it is not part of
    the fact.
    """

    batch_id: int
    user: str
    n_jobs: int
    """Until now."""
    at_ms: int
    batch: Batch | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class JobsAdded:
    """More jobs are there, from ``first_job_id`` on; they may run from now on.

    ``added`` are the jobs themselves, as they came; they are not part of the fact.
    """

    batch_id: int
    request_id: str
    request_sha256: bytes
    first_job_id: int
    n_jobs: int
    at_ms: int
    added: StagedJobs | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class BatchCancelled:
    """Somebody asked to cancel: no job that is not always_run starts from now on."""

    batch_id: int
    by: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class BatchDeleted:
    """Somebody deleted the batch: hidden from lists and reads; billing stays."""

    batch_id: int
    by: str
    user: str
    """Whose batch it is; it may have left memory."""
    at_ms: int
    billing_project: str = ""


@dataclass(frozen=True, slots=True)
class BatchUndeleted:
    """Somebody undid that: the batch is in lists again. What was cancelled with it stays so."""

    batch_id: int
    by: str
    user: str
    """Whose batch it is; it may have left memory."""
    at_ms: int
    billing_project: str = ""


@dataclass(frozen=True, slots=True)
class BatchCompleted:
    """Every job is in a final state; the batch leaves the controller's memory."""

    batch_id: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class BatchCalledBack:
    """The batch is complete and its callback was called."""

    batch_id: int
    user: str
    """Whose batch it is; it has left memory."""
    outcome: str
    at_ms: int
    billing_project: str = ""


@dataclass(frozen=True, slots=True)
class JobsReady:
    """Their last parent completed and they may run."""

    batch_id: int
    jobs: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class JobsCancelled:
    """They will not run: the batch was cancelled, or a parent did not succeed."""

    batch_id: int
    jobs: tuple[Range, ...]
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker was admitted, or came back after it was lost."""

    worker_id: str
    name: str
    capacity_mcpu: int
    runtime: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """Its lease and the grace ran out; all its attempts ended in the same commit, before this."""

    worker_id: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ServiceFrozen:
    """No attempt is assigned from now on; what runs goes on. Said again, it replaces who and why."""

    by: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ServiceThawed:
    """Attempts are assigned again."""

    by: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """The worker is given nothing new, also when it is lost and comes back; what it runs goes on."""

    worker_id: str
    by: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class WorkerUndrained:
    """The worker is given attempts again."""

    worker_id: str
    by: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class RatesSet:
    """From a UTC day on, which had not begun then, core-hours cost this."""

    from_day: int
    prices: dict[str, str]
    """By resource: dollars per core and hour, exact, as ``1/100`` or ``0.01``."""
    by: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class BillingProjectSet:
    """What a billing project may spend, and whether it may spend at all."""

    project: str
    limit_nanousd: int | None
    """None: no limit."""
    hard: bool
    """What runs is cancelled, too, when the limit is reached."""
    closed: bool
    by: str
    at_ms: int


@dataclass(slots=True)
class AttemptAssigned:
    """The job got a worker, which is told after this is committed and never before."""

    attempt_id: str
    batch_id: int
    job_id: int
    number: int
    worker_id: str
    mcpu: int
    at_ms: int


@dataclass(slots=True)
class AttemptStarted:
    """Its main container started; billing runs."""

    attempt_id: str
    batch_id: int
    job_id: int
    at_ms: int


@dataclass(slots=True)
class AttemptProgressed:
    """It still runs and was billed so far; at most once a minute.

    So that the loss of a worker and of the controller together costs at most a minute of the bill.
    """

    attempt_id: str
    batch_id: int
    job_id: int
    main_ms: int


@dataclass(frozen=True, slots=True)
class AttemptRevoked:
    """The controller withdrew the attempt; its worker must stop it and say so."""

    attempt_id: str
    batch_id: int
    job_id: int
    worker_id: str
    reason: str
    at_ms: int


@dataclass(slots=True)
class AttemptEnded:
    """The attempt is over, once and for all, and what that means for its job.

    ``job_state`` READY: it is tried again. The cost is the attempt's, by the rates of its day.
    """

    attempt_id: str
    batch_id: int
    job_id: int
    reason: EndReason
    message: str
    main_ms: int
    cost_nanousd: int
    job_state: JobState
    exit_code: int | None
    job_reason: str
    at_ms: int
    containers: tuple[ContainerRecord, ...] = ()


Event = (
    BatchCreated
    | BatchClosed
    | BatchReopened
    | JobsAdded
    | BatchCancelled
    | BatchDeleted
    | BatchUndeleted
    | BatchCompleted
    | BatchCalledBack
    | JobsReady
    | JobsCancelled
    | WorkerJoined
    | WorkerLost
    | ServiceFrozen
    | ServiceThawed
    | WorkerDraining
    | WorkerUndrained
    | RatesSet
    | BillingProjectSet
    | AttemptAssigned
    | AttemptStarted
    | AttemptProgressed
    | AttemptRevoked
    | AttemptEnded
)
