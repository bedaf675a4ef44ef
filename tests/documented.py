"""What the examples in the client's documentation find: a service of their own, and a batch that ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from embedded import running
from longshore import Batch, Client

SERVED = (
    "admin",
    "aio",
    "backend",
    "billing",
    "builder",
    "people",
    "costs",
    "errors",
    "failures",
    "handles",
    "pipeline",
    "service",
    "status",
    "windows",
)
"""Modules whose examples talk to a service; those of the others get nothing."""


@dataclass
class Documented:
    home: str
    client: Client
    batch: Batch


@pytest.fixture(scope="session")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    """A running service; its batch 1 is complete: job 1 said hello, job 2 failed."""
    folder = tmp_path_factory.mktemp("documented")
    with pytest.MonkeyPatch.context() as patch, running(folder, "--runtime", "process", "--cores", "2"):
        find(patch, str(folder))
        with Client("my-project") as client:
            builder = client.create_batch({"stage": "first"}, name="hello")
            builder.create_job(None, ["bash", "-c", "echo hello; echo world"], name="say")
            builder.create_job(None, ["bash", "-c", "echo \"KeyError: 'x'\"; exit 3"], name="fail")
            batch = builder.submit()
            batch.wait(timeout=60)
            yield Documented(str(folder), client, batch)


def find(patch: pytest.MonkeyPatch, folder: str) -> None:
    """Let clients find the service of that folder, and no other."""
    for name in ("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN", "LONGSHORE_TOKEN_FILE", "LONGSHORE_PROFILE"):
        patch.delenv(name, raising=False)
    patch.setenv("LONGSHORE_HOME", folder)
    patch.setenv("XDG_CONFIG_HOME", folder)


@pytest.fixture(autouse=True)
def _names_of_examples(
    request: pytest.FixtureRequest,
    doctest_namespace: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """`hp`, `client`, and `batch` (with its `job` 1) stand in the examples without being made there."""
    module = request.node.dtest.globs["__name__"].removeprefix("longshore.")
    if module in SERVED:
        there: Documented = request.getfixturevalue("documented")
        find(monkeypatch, there.home)
        monkeypatch.chdir(tmp_path)
        import longshore as hp

        batch = there.client.get_batch(there.batch.id)
        doctest_namespace.update(hp=hp, client=there.client, batch=batch, job=batch.job(1))
