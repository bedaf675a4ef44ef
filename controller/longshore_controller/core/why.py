"""PURE. Why something does not run: asked of memory, with the very predicates by which jobs are placed.

Names, parents and whatever is complete are not in memory: `of_parents` and `of_rows` say what they come to.
The words are in ``why_texts.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from longshore_controller.core import why_texts as texts
from longshore_controller.core.model import ALWAYS_CLASS, DOOMED, JobState
from longshore_controller.core.reactor import Reactor
from longshore_controller.core.rows import AttemptRow, BatchRow, JobRow
from longshore_controller.core.scheduler import Placement, Room, ahead_of, kinds, placements
from longshore_controller.core.state import Batch, Worker
from longshore_controller.core.why_texts import Reason


class Waiting(NamedTuple):
    """A Pending job: how many of the jobs it depends on are incomplete, and whether one did not succeed."""

    n: int
    doomed: bool


def of_job(reactor: Reactor, batch_id: int, job_id: int, now: int) -> Reason | Waiting | None:
    """Of a job that is not complete; None: it is, or its batch is, or its jobs are not there yet."""
    batch = reactor.state.batches.get(batch_id)
    if batch is None or batch.columns is None or not 1 <= job_id <= len(batch.columns):
        return None
    state = batch.columns.state(job_id)
    if state.is_complete:
        return None
    if state is JobState.RUNNING:
        return _of_running(reactor, batch, job_id)
    if not batch.runnable(job_id):
        return texts.cancelling(batch.cancelled_by)
    if state is JobState.READY:
        return _obstacle(_Round(reactor, now), batch, job_id).in_words()
    waiting = Waiting(batch.columns.waiting[job_id - 1], bool(batch.columns.states[job_id - 1] & DOOMED))
    return waiting if waiting.n else texts.due()


def of_batch(reactor: Reactor, batch_id: int, now: int) -> list[Reason] | None:
    """Of a batch that is not complete, what matters most first; None: it is, or it is not there."""
    batch = reactor.state.batches.get(batch_id)
    if batch is None:
        return None
    if batch.columns is None:
        return [texts.still_open(batch.n_jobs, batch.created_at_ms)]
    found: list[Reason] = []
    if batch.cancelled_at_ms is not None:
        found.append(texts.batch_cancelled(batch.cancelled_by, batch.cancel_reason, batch.cancelled_at_ms))
    found.extend(_of_ready_jobs(reactor, batch, now))
    if (n := batch.counts[JobState.RUNNING]) > 0:
        found.append(texts.jobs_run(n))
    if (n := batch.counts[JobState.PENDING]) > 0:
        found.append(texts.jobs_wait(n))
    return found or [texts.due()]


def parents_in_memory(reactor: Reactor, batch_id: int, parents: Sequence[int]) -> list[JobState] | None:
    """Where they are, now; None: the batch is complete."""
    batch = reactor.state.batches.get(batch_id)
    if batch is None or batch.columns is None:
        return None
    return [batch.columns.state(p) for p in parents]


class _Round:
    """The scheduler's next round as far as its first placement: usually there is none to be made."""

    def __init__(self, reactor: Reactor, now: int) -> None:
        self.reactor = reactor
        self.state = state = reactor.state
        self.unfit = {w: reactor.unfit(w, now) for w in state.workers}
        available = [w for w, why in self.unfit.items() if why is None]
        self.room = Room(state, available, reactor.kept)
        self.next: Placement | None = None
        if state.frozen is None:
            self.next = next(placements(state, available, self.room), None)


class _Obstacle(NamedTuple):
    """What keeps a Ready job, and how to say it; jobs with the same are counted, and one is named."""

    code: str
    in_words: Callable[[], Reason]


def _of_ready_jobs(reactor: Reactor, batch: Batch, now: int) -> Iterator[Reason]:
    """A line for each kind of obstacle, with the number of jobs it keeps; the first job's words."""
    columns = batch.columns
    assert columns is not None
    if not batch.counts[JobState.READY]:
        return
    this_round = _Round(reactor, now)
    heads: list[tuple[int, int]] = []
    for kind in (ALWAYS_CLASS, 0):
        for size_class in range(1, len(columns.sizes) + 1):
            byte = kind + size_class
            if (at := columns.ready.find(byte, batch.ready_from.get(byte, 0))) >= 0:
                heads.append((at, columns.ready.count(byte)))
    kept: Counter[str] = Counter()
    first: dict[str, tuple[int, _Obstacle]] = {}
    for at, n in sorted(heads):
        obstacle = _obstacle(this_round, batch, at + 1)
        kept[obstacle.code] += n
        first.setdefault(obstacle.code, (at + 1, obstacle))
    for code, (job_id, obstacle) in first.items():
        yield texts.of_jobs(kept[code], job_id, obstacle.in_words())


def _obstacle(this_round: _Round, batch: Batch, job_id: int) -> _Obstacle:
    """What keeps this Ready job from being placed, in the order in which placing asks."""
    state, room, columns = this_round.state, this_round.room, batch.columns
    assert columns is not None
    mcpu = columns.mcpu[job_id - 1]
    if (pause := state.frozen) is not None:
        return _Obstacle("FROZEN", lambda: texts.frozen(pause))
    if state.held(batch):
        project = state.projects[batch.billing_project]
        return _Obstacle(
            "BUDGET",
            lambda: texts.held(
                project.name,
                closed=project.closed,
                used_nanousd=project.used_nanousd,
                limit_nanousd=project.limit_nanousd or 0,
            ),
        )
    if (ALWAYS_CLASS if columns.always_run(job_id) else 0) not in kinds(state, batch):
        return _Obstacle("CANCELLING", lambda: texts.cancelling(batch.cancelled_by))
    workers = list(state.workers.values())
    if not workers:
        return _Obstacle("NO_WORKER", texts.no_worker)
    large = [w for w in workers if w.capacity_mcpu >= mcpu]
    if not large:
        most = max(w.capacity_mcpu for w in workers)
        return _Obstacle("TOO_LARGE", lambda: texts.too_large(mcpu, most))
    fit = [w for w in large if this_round.unfit[w.worker_id] is None]
    if not fit:
        kept = Counter(why for w in large if (why := this_round.unfit[w.worker_id]) is not None)
        return _Obstacle("WORKERS_UNFIT", lambda: texts.workers_unfit(kept, mcpu))
    if this_round.next is not None:
        return _Obstacle("PLACING", texts.placing)
    all_fit = [w for w in workers if this_round.unfit[w.worker_id] is None]
    if (kept_for := room.reserved) is not None:
        worker = state.workers[kept_for.worker_id]
        if (kept_for.batch_id, kept_for.job_id) == (batch.batch_id, job_id):
            return _Obstacle("KEEPING", lambda: texts.keeping(mcpu, worker.name, worker.free_mcpu))
        if room.lacks(mcpu) and any(w.free_mcpu >= mcpu for w in fit):
            return _Obstacle(
                "RESERVED", lambda: texts.reserved(_place(this_round, batch, job_id, all_fit), kept_for.mcpu)
            )
    if room.lacks(mcpu):
        return _Obstacle(
            "NO_ROOM",
            lambda: texts.no_room(
                _place(this_round, batch, job_id, all_fit),
                mcpu,
                capacity_mcpu=sum(w.capacity_mcpu for w in all_fit),
                free_mcpu=sum(w.free_mcpu for w in all_fit),
                most_mcpu=max(w.free_mcpu for w in fit),
                n_workers=len(all_fit),
            ),
        )
    return _Obstacle("PLACING", texts.placing)


def _place(this_round: _Round, batch: Batch, job_id: int, fit: list[Worker]) -> tuple[int, int]:
    """Jobs that are served before it: the same user's, and others'."""
    largest_mcpu = max(w.capacity_mcpu for w in fit)
    return ahead_of(this_round.state, batch, job_id, largest_mcpu)


def _of_running(reactor: Reactor, batch: Batch, job_id: int) -> Reason:
    attempt = next(a for i in batch.attempts if (a := reactor.state.attempts[i]).job_id == job_id)
    worker = reactor.state.workers[attempt.worker_id].name
    if attempt.revoked:
        return texts.stopping(attempt.revoked, worker)
    if attempt.started_at_ms is None:
        return texts.preparing(attempt.number, worker, attempt.assigned_at_ms)
    return texts.runs(attempt.number, worker, attempt.started_at_ms)


# -- from rows -----------------------------------------------------------------------------------------

NAMED = 3
"""Parents that are named."""


def named_of(parents: Sequence[int], states: Sequence[JobState], waiting: Waiting) -> list[int]:
    """Which parents are to be named: those that failed, where that decides, or those still waited for."""
    wanted = [
        p
        for p, state in zip(parents, states, strict=True)
        if (state.is_complete and state is not JobState.SUCCESS if waiting.doomed else not state.is_complete)
    ]
    return wanted[:NAMED]


def of_parents(waiting: Waiting, n_parents: int, named: Sequence[texts.Parent]) -> Reason:
    """Of a Pending job."""
    if waiting.doomed:
        return texts.doomed(named, waiting.n)
    return texts.parents(named, waiting.n, n_parents)


def of_rows(job: JobRow, attempts: Sequence[AttemptRow], mcpu: int, failed: Sequence[texts.Parent]) -> Reason:
    """Of a complete job; ``failed`` are parents of it that did not succeed, the first few."""
    last = attempts[-1] if attempts else None
    if job.state is JobState.SUCCESS:
        return texts.succeeded(job.n_attempts, job.ended_at_ms)
    if job.state is JobState.FAILURE:
        return texts.failed(job.exit_code or 0, job.n_attempts, job.ended_at_ms)
    if job.state is JobState.ERROR:
        containers = last.containers if last is not None else ()
        return texts.error(
            job.reason, containers, last.reason if last is not None else None, mcpu, job.ended_at_ms
        )
    return texts.cancelled(job.reason, failed, job.ended_at_ms)


def of_batch_row(batch: BatchRow) -> list[Reason]:
    """Of a complete batch."""
    found = []
    if batch.cancelled_at_ms is not None:
        found.append(texts.batch_cancelled(batch.cancelled_by, batch.cancel_reason, batch.cancelled_at_ms))
    at_ms = batch.completed_at_ms or 0
    return [*found, texts.batch_over(batch.n_jobs, batch.n_failed, batch.n_cancelled, at_ms)]
