"""A service that behaves, and the command line that finds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Ran, Run
from fakes_service import TOKEN, FakeService
from longshore import Client
from longshore.cli import main


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """Runs nothing by itself: jobs end when the test says so."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with FakeService(tmp_path / "service", runs_jobs=False, page=3) as service:
        monkeypatch.setenv("LONGSHORE_ENDPOINT", service.endpoint)
        monkeypatch.setenv("LONGSHORE_TOKEN", TOKEN)
        yield service


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client("test") as client:
        yield client


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """In this process, which is quicker."""

    def run(*args: str) -> Ran:
        capsysbinary.readouterr()
        code = main(args)
        out, err = capsysbinary.readouterr()
        return Ran(code, out, err.decode())

    return run
