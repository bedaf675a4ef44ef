"""A service that behaves, and what a client needs to find it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_service import TOKEN, FakeService
from longshore import BatchBackend, Client


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    with FakeService(tmp_path / "service") as service:
        yield service


@pytest.fixture
def idle_service(tmp_path: Path) -> Iterator[FakeService]:
    """Runs nothing by itself: jobs end when the test says so."""
    with FakeService(tmp_path / "service", runs_jobs=False, page=3) as service:
        yield service


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client("test", endpoint=service.endpoint, token=TOKEN) as client:
        yield client


@pytest.fixture
def idle_client(idle_service: FakeService) -> Iterator[Client]:
    with Client("test", endpoint=idle_service.endpoint, token=TOKEN) as client:
        yield client


@pytest.fixture
def backend(service: FakeService) -> Iterator[BatchBackend]:
    with BatchBackend("test", endpoint=service.endpoint, token=TOKEN) as backend:
        yield backend
