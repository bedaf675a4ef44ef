"""The dashboard in a terminal that a test can look at, before a service that behaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes_service import TOKEN, FakeService
from longshore import Client
from longshore_tui.app import Dashboard
from longshore_tui.feed import Feed, connect_to
from textual.pilot import Pilot

PATIENCE_S = 15.0


class Terminal:
    """What somebody in front of the dashboard sees, and does."""

    def __init__(self, app: Dashboard, pilot: Pilot[None]) -> None:
        self.app = app
        self.press = pilot.press
        self.resize = pilot.resize_terminal

    @property
    def lines(self) -> list[str]:
        return [strip.text for strip in self.app.screen._compositor.render_strips()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def line(self, part: str) -> str:
        """The first line that holds `part`."""
        return next((line for line in self.lines if part in line), "")

    async def until(self, fact: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not fact():
            if time.monotonic() > end:
                pytest.fail(f"did not come about; the screen is:\n{self.text}", pytrace=False)
            await asyncio.sleep(0.01)

    async def sees(self, *parts: str) -> None:
        """Wait until all of these are on the screen."""
        await self.until(lambda: all(part in self.text for part in parts))


Open = Callable[..., AbstractAsyncContextManager[Terminal]]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    """Runs nothing by itself; its pages hold three rows."""
    with FakeService(tmp_path / "service", runs_jobs=False, page=3) as service:
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
    """``async with open_dashboard(batch_id, job_id, size=…) as terminal``."""

    @asynccontextmanager
    async def open_dashboard(
        *target: int, size: tuple[int, int] = (120, 35), token: str = TOKEN
    ) -> AsyncIterator[Terminal]:
        app = Dashboard(Feed(connect_to(service.endpoint, token)), *target)
        async with app.run_test(size=size) as pilot:
            yield Terminal(app, pilot)

    return open_dashboard
