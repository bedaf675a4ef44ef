"""THE LOOP of workerd: the controller's orders, the containers and the clock go into the supervisor,
what it decides is written to disk and then done.

One asyncio loop. Whatever became due since the last turn is one group: one write, at most one fsync.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import TypeVar

from longshore_workerd import wire
from longshore_workerd.actions import (
    Accept,
    Action,
    Adopt,
    Forget,
    Note,
    Prepare,
    Remove,
    Start,
    Stop,
    Survivor,
    Tell,
)
from longshore_workerd.backoff import backoff
from longshore_workerd.containers import Surroundings, container_spec, may_see_io
from longshore_workerd.identity import Memory
from longshore_workerd.log_push import LogPusher
from longshore_workerd.logs import LogFile, Logs
from longshore_workerd.model import Assignment, AttemptState, Held, Orders
from longshore_workerd.runtime import (
    Container,
    ContainerId,
    EngineAway,
    ErrorKind,
    Runtime,
    RuntimeRefused,
)
from longshore_workerd.session import Session
from longshore_workerd.spool import Kind, Spool
from longshore_workerd.supervisor import Supervisor

_log = logging.getLogger(__name__)

T = TypeVar("T")

_LAST_LINE_BYTES = 2_000
"""As much of a localizer's last words as fits into a message."""
DISK_RETRY_S = 1.0
REMOVERS = 16
"""Attempts whose containers and files are removed at the same time; the others wait."""
SHUTDOWN_S = 15.0
"""How long a shutdown that stops its jobs waits for them to be gone, and for the controller to hear of it."""


class Daemon:
    """Holds the attempts of this machine. It is the session's ``Attempts``."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        spool: Spool,
        logs: Logs,
        memory: Memory,
        surroundings: Surroundings,
        boot_id: str,
        clock_ms: Callable[[], int],
        rng: Random,
        io_folders: bool = True,
    ) -> None:
        """``io_folders``: attempts get a folder for their files; not needed where nothing really runs."""
        self._runtime = runtime
        self._spool = spool
        self._logs = logs
        self._memory = memory
        self._surroundings = surroundings
        self._boot_id = boot_id
        self._clock_ms = clock_ms
        self._rng = rng
        self._io_folders = io_folders
        self._supervisor = Supervisor(
            default_image=surroundings.default_image, localizer_image=surroundings.localizer_image
        )
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._unwritten: list[Action] = []
        """Actions that wait for their records to be on disk, in order."""
        self._reports: list[tuple[str, AttemptState, bytes]] = []
        """The same for what is to be told to the controller."""
        self._must_sync = False
        self._preparing: dict[str, list[str]] = {}
        self._removing: set[str] = set()
        """Ended attempts whose containers and files are on their way out."""
        self._to_remove: deque[Remove] = deque()
        self._removers = 0
        self._lease_until_ms = memory.lease_until_ms(boot_id)
        self._lease_lost = False

    async def run(self, session: Session, stopping: asyncio.Event, *, stop_jobs: bool) -> None:
        """Until ``stopping`` is set; then the containers run on, to be adopted by the next start, or,
        with ``stop_jobs``, they are stopped and the controller is told. IdentityUnknown."""
        self._session = session
        self._pusher = LogPusher(self._logs, session.push_logs, self._rng)
        await self._insist(self._runtime.open)
        await self._recover()
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(stopping.wait()),
            asyncio.create_task(session.run()),
            asyncio.create_task(self._pusher.run()),
            asyncio.create_task(self._loop()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if stop_jobs:
                await self._stop_jobs()
        finally:
            await _cancel([*tasks, *self._tasks])
            await self._runtime.close()
            self._disk.shutdown()

    # --- session.Attempts

    def held(self) -> list[Held]:
        return self._supervisor.held(self._clock_ms())

    def spooled(self) -> list[str]:
        return self._supervisor.spooled()

    def on_orders(self, orders: Orders) -> None:
        self._supervisor.on_orders(self._clock_ms(), orders)
        self._lease_lost = False  # if it is over, it is over for what has just come as well
        self._wake.set()

    def on_acked(self, attempt_ids: Iterable[str]) -> None:
        self._supervisor.on_acked(attempt_ids)
        self._wake.set()

    def on_lease(self, until_ms: int) -> None:
        if until_ms <= self._lease_until_ms:
            return
        self._lease_until_ms = until_ms
        self._lease_lost = False
        try:
            self._memory.remember_lease(self._boot_id, until_ms)
        except OSError as error:
            _log.warning("after a restart the lease will seem shorter than it is: %s", error)

    def on_logs_wanted(self, attempt_ids: Collection[str]) -> None:
        self._pusher.follow(attempt_ids)

    # --- the loop

    async def _loop(self) -> None:
        while True:
            await self._something_due()
            now = self._clock_ms()
            self._mind_lease(now)
            self._supervisor.on_tick(now)
            await self._perform(self._supervisor.take(now))

    def _mind_lease(self, now: int) -> None:
        if now >= self._lease_until_ms and not self._lease_lost:
            self._lease_lost = True
            self._supervisor.on_lease_lost(now)

    async def _something_due(self) -> None:
        deadlines = [] if self._lease_lost else [self._lease_until_ms]
        if (deadline := self._supervisor.next_deadline()) is not None:
            deadlines.append(deadline)
        timeout = (min(deadlines) - self._clock_ms()) / 1000 if deadlines else None
        if not self._wake.is_set() and (timeout is None or timeout > 0):
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
        self._wake.clear()

    async def _perform(self, actions: list[Action]) -> None:
        """First what must not wait, then what must be on disk, then what relies on that."""
        for action in actions:
            if isinstance(action, Stop):
                self._spawn(self._stop(action))
            else:
                self._write(action)
                self._unwritten.append(action)
        if not self._unwritten:
            return
        try:
            if self._must_sync:
                await asyncio.get_running_loop().run_in_executor(self._disk, self._sync)
            else:
                self._spool.flush(durable=False)  # A thread would cost more than the write.
        except OSError as error:
            _log.error("nothing goes on until the disk can be written again: %s", error)
            asyncio.get_running_loop().call_later(DISK_RETRY_S, self._wake.set)
            return
        ready, self._unwritten, self._must_sync = self._unwritten, [], False
        reports, self._reports = self._reports, []
        for report in reports:
            self._session.report(*report)
        for action in ready:
            self._do(action)

    def _sync(self) -> None:
        self._spool.flush(durable=True)

    def _write(self, action: Action) -> None:
        match action:
            case Accept(job, at_ms):
                self._spool.append(
                    Kind.ACCEPTED, job.attempt_id, wire.encode_accepted(job, at_ms, self._boot_id)
                )
                self._must_sync = True
            case Start(job, Container.MAIN):
                self._spool.append(Kind.MAIN_ORDERED, job.attempt_id)
            case Note(report):
                self._spool.append(Kind.REPORTED, report.attempt_id, wire.encode_report(report))
            case Tell(report):
                data = wire.encode_report(report)
                self._spool.append(Kind.REPORTED, report.attempt_id, data)
                self._reports.append((report.attempt_id, report.state, data))
                self._must_sync |= report.state is AttemptState.ENDED
            case Forget(attempt_id):
                self._spool.append(Kind.FORGOTTEN, attempt_id)
            case _:
                pass

    def _do(self, action: Action) -> None:
        match action:
            case Prepare(attempt_id, image):
                waiting = self._preparing.setdefault(image, [])
                waiting.append(attempt_id)
                if len(waiting) == 1:
                    self._spawn(self._prepare(image))
            case Start(job, container):
                self._spawn(self._start(job, container))
            case Adopt(id):
                self._spawn(self._adopt(id))
            case Remove(attempt_id):
                self._removing.add(attempt_id)
                self._to_remove.append(action)
                if self._removers < REMOVERS:
                    self._removers += 1
                    self._spawn(self._remove_in_turn())
            case _:
                pass

    # --- what is done

    async def _prepare(self, image: str) -> None:
        """For all attempts that wait for this image when it is there."""
        refused: RuntimeRefused | None = None
        try:
            await self._insist(lambda: self._runtime.prepare(image))
        except RuntimeRefused as why:
            refused = why
        except Exception as error:
            _log.error("image %s", image, exc_info=error)
            refused = RuntimeRefused(ErrorKind.NONE, f"the worker could not prepare {image}: {error}")
        now = self._clock_ms()
        for attempt_id in self._preparing.pop(image):
            if refused is None:
                self._supervisor.on_prepared(now, attempt_id, image)
            else:
                self._supervisor.on_image_refused(now, attempt_id, image, refused.kind, refused.message)
        self._wake.set()

    async def _start(self, job: Assignment, container: Container) -> None:
        id = ContainerId(job.attempt_id, container)
        log = self._logs.open(id)
        try:
            folder = self._logs.io_folder(job.attempt_id)
            spec = container_spec(job, container, folder, self._surroundings)
            if self._io_folders and may_see_io(spec, self._surroundings):
                self._logs.make_io_folder(job.attempt_id)
            # After this process was stopped for a while the loop may not have had its turn yet.
            self._mind_lease(self._clock_ms())
            if self._supervisor.is_halted(id):
                raise RuntimeRefused(ErrorKind.NONE, "stopped before it was started")
            await self._insist(
                lambda: self._runtime.start(spec, log), unless=lambda: self._supervisor.is_halted(id)
            )
            self._supervisor.on_started(self._clock_ms(), id)
            self._wake.set()
            await self._see_end(id, log)
        except RuntimeRefused as refused:
            log.close()
            self._supervisor.on_refused(self._clock_ms(), id, refused.kind, refused.message)
        except Exception as error:
            self._own_fault(id, error)
        self._wake.set()

    async def _adopt(self, id: ContainerId) -> None:
        log = self._logs.open(id)
        _log.info("adopted the %s container of attempt %s", id.container.name.lower(), id.attempt_id)
        try:
            await self._insist(lambda: self._runtime.adopt(id, log))
            await self._see_end(id, log)
        except Exception as error:
            self._own_fault(id, error)
        self._wake.set()

    async def _see_end(self, id: ContainerId, log: LogFile) -> None:
        exit = await self._insist(lambda: self._runtime.wait(id))
        if id.container is not Container.MAIN and exit.exit_code and not exit.error:
            last_line = self._logs.last_line(id, _LAST_LINE_BYTES)
            exit = replace(exit, error=last_line.removeprefix("error: "))
        self._supervisor.on_ended(self._clock_ms(), id, exit, log.stored)

    def _own_fault(self, id: ContainerId, error: Exception) -> None:
        """Something of this machine failed in a way that the runtime has no word for."""
        _log.error("%s of attempt %s", id.container.name.lower(), id.attempt_id, exc_info=error)
        why = f"the worker could not run it: {error or type(error).__name__}"
        self._supervisor.on_refused(self._clock_ms(), id, ErrorKind.NONE, why)

    async def _stop(self, stop: Stop) -> None:
        await self._insist(lambda: self._runtime.stop(stop.id, stop.grace_s))

    async def _remove_in_turn(self) -> None:
        """One after another, as long as there are any."""
        try:
            while self._to_remove:
                remove = self._to_remove.popleft()
                try:
                    await self._remove(remove.attempt_id, remove.containers)
                except Exception as error:
                    _log.error("attempt %s could not be removed", remove.attempt_id, exc_info=error)
        finally:
            self._removers -= 1

    async def _remove(self, attempt_id: str, containers: Iterable[Container]) -> None:
        try:
            for id in [ContainerId(attempt_id, container) for container in containers]:
                await self._insist(partial(self._runtime.remove, id))
            if self._logs.has_io_folder(attempt_id):
                await asyncio.to_thread(self._logs.remove_io_folder, attempt_id)
        finally:
            self._removing.discard(attempt_id)
        if self._logs.has_folder(attempt_id):
            self._pusher.deliver(attempt_id)

    async def _recover(self) -> None:
        """Everything is as the disk and the runtime say; nothing is performed yet."""
        survivors: list[Survivor] = []
        ended: list[str] = []
        for attempt_id, entry in self._spool.entries().items():
            report = wire.decode_report(entry.report) if entry.report is not None else None
            if entry.report is not None and report is not None and report.state is AttemptState.ENDED:
                ended.append(attempt_id)
                self._session.report(attempt_id, AttemptState.ENDED, entry.report)
            elif entry.accepted is not None:
                job, at_ms, boot_id = wire.decode_accepted(entry.accepted)
                survivors.append(Survivor(job, at_ms, boot_id == self._boot_id, entry.main_ordered, report))
        found = await self._insist(self._runtime.list)
        self._supervisor.recover(self._clock_ms(), survivors=survivors, ended=ended, found=found)
        self._wake.set()
        held = {survivor.job.attempt_id for survivor in survivors}
        gone = {f.id.attempt_id for f in found} - held
        for attempt_id in self._logs.attempts():
            if attempt_id not in held | gone:
                self._spawn(self._remove(attempt_id, ()))
        if survivors or ended or found:
            _log.info(
                "after a restart: %d attempts held, %d ends to be told, %d containers found",
                len(survivors),
                len(ended),
                len(found),
            )

    async def _stop_jobs(self) -> None:
        self._supervisor.on_shutdown(self._clock_ms())
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_S):
                while self._is_busy():
                    await asyncio.sleep(0.05)
        if held := self.held():
            _log.error("%d attempts would not stop in %g s and run on", len(held), SHUTDOWN_S)

    def _is_busy(self) -> bool:
        """Something of a job is still to be stopped, decided, written, removed or told."""
        pending = self.held() or self._wake.is_set() or self._unwritten or self._removing
        return bool(pending) or self._is_heard()

    def _is_heard(self) -> bool:
        """There is something left to tell, and somebody who listens."""
        told = self._session.all_acked() and self._pusher.is_idle()
        return self._session.is_connected() and not told

    async def _insist(
        self, ask: Callable[[], Awaitable[T]], *, unless: Callable[[], bool] = lambda: False
    ) -> T:
        """The answer, however long the engine is away; RuntimeRefused when it is and ``unless`` is true."""
        failures = 0
        while True:
            try:
                return await ask()
            except EngineAway as away:
                failures += 1
                if failures == 1:
                    _log.warning("the engine is away, asking again until it is back: %s", away)
            if not unless():
                await asyncio.sleep(backoff(failures, self._rng, longest_s=5.0))
            if unless():
                raise RuntimeRefused(ErrorKind.NONE, "stopped while the engine was away")

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("this should not happen", exc_info=error)


async def _cancel(tasks: list[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
