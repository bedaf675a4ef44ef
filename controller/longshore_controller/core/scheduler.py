"""PURE. Which Ready job goes to which worker: fair between users, ordered within one, best fit.

Between users: water-filling, the user with the fewest running cores is served first (SPEC W1).
Within a user: older batches first; in a batch always_run first, then by job id. Placement: the worker
with the fewest free cores that suffice (W2). The first job for which nobody has room, although some
worker is large enough, reserves the worker with the most free cores: nobody else is given anything there,
in this round and in those to come, until the job is. So it waits no longer than for what runs there now,
whatever small jobs, its own user's or another's, come along. A size of job that finds no room is not
looked at again in the same round, and after a round there is nothing left that could be placed.

What keeps a job from being placed is asked here by whoever places and by whoever explains (``why.py``):
`kinds` of its batch, and `Room`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass
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


def kinds(state: State, batch: Batch) -> tuple[int, ...]:
    """Which of the batch's Ready jobs may start, in this order: those that always run, all others.

    None where the billing project is held."""
    if state.held(batch):
        return ()
    return (ALWAYS_CLASS,) if batch.cancelled else (ALWAYS_CLASS, 0)


def placements(state: State, available: Collection[str], room: Room | None = None) -> Iterator[Placement]:
    """Placements one after another; each must be applied to ``state`` before the next is asked for.

    ``available``: the workers that may be given something now; nobody else gets a job. ``room``: theirs,
    for who wants to see what is left of it.
    """
    room = Room(state, available) if room is None else room
    if (due := room.due()) is not None:
        yield due
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


class Ahead(NamedTuple):
    """How many Ready jobs are served before one, if room comes for all of them and nothing ends."""

    own: int
    """Of the same user."""
    others: int


def ahead_of(state: State, batch: Batch, job_id: int, largest_mcpu: int) -> Ahead:
    """In the order of `placements`. Jobs of more than ``largest_mcpu`` are passed over: nobody can run them.

    Exact unless a batch has more distinct sizes than there are classes. Reads a byte a job, so to say.
    """
    user = state.users[batch.user]
    always = batch.columns is not None and batch.columns.always_run(job_id)
    own, level = 0, user.running_mcpu
    for line in _lines(state, user):
        its_own = line.batch is batch and bool(line.kind) == always
        n, mcpu = line.count(0, job_id - 1 if its_own else len(line), largest_mcpu)
        own, level = own + n, level + mcpu
        if its_own:
            break
    others = 0
    for name, other in state.users.items():
        # Whoever has so many cores is served after it.
        limit = level + (name < batch.user)
        have = other.running_mcpu
        for line in _lines(state, other) if name != batch.user else ():
            if have >= limit:
                break
            n, mcpu = line.first(limit - have, largest_mcpu)
            others, have = others + n, have + mcpu
    return Ahead(own, others)


@dataclass(frozen=True, slots=True)
class _Line:
    """The Ready jobs of one kind in a batch, which are served by id."""

    batch: Batch
    kind: int

    def __len__(self) -> int:
        return len(self.batch.columns or ())

    def count(self, start: int, end: int, largest_mcpu: int) -> tuple[int, int]:
        """Those at positions start .. end - 1: how many, and their cores."""
        columns = self.batch.columns
        assert columns is not None
        n = mcpu = 0
        for size_class, size in enumerate(columns.sizes, start=1):
            if size <= largest_mcpu:
                found = columns.ready.count(size_class + self.kind, start, end)
                n, mcpu = n + found, mcpu + found * size
        return n, mcpu

    def first(self, mcpu: int, largest_mcpu: int) -> tuple[int, int]:
        """The fewest, from the first on, that have so many cores, or all: how many, and their cores."""
        found = self.count(0, len(self), largest_mcpu)
        if found[1] < mcpu:
            return found
        low, high, n, cores = 0, len(self), 0, 0
        while high - low > 1:
            middle = (low + high) // 2
            more = self.count(low, middle, largest_mcpu)
            if cores + more[1] < mcpu:
                low, n, cores = middle, n + more[0], cores + more[1]
            else:
                high = middle
        last = self.count(low, high, largest_mcpu)
        return n + last[0], cores + last[1]


def _lines(state: State, user: User) -> Iterator[_Line]:
    for batch_id in user.batches:
        if (batch := state.batches.get(batch_id)) is not None and batch.counts[JobState.READY]:
            for kind in kinds(state, batch):
                yield _Line(batch, kind)


class Room:
    """The free cores of the workers that may be given something, as this round uses them up.

    ``kept``: what was reserved in the round before; it stays so while the job waits and the worker may be
    given something.
    """

    def __init__(self, state: State, available: Collection[str], kept: Reservation | None = None) -> None:
        workers = [w for i in available if (w := state.workers.get(i)) is not None]
        self._free = sorted((w.free_mcpu, w.worker_id) for w in workers if w.free_mcpu > 0)
        self._capacity = {w.worker_id: w.capacity_mcpu for w in workers}
        self.reserved: Reservation | None = None
        self._due: Placement | None = None
        if kept is not None and kept.mcpu <= self._capacity.get(kept.worker_id, 0) and _waits(state, kept):
            if self.lacks(kept.mcpu):
                self.reserved = kept
                free_mcpu = state.workers[kept.worker_id].free_mcpu
                if free_mcpu:
                    self._free.remove((free_mcpu, kept.worker_id))
            else:
                self._due = Placement(kept.batch_id, kept.job_id, kept.mcpu, self.take(kept.mcpu))

    @property
    def most(self) -> int:
        """Free cores of the emptiest worker."""
        return self._free[-1][0] if self._free else 0

    def due(self) -> Placement | None:
        """The job that a worker was kept for, if there is room for it now: it comes before all others."""
        return self._due

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


def _waits(state: State, kept: Reservation) -> bool:
    """The job is still there, Ready, and may start."""
    batch = state.batches.get(kept.batch_id)
    if batch is None or batch.columns is None or batch.columns.state(kept.job_id) is not JobState.READY:
        return False
    return (ALWAYS_CLASS if batch.columns.always_run(kept.job_id) else 0) in kinds(state, batch)


def _turns(state: State, user: User, room: Room) -> Iterator[Placement]:
    for batch_id in list(user.batches):
        if (batch := state.batches.get(batch_id)) is not None and batch.counts[JobState.READY]:
            for kind in kinds(state, batch):
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
