"""AdminService without a controller: two workers, one of which runs what the test says."""

from __future__ import annotations

import grpc
from fake_people import FakeUsers
from longshore_api.v1 import admin_service_pb2 as pb
from longshore_api.v1 import admin_service_pb2_grpc

SINCE_MS = 1_700_000_000_000


class FakeFleet(FakeUsers, admin_service_pb2_grpc.AdminServiceServicer):
    def __init__(self) -> None:
        super().__init__()
        self.admin = "ada"
        self.frozen: pb.Pause | None = None
        self.user = "lin"
        """Whose job runs."""
        self.leaves_in = 0
        """So many more looks at a worker before nothing runs there."""
        self.workers = {
            worker_id: pb.Worker(
                worker_id=worker_id,
                name=name,
                state=pb.WORKER_STATE_ACTIVE,
                runtime="docker",
                capacity_mcpu=4000,
                free_mcpu=4000,
                joined_at_ms=SINCE_MS,
                heard_at_ms=SINCE_MS,
            )
            for worker_id, name in (("w-1", "ant"), ("w-2", "bee"))
        }

    def Freeze(self, request: pb.FreezeRequest, context: grpc.ServicerContext) -> pb.ServiceStatus:
        self.frozen = pb.Pause(by=self.admin, reason=request.reason, at_ms=SINCE_MS)
        return self._status()

    def Thaw(self, request: pb.ThawRequest, context: grpc.ServicerContext) -> pb.ServiceStatus:
        self.frozen = None
        return self._status()

    def GetServiceStatus(
        self, request: pb.GetServiceStatusRequest, context: grpc.ServicerContext
    ) -> pb.ServiceStatus:
        return self._status()

    def ListWorkers(
        self, request: pb.ListWorkersRequest, context: grpc.ServicerContext
    ) -> pb.ListWorkersResponse:
        return pb.ListWorkersResponse(workers=self.workers.values())

    def GetWorker(self, request: pb.GetWorkerRequest, context: grpc.ServicerContext) -> pb.Worker:
        return self._worker(request.worker_id, context)

    def DrainWorker(self, request: pb.DrainWorkerRequest, context: grpc.ServicerContext) -> pb.Worker:
        worker = self._worker(request.worker_id, context)
        worker.state = pb.WORKER_STATE_DRAINING
        worker.draining.CopyFrom(pb.Pause(by=self.admin, reason=request.reason, at_ms=SINCE_MS))
        return worker

    def UndrainWorker(self, request: pb.UndrainWorkerRequest, context: grpc.ServicerContext) -> pb.Worker:
        worker = self._worker(request.worker_id, context)
        worker.state = pb.WORKER_STATE_ACTIVE
        worker.ClearField("draining")
        return worker

    def _status(self) -> pb.ServiceStatus:
        workers = self.workers.values()
        return pb.ServiceStatus(
            frozen=self.frozen,
            n_workers=len(workers),
            n_draining=sum(w.HasField("draining") for w in workers),
            capacity_mcpu=sum(w.capacity_mcpu for w in workers),
            free_mcpu=sum(w.free_mcpu for w in workers),
            n_running=sum(w.n_running for w in workers),
            running=[r for w in workers for r in w.running],
        )

    def _worker(self, worker_id: str, context: grpc.ServicerContext) -> pb.Worker:
        if worker_id not in self.workers:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no worker {worker_id!r}")
        worker = self.workers[worker_id]
        if self.leaves_in:
            self.leaves_in -= 1
            running = pb.RunningAttempt(
                batch_id=7, job_id=3, attempt_id="a", user=self.user, worker_id=worker_id, mcpu=1000,
                assigned_at_ms=SINCE_MS,
            )  # fmt: skip
            worker.n_running, worker.free_mcpu = 1, 3000
            worker.running.extend([running] if not worker.running else [])
        else:
            worker.n_running, worker.free_mcpu = 0, 4000
            worker.ClearField("running")
        return worker
