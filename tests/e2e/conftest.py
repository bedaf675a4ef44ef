"""The service that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from embedded import Up, running


@pytest.fixture(scope="module", params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One for all tests of a module, with each runtime."""
    with running(tmp_path_factory.mktemp("up"), "--runtime", request.param) as up:
        yield up
