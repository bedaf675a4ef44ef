"""PURE. What the supervisor can ask the daemon to do, and what it wants to know after a restart.

Never changed once made. Not ``frozen``, which makes each take five times as long to make: an attempt
needs seven of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from longshore_workerd.model import Assignment, Report
from longshore_workerd.runtime import Container, ContainerId


@dataclass(slots=True)
class Accept:
    """On disk before anything is made for it."""

    job: Assignment
    at_ms: int


@dataclass(slots=True)
class Note:
    """To be known after a crash; nobody else hears of it."""

    report: Report


@dataclass(slots=True)
class Tell:
    """To be on disk (an end: for certain), then to be told to the controller."""

    report: Report


@dataclass(slots=True)
class Forget:
    """The controller knows how it ended."""

    attempt_id: str


@dataclass(slots=True)
class Prepare:
    """Answer by on_prepared or on_image_refused."""

    attempt_id: str
    image: str


@dataclass(slots=True)
class Start:
    """Answer by on_started and then on_ended, or by on_refused."""

    job: Assignment
    container: Container


@dataclass(slots=True)
class Adopt:
    """Answer by on_ended."""

    id: ContainerId


@dataclass(slots=True)
class Stop:
    """It is to end soon. May come before the answer to its Start, and again after it."""

    id: ContainerId
    grace_s: float


@dataclass(slots=True)
class Remove:
    """Nothing of these containers is needed any more, nor of the attempt's files."""

    attempt_id: str
    containers: tuple[Container, ...]


Action = Accept | Note | Tell | Forget | Prepare | Start | Adopt | Stop | Remove


@dataclass(slots=True)
class Survivor:
    """What the disk knows of an attempt that was accepted and had not ended."""

    job: Assignment
    accepted_at_ms: int
    same_boot: bool
    """The machine has not been restarted since: its clock and its containers are the same."""
    main_start_ordered: bool
    last: Report | None
