"""Goal 10: cancelling very many jobs, beside ten; and what others feel of it."""

from __future__ import annotations

import threading
import time

import postgres
from bench.measure import Goal, Result, Size, in_turns, quantile
from bench.million import waiting_for_a_job
from bench.service import Service, service, until
from faults.cluster import Worker
from longshore import Batch, Client
from longshore_workerd.machine import clock_ms


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    n = size.of(1_000_000, 50_000, 500)
    others = size.of(100, 30, 3)
    acknowledged: list[float] = []
    of_ten: list[float] = []

    def base() -> float:
        small = waiting_for_a_job(made, client, 10, worker)
        of_ten.append(_cancel(small))
        return quantile(_starts(made, client, worker, others), 0.99)

    def ours() -> float:
        large = waiting_for_a_job(made, client, n, worker)
        ready, go = threading.Event(), threading.Event()

        def cancel() -> None:
            ready.set()
            go.wait()
            acknowledged.append(_cancel(large))

        thread = threading.Thread(target=cancel)
        thread.start()
        ready.wait()
        go.set()
        found = _starts(made, client, worker, others, until_complete=large)
        thread.join()
        return quantile(found, 0.99)

    with service(server) as made, made.client as client:
        worker = made.worker()
        made.submit(client, 10).wait()
        busy, idle = in_turns(size.runs, ours, base)
    return [
        Result(
            "10",
            f"cancel of a batch of {n:,}: acknowledged",
            "ms",
            acknowledged,
            of_ten,
            "ms of a batch of 10",
            ratio_goal=Goal(1.5, at_most=True),
            note="'as fast as for 10' is taken as within a half: both are a commit",
        ),
        Result(
            "10",
            "another's submit → start, p99, while it is cancelled",
            "ms",
            busy,
            idle,
            "ms with nothing to do",
            ratio_goal=Goal(2, at_most=True),
        ),
    ]


def _cancel(batch: Batch) -> float:
    began = time.perf_counter()
    batch.cancel()
    return (time.perf_counter() - began) * 1000


def _starts(
    made: Service, client: Client, worker: Worker, least: int, until_complete: Batch | None = None
) -> list[float]:
    """ms from submission to start of single jobs, at least so many, and until that batch is complete."""
    already = len(worker.mains())
    submitted: list[int] = []
    while len(submitted) < least:
        submitted.append(clock_ms())
        made.submit(client, 1).wait()
        if until_complete is not None and until_complete.status().complete:
            break
    if until_complete is not None:
        until(lambda: until_complete.status().complete, within_s=300)
    began = [ran.began_ms for ran in worker.mains()[already:]]
    return [float(b - s) for b, s in zip(sorted(began), submitted, strict=True)]
