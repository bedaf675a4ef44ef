"""What admins ask for, checked, and what they are shown, as messages."""

from __future__ import annotations

from longshore_api.v1 import admin_service_pb2 as pb

from longshore_controller.core.fleet import Running, ServiceView, WorkerView
from longshore_controller.core.model import Pause, Unfit
from longshore_controller.wire import submission

_STATES = {
    None: pb.WORKER_STATE_ACTIVE,
    Unfit.DRAINING: pb.WORKER_STATE_DRAINING,
    Unfit.AWAY: pb.WORKER_STATE_AWAY,
    Unfit.SILENT: pb.WORKER_STATE_SILENT,
    Unfit.LEAVING: pb.WORKER_STATE_LEAVING,
    Unfit.SHUNNED: pb.WORKER_STATE_SHUNNED,
    Unfit.SHRUNK: pb.WORKER_STATE_SHRUNK,
}


def reason(request: pb.FreezeRequest | pb.DrainWorkerRequest) -> str:
    """Of a pause. Refusal INVALID_ARGUMENT."""
    submission.check_fields(request)
    return submission.text("reason", request.reason)


def service_message(view: ServiceView) -> pb.ServiceStatus:
    return pb.ServiceStatus(
        frozen=pause_message(view.frozen),
        n_workers=view.n_workers,
        n_draining=view.n_draining,
        capacity_mcpu=view.capacity_mcpu,
        free_mcpu=view.free_mcpu,
        n_running=view.n_running,
        running=map(_running_message, view.running),
    )


def worker_message(view: WorkerView) -> pb.Worker:
    return pb.Worker(
        worker_id=view.worker_id,
        name=view.name,
        state=pb.WORKER_STATE_LOST if view.lost else _STATES[view.unfit],
        runtime=view.runtime,
        capacity_mcpu=view.capacity_mcpu,
        free_mcpu=view.free_mcpu,
        n_running=view.n_running,
        joined_at_ms=view.joined_at_ms,
        heard_at_ms=view.heard_at_ms,
        draining=pause_message(view.draining),
        running=map(_running_message, view.running),
    )


def pause_message(pause: Pause | None) -> pb.Pause | None:
    return pb.Pause(by=pause.by, reason=pause.reason, at_ms=pause.at_ms) if pause is not None else None


def _running_message(running: Running) -> pb.RunningAttempt:
    a = running.attempt
    return pb.RunningAttempt(
        batch_id=a.batch_id,
        job_id=a.job_id,
        attempt_id=a.attempt_id,
        number=a.number,
        user=running.user,
        worker_id=a.worker_id,
        mcpu=a.mcpu,
        assigned_at_ms=a.assigned_at_ms,
        started_at_ms=a.started_at_ms,
    )
