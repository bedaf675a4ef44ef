"""Committed events, in order, to whoever follows: the only way news leaves the engine.

A follower is told what was committed since it began to follow, narrowed to its topic. One that falls
too far behind, or whose engine threw its memory away, gets RESET once: take a snapshot, go on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from longshore_controller.core.events import (
    AttemptAssigned,
    AttemptRevoked,
    BatchCompleted,
    BatchUndeleted,
    Event,
    ServiceFrozen,
    ServiceThawed,
    WorkerLost,
)
from longshore_controller.core.model import Viewer
from longshore_controller.core.rows import Changes

MAILBOX = 10_000
"""Commits that a follower may lag behind before it is reset."""


@dataclass(frozen=True, slots=True)
class Committed:
    """One commit, or the part of it that concerns a topic. ``changes`` are always all of it."""

    seq: int
    """Of its last event."""
    at_ms: int
    events: list[Event]
    changes: Changes
    made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What a follower made of it that others of its topic want, too: many may look at one batch."""


class Reset(Enum):
    RESET = "what was committed meanwhile is not told; take a snapshot"


RESET = Reset.RESET

News = list[Committed] | Reset | None
"""What a follower is told; None: nothing in time."""

Topic = tuple[str, Hashable]


class Following:
    """One follower's mailbox. A context manager: leaving it ends the following."""

    def __init__(self, leave: Callable[[Following], None]) -> None:
        self._leave = leave
        self._news: list[Committed] = []
        self._reset = False
        self._arrived = asyncio.Event()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """End the following; again is nothing."""
        self._leave(self)

    async def next(self, timeout_s: float | None = None) -> list[Committed] | Reset | None:
        """Everything since the last look, oldest first; None when nothing came in time."""
        if timeout_s is None or self._arrived.is_set():  # A timer costs more than the rest.
            await self._arrived.wait()
        else:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        self._arrived.clear()
        news, self._news = self._news, []
        if self._reset:
            self._reset = False
            return RESET
        return news

    def wake(self) -> None:
        """Let `next` return at once, with no news if there are none."""
        self._arrived.set()

    def _put(self, committed: Committed) -> None:
        if self._reset:
            return
        if len(self._news) >= MAILBOX:
            self._put_reset()
        else:
            self._news.append(committed)
            self._arrived.set()

    def _put_reset(self) -> None:
        self._news.clear()
        self._reset = True
        self._arrived.set()


class Feed:
    """Who follows what, and the publishing to them."""

    def __init__(self) -> None:
        self._followers: dict[Topic, set[Following]] = defaultdict(set)
        self._viewers: set[Viewer] = set()
        """Who follows more than their own batches: few, so that each commit is looked through for each."""

    def follow(
        self,
        *,
        worker: str | None = None,
        batch: int | None = None,
        user: str | None = None,
        viewer: Viewer | None = None,
        completed: bool | None = None,
        frozen: bool | None = None,
    ) -> Following:
        """News from now on of one worker's orders, one batch, one user's batches, all that somebody may
        see, all completions and undeletions, or of the service's being frozen and thawed."""
        given: list[Topic] = [
            ("worker", worker),
            ("batch", batch),
            ("user", user),
            ("viewer", viewer),
            ("completed", completed),
            ("frozen", frozen),
        ]
        (topic,) = [t for t in given if t[1] is not None]

        def leave(following: Following) -> None:
            self._followers[topic].discard(following)
            if not self._followers[topic]:
                del self._followers[topic]
                if viewer is not None:
                    self._viewers.discard(viewer)

        following = Following(leave)
        self._followers[topic].add(following)
        if viewer is not None:
            self._viewers.add(viewer)
        return following

    def publish(self, committed: Committed) -> None:
        """Tell the followers whom it concerns."""
        if not self._followers:
            return
        parts: dict[Topic, list[Event]] = defaultdict(list)
        owners = committed.changes.owners
        for event in committed.events:
            if isinstance(event, AttemptAssigned | AttemptRevoked | WorkerLost):
                parts["worker", event.worker_id].append(event)
            batch_id: int | None = getattr(event, "batch_id", None)
            if batch_id is not None:
                parts["batch", batch_id].append(event)
                if (owner := owners.get(batch_id)) is not None:
                    parts["user", owner[0]].append(event)
                if isinstance(event, BatchCompleted | BatchUndeleted):
                    parts["completed", True].append(event)
            elif isinstance(event, ServiceFrozen | ServiceThawed):
                parts["frozen", True].append(event)
        for viewer in self._viewers:
            seen = {batch_id for batch_id, owner in owners.items() if viewer.sees(*owner)}
            if some := [e for e in committed.events if getattr(e, "batch_id", None) in seen]:
                parts["viewer", viewer] = some
        for topic, events in parts.items():
            if followers := self._followers.get(topic):
                part = Committed(committed.seq, committed.at_ms, events, committed.changes)
                for following in followers:
                    following._put(part)

    def reset(self) -> None:
        """Tell everybody to take a snapshot."""
        for followers in self._followers.values():
            for following in followers:
                following._put_reset()
