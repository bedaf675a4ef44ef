"""One random history of the whole service, from a seed: users, workers, a network, a database, and what
befalls them; then everything heals, everything must come to its end, and the three folds must agree.

Real are the engine, the feed, the reactor, the state and the worker's supervisor and outbox (in every
history), and the store (in those that are given one). Time is virtual. The oracle watches.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from longshore_controller import engine as engine_module
from longshore_controller.core import events as ev
from longshore_controller.core.model import Refusal
from longshore_controller.core.reactor import CreateBatch, Limits, Reactor, UpdateBatch
from longshore_controller.core.rows import Changes
from longshore_controller.store import Store
from sim.controller import Away, Controller, Defects
from sim.database import Database
from sim.link import Link
from sim.machine import Machine
from sim.oracle import CALLBACK, Oracle, Violation, require
from sim.virtual import VirtualLoop
from world import more_jobs, random_jobs, staged, with_limits

BEGIN_MS = 1_700_000_000_000
OVER_WITHIN_MS = 2 * 3_600_000
"""Virtual time in which everything is complete once nothing breaks any more."""
STORY = 80
"""Lines of the story that a failure tells."""

Ask = Callable[[Controller], Coroutine[Any, Any, int | None]]
Trouble = Callable[[Random], None]


class Failed(AssertionError):
    """A history broke a promise: the seed, the promise and what happened last."""


@dataclass(frozen=True)
class Weather:
    """What befalls this history, how often: each seed has some kinds of trouble and not others."""

    lasts_ms: int
    slowest_ms: int
    """Of a message on its way."""
    losing: float
    """How likely a single message is lost."""
    slow_commits: bool
    failing: float
    controller_crashes_s: float | None
    """Mean time between them; None: never. So the others."""
    workerd_crashes_s: float | None
    reboots_s: float | None
    vanishings_s: float | None
    breaks_s: float | None
    outages_s: float | None
    refusing: float
    lying: float
    dying: float

    @classmethod
    def of(cls, rng: Random) -> Weather:
        def sometimes(mean_s: float) -> float | None:
            return mean_s * rng.choice([0.3, 1.0, 3.0]) if rng.random() < 0.5 else None

        return cls(
            lasts_ms=rng.choice([20_000, 60_000, 120_000, 240_000]),
            slowest_ms=rng.choice([2, 50, 50, 3_000]),
            losing=rng.choice([0.0, 0.0, 0.0, 0.1, 0.4]),
            slow_commits=rng.random() < 0.5,
            failing=rng.choice([0.0, 0.0, 0.05, 0.3]),
            controller_crashes_s=sometimes(30),
            workerd_crashes_s=sometimes(60),
            reboots_s=sometimes(100),
            vanishings_s=sometimes(60),
            breaks_s=sometimes(20),
            outages_s=sometimes(45),
            refusing=rng.choice([0.0, 0.0, 0.1, 0.4]),
            lying=rng.choice([0.0, 0.1]),
            dying=rng.choice([0.0, 0.0, 0.02]),
        )


def limits_of(rng: Random) -> Limits:
    return Limits(
        slice_jobs=(slice := rng.choice([1, 3, 1_000])),
        slice_cancelled=slice,
        slice_cancelled_busy=slice,
        progress_ms=rng.choice([5_000, 60_000]),
        shun_most_ms=60_000,
        remembered_requests=rng.choice([1, 10_000]),
    )


class History:
    """The world of one seed. It is what machines and controllers stand in."""

    def __init__(
        self, seed: int | str, loop: VirtualLoop, store: Store | None, changed: Mapping[str, Any]
    ) -> None:
        self._loop = loop
        self._rng = Random(f"{seed}/world")
        self.seed = seed
        self.weather = replace(Weather.of(Random(f"{seed}/weather")), **changed)
        self.limits = limits_of(Random(f"{seed}/limits"))
        self.lease_ms = self.limits.lease_ms
        self.refusing, self.lying = self.weather.refusing, self.weather.lying
        self.losing, self.dying = self.weather.losing, self.weather.dying
        self.database = Database(store, Random(f"{seed}/database"), self._committed)
        self.database.failing = self.weather.failing
        self.oracle = Oracle(self.limits, self.database.plans, self.now)
        self.controller: Controller | None = None
        self.machines: list[Machine] = []
        self.story: deque[tuple[int, str, object]] = deque(maxlen=STORY)
        self._healed = False
        self._violation: asyncio.Future[None] = loop.create_future()
        self._ids = (f"a{i}" for i in itertools.count(1))
        self._names = (f"w{i}" for i in itertools.count(1))
        self._away: set[str] = set()
        """Machines that no connection reaches."""
        loop.latency = self._commit_latency

    # -- what others need ----------------------------------------------------------------------------

    def now(self) -> int:
        return BEGIN_MS + self._loop.now_ms

    def new_id(self) -> str:
        return next(self._ids)

    def tell(self, who: str, what: object) -> None:
        self.story.append((self._loop.now_ms, who, what))

    def violated(self, error: BaseException) -> None:
        """The history is over."""
        if not self._violation.done():
            self._violation.set_exception(error)

    def connect(self, machine: Machine) -> Link | None:
        if self.controller is None or machine.name in self._away:
            return None
        number = self.oracle.seen["connection"]
        self.oracle.seen["connection"] += 1
        link = Link(Random(f"{self.seed}/link {number}"), self.weather.slowest_ms, lambda: self.losing)
        self.controller.accept(link)
        return link

    def dies(self, machine: Machine) -> None:
        self.oracle.seen["workerd dies in the midst"] += 1
        self._loop.call_later(2, machine.start_workerd)

    @property
    def _reactor(self) -> Reactor | None:
        return self.controller.reactor if self.controller is not None else None

    def _committed(self, events: list[ev.Event], changes: Changes) -> None:
        for event in events:
            self.tell("log", event)
        try:
            if self._reactor is not None:
                self._reactor.state.check()
            self.oracle.committed(events)
        except Exception as error:
            self.violated(error)

    def _commit_latency(self) -> tuple[float, float]:
        if not self.weather.slow_commits or self._rng.random() < 0.3:
            return 0, 0
        return self._rng.choice([0, 0.003, 0.4]), self._rng.choice([0, 0.003, 0.4])

    # -- its course ----------------------------------------------------------------------------------

    async def run(self) -> Counter[str]:
        """What has happened, by name. Violation, or whatever broke."""
        self._loop.set_exception_handler(lambda _, context: self.violated(_error(context)))
        course = asyncio.create_task(self._course())
        await asyncio.wait([course, self._violation], return_when=asyncio.FIRST_COMPLETED)
        if self._violation.done():
            await self._violation
        await course
        self.oracle.seen.update(self.database.failures)
        return self.oracle.seen

    async def _course(self) -> None:
        self._start_controller()
        for cores in self._rng.choice([[4], [4, 1], [4, 4], [4, 4, 1]]):
            self._add_machine(1000 * cores)
        users = [asyncio.create_task(self._use(i)) for i in range(1, 1 + self._rng.choice([1, 1, 2, 3]))]
        users.append(asyncio.create_task(self._administer()))
        users.append(asyncio.create_task(self._account()))
        weather = self.weather
        troubles = [
            asyncio.create_task(self._every(mean_s, trouble))
            for mean_s, trouble in (
                (weather.controller_crashes_s, self._crash_controller),
                (weather.workerd_crashes_s, self._crash_workerd),
                (weather.reboots_s, self._reboot),
                (weather.vanishings_s, self._vanish),
                (weather.breaks_s, self._break_link),
                (weather.outages_s, self._outage),
            )
            if mean_s is not None
        ]
        await asyncio.sleep(weather.lasts_ms / 1000)
        for task in troubles:
            task.cancel()
        self._heal()
        await asyncio.wait(users)
        for user in users:
            user.result()
        await self._come_to_the_end()
        for machine in self.machines:
            machine.vanish()
        await asyncio.sleep((self.limits.lease_ms + self.limits.grace_ms) / 1000 + 10)
        self._check_all()

    async def _come_to_the_end(self) -> None:
        until = self.now() + OVER_WITHIN_MS
        while not (self.oracle.is_over() and self._is_idle() and self._reactor is not None):
            await asyncio.sleep(5)
            if self.now() > until:
                raise Violation(f"everything comes to its end: {self._left_over()}")

    def _is_idle(self) -> bool:
        return all(m.workerd is not None and m.workerd.is_idle for m in self.machines if not m.is_gone)

    def _left_over(self) -> str:
        batches = {i: b for i, b in self.oracle.batches.items() if b.closed and not b.complete}
        runs = {a: r for a, r in self.oracle.runs.items() if r.ended_ms is None}
        disks = {m.name: m.disk for m in self.machines if m.disk and not m.is_gone}
        return f"batches {batches}, runs {runs}, disks {disks}"

    def _check_all(self) -> None:
        assert self._reactor is not None
        state = self._reactor.state
        state.check()
        assert state == self.database.folded(), "memory is not the fold of the log"
        self.database.load()
        self.oracle.check_rows(self.database.rows)
        assert not state.attempts and not state.workers, "nobody is left, yet memory has somebody"
        assert not state.users, "nobody has anything, yet memory has users"
        assert state.frozen is None and not state.draining, "every pause was taken back"
        if self.database.store is not None:
            self.database.check_store(self.database.store)

    # -- users ---------------------------------------------------------------------------------------

    async def _use(self, number: int) -> None:
        """One batch, from its creation to whatever its user makes of it."""
        rng = Random(f"{self.seed}/user {number}")
        jobs = random_jobs(rng, most=rng.choice([4, 8, 12]))
        # Of its own chance, so that what was there before goes on as it did.
        more = Random(f"{self.seed}/more of user {number}")
        jobs = with_limits(more, jobs)
        await asyncio.sleep(rng.randint(0, self.weather.lasts_ms // 2) / 1000)
        user = rng.choice(["ann", "bob"])
        callback = CALLBACK if Random(f"{self.seed}/callback {number}").random() < 0.3 else ""
        request = CreateBatch(user, "project", f"request {number}", b"sha", len(jobs), callback=callback)
        batch_id = await self._create(rng, request)
        wants_cancel, wants_delete = rng.random() < 0.4, rng.random() < 0.15
        if wants_cancel and rng.random() < 0.3:
            await self._insist(rng, lambda c: c.cancel(batch_id))
            return
        await asyncio.sleep(rng.choice([0, 0.1, 5]))
        self.database.stage(batch_id, jobs)
        await self._insist(rng, lambda c: c.close(batch_id))
        if more.random() < 0.3:
            await self._end_some(more, batch_id)
        if more.random() < 0.4:
            await self._add_some(more, batch_id)
        if wants_cancel:
            await asyncio.sleep(rng.choice([0, 0.02, 5, 40]))
            await self._insist(rng, lambda c: c.cancel(batch_id))
        if wants_delete:
            await asyncio.sleep(rng.choice([0, 1, 60, 300]))
            await self._insist(rng, lambda c: c.delete(batch_id))
            self.oracle.hidden[batch_id] = True
            if more.random() < 0.5:
                await asyncio.sleep(more.choice([0, 1, 60]))
                await self._insist(more, lambda c: c.undelete(batch_id))
                self.oracle.hidden[batch_id] = False

    async def _add_some(self, rng: Random, batch_id: int) -> None:
        """More jobs for this batch, which runs or is complete."""
        for i in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.choice([0, 0.05, 5, 100]))
            before = len(self.database.plans[batch_id])
            jobs = self.database.more[batch_id, f"more {i}"] = more_jobs(rng, before)
            update = partial(
                Controller.update,
                wanted=UpdateBatch(batch_id, f"more {i}", b"sha", before + 1, staged(jobs)),
            )
            asked = [self._insist(rng, update) for _ in range(rng.choice([1, 1, 2]))]
            try:
                await asyncio.gather(*asked)
            except Refusal as refusal:
                require(
                    "cancelled by budget" in refusal.message, "only such batches take no more jobs", refusal
                )
                return
            assert len(self.database.plans[batch_id]) == before + len(jobs), "what is answered is there"

    async def _end_some(self, rng: Random, batch_id: int) -> None:
        """Attempts of this batch that its owner is tired of."""
        for _ in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.choice([0.02, 1, 10]))
            live = [
                a for a, known in self.oracle.attempts.items() if known.key[0] == batch_id and not known.ended
            ]
            if live:
                attempt_id = rng.choice(live)
                await self._insist(rng, lambda c, a=attempt_id: c.end_attempt(a))  # type: ignore[misc]
                self.oracle.withdrawn(attempt_id)

    async def _account(self) -> None:
        """In some histories somebody limits what may be spent, and takes it back."""
        rng = Random(f"{self.seed}/accountant")
        comes = rng.random() < 0.25
        if comes and rng.random() < 0.5:
            await self._insist(rng, lambda c: c.set_rates())
        while comes and not self._healed:
            await asyncio.sleep(rng.choice([1, 10, 40]))
            limit, hard = self.oracle.spent + rng.choice([1, 10_000, 200_000]), rng.random() < 0.3
            await self._insist(rng, lambda c: c.set_limit(limit, hard=hard))  # noqa: B023
            await asyncio.sleep(rng.choice([0.01, 1, 10, 50]))
            await self._insist(rng, lambda c: c.set_limit(None, hard=False))

    async def _administer(self) -> None:
        """In some histories somebody freezes the service and drains workers, and takes it back."""
        rng = Random(f"{self.seed}/admin")
        comes = rng.random() < 0.25
        while comes and not self._healed:
            await asyncio.sleep(rng.choice([1, 10, 40]))
            workers = sorted(self.oracle.workers)
            lasts_s = rng.choice([0.01, 1, 10, 50])
            if rng.random() < 0.5 or not workers:
                await self._insist(rng, lambda c: c.freeze())
                await asyncio.sleep(lasts_s)
                await self._insist(rng, lambda c: c.thaw())
            else:
                await self._drain_for(rng, rng.choice(workers), lasts_s)

    async def _drain_for(self, rng: Random, worker_id: str, seconds: float) -> None:
        await self._insist(rng, lambda c: c.drain(worker_id))
        await asyncio.sleep(seconds)
        await self._insist(rng, lambda c: c.undrain(worker_id))

    async def _create(self, rng: Random, request: CreateBatch) -> int:
        """The batch's id, asked for once, or twice at the same time."""
        asked = [self._insist(rng, lambda c: c.create(request)) for _ in range(rng.choice([1, 1, 2]))]
        first, *again = await asyncio.gather(*asked)
        assert all(i == first for i in again), f"the same request made batches {first} and {again}"
        return first

    async def _insist(self, rng: Random, ask: Ask) -> int:
        """Asks until there is an answer, and sometimes once more."""
        while True:
            if self.controller is not None:
                try:
                    answer = await self.controller.ask(ask(self.controller))
                except Away:
                    self.oracle.seen["a user who asks again"] += 1
                else:
                    if self._healed or rng.random() < 0.9:
                        return answer or 0
            await asyncio.sleep(rng.choice([0.01, 0.5, 3]))

    # -- what befalls them ---------------------------------------------------------------------------

    async def _every(self, mean_s: float, trouble: Trouble) -> None:
        rng = Random(f"{self.seed}/{trouble.__name__}")
        while True:
            await asyncio.sleep(rng.expovariate(1 / mean_s))
            self.oracle.seen[trouble.__name__.strip("_")] += 1
            try:
                trouble(rng)
            except Exception as error:
                self.violated(error)

    def _start_controller(self) -> None:
        if self.controller is None:
            self.tell("controller", "starts")
            ahead_ms = self._rng.choice([0, 0, 3_600_000, -3_600_000])
            self.controller = Controller(self, clock_ahead_ms=ahead_ms)

    def _crash_controller(self, rng: Random) -> None:
        if self.controller is not None:
            self.tell("controller", "is killed")
            self.oracle.controller_died()
            controller, self.controller = self.controller, None
            controller.crash()
            self._loop.call_later(rng.choice([0.01, 1, 1, 20, 60]), self._start_controller)

    def _add_machine(self, mcpu: int) -> None:
        name = next(self._names)
        machine = Machine(self, name, mcpu, Random(f"{self.seed}/{name}"))
        self.machines.append(machine)
        self.oracle.machines[name] = machine
        machine.start_workerd()

    def _some_machine(self, rng: Random) -> Machine:
        return rng.choice([m for m in self.machines if not m.is_gone])

    def _crash_workerd(self, rng: Random) -> None:
        machine = self._some_machine(rng)
        machine.crash_workerd()
        self._loop.call_later(rng.choice([0.01, 2, 2, 15, 70]), machine.start_workerd)

    def _reboot(self, rng: Random) -> None:
        machine = self._some_machine(rng)
        machine.reboot()
        self._loop.call_later(rng.choice([5, 20, 70]), machine.start_workerd)

    def _vanish(self, rng: Random) -> None:
        """With or without notice; another one comes in its place."""
        machine = self._some_machine(rng)
        if machine.workerd is not None and rng.random() < 0.6:
            machine.workerd.shut_down()
            self._loop.call_later(rng.choice([3, 25]), machine.vanish)
        else:
            machine.vanish()
        self._add_machine(machine.mcpu)

    def _break_link(self, rng: Random) -> None:
        if (workerd := self._some_machine(rng).workerd) is not None:
            workerd.break_link()

    def _outage(self, rng: Random) -> None:
        """One machine reaches nobody for a while."""
        machine = self._some_machine(rng)
        self.tell(machine.name, "is cut off")
        self._away.add(machine.name)
        if machine.workerd is not None:
            machine.workerd.break_link()
        self._loop.call_later(rng.choice([5, 30, 60, 90]), self._away.discard, machine.name)

    def _heal(self) -> None:
        self.tell("world", "everything heals")
        self._healed = True
        self.database.failing = self.refusing = self.lying = self.losing = self.dying = 0
        self._away.clear()
        self._start_controller()
        for machine in self.machines:
            machine.start_workerd()


@contextmanager
def _quiet() -> Iterator[None]:
    """Engine and asyncio keep their lines for themselves, and the engine its hands off the collector.

    It sorts out its memory after each load, which is right for a process that loads once in its life.
    """
    loggers = [logging.getLogger(name) for name in ("longshore_controller", "asyncio")]
    were = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.setLevel(logging.ERROR)
    try:
        with patch.object(engine_module, "gc", SimpleNamespace(collect=int, freeze=int, unfreeze=int)):
            yield
    finally:
        for logger, (propagate, level) in zip(loggers, were, strict=True):
            logger.propagate, logger.level = propagate, level


def run(seed: int | str, store: Store | None = None, **changed: Any) -> Counter[str]:
    """The history of this seed, in such weather: what has happened in it, by name. Failed."""
    log = logging.getLogger(engine_module.__name__)
    with _quiet(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        history = History(seed, loop, store, changed)
        defects = Defects(history.violated)
        log.addHandler(defects)
        try:
            return runner.run(history.run())
        except (Exception, asyncio.CancelledError) as error:
            raise Failed(_account(history, error)) from error
        finally:
            log.removeHandler(defects)


def _error(context: dict[str, Any]) -> BaseException:
    found = context.get("exception")
    return found if isinstance(found, BaseException) else Violation(str(context["message"]))


def _account(history: History, error: BaseException) -> str:
    """What broke, how to see it again, and the end of the story."""
    lines = [f"{at / 1000:10.3f}  {who:<12}{what}" for at, who, what in history.story]
    return "\n".join(
        [
            f"seed {history.seed}: {type(error).__name__}: {error}",
            f"once more: PYTHONPATH=tests python -m sim {history.seed}",
            f"weather: {history.weather}",
            *lines,
        ]
    )
