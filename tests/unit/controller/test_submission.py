"""What users send is refused with the path of the field, the value, and what would be accepted."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types
from longshore_controller.core.model import ALWAYS_RUN, ContainerName, JobState, Refusal, RefusalKind
from longshore_controller.wire import submission
from longshore_controller.wire.submission import Bounds

BOUNDS = Bounds(store_folder="/srv/store", largest_mcpu=16_000)
INPUT = types.FileCopy(source="/srv/store/a b", destination="/io/a")
OUTPUT = types.FileCopy(source="/io/a", destination="/srv/store/out/")


def job(**fields: object) -> types.JobSpec:
    return types.JobSpec(**{"command": ["true"], **fields})  # type: ignore[arg-type]


def bunch(*jobs: types.JobSpec, first: int = 1) -> pb.SubmitJobsRequest:
    return pb.SubmitJobsRequest(batch_id=1, first_job_id=first, jobs=jobs)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as refusal:
        call()
    assert refusal.value.kind is RefusalKind.INVALID_ARGUMENT
    return refusal.value.message


def copies(**fields: str) -> types.FileCopy:
    return types.FileCopy(**{"source": "/srv/store/a", "destination": "/io/a", **fields})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (job(name="x" * 1025), "name: at most 1,024 bytes, got 1,025"),
        (job(name="ä" * 513), "name: at most 1,024 bytes, got 1,026"),
        (job(name="a\0b"), "name: 'a\\x00b' holds a NUL character"),
        (job(attributes={"": "x"}), "attributes: the name of an attribute is empty"),
        (job(attributes={"a\0": "x"}), "attributes: 'a\\x00' holds a NUL"),
        (job(attributes={"a": "x\0"}), "attributes['a']: 'x\\x00' holds a NUL"),
        (job(attributes={"a": "x" * 65_536}), "attributes: at most 65,536 bytes"),
        (job(image="x\0"), "image: 'x\\x00' holds a NUL"),
        (job(command=[]), 'command: a program and its arguments, e.g. ["bash"'),
        (job(command=["", "x"]), "command: a program and its arguments"),
        (job(command=["a", "b\0"]), "command[1]: 'b\\x00' holds a NUL"),
        (job(command=["a", "x" * 131_072]), "command[1]: at most 131,071 bytes, got 131,072"),
        (job(env={"A=B": "x"}), "env: 'A=B' cannot be the name of a variable"),
        (job(env={"": "x"}), "env: '' cannot be the name of a variable"),
        (job(env={"A": "\0"}), "env['A']: '\\x00' holds a NUL"),
        (job(env={"A": "x" * 131_070}), "env['A']: at most 131,069 bytes, got 131,070"),
        (
            job(resources=types.Resources(cpu_mcpu=16_001)),
            "resources.cpu_mcpu: 0 < … ≤ 16,000, got 16,001: the largest worker has 16 cores and 60 GB",
        ),
        (
            job(resources=types.Resources(memory_bytes=60_000_000_001)),
            "resources.memory_bytes: 0 < … ≤ 60,000,000,000, got 60,000,000,001, which reserves 17 cores: "
            "the largest worker has 16 cores",
        ),
        (job(resources=types.Resources(storage_bytes=2**63)), "resources.storage_bytes: 0 < … ≤"),
        (job(parents=[0]), "parents[0]: there is no job 0"),
        (job(parents=[1, 7]), "parents[1]: a job depends only on jobs with smaller ids, not on itself"),
        (
            job(parents=[1, 8]),
            "parents[1]: a job depends only on jobs with smaller ids, not on the later job 8",
        ),
        (job(parents=[1, 2, 1]), "parents[2]: job 1 is named twice"),
        (job(timeout_ms=2**63), "timeout_ms: 0 (none) to "),
        (job(retries=1001), "retries: 0 to 1,000, got 1,001"),
        (
            job(input_files=[INPUT, copies(source="gs://b/x")]),
            "input_files[1].source: 'gs://b/x': gs:// is not ",
        ),
        (
            job(input_files=[copies(source="relative")]),
            "input_files[0].source: an absolute path in the store",
        ),
        (
            job(input_files=[copies(source="/srv/storey")]),
            "input_files[0].source: a path in the store folder",
        ),
        (job(input_files=[copies(source="/srv/store/../x")]), "input_files[0].source: a path without '..'"),
        (job(input_files=[copies(source="")]), "input_files[0].source: required, got nothing"),
        (
            job(input_files=[copies(source="/srv/store/\0")]),
            "input_files[0].source: '/srv/store/\\x00' holds",
        ),
        (
            job(input_files=[copies(destination="/etc/passwd")]),
            "input_files[0].destination: a path below /io",
        ),
        (
            job(input_files=[copies(destination="/io/../x")]),
            "input_files[0].destination: a path without '..'",
        ),
        (job(input_files=[copies(destination="/io")]), "input_files[0].destination: a path below /io"),
        (job(output_files=[copies()]), "output_files[0].source: a path below /io"),
        (
            job(output_files=[types.FileCopy(source="/io/a", destination="/home/x")]),
            "output_files[0].destination: a path in the store folder /srv/store, got '/home/x'",
        ),
        (job(command=["x" * 131_071] * 65), ": at most 8,388,608 bytes in one job, got 8,"),
    ],
    ids=lambda value: value.split(":")[0][:40] if isinstance(value, str) else "",
)
def test_a_wrong_job_is_refused_by_the_path_of_its_field(wrong: types.JobSpec, message: str) -> None:
    said = refused(lambda: submission.staged_jobs(bunch(job(), job(), wrong, first=5), BOUNDS))
    dot = "" if message.startswith(":") else "."
    assert said.startswith(f"jobs[2]{dot}{message}"), said
    assert said.endswith("(job 7)")


def test_a_good_bunch_becomes_columns_and_bytes() -> None:
    jobs = [
        job(name="a", resources=types.Resources(memory_bytes=7 * 10**9), attributes={"k": "v"}),
        job(parents=[3, 1], always_run=True, retries=2, input_files=[INPUT], output_files=[OUTPUT]),
    ]
    staged = submission.staged_jobs(bunch(*jobs, first=4), BOUNDS)
    assert list(staged.mcpu) == [2000, 1000]
    assert list(staged.retries) == [0, 2]
    assert staged.always_run == bytes([0, ALWAYS_RUN])
    assert staged.parents == [b"", array("I", [3, 1]).tobytes()]
    assert (staged.names, staged.attributes) == (["a", ""], [{"k": "v"}, {}])
    assert [types.JobSpec.FromString(spec) for spec in staged.specs] == jobs


def test_the_same_job_is_the_same_bytes_however_its_maps_were_filled() -> None:
    names = [str(i) for i in range(50)]
    one, other = (job(env=dict.fromkeys(order, "x")) for order in (names, names[::-1]))
    staged = submission.staged_jobs(bunch(one, other), BOUNDS)
    assert staged.specs[0] == staged.specs[1]


def test_a_worker_smaller_than_one_core_has_no_room_for_a_job_that_asks_for_nothing() -> None:
    said = refused(lambda: submission.staged_jobs(bunch(job()), Bounds("/", 500)))
    assert said.startswith("jobs[0].resources.cpu_mcpu: 0 < … ≤ 500, got nothing, which means 1,000")


@pytest.mark.parametrize("path", ["/", "/etc/passwd", "/a/…b"])
def test_a_store_that_is_the_whole_machine_holds_every_absolute_path(path: str) -> None:
    one = job(input_files=[types.FileCopy(source=path, destination="/io/a")])
    submission.staged_jobs(bunch(one), Bounds("/", 1000))


def test_a_bunch_says_where_it_begins_and_is_not_empty() -> None:
    assert refused(lambda: submission.staged_jobs(bunch(job(), first=0), BOUNDS)).startswith("first_job_id:")
    assert refused(lambda: submission.staged_jobs(bunch(), BOUNDS)).startswith("jobs:")
    last = bunch(job(), job(), first=submission.MAX_JOBS)
    assert refused(lambda: submission.staged_jobs(last, BOUNDS)).startswith("first_job_id:")


def with_unknown_field(message: types.JobSpec) -> types.JobSpec:
    return types.JobSpec.FromString(message.SerializeToString() + b"\xf8\x3f\x01")


def test_a_field_that_is_not_known_is_refused_wherever_it_is() -> None:
    deep = job(input_files=[INPUT, types.FileCopy.FromString(INPUT.SerializeToString() + b"\xf8\x3f\x01")])
    told = "this service does not know the field"
    for wrong, path in [(with_unknown_field(job()), "jobs[1].1023"), (deep, "jobs[1].input_files[1].1023")]:
        said = refused(lambda wrong=wrong: submission.staged_jobs(bunch(job(), wrong), BOUNDS))  # type: ignore[misc]
        assert said.startswith(f"{path}: {told}")
    request = pb.CreateBatchRequest(request_id="a", billing_project="b")
    request.MergeFromString(b"\xf8\x3f\x01")
    assert refused(lambda: submission.create_batch(request, "ada", BOUNDS)).startswith(f"1023: {told}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request_id": ""}, "request_id: required"),
        ({"request_id": "x" * 2000}, "request_id: at most 1,024 bytes"),
        ({"billing_project": ""}, "billing_project: required"),
        ({"billing_project": "a\0"}, "billing_project: 'a\\x00' holds a NUL"),
        ({"n_jobs": 2**32 - 1}, "n_jobs: at most 10,000,000 jobs in a batch, got 4,294,967,295"),
        ({"attributes": {"": "x"}}, "attributes: the name of an attribute is empty"),
    ],
)
def test_a_wrong_batch_is_refused_by_the_path_of_its_field(fields: dict[str, object], message: str) -> None:
    request = pb.CreateBatchRequest(**{"request_id": "r", "billing_project": "p", **fields})  # type: ignore[arg-type]
    assert refused(lambda: submission.create_batch(request, "ada", BOUNDS)).startswith(message)


def test_the_content_of_a_request_is_all_but_its_id() -> None:
    def content(**fields: object) -> bytes:
        request = pb.CreateBatchRequest(**{"request_id": "r", "billing_project": "p", **fields})  # type: ignore[arg-type]
        return submission.create_batch(request, "ada", BOUNDS)[0].request_sha256

    assert content() == content(request_id="other")
    different = {content(), content(n_jobs=1), content(billing_project="q"), content(attributes={"a": "b"})}
    assert len(different) == 4


def test_numbers_that_are_no_state_and_no_container_are_refused() -> None:
    states = pb.ListJobsRequest(states=[4, 99])  # type: ignore[list-item]
    assert refused(lambda: submission.job_states(states)).startswith("states[1]: 99 is no state of a job")
    log = pb.ReadLogRequest(container=9)  # type: ignore[arg-type]
    assert refused(lambda: submission.log_query(log)).startswith("container: 9 is no container")
    assert refused(lambda: submission.log_query(pb.ReadLogRequest())).startswith("container: 0")


def test_what_is_asked_of_a_log_is_read() -> None:
    request = pb.ReadLogRequest(batch_id=1, job_id=2, container=types.CONTAINER_MAIN, limit=5, follow=True)
    query = submission.log_query(request)
    assert (query.container, query.limit, query.follow) == (ContainerName.MAIN, 5, True)
    both = pb.ReadLogRequest(container=types.CONTAINER_MAIN, offset=1, tail_bytes=1)
    assert refused(lambda: submission.log_query(both)).startswith("tail_bytes:")
    strange = pb.ReadLogRequest(container=types.CONTAINER_MAIN, attempt_id="a\0")
    assert refused(lambda: submission.log_query(strange)).startswith("attempt_id:")


def test_pages_have_a_default_and_a_limit() -> None:
    assert submission.page_size(pb.ListBatchesRequest()) == 50
    assert submission.page_size(pb.ListJobsRequest(page_size=1000)) == 1000
    assert refused(lambda: submission.page_size(pb.ListJobsRequest(page_size=1001))).startswith("page_size:")
    assert submission.job_states(pb.ListJobsRequest(states=[types.JOB_STATE_ERROR])) == [JobState.ERROR]


TEXT = st.text(max_size=20)
MESSAGES = st.builds(
    types.JobSpec,
    name=TEXT,
    image=TEXT,
    command=st.lists(TEXT, max_size=3),
    env=st.dictionaries(TEXT, TEXT, max_size=2),
    attributes=st.dictionaries(TEXT, TEXT, max_size=2),
    parents=st.lists(st.integers(0, 2**32 - 1), max_size=3),
    resources=st.builds(
        types.Resources,
        cpu_mcpu=st.integers(0, 2**32 - 1),
        memory_bytes=st.integers(0, 2**64 - 1),
        storage_bytes=st.integers(0, 2**64 - 1),
    ),
    input_files=st.lists(st.builds(types.FileCopy, source=TEXT, destination=TEXT), max_size=2),
    timeout_ms=st.integers(0, 2**64 - 1),
    retries=st.integers(0, 2**32 - 1),
)


@given(st.lists(MESSAGES, max_size=3), st.integers(0, 2**32 - 1))
def test_whatever_is_sent_is_taken_whole_or_refused_by_path(jobs: list[types.JobSpec], first: int) -> None:
    try:
        staged = submission.staged_jobs(bunch(*jobs, first=first), BOUNDS)
    except Refusal as refusal:
        assert refusal.kind is RefusalKind.INVALID_ARGUMENT
        assert re.match(r"(jobs(\[\d\])?|first_job_id)", refusal.message)
    else:
        assert len(staged) == len(jobs)
        assert all(0 < mcpu <= BOUNDS.largest_mcpu for mcpu in staged.mcpu)


def test_jobs_that_come_with_their_batch_are_checked_like_others() -> None:
    def create(n_jobs: int, *jobs: types.JobSpec) -> object:
        request = pb.CreateBatchRequest(request_id="r", billing_project="p", n_jobs=n_jobs, jobs=jobs)
        return submission.create_batch(request, "ada", BOUNDS)

    assert refused(lambda: create(2, job())).startswith("n_jobs: 1, as many as jobs, got 2")
    assert refused(lambda: create(1001, *[job()] * 1001)).startswith("jobs: at most 1,000")
    assert refused(lambda: create(2, job(), job(command=[]))).startswith("jobs[1].command: a program")
