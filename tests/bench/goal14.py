"""Goal 14: LocalBackend, beside the same processes and containers started by plain Python."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import postgres
from bench.measure import Goal, Result, Size, in_turns
from longshore import LocalBackend, Pipeline
from longshore_workerd import images

_AT_ONCE = len(os.sched_getaffinity(0))


def measure(server: postgres.Cluster, size: Size) -> list[Result]:
    n = size.of(1_000, 200, 4)
    processes, bare_processes = in_turns(size.runs, lambda: _ours(n), lambda: _rate(n, _process))
    m = size.of(10, 4, 2)
    engine = docker.from_env(timeout=300)
    try:
        images.ensure(engine.api)
        containers, bare_containers = in_turns(
            size.runs,
            lambda: _ours(m, images.TASK_IMAGE),
            lambda: _rate(m, lambda: _container(engine)),
        )
    finally:
        engine.close()
    return [
        Result(
            "14",
            f"{n:,} no-op tasks on a LocalBackend",
            "tasks/s",
            processes,
            bare_processes,
            f"`bash -c true` by posix_spawn alone, {_AT_ONCE} at once",
            ratio_goal=Goal(0.8),
        ),
        Result(
            "14",
            f"{m} tasks with an image on a LocalBackend",
            "tasks/s",
            containers,
            bare_containers,
            f"containers.run of Docker's SDK, {_AT_ONCE} at once",
            ratio_goal=Goal(0.9),
        ),
    ]


def _ours(n: int, image: str | None = None) -> float:
    began = time.perf_counter()
    p = Pipeline(backend=LocalBackend(cores=_AT_ONCE), default_image=image)
    for _ in range(n):
        p.new_task().command("true")
    p.run(progress=False)
    return n / (time.perf_counter() - began)


def _rate(n: int, one: Callable[[], None]) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for each in [threads.submit(one) for _ in range(n)]:
            each.result()
    return n / (time.perf_counter() - began)


def _process() -> None:
    pid = os.posix_spawn("/bin/bash", ["bash", "-c", "true"], os.environ)
    assert os.waitpid(pid, 0)[1] == 0


def _container(engine: Any) -> None:
    engine.containers.run(images.TASK_IMAGE, ["bash", "-c", "true"], remove=True)
