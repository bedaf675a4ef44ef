"""What is stored comes back as it was, and events and their messages have the same fields."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from longshore_api.v1 import event_pb2
from longshore_controller.core import events as ev
from longshore_controller.core.model import (
    BatchState,
    ContainerName,
    ContainerRecord,
    EndReason,
    ErrorKind,
    JobColumns,
    JobState,
)
from longshore_controller.core.rows import BatchRow, JobRow
from longshore_controller.store import JobView
from longshore_controller.wire import records

IDS = st.integers(1, 2**63 - 1)
JOB_IDS = st.integers(1, 2**32 - 1)
MS = st.integers(0, 2**62)
OPTIONAL_MS = st.none() | MS
RANGES = st.lists(st.tuples(JOB_IDS, JOB_IDS), max_size=4).map(tuple)
CONTAINERS = st.lists(
    st.builds(
        ContainerRecord,
        st.sampled_from(ContainerName),
        st.text(),
        OPTIONAL_MS,
        OPTIONAL_MS,
        OPTIONAL_MS,
        OPTIONAL_MS,
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.sampled_from(ErrorKind),
        st.text(),
        MS,
    ),
    max_size=3,
).map(tuple)

BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "batch_id": IDS,
    "job_id": JOB_IDS,
    "number": JOB_IDS,
    "n_jobs": JOB_IDS,
    "mcpu": JOB_IDS,
    "capacity_mcpu": JOB_IDS,
    "at_ms": MS,
    "main_ms": MS,
    "cost_nanousd": MS,
    "attributes": st.dictionaries(st.text(), st.text(), max_size=3),
    "request_sha256": st.binary(max_size=32),
    "jobs": RANGES,
    "containers": CONTAINERS,
    "job_state": st.sampled_from(JobState),
    "exit_code": st.none() | st.integers(-(2**31), 2**31 - 1),
    "cancel_after_n_failures": st.integers(0, 10_000_001),
    "first_job_id": JOB_IDS,
    "rerun_of": IDS,
    "columns": st.none(),
    "batch": st.none(),
    "added": st.none(),
    "from_day": MS,
    "prices": st.dictionaries(st.text(), st.text(), max_size=3),
    "limit_nanousd": OPTIONAL_MS,
    "hard": st.booleans(),
    "closed": st.booleans(),
}
NO_FACTS = {"columns", "batch", "added"}
"""Read again from rows."""


def values_of(event: Any) -> st.SearchStrategy[Any]:
    kinds = {f.name: BY_NAME.get(f.name, st.text()) for f in fields(event)}
    if event is ev.AttemptEnded:
        kinds["reason"] = st.sampled_from(EndReason)
    return st.builds(event, **kinds)


EVENTS = st.one_of(*map(values_of, get_args(ev.Event)))


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=6))
def test_events_come_back_from_the_log_as_they_were(events: list[ev.Event]) -> None:
    assert records.decode_events(records.encode_events(events)) == events


def test_every_event_has_its_message_with_the_same_fields() -> None:
    kinds = [f.message_type for f in event_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields]
    messages = {kind.name: {f.name for f in kind.fields} for kind in kinds if kind}
    events: list[Any] = list(get_args(ev.Event))
    assert messages == {e.__name__: {f.name for f in fields(e)} - NO_FACTS for e in events}


def test_columns_are_not_part_of_what_is_written() -> None:
    closed = ev.BatchClosed(1, 2, JobColumns.empty())
    (read,) = records.decode_events(records.encode_events([closed]))
    assert isinstance(read, ev.BatchClosed)
    assert read.columns is None
    assert replace(closed, columns=None) == read


@given(CONTAINERS)
def test_containers_come_back_from_a_row_as_they_were(containers: tuple[ContainerRecord, ...]) -> None:
    assert records.decode_containers(records.encode_containers(containers)) == containers


def test_an_attempt_without_containers_takes_no_room() -> None:
    assert records.encode_containers(()) == b""


def test_a_batch_is_shown_with_what_is_absent_absent() -> None:
    row = BatchRow(
        7, "ada", "test", "r", b"", {"name": "x"}, 6, BatchState.RUNNING, 1, 1, 1, 1, 1, 1, 5, 6, 100, 200,
        None, None, "", "", None,
    )  # fmt: skip
    message = records.batch_message(row)
    assert (message.closed, message.complete, message.n_completed) == (True, False, 3)
    assert message.closed_at_ms == 200
    assert not message.HasField("completed_at_ms")
    assert not message.HasField("cancelled_at_ms")


def test_an_exit_code_of_zero_is_not_an_absent_one() -> None:
    row = JobRow(7, 1, JobState.SUCCESS, "", 0, "a", 1, 0, 0, 0, 5, 5000, 3, 100, 200)
    shown = records.job_message(JobView(row, "n", {}, 2000, False))
    assert shown.HasField("exit_code")
    assert shown.reserved_memory_bytes == 7_500_000_000
    never_ran = row._replace(state=JobState.CANCELLED, exit_code=None)
    assert not records.job_message(JobView(never_ran, "n", {}, 2000, False)).HasField("exit_code")
