"""What users may ask, repeat, and not see."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration.controller.service import Running, User, config_of, ended, job, running
from longshore_api.v1 import auth_service_pb2 as auth_pb
from longshore_api.v1 import auth_service_pb2_grpc as auth_grpc
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types
from longshore_controller import interceptors, windows
from longshore_controller.core.model import MemberRole
from longshore_controller.store import Holder

CODE = grpc.StatusCode


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


async def read(stream: Any) -> Any:
    message = await stream.read()
    assert message is not grpc.aio.EOF
    return message


async def test_the_session_says_who_i_am_and_what_this_is(service: Running) -> None:
    stub: Any = auth_grpc.AuthServiceStub(service.channel)
    session = await stub.GetSession(auth_pb.GetSessionRequest(), metadata=service.ada.metadata)
    assert (session.user, session.embedded, session.store_folder) == ("ada", True, "/")
    assert session.remote_tmpdir == service.config.remote_tmpdir
    assert list(session.notices) == ["made for a test"]
    assert (session.largest_worker_mcpu, session.default_image) == (16_000, "longshore/task")


# -- who is asking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ((), "the token is missing"),
        ((("authorization", "Bearer forged"),), "the token is unknown, or no longer good"),
        ((("authorization", "Basic forged"),), "the token is missing"),
        ((("authorization", "Bearer "),), "the token is missing"),
    ],
)
async def test_without_a_token_that_is_known_nothing_is_answered(
    service: Running, metadata: Any, words: str
) -> None:
    nobody = User(service.channel, "")
    nobody.metadata = metadata
    code, said = await refused(nobody.batch(1))
    assert (code, said.split(":")[0]) == (CODE.UNAUTHENTICATED, words)
    stream = nobody.stream("WatchEvents", pb.WatchEventsRequest())
    assert (await refused(stream.read()))[0] is CODE.UNAUTHENTICATED
    assert (await refused(nobody.add(1, job())))[0] is CODE.UNAUTHENTICATED


async def test_a_worker_is_no_user_and_a_user_no_worker(service: Running) -> None:
    _, token = await service.activate()
    code, words = await refused(User(service.channel, token).batch(1))
    assert (code, words) == (CODE.PERMISSION_DENIED, "this is for users, and the token is a worker's")
    async with service.worker(("ada", service.ada.metadata[0][1].split()[1])) as workerd:
        assert workerd.ended is CODE.PERMISSION_DENIED


async def test_a_token_is_looked_up_once_in_a_while(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    real = service.store.holder

    def look_up(key: bytes, now_ms: int) -> Holder | None:
        nonlocal asked
        asked += 1
        return real(key, now_ms)

    monkeypatch.setattr(service.store, "holder", look_up)
    bob = service.user("bob")
    for _ in range(5):
        await refused(bob.batch(1))
    assert asked == 1
    monkeypatch.setattr(interceptors, "REMEMBER_S", -1.0)
    eve = service.user("eve")
    for _ in range(2):
        await refused(eve.batch(1))
    assert asked == 3


async def test_what_is_somebody_elses_is_not_there_in_the_same_words(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    eve = service.user("eve")

    def calls(who: User, batch_id: int) -> list[Awaitable[Any]]:
        log = pb.ReadLogRequest(batch_id=batch_id, job_id=1, container=types.CONTAINER_MAIN)
        return [
            who.batch(batch_id),
            who.job(batch_id, 1),
            who.call("ListJobs", pb.ListJobsRequest(batch_id=batch_id)),
            who.add(batch_id, job()),
            who.close(batch_id),
            who.cancel(batch_id),
            who.delete(batch_id),
            who.stream("WatchBatch", pb.WatchBatchRequest(batch_id=batch_id)).read(),
            who.stream("WatchEvents", pb.WatchEventsRequest(batch_id=batch_id)).read(),
            who.stream("ReadLog", log).read(),
        ]

    for theirs, missing in zip(calls(eve, batch_id), calls(eve, 4711), strict=True):
        said = await refused(theirs)
        assert said == (CODE.NOT_FOUND, f"there is no batch {batch_id}")
        assert await refused(missing) == (CODE.NOT_FOUND, "there is no batch 4711")
    listed = await eve.call("ListBatches", pb.ListBatchesRequest())
    assert not listed.batches
    assert not (await service.ada.batch(batch_id)).HasField("cancelled_at_ms")


async def test_ids_beyond_those_of_a_database_are_just_not_there(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    assert await refused(service.ada.batch(2**64 - 1)) == (CODE.NOT_FOUND, f"there is no batch {2**64 - 1}")
    assert (await refused(service.ada.job(batch_id, 2**32 - 1)))[0] is CODE.NOT_FOUND
    everything = pb.ListBatchesRequest(before_batch_id=2**64 - 1)
    assert len((await service.ada.call("ListBatches", everything)).batches) == 1
    after = pb.ListJobsRequest(batch_id=batch_id, after_job_id=2**32 - 1)
    assert not (await service.ada.call("ListJobs", after)).jobs
    far = pb.WatchEventsRequest(after_seq=2**64 - 1)
    assert (await read(service.ada.stream("WatchEvents", far))).reset


async def test_health_is_for_anyone(service: Running) -> None:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    while (await read(watch)).status != health_pb2.HealthCheckResponse.SERVING:
        pass
    watch.cancel()
    code, _ = await refused(stub.Check(health_pb2.HealthCheckRequest(service="unknown")))
    assert code is CODE.NOT_FOUND


# -- requests that cannot be -------------------------------------------------------------------------


async def test_bytes_that_are_no_message_are_an_invalid_argument(service: Running) -> None:
    methods = "/longshore_api.v1.BatchService/"
    unary: Any = service.channel.unary_unary(methods + "GetBatch")
    code, words = await refused(unary(b"\xff\xff", metadata=service.ada.metadata))
    assert code is CODE.INVALID_ARGUMENT
    assert words.startswith("the request cannot be read")
    not_text = pb.CreateBatchRequest(request_id="r").SerializeToString().replace(b"r", b"\xff")
    create: Any = service.channel.unary_unary(methods + "CreateBatch")
    assert (await refused(create(not_text, metadata=service.ada.metadata)))[0] is CODE.INVALID_ARGUMENT
    submit: Any = service.channel.stream_unary(methods + "SubmitJobs")
    code, _ = await refused(submit(iter([b"\xff\xff"]), metadata=service.ada.metadata))
    assert code is CODE.INVALID_ARGUMENT


async def test_a_bunch_with_one_wrong_job_leaves_nothing_behind(service: Running) -> None:
    batch_id = await service.ada.create(3)
    code, words = await refused(service.ada.add(batch_id, job(), job(parents=[2]), job()))
    assert code is CODE.INVALID_ARGUMENT
    assert words.startswith("jobs[1].parents[0]: a job depends only on jobs with smaller ids, not on itself")
    code, words = await refused(service.ada.close(batch_id))
    assert code is CODE.FAILED_PRECONDITION
    assert words.startswith(f"3 of the 3 jobs of batch {batch_id} are missing, the first is job 1")


async def test_a_defect_is_told_to_the_log_and_not_to_the_caller(
    service: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("the password is hunter2")

    monkeypatch.setattr(service.store, "batch", broken)
    code, words = await refused(service.ada.batch(1))
    assert code is CODE.INTERNAL
    assert "hunter2" not in words
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.request_id in words  # type: ignore[attr-defined]


async def test_each_call_is_one_line_without_secrets(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    token = service.ada.metadata[0][1].split()[1]
    await service.ada.submit(job())
    await refused(service.ada.batch(4711))
    async with service.worker() as workerd:
        await workerd.assigned()
    activation, worker = service.activation_token, workerd.identity[1]
    lines = [r for r in caplog.records if r.getMessage() == "rpc"]
    said = {(r.method.split("/")[-1], r.caller, r.code) for r in lines}  # type: ignore[attr-defined]
    assert {("CreateBatch", "user ada", "OK"), ("GetBatch", "user ada", "NOT_FOUND")} <= said
    everything = "\n".join(str(vars(r)) for r in caplog.records)
    assert not [secret for secret in (token, activation, worker) if secret in everything]


# -- batches -----------------------------------------------------------------------------------------


async def test_the_same_request_makes_one_batch_and_another_one_is_refused(service: Running) -> None:
    ada = service.ada
    first = await ada.create(0, "once", attributes={"a": "b"})
    assert await ada.create(0, "once", attributes={"a": "b"}) == first
    code, words = await refused(ada.create(1, "once"))
    assert code is CODE.ALREADY_EXISTS
    assert f"request_id 'once' was used for batch {first} with other content" in words
    await ada.close(first)
    await ada.complete(first)
    await ada.delete(first)
    assert await ada.create(0, "once", attributes={"a": "b"}) == first
    assert await service.user("bob").create(0, "once") != first


async def test_a_batch_with_its_jobs_is_one_request_however_often_it_is_sent(service: Running) -> None:
    ada = service.ada
    jobs = [job(name=f"{i}") for i in range(3)]
    made = await asyncio.gather(*(ada.create(3, "once", jobs=jobs) for _ in range(20)))
    assert len(set(made)) == 1
    batch = await ada.batch(made[0])
    assert (batch.closed, batch.n_jobs, batch.n_ready) == (True, 3, 3)
    await ada.add(made[0], *jobs)
    await ada.close(made[0])
    code, _ = await refused(ada.create(3, "once", jobs=[job(), *jobs[1:]]))
    assert code is CODE.ALREADY_EXISTS
    async with service.worker() as workerd:
        for each in await workerd.assigned(3):
            await workerd.run_to_end(each.attempt_id)
        await ada.complete(made[0])
    assert await ada.create(3, "once", jobs=jobs) == made[0]


async def test_a_batch_is_cancelled_once_so_many_of_its_jobs_have_failed(service: Running) -> None:
    ada = service.ada
    jobs = [*[job()] * 5, job(parents=[1]), job(parents=[4], always_run=True)]
    batch_id = await ada.create(len(jobs), cancel_after_n_failures=2)
    await ada.add(batch_id, *jobs)
    await ada.close(batch_id)
    async with service.worker(cores=4) as workerd:
        first, second, third, running = sorted(await workerd.assigned(4), key=lambda run: run.job_id)
        await workerd.run_to_end(first.attempt_id, exit_code=1)
        fifth = (await workerd.assigned(5))[4]
        assert (await ada.batch(batch_id)).HasField("cancelled_at_ms") is False
        await workerd.run_to_end(second.attempt_id)
        await workerd.run_to_end(third.attempt_id, exit_code=3)
        await workerd.until(lambda: {running.attempt_id, fifth.attempt_id} <= workerd.revoked)
        for revoked in (running, fifth):
            said = ended(revoked.attempt_id)
            said.reason = types.END_REASON_REVOKED
            await workerd.report(said)
        last = (await workerd.assigned(6))[5]
        assert last.job_id == 7  # always_run: whatever became of the batch
        await workerd.run_to_end(last.attempt_id)
        *_, batch = await ada.complete(batch_id)
    assert (batch.cancelled_by, batch.cancel_reason) == ("cancel_after_n_failures=2", "2 jobs failed")
    assert (batch.n_failed, batch.n_succeeded, batch.n_cancelled) == (2, 2, 3)
    assert batch.state == types.BATCH_STATE_FAILURE


async def test_requests_at_the_same_time_make_one_batch(service: Running) -> None:
    made = await asyncio.gather(*(service.ada.create(0, "once") for _ in range(20)))
    assert len(set(made)) == 1


async def test_bunches_come_in_any_order_again_and_at_the_same_time(service: Running) -> None:
    ada = service.ada
    batch_id = await ada.create(300)
    bunches = {first: [job(name=str(first + i)) for i in range(50)] for first in range(1, 300, 50)}
    order = [*bunches, *reversed(bunches)]
    await asyncio.gather(*(ada.add(batch_id, *bunches[first], first=first) for first in order))
    await ada.close(batch_id)
    await ada.close(batch_id)
    page = await ada.call("ListJobs", pb.ListJobsRequest(batch_id=batch_id, page_size=1000))
    assert [j.name for j in page.jobs] == [str(i) for i in range(1, 301)]
    code, words = await refused(ada.add(batch_id, job(name="other")))
    assert code in (CODE.ALREADY_EXISTS, CODE.FAILED_PRECONDITION)


async def test_many_bunches_of_one_call_are_all_there_when_it_is_answered(service: Running) -> None:
    batch_id = await service.ada.create(60)
    stub = service.ada._stub
    bunches = [pb.SubmitJobsRequest(batch_id=batch_id, first_job_id=i, jobs=[job()]) for i in range(1, 61)]
    answer = await stub.SubmitJobs(iter(bunches), metadata=service.ada.metadata)
    assert answer.n_jobs == 60
    await service.ada.close(batch_id)


async def test_a_batch_cancelled_while_open_cannot_be_closed(service: Running) -> None:
    batch_id = await service.ada.create(1)
    await service.ada.cancel(batch_id, "changed my mind")
    await service.ada.cancel(batch_id, "again")
    code, words = await refused(service.ada.close(batch_id))
    assert code is CODE.FAILED_PRECONDITION
    assert words.startswith(f"batch {batch_id} was cancelled by ada before it was closed")
    assert (await refused(service.ada.add(batch_id, job())))[0] is CODE.FAILED_PRECONDITION
    batch = await service.ada.batch(batch_id)
    assert (batch.state, batch.cancel_reason) == (types.BATCH_STATE_CANCELLED, "changed my mind")


async def test_closing_again_after_a_cancel_is_no_error(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    await service.ada.cancel(batch_id)
    await service.ada.close(batch_id)


async def test_deleting_hides_and_may_be_repeated(service: Running) -> None:
    batch_id = await service.ada.submit(job())
    watch = service.ada.stream("WatchBatch", pb.WatchBatchRequest(batch_id=batch_id))
    await read(watch)
    await service.ada.delete(batch_id)
    await service.ada.delete(batch_id)
    assert await refused(service.ada.batch(batch_id)) == (CODE.NOT_FOUND, f"there is no batch {batch_id}")
    while True:
        try:
            await read(watch)
        except grpc.aio.AioRpcError as error:
            assert error.code() is CODE.NOT_FOUND
            break
    assert not (await service.ada.call("ListBatches", pb.ListBatchesRequest())).batches


async def test_pages_of_batches_go_back_in_time_and_say_where_to_follow(service: Running) -> None:
    made = [await service.ada.create(0) for _ in range(5)]
    first = await service.ada.call("ListBatches", pb.ListBatchesRequest(page_size=3))
    assert ([b.batch_id for b in first.batches], first.more) == (made[:1:-1], True)
    rest = pb.ListBatchesRequest(page_size=3, before_batch_id=first.batches[-1].batch_id)
    second = await service.ada.call("ListBatches", rest)
    assert ([b.batch_id for b in second.batches], second.more) == (made[1::-1], False)
    assert second.seq == service.controller.engine.seq


async def test_pages_of_jobs_are_by_id_and_by_state(service: Running) -> None:
    batch_id = await service.ada.submit(*[job()] * 3, job(parents=[1]), job(parents=[1]))
    page = await service.ada.call(
        "ListJobs", pb.ListJobsRequest(batch_id=batch_id, page_size=2, after_job_id=1)
    )
    assert ([j.job_id for j in page.jobs], page.more) == ([2, 3], True)
    pending = pb.ListJobsRequest(batch_id=batch_id, states=[types.JOB_STATE_PENDING])
    assert [j.job_id for j in (await service.ada.call("ListJobs", pending)).jobs] == [4, 5]


async def test_jobs_of_an_open_batch_cannot_be_seen_yet(service: Running) -> None:
    batch_id = await service.ada.create(1)
    await service.ada.add(batch_id, job())
    code, words = await refused(service.ada.job(batch_id, 1))
    assert code is CODE.NOT_FOUND
    assert words == f"there is no job 1 in batch {batch_id}, whose jobs can be seen once it is closed"


async def test_a_billing_project_of_a_shared_service_must_be_known(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    shared = type(config)(
        server=config.server,
        database=config.database,
        store=config.store,
        service=type(config.service)(owner="ada", owner_token_file=config.service.owner_token_file,
                                     activation_token_file=config.service.activation_token_file),
    )  # fmt: skip
    async with running(shared) as service:
        code, words = await refused(service.ada.create(0))
        assert code is CODE.PERMISSION_DENIED
        assert words.startswith("billing project 'test': you are not a member")
        service.store.ensure_project("test")
        assert await refused(service.ada.create(0)) == (code, words)
        service.store.set_member("test", "ada", MemberRole.MEMBER)
        await service.ada.create(0)


async def test_while_the_database_is_away_changes_are_unavailable_and_then_go_on(service: Running) -> None:
    with service.database_away():
        assert (await refused(service.ada.create(0, "once")))[0] is CODE.UNAVAILABLE
        assert (await refused(service.ada.create(0, "once")))[0] is CODE.UNAVAILABLE
    while True:
        try:
            batch_id = await service.ada.create(0, "once")
            break
        except grpc.aio.AioRpcError as error:
            assert error.code() is CODE.UNAVAILABLE
            await asyncio.sleep(0.02)
    listed = await service.ada.call("ListBatches", pb.ListBatchesRequest())
    assert [b.batch_id for b in listed.batches] == [batch_id]


async def test_what_workers_do_well_is_logged_for_debugging_only(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with service.worker() as workerd:
        await service.ada.submit(job())
        (attempt,) = await workerd.assigned()
        await workerd.push((attempt.attempt_id, 0, b"x"))
    levels: dict[str, int] = {}
    async with asyncio.timeout(20):
        while "PushLogs" not in levels:
            await asyncio.sleep(0)
            rpcs = [r for r in caplog.records if r.getMessage() == "rpc"]
            levels = {r.method.split("/")[-1]: r.levelno for r in rpcs}  # type: ignore[attr-defined]
    assert (levels["PushLogs"], levels["CloseBatch"]) == (logging.DEBUG, logging.INFO)


async def test_a_watcher_is_told_what_is_committed_and_each_thing_once(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins to watch while something is decided and not committed, with older news in its mailbox."""
    decided, go_commit = threading.Event(), threading.Event()
    real_commit = service.store.commit

    def commit(*args: Any) -> int:
        decided.set()
        go_commit.wait()
        return real_commit(*args)

    async with service.worker() as workerd:
        batch_id = await service.ada.submit(job(), job(), job())
        first, second, _ = await workerd.assigned(3)
        await workerd.run_to_end(first.attempt_id)
        monkeypatch.setattr(service.store, "commit", commit)
        await workerd.report(ended(second.attempt_id))
        assert await asyncio.to_thread(decided.wait, 10)
        watch = service.ada.stream("WatchBatch", pb.WatchBatchRequest(batch_id=batch_id))
        row = asyncio.ensure_future(read(watch))
        await asyncio.wait([row], timeout=3 * windows.BATCH_EVERY_S)
        assert not row.done()
        go_commit.set()
        assert (await row).n_completed == 2
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(watch), 4 * windows.BATCH_EVERY_S)


async def test_a_watcher_survives_a_reload(service: Running) -> None:
    batch_id = await service.ada.submit(job(), job())
    watching = asyncio.create_task(service.ada.complete(batch_id))
    with service.database_away():
        await refused(service.ada.create(0))
    async with asyncio.timeout(20):
        while True:
            try:
                await service.ada.cancel(batch_id)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
    seen = await watching
    assert (seen[-1].complete, seen[-1].n_cancelled) == (True, 2)
