"""Bugs that histories found, rarely; each told again as a short story."""

from __future__ import annotations

from pathlib import Path

from longshore_controller.core.model import AttemptState as CoreState
from longshore_controller.core.model import EndReason, HeldAttempt, Report
from longshore_workerd.actions import Note, Survivor, Tell
from longshore_workerd.model import Assignment
from longshore_workerd.model import Report as WorkersReport
from longshore_workerd.runtime import Container, ContainerId, Exit, Found
from longshore_workerd.supervisor import Supervisor
from world import Job, World, open_store


def test_orders_end_a_revoked_attempt_that_its_worker_never_heard_of() -> None:
    """The order to run it was lost, and so was the order to end it."""
    world = World()
    worker = world.hello()
    batch = world.submit(Job())
    world.settle()
    attempt = world.attempt_of(batch, 1)
    worker.held.clear()
    world.cancel(batch)
    world.settle()
    assert world.reactor.orders("w1", (), ()).revoke == (attempt,)
    assert world.reactor.orders("w1", (), (attempt,)).revoke == ()


def test_the_last_word_on_an_attempt_outlives_an_end_that_failed_to_commit(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/longshore.db")
    world = World(store)
    worker = world.hello()
    batch = world.submit(Job())
    world.settle()
    attempt = world.attempt_of(batch, 1)
    world.pass_time(8_000)
    worker.held[attempt] = 7_000
    world.heartbeat("w1")
    world.settle()
    for the_commit_fails in (True, False):
        world.pass_time(world.limits.lease_ms + world.limits.grace_ms)
        if the_commit_fails:
            world.reactor.advance(world.now)
            world.reactor.take()
            world.reload()
    world.settle()
    store.close()
    assert world.rows.attempts[attempt].reason is EndReason.LOST
    assert world.rows.attempts[attempt].main_ms == 7_000


def test_a_worker_that_is_back_after_its_shutdown_gets_work_again() -> None:
    """Nobody heard it say that it was shut down; its successor says so, and does not speak of itself."""
    world = World()
    worker = world.hello()
    batch = world.submit(Job())
    world.settle()
    attempt = world.attempt_of(batch, 1)
    world.disconnect("w1")
    del worker.held[attempt]
    worker.spool[attempt] = Report(attempt, CoreState.ENDED, 0, EndReason.PREEMPTED, "it was shut down")
    world.hello()
    world.settle()
    assert world.rows.attempts[attempt].reason is EndReason.PREEMPTED
    assert world.attempt_of(batch, 1) != attempt


def test_a_worker_that_knows_less_after_its_restart_takes_no_time_back() -> None:
    world = World()
    worker = world.hello()
    batch = world.submit(Job())
    world.settle()
    attempt = world.attempt_of(batch, 1)
    world.pass_time(61_000)
    assert worker.session is not None
    world.reactor.on_heartbeat("w1", worker.session, (HeldAttempt(attempt, 60_000),), (), world.now)
    world.settle()
    restarted = Report(attempt, CoreState.ENDED, 50_000, EndReason.LOST, "the machine was restarted")
    world.reactor.on_reports("w1", worker.session, (restarted,), world.now)
    world.settle()
    assert world.rows.attempts[attempt].main_ms == 60_000


def test_a_start_that_nobody_saw_is_not_taken_for_seen_after_one_more_crash() -> None:
    """Adopted twice while it ran; at its end the runtime knows how long that was."""
    job, main = Assignment("a"), ContainerId("a", Container.MAIN)
    noted: WorkersReport | None = None
    for at_ms in (12_000, 20_000):
        supervisor = Supervisor(default_image="task", localizer_image="localizer")
        survivor = Survivor(job, 10_000, same_boot=True, main_start_ordered=True, last=noted)
        supervisor.recover(at_ms, survivors=[survivor], ended=[], found=[Found(main, running=True)])
        (noted,) = [a.report for a in supervisor.take(at_ms) if isinstance(a, Note | Tell)]
    supervisor.on_ended(30_000, main, Exit(0, ran_ms=19_500), 0)
    (ended,) = [a.report for a in supervisor.take(30_000) if isinstance(a, Tell)]
    assert ended.main_ms == 19_500
