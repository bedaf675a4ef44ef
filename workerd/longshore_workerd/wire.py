"""Messages and records to and from workerd's own values; past here no generated message travels."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterable

from google.protobuf.message import DecodeError
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as service

from longshore_workerd.model import (
    Assignment,
    AttemptState,
    ContainerRecord,
    EndReason,
    FileCopy,
    Held,
    Orders,
    Report,
)
from longshore_workerd.runtime import Container, ErrorKind

_log = logging.getLogger(__name__)

_ATTEMPT_ID = re.compile("[0-9A-Za-z]{1,64}")
_ACCEPTED = struct.Struct(">Q36s")  # accepted_at_ms, boot id; then the Assignment message


def encode_report(report: Report) -> bytes:
    """As it is sent and as it is kept on disk."""
    message = service.Report(
        attempt_id=report.attempt_id,
        state=types.AttemptState.ValueType(report.state),
        main_ms=report.main_ms,
        reason=types.EndReason.ValueType(report.reason or 0),
        message=report.message,
    )
    for record in report.containers:
        _encode_record(record, message.containers.add())
    return message.SerializeToString()


def decode_report(data: bytes) -> Report:
    message = service.Report.FromString(data)
    return Report(
        message.attempt_id,
        AttemptState(message.state),
        message.main_ms,
        EndReason(message.reason) if message.reason else None,
        message.message,
        tuple(_decode_record(record) for record in message.containers),
    )


def encode_accepted(job: Assignment, accepted_at_ms: int, boot_id: str) -> bytes:
    return _ACCEPTED.pack(accepted_at_ms, boot_id.encode()) + job.raw


def decode_accepted(data: bytes) -> tuple[Assignment, int, str]:
    """The attempt, when it was accepted, and in which boot of the machine."""
    accepted_at_ms, boot_id = _ACCEPTED.unpack_from(data)
    job = decode_assignment(service.Assignment.FromString(data[_ACCEPTED.size :]))
    return job, accepted_at_ms, boot_id.decode()


def decode_assignment(message: service.Assignment) -> Assignment:
    """ValueError when the spec in it cannot be read."""
    try:
        spec = types.JobSpec.FromString(message.spec)
    except DecodeError as error:
        raise ValueError(
            f"the spec of job {message.batch_id}/{message.job_id} cannot be read: {error}"
        ) from error
    if not spec.command:
        raise ValueError(f"job {message.batch_id}/{message.job_id} has no command")
    return Assignment(
        attempt_id=message.attempt_id,
        batch_id=message.batch_id,
        job_id=message.job_id,
        user=message.user,
        mcpu=message.mcpu,
        memory_bytes=message.memory_bytes,
        image=spec.image,
        command=tuple(spec.command),
        env=dict(spec.env),
        timeout_ms=spec.timeout_ms,
        input_files=tuple(FileCopy(f.source, f.destination) for f in spec.input_files),
        output_files=tuple(FileCopy(f.source, f.destination) for f in spec.output_files),
        always_copy_output=spec.always_copy_output,
        raw=message.SerializeToString(),
    )


def decode_orders(message: service.Assignments) -> Orders:
    """Attempts whose id cannot be one are left out: an id becomes the name of a folder."""
    run: list[Assignment] = []
    unreadable: dict[str, str] = {}
    for assignment in message.run:
        if not _ATTEMPT_ID.fullmatch(assignment.attempt_id):
            _log.error("an assignment was ignored: %r cannot be an attempt's id", assignment.attempt_id)
            continue
        try:
            run.append(decode_assignment(assignment))
        except ValueError as error:
            unreadable[assignment.attempt_id] = str(error)
    keep, revoke = (tuple(filter(_ATTEMPT_ID.fullmatch, ids)) for ids in (message.keep, message.revoke))
    return Orders(message.complete, tuple(run), keep, revoke, unreadable)


def encode_held(held: Iterable[Held]) -> list[service.HeldAttempt]:
    return [
        service.HeldAttempt(
            attempt_id=h.attempt_id, state=types.AttemptState.ValueType(h.state), main_ms=h.main_ms
        )
        for h in held
    ]


def _encode_record(record: ContainerRecord, message: types.ContainerRecord) -> None:
    message.container = types.Container.ValueType(record.container)
    message.image = record.image
    if record.pull_started_ms is not None:
        message.pull_started_ms = record.pull_started_ms
    if record.pull_ended_ms is not None:
        message.pull_ended_ms = record.pull_ended_ms
    if record.started_ms is not None:
        message.started_ms = record.started_ms
    if record.ended_ms is not None:
        message.ended_ms = record.ended_ms
    if record.exit_code is not None:
        message.exit_code = record.exit_code
    message.error_kind = types.ErrorKind.ValueType(record.error_kind)
    message.error = record.error
    message.log_bytes = record.log_bytes


def _decode_record(message: types.ContainerRecord) -> ContainerRecord:
    return ContainerRecord(
        Container(message.container),
        message.image,
        message.pull_started_ms if message.HasField("pull_started_ms") else None,
        message.pull_ended_ms if message.HasField("pull_ended_ms") else None,
        message.started_ms if message.HasField("started_ms") else None,
        message.ended_ms if message.HasField("ended_ms") else None,
        message.exit_code if message.HasField("exit_code") else None,
        ErrorKind(message.error_kind),
        message.error,
        message.log_bytes,
    )
