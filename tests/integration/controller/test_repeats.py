"""Whatever changes something may be repeated: after its answer, after a lost answer, twice at once.

The answers are the same, and the effect is that of one call. A new method that changes something must be
entered here, or the first test fails.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from integration.controller.service import Running, config_of, job, running
from longshore_api.v1 import admin_service_pb2 as admin
from longshore_api.v1 import auth_service_pb2 as auth
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import billing_service_pb2 as billing
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as worker_pb
from longshore_controller.__main__ import SERVICES
from longshore_controller.core.model import MemberRole

READS = re.compile("/(Begin|Get|List|Watch|Read|Search|Check|Explain|Complete|Estimate|Failure)")
CONVERSATIONS = {"/longshore_api.v1.WorkerService/Connect", "/longshore_api.v1.AuthService/FinishLogin"}
"""Repeated messages of these are the business of `test_sessions.py` and of the simulation; a login needs a
provider, and is repeated in `test_login.py`."""
GIVEN_UP_AFTER_S = (0.0, 0.001, 0.003, 0.01)
"""Before the answer is there, and about when it is."""
_BATCHES, _ADMIN = "/longshore_api.v1.BatchService/", "/longshore_api.v1.AdminService/"
_AUTH = "/longshore_api.v1.AuthService/"
_BILLING = "/longshore_api.v1.BillingService/"
METHODS = {f"/{service.full_name}/{m.name}": m for service in SERVICES for m in service.methods}


class Asked(NamedTuple):
    request: Message
    token: str
    """Of whoever asks."""


Prepare = Callable[[Running], Awaitable[Asked]]
CASES: dict[str, Prepare] = {}
OTHER: dict[str, Prepare] = {}
"""The same request id with other content, after the case of the same name."""


def case(method: str, among: dict[str, Prepare] = CASES) -> Callable[[Prepare], Prepare]:
    def enter(prepare: Prepare) -> Prepare:
        among[method] = prepare
        return prepare

    return enter


# -- what is asked -----------------------------------------------------------------------------------------


def by_ada(service: Running, request: Message) -> Asked:
    return Asked(request, Path(service.config.service.owner_token_file).read_text().strip())


def a_batch(**fields: Any) -> pb.CreateBatchRequest:
    return pb.CreateBatchRequest(**{"request_id": "once", "billing_project": "test", "n_jobs": 2, **fields})


@case(_BATCHES + "CreateBatch")
async def _(service: Running) -> Asked:
    return by_ada(service, a_batch(jobs=[job(), job(parents=[1])], attributes={"name": "tides"}))


@case(_BATCHES + "CreateBatch", OTHER)
async def _(service: Running) -> Asked:
    return by_ada(service, a_batch(jobs=[job(), job()], attributes={"name": "tides"}))


@case(_BATCHES + "SubmitJobs")
async def _(service: Running) -> Asked:
    batch_id = await service.ada.create(2, "open")
    return by_ada(service, pb.SubmitJobsRequest(batch_id=batch_id, first_job_id=1, jobs=[job(), job()]))


@case(_BATCHES + "SubmitJobs", OTHER)
async def _(service: Running) -> Asked:
    jobs = [job(), job("false")]
    return by_ada(service, pb.SubmitJobsRequest(batch_id=1, first_job_id=1, jobs=jobs))


@case(_BATCHES + "CloseBatch")
async def _(service: Running) -> Asked:
    batch_id = await service.ada.create(1, "open")
    await service.ada.add(batch_id, job())
    return by_ada(service, pb.CloseBatchRequest(batch_id=batch_id))


@case(_BATCHES + "CancelBatch")
async def _(service: Running) -> Asked:
    batch_id = await service.ada.submit(job(), job(parents=[1]), job(always_run=True))
    return by_ada(service, pb.CancelBatchRequest(batch_id=batch_id, reason="no longer wanted"))


@case(_BATCHES + "DeleteBatch")
async def _(service: Running) -> Asked:
    return by_ada(service, pb.DeleteBatchRequest(batch_id=await service.ada.submit(job())))


@case(_BATCHES + "UndeleteBatch")
async def _(service: Running) -> Asked:
    batch_id = await service.ada.submit(job())
    await service.ada.delete(batch_id)
    return by_ada(service, pb.UndeleteBatchRequest(batch_id=batch_id))


@case(_BATCHES + "UpdateBatch")
async def _(service: Running) -> Asked:
    """Of a batch that is complete."""
    batch_id = await service.ada.create(0, "empty")
    await service.ada.close(batch_id)
    await service.ada.complete(batch_id)
    jobs = [job(), job(parents=[1])]
    request = pb.UpdateBatchRequest(batch_id=batch_id, request_id="more", first_job_id=1, jobs=jobs)
    return by_ada(service, request)


@case(_BATCHES + "UpdateBatch", OTHER)
async def _(service: Running) -> Asked:
    request = pb.UpdateBatchRequest(batch_id=1, request_id="more", first_job_id=1, jobs=[job()])
    return by_ada(service, request)


@case(_BATCHES + "EndAttempt")
async def _(service: Running) -> Asked:
    batch_id = await service.ada.submit(job())
    async with service.worker(cores=1) as workerd:
        (run,) = await workerd.assigned()
    request = pb.EndAttemptRequest(batch_id=batch_id, job_id=1, attempt_id=run.attempt_id, reason="hangs")
    return by_ada(service, request)


@case("/longshore_api.v1.WorkerService/PushLogs")
async def _(service: Running) -> Asked:
    identity = await service.activate()
    async with service.worker(identity, cores=1) as workerd:
        await service.ada.submit(job())
        (run,) = await workerd.assigned()
    request = worker_pb.PushLogsRequest(
        attempt_id=run.attempt_id, container=types.CONTAINER_MAIN, offset=0, chunk=b"hello"
    )
    return Asked(request, identity[1])


@case(_ADMIN + "Freeze")
async def _(service: Running) -> Asked:
    return by_ada(service, admin.FreezeRequest(reason="new disks"))


@case(_ADMIN + "Thaw")
async def _(service: Running) -> Asked:
    await send(service, _ADMIN + "Freeze", by_ada(service, admin.FreezeRequest(reason="new disks")))
    return by_ada(service, admin.ThawRequest())


async def a_worker(service: Running) -> str:
    identity = await service.activate()
    async with service.worker(identity):
        return identity[0]


@case(_ADMIN + "DrainWorker")
async def _(service: Running) -> Asked:
    return by_ada(service, admin.DrainWorkerRequest(worker_id=await a_worker(service), reason="new disks"))


@case(_ADMIN + "UndrainWorker")
async def _(service: Running) -> Asked:
    worker_id = await a_worker(service)
    drain = admin.DrainWorkerRequest(worker_id=worker_id, reason="new disks")
    await send(service, _ADMIN + "DrainWorker", by_ada(service, drain))
    return by_ada(service, admin.UndrainWorkerRequest(worker_id=worker_id))


@case(_ADMIN + "InviteUser")
async def _(service: Running) -> Asked:
    return by_ada(service, admin.InviteUserRequest(name="lin", email="lin@example.org"))


@case(_ADMIN + "UpdateUser")
async def _(service: Running) -> Asked:
    service.user("eve")
    return by_ada(service, admin.UpdateUserRequest(name="eve", suspended=True, admin=True))


@case(_AUTH + "AddToken")
async def _(service: Running) -> Asked:
    return by_ada(
        service,
        auth.AddTokenRequest(sha256=bytes(32), name="ci", scope=auth.TOKEN_SCOPE_READ, lifetime_ms=1_000),
    )


@case(_AUTH + "AddToken", OTHER)
async def _(service: Running) -> Asked:
    return by_ada(
        service,
        auth.AddTokenRequest(sha256=bytes(32), name="ci", scope=auth.TOKEN_SCOPE_SUBMIT, lifetime_ms=1_000),
    )


@case(_AUTH + "RevokeTokens")
async def _(service: Running) -> Asked:
    sha256 = bytes(32)
    service.store.add_token("ada", sha256, name="ci")
    return by_ada(service, auth.RevokeTokensRequest(token_id=sha256[:6].hex()))


@case(_BILLING + "CreateProject")
async def _(service: Running) -> Asked:
    return by_ada(service, billing.CreateProjectRequest(name="tides"))


@case(_BILLING + "SetProject")
async def _(service: Running) -> Asked:
    await service.ada.create(0)
    return by_ada(service, billing.SetProjectRequest(name="test", limit_nanousd=10**9, hard=True))


@case(_BILLING + "SetMember")
async def _(service: Running) -> Asked:
    await service.ada.create(0)
    service.user("bea")
    role = billing.MEMBER_ROLE_MEMBER
    return by_ada(service, billing.SetMemberRequest(name="test", user="bea", role=role))


@case(_BILLING + "RemoveMember")
async def _(service: Running) -> Asked:
    await service.ada.create(0)
    service.user("bea")
    service.store.set_member("test", "bea", MemberRole.OWNER)
    return by_ada(service, billing.RemoveMemberRequest(name="test", user="bea"))


@case(_BILLING + "SetRates")
async def _(service: Running) -> Asked:
    return by_ada(service, billing.SetRatesRequest(from_day=100_000, prices={"compute": "0.02"}))


USED_UP = {"/longshore_api.v1.WorkerService/Activate": "its token is good for one worker"}
"""What a second call is refused, and why."""


# -- that it is asked again --------------------------------------------------------------------------------


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(config_of(tmp_path)) as service:
        yield service


def begin(service: Running, method: str, asked: Asked) -> Any:
    """The call, which can be awaited or given up."""
    descriptor, channel = METHODS[method], service.channel
    answer = GetMessageClass(descriptor.output_type)
    streams = descriptor.client_streaming
    kind: Any = channel.stream_unary if streams else channel.unary_unary
    call = kind(method, type(asked.request).SerializeToString, answer.FromString)
    metadata = (("authorization", f"Bearer {asked.token}"),)
    return call(iter([asked.request]) if streams else asked.request, metadata=metadata, timeout=20)


async def send(service: Running, method: str, asked: Asked) -> Message:
    answer: Message = await begin(service, method, asked)
    return answer


NOT_COMPARED = "leader|event_log|audit|denial|sqlite|migr"
"""The log of events, and what is kept of who asked, and when."""


def rows(service: Running) -> dict[str, list[str]]:
    """All that is stored."""
    with service.store._db.reading() as db:
        names = service.store._db.rows(db, "SELECT name FROM sqlite_master WHERE type = 'table'")
        kept = [name for (name,) in names if not re.search(NOT_COMPARED, name)]
        return {name: sorted(map(repr, service.store._db.rows(db, f"SELECT * FROM {name}"))) for name in kept}


async def settled(service: Running) -> dict[str, list[str]]:
    """What is stored once nothing follows any more from what was asked."""
    before: dict[str, list[str]] = {}
    now = rows(service)
    while before != now:
        await service.controller.engine.submit(lambda r, now: None)
        before, now = now, rows(service)
    return now


async def sizes(service: Running) -> dict[str, int]:
    return {name: len(found) for name, found in (await settled(service)).items()}


def test_every_method_that_changes_something_is_repeated_here() -> None:
    changing = {name for name in METHODS if not READS.search(name)} - CONVERSATIONS
    assert changing == CASES.keys() | USED_UP.keys()


@pytest.mark.parametrize("method", CASES)
async def test_a_call_that_is_repeated_is_answered_the_same_and_changes_nothing(
    service: Running, method: str
) -> None:
    asked = await CASES[method](service)
    before = await settled(service)
    first = await send(service, method, asked)
    after = await settled(service)
    assert after != before or "PushLogs" in method
    assert await send(service, method, asked) == first
    assert await settled(service) == after


@pytest.mark.parametrize("method", CASES)
async def test_calls_at_the_same_time_are_one(service: Running, method: str, tmp_path: Path) -> None:
    asked = await CASES[method](service)
    answers = await asyncio.gather(*(send(service, method, asked) for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    (tmp_path / "other").mkdir()
    async with running(config_of(tmp_path / "other")) as other:
        await send(other, method, await CASES[method](other))
        assert await sizes(service) == await sizes(other)


@pytest.mark.parametrize("method", CASES)
async def test_a_call_whose_answer_is_lost_is_repeated_with_one_effect(
    service: Running, method: str, tmp_path: Path
) -> None:
    asked = await CASES[method](service)
    for delay in GIVEN_UP_AFTER_S:
        call = begin(service, method, asked)
        await asyncio.sleep(delay)
        call.cancel()
    answer = await send(service, method, asked)
    (tmp_path / "other").mkdir()
    async with running(config_of(tmp_path / "other")) as other:
        expected = await send(other, method, await CASES[method](other))
        assert await sizes(service) == await sizes(other)
    assert type(answer) is type(expected)
    assert await send(service, method, asked) == answer


@pytest.mark.parametrize("method", OTHER)
async def test_the_same_id_with_other_content_is_refused(service: Running, method: str) -> None:
    await send(service, method, await CASES[method](service))
    after = await settled(service)
    with pytest.raises(aio.AioRpcError) as refused:
        await send(service, method, await OTHER[method](service))
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert await settled(service) == after


async def test_an_activation_token_is_used_up(service: Running) -> None:
    token = service.activation_token
    await service.activate()
    with pytest.raises(aio.AioRpcError) as refused:
        request = worker_pb.ActivateRequest(activation_token=token)
        await send(service, next(iter(USED_UP)), Asked(request, ""))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
