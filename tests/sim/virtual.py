"""Time that passes only when nobody has anything to do: an asyncio loop for whole histories in moments."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

Latency = Callable[[], tuple[float, float]]


class Stuck(AssertionError):
    """Everybody waits, and no timer runs."""


class _Sleeper(selectors.SelectSelector):
    """Waits for no file; to wait for a time is to be there."""

    now_ms = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("everybody waits for somebody else")
        if timeout > 0:
            # Timers are due at whole milliseconds; floats only nearly say so.
            self.now_ms = max(self.now_ms + 1, round(self.now_ms + timeout * 1000))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """One thread, no real waiting, the same order of events each time.

    Calls for an executor are made in the loop itself, ``latency()`` = (before, after) seconds around
    them: whoever is cancelled meanwhile has made the call or has not, as a process that dies.
    """

    def __init__(self) -> None:
        self._sleeper = _Sleeper()
        self.latency: Latency = lambda: (0.0, 0.0)
        super().__init__(self._sleeper)

    def time(self) -> float:
        return self._sleeper.now_ms / 1000

    @property
    def now_ms(self) -> int:
        return self._sleeper.now_ms

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        return self.create_task(self._call(func, args))

    async def _call(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        before, after = self.latency()
        if before:
            await asyncio.sleep(before)
        try:
            return func(*args)
        finally:
            if after:
                await asyncio.sleep(after)
