"""The client for programs with an event loop: the same names, the same answers, nothing that blocks."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from datetime import date
from decimal import Decimal
from typing import Any

import longshore as hp
import longshore.calls
import pytest
from fakes_service import TOKEN, FakeService
from longshore import AsyncClient, Client
from longshore.aio import AsyncWindow
from longshore.errors import UsageError, WrongType
from longshore.windows import Window


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits as a client does, a hundred times faster."""
    slow = longshore.calls.backoff
    monkeypatch.setattr(longshore.calls, "backoff", lambda attempt, rng: slow(attempt, rng) / 100)


@pytest.fixture
async def aclient(service: FakeService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient("test", endpoint=service.endpoint, token=TOKEN) as client:
        yield client


@pytest.fixture
async def idle_aclient(idle_service: FakeService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient("test", endpoint=idle_service.endpoint, token=TOKEN) as client:
        yield client


async def echo(client: AsyncClient, *words: str) -> hp.AsyncBatch:
    builder = client.create_batch(name="echo")
    for word in words:
        builder.create_job(None, ["echo", word], name=word)
    return await builder.submit()


# The same as the other one.


@pytest.mark.parametrize(
    ("sync", "other"),
    [
        (Client, AsyncClient),
        (hp.Batch, hp.AsyncBatch),
        (hp.Job, hp.AsyncJob),
        (hp.Log, hp.AsyncLog),
        (hp.BatchBuilder, hp.AsyncBatchBuilder),
        (Window, AsyncWindow),
    ],
)
def test_both_clients_have_the_same_methods_with_the_same_parameters(sync: type, other: type) -> None:
    def methods(kind: type) -> dict[str, list[tuple[str, Any]]]:
        return {
            name: [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert methods(sync) == methods(other)
    properties = [n for n, p in inspect.getmembers(sync) if isinstance(p, property) and n[0] != "_"]
    assert all(isinstance(getattr(other, name), property) for name in properties)


async def test_a_batch_runs_and_its_handles_tell_everything(aclient: AsyncClient) -> None:
    assert (await aclient.session()).user == "ada"
    builder = aclient.create_batch({"who": "me"}, name="first")
    hello = builder.create_job(None, ["echo", "hello"], name="say", attributes={"x": "y"})
    builder.create_job(None, ["sh", "-c", "echo oh; exit 3"], parents=[hello])
    batch = await builder.submit()
    assert await builder.submit() is batch
    status = await batch.wait(timeout=30)
    assert (status.state, status.n_succeeded, status.n_failed) == ("failure", 1, 1)
    assert batch.last_status is status and (await batch.status()) == status
    job = batch.job(1)
    assert (await job.status()).exit_code == 0 and await job.attributes() == {"x": "y"}
    assert [attempt.number for attempt in await job.attempts()] == [1]
    assert await job.log().text() == "hello\n" and await job.log("main", 1).tail() == "hello"
    assert [line async for line in batch.job(2).log(follow=True)] == ["oh"]
    assert [chunk.data async for chunk in job.log().chunks(1, 3)] == [b"ell"]
    assert [job.id async for job in batch.jobs(states=["Failure"])] == [2]
    assert [job.id async for job in batch.jobs("say")] == [1]
    assert (await batch.job(2).wait(timeout=30)).state == "Failure"
    assert [each.id async for each in aclient.list_batches(query="first")] == [batch.id]
    assert (await aclient.get_batch(batch.id)).url.endswith(f"/{batch.id}")
    with pytest.raises(hp.BatchFailedError, match="exit code 3: oh") as failed:
        await batch.wait(check=True)
    assert failed.value.batch is batch
    with pytest.raises(hp.NotFound, match="batch 99"):
        await aclient.get_batch(99)
    with pytest.raises(hp.NotSubmitted):
        await aclient.create_batch().create_job(None, ["true"]).status()
    await batch.cancel()
    await batch.delete()
    assert [each async for each in aclient.list_batches()] == []


async def test_pages_events_and_windows_are_told_as_they_come(
    idle_aclient: AsyncClient, idle_service: FakeService
) -> None:
    batch = await echo(idle_aclient, *"abcd")
    assert (await idle_aclient.page_of_batches()).rows[0].id == batch.id
    assert (await batch.job(1).why()).code == (await batch.why())[0].code == "NO_WORKER"
    assert (await idle_aclient.admin.freeze("x")).frozen and not (await idle_aclient.admin.thaw()).frozen
    assert (await idle_aclient.admin.status()).n_workers == 2
    (worker, _) = await idle_aclient.admin.workers()
    assert (await idle_aclient.admin.drain(worker.id, "x")).state == "draining"
    assert (await idle_aclient.admin.undrain(worker.id)).state == "active"
    assert (await idle_aclient.admin.worker(worker.id)).id == worker.id
    page = await idle_aclient.page_of_jobs(batch.id, after=1, size=2)
    assert [job.job_id for job in page.rows] == [2, 3]
    async with idle_aclient.watch_jobs(batch.id, first=1, n=2) as window:
        names = []
        async for view in window:
            names.append([job.name for job in view.rows])
            if len(names) == 2:
                break
            window.show(query="c", first=0)
    assert names == [["b", "c"], ["c"]]
    idle_service.finish(batch.id, 4)
    async for events in idle_aclient.watch_events(page.seq, batch.id):
        assert [event.jobs for event in events.events] == [((4, 4),)]
        break
    async for session in idle_aclient.watch_session():
        assert session.user == "ada"
        break
    async for status in batch.job(4).watch():
        assert status.state == "Success"


async def test_many_things_are_waited_for_at_once(
    idle_aclient: AsyncClient, idle_service: FakeService
) -> None:
    batches = await asyncio.gather(*(echo(idle_aclient, "a") for _ in range(20)))
    waits = asyncio.gather(*(batch.wait(timeout=60) for batch in batches))
    for batch in reversed(batches):
        await asyncio.to_thread(idle_service.finish, batch.id, 1)
    assert [status.state for status in await waits] == ["success"] * 20


async def test_a_wait_ends_when_its_time_is_over_or_its_task_is_cancelled(idle_aclient: AsyncClient) -> None:
    batch = await echo(idle_aclient, "a")
    with pytest.raises(hp.WaitTimeout):
        await batch.wait(timeout=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await batch.wait()
    assert (await batch.status()).state == "running"


async def test_closing_ends_what_is_under_way_and_all_asking(idle_aclient: AsyncClient) -> None:
    batch = await echo(idle_aclient, "a")
    watch = batch.watch()
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await idle_aclient.close()
    await idle_aclient.close()
    with pytest.raises(hp.UsageError, match="is closed"):
        await waiting
    with pytest.raises(hp.UsageError, match="is closed"):
        await batch.status()


async def test_a_watch_survives_a_service_that_is_started_again(
    idle_aclient: AsyncClient, idle_service: FakeService
) -> None:
    batch = await echo(idle_aclient, "a")
    watch = batch.watch(timeout=60)
    assert (await anext(watch)).n_completed == 0
    await asyncio.to_thread(idle_service.stop)
    idle_service.start()
    idle_service.finish(batch.id, 1)
    assert [status.state async for status in watch][-1] == "success"


async def test_an_interrupted_submission_leaves_no_batch(aclient: AsyncClient, service: FakeService) -> None:
    builder = aclient.create_batch()
    builder.create_job(None, ["true"])

    def interrupt(_: int) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await builder.submit(interrupt)
    assert [batch.deleted for batch in service.batches.values()] == [True]


def test_one_client_serves_one_loop_after_another(service: FakeService) -> None:
    client = AsyncClient("test", endpoint=service.endpoint, token=TOKEN)

    async def submit() -> int:
        return (await echo(client, "a")).id

    assert [asyncio.run(submit()) for _ in range(3)] == [1, 2, 3]
    assert len(client._calls.transport._lines) == 1  # Of loops that are gone, nothing is kept.
    asyncio.run(client.close())


async def test_two_loops_in_two_threads_use_one_client_at_the_same_time(aclient: AsyncClient) -> None:
    async def ask() -> None:
        for _ in range(20):
            await aclient.session()

    await asyncio.gather(ask(), asyncio.to_thread(lambda: asyncio.run(ask())))
    assert len(aclient._calls.transport._lines) == 2


# The other one, where it is not at home.


async def test_the_client_works_inside_a_running_loop_as_in_a_notebook(client: Client) -> None:
    builder = client.create_batch()
    builder.create_job(None, ["echo", "hello"])
    batch = builder.submit()
    assert batch.wait(timeout=30).state == "success"
    assert list(batch.job(1).log()) == ["hello"]
    assert [next(batch.watch()).id, next(client.list_batches()).id] == [batch.id] * 2


def _in_a_forked_child(do: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            do()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # That is what is shown.
def test_a_forked_process_asks_through_a_connection_of_its_own(
    idle_client: Client, idle_service: FakeService
) -> None:
    builder = idle_client.create_batch()
    builder.create_job(None, ["true"])
    batch = builder.submit()
    waiting = threading.Thread(target=batch.wait, args=(60,))
    waiting.start()  # A call is under way, and its thread is not in the child.

    def ask() -> None:
        assert batch.status().n_jobs == 1 and next(batch.watch()).id == batch.id
        idle_client.close()

    assert _in_a_forked_child(ask) == 0
    assert batch.status().n_jobs == 1
    idle_service.finish(batch.id, 1)
    waiting.join(30)
    assert not waiting.is_alive()


def test_closing_in_another_thread_ends_every_wait(idle_client: Client) -> None:
    builder = idle_client.create_batch()
    builder.create_job(None, ["true"])
    batch = builder.submit()
    failed: list[str] = []

    def wait(ask: Callable[[], object]) -> None:
        try:
            ask()
        except hp.UsageError as error:
            failed.append(error.message)

    asks: list[Callable[[], object]] = [
        batch.wait,
        batch.job(1).wait,
        lambda: list(batch.job(1).log(follow=True)),
    ]
    threads = [threading.Thread(target=wait, args=(ask,)) for ask in asks for _ in range(3)]
    for thread in threads:
        thread.start()
    next(batch.watch())
    idle_client.close()
    for thread in threads:
        thread.join(30)
    assert len(failed) == 9 and all("is closed" in message for message in failed)


async def test_billing_is_awaited(idle_aclient: AsyncClient) -> None:
    billing = idle_aclient.billing
    assert (await billing.create("tides")).state == "open"
    assert [project.name for project in await billing.projects()] == ["test", "tides"]
    assert (await billing.set_limit("tides", "0.50", hard=True)).limit == Decimal("0.5")
    assert (await billing.close("tides")).state == "closed"
    assert not (await billing.open("tides")).closed
    assert (await billing.add_member("tides", "lin", owner=True)).members[0].role == "owner"
    assert not (await billing.remove_member("tides", "lin")).members
    assert (await billing.project("tides")).name == "tides"
    assert await billing.costs(by="day") == []
    cards = await billing.set_rates(date(2999, 1, 1), {"compute": "0.01"})
    assert cards == await billing.rates()
    assert (await billing.estimate(cpu=1, duration=3600)).cost == Decimal("0.021704483")
    with pytest.raises(UsageError):
        await billing.costs(by=["colour"])
    with pytest.raises(WrongType):
        await billing.costs(since="2026-11-01")  # type: ignore[arg-type]
