"""A whole service to measure: a Postgres that syncs, controller and workers as processes, the real client."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import postgres
from bench.measure import cpu_seconds
from faults.cluster import Cluster, Worker, running, until
from longshore import Batch, Client, JobSpec

CORES = 2000
"""Of a worker with the fake runtime: so many jobs run at once."""
_NAMES = itertools.count(1)


class Service:
    """One that runs. Its processes' CPU time is known."""

    def __init__(self, folder: Path, server: postgres.Cluster) -> None:
        self.folder = folder
        self.url = server.new_database()
        slow = {"lease_ms": 120_000, "largest_mcpu": 64_000}  # A busy machine must not lose leases.
        self.cluster = Cluster(folder, self.url, workers=slow)
        self.workers: list[Worker] = []
        self._postmaster = int((server_folder(self.url) / "data" / "postmaster.pid").read_text().split()[0])

    @property
    def client(self) -> Client:
        """Another client, to be closed by its user."""
        return self.cluster.client()

    def worker(self, runtime: str = "fake", cores: int = CORES) -> Worker:
        """One more worker, which has joined."""
        worker = self.cluster.worker(f"w{next(_NAMES)}", runtime=runtime, cores=cores)
        worker.start()
        self.workers.append(worker)
        return worker

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU until now, by program; the client is this process."""
        return {
            "controller": cpu_seconds(self.cluster.controller.pid),
            "workerd": sum(cpu_seconds(w.pid) for w in self.workers if not w.has_ended()),
            "postgres": cpu_seconds(self._postmaster),
            "client": time.process_time(),
        }

    def submit(
        self, client: Client, n: int, spec: JobSpec | None = None, first: JobSpec | None = None
    ) -> Batch:
        """A batch of ``n`` jobs like ``spec``; ``first`` is another one before them."""
        builder = client.create_batch(name="bench")
        for each in ([first] if first else []) + [spec or JobSpec(("true",))] * n:
            builder.add_job(each)
        return builder.submit()


def per_job(before: Mapping[str, float], after: Mapping[str, float], n: int) -> dict[str, float]:
    """µs of CPU for each of ``n`` jobs."""
    return {name: (after[name] - before[name]) * 1e6 / n for name in before}


@contextmanager
def service(server: postgres.Cluster) -> Iterator[Service]:
    """A running service without workers, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="longshore-bench-"))
    try:
        made = Service(folder, server)
        with running(made.cluster):
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def servers() -> Iterator[postgres.Cluster]:
    """A Postgres that syncs every commit and notes when it was."""
    with postgres.cluster(durable=True) as server:
        with (server_folder(server.url("postgres")) / "data" / "postgresql.conf").open("a") as file:
            file.write("track_commit_timestamp = on\nmax_wal_size = '8GB'\n")
        server.stop()
        server.start()
        yield server


def server_folder(url: str) -> Path:
    return Path(url.rpartition("host=")[2])


__all__ = ["CORES", "Service", "per_job", "server_folder", "servers", "service", "until"]
