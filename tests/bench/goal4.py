"""Goal 4: one job on an idle service: how long until it runs, and until the client has its result."""

from __future__ import annotations

import time

import postgres
from bench.bare import bare
from bench.measure import Goal, Result, Size, medians, quantile
from bench.service import per_job, service
from longshore_workerd.machine import clock_ms


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    n = size.of(100, 20, 3)
    starts: list[list[float]] = []
    results: list[list[float]] = []
    bases: list[list[float]] = []
    cpu: list[dict[str, float]] = []
    with service(server) as made, made.client as client, bare(server.new_database(), made.folder) as pieces:
        worker = made.worker()
        made.submit(client, 10).wait()
        for _ in range(size.runs):
            bases.append([pieces.run(1) * 1000 for _ in range(n)])
            already = len(worker.containers())
            submitted: list[int] = []
            took: list[float] = []
            before = made.cpu()
            for _ in range(n):
                submitted.append(clock_ms())
                began = time.perf_counter()
                made.submit(client, 1).wait()
                took.append((time.perf_counter() - began) * 1000)
            cpu.append(per_job(before, made.cpu(), n))
            # The journal tells whole milliseconds of the same clock: right to a millisecond.
            began_at = [ran.began_ms for ran in worker.containers()[already:]]
            starts.append([float(b - s) for b, s in zip(began_at, submitted, strict=True)])
            results.append(took)
    lines = []
    for what, found, q, goal in (
        ("submit → runtime told to start, p50", starts, 0.5, 4.0),
        ("submit → runtime told to start, p99", starts, 0.99, 20.0),
        ("submit → result seen by the client, p50", results, 0.5, 8.0),
    ):
        lines.append(
            Result(
                "4",
                what,
                "ms",
                [quantile(run, q) for run in found],
                [quantile(run, q) for run in bases],
                "ms, submit → done of the bare pieces",
                value_goal=Goal(goal, at_most=True),
                cpu=medians(cpu),
            )
        )
    return lines
