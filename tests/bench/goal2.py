"""Goal 2: no-op jobs a second, end to end, beside the bare pieces and beside posix_spawn."""

from __future__ import annotations

import os
import threading
import time

import postgres
from bench.bare import bare
from bench.measure import Goal, Result, Size, in_turns, medians
from bench.service import Service, per_job, service
from longshore import Client

PROCESS_CORES = 64
"""Of a worker that runs processes: so many are under way at once, as on a large machine."""


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    n = size.of(50_000, 4_000, 100)
    cpu: list[dict[str, float]] = []
    bare_cpu: list[dict[str, float]] = []
    with service(server) as made, made.client as client, bare(server.new_database(), made.folder) as pieces:
        made.worker()
        run(made, client, 100)

        def ours() -> float:
            before = made.cpu()
            rate = run(made, client, n)
            cpu.append(per_job(before, made.cpu(), n))
            return rate

        def base() -> float:
            before = {**made.cpu(), **pieces.cpu()}
            rate = n / pieces.run(n)
            bare_cpu.append(per_job(before, {**made.cpu(), **pieces.cpu()}, n))
            return rate

        fake, bases = in_turns(size.runs, ours, base)
    results = [
        Result(
            "2",
            f"{n:,} no-op jobs, fake runtime",
            "jobs/s",
            fake,
            bases,
            "jobs/s of the bare pieces",
            ratio_goal=Goal(0.3),
            value_goal=Goal(15_000),
            cpu=medians(cpu),
            note=f"bare pieces: {medians(bare_cpu)}",
        )
    ]
    m = size.of(5_000, 400, 20)
    cpu.clear()
    n = m
    with service(server) as made, made.client as client:
        made.worker("process", cores=PROCESS_CORES)
        run(made, client, 20)
        spawned, floors = in_turns(size.runs, ours, lambda: _spawn(m))
    results.append(
        Result(
            "2",
            f"{m:,} jobs of `true`, process runtime, {PROCESS_CORES} at once",
            "jobs/s",
            spawned,
            floors,
            "processes/s of posix_spawn, two at once",
            ratio_goal=Goal(0.45),
            value_goal=Goal(1_500),
            cpu=medians(cpu),
        )
    )
    return results


def run(made: Service, client: Client, n: int) -> float:
    """Jobs a second from submission until a watcher of the batch saw the last one end."""
    seq = client.page_of_batches(size=1).seq
    began = time.perf_counter()
    batch = made.submit(client, n)
    for events in client.watch_events(seq, batch.id):
        if any(event.kind == "batch completed" for event in events.events):
            break
    took = time.perf_counter() - began
    assert batch.status().n_succeeded == n
    return n / took


def _spawn(n: int) -> float:
    def some() -> None:
        for _ in range(n // 2):
            os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)

    threads = [threading.Thread(target=some) for _ in range(2)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return n // 2 * 2 / (time.perf_counter() - began)
