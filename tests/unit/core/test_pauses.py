"""Freezing the service and draining a worker (W7), and that both are facts which outlive a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from longshore_controller.core import events as ev
from longshore_controller.core import fleet
from longshore_controller.core.model import EndReason, JobState, Refusal, RefusalKind, Unfit
from world import Job, World, open_store


def test_a_frozen_service_assigns_nothing_and_lets_what_runs_finish() -> None:
    world = World()
    world.hello("w1", cores=2)
    batch = world.submit(Job(), Job(parents=[1]), Job())
    world.settle()
    world.freeze()
    later = world.submit(Job())
    world.end(world.attempt_of(batch, 1))
    world.settle()
    states = [world.job(batch, i).state for i in (1, 2, 3)]
    assert states == [JobState.SUCCESS, JobState.READY, JobState.RUNNING]
    assert world.job(later, 1).state is JobState.READY
    world.thaw()
    world.settle()
    assert world.job(batch, 2).state is JobState.RUNNING
    world.check()


def test_what_must_be_tried_again_waits_for_the_thaw() -> None:
    world = World()
    world.hello("w1")
    batch = world.submit(Job())
    world.settle()
    world.freeze()
    world.end(world.attempt_of(batch, 1), reason=EndReason.PREEMPTED)
    world.hello("w1")
    world.settle()
    assert world.job(batch, 1).state is JobState.READY


def test_a_frozen_batch_can_be_cancelled_and_completes() -> None:
    world = World()
    world.hello("w1")
    world.freeze()
    batch = world.submit(Job(), Job())
    world.cancel(batch)
    world.settle()
    assert world.batch(batch).completed_at_ms is not None


def test_freezing_twice_is_one_fact_and_another_reason_another() -> None:
    world = World()
    for reason in ("a", "a", "b"):
        world.freeze(reason)
        world.step()
    world.thaw()
    world.thaw()
    world.step()
    kinds = [type(e) for events in world.log for e in events]
    assert kinds == [ev.ServiceFrozen, ev.ServiceFrozen, ev.ServiceThawed]


def test_a_draining_worker_gets_nothing_new_and_ends_idle() -> None:
    world = World()
    world.hello("w1", cores=2)
    batch = world.submit(*[Job()] * 3)
    world.settle()
    world.drain("w1")
    world.end(world.attempt_of(batch, 1))
    world.settle()
    assert world.job(batch, 3).state is JobState.READY
    world.end(world.attempt_of(batch, 2))
    world.settle()
    (seen,) = fleet.workers(world.reactor, world.now)
    assert (seen.unfit, seen.n_running, seen.free_mcpu) == (Unfit.DRAINING, 0, 2000)
    world.hello("w2")
    world.settle()
    assert world.attempt_of(batch, 3) in world.workers["w2"].held
    world.undrain("w1")
    more = world.submit(Job(mcpu=4000), Job(mcpu=2000))
    world.settle()
    assert world.attempt_of(more, 2) in world.workers["w1"].held
    world.check()


def test_a_worker_that_was_lost_still_drains_when_it_is_back() -> None:
    world = World()
    world.hello("w1")
    world.drain("w1")
    world.step()
    world.pass_time(60_000)
    world.settle()
    (seen,) = fleet.workers(world.reactor, world.now)
    assert seen.lost and seen.draining is not None
    world.hello("w1")
    batch = world.submit(Job())
    world.settle()
    assert world.job(batch, 1).state is JobState.READY
    world.undrain("w1")
    world.settle()
    assert world.job(batch, 1).state is JobState.RUNNING


def test_draining_and_undraining_again_are_no_news_and_a_stranger_is_refused() -> None:
    world = World()
    world.hello("w1")
    world.settle()
    n = len(world.log)
    world.drain("w1")
    world.drain("w1")
    world.step()
    world.undrain("w1")
    world.undrain("w1")
    world.step()
    kinds = [type(e) for events in world.log[n:] for e in events]
    assert kinds == [ev.WorkerDraining, ev.WorkerUndrained]
    for refused in (world.drain, world.undrain):
        with pytest.raises(Refusal, match="there is no worker 'w9'") as why:
            refused("w9")
        assert why.value.kind is RefusalKind.NOT_FOUND


def test_what_still_runs_is_told_oldest_first() -> None:
    world = World()
    world.hello("w1", cores=3)
    first = world.submit(Job(), user="ann")
    world.settle()
    world.pass_time(1000)
    second = world.submit(Job(), user="bob")
    world.settle()
    world.freeze("why")
    world.settle()
    seen = fleet.service(world.reactor)
    assert [(r.user, r.attempt.batch_id) for r in seen.running] == [("ann", first), ("bob", second)]
    assert (seen.n_workers, seen.n_running, seen.capacity_mcpu, seen.free_mcpu) == (1, 2, 3000, 1000)
    assert seen.frozen is not None and seen.frozen.reason == "why"


def test_pauses_outlive_a_restart(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path / 'db'}")
    world = World(store)
    world.hello("w1")
    world.freeze("a new network")
    world.drain("w1", "a new disk")
    world.settle()
    world.check()
    world.reload()
    assert world.state.frozen is not None and world.state.frozen.reason == "a new network"
    assert world.state.draining["w1"].reason == "a new disk"
    batch = world.submit(Job())
    world.hello("w1")
    world.settle()
    assert world.job(batch, 1).state is JobState.READY
    world.thaw()
    world.undrain("w1")
    world.settle()
    world.check()
    world.reload()
    assert world.state.frozen is None and not world.state.draining
    store.close()
