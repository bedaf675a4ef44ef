"""A machine with containers and a disk that outlive the real workerd, which lives there in a process.

Containers are of the simulation; what really ran is told to the oracle. Everything above them, from the
command line on, is workerd's own.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Protocol

from longshore_workerd import __main__ as workerd_main
from longshore_workerd.daemon import Daemon
from longshore_workerd.logs import Logs
from longshore_workerd.runtime import (
    Container,
    ContainerId,
    ContainerSpec,
    EngineAway,
    ErrorKind,
    Exit,
    Found,
    LogSink,
    Prepared,
    RuntimeRefused,
)
from longshore_workerd.session import ActivationRefused
from longshore_workerd.spool import Spool
from sim.disk import Disk
from sim.oracle import Oracle
from sim.process import PROCESS, Process, ProcessLoop
from sim.wire import Network

RESTART_S = (1, 1, 2, 5, 15, 60)
"""Whoever watches over workerd starts it again so long after it ended; the last one repeats."""


class World(Protocol):
    oracle: Oracle
    network: Network
    disk: Disk
    folder: Path
    refusing: float
    long_jobs: bool
    """Most run for longer than troubles last."""
    stalling: float
    """How likely workerd is frozen while it asks its engine for something."""
    outputs: dict[ContainerId, bytes]
    """What every container ever said."""

    def now(self) -> int: ...

    def tell(self, who: str, what: object) -> None: ...

    def happened(self, what: str) -> None: ...

    def violated(self, error: BaseException) -> None: ...


@dataclass(eq=False)
class Running:
    """A container of a machine."""

    id: ContainerId
    started_ms: int
    end: asyncio.TimerHandle
    exit: Exit | None = None
    sink: LogSink | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)


class Host:
    def __init__(self, world: World, loop: ProcessLoop, name: str, mcpu: int, rng: Random) -> None:
        self.world = world
        self.name = name
        self.mcpu = mcpu
        self.rng = rng
        self.folder = world.folder / name
        self.folder.mkdir()
        self.containers: dict[ContainerId, Running] = {}
        self.starting: dict[ContainerId, asyncio.TimerHandle] = {}
        """What the engine was asked to start, and has not started yet."""
        self.worker_id = ""
        self.epoch = 0
        """The highest that it has obeyed."""
        self.lease_until_ms = 0
        self.boot = 1
        self.booted_ms = world.now() - rng.randint(0, 10**9)
        self.is_gone = False
        self.engine_is_away = False
        self.process: Process | None = None
        self.daemon: Daemon | None = None
        self.lives = 0
        self._ends_in_a_row = 0
        self._loop = loop

    # -- what the oracle asks ----------------------------------------------------------------------

    @property
    def is_watched(self) -> bool:
        """A workerd lives there that can do what it wants to."""
        return self.process is not None and not self.process.is_frozen and not self.engine_is_away

    def is_idle(self) -> bool:
        """Holds nothing, has nothing to tell, and nothing is left of what it ran."""
        daemon, process = self.daemon, self.process
        if daemon is None or process is None or self.containers:
            return False

        def look() -> bool:
            # Whoever is told to end does not wait for a controller that is away; this does.
            listened_to = daemon._session.is_connected()
            return listened_to and not daemon._is_busy() and not daemon.spooled()

        return process.look(look)

    def check_empty(self) -> None:
        """Nothing is left of anybody, on a machine that was idle."""

        def look() -> tuple[object, list[str]]:
            spool = Spool(self.folder)
            try:
                return spool.entries(), Logs(self.folder / "attempts").attempts()
            finally:
                spool.close()

        held, folders = Process(self._loop, "whoever looks").look(look)
        assert not held, f"{self.name}: nobody needs what is left in its spool: {held}"
        assert not folders, f"{self.name}: nobody needs what is left of attempts: {folders}"

    # -- clocks ------------------------------------------------------------------------------------

    def clock_ms(self) -> int:
        """Since this boot."""
        return self.world.now() - self.booted_ms

    def boot_id(self) -> str:
        return f"{self.name:>8}-{self.boot:027}"

    # -- what befalls it ---------------------------------------------------------------------------

    def start_workerd(self) -> None:
        if self.process is not None or self.is_gone:
            return
        self._note_unguarded()
        self.lives += 1
        self.process = process = Process(self._loop, f"{self.name}.{self.lives}", self)
        process.on_death = self.kill_workerd
        flags = workerd_main._parser().parse_args(
            [
                *("--controller", "127.0.0.1:1", "--state-dir", str(self.folder), "--runtime", "fake"),
                *("--activation-token-file", str(self.world.folder / "activation")),
                *("--cores", f"{self.mcpu * self.rng.choice([1, 1, 2]) / 1000:g}", "--name", self.name),
                *("--stop-jobs-on-exit",),
            ]
        )
        life = process.spawn(workerd_main._run(flags))
        life.add_done_callback(lambda task: self._ended(process, task), context=Context())

    def kill_workerd(self) -> None:
        if self.process is not None:
            self.world.tell(self.name, "workerd is killed")
            self.world.happened("workerd killed")
            process = self.process
            self._forget_process()
            process.kill()
            self.world.network.died(process)

    def stays(self) -> None:
        """Its workerd has come so far that it is not about to end again at once."""
        self._ends_in_a_row = 0

    def freeze(self) -> None:
        if self.process is not None:
            self.world.tell(self.name, "workerd is frozen")
            self.process.freeze()
            for id, container in self.containers.items():
                # What ends in this very instant is not seen any more.
                if id.container is Container.MAIN and container.exit is not None:
                    run = self.world.oracle.runs[id.attempt_id]
                    run.unseen_end |= run.ended_ms == self.world.now()
                    run.blurred |= run.unseen_end

    def freeze_for(self, seconds: float) -> None:
        if self.process is not None and not self.process.is_frozen:
            self.freeze()
            self._loop.call_later(seconds, self.thaw, context=Context())

    def stall(self) -> None:
        """It is frozen for long, now and then, where it has just done something."""
        if self.world.stalling and self.rng.random() < self.world.stalling:
            self.freeze_for(self.rng.choice([12, 35, 60]))

    def thaw(self) -> None:
        if self.process is not None and self.process.is_frozen:
            self.world.tell(self.name, "workerd is thawed")
            self._note_unguarded()
            self.process.thaw()

    def lose_engine(self) -> None:
        self.world.tell(self.name, "its engine is away")
        self.engine_is_away = True

    def regain_engine(self) -> None:
        if self.engine_is_away:
            self._note_unguarded()
            self.engine_is_away = False
            for container in self.containers.values():
                self._wake(container)

    def shut_down(self) -> None:
        """SIGTERM: the machine will soon be taken away."""
        self.world.tell(self.name, "is told to shut down")
        if self.process is not None and signal.SIGTERM in self.process.signals:
            self.process.signals[signal.SIGTERM]()

    def reboot(self) -> None:
        """The containers are gone, the disk is not, the clock begins again."""
        self.world.tell(self.name, "is rebooted")
        self._power_off()
        self.world.disk.cut_power(self.folder)
        self.boot += 1
        self.booted_ms = self.lease_until_ms = self.world.now()

    def vanish(self) -> None:
        """For ever, with its disk."""
        if not self.is_gone:
            self.world.tell(self.name, "vanishes")
            self._power_off()
            self.is_gone = True

    def _power_off(self) -> None:
        self.kill_workerd()
        for container in self.containers.values():
            id = container.id
            container.end.cancel()
            if id.container is not Container.MAIN:
                continue
            if container.exit is None:
                self.world.oracle.main_ends(id.attempt_id, cut=True)
            else:
                self.world.oracle.runs[id.attempt_id].cut = True
        self.containers.clear()
        for timer in self.starting.values():
            timer.cancel()
        self.starting.clear()

    def _note_unguarded(self) -> None:
        """What ran when the lease was over, while nobody was there to stop it, is nobody's promise."""
        for id, container in self.containers.items():
            if id.container is Container.MAIN and not self.is_watched:
                run = self.world.oracle.runs[id.attempt_id]
                run.seen_ms = self.world.now()
                if container.exit is None and self.world.now() >= self.lease_until_ms:
                    run.guarded_ms = self.world.now()
                run.blurred = True

    def _forget_process(self) -> None:
        self.process = self.daemon = None
        for container in self.containers.values():
            container.sink = None
            container.waiters.clear()
        for id, timer in list(self.starting.items()):
            if self.rng.random() < 0.5:
                timer.cancel()
                del self.starting[id]

    def _ended(self, process: Process, life: asyncio.Task[None]) -> None:
        """Of itself."""
        if not process.is_alive or self.process is not process:
            return
        error = None if life.cancelled() else life.exception()
        if error is not None and not isinstance(error, ActivationRefused | OSError):
            self.world.violated(error)
            return
        self.world.tell(self.name, f"workerd ends: {error or 'as told'}")
        self.world.happened("workerd ends of itself" if error else "workerd ends as told")
        self._forget_process()
        process.kill()
        self.world.network.died(process)
        self._ends_in_a_row += 1
        pause_s = RESTART_S[min(self._ends_in_a_row, len(RESTART_S)) - 1]
        self._loop.call_later(pause_s, self.start_workerd)

    # -- its runtime -------------------------------------------------------------------------------

    def ask_to_start(self, id: ContainerId, in_ms: int) -> asyncio.Future[Running]:
        """The engine does it at its own time, whatever becomes of who asked for it."""
        answer: asyncio.Future[Running] = self._loop.create_future()

        def start() -> None:
            del self.starting[id]
            container = self._start_container(id)
            if not answer.done():
                answer.set_result(container)

        self.starting[id] = self._later(in_ms, start)
        return answer

    def _start_container(self, id: ContainerId) -> Running:
        if id.container is Container.MAIN:
            runs_ms = self.rng.choice([0, 40, 500, 3_000, 20_000, 20_000, 90_000, 90_000, 1_000, 400_000])
            if self.world.long_jobs:
                runs_ms = self.rng.choice([500, 20_000, 90_000, 90_000, 200_000])
            code = self.rng.choice([0, 0, 0, 0, 0, 1, 3])
            self.world.oracle.main_starts(self, id.attempt_id)
        else:
            runs_ms, code = self.rng.choice([1, 30, 2_000]), self.rng.choice([0, 0, 0, 0, 0, 0, 1])
        exit = Exit(code)
        if code == 3:
            exit = Exit(137, ErrorKind.OUT_OF_MEMORY, "out of memory")
        elif self.rng.random() < self.world.refusing:
            exit = Exit(None, known=False, error="the engine was away")
        container = Running(id, self.world.now(), self._later(runs_ms, lambda: self._ends(id, exit)))
        self.containers[id] = container
        if not self.is_watched:
            self.blur(container)
        self._says(container, f"{id.attempt_id} says {'much ' * self.rng.choice([0, 1, 300])}\n")
        return container

    def blur(self, container: Running) -> None:
        """Nobody could see when it began, or when it ended."""
        if container.id.container is Container.MAIN:
            self.world.oracle.runs[container.id.attempt_id].blurred = True

    def stop_container(self, id: ContainerId, grace_s: float) -> None:
        """It ends within the grace; of itself, perhaps, even earlier."""
        container = self.containers.get(id)
        within_ms = self.rng.randint(0, int(grace_s * 1000))
        at_s = self._loop.time() + within_ms / 1000
        if container is not None and container.exit is None and at_s < container.end.when():
            container.end.cancel()
            container.end = self._later(within_ms, lambda: self._ends(id, Exit(137)))

    def remove_container(self, id: ContainerId) -> None:
        container = self.containers.pop(id, None)
        if container is not None and container.exit is None:
            container.end.cancel()
            self._has_ended(container, Exit(137))

    def attach(self, container: Running, sink: LogSink) -> None:
        container.sink = sink
        sink.write(self.world.outputs[container.id][sink.size :])

    def exit_of(self, container: Running) -> Exit | None:
        """None: it runs, or nobody can tell."""
        if container.exit is None or self.engine_is_away:
            return None
        return container.exit

    def _ends(self, id: ContainerId, exit: Exit) -> None:
        container = self.containers[id]
        self._says(container, "and is done\n")
        if self.engine_is_away:
            exit = Exit(None, known=False, error="the engine was away when it ended")
        self._has_ended(container, exit)

    def _has_ended(self, container: Running, exit: Exit) -> None:
        container.exit = replace(exit, ran_ms=self.world.now() - container.started_ms if exit.known else None)
        if container.id.container is Container.MAIN:
            run = self.world.oracle.runs[container.id.attempt_id]
            run.blurred |= not (self.is_watched and container.waiters)
            run.unseen_end |= self.process is not None and not (self.is_watched and container.waiters)
            self.world.oracle.main_ends(container.id.attempt_id)
        self._wake(container)

    def _wake(self, container: Running) -> None:
        for waiter in container.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _says(self, container: Running, text: str) -> None:
        outputs = self.world.outputs
        outputs[container.id] = outputs.get(container.id, b"") + text.encode()
        if container.sink is not None and self.is_watched and self.process is not None:
            with suppress(asyncio.CancelledError):
                self.process.context.copy().run(container.sink.write, text.encode())

    def _later(self, ms: int, do: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(ms / 1000, do, context=Context())


class Runtime:
    """What a workerd sees of its machine's engine: a runtime.Runtime."""

    name = "fake"
    isolated = False

    def __init__(self) -> None:
        self._process = PROCESS.get()
        assert isinstance(self._process.owner, Host)
        self._host = self._process.owner

    async def _ask(self, *latencies_ms: int) -> None:
        """EngineAway now and then, or while it is."""
        self._process.require_alive()
        if latency_ms := self._host.rng.choice(latencies_ms or (0, 0, 5)):
            await asyncio.sleep(latency_ms / 1000)
        self._process.require_alive()
        if self._host.engine_is_away:
            self._host.world.happened("an engine that does not answer")
            raise EngineAway("cannot connect")

    def _lose_answer(self) -> None:
        if self._host.rng.random() < self._host.world.refusing / 3:
            self._host.world.happened("an engine's answer that is lost")
            raise EngineAway("the connection broke")

    async def open(self) -> None:
        await self._ask()

    async def _stall(self) -> None:
        """Not just before a start: who has looked at the lease, is stopped, and starts the container when it
        goes on, breaks no promise."""
        self._process.require_alive()
        self._host.stall()
        await asyncio.sleep(0)

    async def list(self) -> list[Found]:
        await self._stall()
        await self._ask()
        while self._host.starting:
            await asyncio.sleep(0.1)
            self._process.require_alive()
        return [Found(id, container.exit is None) for id, container in self._host.containers.items()]

    async def prepare(self, image: str) -> Prepared:
        await self._stall()
        await self._ask(0, 10, 4_000)
        if self._host.rng.random() < self._host.world.refusing / 2:
            kind = self._host.rng.choice([ErrorKind.NONE, ErrorKind.IMAGE_NOT_FOUND])
            raise RuntimeRefused(kind, "no such image")
        return Prepared(image)

    async def start(self, spec: ContainerSpec, sink: LogSink) -> None:
        await self._ask(0)
        host, id = self._host, spec.id
        container = host.containers.get(id)
        if container is None:
            if host.rng.random() < host.world.refusing:
                kind = host.rng.choice([ErrorKind.NONE, ErrorKind.NONE, ErrorKind.CANNOT_START])
                raise RuntimeRefused(kind, "the engine would not")
            container = await host.ask_to_start(id, host.rng.choice([0, 5, 1_000]))
            if host.rng.random() < host.world.refusing / 3 or host.engine_is_away:
                host.blur(container)
                host.world.happened("an engine's answer that is lost")
                raise EngineAway("the connection broke")
        host.attach(container, sink)

    async def adopt(self, id: ContainerId, sink: LogSink) -> None:
        await self._ask()
        if (container := self._host.containers.get(id)) is not None:
            self._host.attach(container, sink)

    async def wait(self, id: ContainerId) -> Exit:
        while True:
            self._process.require_alive()
            container = self._host.containers.get(id)
            if container is None:
                return Exit(None, known=False, error="the container is gone")
            if (exit := self._host.exit_of(container)) is not None:
                break
            waiter = asyncio.get_running_loop().create_future()
            container.waiters.append(waiter)
            await waiter
        if (sink := container.sink) is not None:
            self._host.attach(container, sink)
            sink.close()
            container.sink = None
        return exit

    async def stop(self, id: ContainerId, grace_s: float) -> None:
        await self._stall()
        await self._ask()
        self._host.stop_container(id, grace_s)
        self._lose_answer()

    async def remove(self, id: ContainerId) -> None:
        await self._stall()
        await self._ask()
        self._host.remove_container(id)
        self._lose_answer()

    async def close(self) -> None:
        pass
