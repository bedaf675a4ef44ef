"""Workers are killed, frozen, never come back; their Docker engine is restarted."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import docker
import pytest
from faults.cluster import Cluster, Worker, running, until
from faults.history import History
from integration.docker.machine import Engine
from longshore import Batch, Client, Job
from longshore_controller.core.model import EndReason
from longshore_workerd import images

KILLS = 10
SHORT = {"heartbeat_ms": 500, "lease_ms": 2_000, "grace_ms": 1_000}


def sleeping(client: Client, n: int, ms: int) -> Batch:
    builder = client.create_batch()
    for _ in range(n):
        builder.create_job(None, ["x"], env={"FAKE_RUN_MS": str(ms)})
    return builder.submit()


# -- one that is killed and comes back adopts its containers ------------------------------------------


def lines(job_id: int, seconds: int) -> str:
    """Says one numbered line each tenth of a second, and begins and ends a file of the store."""
    return (
        f"echo start {job_id} >/io/mark; "
        f"for i in $(seq {seconds * 10}); do echo $i; sleep 0.1; done; "
        "echo stop >>/io/mark"
    )


@contextmanager
def watching_starts(client: docker.DockerClient, worker: str) -> Iterator[Counter[str]]:
    """Meanwhile counts, by the engine's word, how often each container of the worker is started."""
    starts: Counter[str] = Counter()
    stream = client.events(decode=True, filters={"label": f"longshore.worker={worker}", "event": "start"})

    def count() -> None:
        for event in stream:
            attributes = event["Actor"]["Attributes"]
            starts[f"{attributes['longshore.attempt']} {attributes['longshore.container']}"] += 1

    counting = threading.Thread(target=count)
    counting.start()
    try:
        yield starts
    finally:
        stream.close()
        counting.join()


@pytest.mark.docker
def test_killed_at_random_moments_a_worker_adopts_its_containers(
    tmp_path: Path, docker_client: docker.DockerClient, rng: random.Random, times: int
) -> None:
    images.ensure(docker_client.api)
    out = tmp_path / "out"
    seconds = [rng.randint(1, 6 * times) for _ in range(10)]
    with running(Cluster(tmp_path)) as cluster, cluster.client() as client:
        worker = cluster.worker("w1", cores=6, runtime="docker")
        worker.start()
        with watching_starts(docker_client, worker.id) as starts:
            builder = client.create_batch()
            for job_id, s in enumerate(seconds, 1):
                command = ["bash", "-c", lines(job_id, s)]
                builder.create_job(None, command, output_files=[("/io/mark", f"{out}/{job_id}")])
            batch = builder.submit()
            for _ in range(KILLS * times):
                time.sleep(rng.uniform(0, 1.5))
                worker.kill()
                worker.start()
            assert batch.wait(timeout=120).state == "success", [job.status() for job in batch.jobs()]
            until(lambda: not of_worker(docker_client, worker.id))
        logs = [job.log().text() for job in batch.jobs()]
        cluster.controller.end()
        history = History(cluster)
    history.check()
    # Killed between an order to start and the start, a worker finds no container, and nobody can know.
    lost = [attempt for some in history.attempts.values() for attempt in some[:-1]]
    assert all(attempt.reason is EndReason.LOST for attempt in lost)
    attempts = [some[-1] for some in history.attempts.values()]
    assert all(attempt.reason is EndReason.COMPLETED for attempt in attempts)
    assert starts == {f"{a.attempt_id} {name}": 1 for a in attempts for name in ("main", "output")}
    assert logs == ["".join(f"{i}\n" for i in range(1, 10 * s + 1)) for s in seconds]
    marks = [(out / str(job_id)).read_text() for job_id in range(1, 11)]
    assert marks == [f"start {job_id}\nstop\n" for job_id in range(1, 11)]
    for attempt, s in zip(attempts, seconds, strict=True):
        # Who did not see the start takes the engine's word, and its clock starts when it has seen it.
        assert attempt.main_ms is not None
        assert attempt.main_ms >= s * 1000 - 50, f"it ran {s} s and was billed for {attempt.main_ms} ms"


def test_killed_at_random_moments_a_worker_adopts_its_processes(
    tmp_path: Path, rng: random.Random, times: int
) -> None:
    out, starts = tmp_path / "out", tmp_path / "starts"
    seconds = [rng.randint(1, 6 * times) for _ in range(10)]
    with running(Cluster(tmp_path)) as cluster, cluster.client() as client:
        worker = cluster.worker("w1", cores=6, runtime="process")
        worker.start()
        builder = client.create_batch()
        for job_id, s in enumerate(seconds, 1):
            command = ["bash", "-c", f"echo $LONGSHORE_ATTEMPT_ID >>{starts}; {lines(job_id, s)}"]
            builder.create_job(None, command, output_files=[("/io/mark", f"{out}/{job_id}")])
        batch = builder.submit()
        for _ in range(KILLS * times):
            time.sleep(rng.uniform(0, 1.5))
            worker.kill()
            worker.start()
        assert batch.wait(timeout=120).state == "success", [job.status() for job in batch.jobs()]
        until(lambda: not kept(worker))
        logs = [job.log().text() for job in batch.jobs()]
        cluster.controller.end()
        history = History(cluster)
    history.check()
    lost = [attempt for some in history.attempts.values() for attempt in some[:-1]]
    assert all(attempt.reason is EndReason.LOST for attempt in lost)
    attempts = [some[-1] for some in history.attempts.values()]
    assert all(attempt.reason is EndReason.COMPLETED for attempt in attempts)
    assert sorted(starts.read_text().split()) == sorted(a.attempt_id for a in attempts)
    assert logs == ["".join(f"{i}\n" for i in range(1, 10 * s + 1)) for s in seconds]
    marks = [(out / str(job_id)).read_text() for job_id in range(1, 11)]
    assert marks == [f"start {job_id}\nstop\n" for job_id in range(1, 11)]
    for attempt, s in zip(attempts, seconds, strict=True):
        assert attempt.main_ms is not None
        assert attempt.main_ms >= s * 1000 - 50, f"it ran {s} s and was billed for {attempt.main_ms} ms"


def kept(worker: Worker) -> list[str]:
    """What its keepers have written of containers that were not removed."""
    records = (worker.folder / "processes").glob("*/records")
    return [line for file in records for line in file.read_text().splitlines() if line.strip(" \0")]


def of_worker(client: docker.DockerClient, worker: str) -> list[object]:
    found: list[object] = client.api.containers(all=True, filters={"label": f"longshore.worker={worker}"})
    return found


# -- its engine is restarted ---------------------------------------------------------------------------


@pytest.mark.docker
def test_what_ran_when_the_engine_was_restarted_runs_again(tmp_path: Path, engine: Engine) -> None:
    restarts = [signal.SIGKILL, signal.SIGTERM]
    with running(Cluster(tmp_path)) as cluster, cluster.client() as client:
        worker = cluster.worker("w1", cores=4, runtime="docker", environ={"DOCKER_HOST": engine.url})
        worker.start()
        builder = client.create_batch()
        builder.create_job(None, ["echo", "quick"])
        for _ in range(3):
            builder.create_job(None, ["bash", "-c", "echo begun; sleep 5; echo done"])
        batch = builder.submit()
        quick, *long = batch.jobs()
        assert quick.wait(timeout=120).state == "Success"
        for attempt, number in enumerate(restarts, 1):
            for job in long:
                until(partial(has_begun, job, attempt))
            engine.stop(number)
            engine.start()
        assert batch.wait(timeout=120).state == "success", worker.said()
        for job in long:
            logs = [job.log(attempt=n).text() for n in (1, 2, 3)]
            assert logs == ["begun\n", "begun\n", "begun\ndone\n"]
        cluster.controller.end()
        history = History(cluster)
    history.check()
    again = [EndReason.LOST, EndReason.LOST, EndReason.COMPLETED]
    assert [history.reasons(key) for key in history.jobs] == [[EndReason.COMPLETED], again, again, again]


def has_begun(job: Job, attempt: int) -> bool:
    return len(job.attempts()) == attempt and job.log(attempt=attempt).text() == "begun\n"


# -- one that is gone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "back"),
    [(Worker.kill, Worker.start), (Worker.freeze, Worker.thaw)],
    ids=["killed", "frozen"],
)
def test_the_jobs_of_a_worker_that_is_gone_run_elsewhere_and_it_stops_them_when_it_is_back(
    tmp_path: Path, gone: Callable[[Worker], None], back: Callable[[Worker], None]
) -> None:
    run_ms = 8_000
    with running(Cluster(tmp_path, workers=SHORT)) as cluster, cluster.client() as client:
        first, second = cluster.worker("w1"), cluster.worker("w2")
        first.start()
        batch = sleeping(client, 4, run_ms)
        until(lambda: len(first.mains()) == 4)
        second.start()
        gone(first)
        held = first.mains()
        until(lambda: len(second.mains()) == 4)
        back(first)
        until(lambda: len(ended_early(first, run_ms)) == 4, or_else=first.said)
        assert batch.wait(timeout=60).state == "success"
        until(lambda: is_given_some(first, sleeping(client, 8, 100)), or_else=first.said)
        cluster.controller.end()
        history = History(cluster)
    history.check()
    for job_id in range(1, 5):
        lost, ran = history.attempts[batch.id, job_id]
        assert (lost.reason, lost.worker_id) == (EndReason.LOST, first.id)
        assert (ran.reason, ran.worker_id) == (EndReason.COMPLETED, second.id)
    assert {ran.attempt_id for ran in held} == {
        history.attempts[batch.id, n][0].attempt_id for n in range(1, 5)
    }


def is_given_some(worker: Worker, batch: Batch) -> bool:
    assert batch.wait(timeout=60).state == "success"
    attempts = [attempt for job in batch.jobs() for attempt in job.attempts()]
    assert len(attempts) == batch.status().n_jobs
    return worker.id in [attempt.worker_id for attempt in attempts]


def ended_early(worker: Worker, run_ms: int) -> list[object]:
    return [ran for ran in worker.mains() if ran.ended_ms - ran.began_ms < run_ms]
