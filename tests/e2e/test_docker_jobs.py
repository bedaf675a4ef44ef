"""What becomes of a job in real containers, as its user sees it: state, exit code, reason, log, files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from embedded import Up, running
from faults.cluster import until
from longshore import Batch, Client, JobStatus, NotFound
from registry import empty_registry

pytestmark = pytest.mark.docker

TOO_MUCH = "x = b'x' * 600_000_000"
SMALL = {"cpu": 0.1}
"""A tenth of a core comes with 375 MB."""

Add = Callable[..., int]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), "--runtime", "docker", "--cores", "2") as up:
        yield up


@pytest.fixture(scope="module")
def client(service: Up) -> Iterator[Client]:
    address = json.loads((service.folder / "service.json").read_text())
    with Client("test", endpoint=address["endpoint"], token=address["token"]) as client:
        yield client


def run(client: Client, *jobs: dict[str, Any]) -> list[JobStatus]:
    """What became of each of these jobs."""
    batch = submit(client, *jobs)
    batch.wait(timeout=60)
    return [batch.job(job_id).status() for job_id in range(1, len(jobs) + 1)]


def submit(client: Client, *jobs: dict[str, Any]) -> Batch:
    builder = client.create_batch()
    for job in jobs:
        builder.create_job(**job)
    return builder.submit()


def bash(script: str, **fields: Any) -> dict[str, Any]:
    return {"image": None, "command": ["bash", "-ec", script], **fields}


def ended(job: JobStatus) -> tuple[str, int | None, str]:
    return job.state, job.exit_code, job.reason


def log(client: Client, job: JobStatus, container: str = "main") -> bytes:
    """All of it, also when it is still on its way."""
    log = client.get_batch(job.batch_id).job(job.job_id).log(container)
    return b"".join(chunk.data for chunk in log.chunks(follow=True, timeout=30))


def containers_of(docker_client: DockerClient, job: JobStatus) -> list[Any]:
    """Also those that have ended."""
    label = f"longshore.attempt={job.attempts[-1].id}"
    found: list[Any] = docker_client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
    return found


def running_main(client: Client, batch: Batch) -> JobStatus:
    """Its only job, whose command has said something."""
    job = batch.job(1)
    until(lambda: job.status().state == "Running")
    next(job.log().chunks(follow=True, timeout=60))
    return job.status()


def test_each_exit_code_is_kept_and_no_container(client: Client, docker_client: DockerClient) -> None:
    codes = [0, 1, 3, 255]
    jobs = run(client, *[bash(f"exit {code}") for code in codes])
    assert [ended(job) for job in jobs] == [
        ("Success", 0, ""),
        *[("Failure", code, "") for code in codes[1:]],
    ]
    until(lambda: not any(containers_of(docker_client, job) for job in jobs))


def test_an_image_that_cannot_be_had_is_an_error_that_names_it(client: Client) -> None:
    with empty_registry() as registry:
        wanted = {
            f"{registry}/gone/image:1": "image not found",
            f"{registry}/secret/image:1": "image no access",
            "127.0.0.1:9/nobody/listens:1": "image unreachable",
            "Not/Lower": "image bad name",
            "two words": "image bad name",
        }
        jobs = run(client, *[{"image": image, "command": ["true"]} for image in wanted])
    for job, (image, kind) in zip(jobs, wanted.items(), strict=True):
        assert (job.state, job.exit_code, job.duration_ms, job.cost_nanousd) == ("Error", None, 0, 0)
        assert repr(image) in job.reason
        main = job.containers["main"]
        assert (main.state, main.error_kind, main.error) == ("Error", kind, job.reason)
        assert main.pull_started_ms is not None and main.started_ms is None
        assert len(job.attempts) == 1, "what is the user's is not tried again"


def test_a_command_that_is_not_in_the_image_is_an_error(client: Client) -> None:
    missing, folder = run(
        client,
        {"image": None, "command": ["no-such-program", "x"]},
        {"image": None, "command": ["/usr"]},
    )
    for job in (missing, folder):
        assert (job.state, job.containers["main"].error_kind) == ("Error", "cannot start")
        assert job.reason.startswith("cannot start: ")
    assert "no-such-program" in missing.reason


def test_out_of_memory_is_an_error_that_keeps_its_exit_code(client: Client) -> None:
    itself, child, survived = run(
        client,
        {"image": None, "command": ["python3", "-c", TOO_MUCH], "resources": SMALL},
        bash(f"echo before; python3 -c {TOO_MUCH!r}", resources=SMALL),
        bash(f"python3 -c {TOO_MUCH!r} || echo survived", resources=SMALL),
    )
    said = "out of memory: it used more than its 375,000,000 bytes"
    for job in (itself, child):
        assert ended(job) == ("Error", 137, said)
        assert job.containers["main"].error_kind == "out of memory"
    assert b"before\n" in log(client, child)
    assert ended(survived) == ("Success", 0, "")
    assert b"survived\n" in log(client, survived)  # Before or after what bash says on stderr.


def test_a_timeout_is_an_error_that_keeps_the_log(client: Client) -> None:
    (job,) = run(client, bash("echo begun; sleep 60", timeout=1))
    assert job.state == "Error" and job.reason.startswith("timed out")
    assert job.containers["main"].error_kind == "timed out"
    assert 1_000 <= job.duration_ms < 20_000
    assert log(client, job) == b"begun\n"


def test_a_container_killed_from_outside_is_a_failure(client: Client, docker_client: DockerClient) -> None:
    batch = submit(client, bash("echo begun; sleep 60"))
    job = running_main(client, batch)
    (main,) = containers_of(docker_client, job)
    main.kill()
    job = batch.job(1).wait(timeout=60)
    assert ended(job) == ("Failure", 137, "")
    assert job.containers["main"].error_kind == ""


def test_a_missing_input_is_named_and_the_command_never_runs(client: Client, tmp_path: Path) -> None:
    missing, mark = tmp_path / "it's (not) there", tmp_path / "mark"
    (job,) = run(
        client,
        bash(
            "echo ran > /io/mark",
            input_files=[(str(missing), "/io/in")],
            output_files=[("/io/mark", str(mark))],
        ),
    )
    assert ended(job) == ("Error", 1, f"{missing} does not exist")
    assert job.containers["input"].state == "Error"
    assert [job.containers[name].started_ms for name in ("main", "output")] == [None, None]
    assert (job.duration_ms, job.cost_nanousd) == (0, 0)
    assert str(missing).encode() in log(client, job, "input")
    assert not mark.exists()


def test_an_output_that_was_not_made_is_named(client: Client, tmp_path: Path) -> None:
    made, missing = tmp_path / "made", tmp_path / "missing"
    (job,) = run(
        client,
        bash("echo made > /io/made", output_files=[("/io/made", str(made)), ("/io/not made", str(missing))]),
    )
    assert ended(job) == ("Error", 1, "/io/not made does not exist")
    assert job.containers["main"].state == "Success" and job.containers["output"].state == "Error"
    assert job.duration_ms > 0 and job.cost_nanousd > 0, "the command ran, and is paid for"
    assert made.read_bytes() == b"made\n" and not missing.exists()


def test_there_are_only_the_containers_that_have_something_to_do(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"in\n")
    files = {
        "input_files": [(str(tmp_path / "in"), "/io/in")],
        "output_files": [("/io/out", str(tmp_path / "out"))],
    }
    alone, fed, telling, both = run(
        client,
        bash("true"),
        bash("cat /io/in", input_files=files["input_files"]),
        bash("echo out > /io/out", output_files=files["output_files"]),
        bash("cat /io/in > /io/out", **files),
    )
    assert list(alone.containers) == ["main"]
    assert list(fed.containers) == ["input", "main"]
    assert list(telling.containers) == ["main", "output"]
    assert list(both.containers) == ["input", "main", "output"]
    assert {job.state for job in (alone, fed, telling, both)} == {"Success"}


def test_each_container_says_when_it_was_pulled_and_ran(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"in\n")
    (job,) = run(
        client,
        bash(
            "cp /io/in /io/out; sleep 0.2",
            input_files=[(str(tmp_path / "in"), "/io/in")],
            output_files=[("/io/out", str(tmp_path / "out"))],
        ),
    )
    times = []
    for container in job.containers.values():
        assert container.pull_started_ms is not None and container.pull_ended_ms is not None
        assert container.started_ms is not None and container.ended_ms is not None
        assert 0 <= container.pull_started_ms <= container.pull_ended_ms <= container.started_ms
        times += [container.started_ms, container.ended_ms]
    assert times == sorted(times) and len(times) == 6
    main = job.containers["main"]
    assert main.started_ms is not None and main.ended_ms is not None
    assert main.ended_ms - main.started_ms == job.duration_ms == job.attempts[0].main_ms >= 200


def test_a_command_sees_who_it_is_and_nothing_of_the_machine_but_io(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"moved in\n")
    (job,) = run(
        client,
        bash(
            f"test ! -e {tmp_path}; env | grep -E '^(LONGSHORE_|MINE)' | sort; ls /io; cp /io/in /io/x",
            env={"MINE": 'it\'s "mine" $HOME ü', "LONGSHORE_JOB_ID": "a lie"},
            resources={"cpu": 0.5, "memory": "2.5G"},
            input_files=[(str(tmp_path / "in"), "/io/in")],
            output_files=[("/io/x", str(tmp_path / "out"))],
        ),
    )
    assert job.state == "Success", job.reason
    assert log(client, job).decode().splitlines() == [
        f"LONGSHORE_ATTEMPT_ID={job.attempts[0].id}",
        f"LONGSHORE_BATCH_ID={job.batch_id}",
        "LONGSHORE_CPU=0.667",
        f"LONGSHORE_JOB_ID={job.job_id}",
        "LONGSHORE_MEMORY_BYTES=2501250000",
        'MINE=it\'s "mine" $HOME ü',
        "in",
    ]
    assert (tmp_path / "out").read_bytes() == b"moved in\n"


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_what_is_withdrawn_leaves_no_container(client: Client, docker_client: DockerClient, how: str) -> None:
    batch = submit(client, bash("echo begun; sleep 600"), bash("echo never", parents=[1]))
    job = running_main(client, batch)
    assert containers_of(docker_client, job)
    if how == "cancel":
        batch.cancel("enough")
        status = batch.wait(timeout=60)
        assert (status.state, status.cancel_reason, status.n_cancelled) == ("cancelled", "enough", 2)
        ended_job = batch.job(1).status()
        assert (ended_job.state, ended_job.attempts[0].reason) == ("Cancelled", "revoked")
        assert ended_job.cost_nanousd > 0, "what it ran is paid for"
        assert log(client, ended_job) == b"begun\n"
    else:
        batch.delete()
        for asked in (batch.status, batch.job(1).status, batch.job(1).log().read, batch.cancel):
            with pytest.raises(NotFound):
                asked()
        assert batch.id not in [each.id for each in client.list_batches()]
        batch.delete()
    until(lambda: not containers_of(docker_client, job), or_else=lambda: "its container is still there")
