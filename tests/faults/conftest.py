"""What the fault tests ask for: seeds, databases, small disks."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from integration.docker.machine import Engine


@pytest.fixture
def rng() -> random.Random:
    """Decides when something breaks. FAULT_SEED repeats a run, as far as a clock can be repeated."""
    seed = int(os.environ.get("FAULT_SEED", "1"))
    print(f"FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def times() -> int:
    """How many times as much as usual is to be broken: FAULT_TIMES."""
    return int(os.environ.get("FAULT_TIMES", "1"))


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """For `Cluster`: SQLite in its folder, or a Postgres."""
    if request.param == "sqlite":
        return ""
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Makes a folder that holds no more than so much, e.g. ``small_disk("store", "8m")``."""
    mounted: list[Path] = []

    def make(name: str, size: str) -> Path:
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system takes root")
        folder = tmp_path / name
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", folder], check=True)
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def engine(docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A Docker engine that this test may stop and start again."""
    if os.geteuid() != 0:
        pytest.skip("starting a Docker engine takes root")
    engine = Engine(tmp_path_factory.mktemp("engine"), networks=True)
    engine.start()
    yield engine
    engine.clear()
