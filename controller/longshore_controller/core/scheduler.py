"""PURE. Which Ready job goes to which worker: fair between users, ordered within one, best fit.

Between users: water-filling, the user with the fewest running cores is served first (SPEC W1).
Within a user: older batches first; in a batch always_run first, then by job id. Placement: the worker
with the fewest free cores that suffice (W2). A job for which nobody has room now, although some
worker is large enough, reserves the worker with the most free cores, so that small jobs behind it
cannot starve it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from typing import NamedTuple

from longshore_controller.core.model import ALWAYS_RUN, JobState
from longshore_controller.core.state import Batch, State, User

LOOKAHEAD = 256
"""Jobs without room that one user's turn passes over in search of smaller ones."""

_READY = (JobState.READY, JobState.READY | ALWAYS_RUN)


class Placement(NamedTuple):
    """(job, worker): decided, not yet an attempt."""

    batch_id: int
    job_id: int
    mcpu: int
    worker_id: str


def placements(state: State, connected: Collection[str]) -> Iterator[Placement]:
    """Placements one after another; each must be applied to ``state`` before the next is asked for.

    ``connected``: the workers that can be told at once; nobody else gets a job.
    """
    room = sorted((w.free_mcpu, i) for i in connected if (w := state.workers.get(i)) and w.free_mcpu > 0)
    queue = [(user.running_mcpu, name) for name, user in state.users.items()]
    heapq.heapify(queue)
    candidates = {name: _candidates(state, user) for name, user in state.users.items()}
    reserved = False
    while room and queue:
        _, name = queue[0]
        least_without_room = 0
        for _ in range(LOOKAHEAD):
            job = next(candidates[name], None)
            if job is None:
                heapq.heappop(queue)
                break
            batch_id, job_id, mcpu = job
            if (at := bisect_left(room, (mcpu, ""))) < len(room):
                free, worker_id = room.pop(at)
                yield Placement(batch_id, job_id, mcpu, worker_id)
                if free > mcpu:
                    insort(room, (free - mcpu, worker_id))
                heapq.heapreplace(queue, (state.users[name].running_mcpu, name))
                break
            if not reserved and not least_without_room:
                reserved = _reserve(state, room, mcpu)
                if not room:
                    return
            least_without_room = min(least_without_room or mcpu, mcpu)
        else:
            heapq.heappop(queue)


def _reserve(state: State, room: list[tuple[int, str]], mcpu: int) -> bool:
    """Take the worker on which this job will soonest have room out of the running."""
    for at in range(len(room) - 1, -1, -1):
        if state.workers[room[at][1]].capacity_mcpu >= mcpu:
            del room[at]
            return True
    return False


def _candidates(state: State, user: User) -> Iterator[tuple[int, int, int]]:
    for batch_id in list(user.batches):
        if (batch := state.batches.get(batch_id)) is not None and batch.counts[JobState.READY]:
            for kind in (1, 0):
                if kind or not batch.cancelled:
                    yield from _ready_jobs(batch, kind)


def _ready_jobs(batch: Batch, kind: int) -> Iterator[tuple[int, int, int]]:
    columns = batch.columns
    assert columns is not None
    byte = _READY[kind]
    at = columns.find(byte, batch.ready_from[kind])
    passed_over = False
    while at >= 0:
        if not passed_over:
            batch.ready_from[kind] = at
        yield batch.batch_id, at + 1, columns.mcpu[at]
        passed_over = passed_over or columns.states[at] == byte
        at = columns.find(byte, at + 1)
    if not passed_over:
        batch.ready_from[kind] = len(columns)
