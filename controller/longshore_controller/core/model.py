"""PURE. The nouns of the core: states, limits, and the values that travel between its parts.

Units: ``_mcpu`` thousandths of a core, ``_ms`` milliseconds, ``_at_ms`` milliseconds of UTC since
1970, ``_nanousd`` billionths of a US dollar.

What comes with every attempt is not ``frozen``, which makes it five times as slow to make, but never changed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

BYTES_PER_CORE = 3_750_000_000
"""Memory that comes with one core: 3.75 GB (the seed, section Billing)."""

MAX_PREEMPTED = 20
"""How often a job may be preempted before it is an Error (SPEC 4.1)."""

MAX_LOST = 5
"""How often a job's attempt may be lost or refused before the job is an Error (SPEC 4.1)."""


class Update(NamedTuple):
    """Jobs that were added to a batch by one request: ``n_jobs`` of them from ``first_job_id`` on."""

    request_sha256: bytes
    first_job_id: int
    n_jobs: int


class Retries(NamedTuple):
    """How often a job is tried again, by who was to blame; packed into 30 bits, 0 for most jobs."""

    own: int = 0
    """Failures of the user's own that are tried again."""
    max_preempted: int = MAX_PREEMPTED
    """So many preemptions make the job an Error."""
    max_lost: int = MAX_LOST
    """So many attempts that were lost or refused make it one."""

    @classmethod
    def pack(cls, own: int = 0, max_preempted: int = 0, max_lost: int = 0) -> int:
        """0 of the last two: not said. None is greater than 1,023."""
        return own | max_preempted << 10 | max_lost << 20

    @classmethod
    def unpack(cls, packed: int) -> Retries:
        return cls(packed & 1023, packed >> 10 & 1023 or MAX_PREEMPTED, packed >> 20 or MAX_LOST)


class JobState(IntEnum):
    """Where a job is. The numbers are those of ``types.proto`` and of the database; all are below 8."""

    PENDING = 1
    READY = 2
    RUNNING = 3
    SUCCESS = 4
    FAILURE = 5
    ERROR = 6
    CANCELLED = 7

    @property
    def is_complete(self) -> bool:
        return self >= JobState.SUCCESS


class BatchState(IntEnum):
    """Where a batch is: derived, see :func:`batch_state`."""

    OPEN = 1
    RUNNING = 2
    SUCCESS = 3
    FAILURE = 4
    CANCELLED = 5


class AttemptState(IntEnum):
    """Where an attempt is. *A terminal state absorbs; otherwise the greater wins.*"""

    ASSIGNED = 10
    STARTED = 30
    ENDED = 90


class WorkerState(IntEnum):
    """Where a worker is. Set to ACTIVE when it says Hello, to LOST when its lease and grace ran out."""

    ACTIVE = 1
    LOST = 2


@dataclass(frozen=True, slots=True)
class Pause:
    """Somebody said that nothing new is to start, in the whole service or on one worker."""

    by: str
    reason: str
    at_ms: int


class Unfit(Enum):
    """Why a worker is given nothing just now. Placing and explaining ask for it in the same place."""

    DRAINING = "draining"
    AWAY = "away"
    SILENT = "silent"
    LEAVING = "leaving"
    SHUNNED = "shunned"
    SHRUNK = "shrunk"


class EndReason(IntEnum):
    """Why an attempt ended; who is to blame decides what becomes of the job."""

    COMPLETED = 1
    ERROR = 2
    REVOKED = 3
    PREEMPTED = 4
    LOST = 5
    REFUSED = 6


class ContainerName(IntEnum):
    """The containers of an attempt, in the order in which they run."""

    INPUT = 1
    MAIN = 2
    OUTPUT = 3


class ErrorKind(IntEnum):
    """What was wrong with a container when it was not just its exit code."""

    NONE = 0
    IMAGE_NOT_FOUND = 1
    IMAGE_NO_ACCESS = 2
    IMAGE_BAD_NAME = 3
    IMAGE_UNREACHABLE = 4
    CANNOT_START = 5
    OUT_OF_MEMORY = 6
    OUT_OF_DISK = 7
    TIMED_OUT = 8
    FILES = 9


@dataclass(slots=True)
class ContainerRecord:
    """What one container of an attempt did; times are ms since the attempt reached its worker."""

    container: ContainerName
    image: str = ""
    pull_started_ms: int | None = None
    pull_ended_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    exit_code: int | None = None
    error_kind: ErrorKind = ErrorKind.NONE
    error: str = ""
    log_bytes: int = 0


@dataclass(slots=True)
class Report:
    """What a worker says about one of its attempts. Input, not truth."""

    attempt_id: str
    state: AttemptState
    main_ms: int = 0
    reason: EndReason | None = None
    message: str = ""
    containers: tuple[ContainerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Hello:
    """What a worker says first: what it is and what it still holds."""

    worker_id: str
    name: str
    boot_id: str
    incarnation: str
    capacity_mcpu: int
    runtime: str
    held: tuple[HeldAttempt, ...] = ()
    spooled: tuple[str, ...] = ()


@dataclass(slots=True)
class HeldAttempt:
    """An attempt that a worker has accepted and not ended."""

    attempt_id: str
    main_ms: int = 0


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told: complete = the attempts it should hold are exactly run + keep."""

    complete: bool
    run: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    revoke: tuple[str, ...] = ()


Range = tuple[int, int]
"""Job ids first..last, both included."""


def ranges(ids: list[int]) -> tuple[Range, ...]:
    """Sorted, distinct ids as the fewest ranges."""
    out: list[Range] = []
    for i in ids:
        if out and out[-1][1] == i - 1:
            out[-1] = (out[-1][0], i)
        else:
            out.append((i, i))
    return tuple(out)


class RefusalKind(Enum):
    """The closed set of ways to say no; ``errors.py`` maps them to gRPC codes, one to one."""

    INVALID_ARGUMENT = "invalid argument"
    NOT_FOUND = "not found"
    ALREADY_EXISTS = "already exists"
    PERMISSION_DENIED = "permission denied"
    UNAUTHENTICATED = "unauthenticated"
    FAILED_PRECONDITION = "failed precondition"
    RESOURCE_EXHAUSTED = "resource exhausted"
    UNAVAILABLE = "unavailable"


class Refusal(Exception):
    """A request is refused: what is wrong, the value, and what to do. Nothing was changed."""

    def __init__(self, kind: RefusalKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class MemberRole(IntEnum):
    """What somebody is in a billing project."""

    MEMBER = 1
    OWNER = 2


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks, and at what: what the directory of people said of somebody a moment ago."""

    name: str
    projects: frozenset[str] = frozenset()
    """Billing projects that they are a member of, or an owner."""
    admin: bool = False
    owned: frozenset[str] = frozenset()
    """Those of the projects that they own."""

    def sees(self, user: str, project: str) -> bool:
        """A batch of that user in that billing project."""
        return user == self.name or self.admin or project in self.projects

    def ends(self, user: str, project: str) -> bool:
        """They may cancel it, and delete it."""
        return user == self.name or self.admin or project in self.owned


def reserved_mcpu(cpu_mcpu: int, memory_bytes: int) -> int:
    """Cores reserved and billed for a request (SPEC R1, the seed's first billing note).

    The greater of the cores asked for and the cores that the memory is worth; the memory's worth is
    exact up to one core and rounded up to a whole core above one. 0 means not said: 1 core, and the
    memory that comes with the cores.

    >>> reserved_mcpu(1000, 7_000_000_000), reserved_mcpu(100, 375_000_000), reserved_mcpu(0, 0)
    (2000, 100, 1000)
    """
    worth = -(-memory_bytes * 1000 // BYTES_PER_CORE)
    if worth > 1000:
        worth = -(-worth // 1000) * 1000
    return max(cpu_mcpu or 1000, worth)


def memory_of(mcpu: int) -> int:
    """Bytes of memory that come with reserved cores: the job gets the whole share."""
    return BYTES_PER_CORE * mcpu // 1000


def batch_state(
    *, closed: bool, cancelled: bool, n_jobs: int, n_succeeded: int, n_failed: int, n_cancelled: int
) -> BatchState:
    """The seed's batch states, in the order of SPEC 4.2. ``n_failed`` counts Failure and Error.

    An empty batch is a success, unless it is empty because it was cancelled while it was open.
    """
    if not closed:
        return BatchState.OPEN
    if n_failed:
        return BatchState.FAILURE
    if n_succeeded == n_jobs and not (cancelled and n_jobs == 0):
        return BatchState.SUCCESS
    if cancelled or n_cancelled:
        return BatchState.CANCELLED
    return BatchState.RUNNING


# One byte of JobColumns.states: a JobState and these two bits.
ALWAYS_RUN = 8
"""The job runs whatever became of its parents, also in a cancelled batch. Never changes."""
DOOMED = 16
"""Some parent did not succeed. Only while Pending, only without ALWAYS_RUN."""
STATE_MASK = 7
_JOB_STATES: tuple[JobState, ...] = (JobState.PENDING, *JobState)
"""By number, of which 0 is none."""

CLASSES = 126
"""Sizes of job that a batch tells apart; with more distinct sizes, neighbours share a class."""
ALWAYS_CLASS = 128
"""Added to the class of a Ready job that is always_run."""


@dataclass(slots=True, eq=False)
class JobColumns:
    """The jobs of one batch as arrays: some 14 bytes a job and 4 a dependency, no objects.

    Position i is job i + 1. ``children[child_index[i]:child_index[i + 1]]`` are the positions of
    the jobs that depend on i, and after them those of ``later[i]``, which were added to the batch.
    ``waiting[i]`` counts the parents of i that are not complete.
    ``ready[i]`` is 0 unless the job is Ready; then it is 1 + its size class, plus ALWAYS_CLASS for
    always_run, so that the next Ready job of a size is found at the speed of memory.
    """

    states: bytearray
    waiting: array[int]
    mcpu: array[int]
    child_index: array[int]
    children: array[int]
    retries: dict[int, int]
    """By job id, as `Retries` packs them; only of jobs that say something of it."""
    ready: bytearray
    sizes: list[int]
    """Reserved mcpu of the smallest job of each class, ascending."""
    later: dict[int, array[int]] = field(default_factory=dict)
    exact: bool = True
    """Each size has a class of its own."""

    def __eq__(self, other: object) -> bool:
        """The same jobs, however they came together: of many sizes the classes may differ."""
        if not isinstance(other, JobColumns):
            return NotImplemented
        return (
            self.states == other.states
            and self.waiting == other.waiting
            and self.mcpu == other.mcpu
            and self.retries == other.retries
            and all(self.children_of(i) == other.children_of(i) for i in range(1, len(self) + 1))
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def empty(cls) -> JobColumns:
        """A batch without jobs."""
        return cls.build(bytearray(), array("I"))

    @classmethod
    def build(
        cls,
        states: bytearray,
        mcpu: array[int],
        parents: list[bytes] | None = None,
        retries: dict[int, int] | None = None,
    ) -> JobColumns:
        """From state bytes, reserved cores, and per job its parents' ids (packed native u32).

        A job's waiting count is that of its parents which are not complete; a Pending job with a
        complete parent that is not Success is DOOMED unless ALWAYS_RUN. So the same call serves a
        batch that was never run and one that is loaded again in the middle.
        """
        n = len(states)
        counts = array("I", bytes(4 * (n + 1)))
        lists: list[array[int]] = []
        for packed in parents or ():
            ids = array("I")
            ids.frombytes(packed)
            lists.append(ids)
            for p in ids:
                counts[p] += 1
        for i in range(n):
            counts[i + 1] += counts[i]
        children = array("I", bytes(4 * counts[n]))
        fill = array("I", counts)
        waiting = array("I", bytes(4 * n))
        for i, ids in enumerate(lists):
            for p in ids:
                children[fill[p - 1]] = i
                fill[p - 1] += 1
                parent = states[p - 1] & STATE_MASK
                if parent < JobState.SUCCESS:
                    waiting[i] += 1
                elif parent != JobState.SUCCESS and states[i] == JobState.PENDING:
                    states[i] |= DOOMED
        distinct = sorted(set(mcpu))
        columns = cls(states, waiting, mcpu, counts, children, retries or {}, bytearray(n), _thin(distinct))
        columns.exact = len(distinct) <= CLASSES
        columns._classify(0)
        return columns

    def extend(self, jobs: StagedJobs) -> bool:
        """More jobs, none of which has run, after those that are here. True: classes have other numbers.

        Their parents may be complete already: then they wait for them no more, or are DOOMED by them. What
        it costs does not depend on how many there were, but for a copy of `ready` for a size that is new.
        """
        before, n = len(self), len(jobs)
        self.states += initial_states(jobs.parents, jobs.always_run)
        self.mcpu += jobs.mcpu
        self.retries.update((i, r) for i, r in enumerate(jobs.retries, before + 1) if r)
        self.waiting.frombytes(bytes(4 * n))
        self.ready += bytes(n)
        self.child_index.extend([self.child_index[-1]] * n)
        for at, packed in enumerate(jobs.parents, before):
            parents = array("I")
            parents.frombytes(packed)
            for p in parents:
                self.later.setdefault(p - 1, array("I")).append(at)
                parent = self.states[p - 1] & STATE_MASK
                if parent < JobState.SUCCESS:
                    self.waiting[at] += 1
                elif parent != JobState.SUCCESS and self.states[at] == JobState.PENDING:
                    self.states[at] |= DOOMED
        renumbered = self._take_sizes(set(jobs.mcpu).difference(self.sizes))
        self._classify(before)
        return renumbered

    def _take_sizes(self, new: set[int]) -> bool:
        """Jobs of these sizes come. True: the classes of those that are here have other numbers now."""
        if not new:
            return False
        if not self.exact or len(self.sizes) + len(new) > CLASSES:
            # They share the classes that there are, also the smallest of all.
            self.exact = False
            self.sizes = self.sizes or _thin(sorted(new))
            self.sizes[0] = min(self.sizes[0], *new)
            return False
        before, self.sizes = self.sizes, sorted({*self.sizes, *new})
        number = {size: i for i, size in enumerate(self.sizes, 1)}
        renumber = bytearray(range(256))
        for i, size in enumerate(before, 1):
            renumber[i], renumber[i + ALWAYS_CLASS] = number[size], number[size] + ALWAYS_CLASS
        self.ready = self.ready.translate(renumber)
        return True

    def _classify(self, first: int) -> None:
        """Set `ready` of the jobs from this position on."""
        for byte in (JobState.READY, JobState.READY | ALWAYS_RUN):
            at = self.states.find(byte, first)
            while at >= 0:
                self.ready[at] = self.class_of(at)
                at = self.states.find(byte, at + 1)

    def __len__(self) -> int:
        return len(self.states)

    def state(self, job_id: int) -> JobState:
        return _JOB_STATES[self.states[job_id - 1] & STATE_MASK]

    def always_run(self, job_id: int) -> bool:
        return bool(self.states[job_id - 1] & ALWAYS_RUN)

    def children_of(self, job_id: int) -> array[int]:
        """Positions (job id - 1) of the jobs that depend on this one."""
        children = self.children[self.child_index[job_id - 1] : self.child_index[job_id]]
        return children + self.later[job_id - 1] if job_id - 1 in self.later else children

    def class_of(self, at: int) -> int:
        """What ``ready[at]`` is when the job is Ready."""
        return bisect_right(self.sizes, self.mcpu[at]) + (ALWAYS_CLASS if self.states[at] & ALWAYS_RUN else 0)


def _thin(distinct: list[int]) -> list[int]:
    """At most so many sizes as there are classes."""
    return distinct[:: -(-len(distinct) // CLASSES) or 1]


@dataclass(frozen=True, slots=True)
class StagedJobs:
    """A bunch of submitted jobs as columns of one length, checked by whoever made them.

    Position i is job ``first_job_id + i``, where the first id travels beside the bunch.
    """

    always_run: bytes
    """ALWAYS_RUN or 0."""
    mcpu: array[int]
    """Reserved cores."""
    retries: array[int]
    """As `Retries` packs them."""
    parents: list[bytes]
    """Ids of the jobs it depends on, packed as native u32."""
    names: list[str]
    attributes: list[dict[str, str]]
    specs: list[bytes]
    """What the worker gets; opaque here."""

    def __len__(self) -> int:
        return len(self.specs)

    def columns(self) -> JobColumns:
        """Of a batch that is this one bunch."""
        states = initial_states(self.parents, self.always_run)
        retries = {job_id: n for job_id, n in enumerate(self.retries, start=1) if n}
        return JobColumns.build(states, self.mcpu, self.parents if any(self.parents) else None, retries)


def initial_states(parents: list[bytes], always_run: bytes | bytearray) -> bytearray:
    """State bytes of jobs that were never run: Ready without parents, else Pending."""
    return bytearray(
        (JobState.PENDING if ids else JobState.READY) | bits
        for ids, bits in zip(parents, always_run, strict=True)
    )
