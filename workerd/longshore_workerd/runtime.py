"""What runs containers: the seven verbs of a runtime, its values and its errors.

A container is known by (attempt id, which of the three). All verbs may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Protocol


class Container(IntEnum):
    """The containers of an attempt, in the order in which they run. Numbers as in types.proto."""

    INPUT = 1
    MAIN = 2
    OUTPUT = 3


class ErrorKind(IntEnum):
    """What was wrong with a container when it was not just its exit code. Numbers as in types.proto."""

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


class ContainerId(NamedTuple):
    attempt_id: str
    container: Container


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of this machine, seen at ``target`` in the container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(slots=True)
class ContainerSpec:
    """All that a runtime needs to start one container."""

    id: ContainerId
    image: str
    command: tuple[str, ...]
    env: dict[str, str]
    io_folder: Path
    """The attempt's own folder, mounted at /io."""
    mounts: tuple[Mount, ...] = ()
    mcpu: int = 0
    """CPU limit in thousandths of a core; 0 = none."""
    memory_bytes: int = 0
    """Memory limit; 0 = none."""
    user: str = ""
    """uid:gid inside the container; empty = the image's."""
    network: bool = True


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended. ``known`` is false when nobody can tell (the engine was away)."""

    exit_code: int | None
    error_kind: ErrorKind = ErrorKind.NONE
    error: str = ""
    known: bool = True
    ran_ms: int | None = None
    """How long it ran, where the runtime knows: of what it did not start since it was opened, whose
    start perhaps nobody saw. Never more than it really ran; None = not known."""


@dataclass(frozen=True, slots=True)
class Found:
    """A container that exists when workerd starts."""

    id: ContainerId
    running: bool


class RuntimeRefused(Exception):
    """The container cannot be prepared or started, and why. ``kind`` NONE: not the user's fault."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class EngineAway(Exception):
    """The engine does not answer; what was asked may or may not have happened. Ask again."""


class LogSink(Protocol):
    """Where a container's merged output goes. Called from any thread, one container at a time."""

    @property
    def size(self) -> int:
        """Bytes taken from the container so far (also those cut by the cap)."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image that is on this machine. ``digest`` names its bits; empty where there are none."""

    image: str
    digest: str = ""
    pulled: bool = field(default=False)
    """It had to be fetched (else it was here already)."""


class Runtime(Protocol):
    name: str
    isolated: bool
    """Containers see only /io and their mounts (else: plain processes of this user)."""

    async def open(self) -> None:
        """Ready to be used. EngineAway when there is no engine."""

    async def list(self) -> list[Found]:
        """The containers of this worker, running or ended, that were not removed. EngineAway.

        What was made by an earlier workerd and is not listed was never started, and never will be.
        """

    async def prepare(self, image: str) -> Prepared:
        """The image is on this machine. RuntimeRefused with an IMAGE_* kind; EngineAway."""

    async def start(self, spec: ContainerSpec, sink: LogSink) -> None:
        """The container runs, its output goes to the sink, which is closed after its last byte.

        If it exists already it is not made again. RuntimeRefused when it cannot start; EngineAway.
        """

    async def adopt(self, id: ContainerId, sink: LogSink) -> None:
        """Go on with a container found by `list`: its output from ``sink.size`` on goes to the sink."""

    async def wait(self, id: ContainerId) -> Exit:
        """How it ended, once it has ended and its output is in the sink. Survives an engine that
        goes away and comes back; a container that is gone is an Exit that is not known."""

    async def stop(self, id: ContainerId, grace_s: float) -> None:
        """SIGTERM, then after the grace SIGKILL. Nothing when it does not run. EngineAway."""

    async def remove(self, id: ContainerId) -> None:
        """Nothing is left of it. EngineAway."""

    async def close(self) -> None:
        """Let go of everything; containers run on."""
