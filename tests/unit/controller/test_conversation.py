"""A worker's word is input: what cannot be becomes harmless, and is acknowledged."""

from __future__ import annotations

import pytest
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as pb
from longshore_controller.core.model import (
    AttemptState,
    ContainerName,
    ContainerRecord,
    EndReason,
    ErrorKind,
    HeldAttempt,
    Refusal,
    RefusalKind,
    Report,
)
from longshore_controller.wire import conversation

ENDED = types.ATTEMPT_STATE_ENDED


def test_a_report_is_read_with_its_containers() -> None:
    record = types.ContainerRecord(
        container=types.CONTAINER_MAIN, image="i", started_ms=1, ended_ms=3, exit_code=0, log_bytes=9
    )
    said = pb.Report(
        attempt_id="a", state=ENDED, main_ms=2, reason=types.END_REASON_COMPLETED, containers=[record]
    )
    assert conversation.reports(pb.Reports(reports=[said])) == (
        Report(
            "a",
            AttemptState.ENDED,
            2,
            EndReason.COMPLETED,
            "",
            (ContainerRecord(ContainerName.MAIN, "i", started_ms=1, ended_ms=3, exit_code=0, log_bytes=9),),
        ),
    )


def test_numbers_of_a_later_workerd_mean_nothing_and_break_nothing() -> None:
    containers = [
        types.ContainerRecord(container=9),  # type: ignore[arg-type]
        types.ContainerRecord(container=types.CONTAINER_MAIN, error_kind=99),  # type: ignore[arg-type]
    ]
    reports = pb.Reports(
        reports=[
            pb.Report(attempt_id="a", state=ENDED, reason=77, containers=containers),  # type: ignore[arg-type]
            pb.Report(attempt_id="b", state=55),  # type: ignore[arg-type]
        ]
    )
    (report,) = conversation.reports(reports)
    assert report.reason is None
    assert [(c.container, c.error_kind) for c in report.containers] == [(ContainerName.MAIN, ErrorKind.NONE)]
    acks = conversation.acks(reports).acks.acks
    assert [(ack.attempt_id, ack.state) for ack in acks] == [("a", 90), ("b", 55)]


def test_texts_of_a_worker_are_short_and_fit_into_a_database() -> None:
    record = types.ContainerRecord(container=types.CONTAINER_MAIN, error="\0" * 10_000)
    said = pb.Report(attempt_id="a", state=ENDED, message="x\0y", containers=[record])
    (report,) = conversation.reports(pb.Reports(reports=[said]))
    assert report.message == "x\ufffdy"
    assert report.containers[0].error == "\ufffd" * conversation.MAX_TEXT


def test_a_hello_speaks_for_whoever_holds_the_token() -> None:
    said = pb.Hello(
        capacity_mcpu=4000,
        name="host\0",
        runtime="fake",
        held=[pb.HeldAttempt(attempt_id="a", state=types.ATTEMPT_STATE_STARTED, main_ms=5)],
        spooled=["b"],
    )
    hello = conversation.hello(said, "w1")
    assert (hello.worker_id, hello.name, hello.capacity_mcpu) == ("w1", "host\ufffd", 4000)
    assert (hello.held, hello.spooled) == ((HeldAttempt("a", 5),), ("b",))


@pytest.mark.parametrize("capacity", [0, 2**32 - 1])
def test_a_worker_has_a_number_of_cores_that_can_be(capacity: int) -> None:
    with pytest.raises(Refusal, match=r"hello\.capacity_mcpu: 0 < … ≤ 10,000,000, got") as refusal:
        conversation.hello(pb.Hello(capacity_mcpu=capacity), "w1")
    assert refusal.value.kind is RefusalKind.INVALID_ARGUMENT
