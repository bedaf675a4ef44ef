"""Batches of very many jobs that wait, for what is asked of them."""

from __future__ import annotations

from bench.service import Service, until
from faults.cluster import Worker
from longshore import Batch, Client, JobSpec

FOREVER = JobSpec(("true",), env={"FAKE_RUN_MS": "100000000"})


def waiting_for_a_worker(made: Service, client: Client, n: int) -> Batch:
    """Ready jobs, for a service that has no worker."""
    return made.submit(client, n)


def waiting_for_a_job(made: Service, client: Client, n: int, worker: Worker) -> Batch:
    """Jobs that depend on one, which runs and does not end: they take no worker's room."""
    before = len(worker.mains())
    batch = made.submit(client, n - 1, JobSpec(("true",), parents=(1,)), first=FOREVER)
    until(lambda: len(worker.mains()) > before)
    return batch
