"""A service that behaves, and the command line that finds it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Ran, Run
from fakes_service import TOKEN, FakeService
from longshore import Client
from longshore.cli import main


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nobody has set anything: settings, cache and the working directory are empty."""
    for name in ("ENDPOINT", "TOKEN", "TOKEN_FILE", "PROFILE", "BILLING_PROJECT", "CONFIG", "OUTPUT", "HOME"):
        monkeypatch.delenv(f"LONGSHORE_{name}", raising=False)
    for variable, name in {"CONFIG": "config", "CACHE": "cache", "STATE": "state"}.items():
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(tmp_path / name))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture
def service(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """Runs nothing by itself: jobs end when the test says so."""
    with FakeService(folders / "service", runs_jobs=False, page=3) as service:
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


class _Screen(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command whose stdout and stderr are one terminal, in this process; all that appears there."""

    def show(*args: str) -> str:
        shown = io.BytesIO()
        screen = _Screen(shown, encoding="utf-8", write_through=True)
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", screen)
            patch.setattr("sys.stderr", screen)
            patch.setenv("TERM", "xterm")
            patch.setenv("COLUMNS", "100")
            main(args)
            screen.flush()
        return shown.getvalue().decode()

    return show
