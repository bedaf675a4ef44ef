"""Billing projects, limits, costs and prices, as users and admins ask for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import grpc
import pytest
from integration.controller.service import Running, User, Workerd, config_of, ended, job, running, started
from longshore_api.v1 import batch_service_pb2 as batches
from longshore_api.v1 import billing_service_pb2 as pb
from longshore_api.v1 import billing_service_pb2_grpc as billing_grpc
from longshore_api.v1 import types_pb2 as types
from longshore_controller.core.model import MemberRole
from longshore_controller.core.money import DAY_MS, SEED_RATES, charges

HOUR_MS = 3_600_000
CODE = grpc.StatusCode


@pytest.fixture(params=["sqlite", "postgres"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    url = None if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))
    config = config_of(tmp_path, url)
    async with running(config) as service:
        yield service


async def ask(service: Running, user: User, method: str, request: Any) -> Any:
    stub: Any = billing_grpc.BillingServiceStub(service.channel)
    return await getattr(stub, method)(request, metadata=user.metadata, timeout=20)


async def refused(service: Running, user: User, method: str, request: Any) -> tuple[CODE, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask(service, user, method, request)
    return error.value.code(), str(error.value.details())


def member(service: Running, name: str, project: str = "test", role: MemberRole = MemberRole.MEMBER) -> User:
    user = service.user(name)
    service.store.set_member(project, name, role)
    return user


async def run_for(service: Running, workerd: Workerd, attempt_id: str, ms: int) -> None:
    """It has run for so long by its worker's clock, and has ended; it was assigned a day ago."""
    engine = service.controller.engine
    assert engine._reactor is not None
    engine._reactor.state.attempts[attempt_id].assigned_at_ms -= DAY_MS
    await workerd.report(ended(attempt_id, main_ms=ms))


async def spend(service: Running, user: User, ms: int, **fields: Any) -> int:
    """A batch of one job that has run so long."""
    async with service.worker() as workerd:
        batch_id = await user.create(1, jobs=[job()], **fields)
        (run,) = await workerd.assigned()
        await run_for(service, workerd, run.attempt_id, ms)
        await user.complete(batch_id)
    return batch_id


async def test_what_was_used_is_told_by_day_project_user_batch_and_resource(service: Running) -> None:
    batch_id = await spend(service, service.ada, HOUR_MS)
    (attempt,) = (await service.ada.job(batch_id, 1)).attempts
    expected = charges(1000, attempt.started_at_ms, HOUR_MS)
    by = [pb.COSTS_BY_DAY, pb.COSTS_BY_PROJECT, pb.COSTS_BY_USER, pb.COSTS_BY_BATCH, pb.COSTS_BY_RESOURCE]
    costs = (await ask(service, service.ada, "GetCosts", pb.GetCostsRequest(by=by))).costs
    told = {(c.day, c.project, c.user, c.batch_id, c.resource): (c.nanousd, c.mcpu_ms) for c in costs}
    assert told == {(c.day, "test", "ada", batch_id, c.resource): (c.nanousd, c.mcpu_ms) for c in expected}
    (total,) = (await ask(service, service.ada, "GetCosts", pb.GetCostsRequest())).costs
    batch = await service.ada.batch(batch_id)
    assert total.nanousd == batch.cost_nanousd == sum(c.nanousd for c in expected)
    assert total.mcpu_ms == 1000 * HOUR_MS  # Once, though four resources were charged for it.
    project = await ask(service, service.ada, "GetProject", pb.GetProjectRequest(name="test"))
    assert project.spent_nanousd == total.nanousd
    days = sorted({c.day for c in expected})
    later = pb.GetCostsRequest(since_day=days[-1] + 1)
    assert not (await ask(service, service.ada, "GetCosts", later)).costs
    assert not (await ask(service, service.ada, "GetCosts", pb.GetCostsRequest(until_day=days[0]))).costs
    assert not (await ask(service, service.ada, "GetCosts", pb.GetCostsRequest(project="none"))).costs


async def test_a_deleted_batch_is_still_billed(service: Running) -> None:
    """The seed: "You will still be billed for a deleted batch." """
    batch_id = await spend(service, service.ada, HOUR_MS)
    before = (await ask(service, service.ada, "GetCosts", pb.GetCostsRequest())).costs
    await service.ada.delete(batch_id)
    assert (await ask(service, service.ada, "GetCosts", pb.GetCostsRequest())).costs == before


async def test_costs_of_a_batch_are_those_of_complete_jobs_and_apart_from_it_what_others_have_run_up(
    service: Running,
) -> None:
    async with service.worker() as workerd:
        batch_id = await service.ada.create(2, jobs=[job(), job(retries=1)])
        first, second = sorted(await workerd.assigned(2), key=lambda run: run.job_id)
        await run_for(service, workerd, first.attempt_id, HOUR_MS)
        engine = service.controller.engine
        assert engine._reactor is not None
        engine._reactor.state.attempts[second.attempt_id].assigned_at_ms -= DAY_MS
        await workerd.report(started(second.attempt_id))
        await workerd.report(ended(second.attempt_id, exit_code=1, main_ms=2 * HOUR_MS))
        await workerd.assigned(3)
        batch = await service.ada.batch(batch_id)
        assert batch.cost_nanousd == sum(c.nanousd for c in charges(1000, 0, HOUR_MS))
        assert abs(batch.unfinished_nanousd - 2 * batch.cost_nanousd) < 10
        await service.ada.cancel(batch_id)
        last = (await workerd.assigned(3))[-1]
        said = ended(last.attempt_id)
        said.reason = types.END_REASON_REVOKED
        await workerd.report(said)
        await service.ada.complete(batch_id)
        batch = await service.ada.batch(batch_id)
        assert batch.unfinished_nanousd == 0
        (total,) = (await ask(service, service.ada, "GetCosts", pb.GetCostsRequest(batch_id=batch_id))).costs
        assert total.nanousd == batch.cost_nanousd


async def test_from_four_fifths_of_its_limit_on_a_project_warns_and_at_the_limit_it_refuses(
    service: Running,
) -> None:
    price = sum(c.nanousd for c in charges(1000, 0, HOUR_MS))
    await service.ada.create(0, "first")
    limit = pb.SetProjectRequest(name="test", limit_nanousd=price * 10 // 9)
    assert (await ask(service, service.ada, "SetProject", limit)).limit_nanousd == price * 10 // 9
    request = batches.CreateBatchRequest(request_id="quiet", billing_project="test")
    assert (await service.ada.call("CreateBatch", request)).warning == ""
    await spend(service, service.ada, HOUR_MS)
    request = batches.CreateBatchRequest(request_id="warned", billing_project="test")
    warned = await service.ada.call("CreateBatch", request)
    assert "test has spent 9" in warned.warning and "% of its limit: $0.02 of $0.02" in warned.warning
    open_batch = await service.ada.create(1, "open before")
    await spend(service, service.ada, HOUR_MS)
    with pytest.raises(grpc.aio.AioRpcError) as over:
        await service.ada.create(0, "over")
    assert over.value.code() is CODE.RESOURCE_EXHAUSTED
    assert "has spent $0.04 of its limit of $0.02: ask its owner to raise it" in str(over.value.details())
    assert (await service.ada.call("CreateBatch", request)).batch_id == warned.batch_id  # Known before.
    # What was created before is held, and says so; a higher limit lets it go.
    await service.ada.add(open_batch, job())
    await service.ada.close(open_batch)
    async with service.worker() as workerd:
        why = await service.ada.call("Explain", batches.ExplainRequest(batch_id=open_batch, job_id=1))
        assert why.reasons[0].code == "BUDGET"
        assert workerd.runs == {}
        free = pb.SetProjectRequest(name="test", no_limit=True)
        assert not (await ask(service, service.ada, "SetProject", free)).HasField("limit_nanousd")
        (run,) = await workerd.assigned()
        await workerd.run_to_end(run.attempt_id)
        await service.ada.complete(open_batch)


async def test_what_runs_goes_on_at_the_limit_unless_it_is_hard(service: Running) -> None:
    await service.ada.create(0)
    async with service.worker() as workerd:
        batch_id = await service.ada.create(2, jobs=[job(), job()])
        first, second = await workerd.assigned(2)
        limit = pb.SetProjectRequest(name="test", limit_nanousd=1)
        await ask(service, service.ada, "SetProject", limit)
        await run_for(service, workerd, first.attempt_id, HOUR_MS)
        assert not (await service.ada.batch(batch_id)).HasField("cancelled_at_ms")
        assert second.attempt_id not in workerd.revoked
        limit.hard = True
        project = await ask(service, service.ada, "SetProject", limit)
        assert project.hard
        await workerd.until(lambda: second.attempt_id in workerd.revoked)
        batch = await service.ada.batch(batch_id)
        assert batch.cancelled_by == "budget"
        assert batch.cancel_reason == "billing project test has reached its limit of $0.000000001"
        said = ended(second.attempt_id)
        said.reason = types.END_REASON_REVOKED
        await workerd.report(said)
        await service.ada.complete(batch_id)


async def test_a_closed_project_takes_nothing_and_starts_nothing(service: Running) -> None:
    batch_id = await service.ada.create(1, jobs=[job()])
    closed = pb.SetProjectRequest(name="test", closed=True)
    assert (await ask(service, service.ada, "SetProject", closed)).closed
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.ada.create(0)
    assert error.value.code() is CODE.FAILED_PRECONDITION
    assert "'test' is closed" in str(error.value.details())
    async with service.worker() as workerd:
        why = await service.ada.call("Explain", batches.ExplainRequest(batch_id=batch_id, job_id=1))
        assert why.reasons[0].text.startswith("billing project test is closed")
        await ask(service, service.ada, "SetProject", pb.SetProjectRequest(name="test", closed=False))
        await workerd.assigned()


async def test_limits_and_what_was_spent_outlive_a_restart(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    async with running(config) as service:
        await spend(service, service.ada, HOUR_MS)
        limited = pb.SetProjectRequest(name="test", limit_nanousd=1, hard=True)
        before = await ask(service, service.ada, "SetProject", limited)
    async with running(config) as service:
        assert await ask(service, service.ada, "GetProject", pb.GetProjectRequest(name="test")) == before
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.ada.create(0, "after")
        assert error.value.code() is CODE.RESOURCE_EXHAUSTED


async def test_members_see_costs_owners_set_limits_and_members_and_strangers_nothing(
    service: Running,
) -> None:
    await spend(service, service.ada, HOUR_MS)
    bea, olga, eve = (
        member(service, "bea"),
        member(service, "olga", role=MemberRole.OWNER),
        service.user("eve"),
    )
    get = pb.GetProjectRequest(name="test")
    assert {m.user: m.role for m in (await ask(service, bea, "GetProject", get)).members} == {
        "ada": pb.MEMBER_ROLE_OWNER,
        "bea": pb.MEMBER_ROLE_MEMBER,
        "olga": pb.MEMBER_ROLE_OWNER,
    }
    limit = pb.SetProjectRequest(name="test", limit_nanousd=10**12)
    assert (await refused(service, bea, "SetProject", limit))[0] is CODE.PERMISSION_DENIED
    assert (await ask(service, olga, "SetProject", limit)).limit_nanousd == 10**12
    stranger = await refused(service, eve, "GetProject", get)
    assert stranger == (CODE.NOT_FOUND, "there is no billing project 'test'")
    nowhere = await refused(service, eve, "GetProject", pb.GetProjectRequest(name="none"))
    assert nowhere == (CODE.NOT_FOUND, "there is no billing project 'none'")
    assert not (await ask(service, eve, "ListProjects", pb.ListProjectsRequest())).projects
    assert not (await ask(service, eve, "GetCosts", pb.GetCostsRequest())).costs
    (seen,) = (await ask(service, bea, "GetCosts", pb.GetCostsRequest())).costs
    assert seen.nanousd > 0
    assert [p.name for p in (await ask(service, bea, "ListProjects", pb.ListProjectsRequest())).projects] == [
        "test"
    ]
    for user in (bea, olga, eve):
        create = pb.CreateProjectRequest(name="other")
        assert (await refused(service, user, "CreateProject", create))[0] is CODE.PERMISSION_DENIED
        rates = pb.SetRatesRequest(from_day=10**5, prices={"compute": "1"})
        assert (await refused(service, user, "SetRates", rates))[0] is CODE.PERMISSION_DENIED


async def test_owners_change_members_but_the_last_owner_stays(service: Running) -> None:
    await service.ada.create(0)
    olga = member(service, "olga", role=MemberRole.OWNER)
    service.user("bea")
    add = pb.SetMemberRequest(name="test", user="bea", role=pb.MEMBER_ROLE_MEMBER)
    assert "bea" in {m.user for m in (await ask(service, olga, "SetMember", add)).members}
    nobody = pb.SetMemberRequest(name="test", user="nobody", role=pb.MEMBER_ROLE_MEMBER)
    assert await refused(service, olga, "SetMember", nobody) == (
        CODE.NOT_FOUND,
        "user: there is no user 'nobody'",
    )
    gone = pb.RemoveMemberRequest(name="test", user="bea")
    for _ in range(2):
        assert "bea" not in {m.user for m in (await ask(service, olga, "RemoveMember", gone)).members}
    await ask(service, olga, "RemoveMember", pb.RemoveMemberRequest(name="test", user="ada"))
    for request, method in (
        (pb.RemoveMemberRequest(name="test", user="olga"), "RemoveMember"),
        (pb.SetMemberRequest(name="test", user="olga", role=pb.MEMBER_ROLE_MEMBER), "SetMember"),
    ):
        code, words = await refused(service, olga, method, request)
        assert code is CODE.FAILED_PRECONDITION
        assert "olga is the last owner of billing project 'test'" in words
    left = await ask(service, service.ada, "RemoveMember", pb.RemoveMemberRequest(name="test", user="olga"))
    assert not left.members  # An admin may.


async def test_prices_change_from_a_day_to_come_and_never_for_one_that_has_begun(service: Running) -> None:
    today = service.controller.engine.now_ms() // DAY_MS
    (seed,) = (await ask(service, service.ada, "ListRates", pb.ListRatesRequest())).cards
    assert {name: Fraction(usd) for name, usd in seed.prices.items()} == dict(SEED_RATES[0].prices)
    for day in (0, today):
        request = pb.SetRatesRequest(from_day=day, prices={"compute": "0.02"})
        code, words = await refused(service, service.ada, "SetRates", request)
        assert code is CODE.FAILED_PRECONDITION
        assert words.startswith(
            "from_day: prices of a day that has begun stay; the first that can be set are"
        )
    for prices in ({"compute": "0.02"}, {"compute": "1/40", "gpu": "3"}):
        request = pb.SetRatesRequest(from_day=today + 1, prices=prices)
        cards = (await ask(service, service.ada, "SetRates", request)).cards
        assert [card.from_day for card in cards] == [0, today + 1]
    assert dict(cards[1].prices) == {"compute": "1/40", "gpu": "3"}


@pytest.mark.parametrize(
    ("method", "request_", "words"),
    [
        ("CreateProject", pb.CreateProjectRequest(name="Upper"), "name: 1 to 63 of a-z"),
        ("CreateProject", pb.CreateProjectRequest(name="-a"), "name: 1 to 63 of a-z"),
        ("SetProject", pb.SetProjectRequest(name="test", limit_nanousd=0), "limit_nanousd: 1 to"),
        ("SetProject", pb.SetProjectRequest(name="test", limit_nanousd=1, no_limit=True), "no_limit: give"),
        ("SetMember", pb.SetMemberRequest(name="test", user="ada"), "role: member or owner"),
        (
            "GetCosts",
            pb.GetCostsRequest(by=[pb.COSTS_BY_UNSPECIFIED]),
            "by: day, project, user, batch or resource, got 0",
        ),
        ("GetCosts", pb.GetCostsRequest(since_day=-1), "since_day: UTC days since 1970"),
        ("SetRates", pb.SetRatesRequest(from_day=10**5), "prices: 1 to 100 resources, got 0"),
        ("SetRates", pb.SetRatesRequest(from_day=10**5, prices={"a": "-1"}), "prices['a']: dollars per core"),
        (
            "SetRates",
            pb.SetRatesRequest(from_day=10**5, prices={"a": "1/0"}),
            "prices['a']: dollars per core",
        ),
        ("SetRates", pb.SetRatesRequest(from_day=10**5, prices={"A b": "1"}), "prices: resources are"),
    ],
)
async def test_bad_requests_name_the_field(tmp_path: Path, method: str, request_: Any, words: str) -> None:
    async with running(config_of(tmp_path)) as service:
        await service.ada.create(0)
        code, said = await refused(service, service.ada, method, request_)
    assert code is CODE.INVALID_ARGUMENT
    assert said.startswith(words)


async def test_costs_at_the_same_time_add_up(service: Running) -> None:
    """Many ends in one commit, of several batches, and in several commits."""
    async with service.worker(cores=16) as workerd:
        ids = await asyncio.gather(*(service.ada.create(4, jobs=[job()] * 4) for _ in range(4)))
        runs = await workerd.assigned(16)
        for run in runs:
            assert service.controller.engine._reactor is not None
            service.controller.engine._reactor.state.attempts[run.attempt_id].assigned_at_ms -= DAY_MS
        await workerd.report(*(ended(run.attempt_id, main_ms=1_000 + i) for i, run in enumerate(runs[:9])))
        await workerd.report(*(ended(run.attempt_id, main_ms=7_777 + i) for i, run in enumerate(runs[9:])))
        for batch_id in ids:
            await service.ada.complete(batch_id)
    request = pb.GetCostsRequest(by=[pb.COSTS_BY_BATCH])
    costs = {c.batch_id: c.nanousd for c in (await ask(service, service.ada, "GetCosts", request)).costs}
    assert costs == {batch_id: (await service.ada.batch(batch_id)).cost_nanousd for batch_id in ids}
