"""The real controller and the real workerd, as they are started by their own command lines, with clocks,
randomness, network, disk and database of the simulation where they would take the machine's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

import peewee
from longshore_controller import __main__ as controller_main
from longshore_controller import engine, feed
from longshore_controller.callbacks import Callbacks
from longshore_controller.config import Config, Database, Server, Service, StoreFolder, Workers
from longshore_controller.core import events as ev
from longshore_controller.core.reactor import Limits, Reactor
from longshore_controller.core.rows import Changes
from longshore_controller.core.state import State
from longshore_controller.engine import Engine
from longshore_controller.store import EpochLost, Store, shared
from longshore_controller.store.dialect import Row, Sqlite
from longshore_workerd import __main__ as workerd_main
from longshore_workerd import daemon, identity, session, spool
from longshore_workerd import logs as workerd_logs
from sim.database import InjectedDefect
from sim.disk import Disk
from sim.host import Host, Runtime
from sim.oracle import Oracle, Violation
from sim.process import PROCESS, Process, ProcessLoop
from sim.wire import Channel, Network
from sim.wire import Server as WireServer

ENDPOINT = "127.0.0.1:1"
KEEP_EVENTS_MS = 86_400_000
COMPACT_BYTES = 4_000
"""Spools are small here, and nevertheless they are to be compacted."""


class World(Protocol):
    seed: object
    folder: Path
    disk: Disk
    network: Network
    oracle: Oracle
    limits: Limits
    failing: float
    """How likely a commit fails, one way or another."""
    controller: ControllerHost | None

    def now(self) -> int: ...

    def wall_ms(self) -> int:
        """What the controller's wall clock shows, which people set."""

    def happened(self, what: str) -> None: ...

    def committed(self, events: list[ev.Event], changes: Changes) -> None: ...

    def heard(self, worker_id: str, held: Sequence[Any]) -> None: ...

    def trace(self, who: str, what: object) -> None: ...

    def violated(self, error: BaseException) -> None: ...


class ControllerHost:
    """One life of the controller's process."""

    def __init__(self, world: World, loop: ProcessLoop, number: int) -> None:
        self.number = number
        self.process = Process(loop, f"controller.{number}", self)
        self.rng = Random(f"{world.seed}/controller {number}")
        self.store: Watched | None = None
        self.engine: Engine | None = None
        self.server: WireServer | None = None

    def start(self, config: Config) -> asyncio.Task[int]:
        return self.process.spawn(controller_main.serve(config))

    @property
    def reactor(self) -> Reactor | None:
        return self.engine._reactor if self.engine is not None else None

    def kill(self) -> None:
        self.process.kill()
        if self.store is not None:
            # As the kernel does: connections end, what was not committed is undone, locks are free.
            self.store.close()


def config(folder: Path, limits: Limits) -> Config:
    return Config(
        server=Server(listen=ENDPOINT, grace_ms=100),
        database=Database(url=f"sqlite://{folder}/longshore.db", keep_events_ms=KEEP_EVENTS_MS),
        store=StoreFolder(folder=f"{folder}/store", logs=f"{folder}/logs"),
        service=Service(
            embedded=True,
            owner="ann",
            owner_token_file=f"{folder}/owner",
            activation_token_file=f"{folder}/activation",
            private_callbacks=True,
        ),
        workers=Workers(lease_ms=limits.lease_ms, grace_ms=limits.grace_ms),
    )


class Flaky(Sqlite):
    """A database whose connection breaks: before, within, or just after a COMMIT that has happened."""

    def __init__(self, world: World, path: str) -> None:
        super().__init__(path)
        self._world = world
        self._host = _controller()
        self.is_written = False
        """The last transaction of the writer is in the database."""

    @contextmanager
    def committing(self) -> Iterator[peewee.Database]:
        self.is_written = False
        with self.failures(), self._turn():
            with self._transaction(self.writer):
                yield self.writer
                self._breaks("before a COMMIT", self._world.failing / 3)
                if self._world.disk.dying and self._host.rng.random() < self._world.disk.dying:
                    self._world.happened("a kill before a COMMIT")
                    self._host.process.on_death()
                    raise asyncio.CancelledError
            self.is_written = True
            self._breaks("after a COMMIT", self._world.failing / 3)

    def execute(self, db: peewee.Database, sql: str, *parameters: object) -> Any:
        self._breaks("at a statement", self._world.failing / 10)
        return super().execute(db, sql, *parameters)

    def _many(self, db: peewee.Database, sql: str, rows: Any) -> int:
        self._breaks("at a statement", self._world.failing / 10)
        return super()._many(db, sql, rows)

    def epoch(self) -> int:
        """As it is in the database."""
        ((epoch,),) = super().execute(self.writer, "SELECT epoch FROM leader").fetchall()
        return int(epoch)

    def _breaks(self, where: str, chance: float) -> None:
        if chance and self._host.rng.random() < chance:
            self._world.happened(f"a connection to the database that breaks {where}")
            raise peewee.OperationalError("the connection is broken")

    def rows(self, db: peewee.Database, sql: str, *parameters: object) -> list[Row]:
        self._host.process.require_alive()
        return super().rows(db, sql, *parameters)


class Watched(Store):
    """The real store; whatever is written becomes known to the world."""

    def __init__(self, world: World, url: str, **codecs: Any) -> None:
        super().__init__(url, **codecs)
        self._world = world
        self._host = _controller()
        self._host.store = self

    def commit(self, events: list[ev.Event], changes: Changes, at_ms: int) -> int:
        assert isinstance(self._db, Flaky)
        self._db.is_written = False
        if self._world.failing and self._host.rng.random() < self._world.failing / 6:
            self._world.happened("a commit that nobody foresaw")
            raise InjectedDefect("a row that nobody thought of")
        try:
            last_seq = super().commit(events, changes, at_ms)
            self._step_ended(committed=True)
            return last_seq
        finally:
            if self._db.is_written:
                if self._db.epoch() != self.epoch:
                    self._world.violated(Violation("who was replaced commits nothing any more"))
                self._world.committed(events, changes)

    def confirm(self) -> None:
        super().confirm()
        self._step_ended(committed=True)

    def load(self) -> tuple[State, int]:
        self._step_ended(committed=False)
        return super().load()

    def _step_ended(self, *, committed: bool) -> None:
        if self._world.controller is self._host:
            self._world.oracle.step_ended(committed=committed)

    def forget_events(self, before_ms: int) -> int:
        """By the clock that dates them; one that was set ahead before a start makes them look old."""
        assert self._host.engine is not None
        latest = self._host.engine._clock.now_ms() - KEEP_EVENTS_MS
        if before_ms > latest:
            self._world.violated(Violation(f"events are kept long enough: {before_ms - latest} ms too few"))
        dropped = super().forget_events(before_ms)
        if dropped:
            self._world.happened("events that were old by the clock")
        return dropped


def _controller() -> ControllerHost:
    owner = PROCESS.get().owner
    assert isinstance(owner, ControllerHost)
    return owner


def _machine() -> Host:
    owner = PROCESS.get().owner
    assert isinstance(owner, Host)
    return owner


class _Secrets:
    """Random, but the same in every run."""

    def token_hex(self, n: int) -> str:
        return f"{_controller().rng.getrandbits(8 * n):0{2 * n}x}"

    token_urlsafe = token_hex


def _modules() -> list[ModuleType]:
    """Of both programs."""
    ours = ("longshore_controller", "longshore_workerd")
    return [module for name, module in sorted(sys.modules.items()) if name.partition(".")[0] in ours]


@contextmanager
def programs(world: World, loop: ProcessLoop) -> Iterator[None]:
    """Meanwhile both programs live in this world, as many of each as are started."""
    new_store = Watched
    new_engine, new_daemon, serial = Engine, daemon.Daemon, itertools.count()

    def store(url: str, **codecs: Any) -> Store:
        return new_store(world, url, **codecs)

    def the_engine(*parts: Any, **named: Any) -> Engine:
        made = _controller().engine = new_engine(*parts, **named)
        return made

    def the_daemon(**parts: Any) -> daemon.Daemon:
        made = _machine().daemon = new_daemon(**parts)
        return made

    def server(*, interceptors: Any, options: Any) -> WireServer:
        made = _controller().server = WireServer(world.network, interceptors)
        return made

    def limits(**named: int) -> Limits:
        return world.limits

    slept = [0.0]

    def sleep(seconds: float) -> None:
        slept[0] += seconds

    clock = SimpleNamespace(
        monotonic=lambda: loop.time() + slept[0],
        sleep=sleep,
        time_ns=lambda: world.wall_ms() * 1_000_000,
        clock_gettime_ns=lambda _: world.now() * 1_000_000,
        CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
    )
    heartbeat = Reactor.on_heartbeat

    def on_heartbeat(reactor: Reactor, worker_id: str, number: int, held: Any, *rest: Any) -> bool:
        answer = heartbeat(reactor, worker_id, number, held, *rest)
        if _controller() is world.controller:
            world.heard(worker_id, held)
        return answer

    def order(following: feed.Following) -> int:
        return int(following.__dict__.setdefault("_number", next(serial)))

    stand_in = _Secrets()
    gc = SimpleNamespace(collect=int, freeze=int, unfreeze=int)
    rng_of_life = lambda: Random(f"{world.seed}/{PROCESS.get().name}")  # noqa: E731
    replaced: list[tuple[Any, str, Any]] = [
        *((module, "time", clock) for module in _modules() if vars(module).get("time") is time),
        *((module, "secrets", stand_in) for module in _modules() if vars(module).get("secrets") is secrets),
        (engine, "gc", gc),
        (controller_main, "aio", SimpleNamespace(server=server)),
        (controller_main, "Store", store),
        (controller_main, "Engine", the_engine),
        (controller_main, "Callbacks", partial(Callbacks, post=world.oracle.call_back)),
        (controller_main, "Limits", limits),
        (shared, "connect", lambda url: Flaky(world, url.partition("://")[2])),
        (Reactor, "on_heartbeat", on_heartbeat),
        (feed.Following, "__hash__", order),
        *((module, "os", world.disk) for module in (spool, identity, workerd_logs)),
        (spool, "COMPACT_BYTES", COMPACT_BYTES),
        (session, "_channel", lambda controller, ca: Channel(world.network)),
        (workerd_main, "Daemon", the_daemon),
        (workerd_main, "clock_ms", lambda: _machine().clock_ms()),
        (workerd_main, "boot_id", lambda: _machine().boot_id()),
        (workerd_main, "uuid4", lambda: SimpleNamespace(hex=PROCESS.get().name)),
        (workerd_main, "Random", rng_of_life),
        (workerd_main, "_runtime", lambda name, state_dir, worker_id: Runtime()),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        yield


class Lines(logging.Handler):
    """What programs write into their logs: a defect that they admit ends the history."""

    def __init__(self, world: World, *, shown: bool) -> None:
        super().__init__(logging.INFO if shown else logging.ERROR)
        self._world = world
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get(None)
        if process is None or not process.is_alive:
            return
        if self._shown and record.getMessage() != "rpc":
            print(f"{self._world.now() % 10**9 / 1000:12.3f}  {process.name:<12} {record.getMessage()}")
        error = record.exc_info[1] if record.exc_info else None
        replaced = isinstance(error, EpochLost) and process.owner is not self._world.controller
        if isinstance(error, Exception) and not isinstance(error, InjectedDefect | OSError) and not replaced:
            self._world.violated(error)


@contextmanager
def logging_to(handler: Callable[..., Any] | Lines, level: int) -> Iterator[None]:
    """Nobody else hears of it."""
    assert isinstance(handler, Lines)
    loggers = [logging.getLogger(n) for n in ("longshore_controller", "longshore_workerd", "asyncio")]
    were = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.setLevel(level)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, (propagate, before) in zip(loggers, were, strict=True):
            logger.propagate, logger.level = propagate, before
            logger.removeHandler(handler)
