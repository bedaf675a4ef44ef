"""Batches of very many jobs that wait, for what is asked of them."""

from __future__ import annotations

from bench.service import Service, until
from faults.cluster import Worker
from longshore import Batch, Client, JobSpec

FOREVER = JobSpec(("true",), env={"FAKE_RUN_MS": "100000000"})


def waiting_for_a_worker(made: Service, client: Client, n: int) -> Batch:
    """Ready jobs, for a service that has no worker."""
    return made.submit(client, n)


def waiting_for_a_job(made: Service, client: Client, n: int, worker: Worker, failing: int = 0) -> Batch:
    """Jobs that depend on one, which runs and does not end: they take no worker's room. ``failing`` others
    fail, in five ways."""
    builder = client.create_batch(name="bench")
    builder.add_job(FOREVER)
    for i in range(failing):
        builder.add_job(JobSpec(("true",), env={"FAKE_EXIT_CODE": str(1 + i % 5)}))
    waiting = JobSpec(("true",), parents=(1,))
    for _ in range(n - 1 - failing):
        builder.add_job(waiting)
    batch = builder.submit()
    until(lambda: (s := batch.status()).n_failed == failing and s.n_running == 1)
    return batch
