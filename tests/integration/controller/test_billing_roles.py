"""Every call of BillingService by every role (RELIABILITY 5.2), and who may leave a billing project."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from longshore_api.v1 import auth_service_pb2 as auth_pb
from longshore_api.v1 import auth_service_pb2_grpc as auth_grpc
from longshore_api.v1 import batch_service_pb2 as batch_pb
from longshore_api.v1 import batch_service_pb2_grpc as batch_grpc
from longshore_api.v1 import billing_service_pb2 as pb
from longshore_api.v1 import billing_service_pb2_grpc as billing_grpc

from .service import PATIENCE_S, STARTED, Running, User, ended, job, started

CODE = grpc.StatusCode
OWNER, MEMBER = pb.MEMBER_ROLE_OWNER, pb.MEMBER_ROLE_MEMBER
ASKED = {
    "CreateProject": pb.CreateProjectRequest(name="reefs"),
    "SetProject": pb.SetProjectRequest(name="tides", limit_nanousd=10**9),
    "GetProject": pb.GetProjectRequest(name="tides"),
    "ListProjects": pb.ListProjectsRequest(),
    "SetMember": pb.SetMemberRequest(name="tides", user="mia", role=MEMBER),
    "RemoveMember": pb.RemoveMemberRequest(name="tides", user="nobody"),
    "GetCosts": pb.GetCostsRequest(project="tides"),
    "ListRates": pb.ListRatesRequest(),
    "SetRates": pb.SetRatesRequest(from_day=100_000, prices={"compute": "1/50"}),
}
NONE, OK, DENIED = CODE.NOT_FOUND, CODE.OK, CODE.PERMISSION_DENIED
ROLES = {  # stranger, member, owner, admin: RELIABILITY 5.2.
    "CreateProject": (DENIED, DENIED, DENIED, OK),
    "SetProject": (NONE, DENIED, OK, OK),
    "GetProject": (NONE, OK, OK, OK),
    "ListProjects": (OK, OK, OK, OK),
    "SetMember": (NONE, DENIED, OK, OK),
    "RemoveMember": (NONE, DENIED, OK, OK),
    "GetCosts": (OK, OK, OK, OK),
    "ListRates": (OK, OK, OK, OK),
    "SetRates": (DENIED, DENIED, DENIED, OK),
}


async def call(service: Running, method: str, request: Any, who: User | None = None) -> Any:
    stub: Any = billing_grpc.BillingServiceStub(service.channel)
    metadata = (who or service.ada).metadata
    return await getattr(stub, method)(request, metadata=metadata, timeout=PATIENCE_S)


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return CODE.OK, ""


async def run_first(service: Running) -> int:
    """What the first batch cost, whose job ran for a moment."""
    async with service.worker(cores=1) as worker:
        (run,) = await worker.assigned()
        await worker.report(started(run.attempt_id))
        await worker.until(lambda: (run.attempt_id, STARTED) in worker.acks)
        await worker.report(ended(run.attempt_id, main_ms=1))
        await service.ada.complete(1)
        return int((await service.ada.batch(1)).cost_nanousd)


async def create(service: Running, project: str, request_id: str) -> Any:
    """A batch of one job, by ada."""
    stub: Any = batch_grpc.BatchServiceStub(service.channel)
    request = batch_pb.CreateBatchRequest(
        request_id=request_id, billing_project=project, n_jobs=1, jobs=[job()]
    )
    return await stub.CreateBatch(request, metadata=service.ada.metadata, timeout=PATIENCE_S)


async def project_with(service: Running, **members: Any) -> dict[str, User]:
    """Billing project tides."""
    await call(service, "CreateProject", pb.CreateProjectRequest(name="tides"))
    users = {name: service.user(name) for name in members if name != "ada"}
    for name, role in members.items():
        await call(service, "SetMember", pb.SetMemberRequest(name="tides", user=name, role=role))
    return users


async def test_every_role_may_what_its_role_may(service: Running) -> None:
    users = await project_with(service, mia=MEMBER, omar=OWNER)
    who = (service.user("sue"), users["mia"], users["omar"], service.ada)
    for method, request in ASKED.items():
        found = tuple([(await code_of(call(service, method, request, user)))[0] for user in who])
        assert found == ROLES[method], method
        nobody = User(service.channel, "")
        assert (await code_of(call(service, method, request, nobody)))[0] is CODE.UNAUTHENTICATED
    for method in ("SetProject", "GetProject", "SetMember", "RemoveMember"):
        other: Any = type(ASKED[method])()
        other.CopyFrom(ASKED[method])
        other.name = "none-such"
        _, hidden = await code_of(call(service, method, ASKED[method], who[0]))
        assert (await code_of(call(service, method, other, who[0])))[1] == hidden.replace("tides", other.name)


async def test_a_project_without_its_last_owner_is_for_admins_to_make(service: Running) -> None:
    users = await project_with(service, omar=OWNER)
    omar = users["omar"]
    leave = pb.RemoveMemberRequest(name="tides", user="omar")
    for method, request in (
        ("RemoveMember", leave),
        ("SetMember", pb.SetMemberRequest(name="tides", user="omar", role=MEMBER)),
    ):
        code, words = await code_of(call(service, method, request, omar))
        assert code is CODE.FAILED_PRECONDITION and "last owner" in words
    assert [m.user for m in (await call(service, "RemoveMember", leave)).members] == []
    code, words = await code_of(
        call(service, "SetMember", pb.SetMemberRequest(name="tides", user="zoe", role=OWNER))
    )
    assert (code, words) == (CODE.NOT_FOUND, "user: there is no user 'zoe'")


async def test_who_has_nearly_spent_a_limit_is_told_so_wherever_the_service_notes_something(
    service: Running,
) -> None:
    auth: Any = auth_grpc.AuthServiceStub(service.channel)
    users = await project_with(service, ada=OWNER, mia=MEMBER)
    await create(service, "tides", "first")
    spent = await run_first(service)
    await call(service, "SetProject", pb.SetProjectRequest(name="tides", limit_nanousd=spent + 1))
    session = await auth.GetSession(auth_pb.GetSessionRequest(), metadata=users["mia"].metadata)
    assert any("billing project tides has spent" in notice for notice in session.notices)


async def test_owners_who_leave_at_once_leave_one(service: Running) -> None:
    users = await project_with(service, **{f"o{i}": OWNER for i in range(4)})
    leaving = [
        code_of(call(service, "RemoveMember", pb.RemoveMemberRequest(name="tides", user=name), user))
        for name, user in users.items()
    ]
    codes = [code for code, _ in await asyncio.gather(*leaving)]
    assert codes.count(CODE.FAILED_PRECONDITION) == 1
    project = await call(service, "GetProject", pb.GetProjectRequest(name="tides"))
    assert len(project.members) == 1
