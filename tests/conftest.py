"""What tests may ask for: a database of their own, a Docker engine.

On a developer's machine a test is skipped when what it needs is missing; with CI set it fails, so
that nothing goes untested by accident.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import docker
import postgres
import pytest
from docker import DockerClient
from docker.errors import DockerException


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{what} (CI is set: nothing may be skipped)", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Cluster]:
    """One server for the whole session (one per pytest-xdist worker). Not to be stopped by a test."""
    try:
        with postgres.cluster() as server:
            yield server
    except postgres.PostgresMissing as missing:
        _missing(str(missing))


@pytest.fixture
def postgres_url(postgres_server: postgres.Cluster) -> str:
    """The URL of an empty Postgres database of this test's own."""
    return postgres_server.new_database()


@pytest.fixture
def postgres_of_its_own() -> Iterator[postgres.Cluster]:
    """A durable server that this test may stop at once and start again."""
    try:
        with postgres.cluster(durable=True) as server:
            yield server
    except postgres.PostgresMissing as missing:
        _missing(str(missing))


@pytest.fixture(scope="session")
def docker_client() -> Iterator[DockerClient]:
    """The engine that DOCKER_HOST or the usual socket names. It is shared: clean up, stop nothing."""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except DockerException as error:
        _missing(f"no Docker engine answers: run setup/engine.sh ({error})")
    yield client
    client.close()


@pytest.fixture(autouse=True)
def _engine_where_marked(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("docker"):
        request.getfixturevalue("docker_client")
