"""The database goes away in the middle of everything, and comes back."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import postgres
from faults.cluster import Cluster, running, until
from faults.history import History
from longshore import BatchStatus
from longshore_controller.core.model import EndReason

STOPS = 4
SUBMITTERS = 4
BACK_WITHIN_S = 10.0
"""From the database's return to the first batch that was submitted and ran."""


@dataclass(frozen=True)
class Told:
    """A batch as the service told its submitter in the end."""

    token: str
    status: BatchStatus


def submit_and_wait(cluster: Cluster, token: str, n_jobs: int, run_ms: int) -> Told:
    with cluster.client() as client:
        builder = client.create_batch(token=token)
        for _ in range(n_jobs):
            builder.create_job(None, ["x"], env={"FAKE_RUN_MS": str(run_ms)})
        return Told(token, builder.submit().wait(timeout=120))


def test_postgres_stopped_at_once_takes_nothing_back_that_was_acknowledged(
    tmp_path: Path, postgres_of_its_own: postgres.Cluster, rng: random.Random, times: int
) -> None:
    server = postgres_of_its_own
    told: list[Told] = []
    over = threading.Event()

    def submitting(name: int) -> None:
        chance = random.Random(name)
        while not over.is_set():
            token = f"{name}-{chance.random()}"
            told.append(submit_and_wait(cluster, token, chance.randint(1, 20), chance.randint(0, 300)))

    with running(Cluster(tmp_path, server.new_database())) as cluster:
        workers = [cluster.worker(name, cores=8) for name in ("w1", "w2")]
        for worker in workers:
            worker.start()
        gaps: list[float] = []
        with ThreadPoolExecutor(SUBMITTERS) as threads:
            submitters = [threads.submit(submitting, name) for name in range(SUBMITTERS)]
            try:
                for stop in range(STOPS * times):
                    go_on_until(submitters, len(told) + 5, told)
                    time.sleep(rng.uniform(0, 0.5))
                    server.stop_at_once()
                    time.sleep(rng.choice([0, 0, 1.5]))
                    server.start()
                    back = time.monotonic()
                    told.append(submit_and_wait(cluster, f"after stop {stop}", 1, 0))
                    gaps.append(time.monotonic() - back)
            finally:
                over.set()
        for submitter in submitters:
            submitter.result()
        print(f"seconds from its return to the first batch that ran: {[round(gap, 1) for gap in gaps]}")
        cluster.controller.end()
        history = History(cluster)
        history.check()
        history.check_runs(run for worker in workers for run in worker.mains())
    assert {row.request_id for row in history.batches.values()} == {t.token for t in told}
    for t in told:
        row = history.batches[t.status.id]
        assert row.request_id == t.token, "the id that was acknowledged is of that batch"
        assert (row.n_jobs, row.cost_nanousd) == (t.status.n_jobs, t.status.cost_nanousd)
        assert row.n_succeeded == t.status.n_succeeded == t.status.n_jobs
    ends = {reason for key in history.jobs for reason in history.reasons(key)}
    assert ends == {EndReason.COMPLETED}, "an end that was acknowledged is never asked for again"
    assert max(gaps) < BACK_WITHIN_S, gaps


def go_on_until(submitters: list[Future[None]], n: int, told: list[Told]) -> None:
    until(lambda: len(told) >= n or any(submitter.done() for submitter in submitters))
    for submitter in submitters:
        assert not submitter.done(), submitter.result()
