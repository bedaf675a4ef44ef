"""Other schedulers with no-op tasks: `python peers.py PEER N [POSTGRES_URL]`, in a venv of theirs.

Prints one line of JSON: tasks a second, and ms from submission to result of one task. Nothing of ours is
imported.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

RUNS = 5


def hyperqueue(n: int, url: str) -> dict[str, object]:
    """Processes: /bin/true, output thrown away."""
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with LocalCluster(tempfile.mkdtemp(), WorkerConfig(cores=os.cpu_count())) as cluster:
        client = cluster.client()

        def run(n: int) -> None:
            job = Job()
            for _ in range(n):
                job.program(["/bin/true"], stdout=None, stderr=None)
            client.wait_for_jobs([client.submit(job)])

        return _measured(run, n, "process")


def dask(n: int, url: str) -> dict[str, object]:
    """Functions, each a task of its own."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def run(n: int) -> None:
            client.gather(client.map(_nothing, range(n), pure=False))

        return _measured(run, n, "function")


def ray(n: int, url: str) -> dict[str, object]:
    """Functions."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    remote: Any = ray.remote(_nothing)
    try:
        return _measured(lambda n: ray.get([remote.remote(i) for i in range(n)]), n, "function")
    finally:
        ray.shutdown()


def procrastinate(n: int, url: str) -> dict[str, object]:
    """Functions whose tasks are rows of Postgres, as ours are."""
    import asyncio

    from procrastinate import App, PsycopgConnector

    async def measured() -> dict[str, object]:
        app = App(connector=PsycopgConnector(conninfo=url))
        ended = asyncio.Queue[int]()

        async def nothing(i: int) -> None:
            ended.put_nowait(i)

        task: Any = app.task(name="nothing")(nothing)

        async def run(n: int) -> None:
            await task.batch_defer_async(*[{"i": i} for i in range(n)])
            for _ in range(n):
                await ended.get()

        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            worker = asyncio.create_task(app.run_worker_async(concurrency=50, install_signal_handlers=False))
            await run(10)
            rates, single = [], []
            for _ in range(RUNS):
                began = time.perf_counter()
                await run(n)
                rates.append(n / (time.perf_counter() - began))
            for _ in range(20):
                began = time.perf_counter()
                await run(1)
                single.append((time.perf_counter() - began) * 1000)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        return _line(rates, single, "function")

    return asyncio.run(measured())


SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")
_SLURM_CONF = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={port}
SlurmdPort={next_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MaxArraySize=100001
MaxJobCount=200000
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=256
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def slurm(n: int, url: str) -> dict[str, object]:
    """Processes: an array of /bin/true, on a node that says it has 256 cores. As root."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder, host = Path(name), socket.gethostname().partition(".")[0]
        folder.chmod(0o755)
        for each in ("munge", "state", "spool"):
            (folder / each).mkdir(mode=0o755)
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        conf = folder / "slurm.conf"
        conf.write_text(_SLURM_CONF.format(host=host, folder=folder, port=port, next_port=port + 1))
        os.environ["SLURM_CONF"] = str(conf)

        def start(*command: str) -> None:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running.callback(process.wait)
            running.callback(process.terminate)

        files = [f"--{what}-file={folder}/{what}" for what in ("key", "pid", "log", "seed")]
        start("munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *files)
        _until(lambda: (folder / "munge" / "socket").exists())
        start("slurmctld", "-D", "-f", str(conf))
        start("slurmd", "-D", "-N", host, "-f", str(conf))
        _until(lambda: "idle" in _output("sinfo", "--noheader", "--format=%t"))

        def run(n: int) -> None:
            task = ["--output=/dev/null", f"--array=1-{n}", "--wrap=exec /bin/true"]
            job = _output("sbatch", "--parsable", *task).strip()
            _until(lambda: not _output("squeue", "--noheader", "--jobs", job))

        return _measured(run, n, "process")


def _output(*command: str) -> str:
    """Nothing, too, of a command that fails: what asks for it asks again."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _until(fact: Callable[[], bool]) -> None:
    until = time.monotonic() + 600
    while not fact():
        if time.monotonic() > until:
            raise TimeoutError("slurm did not get there in 10 minutes")
        time.sleep(0.25)  # Asking costs Slurm something, too.


def _nothing(i: int) -> None:
    pass


def _measured(run: Callable[[int], object], n: int, kind: str) -> dict[str, object]:
    run(10)
    rates, single = [], []
    for _ in range(RUNS):
        began = time.perf_counter()
        run(n)
        rates.append(n / (time.perf_counter() - began))
    for _ in range(5):
        began = time.perf_counter()
        run(1)
        single.append((time.perf_counter() - began) * 1000)
    return _line(rates, single, kind)


def _line(rates: list[float], single: list[float], kind: str) -> dict[str, object]:
    return {"rates": rates, "single_ms": statistics.median(single), "kind": kind}


PEERS = {each.__name__: each for each in (hyperqueue, procrastinate, dask, ray, slurm)}

if __name__ == "__main__":
    found = PEERS[sys.argv[1]](int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
    print("RESULT " + json.dumps(found), flush=True)
