"""Goal 3: jobs in Docker, beside the same containers made without us, four at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import postgres
from bench.measure import Goal, Result, Size, in_turns, medians
from bench.service import Service, per_job, service
from longshore import Client, JobSpec
from longshore_workerd import images

_AT_ONCE = 4


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    n = size.of(40, 8, 2)
    engine = docker.APIClient(timeout=300)
    try:
        images.ensure(engine)
        with service(server) as made, made.client as client:
            made.worker("docker", cores=_AT_ONCE)
            (made.folder / "input").write_text("some input\n")
            copies = JobSpec(
                ("bash", "-c", "cat /io/input > /io/output"),
                input_files=((str(made.folder / "input"), "/io/input"),),
                output_files=(("/io/output", str(made.folder / "output")),),
            )
            _run(made, client, 2, JobSpec(("true",)))
            return [
                _compare(made, client, engine, n, size.runs, JobSpec(("true",)), 1, Goal(0.95)),
                _compare(made, client, engine, n, size.runs, copies, 3, Goal(1.5)),
            ]
    finally:
        engine.close()


def _compare(
    made: Service, client: Client, engine: Any, n: int, runs: int, spec: JobSpec, containers: int, goal: Goal
) -> Result:
    cpu: list[dict[str, float]] = []

    def ours() -> float:
        before = made.cpu()
        rate = _run(made, client, n, spec)
        cpu.append(per_job(before, made.cpu(), n))
        return rate

    found, bases = in_turns(runs, ours, lambda: _naive(engine, n, containers))
    kind = "with an input and an output file" if containers == 3 else "without files"
    alike = "three containers, one after another" if containers == 3 else "one container"
    return Result(
        "3",
        f"{n} jobs in Docker {kind}",
        "jobs/s",
        found,
        bases,
        f"jobs/s of {alike} each, {_AT_ONCE} jobs at once, by the engine alone",
        ratio_goal=goal,
        cpu=medians(cpu),
    )


def _run(made: Service, client: Client, n: int, spec: JobSpec) -> float:
    began = time.perf_counter()
    status = made.submit(client, n, spec).wait()
    assert status.n_succeeded == n, status
    return n / (time.perf_counter() - began)


def _naive(engine: Any, n: int, containers: int) -> float:
    host = engine.create_host_config(init=True, network_mode="bridge")

    def job(_: int) -> None:
        for _ in range(containers):
            container = engine.create_container("longshore/task", entrypoint=["true"], host_config=host)
            engine.start(container)
            assert engine.wait(container)["StatusCode"] == 0
            engine.remove_container(container)

    began = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(job, range(n)))
    return n / (time.perf_counter() - began)
