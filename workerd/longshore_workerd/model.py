"""PURE. The nouns of workerd: what it is ordered to do and what it says about it.

Units: ``_mcpu`` thousandths of a core, ``_ms`` milliseconds, ``_at_ms`` milliseconds of this
machine's clock that neither stops nor jumps (CLOCK_BOOTTIME; it starts again at each boot).
Only ContainerRecord is ever changed; the others that come by the thousand are not ``frozen`` because that
makes them slow to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from longshore_workerd.runtime import Container, ErrorKind


class AttemptState(IntEnum):
    """Where an attempt is. Numbers as in types.proto; ENDED absorbs, otherwise the greater wins."""

    ASSIGNED = 10
    STARTED = 30
    ENDED = 90


class EndReason(IntEnum):
    """Why an attempt ended; who is to blame decides what becomes of the job. As in types.proto."""

    COMPLETED = 1
    ERROR = 2
    REVOKED = 3
    PREEMPTED = 4
    LOST = 5
    REFUSED = 6


@dataclass(frozen=True, slots=True)
class FileCopy:
    source: str
    destination: str


@dataclass(slots=True)
class Assignment:
    """One attempt that the controller wants to be run here."""

    attempt_id: str
    batch_id: int = 0
    job_id: int = 0
    user: str = ""
    mcpu: int = 1000
    memory_bytes: int = 0
    image: str = ""
    """Empty: the default image."""
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_ms: int = 0
    """How long the main container may run; 0 = for ever."""
    input_files: tuple[FileCopy, ...] = ()
    output_files: tuple[FileCopy, ...] = ()
    always_copy_output: bool = False
    raw: bytes = field(default=b"", repr=False, compare=False)
    """The message it came in, which is also how it is kept on disk."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the controller wants. complete: run + keep are all the attempts to be held."""

    complete: bool = False
    run: tuple[Assignment, ...] = ()
    keep: tuple[str, ...] = ()
    revoke: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Attempts to be run whose description makes no sense, and why."""


@dataclass(slots=True)
class ContainerRecord:
    """What one container of an attempt did; times are ms since the attempt was accepted here."""

    container: Container
    image: str = ""
    pull_started_ms: int | None = None
    pull_ended_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    exit_code: int | None = None
    error_kind: ErrorKind = ErrorKind.NONE
    error: str = ""
    log_bytes: int = 0
    """Of the log as it is kept: what will arrive at the controller."""


@dataclass(slots=True)
class Report:
    """What is to be said about an attempt. ``reason`` stands exactly when it has ENDED."""

    attempt_id: str
    state: AttemptState
    main_ms: int = 0
    reason: EndReason | None = None
    message: str = ""
    containers: tuple[ContainerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that was accepted and has not ended."""

    attempt_id: str
    state: AttemptState
    main_ms: int
