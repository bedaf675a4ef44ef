"""Logs through the service: the offsets of the worker, live and afterwards."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest
from integration.controller.service import Running, User, ended, job, started
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types
from longshore_controller import logs


async def test_a_follower_reads_what_is_pushed_until_the_end(service: Running) -> None:
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job())
        follower = service.ada.log(batch_id, 1, follow=True)
        (attempt,) = [a.attempt_id for a in await workerd.assigned()]
        first = asyncio.ensure_future(follower.read())
        await workerd.until(lambda: workerd.logs_wanted == [attempt])
        await workerd.push((attempt, 0, b"one\n"))
        assert ((await first).offset, (await first).chunk) == (0, b"one\n")
        await workerd.push((attempt, 4, b"two\n"))
        two = await follower.read()
        assert (two.offset, two.chunk) == (4, b"two\n")
        await workerd.run_to_end(attempt, log_bytes=10)
        await workerd.push((attempt, 0, b"one\ntwo\n3\n"))
        rest = await follower.read()
        assert (rest.offset, rest.chunk) == (8, b"3\n")
        last = await follower.read()
        assert (last.offset, last.chunk, last.end, last.incomplete) == (10, b"", True, False)
        await workerd.until(lambda: workerd.logs_wanted == [])
        assert (await service.ada.whole_log(batch_id, 1))[0] == b"one\ntwo\n3\n"


async def test_ranges_and_the_tail_are_of_the_same_bytes(service: Running) -> None:
    log = random.Random(1).randbytes(300_000)
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job())
        (attempt,) = [a.attempt_id for a in await workerd.assigned()]
        await workerd.push(*((attempt, at, log[at : at + 70_000]) for at in range(0, len(log), 70_000)))
        await workerd.run_to_end(attempt, log_bytes=len(log))
    read = service.ada.whole_log
    assert (await read(batch_id, 1))[0] == log
    assert (await read(batch_id, 1, offset=65_530, limit=20))[0] == log[65_530:65_550]
    assert (await read(batch_id, 1, tail_bytes=100_000))[0] == log[-100_000:]
    assert (await read(batch_id, 1, tail_bytes=10**9))[0] == log
    assert (await read(batch_id, 1, offset=10**9))[0] == b""
    assert (await read(batch_id, 1, attempt_id=attempt))[0] == log
    whole, last = await read(batch_id, 1, container=types.CONTAINER_INPUT)
    assert (whole, last.incomplete) == (b"", False)


async def test_a_log_of_which_the_rest_never_comes_says_so(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LATE_S", 0.05)
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job())
        (attempt,) = [a.attempt_id for a in await workerd.assigned()]
        await workerd.push((attempt, 0, b"abc"))
        await workerd.run_to_end(attempt, log_bytes=5)
        whole, last = await service.ada.whole_log(batch_id, 1)
        assert (whole, last.incomplete) == (b"abc", True)
        await workerd.push((attempt, 3, b"de"))
        whole, last = await service.ada.whole_log(batch_id, 1)
        assert (whole, last.incomplete) == (b"abcde", False)


async def test_a_look_at_a_running_job_makes_its_worker_push(service: Running) -> None:
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job())
        (attempt,) = [a.attempt_id for a in await workerd.assigned()]
        await workerd.report(started(attempt))
        looking = asyncio.create_task(service.ada.whole_log(batch_id, 1, tail_bytes=2))
        await workerd.until(lambda: workerd.logs_wanted == [attempt])
        await workerd.push((attempt, 0, b"so far"))
        whole, last = await looking
        assert (whole, last.offset, last.incomplete) == (b"ar", 6, True)


async def test_a_job_that_never_stops_writing_is_looked_at_at_once(service: Running) -> None:
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job())
        (attempt,) = [a.attempt_id for a in await workerd.assigned()]
        await workerd.report(started(attempt))
        looking = asyncio.create_task(service.ada.whole_log(batch_id, 1, tail_bytes=5))
        await workerd.until(lambda: workerd.logs_wanted == [attempt])
        for n in range(200):
            await workerd.push((attempt, 5 * n, b"more\n"))
            if looking.done():
                break
        assert looking.done()
        assert (await looking)[0].startswith(b"more\n")


async def test_a_follower_of_a_job_that_waits_reads_on_once_it_runs(service: Running) -> None:
    batch_id = await service.ada.submit(job(), job(parents=[1]))
    following = asyncio.create_task(service.ada.whole_log(batch_id, 2, follow=True))
    async with service.worker() as workerd:
        await workerd.run_to_end((await workerd.assigned())[0].attempt_id)
        second = (await workerd.assigned(2))[-1].attempt_id
        await workerd.push((second, 0, b"hello"))
        await workerd.run_to_end(second, log_bytes=5)
        assert (await following)[0] == b"hello"


async def test_a_job_that_never_ran_has_an_empty_log(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    whole, last = await service.ada.whole_log(batch_id, 1)
    assert (whole, last.incomplete) == (b"", True)
    following = asyncio.create_task(service.ada.whole_log(batch_id, 1, follow=True))
    await service.ada.cancel(batch_id)
    whole, last = await following
    assert whole == b""
    assert (await service.ada.whole_log(batch_id, 1))[1].incomplete is False


async def test_a_worker_pushes_only_logs_of_its_own_attempts(service: Running) -> None:
    async with service.worker(cores=1) as owner:
        await service.ada.submit(job())
        (attempt,) = [a.attempt_id for a in await owner.assigned()]
        async with service.worker() as other:
            for name in (attempt, "f" * 32, "../../etc", "a\0b"):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await other.push((name, 0, b"x"))
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as gap:
            await owner.push((attempt, 7, b"x"))
        assert gap.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_each_try_has_its_own_log(service: Running) -> None:
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job(retries=1))
        (first,) = [a.attempt_id for a in await workerd.assigned()]
        await workerd.push((first, 0, b"first"))
        await workerd.report(ended(first, exit_code=1, log_bytes=5))
        second = (await workerd.assigned(2))[-1].attempt_id
        await workerd.push((second, 0, b"second"))
        await workerd.run_to_end(second, log_bytes=6)
    assert (await service.ada.whole_log(batch_id, 1))[0] == b"second"
    assert (await service.ada.whole_log(batch_id, 1, attempt_id=first))[0] == b"first"


async def test_a_text_is_found_in_all_of_a_log_that_one_may_see(service: Running) -> None:
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job(retries=1))
        (first,) = [a.attempt_id for a in await workerd.assigned()]
        await workerd.push((first, 0, b"one\nTwo\nthree\n"))
        await workerd.report(ended(first, exit_code=1, log_bytes=14))
        second = (await workerd.assigned(2))[-1].attempt_id
        await workerd.push((second, 0, b"two"))
        await workerd.run_to_end(second, log_bytes=3)

    async def search(user: User, text: str, offset: int = 0, **how: Any) -> pb.SearchLogResponse:
        how = {"container": types.CONTAINER_MAIN, **how}
        request = pb.SearchLogRequest(batch_id=batch_id, job_id=1, text=text, offset=offset, **how)
        found: pb.SearchLogResponse = await user.call("SearchLog", request)
        return found

    assert (await search(service.ada, "TWO")).line_offset == 0
    found = await search(service.ada, "two", attempt_id=first)
    assert (found.line_offset, found.searched_to, found.end) == (4, 4, False)
    assert (await search(service.ada, "e", 14, backward=True, attempt_id=first)).line_offset == 8
    nothing = await search(service.ada, "four", attempt_id=first)
    assert (nothing.HasField("line_offset"), nothing.end) == (False, True)
    for user, text, how, code in (
        (service.user("eve"), "two", {}, grpc.StatusCode.NOT_FOUND),
        (service.ada, "two", {"attempt_id": "f" * 32}, grpc.StatusCode.NOT_FOUND),
        (service.ada, "", {}, grpc.StatusCode.INVALID_ARGUMENT),
        (service.ada, "a\nb", {}, grpc.StatusCode.INVALID_ARGUMENT),
        (service.ada, "two", {"container": 9}, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await search(user, text, **how)
        assert refused.value.code() is code
