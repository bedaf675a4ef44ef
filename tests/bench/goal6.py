"""Goal 6: what the controller's memory grows by for jobs that wait, beside as many Python objects."""

from __future__ import annotations

import subprocess
import sys

import postgres
from bench.measure import Goal, Result, Size, in_turns, rss_mb
from bench.million import waiting_for_a_worker
from bench.service import service

_OBJECTS = """
import sys
class Job:
    __slots__ = ("batch_id", "job_id", "state", "mcpu", "waits_for", "retries", "flags", "children")
    def __init__(self, i):
        self.batch_id, self.job_id, self.state, self.mcpu = 1, i, 2, 1000
        self.waits_for, self.retries, self.flags, self.children = 0, 0, 0, None
def rss(): return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
before = rss()
jobs = [Job(i) for i in range(int(sys.argv[1]))]
print(rss() - before)
"""


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    n = size.of(1_000_000, 100_000, 2_000)

    def ours() -> float:
        with service(server) as made, made.client as client:
            made.submit(client, 10)
            before = rss_mb(made.cluster.controller.pid)
            batch = waiting_for_a_worker(made, client, n)
            assert batch.status().n_ready == n
            grown = rss_mb(made.cluster.controller.pid) - before
            # It gives back what its start needed: with few jobs more than they take.
            assert grown > 0, f"{n:,} jobs are too few to see: memory changed by {grown:.1f} MB"
            return grown * 1e6 / n

    def base() -> float:
        command = [sys.executable, "-c", _OBJECTS, str(n)]
        return float(subprocess.run(command, capture_output=True, check=True).stdout) * 1e6 / n

    found, bases = in_turns(size.runs, ours, base)
    return [
        Result(
            "6",
            f"controller's memory of {n:,} jobs that wait, for each 1,000,000",
            "MB",
            found,
            bases,
            "MB of as many Python objects with slots",
            value_goal=Goal(150, at_most=True),
            note="" if n == 1_000_000 else "what any submission needs is in it, spread over fewer jobs",
        )
    ]
