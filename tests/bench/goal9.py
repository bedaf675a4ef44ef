"""Goal 9: from the start of a killed controller to its first assignment, beside reading its jobs' rows."""

from __future__ import annotations

import time

import postgres
import psycopg
from bench.measure import Goal, Result, Size, in_turns
from bench.million import waiting_for_a_worker
from bench.service import service, until


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    n = size.of(1_000_000, 100_000, 1_000)
    with service(server) as made, made.client as client:
        worker = made.worker(cores=1)
        worker.end()
        batch = waiting_for_a_worker(made, client, n)
        controller = made.cluster.controller

        def ours() -> float:
            controller.kill()
            before = len(worker.containers())
            began = time.perf_counter()
            controller.start()
            worker.start()
            until(lambda: len(worker.containers()) > before, within_s=300, or_else=controller.said)
            took = time.perf_counter() - began
            worker.end()
            return took

        def base() -> float:
            with psycopg.connect(made.url) as connection:
                began = time.perf_counter()
                query = "COPY (SELECT job_id, state, n_attempts, ended_at_ms FROM job) TO STDOUT"
                with connection.cursor().copy(query) as copy:
                    assert sum(len(piece) for piece in copy)
                return time.perf_counter() - began

        found, bases = in_turns(size.runs, ours, base)
        assert not batch.status().complete
    return [
        Result(
            "9",
            f"restart with {n:,} live jobs: start of the process → first job runs",
            "s",
            found,
            bases,
            "s to read the jobs' rows",
            value_goal=Goal(20, at_most=True),
        )
    ]
