"""Machines that behave: containers and a disk that outlive workerd, and a workerd that may die at any time.

What decides is the real supervisor and the real outbox; the rest is what the daemon and the session
do, in few lines and in virtual time. What really ran is told to the oracle.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from longshore_controller.core import model as core
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
from longshore_workerd.model import Assignment, AttemptState, Orders, Report
from longshore_workerd.outbox import Outbox
from longshore_workerd.runtime import Container, ContainerId, ErrorKind, Exit, Found
from longshore_workerd.supervisor import Supervisor
from sim.link import Acks, Assignments, Heartbeat, LeaseExtended, Link, Reports, Welcome
from sim.oracle import Oracle

HEARTBEAT_MS = 8_000
SILENT_MS = 3 * HEARTBEAT_MS


class Surroundings(Protocol):
    """What a machine stands in."""

    oracle: Oracle
    lease_ms: int
    refusing: float
    """How likely a container or an image is refused for no fault of the job."""
    lying: float
    """How likely a worker says something of an attempt that is not its own."""
    dying: float
    """How likely workerd dies in the midst of what it does."""

    def now(self) -> int:
        """True time in ms."""

    def connect(self, machine: Machine) -> Link | None:
        """A new connection, None while nobody answers."""

    def violated(self, error: BaseException) -> None:
        """A promise was broken; the history is over."""

    def dies(self, machine: Machine) -> None:
        """Its workerd has died; somebody may start it again."""

    def tell(self, who: str, what: str) -> None:
        """For the story."""


@dataclass
class Kept:
    """What the disk has of an attempt."""

    accepted: tuple[Assignment, int, int] | None = None
    """With when and in which boot it was."""
    main_ordered: bool = False
    report: Report | None = None


@dataclass
class Main:
    """A main container."""

    started_ms: int
    end: asyncio.TimerHandle
    exit: Exit | None = None


class Machine:
    """What outlives workerd."""

    def __init__(self, world: Surroundings, name: str, mcpu: int, rng: Random) -> None:
        self.world = world
        self.name = name
        self.mcpu = self._least_mcpu = mcpu
        self.rng = rng
        self.disk: dict[str, Kept] = {}
        self.mains: dict[str, Main] = {}
        self.lease_until_ms = 0
        self.boot = 1
        self.booted_ms = world.now() - rng.randint(0, 10**9)
        self.is_gone = False
        self.workerd: Workerd | None = None
        self.lives = 0

    @property
    def is_watched(self) -> bool:
        return self.workerd is not None

    def clock_ms(self) -> int:
        """Since this boot."""
        return self.world.now() - self.booted_ms

    # -- what befalls it -----------------------------------------------------------------------------

    def start_workerd(self) -> None:
        if self.workerd is None and not self.is_gone:
            self.lives += 1
            self.mcpu = self._least_mcpu * self.rng.choice([1, 1, 2])
            if self.world.now() >= self.lease_until_ms:
                for attempt_id, main in self.mains.items():
                    if main.exit is None:
                        self.world.oracle.runs[attempt_id].guarded_ms = self.world.now()
            self.workerd = Workerd(self)
            self.workerd.begin()

    def crash_workerd(self) -> None:
        if self.workerd is not None:
            self.world.tell(self.name, "workerd is killed")
            workerd, self.workerd = self.workerd, None
            workerd.die()

    def reboot(self) -> None:
        """The containers are gone, the disk is not, the clock begins again."""
        self.world.tell(self.name, "is rebooted")
        self._power_off()
        self.boot += 1
        self.booted_ms = self.lease_until_ms = self.world.now()

    def vanish(self) -> None:
        """For ever, with its disk."""
        if not self.is_gone:
            self.world.tell(self.name, "vanishes")
            self._power_off()
            self.is_gone = True

    def _power_off(self) -> None:
        self.crash_workerd()
        for attempt_id, main in self.mains.items():
            kept = self.disk[attempt_id].report
            if main.exit is None:
                main.end.cancel()
                self.world.oracle.main_ends(attempt_id, cut=True)
            elif kept is None or kept.state is not AttemptState.ENDED:
                self.world.oracle.runs[attempt_id].cut = True
        self.mains.clear()

    # -- its runtime ---------------------------------------------------------------------------------

    def start_main(self, attempt_id: str) -> None:
        runs_ms = self.rng.choice([0, 40, 500, 3_000, 20_000, 20_000, 90_000, 90_000, 400_000])
        if runs_ms == 400_000 and self.rng.random() < 0.7:
            runs_ms = 1_000
        code = self.rng.choice([0, 0, 0, 0, 0, 1, 3])
        exit = Exit(code)
        if code == 3:
            exit = Exit(137, ErrorKind.OUT_OF_MEMORY, "out of memory")
        elif self.rng.random() < self.world.refusing:
            exit = Exit(None, known=False, error="the engine was away")
        self.world.oracle.main_starts(self, attempt_id)
        end = self._later(runs_ms, lambda: self._main_ends(attempt_id, exit))
        self.mains[attempt_id] = Main(self.world.now(), end)

    def stop_main(self, attempt_id: str, grace_s: float) -> None:
        """It ends within the grace; of itself, perhaps, even earlier."""
        main = self.mains.get(attempt_id)
        within_ms = self.rng.randint(0, int(grace_s * 1000))
        at_s = asyncio.get_running_loop().time() + within_ms / 1000
        if main is not None and main.exit is None and at_s < main.end.when():
            main.end.cancel()
            main.end = self._later(within_ms, lambda: self._main_ends(attempt_id, Exit(137)))

    def remove_main(self, attempt_id: str) -> None:
        main = self.mains.pop(attempt_id, None)
        if main is not None and main.exit is None:
            main.end.cancel()
            self.world.oracle.main_ends(attempt_id)

    def _main_ends(self, attempt_id: str, exit: Exit) -> None:
        main = self.mains[attempt_id]
        main.exit = replace(exit, ran_ms=self.world.now() - main.started_ms)
        self.world.oracle.main_ends(attempt_id)
        if self.workerd is not None:
            self.workerd.see_end(attempt_id)

    def _later(self, ms: int, do: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(ms / 1000, do)


class Workerd:
    """One life of the process."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._world = machine.world
        self._rng = machine.rng
        self._supervisor = Supervisor(default_image="task", localizer_image="localizer")
        self._outbox = Outbox(machine.rng)
        self._wake = asyncio.Event()
        self._lease_lost = False
        self._watched: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._conversation: asyncio.Task[None] | None = None
        self.is_alive = True

    def begin(self) -> None:
        """Goes on with what the disk and the runtime know."""
        m = self._machine
        survivors, ended = [], []
        for attempt_id, kept in m.disk.items():
            if kept.report is not None and kept.report.state is AttemptState.ENDED:
                ended.append(attempt_id)
                self._outbox.put(attempt_id, kept.report.state, pickle.dumps(_to_core(kept.report)))
            elif kept.accepted is not None:
                job, at_ms, boot = kept.accepted
                survivors.append(Survivor(job, at_ms, boot == m.boot, kept.main_ordered, kept.report))
        found = [Found(_main(a), main.exit is None) for a, main in m.mains.items()]
        self._supervisor.recover(m.clock_ms(), survivors=survivors, ended=ended, found=found)
        self._conversation = asyncio.create_task(self._converse())
        self._conversation.add_done_callback(self._conversed)
        self.turn()

    def _conversed(self, conversation: asyncio.Task[None]) -> None:
        if not conversation.cancelled() and (error := conversation.exception()) is not None:
            self._world.violated(error)

    def die(self) -> None:
        self.is_alive = False
        if self._timer is not None:
            self._timer.cancel()
        if self._conversation is not None:
            self._conversation.cancel()
        if self._link is not None:
            self._link.hang_up(by_worker=True)

    def shut_down(self) -> None:
        """The machine will soon be taken away."""
        self._world.tell(self._machine.name, "is told to shut down")
        self._supervisor.on_shutdown(self._machine.clock_ms())
        self.turn()

    @property
    def is_idle(self) -> bool:
        """Holds nothing, and has nothing to tell."""
        held = self._supervisor.held(self._machine.clock_ms())
        return not held and not self._supervisor.spooled() and len(self._outbox) == 0

    def break_link(self) -> None:
        if self._link is not None:
            self._world.tell(self._machine.name, "its connection breaks")
            self._link.break_off()

    # -- the daemon ----------------------------------------------------------------------------------

    def turn(self) -> None:
        """Takes the actions: first what overtakes, then what must be on disk, then the rest."""
        if not self.is_alive:
            return
        m = self._machine
        if not self._lease_lost and self._world.now() >= m.lease_until_ms:
            self._lease_lost = True
            self._world.oracle.seen["a worker that fences itself"] += bool(self._held())
            self._supervisor.on_lease_lost(m.clock_ms())
        self._supervisor.on_tick(m.clock_ms())
        actions = self._supervisor.take(m.clock_ms())
        for action in actions:
            if isinstance(action, Stop):
                m.stop_main(action.id.attempt_id, action.grace_s)
        dies = bool(actions) and self._rng.random() < self._world.dying
        if not dies or self._rng.random() < 0.5:
            for action in actions:
                self._write(action)
        if dies:
            m.crash_workerd()
            self._world.dies(m)
            return
        for action in actions:
            self._do(action)
        self._set_timer()

    def _set_timer(self) -> None:
        deadlines = [] if self._lease_lost else [self._machine.lease_until_ms]
        if (deadline := self._supervisor.next_deadline()) is not None:
            deadlines.append(deadline + self._machine.booted_ms)
        if self._timer is not None:
            self._timer.cancel()
        if deadlines:
            in_ms = max(0, min(deadlines) - self._world.now())
            self._timer = asyncio.get_running_loop().call_later(in_ms / 1000, self.turn)

    def _write(self, action: Action) -> None:
        disk = self._machine.disk
        match action:
            case Accept(job, at_ms):
                disk[job.attempt_id] = Kept((job, at_ms, self._machine.boot))
            case Start(job, Container.MAIN):
                disk[job.attempt_id].main_ordered = True
            case Note(report) | Tell(report):
                disk.setdefault(report.attempt_id, Kept()).report = report
                if report.state is AttemptState.ENDED:
                    self._world.oracle.told_end(self._machine.name, _to_core(report))
            case Forget(attempt_id):
                del disk[attempt_id]
            case _:
                pass

    def _do(self, action: Action) -> None:
        match action:
            case Tell(report):
                self._outbox.put(report.attempt_id, report.state, pickle.dumps(_to_core(report)))
                self._wake.set()
            case Prepare(attempt_id, image):
                self._later(self._rng.choice([0, 10, 4_000]), lambda: self._prepared(attempt_id, image))
            case Start(job, _):
                self._later(self._rng.choice([0, 5, 1_000]), lambda: self._start(job.attempt_id))
            case Adopt(id):
                self._watched.add(id.attempt_id)
                if self._machine.mains[id.attempt_id].exit is not None:
                    self._later(1, lambda: self.see_end(id.attempt_id))
            case Remove(attempt_id, _):
                self._machine.remove_main(attempt_id)
            case _:
                pass

    def _prepared(self, attempt_id: str, image: str) -> None:
        now = self._machine.clock_ms()
        if self._rng.random() < self._world.refusing / 2:
            kind = self._rng.choice([ErrorKind.NONE, ErrorKind.IMAGE_NOT_FOUND])
            self._supervisor.on_image_refused(now, attempt_id, image, kind, "no such image")
        else:
            self._supervisor.on_prepared(now, attempt_id, image)

    def _start(self, attempt_id: str) -> None:
        now = self._machine.clock_ms()
        if self._rng.random() < self._world.refusing:
            kind = self._rng.choice([ErrorKind.NONE, ErrorKind.NONE, ErrorKind.CANNOT_START])
            self._supervisor.on_refused(now, _main(attempt_id), kind, "the engine would not")
        else:
            self._watched.add(attempt_id)
            self._machine.start_main(attempt_id)
            self._supervisor.on_started(now, _main(attempt_id))

    def see_end(self, attempt_id: str) -> None:
        """The main container has ended."""
        main = self._machine.mains.get(attempt_id)
        if main is not None and main.exit is not None and attempt_id in self._watched:
            self._supervisor.on_ended(self._machine.clock_ms(), _main(attempt_id), main.exit, log_bytes=0)
            self.turn()

    def _later(self, ms: int, do: Callable[[], None]) -> None:
        def if_alive() -> None:
            if self.is_alive:
                do()
                self.turn()

        asyncio.get_running_loop().call_later(ms / 1000, if_alive)

    # -- the session ---------------------------------------------------------------------------------

    async def _converse(self) -> None:
        failures = 0
        while True:
            began_ms = self._world.now()
            self._link = self._world.connect(self._machine)
            if self._link is not None:
                self._link.to_worker.arrived = self._wake.set
                await self._one_connection(self._link)
                self._link.hang_up(by_worker=True)
                self._link = None
            failures = 1 if self._world.now() - began_ms > 5_000 else failures + 1
            await asyncio.sleep(backoff(failures, self._rng))

    async def _one_connection(self, link: Link) -> None:
        heard_ms = hello_ms = beat_ms = self._world.now()
        beats: dict[int, int] = {}
        welcome: Welcome | None = None
        link.to_controller.send(self._hello())
        while self.is_alive:
            now = self._world.now()
            while link.to_worker.inbox:
                message = link.to_worker.inbox.popleft()
                heard_ms = now
                match message:
                    case None:
                        return
                    case Welcome():
                        welcome = message
                        self._extend_lease(hello_ms + self._world.lease_ms)
                        self._outbox.repeat_all()
                    case LeaseExtended(number):
                        self._extend_lease(beats.pop(number) + self._world.lease_ms)
                    case Assignments():
                        self._on_assignments(message)
                    case Acks(acks):
                        self._on_acks(acks)
                    case _:
                        raise TypeError(message)
                self.turn()
            if now - heard_ms >= SILENT_MS:
                return
            if welcome is not None:
                if now >= beat_ms:
                    number = max(beats, default=0) + 1
                    beat_ms, beats[number] = now + HEARTBEAT_MS, now
                    link.to_controller.send(
                        Heartbeat(number, self._held(), tuple(self._supervisor.spooled()))
                    )
                self._send_reports(link, now)
            self._wake.clear()
            due_ms = min(beat_ms if welcome else now + SILENT_MS, heard_ms + SILENT_MS)
            if welcome is not None and len(self._outbox):
                due_ms = min(due_ms, now + 1_000)
            await _wait(self._wake, due_ms - now)

    def _hello(self) -> core.Hello:
        m = self._machine
        return core.Hello(
            worker_id=m.name, name=f"host of {m.name}", boot_id=str(m.boot), incarnation=str(m.lives),
            capacity_mcpu=m.mcpu, runtime="fake", held=self._held(),
            spooled=tuple(self._supervisor.spooled()),
        )  # fmt: skip

    def _held(self) -> tuple[core.HeldAttempt, ...]:
        held = self._supervisor.held(self._machine.clock_ms())
        return tuple(core.HeldAttempt(h.attempt_id, h.main_ms) for h in held)

    def _extend_lease(self, until_ms: int) -> None:
        if until_ms > self._machine.lease_until_ms:
            self._machine.lease_until_ms = until_ms
            self._lease_lost = False

    def _on_assignments(self, a: Assignments) -> None:
        self._world.oracle.ordered(self._machine.name, [*(r.attempt_id for r in a.run), *a.keep, *a.revoke])
        orders = Orders(complete=a.complete, run=a.run, keep=a.keep, revoke=a.revoke)
        self._supervisor.on_orders(self._machine.clock_ms(), orders)
        self._lease_lost = False

    def _on_acks(self, acks: tuple[tuple[str, core.AttemptState], ...]) -> None:
        for attempt_id, state in acks:
            self._world.oracle.acked(self._machine.name, attempt_id, state)
        ended = self._outbox.acked((attempt_id, AttemptState(state)) for attempt_id, state in acks)
        self._supervisor.on_acked(list(ended))

    def _send_reports(self, link: Link, now: int) -> None:
        self._outbox.repeat(now)
        reports: list[core.Report] = [pickle.loads(data) for data in self._outbox.take(now, limit=256)]
        if self._rng.random() < self._world.lying:
            everybodys = self._world.oracle.attempts.items()
            if others := [a for a, known in everybodys if known.worker_id != self._machine.name]:
                self._world.oracle.seen["a worker that lies"] += 1
                reports.append(_success(self._rng.choice(others)))
        if reports:
            link.to_controller.send(Reports(tuple(reports)))


def _to_core(report: Report) -> core.Report:
    return core.Report(
        report.attempt_id,
        core.AttemptState(report.state),
        report.main_ms,
        None if report.reason is None else core.EndReason(report.reason),
        report.message,
        tuple(
            core.ContainerRecord(
                core.ContainerName(c.container), c.image, c.pull_started_ms, c.pull_ended_ms, c.started_ms,
                c.ended_ms, c.exit_code, core.ErrorKind(c.error_kind), c.error, c.log_bytes,
            )
            for c in report.containers
        ),
    )  # fmt: skip


def _success(attempt_id: str) -> core.Report:
    main = core.ContainerRecord(core.ContainerName.MAIN, exit_code=0)
    return core.Report(attempt_id, core.AttemptState.ENDED, 1, core.EndReason.COMPLETED, "", (main,))


def _main(attempt_id: str) -> ContainerId:
    return ContainerId(attempt_id, Container.MAIN)


async def _wait(event: asyncio.Event, ms: int) -> None:
    """Until it is set, but not longer."""
    loop = asyncio.get_running_loop()
    timer = loop.call_later(max(0, ms) / 1000, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
