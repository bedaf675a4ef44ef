"""The loop: nothing is answered or published before its commit, and there is one way back."""

from __future__ import annotations

import asyncio
import itertools
import threading
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from longshore_controller.core import events as ev
from longshore_controller.core.model import Hello, Refusal, RefusalKind
from longshore_controller.core.reactor import CreateBatch, Limits, Reactor
from longshore_controller.engine import Engine
from longshore_controller.feed import RESET, Committed, Feed, Following
from longshore_controller.store import EpochLost, Store, StoreUnavailable
from world import Job, columns, new_store, staged

Commit = Callable[..., int]


class StillClock:
    """Time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.now

    def not_before(self, at_ms: int) -> None:
        self.now = max(self.now, at_ms)


class Service:
    """An engine on a real store, whose commits a test can interfere with."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.real_commit: Commit = store.commit
        self.feed = Feed()
        self.clock = StillClock()
        ids = (f"{i:032x}" for i in itertools.count(1))
        self.engine = Engine(store, self.feed, Limits(), clock=self.clock, new_id=lambda: next(ids))

    def on_commit(self, commit: Callable[[Commit, list[ev.Event], tuple[Any, ...]], int]) -> None:
        """From now on a commit is what this does with (the real commit, events, arguments)."""
        real = self.real_commit
        self.store.commit = lambda *args: commit(real, args[0], args)  # type: ignore[method-assign]

    def hold_commits(self) -> tuple[threading.Event, threading.Event]:
        """Set when a commit has begun; to be set when commits may go on."""
        entered, go_on = threading.Event(), threading.Event()

        def held(real: Commit, _: list[ev.Event], args: tuple[Any, ...]) -> int:
            entered.set()
            go_on.wait()
            return real(*args)

        self.on_commit(held)
        return entered, go_on

    async def create(self, request_id: str, n_jobs: int = 0) -> int:
        request = CreateBatch("ada", "test", request_id, b"same", n_jobs)
        while True:
            try:
                return await self.engine.submit(lambda r, now: r.on_create(request, now))
            except Refusal as refusal:
                if refusal.kind is not RefusalKind.UNAVAILABLE:
                    raise
                await asyncio.sleep(0)

    async def close(self, batch_id: int, jobs: list[Job]) -> None:
        self.store.stage(batch_id, 1, staged(jobs))
        await self.engine.submit(lambda r, now: r.on_close(batch_id, columns(jobs), now))


async def one(following: Following) -> Committed:
    """The only commit there is news of."""
    news = await following.next()
    assert isinstance(news, list)
    (committed,) = news
    return committed


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Service]:
    store = new_store(f"sqlite:///{tmp_path}/longshore.db")
    store.open()
    service = Service(store)
    task = asyncio.create_task(service.engine.run())
    try:
        yield service
    finally:
        service.engine.stop()
        with suppress(EpochLost):
            await task
        store.close()


async def test_nothing_is_answered_or_published_before_it_is_committed(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.create("first")
        entered, go_on = service.hold_commits()
        with service.feed.follow(user="ada") as news:
            answer = asyncio.create_task(service.create("second"))
            await asyncio.to_thread(entered.wait)
            assert not answer.done()
            assert await news.next(0) is None
            go_on.set()
            batch_id = await answer
            committed = await one(news)
        assert [e.batch_id for e in committed.events if isinstance(e, ev.BatchCreated)] == [batch_id]


async def test_a_commit_that_fails_is_as_if_nothing_was_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        await service.create("before")
        failures = iter([StoreUnavailable("gone"), StoreUnavailable("gone")])

        def flaky(real: Commit, _: list[ev.Event], args: tuple[Any, ...]) -> int:
            if failure := next(failures, None):
                raise failure
            return real(*args)

        service.on_commit(flaky)
        with service.feed.follow(user="ada") as news:
            batch_id = await service.create("again", n_jobs=1)
            assert batch_id == 2
            assert await news.next() is RESET
        assert [b.batch_id for b in service.store.batches("ada", limit=10)] == [2, 1]


async def test_a_commit_nobody_knows_the_outcome_of_has_one_effect_when_repeated(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        unknown = iter([True])

        def lost_answer(real: Commit, _: list[ev.Event], args: tuple[Any, ...]) -> int:
            real(*args)
            if next(unknown, False):
                raise StoreUnavailable("the connection broke in the middle of COMMIT")
            raise AssertionError("the repeated request was committed again")

        await service.create("first")
        service.on_commit(lost_answer)
        assert await service.create("once", n_jobs=1) == 2


async def test_losing_the_epoch_ends_the_loop(tmp_path: Path) -> None:
    store = new_store(f"sqlite:///{tmp_path}/longshore.db")
    store.open()
    service = Service(store)
    run = asyncio.create_task(service.engine.run())
    await service.create("first")

    def deposed(*_: object) -> int:
        raise EpochLost("epoch 1 is over")

    service.on_commit(deposed)
    asking = asyncio.create_task(service.create("second"))
    with pytest.raises(EpochLost):
        await run
    asking.cancel()
    store.close()


def replaced(service: Service) -> None:
    """Another one takes over: it has the database, and we do not know."""
    with service.store._db.writing() as db:
        service.store._db.execute(db, "UPDATE leader SET epoch = epoch + 1")


async def test_who_was_replaced_does_not_answer_that_there_was_nothing_to_do(tmp_path: Path) -> None:
    """Its successor knows more: what is not in memory here may be there."""
    store = new_store(f"sqlite:///{tmp_path}/longshore.db")
    store.open()
    service = Service(store)
    run = asyncio.create_task(service.engine.run())
    await service.create("first")
    replaced(service)
    asking = asyncio.create_task(service.engine.submit(lambda r, now: r.on_cancel(2, "ada", "", now)))
    with pytest.raises(EpochLost):
        await run
    assert not asking.done()
    asking.cancel()
    store.close()


async def test_who_was_replaced_extends_no_lease_after_a_part_of_the_grace(tmp_path: Path) -> None:
    store = new_store(f"sqlite:///{tmp_path}/longshore.db")
    store.open()
    service = Service(store)
    run = asyncio.create_task(service.engine.run())
    await service.create("first")
    hello = Hello("w", "w", "boot", "one", 4000, "fake")
    session = await service.engine.submit(lambda r, now: r.on_hello(hello, now))
    replaced(service)

    def beat() -> asyncio.Task[Any]:
        return asyncio.create_task(
            service.engine.submit_and_look(
                lambda r, now: r.on_heartbeat("w", session, (), (), now), lambda r, diverged: diverged
            )
        )

    assert await beat() == (False, service.engine.seq)
    service.clock.now += Limits().grace_ms // 2
    late = beat()
    with pytest.raises(EpochLost):
        await run
    assert not late.done()
    late.cancel()
    store.close()


async def test_a_request_whose_rows_are_refused_fails_alone(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as service:
        await service.create("first")

        class BadRow(Exception):
            pass

        def refuses(real: Commit, events: list[ev.Event], args: tuple[Any, ...]) -> int:
            if any(isinstance(e, ev.BatchCreated) and e.request_id == "bad" for e in events):
                raise BadRow("value out of range")
            return real(*args)

        service.on_commit(refuses)
        good = [asyncio.create_task(service.create(f"good {i}")) for i in range(5)]
        with pytest.raises(BadRow):
            await service.create("bad")
        assert len(set(await asyncio.gather(*good))) == 5


async def test_a_look_sees_what_the_same_commit_assigned(tmp_path: Path) -> None:
    """A worker that says Hello is told at once what it got by saying so; nothing told later revokes it."""
    async with running(tmp_path) as service:
        batch_id = await service.create("batch", n_jobs=1)
        await service.close(batch_id, [Job()])
        hello = Hello("w", "w", "boot", "one", 4000, "fake")

        def look(reactor: Reactor, _: int) -> tuple[str, ...]:
            return reactor.orders("w", (), ()).run

        with service.feed.follow(worker="w") as news:
            run, seq = await service.engine.submit_and_look(lambda r, now: r.on_hello(hello, now), look)
            committed = await one(news)
        (assigned,) = [e for e in committed.events if isinstance(e, ev.AttemptAssigned)]
        assert run == (assigned.attempt_id,)
        assert committed.seq <= seq


async def test_a_look_that_refuses_is_answered_so_and_memory_stays(tmp_path: Path) -> None:
    async with running(tmp_path) as service:

        def look(*_: object) -> None:
            raise Refusal(RefusalKind.NOT_FOUND, "there is no such thing")

        entered, go_on = service.hold_commits()
        created = asyncio.create_task(service.create("batch"))
        await asyncio.to_thread(entered.wait)
        reactor = service.engine._reactor
        asked = [
            asyncio.create_task(service.engine.look(look)),
            asyncio.create_task(service.engine.submit_and_look(lambda r, now: 1, look)),
        ]
        go_on.set()
        for each in asked:
            with pytest.raises(Refusal, match="no such thing"):
                await each
        await created
        assert service.engine._reactor is reactor


async def test_a_worker_that_is_silent_for_lease_and_grace_is_lost(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as service:
        limits = Limits()
        await service.create("first")
        hello = Hello("w", "w", "boot", "one", 4000, "fake")
        await service.engine.submit(lambda r, now: r.on_hello(hello, now))
        with service.feed.follow(worker="w") as news:
            service.clock.now += limits.lease_ms + limits.grace_ms
            await service.create("wake")
            committed = await one(news)
        assert [type(e) for e in committed.events] == [ev.WorkerLost]


async def test_a_lease_is_extended_while_a_commit_does_not_return(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        limits = Limits()
        await service.create("first")
        for name in ("heard", "silent"):
            hello = Hello(name, name, "boot", "one", 4000, "fake")
            await service.engine.submit(lambda r, now: r.on_hello(hello, now))  # noqa: B023
        entered, go_on = service.hold_commits()
        stuck = asyncio.create_task(service.create("stuck"))
        await asyncio.to_thread(entered.wait)
        service.clock.now += limits.lease_ms + limits.grace_ms
        service.engine.extend_lease("heard", 1)
        with service.feed.follow(worker="heard") as heard, service.feed.follow(worker="silent") as silent:
            go_on.set()
            await stuck
            await service.create("wake")
            assert [type(e) for e in (await one(silent)).events] == [ev.WorkerLost]
            assert await heard.next(0) is None


async def test_no_lease_is_extended_of_a_worker_whose_loss_is_being_committed(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        limits = Limits()
        await service.create("first")
        hello = Hello("w", "w", "boot", "one", 4000, "fake")
        await service.engine.submit(lambda r, now: r.on_hello(hello, now))
        entered, go_on = service.hold_commits()
        service.clock.now += limits.lease_ms + limits.grace_ms
        losing = asyncio.create_task(service.create("wake"))
        await asyncio.to_thread(entered.wait)
        with pytest.raises(Refusal):
            service.engine.extend_lease("w", 1)
        go_on.set()
        await losing


def test_the_columns_of_a_closed_batch_are_not_part_of_the_log() -> None:
    with_columns = ev.BatchClosed(1, 2, columns([Job()]))
    assert with_columns == ev.BatchClosed(1, 2)
    assert array("I", [1000]) == columns([Job()]).mcpu
