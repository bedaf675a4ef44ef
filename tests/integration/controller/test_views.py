"""Windows of batches and jobs: whole at first, then what changed, as fast as it is good for eyes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc import aio
from integration.controller.service import PATIENCE_S, Running, User, ended, job
from longshore_api.v1 import auth_service_pb2, auth_service_pb2_grpc
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types
from longshore_controller import api, views, windows
from longshore_controller.wire import records

READY, RUNNING, SUCCESS = types.JOB_STATE_READY, types.JOB_STATE_RUNNING, types.JOB_STATE_SUCCESS
FAILURE, CANCELLED = types.JOB_STATE_FAILURE, types.JOB_STATE_CANCELLED


class Screen:
    """A client that looks: it keeps what a whole answer said, and what changed since."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.views: list[Any] = []
        self.rows: dict[int, Any] = {}
        self.at: list[float] = []

    async def show(self, window: Any) -> None:
        await self._call.write(window)

    async def next(self) -> Any:
        """The next answer, which may be empty."""
        async with asyncio.timeout(PATIENCE_S):
            view = await self._call.read()
        assert view is not aio.EOF
        self.at.append(time.monotonic())
        self.views.append(view)
        if view.whole:
            self.rows = {}
        for row in view.rows:
            key = row.job_id if isinstance(row, types.Job) else row.batch_id
            assert view.whole or key in self.rows
            self.rows[key] = row
        return view

    async def until(self, fact: Callable[[Any], object]) -> Any:
        """The first answer of which it is true."""
        while not fact(view := await self.next()):
            pass
        return view

    async def refused(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            while True:
                await self.next()
        error = caught.value
        assert isinstance(error, aio.AioRpcError)
        return error.code(), error.details() or ""


@asynccontextmanager
async def screen(user: User, method: str, window: Any) -> AsyncIterator[Screen]:
    call = getattr(user._stub, method)(metadata=user.metadata)
    try:
        screen = Screen(call)
        await screen.show(window)
        yield screen
    finally:
        call.cancel()
        with suppress(asyncio.CancelledError, grpc.RpcError):
            await call.code()


def jobs(user: User, batch_id: int, query: str = "", first: int = 0, n: int = 50) -> Any:
    return screen(user, "WatchJobs", pb.JobsWindow(batch_id=batch_id, query=query, first=first, n=n))


def batches(user: User, query: str = "", **window: int) -> Any:
    return screen(user, "WatchBatches", pb.BatchesWindow(query=query, **window))


def states(screen: Screen) -> dict[int, int]:
    return {job_id: row.state for job_id, row in screen.rows.items()}


async def test_a_window_of_jobs_is_whole_at_first_and_then_tells_only_what_changed(service: Running) -> None:
    batch_id = await service.ada.submit(*[job(name=f"n{i}") for i in range(1, 11)])
    async with jobs(service.ada, batch_id, first=2, n=3) as seen:
        view = await seen.next()
        assert view.whole and view.n_matching == 10 and view.first == 2 and view.batch.n_jobs == 10
        assert [(row.job_id, row.name, row.state) for row in view.rows] == [
            (3, "n3", READY), (4, "n4", READY), (5, "n5", READY),
        ]  # fmt: skip
        async with service.worker(cores=4) as worker:
            attempts = await worker.assigned(4)
            view = await seen.until(lambda v: v.batch.n_running == 4 and len(v.rows))
            assert not view.whole and [row.job_id for row in view.rows] == [3, 4]
            by_job = {a.job_id: a.attempt_id for a in attempts}
            await worker.run_to_end(by_job[4], exit_code=7)
            view = await seen.until(lambda v: v.rows)
            assert states(seen)[4] == FAILURE and seen.rows[4].exit_code == 7


async def test_jobs_by_state_come_and_go(service: Running) -> None:
    batch_id = await service.ada.submit(*[job() for _ in range(6)])
    async with jobs(service.ada, batch_id, "state:running", n=2) as seen:
        view = await seen.next()
        assert view.whole and not view.rows and not view.n_matching
        async with service.worker(cores=2) as worker:
            attempts = await worker.assigned(2)
            await seen.until(lambda v: v.n_matching == 2 and states(seen) == {1: RUNNING, 2: RUNNING})
            by_job = {a.job_id: a.attempt_id for a in attempts}
            await worker.run_to_end(by_job[1])
            await seen.until(lambda v: states(seen) == {2: RUNNING, 3: RUNNING})
            await seen.show(pb.JobsWindow(batch_id=batch_id, query="-state:running,ready", n=2))
            view = await seen.until(lambda v: v.query == "-state:running,ready")
            assert view.whole and view.n_matching == 1 and states(seen) == {1: SUCCESS}


async def test_a_page_deep_in_a_filter_is_the_same_from_memory_and_from_the_index(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [job(name=f"n{i}", parents=[i - 1] if i % 3 == 0 else []) for i in range(1, 5_001)]
    batch_id = await service.ada.submit(*specs)
    wanted = [i for i in range(1, 5_001) if i % 3]
    for deep in (10, 1_000_000):
        monkeypatch.setattr(windows, "DEEP", deep)
        for first in (11, 2_731, 3_300, len(wanted), 10_000):
            async with jobs(service.ada, batch_id, "state:ready", first=first) as seen:
                view = await seen.next()
                assert list(seen.rows) == wanted[first : first + 50]
                assert view.n_matching == len(wanted)


async def test_words_and_states_together_follow_what_happens(service: Running) -> None:
    names = ["Align one", "sort", "align two", "sort align", "merge"]
    batch_id = await service.ada.submit(*[job(name=name) for name in names])
    async with jobs(service.ada, batch_id, "ALIGN -sort") as seen:
        view = await seen.next()
        assert view.whole and view.n_matching == 2 and list(seen.rows) == [1, 3] and not view.n_searched
        async with service.worker(cores=1) as worker:
            (attempt,) = await worker.assigned(1)
            await seen.until(lambda v: states(seen) == {1: RUNNING, 3: READY})
            await seen.show(pb.JobsWindow(batch_id=batch_id, query='"align" state:ready'))
            await seen.until(lambda v: v.query and states(seen) == {3: READY, 4: READY})
            await worker.run_to_end(attempt.attempt_id)
            await worker.assigned(2)
            await worker.run_to_end(worker.runs.keys().__iter__().__next__())
            await seen.show(pb.JobsWindow(batch_id=batch_id, query="align state:ready", first=1))
            view = await seen.until(lambda v: v.first == 1)
            assert view.n_matching == 2 and states(seen) == {4: READY}
            await seen.show(pb.JobsWindow(batch_id=batch_id, query="5"))
            await seen.until(lambda v: v.query == "5" and list(seen.rows) == [5])


async def test_any_query_follows_what_happens(service: Running) -> None:
    batch_id = await service.ada.submit(*[job(name=f"n{i}") for i in range(1, 9)])
    async with jobs(service.ada, batch_id, "exit>0 OR (state:running name=~'')".replace("''", '""')) as seen:
        view = await seen.next()
        assert view.whole and not view.n_matching and not view.n_searched
        async with service.worker(cores=2) as worker:
            attempts = {a.job_id: a.attempt_id for a in await worker.assigned(2)}
            await seen.until(lambda v: v.n_matching == 2 and states(seen) == {1: RUNNING, 2: RUNNING})
            await worker.run_to_end(attempts[1], exit_code=3)
            await seen.until(lambda v: states(seen) == {1: FAILURE, 2: RUNNING, 3: RUNNING})
            await worker.run_to_end(attempts[2])
            view = await seen.until(lambda v: states(seen) == {1: FAILURE, 3: RUNNING, 4: RUNNING})
            assert view.n_matching == 3
            await service.ada.cancel(batch_id)
            await worker.until(lambda: len(worker.revoked) == 2)
            for attempt_id in list(worker.revoked):
                await worker.run_to_end(attempt_id, exit_code=137)
            await seen.until(lambda v: v.batch.complete)
            await seen.show(pb.JobsWindow(batch_id=batch_id, query="-exit>0 state:cancelled", first=1))
            view = await seen.until(lambda v: v.first == 1)
            ended = [row.job_id for row in view.rows]
        rows = {i: await service.ada.job(batch_id, i) for i in range(1, 9)}
        assert ended == [i for i, row in rows.items() if row.state == CANCELLED and not row.exit_code][1:]


@pytest.mark.parametrize(("name", "most"), [("MANY", 3), ("LOOKED_AGAIN", 9)])
async def test_very_many_changes_at_once_are_followed(
    service: Running, monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setattr(windows, name, most)
    batch_id = await service.ada.submit(*[job(name=f"n{i}") for i in range(1, 301)])
    async with jobs(service.ada, batch_id, "-ended>-1w OR id:7", first=5) as seen:
        assert (await seen.next()).n_matching == 300
        await service.ada.cancel(batch_id)
        await seen.until(lambda v: v.batch.complete and v.n_matching == 1)


async def test_jobs_appear_when_their_batch_is_closed(service: Running) -> None:
    batch_id = await service.ada.create(2)
    async with jobs(service.ada, batch_id) as seen:
        view = await seen.next()
        assert view.whole and not view.rows and not view.batch.closed
        await service.ada.add(batch_id, job(), job())
        await service.ada.close(batch_id)
        view = await seen.until(lambda v: v.batch.closed)
        assert view.whole and view.n_matching == 2 and states(seen) == {1: READY, 2: READY}


async def test_cancelling_is_seen_in_every_kind_of_window(service: Running) -> None:
    batch_id = await service.ada.submit(*[job(name="n") for _ in range(3_000)])
    async with (
        jobs(service.ada, batch_id, first=2_990) as plain,
        jobs(service.ada, batch_id, "state:cancelled", first=2_990) as by_state,
        jobs(service.ada, batch_id, "n state:cancelled", first=2_990) as by_both,
    ):
        for seen in (plain, by_state, by_both):
            assert (await seen.next()).whole
        await service.ada.cancel(batch_id, "enough")
        for seen in (plain, by_state, by_both):
            view = await seen.until(lambda v: v.batch.complete and len(seen.rows) == 10)  # noqa: B023
            assert view.n_matching == 3_000
            assert states(seen) == dict.fromkeys(range(2_991, 3_001), CANCELLED)


async def test_a_stream_answers_at_most_four_times_a_second_and_ends_up_with_the_truth(
    service: Running,
) -> None:
    batch_id = await service.ada.submit(*[job() for _ in range(40)])
    async with jobs(service.ada, batch_id) as seen, service.worker(cores=2) as worker:
        await seen.next()
        done: set[str] = set()
        while len(done) < 40:
            await worker.until(lambda: worker.runs.keys() - done)
            for attempt_id in worker.runs.keys() - done:
                await worker.run_to_end(attempt_id)
                done.add(attempt_id)
        view = await seen.until(lambda v: v.batch.complete)
        assert view.batch.state == types.BATCH_STATE_SUCCESS
        assert states(seen) == dict.fromkeys(range(1, 41), SUCCESS)
        # An answer may be late, which brings it nearer to the next.
        assert len(seen.at) <= (seen.at[-1] - seen.at[0]) / windows.EVERY_S + 2


async def test_another_window_is_answered_at_once_and_only_the_latest_counts(service: Running) -> None:
    batch_id = await service.ada.submit(*[job() for _ in range(300)])
    async with jobs(service.ada, batch_id) as seen:
        await seen.next()
        before = len(seen.views)
        for first in range(1, 201):
            await seen.show(pb.JobsWindow(batch_id=batch_id, first=first, n=10))
        view = await seen.until(lambda v: v.first == 200)
        assert view.whole and list(seen.rows) == list(range(201, 211))
        assert len(seen.views) - before < 200
        assert all(len(v.rows) == 10 for v in seen.views[before:])


async def test_who_asks_for_the_same_again_is_still_told_of_what_changes(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    async with jobs(service.ada, batch_id) as seen:
        await seen.next()
        await seen.show(pb.JobsWindow(batch_id=batch_id, n=50))
        assert (await seen.next()).whole
        async with service.worker() as worker:
            (attempt,) = await worker.assigned()
            await worker.run_to_end(attempt.attempt_id)
        await seen.until(lambda v: v.batch.complete)
        assert states(seen) == {1: SUCCESS}


async def test_a_quiet_stream_shows_that_it_is_alive(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "ALIVE_EVERY_S", 0.2)
    batch_id = await service.ada.submit(job())
    async with jobs(service.ada, batch_id) as some_jobs, batches(service.ada) as some_batches:
        for seen, empty in ((some_jobs, pb.JobsView()), (some_batches, pb.BatchesView())):
            assert (await seen.next()).whole
            for _ in range(2):
                assert (await seen.next()) == empty


async def test_what_many_look_at_is_read_and_written_once(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, written = Counter[str](), Counter[tuple[int, bytes]]()
    real = {name: getattr(service.store, name) for name in ("jobs_of", "jobs_in", "search_jobs")}
    for name, look in real.items():

        def counted(*args: Any, look: Any = look, name: str = name, **more: Any) -> Any:
            read[name] += 1
            return look(*args, **more)

        monkeypatch.setattr(service.store, name, counted)
    write = records.job_message

    def job_message(row: Any) -> Any:
        message = write(row)
        written[row.row.job_id, message.SerializeToString(deterministic=True)] += 1
        return message

    batch_id = await service.ada.submit(*[job(name="some") for _ in range(20)])
    async with AsyncExitStack() as stack:
        monkeypatch.setattr(records, "job_message", job_message)
        plain = [await stack.enter_async_context(jobs(service.ada, batch_id)) for _ in range(8)]
        words = [await stack.enter_async_context(jobs(service.ada, batch_id, "some")) for _ in range(8)]
        for seen in plain + words:
            assert (await seen.next()).whole
        assert read == {"jobs_of": 2, "search_jobs": 1}
        assert set(written.values()) == {2} and len(written) == 20  # Once for each of the two queries.
        async with service.worker(cores=1) as worker:
            await worker.assigned(1)
            for seen in plain + words:
                await seen.until(lambda v: states(seen)[1] == RUNNING)  # noqa: B023
        assert read == {"jobs_of": 2, "search_jobs": 1}
        assert max(written.values()) == 2
        by_state = [jobs(service.ada, batch_id, "state:ready", n=5) for _ in range(8)]
        for seen in [await stack.enter_async_context(each) for each in by_state]:
            assert (await seen.next()).n_matching == 19
        assert read["jobs_in"] == 1
        with pytest.raises(grpc.RpcError):  # Nobody gets in by what somebody else has opened.
            async with jobs(service.user("bob"), batch_id) as seen:
                await seen.next()


async def test_a_stream_that_nobody_reads_makes_nobody_wait_and_ends_up_with_the_truth(
    service: Running,
) -> None:
    batch_id = await service.ada.submit(*[job(name="n" * 900) for _ in range(500)])
    async with (
        jobs(service.ada, batch_id, "-state:cancelled", n=500) as slow,
        jobs(service.ada, batch_id, "-state:cancelled", n=500) as quick,
        service.worker(cores=1) as worker,
    ):
        done: set[str] = set()
        for n in range(1, 9):
            await worker.until(lambda: worker.runs.keys() - done)
            (attempt_id,) = worker.runs.keys() - done
            await worker.run_to_end(attempt_id)
            done.add(attempt_id)
            await quick.until(lambda v: v.batch.n_succeeded >= n)  # noqa: B023
        await slow.until(lambda v: v.batch.n_succeeded == 8)
        assert states(slow) == states(quick)


async def test_what_is_somebody_elses_or_deleted_cannot_be_watched(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    bob = service.user("bob")
    not_found = grpc.StatusCode.NOT_FOUND, f"there is no batch {batch_id}"
    async with jobs(bob, batch_id) as seen:
        assert await seen.refused() == not_found
    async with jobs(bob, 2**63) as seen:
        assert (await seen.refused())[0] is grpc.StatusCode.NOT_FOUND
    async with jobs(service.ada, batch_id) as seen, jobs(service.ada, batch_id, "state:ready") as other:
        await seen.next()
        await other.next()
        await service.ada.delete(batch_id)
        assert await seen.refused() == not_found
        assert await other.refused() == not_found
    async with jobs(service.ada, batch_id) as seen:
        assert await seen.refused() == not_found


async def test_a_query_that_cannot_be_read_is_refused_with_its_place_and_what_was_meant(
    service: Running,
) -> None:
    batch_id = await service.ada.submit(job())
    async with jobs(service.ada, batch_id) as seen:
        await seen.next()
        await seen.show(pb.JobsWindow(batch_id=batch_id, query="a state:runing"))
        code, words = await seen.refused()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert words.startswith("query: character 9: 'runing' is no state of a job")
        assert words.endswith("did you mean running?")
    async with batches(service.ada, "state:pending") as seen:
        code, words = await seen.refused()
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "no state of a batch" in words
    async with jobs(service.ada, batch_id, n=1_001) as seen:
        assert (await seen.refused())[1] == "n: 0 (that is 50) to 1000, got 1001"
    async with jobs(service.ada, batch_id) as seen:
        await seen.next()
        await seen.show(pb.JobsWindow(batch_id=batch_id + 1))
        code, words = await seen.refused()
        assert code is grpc.StatusCode.INVALID_ARGUMENT and words.startswith("batch_id: ")


async def test_batches_above_the_anchor_are_counted_and_not_shown(service: Running) -> None:
    ids = [await service.ada.create(1, attributes={"name": f"b{i}"}) for i in range(5)]
    async with batches(service.ada, n=3) as seen:
        view = await seen.next()
        assert view.whole and [row.batch_id for row in view.rows] == ids[:1:-1]
        assert (view.n_matching, view.n_newer, view.n_total, view.anchor_batch_id) == (5, 0, 5, ids[-1])
        newer = await service.ada.create(1)
        view = await seen.until(lambda v: v.n_newer)
        assert not view.whole and not view.rows
        assert (view.n_matching, view.n_newer, view.n_total) == (5, 1, 6)
        await seen.show(pb.BatchesWindow(first=1, n=3, anchor_batch_id=view.anchor_batch_id))
        view = await seen.next()
        assert view.whole and view.first == 1 and [row.batch_id for row in view.rows] == ids[3:0:-1]
        await seen.show(pb.BatchesWindow(n=1))
        view = await seen.next()
        assert [row.batch_id for row in view.rows] == [newer] and not view.n_newer
    async with batches(service.user("bob")) as seen:
        view = await seen.next()
        assert view.whole and not view.rows and not view.n_total


async def test_batches_change_come_and_go_with_what_happens_to_them(service: Running) -> None:
    first, second, third = [await service.ada.create(1, attributes={"name": n}) for n in ("a1", "b2", "a3")]
    async with (
        batches(service.ada) as everything,
        batches(service.ada, "a state:open") as some,
        batches(service.ada, "state:done") as done,
    ):
        assert list((await everything.next(), everything.rows)[1]) == [third, second, first]
        assert list((await some.next(), some.rows)[1]) == [third, first]
        assert not (await done.next()).rows
        await service.ada.cancel(first)
        view = await everything.until(lambda v: v.rows)
        assert not view.whole and [row.batch_id for row in view.rows] == [first]
        assert everything.rows[first].state == types.BATCH_STATE_CANCELLED
        view = await some.until(lambda v: v.n_matching == 1)
        assert view.whole and list(some.rows) == [third] and view.n_total == 3
        await done.until(lambda v: list(done.rows) == [first])
        await service.ada.delete(third)
        view = await everything.until(lambda v: v.n_total == 2)
        assert view.whole and list(everything.rows) == [second, first]
        await some.until(lambda v: v.whole and not v.rows and not v.n_matching)


async def test_streams_outlive_an_absence_of_the_database(service: Running) -> None:
    batch_id = await service.ada.submit(job(), job())
    async with (
        jobs(service.ada, batch_id) as plain,
        jobs(service.ada, batch_id, "state:ready") as by_state,
        batches(service.ada) as list_of_batches,
    ):
        for seen in (plain, by_state, list_of_batches):
            await seen.next()
        with service.database_away(), pytest.raises(grpc.RpcError):
            await service.ada.cancel(batch_id)
        while True:
            with suppress(grpc.RpcError):
                await service.ada.cancel(batch_id)
                break
        await plain.until(lambda v: v.batch.complete and states(plain) == {1: CANCELLED, 2: CANCELLED})
        await by_state.until(lambda v: not v.n_matching and not by_state.rows)
        await list_of_batches.until(lambda v: list_of_batches.rows[batch_id].complete)


async def test_one_job_is_told_with_its_attempts_until_it_is_complete(service: Running) -> None:
    batch_id = await service.ada.submit(job("echo", "hi"), job())
    request = pb.WatchJobRequest(batch_id=batch_id, job_id=1)
    stream = service.ada.stream("WatchJob", request)
    async with asyncio.timeout(PATIENCE_S), service.worker(cores=1) as worker:
        messages = aiter(stream)
        seen = [await anext(messages)]
        assert list(seen[0].spec.command) == ["echo", "hi"]
        (attempt,) = await worker.assigned(1)
        await worker.run_to_end(attempt.attempt_id, exit_code=3)
        seen += [message async for message in messages]
    assert seen[-1].state == FAILURE and seen[-1].exit_code == 3
    assert [a.attempt_id for a in seen[-1].attempts] == [attempt.attempt_id]
    assert len({message.SerializeToString(deterministic=True) for message in seen}) == len(seen)


async def test_watching_a_job_ends_with_its_batch(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    stream = service.ada.stream("WatchJob", pb.WatchJobRequest(batch_id=batch_id, job_id=1))
    messages = aiter(stream)
    await anext(messages)
    await service.ada.delete(batch_id)
    with pytest.raises(grpc.RpcError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            async for _ in messages:
                pass
    assert isinstance(caught.value, aio.AioRpcError) and caught.value.code() is grpc.StatusCode.NOT_FOUND
    for who, job_id in ((service.user("bob"), 1), (service.ada, 2)):
        with pytest.raises(grpc.RpcError) as caught:
            await who.stream("WatchJob", pb.WatchJobRequest(batch_id=batch_id, job_id=job_id)).read()
        assert isinstance(caught.value, aio.AioRpcError)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_session_is_told_again_and_again(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshore_controller.api.ALIVE_EVERY_S", 0.05)
    stub: Any = auth_service_pb2_grpc.AuthServiceStub(service.channel)
    stream = stub.WatchSession(auth_service_pb2.GetSessionRequest(), metadata=service.ada.metadata)
    sessions = [await stream.read() for _ in range(3)]
    stream.cancel()
    times = [session.now_ms for session in sessions]
    assert times == sorted(times) and abs(times[0] - time.time() * 1000) < 60_000
    assert {session.user for session in sessions} == {"ada"}


async def test_lists_take_the_same_queries(service: Running) -> None:
    a = await service.ada.create(1, attributes={"name": "Nightly one"})
    b = await service.ada.submit(*[job(name=f"align-{i}") for i in range(20)])
    listed = await service.ada.call("ListBatches", pb.ListBatchesRequest(query="nightly"))
    assert [row.batch_id for row in listed.batches] == [a]
    listed = await service.ada.call("ListBatches", pb.ListBatchesRequest(query="-state:open", page_size=1))
    assert [row.batch_id for row in listed.batches] == [b] and not listed.more
    seen: list[int] = []
    while True:
        request = pb.ListJobsRequest(
            batch_id=b, query="align-1", page_size=4, after_job_id=seen[-1] if seen else 0
        )
        page = await service.ada.call("ListJobs", request)
        seen += [row.job_id for row in page.jobs]
        if not page.more:
            break
    assert seen == [2, *range(11, 21)]
    request = pb.ListJobsRequest(batch_id=b, query="-state:ready", states=[READY])
    assert not (await service.ada.call("ListJobs", request)).jobs
    request = pb.ListJobsRequest(batch_id=b, query="state:live", states=[READY], page_size=2)
    assert len((await service.ada.call("ListJobs", request)).jobs) == 2
    with pytest.raises(grpc.RpcError):
        await service.ada.call("ListJobs", pb.ListJobsRequest(batch_id=b, query="state:"))


async def test_an_error_names_its_request(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "longshore_controller.rpc"):
        with pytest.raises(grpc.RpcError) as caught:
            await service.ada.batch(999)
        assert isinstance(caught.value, aio.AioRpcError)
        said = dict(caught.value.trailing_metadata() or ())
        async with asyncio.timeout(PATIENCE_S):  # It is logged after the answer.
            while not caplog.records:
                await asyncio.sleep(0)
    logged = [getattr(record, "request_id", None) for record in caplog.records]
    assert said["longshore-request-id"] in logged


async def test_failures_are_counted_as_they_happen(service: Running) -> None:
    batch_id = await service.ada.submit(*[job(name=f"n{i}") for i in range(1, 8)])
    asked = pb.FailureGroupsRequest(batch_id=batch_id)
    nothing = await service.ada.call("FailureGroups", asked)
    assert not nothing.groups and not nothing.n_failed
    async with service.worker(cores=7) as worker:
        attempts = {a.job_id: a.attempt_id for a in await worker.assigned(7)}
        for job_id, exit_code in ((6, 1), (2, 1), (3, 137), (1, 0), (5, 1)):
            await worker.run_to_end(attempts[job_id], exit_code=exit_code)
        for job_id, name in ((4, "part-0017"), (7, "part-0018")):
            report = ended(attempts[job_id], 1)
            report.reason = types.END_REASON_ERROR
            report.containers[0].error_kind = types.ERROR_KIND_FILES
            report.containers[0].error = f"/io/{name} does not exist"
            await worker.report(report)
        await worker.until(lambda: len(worker.acks) == 7)
    answer = await service.ada.call("FailureGroups", asked)
    assert answer.n_failed == 6 == (await service.ada.batch(batch_id)).n_failed
    assert [(g.n, g.example.job_id, g.example.exit_code, g.example.reason) for g in answer.groups] == [
        (3, 2, 1, ""), (2, 4, 1, "/io/part-0017 does not exist"), (1, 3, 137, ""),
    ]  # fmt: skip
    assert answer == await service.ada.call("FailureGroups", asked)
    asked.limit = 1
    first = await service.ada.call("FailureGroups", asked)
    assert len(first.groups) == 1 and first.n_failed == 6
    bob = service.user("bob")
    for who, wrong, code in (
        (
            service.ada,
            pb.FailureGroupsRequest(batch_id=batch_id, limit=1_001),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (service.ada, pb.FailureGroupsRequest(batch_id=batch_id + 1), grpc.StatusCode.NOT_FOUND),
        (bob, asked, grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(aio.AioRpcError) as refused:
            await who.call("FailureGroups", wrong)
        assert refused.value.code() is code


async def test_a_query_is_completed_with_fields_and_values_and_how_often_there_are_which(
    service: Running,
) -> None:
    ada, bob = service.ada, service.user("bob")
    await ada.create(1, attributes={"name": "one", "run": "nightly"})
    batch_id = await ada.submit(*[job(attributes={"sample": f"NA {i % 2}"}) for i in range(5)])
    await bob.create(1, attributes={"secret": "bobs"})

    async def offered(user: User, text: str, batch_id: int = 0) -> list[tuple[str, int | None]]:
        request = pb.CompleteQueryRequest(text=text, cursor=len(text), batch_id=batch_id)
        answer = await user.call("CompleteQuery", request)
        assert answer.first + answer.length == len(text)
        return [(c.text, c.n if c.HasField("n") else None) for c in answer.completions]

    assert ("state:", None) in await offered(ada, "")
    assert await offered(ada, "-us") == [("user:", None)]
    assert (await offered(ada, "state:"))[:3] == [("live", 2), ("open", 1), ("running", 1)]
    assert await offered(ada, "state:op") == [("open", 1)]
    assert await offered(ada, "user:") == [("ada", 2), ("me", 2), ("bob", 1)]
    assert await offered(bob, "attr.") == [("attr.secret=", 1)]
    assert await offered(ada, "attr.ru") == [("attr.run=", 1)]
    assert await offered(ada, "attr.run=") == [("nightly", 1)]
    assert await offered(ada, "created>-1") == [("-1h", None), ("-1d", None)]
    assert (await offered(ada, "state:r", batch_id)) == [("ready", 5), ("running", 0)]
    assert await offered(ada, "attr.sample=", batch_id) == [('"NA 0"', 3), ('"NA 1"', 2)]
    async with service.worker(cores=5) as worker:
        attempts = await worker.assigned(5)
        for n, attempt in enumerate(attempts):
            await worker.run_to_end(attempt.attempt_id, exit_code=min(n, 2))
    assert await offered(ada, "exit:", batch_id) == [("2", 3), ("1", 1), ("0", 1)]
    assert ("bad", 4) in await offered(ada, "state:", batch_id)
    for text, wanted, code in (
        ("", batch_id + 5, grpc.StatusCode.NOT_FOUND),
        ("x" * 1_001, 0, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(aio.AioRpcError) as refused:
            await offered(ada, text, wanted)
        assert refused.value.code() is code
    with pytest.raises(aio.AioRpcError) as foreign:
        await offered(bob, "attr.sample=", batch_id)
    assert foreign.value.code() is grpc.StatusCode.NOT_FOUND


async def test_what_takes_too_long_to_look_through_is_said(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await service.ada.submit(*[job(name=f"n{i}") for i in range(1, 41)])
    real = service.store.search_jobs

    def interrupted(*args: Any, stop: Callable[[], bool], **how: Any) -> Any:
        asked = iter([False, False])
        return real(*args, stop=lambda: next(asked, True), **how)

    monkeypatch.setattr(service.store, "search_jobs", interrupted)
    for query in ('name=~"."', 'name=~"." state:ready', "name:n cost>=0"):
        async with jobs(service.ada, batch_id, query) as seen:
            view = await seen.next()
            assert view.n_searched == 31 and view.n_matching == 31 and len(seen.rows) == 31
    with pytest.raises(aio.AioRpcError) as refused:
        await service.ada.call("ListJobs", pb.ListJobsRequest(batch_id=batch_id, query='name=~"."'))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "took longer than" in (refused.value.details() or "")
    monkeypatch.setattr(api, "LIST_S", -1.0)
    with pytest.raises(aio.AioRpcError) as also:
        await service.ada.call("ListBatches", pb.ListBatchesRequest(query="cost>=0"))
    assert also.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
