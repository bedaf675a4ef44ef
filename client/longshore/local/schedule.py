"""PURE. Which jobs of a batch may run now on one machine, and what becomes of those that wait.

The rules are the service's (states, who is cancelled with whom, retries, order, the reservation for
what is too big for the moment); only a job that asks for more than the machine has is not refused
here: it runs alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..units import reserved_mcpu

if TYPE_CHECKING:
    from ..status import BatchState, JobSpec, JobState

_STATES = ("Pending", "Ready", "Running", "Success", "Failure", "Error", "Cancelled")

AT_ONCE = 256
"""Jobs, at most, however little of a core they ask for: each takes a thread of this program."""

DEPENDS = "a job it depends on did not succeed"


class Schedule:
    """The jobs of one batch. Ids are 1, 2, 3 …; states are the words of `JobStatus.state`."""

    def __init__(self, jobs: Sequence[JobSpec], mcpu: int) -> None:
        """`mcpu` thousandths of a core are there for them."""
        self._jobs = jobs
        self._sizes = [min(mcpu, reserved_mcpu(job.cpu_mcpu, job.memory_bytes)) for job in jobs]
        self._free_mcpu = mcpu
        self._states: list[JobState] = ["Pending"] * len(jobs)
        self._reasons = [""] * len(jobs)
        self._waiting = [len(job.parents) for job in jobs]
        self._doomed = bytearray(len(jobs))
        self._failures = [0] * len(jobs)
        self._children: list[list[int]] = [[] for _ in jobs]
        for job_id, job in enumerate(jobs, start=1):
            for parent in job.parents:
                self._children[parent - 1].append(job_id)
        self._ready: list[tuple[bool, int]] = []
        """A heap: always_run first, then by id. What was cancelled meanwhile may still be in it."""
        self._kept: int | None = None
        """The job that starts before all others once there is room for it."""
        self._cancelled = ""
        """Why nothing but always_run jobs may start."""
        self.counts = dict.fromkeys(_STATES, 0)
        """Jobs by state."""
        self.counts["Pending"] = len(jobs)
        for job_id, n in enumerate(self._waiting, start=1):
            if not n:
                self._make_ready(job_id)

    # --- what is

    @property
    def complete(self) -> bool:
        """Every job is in a final state."""
        return not (self.counts["Pending"] or self.counts["Ready"] or self.counts["Running"])

    def state(self, job_id: int) -> JobState:
        return self._states[job_id - 1]

    def reason(self, job_id: int) -> str:
        """Why it was cancelled; ``''`` if it was not."""
        return self._reasons[job_id - 1]

    def batch_state(self) -> BatchState:
        """Derived, as the service derives it."""
        n = self.counts
        if n["Failure"] or n["Error"]:
            return "failure"
        if n["Success"] == len(self._jobs):
            return "success"
        return "cancelled" if self._cancelled or n["Cancelled"] else "running"

    # --- what happens

    def take(self) -> int | None:
        """A job that is to start now: it is Running. None: no other may before one has ended."""
        while self._ready and self.state(self._ready[0][1]) != "Ready":
            heapq.heappop(self._ready)
        if self._kept is not None and self.state(self._kept) != "Ready":
            self._kept = None
        if not self._ready or self.counts["Running"] >= AT_ONCE:
            return None
        job_id = self._ready[0][1] if self._kept is None else self._kept
        if self._sizes[job_id - 1] > self._free_mcpu:
            if self._free_mcpu:
                self._kept = job_id  # Nothing else starts before it, or small jobs could starve it.
            return None
        self._kept = None
        self._free_mcpu -= self._sizes[job_id - 1]
        self._move(job_id, "Running")
        return job_id

    def ended(self, job_id: int, state: JobState) -> JobState:
        """An attempt ended like this; the state of its job then: Ready if it is to be tried again."""
        job = self._jobs[job_id - 1]
        self._free_mcpu += self._sizes[job_id - 1]
        if state in ("Failure", "Error") and self._failures[job_id - 1] < job.retries and self._may_run(job):
            self._failures[job_id - 1] += 1
            self._make_ready(job_id)
        else:
            if state == "Cancelled":
                self._reasons[job_id - 1] = "batch cancelled"
            self._move(job_id, state)
            self._tell_children([job_id])
        return self.state(job_id)

    def cancel(self, reason: str) -> None:
        """No job starts any more but for always_run ones. May be repeated."""
        if not (self._cancelled or self.complete):
            self._cancelled = reason
            self._cancel_those_that_wait(always_run_too=False)

    def stop(self, reason: str) -> None:
        """No job starts any more at all."""
        self._cancelled = self._cancelled or reason
        self._cancel_those_that_wait(always_run_too=True)

    # --- how

    def _may_run(self, job: JobSpec) -> bool:
        return job.always_run or not self._cancelled

    def _cancel_those_that_wait(self, *, always_run_too: bool) -> None:
        cancelled = []
        for job_id, job in enumerate(self._jobs, start=1):
            if self.state(job_id) in ("Pending", "Ready") and (always_run_too or not job.always_run):
                self._cancel(job_id, self._cancelled)
                cancelled.append(job_id)
        self._tell_children(cancelled)

    def _tell_children(self, completed: list[int]) -> None:
        """These are in a final state now; so are then those of their descendants that are due."""
        while completed:
            parent = completed.pop()
            for child in self._children[parent - 1]:
                self._waiting[child - 1] -= 1
                self._doomed[child - 1] |= self.state(parent) != "Success"
                if self._waiting[child - 1] or self.state(child) != "Pending":
                    continue
                if self._doomed[child - 1] and not self._jobs[child - 1].always_run:
                    self._cancel(child, DEPENDS)
                    completed.append(child)
                else:
                    self._make_ready(child)

    def _cancel(self, job_id: int, reason: str) -> None:
        self._reasons[job_id - 1] = reason
        self._move(job_id, "Cancelled")

    def _make_ready(self, job_id: int) -> None:
        self._move(job_id, "Ready")
        heapq.heappush(self._ready, (not self._jobs[job_id - 1].always_run, job_id))

    def _move(self, job_id: int, state: JobState) -> None:
        self.counts[self._states[job_id - 1]] -= 1
        self.counts[state] += 1
        self._states[job_id - 1] = state
