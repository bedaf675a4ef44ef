"""The dashboard before a service that behaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes_service import TOKEN, FakeService
from longshore import Client
from longshore_tui.app import Dashboard
from longshore_tui.feed import Feed, connect_to
from terminal import Terminal

Open = Callable[..., AbstractAsyncContextManager[Terminal]]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    """Runs nothing by itself."""
    with FakeService(tmp_path / "service", runs_jobs=False) as service:
        yield service


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client("test", endpoint=service.endpoint, token=TOKEN) as client:
        yield client


@pytest.fixture
def submit(client: Client) -> Callable[..., int]:
    """A batch of so many jobs, at the service; its id."""

    def submit(name: str = "hello", n_jobs: int = 1, **job: Any) -> int:
        builder = client.create_batch(name=name)
        for number in range(1, n_jobs + 1):
            builder.create_job(None, ["true"], **{"name": f"job-{number:03}", **job})
        return builder.submit().id

    return submit


@pytest.fixture
def open_dashboard(service: FakeService) -> Open:
    """``async with open_dashboard(batch_id, job_id, size=…, theme=…) as terminal``."""

    @asynccontextmanager
    async def open_dashboard(
        *target: int, size: tuple[int, int] = (120, 35), token: str = TOKEN, **options: Any
    ) -> AsyncIterator[Terminal]:
        app = Dashboard(Feed(connect_to(service.endpoint, token)), *target, **options)
        async with app.run_test(size=size, notifications=True) as pilot:
            yield Terminal(app, pilot)

    return open_dashboard
