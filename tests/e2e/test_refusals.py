"""Bad requests over the wire, as no client of ours would send them: refused by the path of what is wrong, and
nothing is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from faults.cluster import Cluster, running
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1.batch_service_pb2_grpc import BatchServiceStub

UNKNOWN_FIELD = b"\xf8\x3f\x01"
"""Number 1023, of which nobody knows what it asks for."""


NEW_ROWS = {"bunch": 1, "job_spec": 2, "job": 2}
"""Of a bunch of two jobs that is not refused."""


@dataclass(frozen=True)
class Refusing:
    """A service, the calls to it, and what it has stored."""

    channel: grpc.Channel
    metadata: tuple[tuple[str, str], ...]
    database: str
    store: str

    @property
    def call(self) -> BatchServiceStub:
        return BatchServiceStub(self.channel)

    def create(self, **fields: Any) -> int:
        wanted: dict[str, Any] = {"request_id": uuid4().hex, "billing_project": "test", "n_jobs": 4, **fields}
        return self.call.CreateBatch(pb.CreateBatchRequest(**wanted), metadata=self.metadata).batch_id

    def submit(self, *bunches: pb.SubmitJobsRequest) -> int:
        return self.call.SubmitJobs(iter(bunches), metadata=self.metadata).n_jobs

    def stored(self) -> dict[str, int]:
        """How many rows there are in each table."""
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        connect: Callable[[str], Any] = sqlite3.connect
        place = self.database.removeprefix("sqlite:///")
        if self.database.startswith("postgresql:"):
            tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            connect = psycopg.connect
        connection = connect(place)
        try:
            found = connection.execute(tables).fetchall()
            names = [name for (name,) in found if name != "audit"]  # Refusals are kept there.
            assert {"batch", "bunch", "job", "job_spec", "event_log"} <= set(names)
            return {
                name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names
            }
        finally:
            connection.close()

    def refused(self, call: Callable[[], object], code: grpc.StatusCode) -> str:
        """What is said; nothing was stored meanwhile."""
        before = self.stored()
        with pytest.raises(grpc.RpcError) as refusal:
            call()
        assert self.stored() == before
        assert refusal.value.code() is code, refusal.value.details()
        return str(refusal.value.details())


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    folder = tmp_path_factory.mktemp("refusing")
    store = folder / "the store"
    store.mkdir()
    database = ""
    if request.param == "postgres":
        database = request.getfixturevalue("postgres_server").new_database()
    with running(Cluster(folder, database, store=store)) as cluster:
        with cluster.client() as client:
            client.create_batch().submit()  # It repeats what comes before the service has loaded.
        token = (folder / "owner.token").read_text().strip()
        with grpc.insecure_channel(f"unix:{folder / 'socket'}") as channel:
            metadata = (("authorization", f"Bearer {token}"),)
            yield Refusing(channel, metadata, cluster.database, str(store))


def job(**fields: Any) -> types.JobSpec:
    wanted: dict[str, Any] = {"command": ["true"], **fields}
    return types.JobSpec(**wanted)


def resources(**fields: int) -> types.JobSpec:
    return job(resources=types.Resources(**fields))


def copy(source: str, destination: str) -> types.FileCopy:
    return types.FileCopy(source=source, destination=destination)


def with_bytes(message: types.JobSpec, more: bytes) -> types.JobSpec:
    return types.JobSpec.FromString(message.SerializeToString() + more)


IN = copy("{store}/a b", "/io/a")
OUT = copy("/io/a", "{store}/out/")
LARGEST = "the largest worker has 16 cores and 60 GB"

WRONG_JOBS = [
    # Parents. The job is the third one; ids of other batches cannot even be written.
    (job(parents=[0]), ".parents[0]: there is no job 0; ids of jobs begin at 1"),
    (job(parents=[1, 3]), ".parents[1]: a job depends only on jobs with smaller ids, not on itself"),
    (job(parents=[4]), ".parents[0]: a job depends only on jobs with smaller ids, not on the later job 4"),
    (job(parents=[2, 4_000_000_000]), ".parents[1]: a job depends only on jobs with smaller ids"),
    (job(parents=[1, 2, 1]), ".parents[2]: job 1 is named twice"),
    # What it is to run.
    (job(command=[]), ".command: a program and its arguments"),
    (job(command=["", "x"]), ".command: a program and its arguments"),
    (job(command=["echo", "a\0b"]), ".command[1]: 'a\\x00b' holds a NUL character"),
    (job(command=["echo", "x" * 131_072]), ".command[1]: at most 131,071 bytes, got 131,072"),
    (job(image="x\0"), ".image: 'x\\x00' holds a NUL character"),
    (job(image="x" * 1_025), ".image: at most 1,024 bytes, got 1,025"),
    (job(env={"": "x"}), ".env: '' cannot be the name of a variable"),
    (job(env={"A=B": "x"}), ".env: 'A=B' cannot be the name of a variable"),
    (job(env={"A\0": "x"}), ".env: 'A\\x00' cannot be the name of a variable"),
    (job(env={"A": "\0"}), ".env['A']: '\\x00' holds a NUL character"),
    (job(env={"A": "x" * 131_070}), ".env['A']: at most 131,069 bytes, got 131,070"),
    (job(command=["x" * 131_071] * 65), ": at most 8,388,608 bytes in one job, got 8,5"),
    # What it is called.
    (job(name="x" * 1_025), ".name: at most 1,024 bytes, got 1,025"),
    (job(name="ü" * 513), ".name: at most 1,024 bytes, got 1,026"),
    (job(name="\0"), ".name: '\\x00' holds a NUL character"),
    (job(attributes={"": "x"}), ".attributes: the name of an attribute is empty"),
    (job(attributes={"a\0": ""}), ".attributes: 'a\\x00' holds a NUL character"),
    (job(attributes={"a": "\0"}), ".attributes['a']: '\\x00' holds a NUL character"),
    (
        job(attributes={"a": "x" * 65_536}),
        ".attributes: at most 65,536 bytes of names and values, got 65,537",
    ),
    # More than there is.
    (resources(cpu_mcpu=16_001), f".resources.cpu_mcpu: 0 < … ≤ 16,000, got 16,001: {LARGEST}"),
    (resources(cpu_mcpu=2**32 - 1), f".resources.cpu_mcpu: 0 < … ≤ 16,000, got 4,294,967,295: {LARGEST}"),
    (
        resources(memory_bytes=60_000_000_001),
        ".resources.memory_bytes: 0 < … ≤ 60,000,000,000, got 60,000,000,001, which reserves 17 cores: "
        + LARGEST,
    ),
    (
        resources(memory_bytes=2**64 - 1),
        ".resources.memory_bytes: 0 < … ≤ 60,000,000,000, got 18,446,",
    ),
    (resources(storage_bytes=2**64 - 1), ".resources.storage_bytes: 0 < … ≤ 1,125,899,906,842,624, got 18,"),
    (job(timeout_ms=2**64 - 1), ".timeout_ms: 0 (none) to 31,622,400,000, got 18,446,744,073,709,551,615"),
    (job(retries=1_001), ".retries: 0 to 1,000, got 1,001"),
    # Files: the store on one side, /io on the other.
    (job(input_files=[copy("", "/io/a")]), ".input_files[0].source: required, got nothing"),
    (
        job(input_files=[IN, copy("a", "/io/a")]),
        ".input_files[1].source: an absolute path in the",
    ),
    (
        job(input_files=[copy("/etc/passwd", "/io/a")]),
        ".input_files[0].source: a path in the store folder {store}",
    ),
    (
        job(input_files=[copy("{store}2/a", "/io/a")]),
        ".input_files[0].source: a path in the store folder {store}",
    ),
    (job(input_files=[copy("{store}/../a", "/io/a")]), ".input_files[0].source: a path without '..'"),
    (job(input_files=[copy("{store}/a\0", "/io/a")]), ".input_files[0].source: '{store}/a\\x00' holds a NUL"),
    (
        job(input_files=[copy("gs://b/a", "/io/a")]),
        ".input_files[0].source: 'gs://b/a': gs:// is not",
    ),
    (
        job(input_files=[copy("{store}/" + "x" * 4_096, "/io/a")]),
        ".input_files[0].source: at most 4,095",
    ),
    (job(input_files=[copy("{store}/a", "")]), ".input_files[0].destination: required, got nothing"),
    (job(input_files=[copy("{store}/a", "/io")]), ".input_files[0].destination: a path below /io"),
    (job(input_files=[copy("{store}/a", "/iota")]), ".input_files[0].destination: a path below /io"),
    (job(input_files=[copy("{store}/a", "/io/../a")]), ".input_files[0].destination: a path without '..'"),
    (job(output_files=[OUT, copy("/etc/passwd", "{store}/a")]), ".output_files[1].source: a path below /io"),
    (job(output_files=[copy("/io/..", "{store}/a")]), ".output_files[0].source: a path without '..'"),
    (
        job(output_files=[copy("/io/a", "/etc/a")]),
        ".output_files[0].destination: a path in the store folder",
    ),
    (job(output_files=[copy("/io/a", "{store}/../a")]), ".output_files[0].destination: a path without '..'"),
    (job(output_files=[copy("/io/a", "")]), ".output_files[0].destination: required, got nothing"),
    # What this service does not know, and what is of another type than it knows.
    (with_bytes(job(), UNKNOWN_FIELD), ".1023: this service does not know the field"),
    (with_bytes(job(), b"\x20\x01"), ".4: this service does not know the field"),
    (
        job(input_files=[IN, types.FileCopy.FromString(UNKNOWN_FIELD)]),
        ".input_files[1].1023: this service does not know the field",
    ),
    (
        job(resources=types.Resources.FromString(UNKNOWN_FIELD)),
        ".resources.1023: this service does not know the field",
    ),
]


def paths(cases: Iterable[tuple[object, str]]) -> list[str]:
    return [said.split(":")[0] for _, said in cases]


def of_store(wrong: types.JobSpec, store: str) -> types.JobSpec:
    placed = types.JobSpec.FromString(wrong.SerializeToString())
    for file in (*placed.input_files, *placed.output_files):
        file.source = file.source.replace("{store}", store)
        file.destination = file.destination.replace("{store}", store)
    return placed


@pytest.mark.parametrize(("wrong", "said"), WRONG_JOBS, ids=paths(WRONG_JOBS))
def test_a_wrong_job_is_refused_by_its_path_and_the_bunch_with_it(
    service: Refusing, wrong: types.JobSpec, said: str
) -> None:
    batch_id = service.create()
    bunch = [job(), job(name="good"), of_store(wrong, service.store), job()]
    request = pb.SubmitJobsRequest(batch_id=batch_id, first_job_id=1, jobs=bunch)
    told = service.refused(lambda: service.submit(request), grpc.StatusCode.INVALID_ARGUMENT)
    assert told.startswith(f"jobs[2]{said.replace('{store}', service.store)}"), told


WRONG_BATCHES = [
    ({"request_id": ""}, "request_id: required, got nothing"),
    ({"request_id": "x" * 1_025}, "request_id: at most 1,024 bytes, got 1,025"),
    ({"request_id": "\0"}, "request_id: '\\x00' holds a NUL character"),
    ({"billing_project": ""}, "billing_project: required, got nothing"),
    ({"billing_project": "x" * 1_025}, "billing_project: at most 1,024 bytes"),
    ({"billing_project": "a\0"}, "billing_project: 'a\\x00' holds a NUL character"),
    ({"n_jobs": 10_000_001}, "n_jobs: at most 10,000,000 jobs in a batch, got 10,000,001"),
    ({"attributes": {"": "x"}}, "attributes: the name of an attribute is empty"),
    ({"attributes": {"name": "a\0"}}, "attributes['name']: 'a\\x00' holds a NUL character"),
    ({"attributes": {"a": "x" * 65_536}}, "attributes: at most 65,536 bytes of names and values, got 65,537"),
]


@pytest.mark.parametrize(
    ("wrong", "said"), WRONG_BATCHES, ids=[said.split(":")[0] for _, said in WRONG_BATCHES]
)
def test_a_wrong_batch_is_refused_by_its_path(service: Refusing, wrong: dict[str, Any], said: str) -> None:
    told = service.refused(lambda: service.create(**wrong), grpc.StatusCode.INVALID_ARGUMENT)
    assert told.startswith(said), told


def test_a_bunch_is_refused_where_its_batch_has_no_room_for_it(service: Refusing) -> None:
    batch_id = service.create()

    def told(first: int, n: int) -> str:
        bunch = pb.SubmitJobsRequest(batch_id=batch_id, first_job_id=first, jobs=[job()] * n)
        return service.refused(lambda: service.submit(bunch), grpc.StatusCode.INVALID_ARGUMENT)

    assert told(0, 1).startswith("first_job_id: ids of jobs begin at 1, got 0")
    assert told(1, 0).startswith("jobs: a bunch holds at least one job")
    assert told(1, 5).startswith(f"jobs: ids 1 to 5, but batch {batch_id} was created with n_jobs = 4")
    assert told(2**32 - 1, 1).startswith(
        "first_job_id: at most 10,000,000 jobs in a batch, got 4,294,967,295"
    )


def test_no_bunch_goes_where_there_is_no_batch(service: Refusing) -> None:
    for nobodys in (0, service.create() + 1, 2**64 - 1):
        bunch = pb.SubmitJobsRequest(batch_id=nobodys, first_job_id=1, jobs=[job()])
        told = service.refused(partial(service.submit, bunch), grpc.StatusCode.NOT_FOUND)
        assert told == f"there is no batch {nobodys}"


def test_what_is_stored_or_closed_stays_as_it_is(service: Refusing) -> None:
    batch_id = service.create()

    def submit(*jobs: types.JobSpec, first: int = 1) -> int:
        return service.submit(pb.SubmitJobsRequest(batch_id=batch_id, first_job_id=first, jobs=jobs))

    def close() -> None:
        service.call.CloseBatch(pb.CloseBatchRequest(batch_id=batch_id), metadata=service.metadata)

    good = [job(name="one"), job(name="two", parents=[1])]
    before = service.stored()
    assert submit(*good) == 2
    assert service.stored() == {**before, **{name: before[name] + n for name, n in NEW_ROWS.items()}}
    told = service.refused(close, grpc.StatusCode.FAILED_PRECONDITION)
    assert told.startswith(f"2 of the 4 jobs of batch {batch_id} are missing, the first is job 3")
    for other in ([job(name="other"), good[1]], [good[0]], [*good, job()]):
        told = service.refused(partial(submit, *other), grpc.StatusCode.ALREADY_EXISTS)
        assert told.startswith(f"batch {batch_id} has other jobs under some of the ids 1 to {len(other)}")
    before = service.stored()
    assert submit(*good) == 2 and service.stored() == before, "the same again is no error"
    submit(job(), job(parents=[3]), first=3)
    close()
    told = service.refused(lambda: submit(job(), first=4), grpc.StatusCode.FAILED_PRECONDITION)
    assert told.startswith(f"batch {batch_id} is closed")


def test_what_cannot_be_read_is_refused(service: Refusing) -> None:
    bunch = pb.SubmitJobsRequest(batch_id=service.create(), first_job_id=1, jobs=[job(name="marker")])
    no_text = bunch.SerializeToString().replace(b"marker", b"\xff" * 6)
    call: Callable[..., object] = service.channel.stream_unary("/longshore_api.v1.BatchService/SubmitJobs")
    for bad, code, said in [
        (no_text, grpc.StatusCode.INVALID_ARGUMENT, "UTF-8"),
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "cannot be read"),
        (bytes(17 << 20), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    ]:
        told = service.refused(partial(call, iter([bad]), metadata=service.metadata), code)
        assert said in told
