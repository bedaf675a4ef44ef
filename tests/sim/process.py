"""Programs that live in one asyncio loop as if each had a process: they can be killed, frozen and told
to end, at any of their steps.

Whatever runs knows by a context variable in which process it runs. What is killed is cancelled, and all
that it could still do to the world on its way out is refused: a kill leaves no last words.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import Any, TypeVar
from weakref import WeakSet

from sim.virtual import Stuck, VirtualLoop

T = TypeVar("T")
STEPS_IN_AN_INSTANT = 100_000
TIMERS_IN_AN_INSTANT = 100


class Task(asyncio.Task[Any]):
    """Sets of tasks have the same order in every run."""

    def __init__(self, coro: Any, *, number: int, **named: Any) -> None:
        self._number = number
        super().__init__(coro, **named)

    def __hash__(self) -> int:
        return self._number


class Future(asyncio.Future[Any]):
    def __init__(self, *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class Process:
    """One life of one program."""

    def __init__(self, loop: ProcessLoop, name: str, owner: object = None) -> None:
        self.name = name
        self.owner = owner
        """Whose program this is: the machine, where there is one."""
        self.is_alive = True
        self.is_frozen = False
        self.dies_in: int | None = None
        """Steps until it is killed, by `on_death`."""
        self.on_death: Callable[[], None] = lambda: None
        self.files: dict[int, int] = {}
        """Open ones, with their inode numbers: some are closed without a word, and the number used again."""
        self.signals: dict[int, Callable[[], None]] = {}
        self.waiting: deque[asyncio.Handle] = deque()
        """What it will do when it is thawed."""
        self.tasks: WeakSet[Task] = WeakSet()
        self.context = Context()
        self.context.run(PROCESS.set, self)
        self._loop = loop
        loop.processes.append(self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task: asyncio.Task[T] = self._loop.create_task(work, context=self.context.copy())
        return task

    def look(self, at: Callable[[], T]) -> T:
        """What somebody who stands beside it sees in it."""
        return self.context.copy().run(at)

    def call_at(self, at_s: float, call: Callable[..., None], *arguments: object) -> None:
        """It notices something then, if it is not frozen."""
        self._loop.call_at(at_s, call, *arguments, context=self.context)

    def freeze(self) -> None:
        self.is_frozen = self.is_alive

    def thaw(self) -> None:
        self.is_frozen = False
        self._loop.release(self)

    def kill(self) -> None:
        """At once. Its files are closed as they are."""
        self.is_alive = False
        for task in sorted(self.tasks, key=hash):
            task.cancel()
        self.thaw()
        for file, inode in self.files.items():
            with suppress(OSError):
                if os.fstat(file).st_ino == inode:
                    os.close(file)
        self.files.clear()

    def require_alive(self) -> None:
        """Dead ones do nothing more to the world."""
        if not self.is_alive:
            raise asyncio.CancelledError


PROCESS: ContextVar[Process] = ContextVar("process")


class ProcessLoop(VirtualLoop):
    """Runs what is ready in the order in which it became so; time passes when nothing is."""

    _timer_cancelled_count: int

    def __init__(self) -> None:
        self.processes: list[Process] = []
        """All there ever were."""
        self._numbers = itertools.count()
        self._steps = self._still = 0
        super().__init__()

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> Any:
        task = Task(coro, number=next(self._numbers), loop=self, name=name, context=context)
        process = PROCESS.get(None) if context is None else context.get(PROCESS)
        if process is not None:
            process.tasks.add(task)
            if not process.is_alive:
                task.cancel()
        return task

    def create_future(self) -> Any:
        return Future(number=next(self._numbers), loop=self)

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., Any], *args: Any
    ) -> None:
        PROCESS.get().signals[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return PROCESS.get().signals.pop(sig, None) is not None

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        task: asyncio.Future[Any] = self.create_task(self._call(func, args))
        return task

    async def _call(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        process = PROCESS.get()
        before, after = self.latency()
        await asyncio.sleep(before)
        process.require_alive()
        try:
            return func(*args)
        finally:
            if after:
                await asyncio.sleep(after)

    def set_default_executor(self, executor: Any) -> None:
        """There are no threads."""

    def release(self, process: Process) -> None:
        """It goes on where it was stopped."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        ready.extend(process.waiting)
        process.waiting.clear()

    def _run_once(self) -> None:
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        timers: list[Any] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(timers)._scheduled = False
        if ready:
            self._steps += len(ready)
            if self._steps > STEPS_IN_AN_INSTANT:
                raise Stuck("the loop goes round and round, and no time passes")
        else:
            self._steps = 0
            if not timers:
                raise Stuck("everybody waits for somebody else")
            at_ms = max(self.now_ms, math.ceil(timers[0]._when * 1000 - 0.001))
            # Who waits for less than a float can tell apart from nothing shall not wait for ever.
            self._still = self._still + 1 if at_ms == self.now_ms else 0
            self._sleeper.now_ms = at_ms + (self._still > TIMERS_IN_AN_INSTANT)
        now_s = self.now_ms / 1000 + 0.00001
        while timers and timers[0]._when <= now_s:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            if timer._cancelled:
                self._timer_cancelled_count -= 1
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                self._run(handle)

    def _run(self, handle: Any) -> None:
        process = handle._context.get(PROCESS)
        if process is not None:
            if process.is_frozen:
                process.waiting.append(handle)
                return
            if process.dies_in is not None:
                process.dies_in -= 1
                if process.dies_in <= 0:
                    process.dies_in = None
                    process.on_death()
        handle._run()
