"""What workers and the controller say to each other, from and to the core's values.

A worker's word is input: what cannot be is replaced by what is harmless, never believed and never a
reason to fail, but for a Hello that says nothing usable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from longshore_api.v1 import types_pb2, worker_service_pb2

from longshore_controller.core.model import (
    AttemptState,
    ContainerName,
    ContainerRecord,
    EndReason,
    ErrorKind,
    HeldAttempt,
    Hello,
    Refusal,
    RefusalKind,
    Report,
    memory_of,
)
from longshore_controller.wire.records import optional_times

MAX_CAPACITY_MCPU = 10_000_000
MAX_TEXT = 4096
"""Characters of an error or a name that are kept of a worker's word."""

_STATES = {state.value: state for state in (AttemptState.STARTED, AttemptState.ENDED)}
_REASONS = {reason.value: reason for reason in EndReason}
_CONTAINERS = {name.value: name for name in ContainerName}
_ERROR_KINDS = {kind.value: kind for kind in ErrorKind}


class Assigned(NamedTuple):
    """An attempt that a worker is told to run, but for its spec."""

    attempt_id: str
    batch_id: int
    job_id: int
    mcpu: int
    user: str


# -- from the worker ---------------------------------------------------------------------------------


def hello(message: worker_service_pb2.Hello, worker_id: str) -> Hello:
    """Refusal INVALID_ARGUMENT for a worker without cores."""
    if not 0 < message.capacity_mcpu <= MAX_CAPACITY_MCPU:
        raise Refusal(
            RefusalKind.INVALID_ARGUMENT,
            f"hello.capacity_mcpu: 0 < … ≤ {MAX_CAPACITY_MCPU:,}, got {message.capacity_mcpu:,}",
        )
    return Hello(
        worker_id=worker_id,
        name=_text(message.name),
        boot_id=message.boot_id,
        incarnation=message.incarnation,
        capacity_mcpu=message.capacity_mcpu,
        runtime=_text(message.runtime),
        held=held(message.held),
        spooled=tuple(message.spooled),
    )


def held(messages: Iterable[worker_service_pb2.HeldAttempt]) -> tuple[HeldAttempt, ...]:
    return tuple(HeldAttempt(m.attempt_id, m.main_ms) for m in messages)


def reports(message: worker_service_pb2.Reports) -> tuple[Report, ...]:
    """Those that say something. One of an unknown kind says nothing; it is acknowledged all the same."""
    return tuple(
        Report(
            m.attempt_id,
            state,
            m.main_ms,
            _REASONS.get(m.reason),
            _text(m.message),
            tuple(_record(c) for c in m.containers if c.container in _CONTAINERS),
        )
        for m in message.reports
        if (state := _STATES.get(m.state)) is not None
    )


def _record(message: types_pb2.ContainerRecord) -> ContainerRecord:
    return ContainerRecord(
        _CONTAINERS[message.container],
        _text(message.image),
        *optional_times(message),
        message.exit_code if message.HasField("exit_code") else None,
        _ERROR_KINDS.get(message.error_kind, ErrorKind.NONE),
        _text(message.error),
        message.log_bytes,
    )


def _text(text: str) -> str:
    """Of bounded length, and without what a database cannot keep."""
    return text[:MAX_TEXT].replace("\0", "\ufffd") if text else text


# -- to the worker -----------------------------------------------------------------------------------


def welcome(
    epoch: int, session: int, lease_ms: int, heartbeat_ms: int
) -> worker_service_pb2.ControllerMessage:
    said = worker_service_pb2.Welcome(
        epoch=epoch, session=session, lease_ms=lease_ms, heartbeat_ms=heartbeat_ms
    )
    return worker_service_pb2.ControllerMessage(welcome=said)


def assignment(attempt: Assigned, spec: bytes) -> worker_service_pb2.Assignment:
    return worker_service_pb2.Assignment(
        attempt_id=attempt.attempt_id,
        batch_id=attempt.batch_id,
        job_id=attempt.job_id,
        user=attempt.user,
        mcpu=attempt.mcpu,
        memory_bytes=memory_of(attempt.mcpu),
        spec=spec,
    )


def assignments(
    *,
    complete: bool = False,
    run: Sequence[worker_service_pb2.Assignment] = (),
    keep: Iterable[str] = (),
    revoke: Iterable[str] = (),
) -> worker_service_pb2.ControllerMessage:
    said = worker_service_pb2.Assignments(complete=complete, run=run, keep=keep, revoke=revoke)
    return worker_service_pb2.ControllerMessage(assignments=said)


def acks(message: worker_service_pb2.Reports) -> worker_service_pb2.ControllerMessage:
    """Of all these reports."""
    said = worker_service_pb2.ControllerMessage()
    add = said.acks.acks.add
    for report in message.reports:
        add(attempt_id=report.attempt_id, state=report.state)
    return said


def lease_extended(number: int) -> worker_service_pb2.ControllerMessage:
    return worker_service_pb2.ControllerMessage(
        lease_extended=worker_service_pb2.LeaseExtended(number=number)
    )


def logs_wanted(attempt_ids: Iterable[str]) -> worker_service_pb2.ControllerMessage:
    return worker_service_pb2.ControllerMessage(
        logs_wanted=worker_service_pb2.LogsWanted(attempt_ids=attempt_ids)
    )
