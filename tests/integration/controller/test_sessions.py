"""The conversation with workers: nothing before its commit, one session each, nobody speaks for others."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from integration.controller.service import (
    ENDED,
    Running,
    Workerd,
    config_of,
    ended,
    job,
    running,
    started,
)
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as worker_pb
from longshore_api.v1 import worker_service_pb2_grpc as worker_grpc

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def hung_up(workerd: Workerd) -> tuple[grpc.StatusCode | None, str]:
    await workerd.until(lambda: workerd.ended)
    return workerd.ended, workerd.why


async def test_nothing_is_acknowledged_or_told_before_its_commit(service: Running) -> None:
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job(), job(parents=[1]))
        (first,) = await workerd.assigned()
        with service.commits_held() as reached:
            await workerd.report(ended(first.attempt_id))
            assert await asyncio.to_thread(reached.wait, 10)
            # An answer that was on its way would be here before one that is asked for now.
            assert (await service.ada.batch(batch_id)).n_running == 1
            assert not workerd.acks
            assert len(workerd.runs) == 1
        await workerd.until(lambda: workerd.acks)
        await workerd.assigned(2)
        assert (await service.ada.job(batch_id, 1)).state == types.JOB_STATE_SUCCESS


async def test_a_report_whose_commit_fails_is_not_acknowledged_and_counts_once_when_repeated(
    service: Running,
) -> None:
    identity = await service.activate()
    async with service.worker(identity) as workerd:
        batch_id = await service.ada.submit(job())
        (first,) = await workerd.assigned()
        with service.database_away():
            await workerd.report(ended(first.attempt_id))
            beat = await workerd.beat(spooled=[first.attempt_id])
            # Answers come in the order of what was said.
            await workerd.until(lambda: beat in workerd.leases)
            assert not workerd.acks
        # The memory was loaded anew: say Hello again.
        assert (await hung_up(workerd))[0] is grpc.StatusCode.UNAVAILABLE
    async with service.worker(identity, spooled=[first.attempt_id]) as workerd:
        assert not workerd.runs
        await workerd.run_to_end(first.attempt_id)
        await workerd.run_to_end(first.attempt_id)
    done = await service.ada.job(batch_id, 1)
    assert (done.state, done.n_attempts) == (types.JOB_STATE_SUCCESS, 1)


async def test_a_lease_is_extended_as_long_as_the_database_is_away(service: Running) -> None:
    async with service.worker() as workerd:
        await service.ada.submit(job())
        (first,) = await workerd.assigned()
        with service.database_away():
            await workerd.report(started(first.attempt_id))
            for n in range(1, 4):
                await workerd.beat(held=[first.attempt_id])
                await workerd.until(lambda: len(workerd.leases) == n)  # noqa: B023
            assert workerd.ended is None
            assert not workerd.acks


async def test_a_database_that_keeps_everybody_waiting_costs_no_worker_its_jobs(tmp_path: Path) -> None:
    config = config_of(tmp_path, heartbeat_ms=50, lease_ms=800, grace_ms=200)
    async with running(config) as service, service.worker() as workerd:
        batch_id = await service.ada.submit(job())
        (attempt,) = await workerd.assigned()
        with service.commits_held() as reached:
            await workerd.report(started(attempt.attempt_id))
            assert await asyncio.to_thread(reached.wait, 10)
            until = asyncio.get_running_loop().time() + 2
            while asyncio.get_running_loop().time() < until:
                beat = await workerd.beat(held=[attempt.attempt_id])
                await asyncio.wait_for(workerd.until(lambda: beat in workerd.leases), 0.8)  # noqa: B023
            assert not workerd.acks
        await workerd.report(ended(attempt.attempt_id))
        await workerd.until(lambda: (attempt.attempt_id, ENDED) in workerd.acks)
        done = await service.ada.job(batch_id, 1)
        assert (done.state, done.n_attempts) == (types.JOB_STATE_SUCCESS, 1)


async def test_a_second_hello_ends_the_older_stream(service: Running) -> None:
    identity = await service.activate()
    async with service.worker(identity) as older, service.worker(identity) as newer:
        code, why = await hung_up(older)
        assert (code, why) == (PRECONDITION, "the worker has connected again")
        assert newer.welcome.session > older.welcome.session
        await service.ada.submit(job())
        await newer.assigned()
        assert not older.runs


async def test_reports_of_a_session_that_is_over_have_no_effect(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await service.activate()
    engine = service.controller.engine
    heard = asyncio.Event()
    real = engine.submit_and_look

    async def submit_and_look(*asked: Any) -> Any:
        answer = asyncio.ensure_future(real(*asked))
        await asyncio.sleep(0)  # Now it stands in the engine's inbox.
        heard.set()
        return await answer

    async with service.worker(identity) as older:
        batch_id = await service.ada.submit(job())
        (attempt,) = await older.assigned()
        async with Workerd(service.channel, identity) as newer:
            with service.commits_held() as reached:
                user = asyncio.create_task(service.ada.create(1))
                assert await asyncio.to_thread(reached.wait, 10)
                monkeypatch.setattr(engine, "submit_and_look", submit_and_look)
                await newer.say_hello(held=[attempt.attempt_id])
                await heard.wait()
                await older.report(ended(attempt.attempt_id, exit_code=1))
                # The report stands behind the Hello when an answer to a later call is here.
                await service.ada.batch(batch_id)
            await user
            assert (await hung_up(older))[0] is PRECONDITION
        assert not older.acks
    assert (await service.ada.job(batch_id, 1)).state == types.JOB_STATE_RUNNING


async def test_a_worker_cannot_report_for_another(service: Running) -> None:
    async with service.worker() as one, service.worker() as other:
        batch_id = await service.ada.submit(job())
        while not (one.runs or other.runs):
            await asyncio.wait(
                [asyncio.create_task(w.assigned()) for w in (one, other)], return_when="FIRST_COMPLETED"
            )
        mine, foreign = (one, other) if one.runs else (other, one)
        (attempt,) = mine.runs
        await foreign.run_to_end(attempt)  # Acknowledged, lest it repeat it for ever.
        assert (await service.ada.job(batch_id, 1)).state == types.JOB_STATE_RUNNING
        await foreign.beat(held=[attempt])
        await foreign.until(lambda: len(foreign.told) == 2)
        assert foreign.told[1].complete
        assert not foreign.told[1].keep
        assert not foreign.told[1].run
        await mine.run_to_end(attempt)
        assert (await service.ada.job(batch_id, 1)).state == types.JOB_STATE_SUCCESS


async def test_what_a_worker_should_not_hold_is_told_at_its_next_heartbeat(service: Running) -> None:
    async with service.worker(cores=2) as workerd:
        await service.ada.submit(job())
        (mine,) = await workerd.assigned()
        await workerd.beat(held=["f" * 32, mine.attempt_id])
        await workerd.until(lambda: len([t for t in workerd.told if t.complete]) == 2)
        assert list(workerd.told[-1].keep) == [mine.attempt_id]


def known_to_all_orders(workerd: Workerd) -> bool:
    """No complete orders leave out what was told before; they say that it is to be stopped."""
    known: set[str] = set()
    for told in workerd.told:
        named = {a.attempt_id for a in told.run} | set(told.keep)
        if told.complete and not known <= named:
            return False
        known |= named
    return True


async def test_complete_orders_are_told_before_what_was_decided_after_them(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = threading.Event(), threading.Event()
    real = service.store.specs

    def specs(keys: Any) -> Any:
        asked.set()
        go.wait()
        return real(keys)

    async with service.worker(cores=8) as workerd:
        monkeypatch.setattr(service.store, "specs", specs)
        monkeypatch.setattr(service.store, "fresh_specs", lambda keys: {})
        await service.ada.submit(job())
        assert await asyncio.to_thread(asked.wait, 10)
        # Something that is not wanted is held: answered with all orders, which wait behind the specs.
        beat = await workerd.beat(held=["f" * 32])
        await workerd.until(lambda: beat in workerd.leases)
        second = await service.ada.submit(job())
        while (await service.ada.batch(second)).n_running == 0:
            pass
        go.set()
        attempts = await workerd.assigned(2)
        await workerd.until(lambda: sum(told.complete for told in workerd.told) == 2)
        assert len(attempts) == 2
        assert known_to_all_orders(workerd)


async def test_complete_orders_among_news_leave_nothing_out(service: Running) -> None:
    async with service.worker(cores=40) as workerd:
        held: list[str] = []
        for n in range(1, 31):
            await workerd.beat(held=["f" * 32, *held])
            await service.ada.submit(job())
            held = [a.attempt_id for a in await workerd.assigned(n)]
        await workerd.until(lambda: len(workerd.leases) == 30)
        assert known_to_all_orders(workerd)


async def test_complete_orders_name_what_was_revoked(service: Running) -> None:
    """The worker may have heard neither of the attempt nor of its end: nobody else asks it to say so."""
    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job())
        (attempt,) = await workerd.assigned()
        await service.ada.cancel(batch_id)
        await workerd.until(lambda: workerd.revoked)
        workerd.told.clear()
        await workerd.beat(held=[attempt.attempt_id])
        await workerd.until(lambda: workerd.told)
        assert [(t.complete, list(t.revoke)) for t in workerd.told] == [(True, [attempt.attempt_id])]


async def test_complete_orders_of_several_messages_leave_out_nothing_that_is_held(service: Running) -> None:
    identity = await service.activate()
    async with service.worker(identity, cores=300) as workerd:
        await service.ada.submit(*[job()] * 300)
        attempts = await workerd.assigned(300)
    # It holds them, and its Hello was written before it did.
    async with service.worker(identity, cores=300) as workerd:
        await workerd.until(lambda: any(told.complete for told in workerd.told))
        *before, complete = workerd.told
        assert before
        assert not any(told.complete for told in before)
        named = {a.attempt_id for a in complete.run} | set(complete.keep)
        assert named == {a.attempt_id for a in attempts} == workerd.runs.keys()


@pytest.mark.parametrize("decided", [True, False], ids=["in its commit", "before it was decided"])
async def test_a_worker_that_hangs_up_during_its_hello_is_not_taken_for_connected(
    service: Running, decided: bool
) -> None:
    identity = await service.activate()
    with service.commits_held() as reached:
        user = asyncio.create_task(service.ada.create(1)) if not decided else None
        if user is not None:
            assert await asyncio.to_thread(reached.wait, 10)
        async with Workerd(service.channel, identity) as workerd:
            await workerd.say_hello()
            if decided:
                assert await asyncio.to_thread(reached.wait, 10)
            else:
                while not service.controller.engine._inbox:
                    await asyncio.sleep(0)
    if user is not None:
        await user
    while service.controller._workers._background:
        await asyncio.sleep(0)
    session = await service.controller.engine.submit(lambda r, now: r._sessions.get(identity[0]))
    assert session is None or not session.connected


async def test_cancelling_revokes_what_runs_and_starts_nothing_more(service: Running) -> None:
    async with service.worker(cores=1) as workerd:
        batch_id = await service.ada.submit(job(), job(), job(parents=[1], always_run=True))
        (first,) = await workerd.assigned()
        await service.ada.cancel(batch_id, "wrong data")
        await workerd.until(lambda: workerd.revoked)
        assert workerd.revoked == {first.attempt_id}
        await workerd.report(
            worker_pb.Report(attempt_id=first.attempt_id, state=ENDED, reason=types.END_REASON_REVOKED)
        )
        always = (await workerd.assigned(2))[-1]
        assert always.job_id == 3
        await workerd.run_to_end(always.attempt_id)
        last = (await service.ada.complete(batch_id))[-1]
        assert (last.state, last.n_cancelled, last.n_succeeded) == (types.BATCH_STATE_CANCELLED, 2, 1)
        assert (last.cancelled_by, last.cancel_reason) == ("ada", "wrong data")


async def test_a_worker_that_falls_silent_is_hung_up_on_and_its_job_goes_elsewhere(tmp_path: Path) -> None:
    config = config_of(tmp_path, heartbeat_ms=50, lease_ms=800, grace_ms=200)
    async with running(config) as service, service.worker(cores=1) as silent:
        batch_id = await service.ada.submit(job())
        await silent.assigned()
        assert (await hung_up(silent))[0] is PRECONDITION
        async with service.worker(cores=1) as other:
            await other.run_to_end((await other.assigned())[0].attempt_id)
        assert (await service.ada.job(batch_id, 1)).n_attempts == 2


async def test_an_activation_token_makes_one_worker(service: Running) -> None:
    token = service.activation_token
    stub: Any = worker_grpc.WorkerServiceStub(service.channel)
    request = worker_pb.ActivateRequest(activation_token=token)
    await stub.Activate(request)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Activate(request)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert service.activation_token != token
    first, second = await service.activate(), await service.activate()
    assert first[0] != second[0]


@pytest.mark.parametrize("seen", [0, 1, 2])
async def test_a_worker_that_has_seen_a_later_controller_is_sent_away(service: Running, seen: int) -> None:
    epoch = service.store.epoch
    async with Workerd(service.channel, await service.activate()) as workerd:
        await workerd.say_hello(seen_epoch=epoch - 1 + seen)
        await workerd.until(lambda: workerd.told or workerd.ended)
        assert workerd.ended is (PRECONDITION if seen == 2 else None)


@pytest.mark.parametrize(
    "first",
    [worker_pb.Heartbeat(number=1), worker_pb.Hello(capacity_mcpu=0)],
    ids=["no hello", "a worker without cores"],
)
async def test_a_conversation_begins_with_a_hello_that_can_be(service: Running, first: Message) -> None:
    async with Workerd(service.channel, await service.activate()) as workerd:
        kind = "heartbeat" if isinstance(first, worker_pb.Heartbeat) else "hello"
        await workerd.send(**{kind: first})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await workerd._call.read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_thousand_reports_are_acknowledged_each_in_its_turn(service: Running) -> None:
    async with service.worker(cores=250) as workerd:
        batch_id = await service.ada.submit(*[job()] * 250)
        attempts = [a.attempt_id for a in await workerd.assigned(250)]
        for i in range(0, 250, 10):
            await workerd.report(*(started(a) for a in attempts[i : i + 10]))
            await workerd.report(*(ended(a) for a in attempts[i : i + 10]))
        await workerd.until(lambda: len(workerd.acks) == 500)
        assert (await service.ada.complete(batch_id))[-1].n_succeeded == 250
