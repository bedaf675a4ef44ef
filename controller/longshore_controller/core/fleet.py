"""PURE. The service and its workers as an admin sees them: what is paused, and what still runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from longshore_controller.core.model import Pause, Unfit
from longshore_controller.core.reactor import Reactor, no_worker
from longshore_controller.core.state import Attempt

SHOWN = 100
"""Attempts that are named; of the rest it is said how many there are."""


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt that has not ended, and whose it is."""

    attempt: Attempt
    user: str


@dataclass(frozen=True, slots=True)
class ServiceView:
    frozen: Pause | None
    n_workers: int
    n_draining: int
    capacity_mcpu: int
    free_mcpu: int
    n_running: int
    running: tuple[Running, ...]


@dataclass(frozen=True, slots=True)
class WorkerView:
    worker_id: str
    name: str
    lost: bool
    """Only of one that is draining."""
    unfit: Unfit | None
    runtime: str
    capacity_mcpu: int
    free_mcpu: int
    n_running: int
    joined_at_ms: int
    heard_at_ms: int
    draining: Pause | None
    running: tuple[Running, ...] = ()


def service(reactor: Reactor) -> ServiceView:
    """Whether it is frozen, and what still runs."""
    state = reactor.state
    workers = state.workers.values()
    return ServiceView(
        frozen=state.frozen,
        n_workers=len(workers),
        n_draining=len(state.draining.keys() & state.workers.keys()),
        capacity_mcpu=sum(w.capacity_mcpu for w in workers),
        free_mcpu=sum(w.free_mcpu for w in workers),
        n_running=len(state.attempts),
        running=_running(reactor, state.attempts.values()),
    )


def workers(reactor: Reactor, now: int) -> list[WorkerView]:
    """All that are not lost, and lost ones that are draining, by name."""
    known = reactor.state.workers.keys() | reactor.state.draining.keys()
    return sorted((_view(reactor, w, now) for w in known), key=lambda w: (w.name, w.worker_id))


def worker(reactor: Reactor, worker_id: str, now: int) -> WorkerView:
    """With what runs there. Refusal NOT_FOUND."""
    if worker_id not in reactor.state.workers and worker_id not in reactor.state.draining:
        raise no_worker(worker_id)
    return _view(reactor, worker_id, now, with_running=True)


def _view(reactor: Reactor, worker_id: str, now: int, *, with_running: bool = False) -> WorkerView:
    state = reactor.state
    draining = state.draining.get(worker_id)
    found = state.workers.get(worker_id)
    if found is None:
        return WorkerView(worker_id, "", True, Unfit.DRAINING, "", 0, 0, 0, 0, 0, draining)
    attempts = [state.attempts[a] for a in found.attempts] if with_running else []
    return WorkerView(
        worker_id=worker_id,
        name=found.name,
        lost=False,
        unfit=reactor.unfit(worker_id, now),
        runtime=found.runtime,
        capacity_mcpu=found.capacity_mcpu,
        free_mcpu=found.free_mcpu,
        n_running=len(found.attempts),
        joined_at_ms=found.joined_at_ms,
        heard_at_ms=reactor.heard_at_ms(worker_id),
        draining=draining,
        running=_running(reactor, attempts),
    )


def _running(reactor: Reactor, attempts: Iterable[Attempt]) -> tuple[Running, ...]:
    first = sorted(attempts, key=lambda a: (a.assigned_at_ms, a.attempt_id))[:SHOWN]
    return tuple(Running(a, reactor.state.batches[a.batch_id].user) for a in first)
