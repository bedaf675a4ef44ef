"""The controller is killed, frozen, and started twice."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.cluster import Cluster, Worker, running, until
from faults.history import History, Key
from longshore import Batch, Client
from longshore_controller.core.model import EndReason, JobState

KILLS = 20
JOBS = 200
SHORT = {"heartbeat_ms": 500, "lease_ms": 2_000, "grace_ms": 1_500}


@dataclass(frozen=True)
class Wanted:
    """A job, and all that decides what becomes of it."""

    parents: Sequence[int]
    run_ms: int
    exit_code: int
    retries: int
    always_run: bool


def graph(rng: random.Random, n: int) -> list[Wanted]:
    return [
        Wanted(
            parents=rng.sample(range(max(1, i - 30), i), min(i - 1, rng.choice([0, 0, 0, 1, 2]))),
            run_ms=rng.randint(10, 300),
            exit_code=rng.choice([0] * 9 + [3]),
            retries=rng.choice([0, 0, 2]),
            always_run=rng.random() < 0.2,
        )
        for i in range(1, n + 1)
    ]


def submit(client: Client, jobs: Sequence[Wanted]) -> Batch:
    builder = client.create_batch()
    for job in jobs:
        env = {"FAKE_RUN_MS": str(job.run_ms), "FAKE_EXIT_CODE": str(job.exit_code)}
        builder.create_job(
            None, ["x"], env=env, parents=job.parents, retries=job.retries, always_run=job.always_run
        )
    return builder.submit()


def outcomes(batch_id: int, jobs: Sequence[Wanted]) -> dict[Key, tuple[JobState, int]]:
    """What must become of each job, and with how many attempts."""
    found: dict[Key, tuple[JobState, int]] = {}
    for job_id, job in enumerate(jobs, 1):
        succeeded = all(found[batch_id, parent][0] is JobState.SUCCESS for parent in job.parents)
        if not (succeeded or job.always_run):
            found[batch_id, job_id] = JobState.CANCELLED, 0
        elif job.exit_code:
            found[batch_id, job_id] = JobState.FAILURE, 1 + job.retries
        else:
            found[batch_id, job_id] = JobState.SUCCESS, 1
    return found


def test_killed_at_random_moments_the_controller_loses_and_repeats_nothing(
    tmp_path: Path, database: str, rng: random.Random, times: int
) -> None:
    expected: dict[Key, tuple[JobState, int]] = {}
    with running(Cluster(tmp_path, database)) as cluster:
        workers = [cluster.worker(f"w{n}", cores=4) for n in range(1, 5)]
        for worker in workers:
            worker.start()
        batches: list[int] = []
        for _ in range(KILLS * times):
            with cluster.client() as client:
                left = [client.get_batch(batch_id).status() for batch_id in batches]
                if sum(b.n_jobs - b.n_completed for b in left) < JOBS // 2:
                    jobs = graph(rng, JOBS)
                    batches.append(submit(client, jobs).id)
                    expected |= outcomes(batches[-1], jobs)
            some_time(rng, workers)
            cluster.controller.kill()
            cluster.controller.start()
        with cluster.client() as client:
            for batch_id in batches:
                client.get_batch(batch_id).wait(timeout=120)
        cluster.controller.end()
        history = History(cluster)
        history.check()
        history.check_runs(run for worker in workers for run in worker.mains())
    assert {key: (job.state, job.n_attempts) for key, job in history.jobs.items()} == expected
    lost = [key for key in history.jobs if EndReason.LOST in history.reasons(key)]
    assert not lost, "a restart of the controller costs no attempt"


def some_time(rng: random.Random, workers: Sequence[Worker]) -> None:
    """Until some moment while it loads, while workers come back, or between two jobs and a bit later."""
    if rng.random() < 0.4:
        time.sleep(rng.uniform(0, 0.5))
        return
    more = sum(len(worker.mains()) for worker in workers) + rng.randint(1, 20)
    until(lambda: sum(len(worker.mains()) for worker in workers) >= more)
    time.sleep(rng.uniform(0, 0.1))


@pytest.mark.parametrize("longer_than", ["nothing", "lease", "grace"])
def test_while_the_controller_is_frozen_nothing_runs_twice(tmp_path: Path, longer_than: str) -> None:
    with running(Cluster(tmp_path, workers=SHORT)) as cluster:
        workers = [cluster.worker(name) for name in ("w1", "w2")]
        for worker in workers:
            worker.start()
        with cluster.client() as client:
            batch = submit(client, [Wanted((), 4_500, 0, 0, False)] * 8)
            until(lambda: sum(len(worker.mains()) for worker in workers) == 8)
            cluster.controller.freeze()
            if longer_than == "nothing":
                time.sleep(SHORT["lease_ms"] / 1000 / 4)
            else:
                # Told nothing, the workers stop by themselves.
                until(lambda: all(stopped_early(worker) for worker in workers))
            if longer_than == "grace":
                time.sleep(SHORT["grace_ms"] / 1000)
            cluster.controller.thaw()
            assert batch.wait(timeout=60).state == "success"
        cluster.controller.end()
        history = History(cluster)
        history.check()
        history.check_runs(run for worker in workers for run in worker.mains())
    once = [EndReason.COMPLETED]
    again = [EndReason.LOST, EndReason.COMPLETED]
    assert [history.reasons(key) for key in history.jobs] == [again if longer_than != "nothing" else once] * 8


def stopped_early(worker: Worker) -> bool:
    return all(ran.ended_ms - ran.began_ms < 4_500 for ran in worker.mains())


def test_a_second_controller_is_refused_and_told_who_has_the_database(tmp_path: Path, database: str) -> None:
    with running(Cluster(tmp_path, database)) as cluster:
        second = cluster.second_controller()
        with pytest.raises(
            AssertionError, match=rf"process {cluster.controller.pid} on {socket.gethostname()}"
        ):
            second.start()
        assert second.wait() == 1
        with cluster.client(retry_s=0) as client:
            assert client.session().user == "ann", "the first goes on"
