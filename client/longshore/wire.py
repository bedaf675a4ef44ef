"""Protobuf messages from and to our own values: the border that no message crosses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import cast

from longshore_api.v1 import (
    admin_service_pb2,
    auth_service_pb2,
    batch_service_pb2,
    billing_service_pb2,
    event_pb2,
    types_pb2,
)

from .costs import BillingProject, Cost, Member, RateCard
from .status import (
    AttemptStatus,
    AuditEntry,
    BatchDeed,
    BatchesView,
    BatchState,
    BatchStatus,
    ContainerStatus,
    Event,
    Events,
    FailureCount,
    FailureCounts,
    JobSpec,
    JobState,
    JobStatus,
    JobsView,
    LogChunk,
    Membership,
    Pause,
    QueryCompletion,
    QueryCompletions,
    Reason,
    RunningAttempt,
    ServiceStatus,
    Session,
    TokenStatus,
    UserStatus,
    WorkerStatus,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _words(enum: type, prefix: str, *, title: bool = False) -> dict[int, str]:
    """The words of an enum; ``…_UNSPECIFIED`` is ``''``."""
    words = {
        number: name.removeprefix(prefix).lower().replace("_", " ")
        for name, number in enum.items()  # type: ignore[attr-defined]
    }
    words[0] = ""
    return {number: word.capitalize() if title else word for number, word in words.items()}


_JOB_STATES = cast("dict[int, JobState]", _words(types_pb2.JobState, "JOB_STATE_", title=True))
_BATCH_STATES = cast("dict[int, BatchState]", _words(types_pb2.BatchState, "BATCH_STATE_"))
_ATTEMPT_STATES = _words(types_pb2.AttemptState, "ATTEMPT_STATE_")
_END_REASONS = _words(types_pb2.EndReason, "END_REASON_")
_ERROR_KINDS = _words(types_pb2.ErrorKind, "ERROR_KIND_")
_WORKER_STATES = _words(admin_service_pb2.WorkerState, "WORKER_STATE_")
_ROLES = _words(billing_service_pb2.MemberRole, "MEMBER_ROLE_")
_CONTAINERS = _words(types_pb2.Container, "CONTAINER_")

_SCOPES = _words(auth_service_pb2.TokenScope, "TOKEN_SCOPE_")

JOB_STATES: Mapping[str, int] = {word: number for number, word in _JOB_STATES.items() if word}
COSTS_BY: Mapping[str, int] = {
    word: number for number, word in _words(billing_service_pb2.CostsBy, "COSTS_BY_").items() if word
}
CONTAINERS: Mapping[str, int] = {word: number for number, word in _CONTAINERS.items() if word}


def write_job_spec(spec: JobSpec, message: types_pb2.JobSpec) -> None:
    """Into a new message."""
    message.name = spec.name
    message.command.extend(spec.command)
    # What was not said is not written: of most jobs nearly all, and each field has its price.
    if spec.attributes:
        message.attributes.update(spec.attributes)
    if spec.image:
        message.image = spec.image
    if spec.env:
        message.env.update(spec.env)
    if spec.cpu_mcpu or spec.memory_bytes or spec.storage_bytes:
        asked = message.resources
        asked.cpu_mcpu, asked.memory_bytes = spec.cpu_mcpu, spec.memory_bytes
        asked.storage_bytes = spec.storage_bytes
    if spec.parents:
        message.parents.extend(spec.parents)
    for source, destination in spec.input_files:
        message.input_files.add(source=source, destination=destination)
    for source, destination in spec.output_files:
        message.output_files.add(source=source, destination=destination)
    if spec.always_run:
        message.always_run = True
    if spec.timeout_ms:
        message.timeout_ms = spec.timeout_ms
    if spec.retries:
        message.retries = spec.retries
    if spec.always_copy_output:
        message.always_copy_output = True
    if spec.max_preempted is not None:
        message.max_preempted = spec.max_preempted
    if spec.max_lost is not None:
        message.max_lost = spec.max_lost


def job_spec(message: types_pb2.JobSpec) -> JobSpec:
    return JobSpec(
        name=message.name,
        attributes=_read_only(message.attributes),
        image=message.image,
        command=tuple(message.command),
        env=_read_only(message.env),
        cpu_mcpu=message.resources.cpu_mcpu,
        memory_bytes=message.resources.memory_bytes,
        storage_bytes=message.resources.storage_bytes,
        parents=tuple(message.parents),
        input_files=tuple((copy.source, copy.destination) for copy in message.input_files),
        output_files=tuple((copy.source, copy.destination) for copy in message.output_files),
        always_run=message.always_run,
        timeout_ms=message.timeout_ms,
        retries=message.retries,
        always_copy_output=message.always_copy_output,
        max_preempted=message.max_preempted if message.HasField("max_preempted") else None,
        max_lost=message.max_lost if message.HasField("max_lost") else None,
    )


def batch_status(message: types_pb2.Batch) -> BatchStatus:
    return BatchStatus(
        id=message.batch_id,
        billing_project=message.billing_project,
        user=message.user,
        state=_BATCH_STATES.get(message.state, "unknown"),
        complete=message.complete,
        closed=message.closed,
        n_jobs=message.n_jobs,
        n_pending=message.n_pending,
        n_ready=message.n_ready,
        n_running=message.n_running,
        n_completed=message.n_completed,
        n_succeeded=message.n_succeeded,
        n_failed=message.n_failed,
        n_cancelled=message.n_cancelled,
        attributes=_read_only(message.attributes),
        msec_mcpu=message.msec_mcpu,
        cost_nanousd=message.cost_nanousd,
        created_at=_at(message.created_at_ms),
        closed_at=_at(message.closed_at_ms) if message.HasField("closed_at_ms") else None,
        completed_at=_at(message.completed_at_ms) if message.HasField("completed_at_ms") else None,
        cancelled_at=_at(message.cancelled_at_ms) if message.HasField("cancelled_at_ms") else None,
        cancelled_by=message.cancelled_by,
        cancel_reason=message.cancel_reason,
        cancel_after_n_failures=message.cancel_after_n_failures,
        rerun_of=message.rerun_of,
        reruns=tuple(message.reruns),
        callback=message.callback,
        callback_outcome=message.callback_outcome,
        unfinished_nanousd=message.unfinished_nanousd,
    )


def job_status(message: types_pb2.Job) -> JobStatus:
    return JobStatus(
        batch_id=message.batch_id,
        job_id=message.job_id,
        name=message.name,
        state=_JOB_STATES.get(message.state, "Unknown"),
        reason=message.reason,
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        duration_ms=message.duration_ms,
        msec_mcpu=message.msec_mcpu,
        cost_nanousd=message.cost_nanousd,
        n_attempts=message.n_attempts,
        reserved_mcpu=message.reserved_mcpu,
        reserved_memory_bytes=message.reserved_memory_bytes,
        attributes=_read_only(message.attributes),
        always_run=message.always_run,
        started_at=_at(message.started_at_ms) if message.HasField("started_at_ms") else None,
        ended_at=_at(message.ended_at_ms) if message.HasField("ended_at_ms") else None,
        spec=job_spec(message.spec) if message.HasField("spec") else None,
        attempts=tuple(map(attempt_status, message.attempts)),
    )


def attempt_status(message: types_pb2.Attempt) -> AttemptStatus:
    containers = [container_status(record) for record in message.containers]
    return AttemptStatus(
        id=message.attempt_id,
        number=message.number,
        worker_id=message.worker_id,
        state=_ATTEMPT_STATES.get(message.state, "unknown"),
        reason=_END_REASONS.get(message.reason, "unknown"),
        message=message.message,
        assigned_at=_at(message.assigned_at_ms),
        started_at=_at(message.started_at_ms) if message.HasField("started_at_ms") else None,
        ended_at=_at(message.ended_at_ms) if message.HasField("ended_at_ms") else None,
        main_ms=message.main_ms,
        reserved_mcpu=message.reserved_mcpu,
        cost_nanousd=message.cost_nanousd,
        containers=MappingProxyType({container.name: container for container in containers}),
        revoked=message.revoked,
    )


def container_status(message: types_pb2.ContainerRecord) -> ContainerStatus:
    exit_code = message.exit_code if message.HasField("exit_code") else None
    started = message.started_ms if message.HasField("started_ms") else None
    if message.error_kind or message.error:
        state = "Error"
    elif exit_code is not None:
        state = "Failure" if exit_code else "Success"
    else:
        state = "Pending" if started is None else "Running"
    return ContainerStatus(
        name=_CONTAINERS.get(message.container, "unknown"),
        state=state,
        image=message.image,
        exit_code=exit_code,
        error_kind=_ERROR_KINDS.get(message.error_kind, "unknown"),
        error=message.error,
        pull_started_ms=message.pull_started_ms if message.HasField("pull_started_ms") else None,
        pull_ended_ms=message.pull_ended_ms if message.HasField("pull_ended_ms") else None,
        started_ms=started,
        ended_ms=message.ended_ms if message.HasField("ended_ms") else None,
        log_bytes=message.log_bytes,
    )


def failure_counts(message: batch_service_pb2.FailureGroupsResponse) -> FailureCounts:
    return FailureCounts(
        n_failed=message.n_failed,
        counts=tuple(FailureCount(group.n, job_status(group.example)) for group in message.groups),
    )


def query_completions(message: batch_service_pb2.CompleteQueryResponse) -> QueryCompletions:
    found = (QueryCompletion(c.text, c.n if c.HasField("n") else None) for c in message.completions)
    return QueryCompletions(message.first, message.length, tuple(found), message.n_looked_at)


def session(message: auth_service_pb2.Session) -> Session:
    return Session(
        user=message.user,
        version=message.version,
        embedded=message.embedded,
        store_folder=message.store_folder,
        remote_tmpdir=message.remote_tmpdir,
        notices=tuple(message.notices),
        largest_worker_mcpu=message.largest_worker_mcpu,
        default_image=message.default_image,
        now=_at(message.now_ms) if message.now_ms else None,
        frozen=message.frozen,
        admin=message.admin,
        projects=tuple(Membership(each.project, each.owner) for each in message.projects),
        service_identity=message.service_identity,
        email=message.email,
        token_id=message.token.token_id,
        token_scope=_SCOPES[message.token.scope],
        has_login=message.has_login,
    )


def token_status(message: auth_service_pb2.Token) -> TokenStatus:
    return TokenStatus(
        id=message.token_id,
        name=message.name,
        scope=_SCOPES[message.scope],
        created_at=_at(message.created_at_ms),
        expires_at=_at(message.expires_at_ms) if message.HasField("expires_at_ms") else None,
        ends_at=_at(message.ends_at_ms) if message.HasField("ends_at_ms") else None,
        last_used_at=_at(message.last_used_at_ms) if message.HasField("last_used_at_ms") else None,
        current=message.current,
    )


def user_status(message: admin_service_pb2.User) -> UserStatus:
    return UserStatus(
        name=message.name,
        admin=message.admin,
        email=message.email,
        has_come=bool(message.issuer),
        service_identity=message.service_identity,
        created_at=_at(message.created_at_ms),
        suspended_at=_at(message.suspended_at_ms) if message.HasField("suspended_at_ms") else None,
    )


def audit_entry(message: admin_service_pb2.AuditEntry) -> AuditEntry:
    return AuditEntry(
        id=message.audit_id,
        at=_at(message.at_ms),
        actor=message.actor,
        role=message.role,
        token_id=message.token_id,
        peer=message.peer,
        method=message.method,
        batch_id=message.batch_id if message.HasField("batch_id") else None,
        object=message.object,
        outcome=message.outcome,
        request_id=message.request_id,
        times=message.times,
    )


def batch_deed(message: batch_service_pb2.BatchDeed) -> BatchDeed:
    return BatchDeed(_at(message.at_ms), message.user, message.deed)


def service_status(message: admin_service_pb2.ServiceStatus) -> ServiceStatus:
    return ServiceStatus(
        frozen=_pause(message.frozen) if message.HasField("frozen") else None,
        n_workers=message.n_workers,
        n_draining=message.n_draining,
        capacity_mcpu=message.capacity_mcpu,
        free_mcpu=message.free_mcpu,
        n_running=message.n_running,
        running=tuple(map(_running_attempt, message.running)),
    )


def worker_status(message: admin_service_pb2.Worker) -> WorkerStatus:
    return WorkerStatus(
        id=message.worker_id,
        name=message.name,
        state=_WORKER_STATES.get(message.state, "unknown"),
        runtime=message.runtime,
        capacity_mcpu=message.capacity_mcpu,
        free_mcpu=message.free_mcpu,
        n_running=message.n_running,
        joined_at=_at(message.joined_at_ms) if message.joined_at_ms else None,
        heard_at=_at(message.heard_at_ms) if message.heard_at_ms else None,
        draining=_pause(message.draining) if message.HasField("draining") else None,
        running=tuple(map(_running_attempt, message.running)),
    )


def _pause(message: admin_service_pb2.Pause) -> Pause:
    return Pause(message.by, message.reason, _at(message.at_ms))


def _running_attempt(message: admin_service_pb2.RunningAttempt) -> RunningAttempt:
    return RunningAttempt(
        batch_id=message.batch_id,
        job_id=message.job_id,
        attempt_id=message.attempt_id,
        number=message.number,
        user=message.user,
        worker_id=message.worker_id,
        mcpu=message.mcpu,
        assigned_at=_at(message.assigned_at_ms),
        started_at=_at(message.started_at_ms) if message.HasField("started_at_ms") else None,
    )


def billing_project(message: billing_service_pb2.Project) -> BillingProject:
    return BillingProject(
        name=message.name,
        limit_nanousd=message.limit_nanousd if message.HasField("limit_nanousd") else None,
        hard=message.hard,
        closed=message.closed,
        spent_nanousd=message.spent_nanousd,
        running_nanousd=message.running_nanousd,
        members=tuple(Member(each.user, _ROLES.get(each.role, "unknown")) for each in message.members),
    )


def cost(message: billing_service_pb2.Cost, by: Collection[str]) -> Cost:
    return Cost(
        cost_nanousd=message.nanousd,
        msec_mcpu=message.mcpu_ms,
        day=_date(message.day) if "day" in by else None,
        billing_project=message.project,
        user=message.user,
        batch_id=message.batch_id or None,
        resource=message.resource,
    )


def rate_card(message: billing_service_pb2.RateCard) -> RateCard:
    return RateCard(_date(message.from_day), _read_only(message.prices))


def _date(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)


def batches_view(message: batch_service_pb2.BatchesView) -> BatchesView:
    return BatchesView(
        whole=message.whole,
        rows=tuple(map(batch_status, message.rows)),
        first=message.first,
        n_matching=message.n_matching,
        n_newer=message.n_newer,
        anchor=message.anchor_batch_id,
        n_total=message.n_total,
        query=message.query,
    )


def jobs_view(message: batch_service_pb2.JobsView) -> JobsView:
    return JobsView(
        whole=message.whole,
        rows=tuple(map(job_status, message.rows)),
        first=message.first,
        n_matching=message.n_matching,
        batch=batch_status(message.batch) if message.HasField("batch") else None,
        query=message.query,
        n_searched=message.n_searched,
    )


def events(message: batch_service_pb2.WatchEventsResponse) -> Events:
    return Events(message.seq, tuple(map(event, message.events)), message.reset)


def event(message: event_pb2.Event) -> Event:
    """Also of a kind that this client does not know yet: that is about nothing."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return Event("unknown", 0, ())
    body = getattr(message, kind)
    if hasattr(body, "jobs"):
        jobs = tuple((each.first, each.last) for each in body.jobs)
    elif hasattr(body, "job_id"):
        jobs = ((body.job_id, body.job_id),)
    elif hasattr(body, "first_job_id"):
        jobs = ((body.first_job_id, body.first_job_id + body.n_jobs - 1),)
    else:
        jobs = ()
    return Event(kind.replace("_", " "), getattr(body, "batch_id", 0), jobs)


def reason(message: batch_service_pb2.Reason) -> Reason:
    since = _at(message.since_ms) if message.HasField("since_ms") else None
    return Reason(message.code, message.text, message.fix, since, tuple(message.jobs))


def log_chunk(message: batch_service_pb2.LogChunk) -> LogChunk:
    return LogChunk(message.offset, message.chunk, message.end, message.incomplete)


def _read_only(mapping: Mapping[str, str]) -> Mapping[str, str]:
    # By name: the maps of a message are in another order each time.
    return MappingProxyType(dict(sorted(mapping.items())))


def _at(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
