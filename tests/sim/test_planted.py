"""Bugs planted one at a time: each must be found by a history, or a promise is not watched over."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from longshore_controller.callbacks import Callbacks
from longshore_controller.core import events as ev
from longshore_controller.core import model, money, reactor, scheduler, verdict
from longshore_controller.core import state as core_state
from longshore_controller.core.failures import tallied
from longshore_controller.core.model import JobColumns, JobState, Orders, Report
from longshore_controller.core.reactor import Reactor
from longshore_controller.core.rows import BatchRow, Changes
from longshore_controller.core.state import Attempt, Batch, State, Worker
from longshore_controller.core.verdict import Tries
from longshore_controller.engine import Engine, Waiting, _answer
from longshore_controller.feed import Committed, Feed
from longshore_controller.store import Store, StoreUnavailable, store
from longshore_workerd.outbox import Outbox
from longshore_workerd.supervisor import Supervisor
from sim.history import Failed, run
from sim.machine import Workerd
from world import open_store

WITHIN = 600
"""Histories within which a bug must be found."""

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, Plant] = {}
STORE_BUGS: dict[str, Plant] = {}
STORMS: dict[str, dict[str, Any]] = {}
"""Weather in which bugs are common that show only after a rare chain of troubles elsewhere."""


def bug(among: dict[str, Plant]) -> Callable[[Plant], Plant]:
    """The function's name says what goes wrong."""

    def enter(plant: Plant) -> Plant:
        among[plant.__name__.replace("_", " ")] = plant
        return plant

    return enter


def in_storms(plant: Plant) -> Plant:
    """Commits fail, and workers vanish."""
    storm = {"lasts_ms": 240_000, "failing": 0.3, "controller_crashes_s": None, "vanishings_s": 15.0}
    STORMS[plant.__name__.replace("_", " ")] = storm
    return plant


def after(patch: pytest.MonkeyPatch, owner: type, name: str, do: Callable[..., Any]) -> None:
    """``do(result, self, *args)`` is what the method returns from now on."""
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda self, *args, **named: do(real(self, *args, **named), self, *args))


def before(patch: pytest.MonkeyPatch, owner: type, name: str, do: Callable[..., tuple[Any, ...]]) -> None:
    """The method gets the arguments that ``do(self, *args)`` returns."""
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda self, *args: real(self, *do(self, *args)))


# -- the engine and the feed ---------------------------------------------------------------------------


@bug(BUGS)
def an_ack_before_its_commit(patch: pytest.MonkeyPatch) -> None:
    def eager(request: Callable[..., Any], future: asyncio.Future[Any]) -> Callable[..., Any]:
        def decide_and_answer(reactor: Reactor, now: int) -> Any:
            result = request(reactor, now)
            _answer(future, result)
            return result

        return decide_and_answer

    def step(engine: Engine, requests: list[Waiting]) -> tuple[list[Waiting]]:
        return ([(r if look else eager(r, future), look, future, who) for r, look, future, who in requests],)

    before(patch, Engine, "_step", step)


@bug(BUGS)
def an_order_sent_before_its_commit(patch: pytest.MonkeyPatch) -> None:
    real = Engine._in_writer

    async def writer(engine: Engine, call: Callable[..., Any], *args: Any) -> Any:
        if args:
            events, changes, now = args
            engine._feed.publish(Committed(engine.seq + len(events), now, events, changes))
        return await real(engine, call, *args)

    patch.setattr(Engine, "_in_writer", writer)


@bug(BUGS)
def a_failed_commit_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    real = Engine._in_writer

    async def writer(engine: Engine, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return await real(engine, call, *args)
        except StoreUnavailable:
            if args:
                return engine.seq + len(args[0])
            raise

    patch.setattr(Engine, "_in_writer", writer)


@bug(BUGS)
def a_failed_commit_not_followed_by_a_reload(patch: pytest.MonkeyPatch) -> None:
    async def start_over(engine: Engine, _: Reactor, requests: list[Waiting], why: Exception) -> None:
        for _ask, _look, future, _who in requests:
            _answer(future, why)

    patch.setattr(Engine, "_start_over", start_over)


@bug(BUGS)
def a_reset_that_followers_do_not_hear_of(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Feed, "reset", lambda feed: None)


@in_storms
@bug(BUGS)
def a_reload_that_forgets_what_workers_said(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reactor, "resume", lambda reactor, before, now: None)


# -- what workers say ----------------------------------------------------------------------------------


@bug(BUGS)
def a_report_accepted_from_another_worker(patch: pytest.MonkeyPatch) -> None:
    def owners(r: Reactor, worker_id: str, session: int, reports: tuple[Report, ...], now: int) -> Any:
        attempt = r.state.attempts.get(reports[0].attempt_id) if reports else None
        if attempt is None or len(reports) > 1 or (owner := r._sessions.get(attempt.worker_id)) is None:
            return worker_id, session, reports, now
        return attempt.worker_id, owner.number, reports, now

    before(patch, Reactor, "on_reports", owners)


@bug(BUGS)
def a_report_accepted_from_an_old_attempt(patch: pytest.MonkeyPatch) -> None:
    jobs: dict[str, tuple[int, int]] = {}

    def remember(_: None, state: State, attempt: Attempt) -> None:
        jobs[attempt.attempt_id] = attempt.batch_id, attempt.job_id

    def by_job(r: Reactor, worker_id: str, session: int, reports: tuple[Report, ...], now: int) -> Any:
        live = {(a.batch_id, a.job_id): a.attempt_id for a in r.state.attempts.values()}
        found = [replace(x, attempt_id=live.get(jobs[x.attempt_id], x.attempt_id)) for x in reports]
        return worker_id, session, tuple(found), now

    after(patch, State, "add_attempt", remember)
    before(patch, Reactor, "on_reports", by_job)


@bug(BUGS)
def a_bill_twice_as_long(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reactor, "_clamp", lambda reactor, attempt, main_ms, now: 2 * main_ms)


@bug(BUGS)
def a_worker_lost_before_its_lease_is_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reactor, "_lost_at", lambda reactor, now: now + 12_000)


@bug(BUGS)
def a_lost_worker_whose_attempts_go_on(patch: pytest.MonkeyPatch) -> None:
    def lose(reactor: Reactor, worker_id: str, now: int) -> None:
        del reactor._sessions[worker_id]
        if worker_id in reactor.state.workers:
            reactor._emit(ev.WorkerLost(worker_id, "its lease ran out", now))

    patch.setattr(Reactor, "_lose", lose)


@bug(BUGS)
def a_worker_that_is_never_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reactor, "_lose", lambda reactor, worker_id, now: None)


@bug(BUGS)
def no_orders_at_hello(patch: pytest.MonkeyPatch) -> None:
    def nothing(orders: Orders, *_: Any) -> Orders:
        return Orders(complete=True, keep=orders.keep)

    after(patch, Reactor, "orders", nothing)


@bug(BUGS)
def no_orders_when_a_heartbeat_diverges(patch: pytest.MonkeyPatch) -> None:
    after(patch, Reactor, "on_heartbeat", lambda diverged, *_: False)


@in_storms
@bug(BUGS)
def a_last_word_that_goes_with_an_end_that_failed(patch: pytest.MonkeyPatch) -> None:
    def forget(_: None, r: Reactor, attempt: Attempt, report: Report, now: int) -> None:
        r._progress.pop(attempt.attempt_id, None)

    after(patch, Reactor, "_end", forget)


# -- workers -------------------------------------------------------------------------------------------


@bug(BUGS)
def a_worker_that_does_not_fence_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Supervisor, "on_lease_lost", lambda supervisor, now: None)


@bug(BUGS)
def a_spool_that_is_gone_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    def forget(workerd: Workerd) -> tuple[()]:
        workerd._machine.disk.clear()
        return ()

    before(patch, Workerd, "begin", forget)


@bug(BUGS)
def a_report_that_is_sent_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "_resend", lambda outbox, attempt_ids: None)


@bug(BUGS)
def an_attempt_started_again_when_told_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Supervisor, "_is_known", lambda supervisor, attempt_id: attempt_id in supervisor._attempts)


@bug(BUGS)
def a_revoked_attempt_that_runs_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Supervisor, "_revoke", lambda supervisor, now, attempt_id: None)


# -- cores, counters, money ------------------------------------------------------------------------------


@bug(BUGS)
def cores_freed_twice(patch: pytest.MonkeyPatch) -> None:
    def free(_: None, state: State, e: ev.AttemptEnded) -> None:
        for row in (state._changes.attempts[e.attempt_id],):
            state.workers[row.worker_id].free_mcpu += row.mcpu

    after(patch, State, "_ended", free)


@bug(BUGS)
def cores_that_are_not_there(patch: pytest.MonkeyPatch) -> None:
    def room(_: None, room: scheduler.Room, state: State, available: Any, kept: Any) -> None:
        room._free = sorted((w.capacity_mcpu, w.worker_id) for w in state.workers.values())

    after(patch, scheduler.Room, "__init__", room)


@bug(BUGS)
def a_frozen_service_that_goes_on(patch: pytest.MonkeyPatch) -> None:
    real = Reactor._place

    def place(reactor: Reactor, left: int, now: int) -> int:
        frozen, reactor.state.frozen = reactor.state.frozen, None
        try:
            return real(reactor, left, now)
        finally:
            reactor.state.frozen = frozen

    patch.setattr(Reactor, "_place", place)


@bug(BUGS)
def a_draining_worker_that_is_given_more(patch: pytest.MonkeyPatch) -> None:
    def unfit(why: model.Unfit | None, *_: Any) -> model.Unfit | None:
        return None if why is model.Unfit.DRAINING else why

    after(patch, Reactor, "unfit", unfit)


@bug(BUGS)
def a_drain_that_is_over_when_its_worker_is_lost(patch: pytest.MonkeyPatch) -> None:
    def forget(_: None, state: State, event: ev.Event) -> None:
        if isinstance(event, ev.WorkerLost):
            state.draining.pop(event.worker_id, None)

    after(patch, State, "apply", forget)


@bug(BUGS)
def pauses_that_no_row_records(patch: pytest.MonkeyPatch) -> None:
    def without_pauses(changes: Changes, state: State) -> Changes:
        changes.pauses.clear()
        return changes

    after(patch, State, "take_changes", without_pauses)


@bug(BUGS)
def users_served_by_name(patch: pytest.MonkeyPatch) -> None:
    real = scheduler.placements

    def placements(state: State, available: Any, room: scheduler.Room) -> Any:
        """One user after another gets all that they ask for."""
        users = state.users
        for name in sorted(users):
            state.users = {name: users[name]}
            try:
                found = real(state, available, room)
                while (placement := next(found, None)) is not None:
                    state.users = users
                    yield placement
                    state.users = {name: users[name]}
            finally:
                state.users = users

    patch.setattr(reactor, "placements", placements)


@bug(BUGS)
def later_batches_served_first(patch: pytest.MonkeyPatch) -> None:
    real = scheduler._turns

    def turns(state: State, user: Any, room: scheduler.Room) -> Any:
        return real(state, replace(user, batches=dict.fromkeys(reversed(user.batches))), room)

    patch.setattr(scheduler, "_turns", turns)


@bug(BUGS)
def jobs_that_always_run_served_last(patch: pytest.MonkeyPatch) -> None:
    real = scheduler.kinds
    patch.setattr(scheduler, "kinds", lambda state, batch: tuple(reversed(real(state, batch))))


@bug(STORE_BUGS)
def pauses_that_are_not_written(patch: pytest.MonkeyPatch) -> None:
    before(patch, Store, "_write", lambda store, db, changes: (db, replace(changes, pauses={})))


@bug(BUGS)
def an_end_counted_twice(patch: pytest.MonkeyPatch) -> None:
    real = Tries.count

    def count(tries: Tries, reason: model.EndReason, job_state: JobState) -> None:
        real(tries, reason, job_state)
        real(tries, reason, job_state)

    patch.setattr(Tries, "count", count)


@bug(BUGS)
def a_success_counted_as_a_failure(patch: pytest.MonkeyPatch) -> None:
    def count(_: None, tries: Tries, reason: model.EndReason, job_state: JobState) -> None:
        tries.n_failed += job_state is JobState.SUCCESS

    after(patch, Tries, "count", count)


@bug(BUGS)
def a_lost_attempt_counted_as_the_users_failure(patch: pytest.MonkeyPatch) -> None:
    def count(_: None, tries: Tries, reason: model.EndReason, job_state: JobState) -> None:
        tries.n_failed += reason is model.EndReason.LOST

    after(patch, Tries, "count", count)


@bug(BUGS)
def only_the_last_attempt_billed(patch: pytest.MonkeyPatch) -> None:
    def ended(state: State, e: ev.AttemptEnded) -> tuple[ev.AttemptEnded]:
        tries = state.batches[e.batch_id].tries[e.job_id]
        tries.msec_mcpu = tries.cost_nanousd = 0
        return (e,)

    before(patch, State, "_ended", ended)


@bug(BUGS)
def a_bill_that_begins_again_after_a_reload(patch: pytest.MonkeyPatch) -> None:
    def add(r: Reactor, attempt: Attempt, report: Report, now: int) -> Any:
        twice = attempt.main_ms if attempt.attempt_id in r._inherited else 0
        return attempt, replace(report, main_ms=report.main_ms + twice), now

    before(patch, Reactor, "_end", add)


@bug(BUGS)
def a_bill_by_the_controllers_clock(patch: pytest.MonkeyPatch) -> None:
    def until_now(r: Reactor, attempt: Attempt, report: Report, now: int) -> Any:
        started = attempt.started_at_ms
        return attempt, replace(report, main_ms=report.main_ms if started is None else now - started), now

    before(patch, Reactor, "_end", until_now)


@bug(BUGS)
def a_clock_set_back_that_cuts_bills(patch: pytest.MonkeyPatch) -> None:
    def no_inheritance(_: None, r: Reactor, *args: Any) -> None:
        r._inherited.clear()

    after(patch, Reactor, "__init__", no_inheritance)


# -- jobs and batches ------------------------------------------------------------------------------------


@bug(BUGS)
def a_child_released_before_its_last_parent(patch: pytest.MonkeyPatch) -> None:
    def tell(_: None, state: State, batch: Batch, job_id: int, job_state: JobState) -> None:
        columns = batch.columns
        assert columns is not None
        batch.due.extend(child for child in columns.children_of(job_id) if columns.waiting[child] == 1)

    after(patch, State, "_tell_children", tell)


@bug(BUGS)
def a_child_released_though_its_parent_failed(patch: pytest.MonkeyPatch) -> None:
    def success(state: State, batch: Batch, job_id: int, _: JobState) -> Any:
        return batch, job_id, JobState.SUCCESS

    before(patch, State, "_tell_children", success)


@bug(BUGS)
def a_doomed_child_loaded_as_if_it_were_not(patch: pytest.MonkeyPatch) -> None:
    def load(state: State, batch_id: int, columns: JobColumns) -> tuple[int, JobColumns]:
        columns.states = bytearray(byte & ~model.DOOMED for byte in columns.states)
        return batch_id, columns

    before(patch, State, "load_columns", load)


@bug(BUGS)
def a_loaded_child_that_nobody_announces(patch: pytest.MonkeyPatch) -> None:
    def nothing_due(_: None, state: State, batch: Batch, columns: JobColumns) -> None:
        batch.due.clear()

    after(patch, State, "_set_columns", nothing_due)


@bug(BUGS)
def an_always_run_job_that_is_cancelled(patch: pytest.MonkeyPatch) -> None:
    always = {byte | model.ALWAYS_RUN for byte in (JobState.PENDING, JobState.READY)}
    patch.setattr(reactor, "_CANCELLABLE", reactor._CANCELLABLE | always)


@bug(BUGS)
def a_cancel_that_revokes_nothing(patch: pytest.MonkeyPatch) -> None:
    def cancel(r: Reactor, batch_id: int, by: str, reason: str, now: int) -> None:
        batch = r.state.batches.get(batch_id)
        if batch is not None and not batch.cancelled and not batch.is_complete:
            r._emit(ev.BatchCancelled(batch_id, by, reason, now))

    patch.setattr(Reactor, "on_cancel", cancel)


@bug(BUGS)
def a_cancelled_job_that_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    real = verdict.verdict
    patch.setattr(reactor, "verdict", lambda *args, **named: real(*args, **(named | {"cancelled": False})))


@bug(BUGS)
def a_cancel_that_is_forgotten_by_a_reload(patch: pytest.MonkeyPatch) -> None:
    def forget(_: None, state: State, batch_id: int, columns: JobColumns) -> None:
        state.cancelling.pop(batch_id, None)

    after(patch, State, "load_columns", forget)


@bug(BUGS)
def one_retry_too_many(patch: pytest.MonkeyPatch) -> None:
    real = verdict.verdict

    def more(*args: Any, retries: model.Retries, cancelled: bool) -> verdict.Verdict:
        return real(*args, retries=retries._replace(own=retries.own + 1), cancelled=cancelled)

    patch.setattr(reactor, "verdict", more)


@bug(BUGS)
def a_lost_attempt_that_fails_its_job(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model, "MAX_LOST", 2)


@bug(BUGS)
def a_jobs_own_limit_of_preemptions_that_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    real = model.Retries.unpack
    patch.setattr(model.Retries, "unpack", lambda packed: real(packed)._replace(max_preempted=20))


@bug(BUGS)
def an_attempt_that_its_owner_ended_counted_as_lost(patch: pytest.MonkeyPatch) -> None:
    def count(_: None, tries: Tries, reason: model.EndReason, job_state: JobState) -> None:
        tries.n_lost += reason is model.EndReason.REVOKED

    after(patch, Tries, "count", count)


@bug(BUGS)
def an_attempt_that_goes_on_though_its_owner_ended_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reactor, "on_end_attempt", lambda reactor, attempt_id, by, reason, now: None)


@bug(BUGS)
def more_jobs_that_wait_for_parents_that_are_complete(patch: pytest.MonkeyPatch) -> None:
    real = JobColumns.extend

    def extend(columns: JobColumns, jobs: model.StagedJobs) -> bool:
        was, before = bytes(columns.states), len(columns)
        columns.states[:] = bytes(len(was)).replace(b"\0", bytes([JobState.RUNNING]))
        renumbered = real(columns, jobs)
        columns.states[:before] = was
        return renumbered

    patch.setattr(JobColumns, "extend", extend)


@bug(BUGS)
def more_jobs_that_a_failed_parent_does_not_concern(patch: pytest.MonkeyPatch) -> None:
    def forgive(_: bool, columns: JobColumns, jobs: model.StagedJobs) -> bool:
        first = len(columns) - len(jobs)
        for at in range(first, len(columns)):
            columns.states[at] &= ~model.DOOMED
        return True

    after(patch, JobColumns, "extend", forgive)


@bug(BUGS)
def an_update_that_counts_as_often_as_it_is_asked_for(patch: pytest.MonkeyPatch) -> None:
    real = Reactor.on_update

    def on_update(r: Reactor, wanted: reactor.UpdateBatch, left: Batch | None, now: int) -> bool:
        batch = r.state.batches.get(wanted.batch_id)
        if batch is not None and wanted.request_id in batch.updates:
            again = f"{wanted.request_id} again at {now}"
            wanted = replace(wanted, request_id=again, first_job_id=batch.n_jobs + 1)
        return real(r, wanted, left, now)

    patch.setattr(Reactor, "on_update", on_update)


@bug(BUGS)
def more_jobs_whose_batch_stays_complete(patch: pytest.MonkeyPatch) -> None:
    real = Reactor.on_update

    def on_update(r: Reactor, wanted: reactor.UpdateBatch, left: Batch | None, now: int) -> bool:
        return wanted.batch_id not in r.state.batches or real(r, wanted, left, now)

    patch.setattr(Reactor, "on_update", on_update)


@bug(BUGS)
def updates_that_a_reload_forgets(patch: pytest.MonkeyPatch) -> None:
    def forget(_: None, state: State, batch_id: int, columns: JobColumns) -> None:
        state.batches[batch_id].updates.clear()

    after(patch, State, "load_columns", forget)


@bug(STORE_BUGS)
def a_reopened_batch_whose_jobs_run_again(patch: pytest.MonkeyPatch) -> None:
    def anew(batch: Batch | None, store: Store, batch_id: int) -> Batch | None:
        if batch is not None:
            batch.take_columns(store.columns(batch_id))
        return batch

    after(patch, Store, "left_batch", anew)


@bug(BUGS)
def an_undelete_that_is_answered_and_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reactor, "on_undelete", lambda reactor, batch_id, by, user, now: None)


@bug(BUGS)
def a_batch_complete_but_for_one_job(patch: pytest.MonkeyPatch) -> None:
    def nearly(batch: Batch) -> bool:
        return batch.closed_at_ms is not None and batch.n_complete >= batch.n_jobs - 1

    patch.setattr(Batch, "is_complete", property(nearly))


@bug(BUGS)
def a_request_that_counts_twice(patch: pytest.MonkeyPatch) -> None:
    def forget(r: Reactor, request: reactor.CreateBatch, now: int) -> tuple[reactor.CreateBatch, int]:
        r.state.requests.pop((request.user, request.request_id), None)
        return request, now

    before(patch, Reactor, "on_create", forget)


@bug(BUGS)
def a_slice_of_a_large_cancel_that_is_skipped(patch: pytest.MonkeyPatch) -> None:
    def hurry(r: Reactor, left: int, now: int) -> tuple[int, int]:
        for batch_id in r.state.cancelling:
            r.state.cancelling[batch_id] += 1
        return left, now

    before(patch, Reactor, "_cancel_jobs", hurry)


# -- money -----------------------------------------------------------------------------------------------


@bug(BUGS)
def a_limit_that_holds_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(State, "held", lambda state, batch: False)


@bug(BUGS)
def a_limit_that_knows_nothing_of_what_was_spent_before_a_reload(patch: pytest.MonkeyPatch) -> None:
    def forget(_: None, state: State) -> None:
        for project in state.projects.values():
            project.spent_nanousd = 0

    after(patch, Reactor, "__init__", lambda _, reactor, state, *__, **___: forget(None, state))


@bug(BUGS)
def a_ledger_without_what_ran_for_nothing(patch: pytest.MonkeyPatch) -> None:
    real = State._charge

    def charge(state: State, batch: Batch, attempt: Attempt, e: ev.AttemptEnded) -> None:
        real(state, batch, attempt, e)
        if not e.job_state.is_complete:
            state._changes.ledger.clear()

    patch.setattr(State, "_charge", charge)


@bug(BUGS)
def a_charge_that_is_rounded_down(patch: pytest.MonkeyPatch) -> None:
    def rounded(*args: Any) -> Any:
        return tuple(c._replace(nanousd=c.nanousd // 10 * 10) for c in money.charges(*args))

    patch.setattr(core_state, "charges", rounded)


@bug(BUGS)
def running_costs_that_stay_when_the_attempt_has_ended(patch: pytest.MonkeyPatch) -> None:
    def twice(state: State, batch: Batch, attempt: Attempt, e: ev.AttemptEnded) -> tuple[Any, ...]:
        state.projects[batch.billing_project].accrued_nanousd += attempt.accrued_nanousd(state.rates)
        return batch, attempt, e

    before(patch, State, "_charge", twice)


@bug(STORE_BUGS)
def a_ledger_that_is_replaced_instead_of_added_to(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "_LEDGER", store._LEDGER._replace(sums=()))


@bug(STORE_BUGS)
def projects_that_are_not_written(patch: pytest.MonkeyPatch) -> None:
    before(patch, Store, "_write", lambda store, db, changes: (db, replace(changes, projects={})))


# -- callbacks -------------------------------------------------------------------------------------------


@bug(BUGS)
def callbacks_that_an_earlier_controller_left(patch: pytest.MonkeyPatch) -> None:
    async def nothing_is_left(callbacks: Callbacks) -> bool:
        return True

    patch.setattr(Callbacks, "_catch_up", nothing_is_left)


@bug(BUGS)
def a_callback_that_old_rows_say_is_due(patch: pytest.MonkeyPatch) -> None:
    def forget(callbacks: Callbacks, row: BatchRow) -> tuple[BatchRow]:
        callbacks._called.clear()
        return (row,)

    before(patch, Callbacks, "_start", forget)


@bug(BUGS)
def a_callback_before_the_batch_is_complete(patch: pytest.MonkeyPatch) -> None:
    real = Feed.publish

    def early(feed: Feed, committed: Committed) -> None:
        for batch_id, row in committed.changes.batches.items():
            if row.callback and row.n_failed and row.completed_at_ms is None:
                complete: list[ev.Event] = [ev.BatchCompleted(batch_id, 0)]
                told = replace(committed, events=complete)
                for following in feed._followers.get(("completed", True), ()):
                    following._put(told)
        real(feed, committed)

    patch.setattr(Feed, "publish", early)


# -- rows ------------------------------------------------------------------------------------------------


@bug(BUGS)
def ranges_of_jobs_that_no_row_records(patch: pytest.MonkeyPatch) -> None:
    def without_ranges(changes: Changes, state: State) -> Changes:
        changes.job_ranges.clear()
        return changes

    after(patch, State, "take_changes", without_ranges)


@bug(BUGS)
def progress_that_no_row_records(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(State, "_note_attempt", lambda state, attempt: None)


@bug(BUGS)
def counters_that_no_row_records(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(State, "_note", lambda state, batch: None)


@bug(BUGS)
def a_worker_that_comes_back_with_all_its_cores(patch: pytest.MonkeyPatch) -> None:
    def all_free(_: None, state: State, event: ev.Event) -> None:
        if isinstance(event, ev.WorkerJoined):
            worker: Worker = state.workers[event.worker_id]
            worker.free_mcpu = worker.capacity_mcpu

    after(patch, State, "apply", all_free)


@bug(STORE_BUGS)
def tries_that_are_not_loaded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "_load_tries", lambda store, db, row: {})


@bug(STORE_BUGS)
def ranges_that_are_not_written(patch: pytest.MonkeyPatch) -> None:
    before(patch, Store, "_write", lambda store, db, changes: (db, replace(changes, job_ranges=[])))


@bug(STORE_BUGS)
def attempts_that_are_not_written(patch: pytest.MonkeyPatch) -> None:
    before(patch, Store, "_write", lambda store, db, changes: (db, replace(changes, attempts={})))


@bug(STORE_BUGS)
def batches_that_are_not_written_again(patch: pytest.MonkeyPatch) -> None:
    def only_new(store: Store, db: Any, changes: Changes) -> tuple[Any, Changes]:
        new = {i: b for i, b in changes.batches.items() if b.closed_at_ms is None or b.completed_at_ms}
        return db, replace(changes, batches=new)

    before(patch, Store, "_write", only_new)


@bug(STORE_BUGS)
def failures_that_are_counted_afresh_in_each_commit(patch: pytest.MonkeyPatch) -> None:
    spelled = store._COUNT_FAILURES.replace("failure_group.n + excluded.n", "excluded.n")
    patch.setattr(store, "_COUNT_FAILURES", spelled)


@bug(STORE_BUGS)
def failures_that_are_all_taken_for_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "tallied", lambda failed: dict(list(tallied(failed).items())[:1]))


@bug(STORE_BUGS)
def failures_of_which_the_latest_is_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "_COUNT_FAILURES", store._COUNT_FAILURES.replace(" < ", " <> "))


def require_found_by_a_promise(failed: Failed) -> None:
    """A bug counts as found only if it broke something else than itself."""
    assert failed.__cause__ is not None
    *_, last = traceback.extract_tb(failed.__cause__.__traceback__)
    assert "test_" not in Path(last.filename).name, f"the planting itself is wrong: {failed}"


def first_found(store_folder: Path | None = None, **weather: Any) -> int | None:
    """The first seed whose history finds it."""
    for seed in range(WITHIN):
        store = open_store(f"sqlite://{store_folder}/{seed}.db") if store_folder else None
        try:
            run(seed, store, **weather)
        except Failed as failed:
            require_found_by_a_promise(failed)
            return seed
        finally:
            if store is not None:
                store.close()
    return None


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name](monkeypatch)
    assert first_found(**STORMS.get(name, {})) is not None


@pytest.mark.parametrize("name", STORE_BUGS)
def test_a_bug_planted_in_the_store_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    STORE_BUGS[name](monkeypatch)
    assert first_found(tmp_path) is not None
