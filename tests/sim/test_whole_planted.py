"""Bugs planted one at a time in the parts that only the second layer has: each must be found by a history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import pytest
from longshore_api.v1 import worker_service_pb2 as workers
from longshore_controller import engine
from longshore_controller.core.events import AttemptAssigned
from longshore_controller.core.model import Orders
from longshore_controller.core.reactor import Limits, Reactor
from longshore_controller.core.rows import Changes
from longshore_controller.engine import Engine, SteadyClock
from longshore_controller.feed import Feed
from longshore_controller.sessions import Session as Conversation
from longshore_controller.sessions import WorkerService
from longshore_controller.store import Store
from longshore_controller.wire import conversation
from longshore_workerd import session
from longshore_workerd.actions import Action, Survivor
from longshore_workerd.daemon import Daemon
from longshore_workerd.identity import Memory
from longshore_workerd.log_push import LogPusher
from longshore_workerd.outbox import Outbox
from longshore_workerd.session import Session
from longshore_workerd.spool import Entry, Kind, Spool
from longshore_workerd.supervisor import Supervisor
from sim.disk import Disk
from sim.history import Failed
from sim.test_planted import Plant, after, before, bug, require_found_by_a_promise
from sim.weather import Change
from sim.whole import run

WITHIN = 100
"""Histories within which a bug must be found."""
BUGS: dict[str, Plant] = {}
WEATHER: dict[str, Change] = {}
"""Some show only after a rare chain of troubles; these are looked for where its first link is common."""


PROMISES = {"an epoch that a worker forgets": "no way back to an earlier controller"}
"""Which one, where it must be this."""


def where(**changed: Any) -> Callable[[Plant], Plant]:
    def enter(plant: Plant) -> Plant:
        WEATHER[plant.__name__.replace("_", " ")] = lambda weather: replace(weather, **changed)
        return plant

    return enter


REPLACED = {"the controller is replaced while it is frozen": 60.0}
CUT_OFF = {"workerd is killed while it is cut off": 60.0}
LATE = {"an answer is late, and the last for long": 60.0}


# -- the controller's side of a conversation -------------------------------------------------------------


@bug(BUGS)
def an_ack_before_its_commit(patch: pytest.MonkeyPatch) -> None:
    real = Conversation._report

    async def report(session: Conversation, message: workers.Reports) -> Any:
        task = asyncio.create_task(real(session, message))
        session._asking.add(task)
        return conversation.acks(message)

    patch.setattr(Conversation, "_report", report)


@bug(BUGS)
def an_ack_though_the_commit_failed(patch: pytest.MonkeyPatch) -> None:
    real = Conversation._submit

    async def submit(session: Conversation, request: Any) -> bool:
        await real(session, request)
        return True

    patch.setattr(Conversation, "_submit", submit)


@bug(BUGS)
def an_assignment_sent_before_its_commit(patch: pytest.MonkeyPatch) -> None:
    real = Engine._in_writer

    async def writer(engine: Engine, call: Any, *args: Any) -> Any:
        for event in args[0] if args else ():
            if isinstance(event, AttemptAssigned):
                for follower in engine._feed._followers.get(("worker", event.worker_id), ()):
                    orders = conversation.assignments(keep=[event.attempt_id])
                    early.get(follower, asyncio.Queue()).put_nowait(orders)
        return await real(engine, call, *args)

    early: dict[Any, asyncio.Queue[Any]] = {}

    def remember(_: None, session: Conversation, *__: Any, **___: Any) -> None:
        early[session._following] = session._out

    after(patch, Conversation, "__init__", remember)
    patch.setattr(Engine, "_in_writer", writer)


@bug(BUGS)
def orders_at_hello_that_are_not_complete(patch: pytest.MonkeyPatch) -> None:
    after(patch, Reactor, "orders", lambda orders, *_: Orders(complete=True, keep=orders.keep))


@bug(BUGS)
def complete_orders_that_say_nothing_of_what_is_held(patch: pytest.MonkeyPatch) -> None:
    after(patch, Reactor, "orders", lambda orders, *_: replace(orders, keep=()))


@bug(BUGS)
@where(troubles={"a connection breaks": 5.0})
def a_goodbye_of_an_old_session(patch: pytest.MonkeyPatch) -> None:
    real = Reactor.on_disconnect

    def on_disconnect(r: Reactor, worker_id: str, session: int) -> None:
        known = r._sessions.get(worker_id)
        real(r, worker_id, session if known is None else known.number)

    patch.setattr(Reactor, "on_disconnect", on_disconnect)


@bug(BUGS)
def no_resync_after_a_reset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Feed, "reset", lambda feed: None)


@bug(BUGS)
def a_heartbeat_that_extends_no_lease(patch: pytest.MonkeyPatch) -> None:
    real = Reactor.on_heartbeat

    def on_heartbeat(r: Reactor, worker_id: str, session: int, held: Any, spooled: Any, now: int) -> bool:
        known = r._sessions.get(worker_id)
        was = known.lost_at_ms if known else 0
        answer = real(r, worker_id, session, held, spooled, now)
        if known is not None:
            known.lost_at_ms = was
        return answer

    patch.setattr(Reactor, "on_heartbeat", on_heartbeat)


@bug(BUGS)
def an_activation_token_that_is_not_replaced(patch: pytest.MonkeyPatch) -> None:
    async def nothing(service: WorkerService) -> None:
        pass

    patch.setattr(WorkerService, "_renew_activation", nothing)


@bug(BUGS)
def a_controller_that_goes_by_the_wall_clock(patch: pytest.MonkeyPatch) -> None:
    module: Any = engine
    patch.setattr(SteadyClock, "now_ms", lambda clock: module.time.time_ns() // 1_000_000)


@bug(BUGS)
def a_start_after_which_workers_have_only_what_was_left_of_their_leases(patch: pytest.MonkeyPatch) -> None:
    def shorten(_: None, r: Reactor, *__: Any) -> None:
        for known in r._sessions.values():
            known.lost_at_ms -= r._limits.lease_ms

    after(patch, Reactor, "__init__", shorten)


@bug(BUGS)
@where(troubles=REPLACED)
def an_answer_of_who_was_replaced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "confirm", lambda store: None)


@bug(BUGS)
@where(troubles=REPLACED, failing=0.0, long_jobs=True, lasts_ms=180_000)
def leases_that_who_was_replaced_extends(patch: pytest.MonkeyPatch) -> None:
    after(patch, Engine, "__init__", lambda _, e, *__: vars(e).update(_doubt_ms=10**9))


# -- the store -------------------------------------------------------------------------------------------


@bug(BUGS)
def a_commit_after_one_whose_outcome_is_unknown(patch: pytest.MonkeyPatch) -> None:
    """The memory is kept, though the rows may be further."""

    async def start_over(engine: Engine, reactor: Any, requests: Any, why: Exception) -> None:
        engine._store._in_doubt = False
        for _request, _look, future, _deed in requests:
            if not future.done():
                future.set_exception(why)

    patch.setattr(Engine, "_start_over", start_over)


@bug(BUGS)
def a_commit_in_two_transactions(patch: pytest.MonkeyPatch) -> None:
    real = Store._write

    def write(store: Store, db: Any, changes: Changes) -> None:
        db.commit()
        db.begin()
        real(store, db, changes)

    patch.setattr(Store, "_write", write)


@bug(BUGS)
def an_epoch_that_nobody_checks(patch: pytest.MonkeyPatch) -> None:
    def raise_seq(store: Store, db: Any, by: int) -> int:
        rows = store._db.rows(db, "UPDATE leader SET last_seq = last_seq + ? RETURNING last_seq", by)
        return int(rows[0][0])

    patch.setattr(Store, "_raise_seq", raise_seq)


# -- workerd's side of a conversation --------------------------------------------------------------------


@bug(BUGS)
@where(troubles=REPLACED)
def an_epoch_that_a_worker_forgets(patch: pytest.MonkeyPatch) -> None:
    """Who was replaced finds it out before anybody can come back: so this takes a second bug."""
    patch.setattr(Store, "confirm", lambda store: None)
    patch.setattr(Memory, "epoch", lambda memory: 0)


@bug(BUGS)
@where(troubles=LATE, failing=0.0, long_jobs=True, lasts_ms=180_000)
def a_lease_from_when_the_answer_came(patch: pytest.MonkeyPatch) -> None:
    def on_lease(daemon: Daemon, _: int) -> tuple[int]:
        return (daemon._clock_ms() + Limits().lease_ms,)

    before(patch, Daemon, "on_lease", on_lease)


@bug(BUGS)
def an_outbox_that_forgets_what_was_sent_on_a_broken_connection(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "repeat_all", lambda outbox: outbox._sent.clear())


@bug(BUGS)
def an_outbox_that_keeps_what_was_acknowledged(patch: pytest.MonkeyPatch) -> None:
    def acked(outbox: Outbox, acks: Iterable[tuple[str, Any]]) -> Iterable[str]:
        return (attempt_id for attempt_id, state in acks if state.name == "ENDED")

    patch.setattr(Outbox, "acked", acked)


@bug(BUGS)
def a_connection_that_is_silent_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session, "SILENT_BEATS", 10**6)


@bug(BUGS)
@where(troubles=CUT_OFF, long_jobs=True, lasts_ms=180_000)
def a_lease_that_a_restart_renews(patch: pytest.MonkeyPatch) -> None:
    def begin(_: None, daemon: Daemon, **__: Any) -> None:
        daemon._lease_until_ms = daemon._clock_ms() + Limits().lease_ms

    after(patch, Daemon, "__init__", begin)


@bug(BUGS)
@where(troubles=CUT_OFF, long_jobs=True, lasts_ms=180_000)
def a_lease_that_nobody_minds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Supervisor, "on_lease_lost", lambda supervisor, now: None)


# -- the spool and the daemon ----------------------------------------------------------------------------


@bug(BUGS)
def a_spool_that_is_not_synced_before_a_report(patch: pytest.MonkeyPatch) -> None:
    real = Spool.flush
    patch.setattr(Spool, "flush", lambda spool, *, durable: real(spool, durable=False))


@bug(BUGS)
def a_report_sent_before_it_is_written(patch: pytest.MonkeyPatch) -> None:
    real = Daemon._write

    def write(daemon: Daemon, action: Action) -> None:
        real(daemon, action)
        for report in daemon._reports:
            daemon._session.report(*report)

    patch.setattr(Daemon, "_write", write)


@bug(BUGS)
def a_container_started_before_its_attempt_is_written(patch: pytest.MonkeyPatch) -> None:
    real = Spool.append

    def append(spool: Spool, kind: Kind, attempt_id: str, payload: bytes = b"") -> None:
        if kind is not Kind.ACCEPTED:
            real(spool, kind, attempt_id, payload)

    patch.setattr(Spool, "append", append)


@bug(BUGS)
@where(troubles={"a disk is full": 20.0})
def a_full_disk_that_is_taken_for_written(patch: pytest.MonkeyPatch) -> None:
    real = Spool.flush

    def flush(spool: Spool, *, durable: bool) -> None:
        try:
            real(spool, durable=durable)
        except OSError:
            spool._pending = []

    patch.setattr(Spool, "flush", flush)


@bug(BUGS)
def a_torn_record_that_is_left_in_the_spool(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Disk, "ftruncate", lambda disk, file, length: None)


@bug(BUGS)
def a_compaction_that_forgets_the_youngest(patch: pytest.MonkeyPatch) -> None:
    def forget(spool: Spool) -> tuple[()]:
        spool._live.popitem() if spool._live else None
        return ()

    before(patch, Spool, "_compact", forget)


@bug(BUGS)
def a_recovery_that_ignores_the_boot(patch: pytest.MonkeyPatch) -> None:
    real = Supervisor.recover

    def recover(s: Supervisor, now: int, *, survivors: Iterable[Survivor], ended: Any, found: Any) -> None:
        same = [replace(survivor, same_boot=True) for survivor in survivors]
        real(s, now, survivors=same, ended=ended, found=found)

    patch.setattr(Supervisor, "recover", recover)


@bug(BUGS)
def a_recovery_that_forgets_ends(patch: pytest.MonkeyPatch) -> None:
    def entries(found: dict[str, Entry], *_: Any) -> dict[str, Entry]:
        return {a: e for a, e in found.items() if e.accepted is None or e.report is None}

    after(patch, Spool, "entries", entries)


@bug(BUGS)
def a_recovery_that_adopts_nothing(patch: pytest.MonkeyPatch) -> None:
    real = Supervisor.recover

    def recover(s: Supervisor, now: int, *, survivors: Any, ended: Any, found: Collection[Any]) -> None:
        real(s, now, survivors=survivors, ended=ended, found=[])

    patch.setattr(Supervisor, "recover", recover)


@bug(BUGS)
def an_engine_that_is_asked_once(patch: pytest.MonkeyPatch) -> None:
    async def insist(daemon: Daemon, ask: Any, *, unless: Any = None) -> Any:
        return await ask()

    patch.setattr(Daemon, "_insist", insist)


# -- logs ------------------------------------------------------------------------------------------------


@bug(BUGS)
def logs_that_are_let_go_before_they_arrived(patch: pytest.MonkeyPatch) -> None:
    def lose(pusher: LogPusher, shares: Any) -> tuple[Any]:
        return (iter(()),)

    async def push(session: Session, pieces: Any) -> None:
        return None

    patch.setattr(Session, "push_logs", push)


@bug(BUGS)
def log_bytes_at_the_wrong_place(patch: pytest.MonkeyPatch) -> None:
    real = LogPusher._pieces

    def pieces(pusher: LogPusher, shares: Any) -> Any:
        for piece in real(pusher, shares):
            yield replace(piece, chunk=piece.chunk[::-1])

    patch.setattr(LogPusher, "_pieces", pieces)


def first_found(change: Change | None, promise: str) -> int | None:
    """The first seed whose history finds that it breaks this promise."""
    for seed in range(WITHIN):
        try:
            run(seed, change=change)
        except Failed as failed:
            require_found_by_a_promise(failed)
            if promise in str(failed):
                return seed
    return None


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_planted_in_a_whole_program_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name](monkeypatch)
    assert first_found(WEATHER.get(name), PROMISES.get(name, "")) is not None
