"""A network of one connection at a time: in order, late, with gaps, and gone without a word."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from longshore_controller.core.model import AttemptState, HeldAttempt, Hello, Report
from longshore_workerd.model import Assignment


@dataclass(frozen=True)
class Heartbeat:
    number: int
    held: tuple[HeldAttempt, ...]
    spooled: tuple[str, ...]


@dataclass(frozen=True)
class Reports:
    reports: tuple[Report, ...]


@dataclass(frozen=True)
class Welcome:
    session: int


@dataclass(frozen=True)
class Assignments:
    complete: bool = False
    run: tuple[Assignment, ...] = ()
    keep: tuple[str, ...] = ()
    revoke: tuple[str, ...] = ()


@dataclass(frozen=True)
class Acks:
    acks: tuple[tuple[str, AttemptState], ...]


@dataclass(frozen=True)
class LeaseExtended:
    number: int


Greeting = Hello | Welcome
Message = Hello | Heartbeat | Reports | Welcome | Assignments | Acks | LeaseExtended


class Pipe:
    """One way of a connection. ``None`` in the inbox: the other side has hung up."""

    def __init__(self, latency_ms: Callable[[], int], loses: Callable[[], bool]) -> None:
        self.inbox: deque[Message | None] = deque()
        self.arrived: Callable[[], None] = lambda: None
        self._latency_ms = latency_ms
        self._loses = loses
        self._loop = asyncio.get_running_loop()
        self._last_s = 0.0
        self._cut = False

    def send(self, message: Message | None) -> None:
        # Timers of the same instant have no order, so no two are.
        self._last_s = max(self._last_s + 0.001, self._loop.time() + self._latency_ms() / 1000)
        # Whoever sends or receives may stumble over a message, and only over that one.
        if message is None or isinstance(message, Greeting) or not self._loses():
            self._loop.call_at(self._last_s, self._deliver, message)

    def cut(self) -> None:
        """Whatever is under way, and all that is sent from now on, is lost."""
        self._cut = True

    def _deliver(self, message: Message | None) -> None:
        if not self._cut:
            self.inbox.append(message)
            self.arrived()


class Link:
    """One connection of one workerd."""

    def __init__(self, rng: Random, slowest_ms: int, losing: Callable[[], float]) -> None:
        def latency_ms() -> int:
            return rng.randint(1, slowest_ms)

        def loses() -> bool:
            return rng.random() < losing()

        self._rng = rng
        self.to_controller = Pipe(latency_ms, loses)
        self.to_worker = Pipe(latency_ms, loses)

    def hang_up(self, *, by_worker: bool) -> None:
        """What is under way still arrives; the other side hears of the end after it, or never."""
        ours, theirs = (
            (self.to_controller, self.to_worker) if by_worker else (self.to_worker, self.to_controller)
        )
        theirs.cut()
        if self._rng.random() < 0.8:
            ours.send(None)
        else:
            ours.cut()

    def break_off(self) -> None:
        """It is dead; each side hears of it at its own time, or never. Some arrives late nevertheless."""
        self.to_worker.cut()
        if self._rng.random() < 0.5:
            self.to_controller.cut()
        elif self._rng.random() < 0.5:
            self.to_controller.send(None)
        if self._rng.random() < 0.5:
            self.to_worker.inbox.append(None)
            self.to_worker.arrived()
