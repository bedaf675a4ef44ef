"""BillingService: who pays, how much, and for what.

Limits and prices are the engine's, members the directory's; costs are read from the ledger."""

from __future__ import annotations

from typing import Any, NoReturn

from longshore_api.v1 import billing_service_pb2 as pb
from longshore_api.v1 import billing_service_pb2_grpc

from longshore_controller.core.model import MemberRole, Refusal, RefusalKind
from longshore_controller.core.rows import ProjectRow
from longshore_controller.core.state import Project
from longshore_controller.engine import Engine
from longshore_controller.interceptors import caller, viewer
from longshore_controller.store import Store
from longshore_controller.store.ledger import MOST_COSTS
from longshore_controller.visible import read
from longshore_controller.wire import money, submission

Context = Any


class BillingService(billing_service_pb2_grpc.BillingServiceServicer):
    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine

    # -- billing projects ----------------------------------------------------------------------------

    async def ListProjects(
        self, request: pb.ListProjectsRequest, context: Context
    ) -> pb.ListProjectsResponse:
        submission.check_fields(request)
        who = viewer()
        rows = await read(self._store.projects, None if who.admin else who.projects)
        projects = [money.project_message(row, await self._running(row.name)) for row in rows]
        return pb.ListProjectsResponse(projects=projects)

    async def GetProject(self, request: pb.GetProjectRequest, context: Context) -> pb.Project:
        submission.check_fields(request)
        await self._visible(request.name)
        return await self._project(request.name)

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Context) -> pb.Project:
        name = money.new_project(request)
        await read(self._store.create_project, name)
        return await self._project(name)

    async def SetProject(self, request: pb.SetProjectRequest, context: Context) -> pb.Project:
        change, by = money.project_change(request), caller()
        await self._manageable(request.name)

        def decide(reactor: Any, now: int) -> None:
            known = reactor.state.projects.get(request.name, Project(request.name))
            limit = known.limit_nanousd if change.limit_nanousd is None else change.limit_nanousd
            reactor.on_set_project(
                request.name,
                None if change.no_limit else limit,
                by,
                now,
                hard=known.hard if change.hard is None else change.hard,
                closed=known.closed if change.closed is None else change.closed,
            )

        await self._engine.submit(decide)
        return await self._project(request.name)

    async def SetMember(self, request: pb.SetMemberRequest, context: Context) -> pb.Project:
        role = money.member_role(request)
        await self._manageable(request.name)
        if await read(self._store.user, submission.text("user", request.user)) is None:
            raise Refusal(RefusalKind.NOT_FOUND, f"user: there is no user {request.user[:100]!r}")
        return await self._change_member(request.name, request.user, role)

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: Context) -> pb.Project:
        submission.check_fields(request)
        await self._manageable(request.name)
        return await self._change_member(request.name, submission.text("user", request.user), None)

    # -- costs and prices ----------------------------------------------------------------------------

    async def GetCosts(self, request: pb.GetCostsRequest, context: Context) -> pb.GetCostsResponse:
        rows = await read(self._store.costs, viewer(), money.costs_wanted(request))
        if rows is None:
            raise Refusal(
                RefusalKind.RESOURCE_EXHAUSTED,
                f"by: more than {MOST_COSTS:,} rows; ask for fewer days, one project, or tell less apart",
            )
        return pb.GetCostsResponse(costs=map(money.cost_message, rows))

    async def ListRates(self, request: pb.ListRatesRequest, context: Context) -> pb.ListRatesResponse:
        submission.check_fields(request)
        return await self._rates()

    async def SetRates(self, request: pb.SetRatesRequest, context: Context) -> pb.ListRatesResponse:
        (from_day, prices), by = money.rate_card(request), caller()
        await self._engine.submit(lambda r, now: r.on_set_rates(from_day, prices, by, now))
        return await self._rates()

    # -- pieces --------------------------------------------------------------------------------------

    async def _rates(self) -> pb.ListRatesResponse:
        return pb.ListRatesResponse(cards=money.rate_messages(await read(self._store.rates)))

    async def _project(self, name: str) -> pb.Project:
        row = await read(self._store.project, name) or ProjectRow(name, None, False, False, 0)
        members = await read(self._store.members, name)
        return money.project_message(row, await self._running(name), members)

    async def _running(self, name: str) -> int:
        project, _ = await self._engine.look(lambda r: r.state.projects.get(name))
        return project.accrued_nanousd if project else 0

    async def _visible(self, name: str) -> None:
        who = viewer()
        submission.text("name", name)
        if name not in who.projects and not (who.admin and await read(self._store.project_exists, name)):
            _no_project(name)

    async def _manageable(self, name: str) -> None:
        await self._visible(name)
        who = viewer()
        if name not in who.owned and not who.admin:
            raise Refusal(
                RefusalKind.PERMISSION_DENIED,
                f"billing project {name!r}: this is for its owners and admins; ask one of them",
            )

    async def _change_member(self, name: str, user: str, role: MemberRole | None) -> pb.Project:
        alone = viewer().admin
        if not await read(self._store.change_member, name, user, role, may_leave_none=alone):
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION,
                f"{user} is the last owner of billing project {name!r}: make somebody else an owner first",
            )
        return await self._project(name)


def _no_project(name: str) -> NoReturn:
    raise Refusal(RefusalKind.NOT_FOUND, f"there is no billing project {name[:100]!r}")
