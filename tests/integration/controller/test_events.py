"""Following events: each once, in order, across any break; a snapshot is asked for only when it must be."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest
from integration.controller.service import Running, User, job
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types
from longshore_controller import api
from longshore_controller.core.events import BatchDeleted, Event
from longshore_controller.core.rows import Changes
from longshore_controller.feed import Committed
from longshore_controller.wire import records


def name_of(event: Any) -> str:
    return f"{event.WhichOneof('kind')} {getattr(event, event.WhichOneof('kind')).batch_id}"


class Follower:
    """Reads events with breaks, going on each time after what it has seen."""

    def __init__(self, user: User, batch_id: int = 0) -> None:
        self._user = user
        self._batch_id = batch_id
        self.seq: int | None = 0
        self.events: list[str] = []
        self.resets = 0

    async def follow(self, until: str, most: int | None = None) -> bool:
        """Read at most so many messages, or up to that event; true when it was there."""
        request = pb.WatchEventsRequest(after_seq=self.seq, batch_id=self._batch_id)
        stream = self._user.stream("WatchEvents", request)
        n = 0
        try:
            async with asyncio.timeout(20):
                async for message in stream:
                    self.seq = message.seq
                    self.resets += message.reset
                    self.events += map(name_of, message.events)
                    n += 1
                    if until in self.events:
                        return True
                    if most is not None and n >= most:
                        return False
        finally:
            stream.cancel()
        raise AssertionError("the stream has ended")


async def run_some(service: Running) -> int:
    async with service.worker(cores=2) as workerd:
        batch_id = await service.ada.submit(job(), job(parents=[1]), job(parents=[1]))
        for n in (1, 2, 3):
            attempt = (await workerd.assigned(n))[n - 1]
            await workerd.run_to_end(attempt.attempt_id)
        await service.ada.complete(batch_id)
    return batch_id


async def test_events_are_read_once_and_in_order_whatever_breaks(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "ALIVE_EVERY_S", 0.02)
    dice = random.Random(7)
    eve = service.user("eve")
    follower = Follower(service.ada)
    over = False

    async def follow_with_breaks() -> None:
        while not over:
            await follower.follow("never", dice.randint(1, 3))

    following = asyncio.create_task(follow_with_breaks())
    for _ in range(4):
        await run_some(service)
        await eve.submit(job(resources=types.Resources(cpu_mcpu=16_000)))  # Never runs here.
    over = True
    await following
    last = await service.ada.create(0)
    while not await follower.follow(f"batch_created {last}", 5):
        pass
    mine = [b.batch_id for b in (await service.ada.call("ListBatches", pb.ListBatchesRequest())).batches]
    logged = service.store.events_after(0, 10_000)
    assert logged is not None
    committed = [
        name_of(records.event_message(event))
        for _, events in logged
        for event in events
        if getattr(event, "batch_id", None) in mine
    ]
    assert follower.events == committed
    assert follower.resets == 0


async def test_one_batch_can_be_followed_alone(service: Running) -> None:
    await run_some(service)
    batch_id = await run_some(service)
    follower = Follower(service.ada, batch_id)
    assert await follower.follow(f"batch_completed {batch_id}")
    assert {event.split()[1] for event in follower.events} == {str(batch_id)}
    assert [e.split()[0] for e in follower.events].count("attempt_ended") == 3


async def test_without_a_number_it_begins_now(service: Running) -> None:
    await service.ada.create(0)
    stream = service.ada.stream("WatchEvents", pb.WatchEventsRequest())
    first = await stream.read()
    assert (first.seq, list(first.events)) == (service.controller.engine.seq, [])
    batch_id = await service.ada.create(0)
    message = await stream.read()
    assert [name_of(e) for e in message.events] == [f"batch_created {batch_id}"]


async def test_a_number_older_than_the_log_is_answered_with_a_reset(service: Running) -> None:
    await service.ada.create(0)
    while service.store.forget_events(2**62):
        pass
    stream = service.ada.stream("WatchEvents", pb.WatchEventsRequest(after_seq=0))
    message = await stream.read()
    assert (message.reset, message.seq) == (True, service.controller.engine.seq)
    batch_id = await service.ada.create(0)
    assert [name_of(e) for e in (await stream.read()).events] == [f"batch_created {batch_id}"]


async def test_a_quiet_stream_says_that_it_is_alive(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "ALIVE_EVERY_S", 0.02)
    await service.user("eve").create(0)
    stream = service.ada.stream("WatchEvents", pb.WatchEventsRequest(after_seq=0))
    for _ in range(3):
        message = await stream.read()
        assert (list(message.events), message.reset) == ([], False)
        assert message.seq == service.controller.engine.seq


async def test_a_reload_is_no_gap(service: Running) -> None:
    stream = service.ada.stream("WatchEvents", pb.WatchEventsRequest(after_seq=0))
    first = await service.ada.create(0)
    assert [name_of(e) for e in (await stream.read()).events] == [f"batch_created {first}"]
    with service.database_away(), pytest.raises(grpc.aio.AioRpcError):
        await service.ada.create(0)
    second = 0
    while not second:
        try:
            second = await service.ada.create(0)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.02)
    seen: list[str] = []
    while not seen:
        message = await stream.read()
        assert not message.reset
        seen += map(name_of, message.events)
    assert seen == [f"batch_created {second}"]


async def test_a_commit_larger_than_a_message_comes_in_pieces(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "EVENTS_PER_MESSAGE", 3)
    async with service.worker(cores=8) as workerd:
        batch_id = await service.ada.submit(*[job()] * 8)
        await workerd.assigned(8)
    follower = Follower(service.ada, batch_id)
    while [e.split()[0] for e in follower.events].count("attempt_assigned") < 8:
        await follower.follow("never", 1)
        assert follower.events.count(f"batch_created {batch_id}") == 1


def test_commits_that_wait_come_in_one_message_as_far_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "EVENTS_PER_MESSAGE", 3)
    sizes = [1, 2, 1, 4, 1, 1]
    news, first = [], 1
    for n in sizes:
        events: list[Event] = [
            BatchDeleted(batch_id, "ada", "ada", 1) for batch_id in range(first, first + n)
        ]
        first += n
        news.append(Committed(first - 1, 1, events, Changes()))
    for before in (0, 1, 3):
        sent = [(seq, pb.WatchEventsResponse.FromString(m)) for seq, m in api._messages_of(news, before)]
        assert [(m.seq, len(m.events)) for _, m in sent] == {
            0: [(3, 3), (4, 1), (4, 3), (8, 1), (10, 2)],
            1: [(4, 3), (4, 3), (8, 1), (10, 2)],
            3: [(4, 1), (4, 3), (8, 1), (10, 2)],
        }[before]
        assert all(seq == m.seq for seq, m in sent)
        seen = [event.batch_deleted.batch_id for _, m in sent for event in m.events]
        assert seen == list(range(before + 1, 11))
    again = list(api._messages_of(news, 8))
    assert [m for _, m in again] == [b"".join(news[i].made["events"][0] for i in (4, 5))]
