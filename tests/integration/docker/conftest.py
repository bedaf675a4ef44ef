"""The runtimes under test, and an engine of a test's own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import docker
import pytest
from integration.docker.machine import Engine, Machine
from longshore_workerd.docker_runtime import DockerRuntime
from longshore_workerd.process_runtime import ProcessRuntime


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "process"])
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Machine]:
    """The same tests for both runtimes: what both promise."""
    worker = f"test-{token_hex(8)}"
    if request.param == "docker":
        machine = Machine(lambda: DockerRuntime(worker), tmp_path / "an attempt's $folder" / "io")
    else:
        machine = Machine(
            lambda: ProcessRuntime(tmp_path / "state"), tmp_path / "an attempt's $folder" / "io"
        )
    await machine.runtime.open()
    yield machine
    await machine.clear()


@pytest.fixture
def engine(docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if os.getuid() != 0:
        pytest.skip("starting a Docker engine takes root")
    folder = tmp_path_factory.mktemp("engine")
    engine = Engine(folder)
    engine.start()
    yield engine
    engine.clear()
