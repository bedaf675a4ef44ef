"""Random histories of one worker: orders, containers, crashes, reboots and duplicates in any order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
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
from longshore_workerd.model import Assignment, AttemptState, EndReason, FileCopy, Orders, Report
from longshore_workerd.runtime import Container, ContainerId, ErrorKind, Exit, Found
from longshore_workerd.supervisor import Supervisor

HISTORIES = 2_000
CHUNKS = 20


@dataclass
class Running:
    started_at: int
    ended_at: int | None = None
    exit_code: int = 0


@dataclass
class Kept:
    """What the disk has of an attempt."""

    accepted: tuple[Assignment, int, int] | None = None
    main_ordered: bool = False
    report: Report | None = None


@dataclass
class World:
    """A disk, an engine and a controller around the real supervisor; the daemon is these few lines."""

    random: Random
    now: int = 1_000_000
    boot: int = 1
    disk: dict[str, Kept] = field(default_factory=dict)
    engine: dict[ContainerId, Running] = field(default_factory=dict)
    wanted: dict[str, Assignment] = field(default_factory=dict)
    ordered: set[str] = field(default_factory=set)
    ends: dict[str, list[Report]] = field(default_factory=dict)
    acked: set[str] = field(default_factory=set)
    main_starts: Counter[str] = field(default_factory=Counter)
    main_ran: Counter[str] = field(default_factory=Counter)
    unheard: Counter[str] = field(default_factory=Counter)
    """For how long a main container had ended and the supervisor, alive, had not been told."""
    found_ended: set[ContainerId] = field(default_factory=set)
    in_flight: list[Action] = field(default_factory=list)
    followed: dict[ContainerId, None] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(default_image="task", localizer_image="localizer")

    # --- what the daemon does

    def turn(self, *, crash: bool = False) -> None:
        """Takes the actions, writes what must be on disk, then has the rest under way."""
        actions = self.supervisor.take(self.now)
        if crash:
            self.random.choice([self._crash_while_writing, self._crash_while_doing])(actions)
            return
        for action in actions:
            self.write(action)
        self.in_flight += [a for a in actions if not isinstance(a, Accept | Note | Tell | Forget)]

    def _crash_while_writing(self, actions: list[Action]) -> None:
        for action in actions[: self.random.randrange(len(actions) + 1)]:
            self.write(action)
        self.restart()

    def _crash_while_doing(self, actions: list[Action]) -> None:
        for action in actions:
            self.write(action)
        self.in_flight += [a for a in actions if not isinstance(a, Accept | Note | Tell | Forget)]
        for _ in range(self.random.randrange(4)):
            self.do_something(answer=False)
        self.restart()

    def write(self, action: Action) -> None:
        match action:
            case Accept(job, at_ms):
                assert job.attempt_id not in self.disk
                self.disk[job.attempt_id] = Kept((job, at_ms, self.boot))
            case Start(job, Container.MAIN):
                self.disk[job.attempt_id].main_ordered = True
            case Note(report) | Tell(report):
                kept = self.disk.setdefault(report.attempt_id, Kept())
                assert kept.report is None or kept.report.state is not AttemptState.ENDED
                kept.report = report
                if report.state is AttemptState.ENDED:
                    self.ends.setdefault(report.attempt_id, []).append(report)
            case Forget(attempt_id):
                del self.disk[attempt_id]

    def do_something(self, *, answer: bool = True) -> None:
        """One of the actions under way comes to its end; a crash may swallow the answer."""
        if not self.in_flight:
            return
        action = self.in_flight.pop(self.random.randrange(len(self.in_flight)))
        self.story.append(f"{action}{'' if answer else ' unanswered'}")
        match action:
            case Prepare(attempt_id, image):
                if not answer:
                    return
                if self.random.random() < 0.05:
                    kind = self.random.choice([ErrorKind.NONE, ErrorKind.IMAGE_NOT_FOUND])
                    self.supervisor.on_image_refused(self.now, attempt_id, image, kind, "no such image")
                else:
                    self.supervisor.on_prepared(self.now, attempt_id, image)
            case Start(job, container):
                self.start(ContainerId(job.attempt_id, container), answer)
            case Adopt(id):
                assert id in self.engine or not answer
                self.followed[id] = None
            case Stop(id, _):
                if (running := self.engine.get(id)) and running.ended_at is None:
                    self.end(id, 143)
            case Remove(attempt_id, containers):
                assert attempt_id not in self.disk or self.disk[attempt_id].report is not None
                for container in containers:
                    self.vanish(ContainerId(attempt_id, container))

    def start(self, id: ContainerId, answer: bool) -> None:
        if id not in self.engine:
            if self.random.random() < 0.05:
                if answer:
                    kind = self.random.choice([ErrorKind.NONE, ErrorKind.CANNOT_START])
                    self.supervisor.on_refused(self.now, id, kind, "cannot start")
                return
            self.engine[id] = Running(self.now)
            if id.container is Container.MAIN:
                self.main_starts[id.attempt_id] += 1
        if answer:
            self.followed[id] = None
            self.supervisor.on_started(self.now, id)

    # --- what befalls the machine

    def end(self, id: ContainerId, exit_code: int) -> None:
        running = self.engine[id]
        running.ended_at, running.exit_code = self.now, exit_code
        if id.container is Container.MAIN:
            self.main_ran[id.attempt_id] += self.now - running.started_at

    def vanish(self, id: ContainerId) -> None:
        if id in self.engine and self.engine[id].ended_at is None:
            self.end(id, 137)
        self.engine.pop(id, None)

    def hear_of_ends(self) -> None:
        for id in list(self.followed):
            running = self.engine.get(id)
            if running is not None and running.ended_at is None:
                continue
            del self.followed[id]
            if running is None:
                exit = Exit(None, known=False)
            else:
                assert running.ended_at is not None
                self.note_unheard(id)
                ran_ms = running.ended_at - running.started_at
                exit = Exit(running.exit_code, ran_ms=self.random.choice([None, ran_ms]))
            self.supervisor.on_ended(self.now, id, exit, 0)

    def note_unheard(self, id: ContainerId) -> None:
        ended_at = self.engine[id].ended_at
        if id.container is Container.MAIN and ended_at is not None and id not in self.found_ended:
            self.unheard[id.attempt_id] = self.now - ended_at

    def restart(self, *, reboot: bool = False) -> None:
        """The supervisor dies; a new one knows what is on disk and in the engine."""
        self.story.append("reboot" if reboot else "restart")
        for id in self.engine:
            self.note_unheard(id)
        self.in_flight.clear()
        self.followed.clear()
        self.now += self.random.randrange(5_000)
        if reboot:
            self.boot += 1
            for id in [id for id, running in self.engine.items() if running.ended_at is None]:
                self.end(id, 137)
        for id in [id for id in list(self.engine) if self.random.random() < 0.03]:
            self.vanish(id)
        survivors, ended = [], []
        for attempt_id, kept in self.disk.items():
            if kept.report is not None and kept.report.state is AttemptState.ENDED:
                ended.append(attempt_id)
            elif kept.accepted is not None:
                job, at_ms, boot = kept.accepted
                survivors.append(Survivor(job, at_ms, boot == self.boot, kept.main_ordered, kept.report))
        found = [Found(id, running.ended_at is None) for id, running in list(self.engine.items())]
        self.found_ended = {f.id for f in found if not f.running}
        self.__post_init__()
        self.supervisor.recover(self.now, survivors=survivors, ended=ended, found=found)
        self.resync()

    # --- what the controller says

    def resync(self) -> None:
        held = {h.attempt_id for h in self.supervisor.held(self.now)}
        spooled = set(self.supervisor.spooled())
        self.supervisor.on_orders(
            self.now,
            Orders(
                complete=True,
                run=tuple(job for a, job in self.wanted.items() if a not in held | spooled),
                keep=tuple(a for a in self.wanted if a in held),
            ),
        )

    def order(self) -> None:
        rng = self.random
        attempt_id = f"a{len(self.ordered)}"
        job = Assignment(
            attempt_id,
            timeout_ms=rng.choice([0, 0, 700]),
            input_files=(FileCopy("/in", "/io/in"),) * rng.randrange(2),
            output_files=(FileCopy("/io/out", "/out"),) * rng.randrange(2),
            always_copy_output=rng.random() < 0.3,
        )
        self.ordered.add(attempt_id)
        self.wanted[attempt_id] = job
        for _ in range(rng.choice([0, 1, 1, 2])):  # lost, once, twice
            self.supervisor.on_orders(self.now, Orders(run=(job,)))

    def revoke(self) -> None:
        if self.ordered:
            attempt_id = self.random.choice(sorted(self.ordered))
            self.wanted.pop(attempt_id, None)
            if attempt_id not in self.acked:  # what it knows to have ended, it does not revoke
                self.supervisor.on_orders(self.now, Orders(revoke=(attempt_id,)))

    def ack(self) -> None:
        for attempt_id in [a for a in self.ends if self.random.random() < 0.5]:
            self.acked.add(attempt_id)
            self.wanted.pop(attempt_id, None)
            self.supervisor.on_acked([attempt_id])

    def repeat_an_old_order(self) -> None:
        if self.acked:
            job = Assignment(self.random.choice(sorted(self.acked)))
            if job.attempt_id in self.heard_acks:
                self.supervisor.on_orders(self.now, Orders(run=(job,)))

    @property
    def heard_acks(self) -> dict[str, None]:
        return self.supervisor._acked

    # --- a history

    def step(self) -> None:
        roll = self.random.random()
        self.now += self.random.randrange(100)
        if roll < 0.08:
            self.order()
        elif roll < 0.10:
            self.revoke()
        elif roll < 0.14:
            self.ack()
        elif roll < 0.16:
            self.repeat_an_old_order()
        elif roll < 0.18:
            self.resync()
        elif roll < 0.19:
            self.supervisor.on_lease_lost(self.now)
        elif roll < 0.23:
            self.supervisor.on_tick(self.now)
        elif roll < 0.25:
            self.turn(crash=True)
        elif roll < 0.255:
            self.restart(reboot=True)
        elif roll < 0.40:
            running = [id for id, r in list(self.engine.items()) if r.ended_at is None]
            if running:
                self.end(self.random.choice(running), self.random.choice([0, 0, 1, 137]))
        elif roll < 0.55:
            self.hear_of_ends()
        elif roll < 0.80:
            self.turn()
        else:
            self.do_something()

    def settle(self) -> None:
        """No more faults: everything comes to its end."""
        for _ in range(500):
            self.resync()
            self.turn()
            while self.in_flight:
                self.do_something()
            for id in [id for id, r in list(self.engine.items()) if r.ended_at is None]:
                self.end(id, 0)
            self.hear_of_ends()
            self.turn()
            for attempt_id in list(self.ends):
                self.acked.add(attempt_id)
                self.wanted.pop(attempt_id, None)
                self.supervisor.on_acked([attempt_id])
            if not (self.wanted or self.disk or self.in_flight or self.engine):
                return
            self.now += 10
        raise AssertionError("it does not come to an end")

    def check(self) -> None:
        assert not self.supervisor.held(self.now)
        for attempt_id, ends in self.ends.items():
            assert len(ends) == 1, f"{attempt_id} ended more than once"
            assert self.main_starts[attempt_id] <= 1, f"the main container of {attempt_id} ran twice"
            end = ends[0]
            ran_ms = self.main_ran[attempt_id] + self.unheard[attempt_id]
            assert end.main_ms <= ran_ms, f"{attempt_id} is billed for more than it ran"
            if end.reason is EndReason.COMPLETED:
                main = next(r for r in end.containers if r.container is Container.MAIN)
                assert main.exit_code is not None
                assert self.main_starts[attempt_id] == 1


def run(seed: int) -> World:
    world = World(Random(seed))
    try:
        for _ in range(world.random.randrange(20, 200)):
            world.step()
        world.settle()
        world.check()
    except Exception as error:
        story = "\n".join(world.story[-60:])
        raise AssertionError(f"seed {seed}: {error!r}\n{story}") from error
    return world


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_happens_an_attempt_starts_at_most_once_and_ends_exactly_once(chunk: int) -> None:
    for seed in range(chunk, HISTORIES, CHUNKS):
        run(seed)


def test_the_histories_go_everywhere() -> None:
    reasons: Counter[EndReason | None] = Counter()
    messages: Counter[str] = Counter()
    for seed in range(400):
        for ends in run(seed).ends.values():
            reasons[ends[0].reason] += 1
            messages[ends[0].message] += 1
    assert set(reasons) == set(EndReason) - {EndReason.PREEMPTED}
    assert {"the machine was restarted", "the worker's lease ran out", "its main container has vanished"} <= (
        set(messages)
    )
    assert messages["timed out: it ran longer than 0.7 s"]
