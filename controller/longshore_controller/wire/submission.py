"""What users send, checked: each refusal names the field by its path, the value, and what is accepted."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from longshore_api.v1 import batch_service_pb2, types_pb2

from longshore_controller.core.language import MAX_LENGTH, QueryError, parse_for_batches, parse_for_jobs
from longshore_controller.core.model import (
    ALWAYS_RUN,
    ContainerName,
    JobState,
    Refusal,
    RefusalKind,
    Retries,
    StagedJobs,
    memory_of,
    reserved_mcpu,
)
from longshore_controller.core.query import Query
from longshore_controller.core.reactor import CreateBatch, UpdateBatch
from longshore_controller.wire.urls import target_of

KIB, MIB = 1 << 10, 1 << 20

MAX_JOBS = 10_000_000
"""Of a batch."""
MAX_WITH_BATCH = 1_000
"""Jobs that come with their batch in one message."""
MAX_SPEC_BYTES = 8 * MIB
"""Of one serialized JobSpec: with it a message to a worker stays below gRPC's limit of 16 MiB."""
MAX_NAME_BYTES = KIB
"""Of a job's name, its image, a request id, a reason."""
MAX_ATTRIBUTES_BYTES = 64 * KIB
"""Names and values together, of a job or of a batch."""
MAX_STRING_BYTES = 128 * KIB - 1
"""Of one argument of a command and of one NAME=VALUE of an environment: the kernel starts nothing longer."""
MAX_PATH_BYTES = 4 * KIB - 1
MAX_RETRIES = 1_000
MAX_TIMEOUT_MS = 366 * 86_400_000
MAX_STORAGE_BYTES = 1 << 50
MAX_PAGE = 1_000
DEFAULT_PAGE = 50
DEFAULT_GROUPS = 100

IO = "/io"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the service can do for a job."""

    store_folder: str
    """Absolute; files of jobs lie in it."""
    largest_mcpu: int
    private_callbacks: bool = False
    """A batch's callback may be an address of this machine or of a private network."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which bytes of which log. ``attempt_id`` empty: the latest."""

    batch_id: int
    job_id: int
    attempt_id: str
    container: ContainerName
    offset: int
    limit: int | None
    tail_bytes: int
    follow: bool


@dataclass(frozen=True, slots=True)
class LogSearch:
    """Which line of which log. ``attempt_id`` empty: the latest."""

    batch_id: int
    job_id: int
    attempt_id: str
    container: ContainerName
    text: bytes
    offset: int
    backward: bool


@dataclass(frozen=True, slots=True)
class BatchesWindow:
    """Which rows of the caller's batches. ``anchor_batch_id`` 0: the newest there is."""

    text: str
    query: Query
    first: int
    n: int
    anchor_batch_id: int


@dataclass(frozen=True, slots=True)
class JobsWindow:
    """Which rows of a batch's jobs."""

    text: str
    query: Query
    first: int
    n: int
    batch_id: int


class _Wrong(Exception):
    """Something about the field at ``path`` of what is being looked at."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path, self.what = path, what


def create_batch(
    request: batch_service_pb2.CreateBatchRequest, user: str, bounds: Bounds
) -> tuple[CreateBatch, StagedJobs | None]:
    """The request of this user, and the jobs if they come with it. Refusal INVALID_ARGUMENT."""
    check_fields(request)
    try:
        _text("request_id", request.request_id, MAX_NAME_BYTES, required=True)
        _text("billing_project", request.billing_project, MAX_NAME_BYTES, required=True)
        if request.n_jobs > MAX_JOBS:
            raise _Wrong("n_jobs", f"at most {MAX_JOBS:,} jobs in a batch, got {request.n_jobs:,}")
        if request.jobs and len(request.jobs) > MAX_WITH_BATCH:
            n = len(request.jobs)
            raise _Wrong(
                "jobs", f"at most {MAX_WITH_BATCH:,} jobs with their batch, got {n:,}: use SubmitJobs"
            )
        if request.jobs and len(request.jobs) != request.n_jobs:
            raise _Wrong("n_jobs", f"{len(request.jobs):,}, as many as jobs, got {request.n_jobs:,}")
        _attributes(request.attributes)
        if request.callback:
            _callback(request.callback, private=bounds.private_callbacks)
    except _Wrong as wrong:
        _refuse(wrong.path, wrong.what)
    content = batch_service_pb2.CreateBatchRequest()
    content.CopyFrom(request)
    content.ClearField("request_id")
    wanted = CreateBatch(
        user=user,
        billing_project=request.billing_project,
        request_id=request.request_id,
        request_sha256=hashlib.sha256(content.SerializeToString(deterministic=True)).digest(),
        n_jobs=request.n_jobs,
        attributes=dict(request.attributes),
        cancel_after_n_failures=min(request.cancel_after_n_failures, MAX_JOBS + 1),
        callback=request.callback,
        rerun_of=min(request.rerun_of, 2**63 - 1),
    )
    return wanted, _jobs(request.jobs, 1, bounds) if request.jobs else None


def update_batch(request: batch_service_pb2.UpdateBatchRequest, bounds: Bounds) -> UpdateBatch:
    """The jobs that are to be added. Refusal INVALID_ARGUMENT."""
    check_fields(request)
    try:
        _text("request_id", request.request_id, MAX_NAME_BYTES, required=True)
    except _Wrong as wrong:
        _refuse(wrong.path, wrong.what)
    if not request.first_job_id:
        _refuse("first_job_id", "required: the batch's n_jobs + 1, got 0")
    if not request.jobs:
        _refuse("jobs", "an update adds at least one job")
    if len(request.jobs) > MAX_WITH_BATCH:
        n = len(request.jobs)
        _refuse("jobs", f"at most {MAX_WITH_BATCH:,} jobs in an update, got {n:,}: use several")
    if request.first_job_id + len(request.jobs) - 1 > MAX_JOBS:
        _refuse("first_job_id", f"at most {MAX_JOBS:,} jobs in a batch, got {request.first_job_id:,}")
    content = batch_service_pb2.UpdateBatchRequest()
    content.CopyFrom(request)
    content.ClearField("request_id")
    return UpdateBatch(
        batch_id=request.batch_id,
        request_id=request.request_id,
        request_sha256=hashlib.sha256(content.SerializeToString(deterministic=True)).digest(),
        first_job_id=request.first_job_id,
        jobs=_jobs(request.jobs, request.first_job_id, bounds),
    )


def staged_jobs(request: batch_service_pb2.SubmitJobsRequest, bounds: Bounds) -> StagedJobs:
    """The bunch as columns. Refusal INVALID_ARGUMENT; whether the batch takes it is not asked here."""
    check_fields(request)
    first_job_id = request.first_job_id
    if not first_job_id:
        _refuse("first_job_id", "ids of jobs begin at 1, got 0")
    if not request.jobs:
        _refuse("jobs", "a bunch holds at least one job")
    if first_job_id + len(request.jobs) - 1 > MAX_JOBS:
        _refuse("first_job_id", f"at most {MAX_JOBS:,} jobs in a batch, got {first_job_id:,}")
    return _jobs(request.jobs, first_job_id, bounds)


def _jobs(jobs: Sequence[types_pb2.JobSpec], first_job_id: int, bounds: Bounds) -> StagedJobs:
    """The jobs as columns. Most have few fields, and most fields are like those of the job before: this is
    half of what submitting costs the service."""
    always_run, mcpu, retries = bytearray(), array("I"), array("I")
    parents: list[bytes] = []
    names: list[str] = []
    attributes: list[dict[str, str]] = []
    specs: list[bytes] = []
    sizes: dict[bytes, int] = {}
    for job_id, job in enumerate(jobs, first_job_id):
        try:
            _check_job(job, bounds)
            asked = job.resources.SerializeToString() if job.HasField("resources") else b""
            if asked not in sizes:
                sizes[asked] = _mcpu(job.resources, bounds)
            mcpu.append(sizes[asked])
            says_limits = job.HasField("max_preempted") or job.HasField("max_lost")
            limits = _retries(job) if says_limits else job.retries
            parents.append(_parents(job.parents, job_id) if job.parents else b"")
            spec = job.SerializeToString(deterministic=True)
            if len(spec) > MAX_SPEC_BYTES:
                raise _Wrong("", f"at most {MAX_SPEC_BYTES:,} bytes in one job, got {len(spec):,}")
        except _Wrong as wrong:
            path = f"jobs[{job_id - first_job_id}].{wrong.path}".rstrip(".")
            _refuse(path, f"{wrong.what} (job {job_id})")
        specs.append(spec)
        names.append(job.name)
        attributes.append(dict(job.attributes) if job.attributes else {})
        always_run.append(ALWAYS_RUN if job.always_run else 0)
        retries.append(limits)
    return StagedJobs(
        always_run=bytes(always_run),
        mcpu=mcpu,
        retries=retries,
        parents=parents,
        names=names,
        attributes=attributes,
        specs=specs,
    )


def reason(request: batch_service_pb2.CancelBatchRequest | batch_service_pb2.EndAttemptRequest) -> str:
    """Why somebody wants it."""
    check_fields(request)
    return text("reason", request.reason)


def text(path: str, value: str) -> str:
    """A few words of somebody's, as they are. Refusal INVALID_ARGUMENT when they are too many."""
    try:
        _text(path, value, MAX_NAME_BYTES)
    except _Wrong as wrong:
        _refuse(wrong.path, wrong.what)
    return value


def ended_attempt(request: batch_service_pb2.EndAttemptRequest) -> str:
    """The id of the attempt that is to end."""
    if not request.attempt_id or not _ATTEMPT_ID.fullmatch(request.attempt_id):
        _refuse("attempt_id", f"letters and digits, got {request.attempt_id!r}")
    return request.attempt_id


def page_size(request: Any) -> int:
    """Of a list."""
    check_fields(request)
    if request.page_size > MAX_PAGE:
        _refuse("page_size", f"0 (that is {DEFAULT_PAGE}) to {MAX_PAGE}, got {request.page_size}")
    return request.page_size or DEFAULT_PAGE


def query_so_far(request: batch_service_pb2.CompleteQueryRequest) -> tuple[str, int]:
    """The text, and where its cursor is."""
    check_fields(request)
    if len(request.text) > MAX_LENGTH:
        _refuse("text", f"at most {MAX_LENGTH:,} characters, got {len(request.text):,}")
    return request.text, min(request.cursor, len(request.text))


def failures_limit(request: batch_service_pb2.FailureGroupsRequest) -> int:
    check_fields(request)
    if request.limit > MAX_PAGE:
        _refuse("limit", f"0 (that is {DEFAULT_GROUPS}) to {MAX_PAGE}, got {request.limit}")
    return request.limit or DEFAULT_GROUPS


def job_states(request: batch_service_pb2.ListJobsRequest) -> list[JobState]:
    for i, state in enumerate(request.states):
        if state not in _JOB_STATES:
            _refuse(f"states[{i}]", f"{state} is no state of a job; they are {_words(JobState)}")
    return [JobState(state) for state in request.states]


def batches_query(text: str, now_ms: int, me: str) -> Query:
    return _query(lambda: parse_for_batches(text, now_ms, me))


def jobs_query(text: str, now_ms: int, states: Iterable[JobState] = ()) -> Query:
    """With ``states`` only jobs in one of them."""
    return _query(lambda: parse_for_jobs(text, now_ms)).in_states(states)


def batches_window(request: batch_service_pb2.BatchesWindow, now_ms: int, me: str) -> BatchesWindow:
    n = _window_size(request)
    anchor = min(request.anchor_batch_id, 2**63 - 1)
    query = batches_query(request.query, now_ms, me)
    return BatchesWindow(request.query, query, request.first, n, anchor)


def jobs_window(request: batch_service_pb2.JobsWindow, now_ms: int) -> JobsWindow:
    n = _window_size(request)
    query = jobs_query(request.query, now_ms)
    return JobsWindow(request.query, query, request.first, n, request.batch_id)


def log_query(request: batch_service_pb2.ReadLogRequest) -> LogQuery:
    _check_log(request)
    if request.offset and request.tail_bytes:
        _refuse("tail_bytes", "give offset or tail_bytes, not both")
    return LogQuery(
        batch_id=request.batch_id,
        job_id=request.job_id,
        attempt_id=request.attempt_id,
        container=ContainerName(request.container),
        offset=request.offset,
        limit=request.limit or None,
        tail_bytes=request.tail_bytes,
        follow=request.follow,
    )


def log_search(request: batch_service_pb2.SearchLogRequest) -> LogSearch:
    _check_log(request)
    text = request.text.encode()
    if not text or b"\n" in text or len(text) > MAX_NAME_BYTES:
        _refuse("text", f"1 to {MAX_NAME_BYTES:,} bytes of one line, got {request.text[:100]!r}")
    return LogSearch(
        batch_id=request.batch_id,
        job_id=request.job_id,
        attempt_id=request.attempt_id,
        container=ContainerName(request.container),
        text=text,
        offset=request.offset,
        backward=request.backward,
    )


def _check_log(request: batch_service_pb2.ReadLogRequest | batch_service_pb2.SearchLogRequest) -> None:
    check_fields(request)
    if request.container not in _CONTAINERS:
        _refuse("container", f"{request.container} is no container; they are {_words(ContainerName)}")
    if not _ATTEMPT_ID.fullmatch(request.attempt_id):
        _refuse("attempt_id", f"letters and digits, or nothing for the latest, got {request.attempt_id!r}")


def check_fields(request: Message) -> None:
    """Refuse fields that this service does not know: it would do less than was asked."""
    known = type(request)()
    known.CopyFrom(request)
    known.DiscardUnknownFields()
    if known.ByteSize() != request.ByteSize():
        path = _unknown_field(request, "")
        _refuse(path, "this service does not know the field; it may be older than its client")


# -- pieces ------------------------------------------------------------------------------------------

_JOB_STATES = frozenset(state.value for state in JobState)
_CONTAINERS = frozenset(name.value for name in ContainerName)
_ATTEMPT_ID = re.compile("[0-9A-Za-z]{0,64}")


def _window_size(request: batch_service_pb2.BatchesWindow | batch_service_pb2.JobsWindow) -> int:
    check_fields(request)
    if request.n > MAX_PAGE:
        _refuse("n", f"0 (that is {DEFAULT_PAGE}) to {MAX_PAGE}, got {request.n}")
    return request.n or DEFAULT_PAGE


def _query(parse: Callable[[], Query]) -> Query:
    try:
        return parse()
    except QueryError as error:
        _refuse("query", str(error))


def _check_job(job: types_pb2.JobSpec, bounds: Bounds) -> None:
    """All but its parents and its resources, which are looked at elsewhere."""
    _text("name", job.name, MAX_NAME_BYTES)
    if job.attributes:
        _attributes(job.attributes)
    if image := job.image:
        _text("image", image, MAX_NAME_BYTES)
    command = job.command
    if not command or not command[0]:
        raise _Wrong("command", 'a program and its arguments, e.g. ["bash", "-c", "echo hello"], got nothing')
    for argument in command:
        if "\0" in argument or len(argument) > MAX_STRING_BYTES // 4:
            _text(f"command[{list(command).index(argument)}]", argument, MAX_STRING_BYTES)
    if job.env:
        for name, value in job.env.items():
            if not name or "=" in name or "\0" in name:
                raise _Wrong("env", f"{name!r} cannot be the name of a variable")
            _text(f"env[{name!r}]", value, MAX_STRING_BYTES - len(name.encode()) - 1)
    if job.input_files or job.output_files:
        _files(job, bounds)
    if job.timeout_ms > MAX_TIMEOUT_MS:
        raise _Wrong("timeout_ms", f"0 (none) to {MAX_TIMEOUT_MS:,}, got {job.timeout_ms:,}")
    if job.retries > MAX_RETRIES:
        raise _Wrong("retries", f"0 to {MAX_RETRIES:,}, got {job.retries:,}")


def _retries(job: types_pb2.JobSpec) -> int:
    """Of a job that says more than how often its own failures are tried again."""
    for name in ("max_preempted", "max_lost"):
        most = getattr(job, name)
        if job.HasField(name) and not 0 < most <= MAX_RETRIES:
            raise _Wrong(name, f"1 (it is not tried again) to {MAX_RETRIES:,}, got {most:,}")
    return Retries.pack(job.retries, job.max_preempted, job.max_lost)


def _mcpu(asked: types_pb2.Resources, bounds: Bounds) -> int:
    mcpu = reserved_mcpu(asked.cpu_mcpu, asked.memory_bytes)
    if mcpu > bounds.largest_mcpu:
        raise _too_large(asked, mcpu, bounds.largest_mcpu)
    if asked.storage_bytes > MAX_STORAGE_BYTES:
        raise _Wrong("resources.storage_bytes", f"0 < … ≤ {MAX_STORAGE_BYTES:,}, got {asked.storage_bytes:,}")
    return mcpu


def _too_large(asked: types_pb2.Resources, mcpu: int, largest: int) -> _Wrong:
    memory = memory_of(largest)
    whole = f"the largest worker has {largest / 1000:g} cores and {memory / 1e9:g} GB"
    if (asked.cpu_mcpu or 1000) > largest:
        said = f"{asked.cpu_mcpu:,}" if asked.cpu_mcpu else "nothing, which means 1,000"
        return _Wrong("resources.cpu_mcpu", f"0 < … ≤ {largest:,}, got {said}: {whole}")
    return _Wrong(
        "resources.memory_bytes",
        f"0 < … ≤ {memory:,}, got {asked.memory_bytes:,}, which reserves {mcpu / 1000:g} cores: {whole}",
    )


def _parents(ids: Iterable[int], job_id: int) -> bytes:
    packed = array("I", ids)
    if len(set(packed)) != len(packed) or (packed and not (0 < min(packed) <= max(packed) < job_id)):
        seen: set[int] = set()
        for i, parent in enumerate(packed):
            if not parent:
                raise _Wrong(f"parents[{i}]", "there is no job 0; ids of jobs begin at 1")
            if parent >= job_id:
                which = "itself" if parent == job_id else f"the later job {parent}"
                raise _Wrong(f"parents[{i}]", f"a job depends only on jobs with smaller ids, not on {which}")
            if parent in seen:
                raise _Wrong(f"parents[{i}]", f"job {parent} is named twice")
            seen.add(parent)
    return packed.tobytes()


def _files(job: types_pb2.JobSpec, bounds: Bounds) -> None:
    for i, file in enumerate(job.input_files):
        _in_store(f"input_files[{i}].source", file.source, bounds.store_folder)
        _in_io(f"input_files[{i}].destination", file.destination)
    for i, file in enumerate(job.output_files):
        _in_io(f"output_files[{i}].source", file.source)
        _in_store(f"output_files[{i}].destination", file.destination, bounds.store_folder)


def _in_io(path: str, value: str) -> None:
    _path(path, value)
    if not value.startswith(IO + "/"):
        raise _Wrong(path, f"a path below {IO}, e.g. {IO}/data.txt, got {value!r}")


def _in_store(path: str, value: str, folder: str) -> None:
    if value.startswith("gs://"):
        raise _Wrong(
            path, f"{value!r}: gs:// is not supported by this service yet: it has a store folder ({folder})"
        )
    _path(path, value)
    if not value.startswith("/"):
        raise _Wrong(path, f"an absolute path in the store folder {folder}, got {value!r}")
    if not (value + "/").startswith(folder.rstrip("/") + "/"):
        raise _Wrong(path, f"a path in the store folder {folder}, got {value!r}")


def _path(path: str, value: str) -> None:
    _text(path, value, MAX_PATH_BYTES, required=True)
    if ".." in value.split("/"):
        raise _Wrong(path, f"a path without '..', got {value!r}")


def _attributes(attributes: Mapping[str, str]) -> None:
    size = 0
    for name, value in attributes.items():
        if not name:
            raise _Wrong("attributes", "the name of an attribute is empty")
        if "\0" in name:
            raise _Wrong("attributes", f"{name!r} holds a NUL character")
        if "\0" in value:
            raise _Wrong(f"attributes[{name!r}]", f"{value!r} holds a NUL character")
        size += len(name.encode()) + len(value.encode())
    if size > MAX_ATTRIBUTES_BYTES:
        raise _Wrong(
            "attributes", f"at most {MAX_ATTRIBUTES_BYTES:,} bytes of names and values, got {size:,}"
        )


def _callback(url: str, *, private: bool) -> None:
    try:
        target_of(url, private=private)
    except ValueError as wrong:
        raise _Wrong("callback", str(wrong)) from None


def _text(path: str, value: str, most: int, *, required: bool = False) -> None:
    if required and not value:
        raise _Wrong(path, "required, got nothing")
    if "\0" in value:
        raise _Wrong(path, f"{value[:100]!r} holds a NUL character")
    if len(value) > most // 4 and (size := len(value.encode())) > most:
        raise _Wrong(path, f"at most {most:,} bytes, got {size:,}")


def _unknown_field(message: Message, path: str) -> str:
    """The path of the first field that is not known; the message's own if it is hidden in a map."""
    if len(unknown := UnknownFieldSet(message)):
        return f"{path}{unknown[0].field_number}"
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if not field.is_repeated:
            items = [(f"{path}{field.name}.", value)]
        else:
            items = [(f"{path}{field.name}[{i}].", item) for i, item in enumerate(value)]
        for inner, item in items:
            if found := _unknown_field(item, inner):
                return found
    return ""


def _words(enum: type[IntEnum]) -> str:
    return ", ".join(f"{member.value} ({member.name.lower()})" for member in enum)


def _refuse(path: str, what: str) -> NoReturn:
    raise Refusal(RefusalKind.INVALID_ARGUMENT, f"{path}: {what}")
