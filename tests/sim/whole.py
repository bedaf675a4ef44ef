"""The second layer: one random history, from a seed, of the two real programs in one process.

Everything between a call of a stub and a row of the database, and between an order and a container, is
the product's own; of the simulation are time, the network below the messages, the disk below the files,
the containers, the users, and what befalls them all. Then everything heals and must come to its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as workers
from longshore_controller.core import events as ev
from longshore_controller.core.model import AttemptState, EndReason, HeldAttempt, Refusal
from longshore_controller.core.reactor import Reactor
from longshore_controller.core.rows import Changes
from longshore_controller.store import StoreUnavailable
from longshore_controller.wire import conversation
from longshore_workerd.runtime import Container, ContainerId
from sim.database import InjectedDefect, Records
from sim.disk import Disk
from sim.history import BEGIN_MS, OVER_WITHIN_MS, STORY, Failed, limits_of
from sim.host import Host
from sim.oracle import Oracle, Violation, require
from sim.process import Process, ProcessLoop
from sim.programs import ControllerHost, Lines, config, logging_to, programs
from sim.users import Accountant, Admin, User
from sim.weather import Change, Weather
from sim.wire import Call, Network, Server

MOVES_WITHIN_MS = 15 * 60_000
"""Virtual time in which something happens to somebody's job, until all are complete."""
ACKED = {types.ATTEMPT_STATE_STARTED, types.ATTEMPT_STATE_ENDED}

Trouble = Callable[[Random], None]


@dataclass(frozen=True)
class Told:
    """How a history ended: what has happened in it, and a number that is another if anything else did."""

    seen: Counter[str]
    digest: str


class Whole:
    """The world of one seed."""

    def __init__(
        self, seed: object, loop: ProcessLoop, folder: Path, *, trace: bool, change: Change | None
    ) -> None:
        self.seed = seed
        self.folder = folder
        self.story: deque[tuple[int, str, object]] = deque(maxlen=STORY)
        self.limits = limits_of(Random(f"{seed}/limits"))
        troubles: dict[str, tuple[float, Trouble]] = {
            "the controller is killed": (30, self._kill_controller),
            "the controller is frozen": (60, self._freeze_controller),
            "the controller is replaced while it is frozen": (60, self._replace_controller),
            "workerd is killed": (40, self._kill_workerd),
            "workerd is frozen": (60, self._freeze_workerd),
            "workerd is told to end": (60, self._end_workerd),
            "workerd is killed while it is cut off": (60, self._kill_workerd_in_a_partition),
            "a machine is rebooted": (90, self._reboot),
            "a machine vanishes": (60, self._vanish),
            "a connection breaks": (15, self._break_call),
            "a partition": (40, self._partition),
            "an answer is late, and the last for long": (60, self._delay_an_answer),
            "an engine is away": (60, self._lose_engine),
            "a disk is full": (60, self._fill_disk),
            "a wall clock is set": (60, self._set_clock),
        }
        self._troubles = {name: trouble for name, (_, trouble) in troubles.items()}
        weather = Weather.of(Random(f"{seed}/weather"), {n: mean for n, (mean, _) in troubles.items()})
        self.weather = weather if change is None else change(weather)
        self.failing, self.refusing = self.weather.failing, self.weather.refusing
        self.stalling = self.weather.stalling
        self.long_jobs = self.weather.long_jobs
        self.disk = Disk(Random(f"{seed}/disk"))
        self.disk.dying = self.weather.dying
        self.disk.happened = self.happened
        self.disk.on_write = self._written
        self.network = Network(self, seed)
        self.records = Records()
        self.oracle = Oracle(self.limits, self.records.plans, self.now)
        self.outputs: dict[ContainerId, bytes] = {}
        self.hosts: list[Host] = []
        self.controller: ControllerHost | None = None
        self._replaced: list[ControllerHost] = []
        """Perhaps they live on, and believe that they lead."""
        self._loop = loop
        self._rng = Random(f"{seed}/world")
        self._shown = trace
        self._digest = hashlib.blake2b(digest_size=8)
        self._ahead_ms = 0
        self._lives = 0
        self._starting: asyncio.TimerHandle | None = None
        self._healed = False
        self._moved_ms = 0
        """When something was last committed that brings somebody's job on."""
        self._violation: asyncio.Future[None] = loop.create_future()
        loop.latency = self._latency

    # -- what others need --------------------------------------------------------------------------

    def now(self) -> int:
        return BEGIN_MS + self._loop.now_ms

    def wall_ms(self) -> int:
        return self.now() + self._ahead_ms

    def slowest_ms(self) -> int:
        return self.weather.slowest_ms

    def route(self, client: Process) -> Server | None:
        """Sometimes to a controller that was replaced, which answers when it wakes, if it is frozen."""
        old = self._rng.choice(self._replaced) if self._replaced else None
        if old is None or not old.process.is_alive or self._rng.random() < 0.7:
            return self.network.server
        if self._healed and old.process.is_frozen:
            return self.network.server
        self.happened("a call to a controller that was replaced")
        return old.server

    def happened(self, what: str) -> None:
        self.oracle.seen[what] += 1

    def tell(self, who: str, what: object) -> None:
        self.story.append((self._loop.now_ms, who, what))
        self.trace(who, str(what).encode())
        if self._shown:
            print(f"{self.now() % 10**9 / 1000:12.3f}  {who:<12} {what}")

    def trace(self, who: str, what: object) -> None:
        said = what if isinstance(what, bytes) else repr(what).encode()
        said = said.replace(str(self.folder).encode(), b"FOLDER")
        self._digest.update(b"%d %s %s\n" % (self._loop.now_ms, who.encode(), said))

    def violated(self, error: BaseException) -> None:
        """The history is over."""
        if not self._violation.done():
            self._violation.set_exception(error)

    def committed(self, events: list[ev.Event], changes: Changes) -> None:
        try:
            for event in events:
                # Of a request that names files; the folder has another name in each run.
                shown = (
                    replace(event, request_sha256=b"")
                    if isinstance(event, ev.BatchCreated | ev.JobsAdded)
                    else event
                )
                self.tell("log", shown)
                if not isinstance(event, ev.AttemptProgressed | ev.WorkerJoined | ev.WorkerLost):
                    self._moved_ms = self.now()
            self.records.record(events, changes)
            if self.controller is not None and self.controller.reactor is not None:
                self.controller.reactor.state.check()
            self.oracle.committed(events)
        except Exception as error:
            self.violated(error)

    def heard(self, worker_id: str, held: Sequence[HeldAttempt]) -> None:
        for h in held:
            attempt = self.oracle.attempts.get(h.attempt_id)
            if attempt is not None and attempt.worker_id == worker_id:
                self.oracle.heard(h.attempt_id, h.main_ms)

    def told(self, call: Call, to_server: bool, data: bytes) -> None:
        """What a worker says or hears, as it is in the messages."""
        host = call.client.owner
        if not isinstance(host, Host):
            return
        try:
            if call.method.endswith("/Activate") and not to_server:
                host.worker_id = workers.ActivateResponse.FromString(data).worker_id
                self.oracle.machines[host.worker_id] = host
            elif call.method.endswith("/Connect"):
                if to_server:
                    self._said(call, host, workers.WorkerMessage.FromString(data))
                else:
                    self._heard(call, host, workers.ControllerMessage.FromString(data))
        except Exception as error:
            self.violated(error)

    def _said(self, call: Call, host: Host, message: workers.WorkerMessage) -> None:
        if self._shown:
            print(f"{self.now() % 10**9 / 1000:12.3f}  {host.name:<12} says {_short(message)}")
        kind = message.WhichOneof("kind")
        if kind == "hello":
            call.sent = {0: self.now()}
        elif kind == "heartbeat":
            require(call.epoch >= host.epoch, "no way back to an earlier controller", host.name)
            host.epoch = call.epoch
            host.stays()
            call.sent[message.heartbeat.number] = self.now()
        elif kind == "reports":
            for wire in message.reports.reports:
                if wire.state == types.ATTEMPT_STATE_ENDED:
                    durable = self.disk.is_durable(host.folder / "spool", wire.SerializeToString())
                    # What is acknowledged while it waits to be sent once more is forgotten there.
                    durable |= self.oracle.attempts[wire.attempt_id].ended
                    require(durable, "what is told of an end is on disk for certain", wire.attempt_id)
            for report in conversation.reports(message.reports):
                if report.state is AttemptState.ENDED:
                    self.oracle.told_end(host.worker_id, report)

    def _heard(self, call: Call, host: Host, message: workers.ControllerMessage) -> None:
        if self._shown:
            print(f"{self.now() % 10**9 / 1000:12.3f}  {host.name:<12} hears {_short(message)}")
        match message.WhichOneof("kind"):
            case "welcome":
                call.epoch = message.welcome.epoch
                self._extend_lease(call, host, 0)
            case "lease_extended":
                self._extend_lease(call, host, message.lease_extended.number)
            case "assignments":
                orders = message.assignments
                run = [a.attempt_id for a in orders.run]
                self.oracle.ordered(host.worker_id, [*run, *orders.keep, *orders.revoke])
                self.oracle.seen["complete orders"] += orders.complete
            case "acks":
                for ack in message.acks.acks:
                    if ack.state in ACKED:
                        self.oracle.acked(host.worker_id, ack.attempt_id, AttemptState(ack.state))
            case _:
                pass

    def _extend_lease(self, call: Call, host: Host, number: int) -> None:
        host.lease_until_ms = max(host.lease_until_ms, call.sent[number] + self.limits.lease_ms)

    def _written(self, process: Process) -> None:
        if isinstance(process.owner, Host):
            process.owner.stall()

    def _latency(self) -> tuple[float, float]:
        if not self.weather.slow_calls or self._rng.random() < 0.5:
            return 0, 0
        return self._rng.choice([0, 0.003, 0.3]), self._rng.choice([0, 0.003, 0.3])

    # -- its course --------------------------------------------------------------------------------

    async def run(self) -> Told:
        self._loop.set_exception_handler(lambda _, context: self._unhandled(context))
        course = self._loop.create_task(self._course())
        await asyncio.wait([course, self._violation], return_when=asyncio.FIRST_COMPLETED)
        if self._violation.done():
            await self._violation
        await course
        return Told(self.oracle.seen, self._digest.hexdigest())

    def _unhandled(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Refusal | StoreUnavailable | InjectedDefect):
            # Whoever asked was told of another failure at the same time.
            self.happened("a failure that nobody took")
        else:
            self.violated(error if isinstance(error, BaseException) else Violation(str(context["message"])))

    async def _course(self) -> None:
        self._start_controller()
        for cores in self._rng.choice([[4], [4, 1], [4, 4], [4, 4, 1]]):
            self._add_host(1000 * cores)
        users = []
        for i in range(1, 1 + self._rng.choice([1, 1, 2, 3])):
            process = Process(self._loop, f"user {i}", f"user {i}")
            users.append(process.spawn(User(self, i).run()))
        users.append(Process(self._loop, "admin", "admin").spawn(Admin(self).run()))
        users.append(Process(self._loop, "accountant", "accountant").spawn(Accountant(self).run()))
        troubles = [
            self._loop.create_task(self._every(mean_s, name))
            for name, mean_s in sorted(self.weather.troubles.items())
        ]
        await asyncio.sleep(self.weather.lasts_ms / 1000)
        for task in troubles:
            task.cancel()
        self._heal()
        await self._come_to_the_end(users)
        for user in users:
            user.result()
        self._check_logs()
        for host in self.hosts:
            if not host.is_gone:
                host.kill_workerd()
                host.check_empty()
                host.vanish()
        await asyncio.sleep((self.limits.lease_ms + self.limits.grace_ms) / 1000 + 10)
        self._check_all()

    async def _come_to_the_end(self, users: list[asyncio.Task[None]]) -> None:
        until = self.now() + OVER_WITHIN_MS
        idle = 0
        while idle < 2:
            await asyncio.sleep(5)
            over = all(user.done() for user in users) and self.oracle.is_over()
            idle = idle + 1 if over and self._is_idle() else 0
            if self.now() > min(until, self._moved_ms + MOVES_WITHIN_MS):
                raise Violation(f"everything comes to its end: {self._left_over()}")

    def _is_idle(self) -> bool:
        ready = self.controller is not None and self.controller.reactor is not None
        return ready and all(host.is_idle() for host in self.hosts if not host.is_gone)

    def _left_over(self) -> str:
        open_ones = {i: b for i, b in self.oracle.batches.items() if b.closed and not b.complete}
        runs = {a: r for a, r in self.oracle.runs.items() if r.ended_ms is None}
        left = [host for host in self.hosts if not host.is_gone and not host.is_idle()]
        busy = {host.name: (host.process is not None, host.containers.keys()) for host in left}
        return f"batches {open_ones}, runs {runs}, machines {busy}"

    def _check_logs(self) -> None:
        """What a container said is with the controller, as far as its attempt says that it was kept."""
        for attempt in self.records.rows.attempts.values():
            machine = self.oracle.machines[attempt.worker_id]
            for record in attempt.containers:
                id = ContainerId(attempt.attempt_id, Container(record.container))
                job = self.folder / "logs" / str(attempt.batch_id) / str(attempt.job_id)
                file = job / attempt.attempt_id / f"{id.container.name.lower()}.log"
                there = file.read_bytes() if file.exists() else b""
                said = self.outputs.get(id, b"")
                require(said.startswith(there), "a log is what the container said", (id, there[-80:]))
                if attempt.reason is EndReason.COMPLETED and not machine.is_gone:
                    whole = len(there) == record.log_bytes
                    require(whole, "a log arrives as far as it was kept", (id, len(there), record))
                    self.oracle.seen["a log that arrived"] += 1

    def _check_all(self) -> None:
        assert self.controller is not None and self.controller.store is not None
        reactor = self.controller.reactor
        assert isinstance(reactor, Reactor)
        state = reactor.state
        state.check()
        assert state == self.records.folded(), "memory is not the fold of the log"
        loaded, seq = self.controller.process.look(self.controller.store.load)
        assert loaded == state and seq == len(self.records.log), "what is loaded is not what is known"
        self.oracle.check_rows(self.records.rows)
        assert not state.attempts and not state.workers, "nobody is left, yet memory has somebody"
        assert not state.users, "nobody has anything, yet memory has users"
        assert state.frozen is None and not state.draining, "every pause was taken back"
        store = self.controller.store
        self.controller.process.look(lambda: self.records.check_store(store))

    # -- what befalls them -------------------------------------------------------------------------

    async def _every(self, mean_s: float, name: str) -> None:
        rng, trouble = Random(f"{self.seed}/{name}"), self._troubles[name]
        while True:
            await asyncio.sleep(rng.expovariate(1 / mean_s))
            self.happened(name)
            try:
                trouble(rng)
            except Exception as error:
                self.violated(error)

    def _start_controller(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        if self.controller is not None:
            return
        self._lives += 1
        self.tell("controller", f"starts for the {self._lives}th time")
        self.controller = host = ControllerHost(self, self._loop, self._lives)
        host.process.on_death = lambda: self._controller_died(host)
        life = host.start(config(self.folder, self.limits))
        life.add_done_callback(lambda task: self._controller_ended(host, task))

    def _controller_died(self, host: ControllerHost) -> None:
        self.tell("controller", f"number {host.number} is killed")
        self.happened("controller killed")
        self._forget_controller(host)
        self._start_controller_in(self._rng.choice([0.01, 1, 1, 20, 60]))

    def _controller_ended(self, host: ControllerHost, life: asyncio.Task[int]) -> None:
        """Of itself: it cannot begin, or another one leads."""
        if not host.process.is_alive:
            return
        error = None if life.cancelled() else life.exception()
        known = error is None or type(error).__name__ in ("StoreInUse", "StoreUnavailable", "CannotStart")
        if not known:
            assert error is not None
            self.violated(error)
        self.tell("controller", f"number {host.number} ends: {error or 'another one leads'}")
        self.happened(f"a controller ends: {type(error).__name__ if error else 'another one leads'}")
        was_leader = self.controller is host
        if was_leader and error is None:
            self.violated(Violation("who leads goes on leading"))
        self._forget_controller(host)
        if was_leader:
            self._start_controller_in(1)

    def _forget_controller(self, host: ControllerHost) -> None:
        if host.server is not None and self.network.server is host.server:
            self.network.server = None
        host.kill()
        self.network.died(host.process)
        if self.controller is host:
            self.oracle.controller_died()
            self.controller = None

    def _start_controller_in(self, seconds: float) -> None:
        if self.controller is None and self._starting is None:
            self._starting = self._loop.call_later(seconds, self._start_controller)

    def _kill_controller(self, rng: Random) -> None:
        """At one of its next steps."""
        if self.controller is not None:
            self._kill_soon(self.controller.process, rng)

    def _kill_soon(self, process: Process, rng: Random) -> None:
        process.dies_in = rng.choice([1, rng.randint(1, 30), rng.randint(1, 300)])

    def _freeze_controller(self, rng: Random) -> None:
        if self.controller is not None and not self.controller.process.is_frozen:
            self.tell("controller", "is frozen")
            process = self.controller.process
            process.freeze()
            self._loop.call_later(rng.choice([1, 12, 35, 60]), self._thaw_controller, process)

    def _thaw_controller(self, process: Process) -> None:
        if process.is_alive and process.is_frozen:
            self.tell(process.name, "is thawed")
            process.thaw()

    def _replace_controller(self, rng: Random) -> None:
        """Somebody takes its lock away and starts another one; then it wakes, and believes it still leads."""
        host = self.controller
        if host is None or host.server is None or host.process.is_frozen:
            return
        self.tell("controller", f"number {host.number} is frozen and replaced")
        host.process.freeze()
        for call in [c for c in self.network.calls if c.server is host.server]:
            if rng.random() < 0.5:
                call.break_off(0.002)
        self.network.server = None
        (self.folder / "longshore.db.lock").unlink(missing_ok=True)
        self.oracle.controller_died()
        self.controller = None
        self._start_controller()
        self._replaced.append(host)
        self._loop.call_later(rng.choice([0.01, 2, 10, 45, 70]), self._thaw_controller, host.process)

    def _add_host(self, mcpu: int) -> None:
        name = f"w{len(self.hosts) + 1}"
        host = Host(self, self._loop, name, mcpu, Random(f"{self.seed}/{name}"))
        self.hosts.append(host)
        host.start_workerd()

    def _some_host(self, rng: Random) -> Host:
        return rng.choice([h for h in self.hosts if not h.is_gone])

    def _kill_workerd(self, rng: Random) -> None:
        host = self._some_host(rng)
        if host.process is not None:
            self._kill_soon(host.process, rng)
        self._loop.call_later(rng.choice([0.01, 2, 2, 15, 70]), host.start_workerd)

    def _freeze_workerd(self, rng: Random) -> None:
        self._some_host(rng).freeze_for(rng.choice([1, 12, 35, 60]))

    def _end_workerd(self, rng: Random) -> None:
        """Somebody installs a newer one, say: it stops its jobs, and is started again."""
        self._some_host(rng).shut_down()

    def _kill_workerd_in_a_partition(self, rng: Random) -> None:
        """Nobody tells the next one what to do with what it finds."""
        host = self._some_host(rng)
        self.tell(host.name, "is cut off")
        self.network.partition(host, True, True)
        self._loop.call_later(90, lambda: self.network.heal(host, breaks=rng.random() < 0.5))
        if host.process is not None:
            self._kill_soon(host.process, rng)
        self._loop.call_later(rng.choice([2, 20, 40, 60]), host.start_workerd)

    def _reboot(self, rng: Random) -> None:
        host = self._some_host(rng)
        host.reboot()
        self._loop.call_later(rng.choice([5, 20, 70]), host.start_workerd)

    def _vanish(self, rng: Random) -> None:
        """With or without notice; another one comes in its place."""
        host = self._some_host(rng)
        if rng.random() < 0.6:
            host.shut_down()
            self._loop.call_later(rng.choice([3, 25]), host.vanish)
        else:
            host.vanish()
        self._add_host(host.mcpu)

    def _break_call(self, rng: Random) -> None:
        if self.network.calls:
            call = rng.choice(list(self.network.calls))
            self.tell(call.client.name, f"its {call.method.rpartition('/')[2]} breaks")
            call.break_off(rng.choice([1, 5, 40]))

    def _partition(self, rng: Random) -> None:
        """Nothing moves between a machine and the controller, in one direction or in both."""
        host = self._some_host(rng)
        up, down = rng.choice([(True, True), (True, False), (False, True)])
        self.tell(host.name, f"is cut off: up {up}, down {down}")
        self.network.partition(host, up, down)
        lasts_s = rng.choice([3, 12, 35, 60, 90])
        self._loop.call_later(lasts_s, lambda: self.network.heal(host, breaks=rng.random() < lasts_s / 60))

    def _delay_an_answer(self, rng: Random) -> None:
        """What the controller says arrives just before its worker would hang up, and what the worker says
        after that does not."""
        host = self._some_host(rng)
        self.tell(host.name, "its answers are late")
        self.network.partition(host, False, True)
        self._loop.call_later(5.5, lambda: self.network.partition(host, True, True))
        self._loop.call_later(rng.choice([9, 13, 14]), lambda: self.network.let_down(host))
        self._loop.call_later(90, lambda: self.network.heal(host, breaks=rng.random() < 0.5))

    def _lose_engine(self, rng: Random) -> None:
        host = self._some_host(rng)
        host.lose_engine()
        self._loop.call_later(rng.choice([1, 5, 30]), host.regain_engine)

    def _fill_disk(self, rng: Random) -> None:
        host = self._some_host(rng)
        self.tell(host.name, "its disk is full")
        self.disk.full.add(f"{host.folder}/")
        self._loop.call_later(rng.choice([1, 5, 20, 50]), self.disk.full.discard, f"{host.folder}/")

    def _set_clock(self, rng: Random) -> None:
        self._ahead_ms = rng.choice([0, 3_600_000, -3_600_000, 86_400_000])

    def _heal(self) -> None:
        self.tell("world", "everything heals")
        self._healed = True
        self._moved_ms = self.now()
        self.failing = self.refusing = self.stalling = self.disk.dying = 0
        self.disk.full.clear()
        self.network.heal_all()
        self._start_controller()
        if self.controller is not None:
            self._thaw_controller(self.controller.process)
            self.controller.process.dies_in = None
        for host in self.hosts:
            host.regain_engine()
            host.thaw()
            host.start_workerd()
            if host.process is not None:
                host.process.dies_in = None

    @property
    def processes(self) -> list[Process]:
        return self._loop.processes

    # -- what users need ---------------------------------------------------------------------------

    @property
    def is_healed(self) -> bool:
        return self._healed


def run(seed: object, *, trace: bool = False, change: Change | None = None) -> Told:
    """The history of this seed, in its own weather or in what is made of it. Failed."""
    shared_memory = Path("/dev/shm")
    where = shared_memory if shared_memory.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="longshore-sim-", dir=where))
    try:
        with asyncio.Runner(loop_factory=ProcessLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, ProcessLoop)
            world = Whole(seed, loop, folder, trace=trace, change=change)
            lines = Lines(world, shown=trace)
            try:
                with programs(world, loop), logging_to(lines, logging.INFO if trace else logging.ERROR):
                    try:
                        return runner.run(world.run())
                    finally:
                        _end(world)
            except (Exception, asyncio.CancelledError) as error:
                raise Failed(_account(world, error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(world: Whole) -> None:
    """Nothing of this world is left."""
    if world.controller is not None:
        world.controller.kill()
    for process in world.processes:
        process.kill()


def _account(world: Whole, error: BaseException) -> str:
    """What broke, how to see it again, and the end of the story."""
    lines = [f"{at / 1000:10.3f}  {who:<12}{what}" for at, who, what in world.story]
    return "\n".join(
        [
            f"seed {world.seed}: {type(error).__name__}: {error}",
            f"once more: PYTHONPATH=tests python -m sim --layer 2 --trace {world.seed}",
            f"weather: {world.weather}",
            *lines,
        ]
    )


def _short(message: Any) -> str:
    return " ".join(str(message).split())[:300]
