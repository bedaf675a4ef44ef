"""What is stored and shown: events, containers, batches, jobs and attempts as messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, get_args

from longshore_api.v1 import batch_service_pb2, event_pb2, types_pb2

from longshore_controller.core import events as ev
from longshore_controller.core.model import (
    ContainerName,
    ContainerRecord,
    EndReason,
    ErrorKind,
    JobState,
    memory_of,
)
from longshore_controller.core.rows import AttemptRow, BatchRow
from longshore_controller.core.why_texts import Reason
from longshore_controller.store import JobView

# -- events ------------------------------------------------------------------------------------------
# An event and its message have fields of the same names; those that are not plain values are listed.

_READ_AGAIN = ("columns", "batch", "added")
"""No part of the fact."""
_SPECIAL = ("attributes", "prices", "jobs", "containers", *_READ_AGAIN)


class _Kind(NamedTuple):
    name: str
    """Of the field of Event.kind."""
    plain: tuple[str, ...]
    special: tuple[str, ...]
    event: Any


def _kind(event: Any) -> _Kind:
    names = [f.name for f in fields(event)]
    return _Kind(
        re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower(),
        tuple(n for n in names if n not in _SPECIAL),
        tuple(n for n in names if n in _SPECIAL and n not in _READ_AGAIN),
        event,
    )


_KINDS = {event: _kind(event) for event in get_args(ev.Event)}
_BY_NAME = {kind.name: kind for kind in _KINDS.values()}


def encode_events(events: Iterable[ev.Event]) -> bytes:
    """The events of one commit, as the log keeps them."""
    entry = event_pb2.EventLogEntry()
    for event in events:
        _write_event(event, entry.events.add())
    return entry.SerializeToString()


def decode_events(data: bytes) -> list[ev.Event]:
    """What `encode_events` was given, but for what is no part of the facts: jobs and a reopened batch."""
    return [_read_event(message) for message in event_pb2.EventLogEntry.FromString(data).events]


def event_message(event: ev.Event) -> event_pb2.Event:
    message = event_pb2.Event()
    _write_event(event, message)
    return message


def _write_event(event: ev.Event, message: event_pb2.Event) -> None:
    kind = _KINDS[type(event)]
    inner = getattr(message, kind.name)
    inner.SetInParent()
    for name in kind.plain:
        if (value := getattr(event, name)) is not None:
            setattr(inner, name, value)
    for name in kind.special:
        value = getattr(event, name)
        if name in ("attributes", "prices"):
            getattr(inner, name).update(value)
        elif name == "jobs":
            for first, last in value:
                inner.jobs.add(first=first, last=last)
        else:
            _write_containers(value, inner.containers)


def _read_event(message: event_pb2.Event) -> ev.Event:
    kind = _BY_NAME[message.WhichOneof("kind") or ""]
    inner = getattr(message, kind.name)
    values = {name: getattr(inner, name) for name in kind.plain}
    for name in kind.special:
        found = getattr(inner, name)
        if name in ("attributes", "prices"):
            values[name] = dict(found)
        elif name == "jobs":
            values[name] = tuple((r.first, r.last) for r in found)
        else:
            values[name] = _read_containers(found)
    if kind.event is ev.AttemptEnded:
        values["reason"] = EndReason(values["reason"])
        values["job_state"] = JobState(values["job_state"])
        values["exit_code"] = inner.exit_code if inner.HasField("exit_code") else None
    if kind.event is ev.BillingProjectSet and not inner.HasField("limit_nanousd"):
        values["limit_nanousd"] = None
    event: ev.Event = kind.event(**values)
    return event


# -- containers --------------------------------------------------------------------------------------


def encode_containers(containers: tuple[ContainerRecord, ...]) -> bytes:
    """As a row keeps them; nothing for none."""
    if not containers:
        return b""
    message = types_pb2.Attempt()
    _write_containers(containers, message.containers)
    return message.SerializeToString()


def decode_containers(data: bytes) -> tuple[ContainerRecord, ...]:
    return _read_containers(types_pb2.Attempt.FromString(data).containers) if data else ()


def _write_containers(containers: Iterable[ContainerRecord], messages: Any) -> None:
    for record in containers:
        messages.add(
            container=record.container,
            image=record.image,
            pull_started_ms=record.pull_started_ms,
            pull_ended_ms=record.pull_ended_ms,
            started_ms=record.started_ms,
            ended_ms=record.ended_ms,
            exit_code=record.exit_code,
            error_kind=record.error_kind,
            error=record.error,
            log_bytes=record.log_bytes,
        )


def _read_containers(messages: Iterable[types_pb2.ContainerRecord]) -> tuple[ContainerRecord, ...]:
    return tuple(
        ContainerRecord(
            ContainerName(message.container),
            message.image,
            *optional_times(message),
            message.exit_code if message.HasField("exit_code") else None,
            ErrorKind(message.error_kind),
            message.error,
            message.log_bytes,
        )
        for message in messages
    )


def optional_times(
    message: types_pb2.ContainerRecord,
) -> tuple[int | None, int | None, int | None, int | None]:
    """When its pull and its run started and ended, as far as they did."""
    return (
        message.pull_started_ms if message.HasField("pull_started_ms") else None,
        message.pull_ended_ms if message.HasField("pull_ended_ms") else None,
        message.started_ms if message.HasField("started_ms") else None,
        message.ended_ms if message.HasField("ended_ms") else None,
    )


# -- what people see ---------------------------------------------------------------------------------


def batch_message(row: BatchRow) -> types_pb2.Batch:
    return types_pb2.Batch(
        batch_id=row.batch_id,
        billing_project=row.billing_project,
        user=row.user,
        state=types_pb2.BatchState.ValueType(row.state),
        closed=row.closed_at_ms is not None,
        complete=row.completed_at_ms is not None,
        n_jobs=row.n_jobs,
        n_pending=row.n_pending,
        n_ready=row.n_ready,
        n_running=row.n_running,
        n_succeeded=row.n_succeeded,
        n_failed=row.n_failed,
        n_cancelled=row.n_cancelled,
        n_completed=row.n_succeeded + row.n_failed + row.n_cancelled,
        attributes=row.attributes,
        msec_mcpu=row.msec_mcpu,
        cost_nanousd=row.cost_nanousd,
        created_at_ms=row.created_at_ms,
        closed_at_ms=row.closed_at_ms,
        completed_at_ms=row.completed_at_ms,
        cancelled_at_ms=row.cancelled_at_ms,
        cancelled_by=row.cancelled_by,
        cancel_reason=row.cancel_reason,
        cancel_after_n_failures=row.cancel_after_n_failures,
        callback=row.callback,
        callback_outcome=row.callback_outcome,
        rerun_of=row.rerun_of,
        unfinished_nanousd=row.unfinished_nanousd,
    )


def job_message(job: JobView) -> types_pb2.Job:
    """Without spec and attempts, as in lists."""
    row = job.row
    return types_pb2.Job(
        batch_id=row.batch_id,
        job_id=row.job_id,
        name=job.name,
        state=types_pb2.JobState.ValueType(row.state),
        reason=row.reason,
        exit_code=row.exit_code,
        duration_ms=row.duration_ms,
        msec_mcpu=row.msec_mcpu,
        cost_nanousd=row.cost_nanousd,
        n_attempts=row.n_attempts,
        reserved_mcpu=job.mcpu,
        reserved_memory_bytes=memory_of(job.mcpu),
        attributes=job.attributes,
        started_at_ms=row.started_at_ms,
        ended_at_ms=row.ended_at_ms,
        always_run=job.always_run,
    )


def job_messages_with_specs(
    jobs: Sequence[JobView], specs: Mapping[tuple[int, int], bytes], most_bytes: int
) -> list[types_pb2.Job]:
    """Of the first of these, as many as come to so many bytes of specs; at least one."""
    messages: list[types_pb2.Job] = []
    for job in jobs:
        spec = specs[job.row.batch_id, job.row.job_id]
        most_bytes -= len(spec)
        if messages and most_bytes < 0:
            break
        message = job_message(job)
        message.spec.MergeFromString(spec)
        messages.append(message)
    return messages


def batches_view(rows: Iterable[BatchRow], **head: Any) -> bytes:
    """Rows of a window, and the other fields of the message."""
    return batch_service_pb2.BatchesView(rows=map(batch_message, rows), **head).SerializeToString()


def jobs_view(batch: BatchRow, rows: Iterable[JobView], **head: Any) -> bytes:
    """Rows of a window, and the other fields of the message."""
    message = batch_service_pb2.JobsView(batch=batch_message(batch), rows=map(job_message, rows), **head)
    return message.SerializeToString()


def whole_job_message(job: JobView, spec: bytes, attempts: Sequence[AttemptRow]) -> types_pb2.Job:
    message = job_message(job)
    message.spec.MergeFromString(spec)
    message.attempts.extend(map(attempt_message, attempts))
    return message


def attempt_message(row: AttemptRow) -> types_pb2.Attempt:
    message = types_pb2.Attempt(
        attempt_id=row.attempt_id,
        batch_id=row.batch_id,
        job_id=row.job_id,
        number=row.number,
        worker_id=row.worker_id,
        state=types_pb2.AttemptState.ValueType(row.state),
        reason=types_pb2.EndReason.ValueType(row.reason or 0),
        message=row.message,
        assigned_at_ms=row.assigned_at_ms,
        started_at_ms=row.started_at_ms,
        ended_at_ms=row.ended_at_ms,
        main_ms=row.main_ms,
        cost_nanousd=row.cost_nanousd,
        reserved_mcpu=row.mcpu,
        revoked=row.revoked,
    )
    _write_containers(row.containers, message.containers)
    return message


def reason_message(reason: Reason) -> batch_service_pb2.Reason:
    return batch_service_pb2.Reason(
        code=reason.code, text=reason.text, fix=reason.fix, since_ms=reason.since_ms, jobs=reason.jobs
    )
