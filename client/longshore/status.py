"""What the service tells about batches, jobs and itself: read-only values, mappings with attributes.

Times ending in ``_at`` are aware UTC datetimes, those ending in ``_ms`` milliseconds; costs are exact
dollars, and ``cost_nanousd`` the same in billionths. States are the words of the documentation:
a batch is ``open``, ``running``, ``success``, ``failure`` or ``cancelled``; a job is ``Pending``,
``Ready``, ``Running``, ``Success``, ``Failure``, ``Error`` or ``Cancelled``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

Row = TypeVar("Row")

BatchState = Literal["open", "running", "success", "failure", "cancelled", "unknown"]
JobState = Literal["Pending", "Ready", "Running", "Success", "Failure", "Error", "Cancelled", "Unknown"]
"""What this client does not know, since the service is newer, is ``unknown``."""

_NONE: Mapping[str, Any] = MappingProxyType({})

COMPLETE_JOB_STATES = frozenset({"Success", "Failure", "Error", "Cancelled"})
"""A job in one of these stays in it."""


class Record(Mapping[str, Any]):
    """A frozen dataclass that is also a mapping of its fields and properties of money.

    >>> spec = JobSpec(command=('true',))
    >>> spec.command == spec['command'], 'image' in spec, spec.as_dict()['retries']
    (True, True, 0)
    """

    __slots__ = ()
    __dataclass_fields__: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        if key in self._keys():
            return getattr(self, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def _keys(self) -> tuple[str, ...]:
        return tuple(self.__dataclass_fields__)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, ready for JSON; times in ISO 8601.

        >>> batch.status().as_dict()['attributes']
        {'name': 'hello', 'stage': 'first'}
        """
        return {key: _plain(self[key]) for key in self}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return value


class Priced(Record):
    """A record with a cost; ``cost`` is one of its keys."""

    __slots__ = ()
    cost_nanousd: int

    @property
    def cost(self) -> Decimal:
        """Dollars, exact.

        >>> batch.status().cost > 0
        True
        """
        return Decimal(self.cost_nanousd).scaleb(-9)

    def _keys(self) -> tuple[str, ...]:
        return (*self.__dataclass_fields__, "cost")


@dataclass(frozen=True, slots=True)
class JobSpec(Record):
    """What a job is asked to do. 0 and '' mean: not said, the service's default."""

    command: tuple[str, ...]
    name: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    cpu_mcpu: int = 0
    memory_bytes: int = 0
    storage_bytes: int = 0
    parents: tuple[int, ...] = ()
    """Smaller job ids of the same batch."""
    input_files: tuple[tuple[str, str], ...] = ()
    """(source, destination): from the store to /io, before the command."""
    output_files: tuple[tuple[str, str], ...] = ()
    """(source, destination): from /io to the store, after the command."""
    always_run: bool = False
    timeout_ms: int = 0
    retries: int = 0
    always_copy_output: bool = False
    max_preempted: int | None = None
    """So many preemptions make it an Error; None: the service's limit, 20."""
    max_lost: int | None = None
    """So many attempts that were lost or refused make it one; None: the service's limit, 5."""


@dataclass(frozen=True, slots=True)
class ContainerStatus(Record):
    """One of the three containers of an attempt. Times count from when the attempt reached its worker."""

    name: str
    """``input``, ``main`` or ``output``."""
    state: str
    """``Pending``, ``Running``, ``Success``, ``Failure`` (exit code not 0) or ``Error``."""
    image: str
    exit_code: int | None
    error_kind: str
    """``''`` or e.g. ``out of memory``."""
    error: str
    pull_started_ms: int | None
    pull_ended_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    log_bytes: int


@dataclass(frozen=True, slots=True)
class AttemptStatus(Priced):
    """One execution of a job on one worker."""

    id: str
    number: int
    worker_id: str
    state: str
    """``assigned``, ``started`` or ``ended``."""
    reason: str
    """Why it ended: ``completed``, ``error``, ``revoked``, ``preempted``, ``lost`` or ``refused``."""
    message: str
    assigned_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    main_ms: int
    """Billed time of the main container."""
    reserved_mcpu: int
    cost_nanousd: int
    containers: Mapping[str, ContainerStatus]
    """By name, in the order in which they run."""
    revoked: str = ""
    """Why the service withdrew it, and who wanted that; '' if it did not."""


@dataclass(frozen=True, slots=True)
class JobStatus(Priced):
    """A job as the service saw it when it answered."""

    batch_id: int
    job_id: int
    name: str
    state: JobState
    reason: str
    """Why it is in this state, when the state does not say it all."""
    exit_code: int | None
    duration_ms: int
    """Billed main-container time over all ended attempts."""
    msec_mcpu: int
    cost_nanousd: int
    n_attempts: int
    reserved_mcpu: int
    reserved_memory_bytes: int
    attributes: Mapping[str, str]
    always_run: bool
    started_at: datetime | None
    ended_at: datetime | None
    spec: JobSpec | None = None
    """None in lists."""
    attempts: tuple[AttemptStatus, ...] = ()
    """Oldest first; empty in lists."""

    @property
    def complete(self) -> bool:
        """It stays in its state.

        >>> job.status().complete
        True
        """
        return self.state in COMPLETE_JOB_STATES

    @property
    def containers(self) -> Mapping[str, ContainerStatus]:
        """Those of the latest attempt, by name.

        >>> job.status().containers['main'].exit_code
        0
        """
        return self.attempts[-1].containers if self.attempts else _NONE

    def _keys(self) -> tuple[str, ...]:
        return (*self.__dataclass_fields__, "complete", "containers", "cost")


@dataclass(frozen=True, slots=True)
class BatchStatus(Priced):
    """A batch as the service saw it when it answered. Costs are those of completed jobs."""

    id: int
    billing_project: str
    user: str
    state: BatchState
    complete: bool
    """Every job is complete; a batch can be ``failure`` or ``cancelled`` before that."""
    closed: bool
    n_jobs: int
    n_pending: int
    n_ready: int
    n_running: int
    n_completed: int
    n_succeeded: int
    n_failed: int
    """Failure and Error."""
    n_cancelled: int
    attributes: Mapping[str, str]
    msec_mcpu: int
    cost_nanousd: int
    created_at: datetime
    closed_at: datetime | None
    completed_at: datetime | None
    cancelled_at: datetime | None
    cancelled_by: str
    cancel_reason: str
    cancel_after_n_failures: int = 0
    """As it was asked for; 0: never."""
    rerun_of: int = 0
    """The batch whose failed jobs these are; 0: of none."""
    reruns: tuple[int, ...] = ()
    """Batches that run failed jobs of this one again; empty in lists."""
    callback: str = ""
    """URL that is told when the batch is complete."""
    callback_outcome: str = ""
    """What came of that, e.g. ``200 OK``; empty: not called yet."""
    unfinished_nanousd: int = 0
    """What jobs that are not complete have run up so far, as of a minute ago at most; not in the cost."""

    @property
    def unfinished_cost(self) -> Decimal:
        """The same in dollars.

        >>> batch.status().unfinished_cost == 0
        True
        """
        return Decimal(self.unfinished_nanousd).scaleb(-9)

    @property
    def name(self) -> str:
        """The attribute of that name, or ``''``.

        >>> batch.status().name
        'hello'
        """
        return self.attributes.get("name", "")

    def _keys(self) -> tuple[str, ...]:
        return (*self.__dataclass_fields__, "name", "cost", "unfinished_cost")


@dataclass(frozen=True, slots=True)
class Session(Record):
    """Who the caller is to the service, and what the service is."""

    user: str
    version: str
    embedded: bool
    """A service on one machine, of one user."""
    store_folder: str
    """Files of jobs may lie below it."""
    remote_tmpdir: str
    """Where intermediate files go."""
    notices: tuple[str, ...]
    """What the user should know."""
    largest_worker_mcpu: int
    default_image: str
    now: datetime | None = None
    """By the service's clock."""
    frozen: str = ""
    """Not empty: no job starts just now; why. Also one of the notices."""
    admin: bool = False
    projects: tuple[Membership, ...] = ()
    service_identity: str = ""
    """The account that moves the user's files."""
    email: str = ""
    token_id: str = ""
    token_scope: str = ""
    has_login: bool = False
    """One can log in with a browser."""


@dataclass(frozen=True, slots=True)
class Membership(Record):
    """What somebody is in a billing project."""

    project: str
    owner: bool
    """Else a member."""


@dataclass(frozen=True, slots=True)
class TokenStatus(Record):
    """One of the caller's tokens; never the token itself."""

    id: str
    name: str
    scope: str
    """``read``, ``submit`` or ``all``."""
    created_at: datetime
    expires_at: datetime | None
    """Moves on with its use, up to `ends_at`; None: never."""
    ends_at: datetime | None
    last_used_at: datetime | None
    """To the hour."""
    current: bool
    """With which this was asked."""


@dataclass(frozen=True, slots=True)
class UserStatus(Record):
    """A user, for admins."""

    name: str
    admin: bool
    email: str
    has_come: bool
    """Has logged in; else was invited, or comes with tokens only."""
    service_identity: str
    """The account that moves their files."""
    created_at: datetime
    suspended_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditEntry(Record):
    """One deed, or refusals that are alike, for admins."""

    id: int
    at: datetime
    actor: str
    role: str
    token_id: str
    peer: str
    method: str
    batch_id: int | None
    object: str
    outcome: str
    request_id: str
    times: int


@dataclass(frozen=True, slots=True)
class BatchDeed(Record):
    """What somebody did to a batch."""

    at: datetime
    user: str
    deed: str


@dataclass(frozen=True, slots=True)
class Pause(Record):
    """Since when, by whom and why nothing new starts, in a service or on a worker."""

    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RunningAttempt(Record):
    """An attempt that was given to a worker and has not ended."""

    batch_id: int
    job_id: int
    attempt_id: str
    number: int
    user: str
    worker_id: str
    mcpu: int
    assigned_at: datetime
    started_at: datetime | None
    """When its main container started."""


@dataclass(frozen=True, slots=True)
class ServiceStatus(Record):
    """Whether a service is frozen, and what still runs."""

    frozen: Pause | None
    n_workers: int
    n_draining: int
    capacity_mcpu: int
    free_mcpu: int
    n_running: int
    running: tuple[RunningAttempt, ...]
    """Of the running attempts the 100 that began first."""


@dataclass(frozen=True, slots=True)
class WorkerStatus(Record):
    """A worker, for admins."""

    id: str
    name: str
    state: str
    """``active``, or why it is given nothing: ``draining``, ``away``, ``silent``, ``leaving``, ``shunned``,
    ``shrunk``, ``lost``."""
    runtime: str
    capacity_mcpu: int
    free_mcpu: int
    n_running: int
    joined_at: datetime | None
    """None of one that is lost; so the next."""
    heard_at: datetime | None
    draining: Pause | None
    running: tuple[RunningAttempt, ...] = ()
    """Those that began first; empty in lists."""


@dataclass(frozen=True, slots=True)
class Reason(Record):
    """Why a batch or a job is where it is: what keeps it from running, or how it ended.

    >>> print(job.why())
    it succeeded
    """

    code: str
    """For programs, e.g. ``NO_ROOM``; more may come."""
    text: str
    """A line for people."""
    fix: str = ""
    """What to do about it; may be empty."""
    since: datetime | None = None
    jobs: tuple[int, ...] = ()
    """Jobs of the same batch that it names."""

    def __str__(self) -> str:
        return f"{self.text}\n{self.fix}" if self.fix else self.text


@dataclass(frozen=True, slots=True)
class Page(Record, Generic[Row]):
    """A piece of a list."""

    rows: tuple[Row, ...]
    more: bool
    """The list goes on."""
    seq: int
    """`Client.watch_events` after this number misses nothing that happened since."""


@dataclass(frozen=True, slots=True)
class FailureCount(Record):
    """Jobs that failed in the same way: with the same state, exit code and, but for its numbers, reason."""

    n: int
    job: JobStatus
    """The one with the least id."""


@dataclass(frozen=True, slots=True)
class FailureCounts(Record):
    """In which ways the jobs of a batch failed."""

    n_failed: int
    """In all, also in ways that are not among these."""
    counts: tuple[FailureCount, ...]
    """The most frequent first."""


@dataclass(frozen=True, slots=True)
class QueryCompletion(Record):
    """What a query may go on with."""

    text: str
    n: int | None
    """How many there are of it; None: nobody counted."""


@dataclass(frozen=True, slots=True)
class QueryCompletions(Record):
    """How a query that is being written may go on, the most frequent first."""

    first: int
    """Each replaces the characters from there ..."""
    length: int
    """... so many."""
    found: tuple[QueryCompletion, ...]
    n_looked_at: int
    """Counted was among so many, the newest; 0: among all."""


@dataclass(frozen=True, slots=True)
class Event(Record):
    """A fact that the service has committed: that, and about what; how it is now has to be asked."""

    kind: str
    """In the past tense, e.g. ``batch created`` or ``attempt ended``."""
    batch_id: int
    """0 for what concerns no batch."""
    jobs: tuple[tuple[int, int], ...]
    """Ranges of job ids, both ends included; empty for what concerns the batch."""


@dataclass(frozen=True, slots=True)
class Events(Record):
    """Events that were committed together; without any it says that the service is alive."""

    seq: int
    """Of the last one."""
    events: tuple[Event, ...]
    reset: bool
    """Earlier events are no longer known: read again what you show."""


@dataclass(frozen=True, slots=True)
class LogChunk(Record):
    """A piece of a log; the last one of a reading has `end`."""

    offset: int
    data: bytes
    end: bool = False
    incomplete: bool = False
    """With `end`: the worker has not delivered the rest (yet)."""


@dataclass(frozen=True, slots=True)
class BatchesView(Record):
    """What a window of batches shows: whole at first, then what changed; empty: the service is alive."""

    whole: bool
    """`rows` are all that the window shows; else those of it that changed."""
    rows: tuple[BatchStatus, ...]
    """Newest first."""
    first: int
    """The position of the window's first row, from 0."""
    n_matching: int
    """Batches that match the query, not counting those newer than the anchor."""
    n_newer: int
    """Of these: they are counted, not shown, so that rows stay where they are."""
    anchor: int
    """The id of the batch from which positions count."""
    n_total: int
    """Batches, also those that do not match."""
    query: str
    """That this answers."""


@dataclass(frozen=True, slots=True)
class JobsView(Record):
    """What a window of jobs shows: whole at first, then what changed; empty: the service is alive."""

    whole: bool
    """`rows` are all that the window shows; else those of it that changed."""
    rows: tuple[JobStatus, ...]
    """By id."""
    first: int
    """The position of the window's first row, from 0."""
    n_matching: int
    """Jobs that match the query."""
    batch: BatchStatus | None
    """None when the view is empty."""
    query: str
    """That this answers."""
    n_searched: int = 0
    """Not 0: looking for words took too long, and ended after so many jobs."""
