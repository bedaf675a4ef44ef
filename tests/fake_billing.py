"""BillingService without a controller: projects, members and prices in memory, and costs as the test says."""

from __future__ import annotations

import grpc
from longshore_api.v1 import billing_service_pb2 as pb
from longshore_api.v1 import billing_service_pb2_grpc

SEED = {"compute": "1/100", "disk": "17/11688", "ip": "1/4000", "service": "1/100"}
"""What a core costs for an hour: the user's document, section Billing."""


class FakeBilling(billing_service_pb2_grpc.BillingServiceServicer):
    def __init__(self) -> None:
        self.projects = {"test": pb.Project(name="test")}
        self.cards = {0: pb.RateCard(from_day=0, prices=SEED)}
        self.costs: list[pb.Cost] = []
        self.asked = pb.GetCostsRequest()
        """What costs were asked for last."""

    def ListProjects(
        self, request: pb.ListProjectsRequest, context: grpc.ServicerContext
    ) -> pb.ListProjectsResponse:
        return pb.ListProjectsResponse(projects=self.projects.values())

    def GetProject(self, request: pb.GetProjectRequest, context: grpc.ServicerContext) -> pb.Project:
        return self._project(request.name, context)

    def CreateProject(self, request: pb.CreateProjectRequest, context: grpc.ServicerContext) -> pb.Project:
        return self.projects.setdefault(request.name, pb.Project(name=request.name))

    def SetProject(self, request: pb.SetProjectRequest, context: grpc.ServicerContext) -> pb.Project:
        project = self._project(request.name, context)
        if request.no_limit:
            project.ClearField("limit_nanousd")
        if request.HasField("limit_nanousd"):
            project.limit_nanousd = request.limit_nanousd
        if request.HasField("hard"):
            project.hard = request.hard
        if request.HasField("closed"):
            project.closed = request.closed
        return project

    def SetMember(self, request: pb.SetMemberRequest, context: grpc.ServicerContext) -> pb.Project:
        project = self._project(request.name, context)
        self._leave(project, request.user)
        project.members.add(user=request.user, role=request.role)
        return project

    def RemoveMember(self, request: pb.RemoveMemberRequest, context: grpc.ServicerContext) -> pb.Project:
        project = self._project(request.name, context)
        self._leave(project, request.user)
        return project

    def GetCosts(self, request: pb.GetCostsRequest, context: grpc.ServicerContext) -> pb.GetCostsResponse:
        self.asked = request
        return pb.GetCostsResponse(costs=self.costs)

    def ListRates(self, request: pb.ListRatesRequest, context: grpc.ServicerContext) -> pb.ListRatesResponse:
        return pb.ListRatesResponse(cards=[card for _, card in sorted(self.cards.items())])

    def SetRates(self, request: pb.SetRatesRequest, context: grpc.ServicerContext) -> pb.ListRatesResponse:
        self.cards[request.from_day] = pb.RateCard(from_day=request.from_day, prices=request.prices)
        return self.ListRates(pb.ListRatesRequest(), context)

    def _project(self, name: str, context: grpc.ServicerContext) -> pb.Project:
        if name not in self.projects:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no billing project {name!r}")
        return self.projects[name]

    def _leave(self, project: pb.Project, user: str) -> None:
        staying = [member for member in project.members if member.user != user]
        project.ClearField("members")
        project.members.extend(staying)
