"""PURE. Which Ready job goes to which worker: fair between users, ordered within one, best fit.

Between users: water-filling, the user with the fewest running cores is served first (SPEC W1).
Within a user: older batches first; in a batch always_run first, then by job id. Placement: the worker
with the fewest free cores that suffice (W2). The first job for which nobody has room, although some
worker is large enough, reserves the worker with the most free cores, so that small jobs behind it
cannot starve it. A size of job that finds no room is not looked at again in the same round.

What keeps a job from being placed is asked here by whoever places and by whoever explains (``why.py``):
`kinds` of its batch, and `Room`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from typing import NamedTuple

from longshore_controller.core.model import ALWAYS_CLASS, JobState
from longshore_controller.core.state import Batch, State, User


class Placement(NamedTuple):
    """(job, worker): decided, not yet an attempt."""

    batch_id: int
    job_id: int
    mcpu: int
    worker_id: str


class Reservation(NamedTuple):
    """The worker that nobody else gets until this job fits."""

    worker_id: str
    batch_id: int
    job_id: int
    mcpu: int


def kinds(batch: Batch) -> tuple[int, ...]:
    """Which of the batch's Ready jobs may start, in this order: those that always run, all others."""
    return (ALWAYS_CLASS,) if batch.cancelled else (ALWAYS_CLASS, 0)


def placements(state: State, available: Collection[str], room: Room | None = None) -> Iterator[Placement]:
    """Placements one after another; each must be applied to ``state`` before the next is asked for.

    ``available``: the workers that may be given something now; nobody else gets a job. ``room``: theirs,
    for who wants to see what is left of it.
    """
    room = Room(state, available) if room is None else room
    queue = [(user.running_mcpu, name) for name, user in state.users.items()]
    heapq.heapify(queue)
    turns = {name: _turns(state, user, room) for name, user in state.users.items()}
    while queue and room.most:
        name = queue[0][1]
        placement = next(turns[name], None)
        if placement is None:
            heapq.heappop(queue)
            continue
        yield placement
        heapq.heapreplace(queue, (state.users[name].running_mcpu, name))


class Room:
    """The free cores of the workers that may be given something, as this round uses them up."""

    def __init__(self, state: State, available: Collection[str]) -> None:
        workers = [w for i in available if (w := state.workers.get(i)) is not None]
        self._free = sorted((w.free_mcpu, w.worker_id) for w in workers if w.free_mcpu > 0)
        self._capacity = {w.worker_id: w.capacity_mcpu for w in workers}
        self.reserved: Reservation | None = None

    @property
    def most(self) -> int:
        """Free cores of the emptiest worker."""
        return self._free[-1][0] if self._free else 0

    def take(self, mcpu: int) -> str:
        """The worker on which this leaves the least room. Somebody has it: ``mcpu <= most``."""
        free, worker_id = self._free.pop(bisect_left(self._free, (mcpu, "")))
        if free > mcpu:
            insort(self._free, (free - mcpu, worker_id))
        return worker_id

    def lacks(self, mcpu: int) -> bool:
        """Nobody has so many cores free that are not reserved."""
        return mcpu > self.most

    def reserve(self, batch_id: int, job_id: int, mcpu: int) -> None:
        """Nobody else gets the emptiest of the workers that are large enough; one worker a round."""
        for at in range(len(self._free) - 1, -1, -1) if self.reserved is None else ():
            worker_id = self._free[at][1]
            if self._capacity[worker_id] >= mcpu:
                del self._free[at]
                self.reserved = Reservation(worker_id, batch_id, job_id, mcpu)
                return


def _turns(state: State, user: User, room: Room) -> Iterator[Placement]:
    for batch_id in list(user.batches):
        if (batch := state.batches.get(batch_id)) is not None and batch.counts[JobState.READY]:
            for kind in kinds(batch):
                yield from _jobs(batch, kind, room)


def _jobs(batch: Batch, kind: int, room: Room) -> Iterator[Placement]:
    """The batch's Ready jobs by id, as far as there is room for their size."""
    columns = batch.columns
    assert columns is not None
    heads: list[tuple[int, int]] = []
    for size_class in range(1, len(columns.sizes) + 1):
        byte = size_class + kind
        at = columns.ready.find(byte, batch.ready_from.get(byte, 0))
        batch.ready_from[byte] = at if at >= 0 else len(columns)
        if at >= 0:
            heads.append((at, byte))
    heapq.heapify(heads)
    while heads and room.most:
        at, byte = heads[0]
        mcpu = columns.mcpu[at]
        if room.lacks(mcpu):
            room.reserve(batch.batch_id, at + 1, mcpu)
            heapq.heappop(heads)
            continue
        yield Placement(batch.batch_id, at + 1, mcpu, room.take(mcpu))
        at = columns.ready.find(byte, at + 1)
        batch.ready_from[byte] = at if at >= 0 else len(columns)
        if at >= 0:
            heapq.heapreplace(heads, (at, byte))
        else:
            heapq.heappop(heads)
