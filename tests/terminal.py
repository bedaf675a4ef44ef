"""The dashboard in a terminal that a test can look at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from longshore_tui.app import Dashboard
from longshore_tui.widgets.table import WindowTable
from textual.pilot import Pilot

PATIENCE_S = 15.0


class Terminal:
    """What somebody in front of the dashboard sees, and does."""

    def __init__(self, app: Dashboard, pilot: Pilot[None]) -> None:
        self.app = app
        self.press = pilot.press
        self.resize = pilot.resize_terminal

    @property
    def table(self) -> WindowTable[Any]:
        """The list in front."""
        return self.app.screen.query_one(WindowTable)

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

    async def at(self, key: int) -> None:
        """Wait until the cursor is at this row."""
        await self.until(lambda: self.table.cursor_key == key)
