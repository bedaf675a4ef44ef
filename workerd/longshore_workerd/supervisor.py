"""PURE. Decides the life of every attempt on this machine; the daemon does what it says.

    accepted -> images -> input container -> main container -> output container -> ended

What happened goes in by ``on_…``, what is to be done comes out of :meth:`Supervisor.take`. The one
rule for whoever performs the actions of one ``take``: first all that is to be on disk (Accept, Note,
Tell, Forget, and the Start of a main container), then the rest. Only a Stop may overtake. So what
was done is never more than what the disk knows, and after a crash `recover` goes on from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from heapq import heappop, heappush

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
from longshore_workerd.model import (
    Assignment,
    AttemptState,
    ContainerRecord,
    EndReason,
    Held,
    Orders,
    Report,
)
from longshore_workerd.runtime import Container, ContainerId, ErrorKind, Exit, Found

STOP_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL of a container that was revoked, timed out or is in the way."""
FENCE_GRACE_S = 1.0
"""The same when the lease ran out: the controller soon gives the job to somebody else."""
NOTE_EVERY_MS = 10_000
"""How often the running time of main containers is noted, for the case that the machine dies."""
REMEMBERED = 10_000
"""Ends that were acknowledged and are still recognised, should an old order name them again."""


class _Phase(Enum):
    PREPARING = auto()
    STARTING = auto()
    RUNNING = auto()


@dataclass(slots=True)
class _Attempt:
    job: Assignment
    accepted_at_ms: int
    images: set[str]
    """Not yet on this machine."""
    todo: deque[Container]
    records: dict[Container, ContainerRecord]
    phase: _Phase = _Phase.PREPARING
    current: Container = Container.INPUT
    """Which container is starting or running. Means nothing while PREPARING."""
    made: list[Container] = field(default_factory=list)
    """Containers that may exist."""
    main_began_at_ms: int | None = None
    """Set exactly while the main container runs."""
    main_ms: int = 0
    main_seen_throughout: bool = True
    """Its start and its end were both seen; else the runtime knows better how long it ran."""
    timed_out: bool = False
    verdict: tuple[EndReason, str] | None = None
    """What became of the main container; stands while the output container runs."""
    halt: tuple[EndReason, str] | None = None
    """It is being stopped: it ends like this once its container has."""


class Supervisor:
    """The attempts of one machine. ``now`` is everywhere the machine's CLOCK_BOOTTIME in ms."""

    def __init__(self, *, default_image: str, localizer_image: str) -> None:
        self._default_image = default_image
        self._localizer_image = localizer_image
        self._attempts: dict[str, _Attempt] = {}
        self._ended: dict[str, None] = {}
        self._acked: dict[str, None] = {}
        self._records: list[Action] = []
        self._to_note: dict[str, bool] = {}
        """Attempts to be noted at the next take; true: also to be told that they have started."""
        self._actions: list[Action] = []
        self._timeouts: list[tuple[int, str]] = []
        self._note_at_ms: int | None = None
        self._accepting = True

    # --- what it knows

    def held(self, now: int) -> list[Held]:
        """Attempts accepted and not ended."""
        return [
            Held(attempt_id, _state(a), self._main_ms(a, now)) for attempt_id, a in self._attempts.items()
        ]

    def spooled(self) -> list[str]:
        """Attempts that ended and whose end was not acknowledged."""
        return list(self._ended)

    def is_halted(self, id: ContainerId) -> bool:
        """Nobody wants this container to start any more."""
        attempt = self._attempts.get(id.attempt_id)
        return attempt is None or attempt.halt is not None

    def next_deadline(self) -> int | None:
        """When on_tick has something to do, at the latest."""
        deadlines = [self._timeouts[0][0]] if self._timeouts else []
        if self._note_at_ms is not None:
            deadlines.append(self._note_at_ms)
        return min(deadlines, default=None)

    def take(self, now: int) -> list[Action]:
        """All that is to be done now, in this order; each action is handed out once."""
        actions = self._records
        for attempt_id, tell in self._to_note.items():
            if a := self._attempts.get(attempt_id):
                report = self._report(a, now)
                actions.append(Tell(report) if tell else Note(report))
        actions += self._actions
        self._records, self._to_note, self._actions = [], {}, []
        return actions

    # --- what the controller says

    def on_orders(self, now: int, orders: Orders) -> None:
        """Idempotent: held and ended attempts are not started again, revoked ones end once."""
        wanted: set[str] = set()
        for job in orders.run:
            wanted.add(job.attempt_id)
            if self._is_known(job.attempt_id):
                continue
            if self._accepting:
                self._accept(now, job)
            else:
                self._end_unheld(job.attempt_id, EndReason.PREEMPTED, "the worker is shutting down")
        for attempt_id, why in orders.unreadable.items():
            wanted.add(attempt_id)
            if not self._is_known(attempt_id):
                self._end_unheld(attempt_id, EndReason.REFUSED, why)
        for attempt_id in orders.keep:
            wanted.add(attempt_id)
            if not self._is_known(attempt_id):
                self._end_unheld(attempt_id, EndReason.LOST, "the worker does not hold this attempt")
        for attempt_id in orders.revoke:
            wanted.discard(attempt_id)
            if attempt_id in self._attempts:
                self._revoke(now, attempt_id)
            elif not self._is_known(attempt_id):
                self._end_unheld(attempt_id, EndReason.REVOKED, "revoked before it reached the worker")
        if orders.complete:
            for attempt_id in [a for a in self._attempts if a not in wanted]:
                self._revoke(now, attempt_id)

    def on_acked(self, attempt_ids: Iterable[str]) -> None:
        """The controller has committed how these attempts ended."""
        for attempt_id in attempt_ids:
            if attempt_id in self._ended:
                del self._ended[attempt_id]
                self._remember(attempt_id)
                self._records.append(Forget(attempt_id))

    def on_lease_lost(self, now: int) -> None:
        """The controller may believe that this worker is dead: nothing may go on running here."""
        for attempt_id in list(self._attempts):
            self._halt(now, attempt_id, EndReason.LOST, "the worker's lease ran out", FENCE_GRACE_S)

    def on_shutdown(self, now: int) -> None:
        """Nothing more is accepted, and what is held is stopped, as if the machine were taken away."""
        self._accepting = False
        for attempt_id in list(self._attempts):
            self._halt(now, attempt_id, EndReason.PREEMPTED, "the worker was shut down", STOP_GRACE_S)

    # --- what the machine says

    def on_prepared(self, now: int, attempt_id: str, image: str) -> None:
        """The image is here."""
        a = self._attempts.get(attempt_id)
        if a is None or image not in a.images:
            return
        for record in a.records.values():
            if record.image == image:
                record.pull_ended_ms = now - a.accepted_at_ms
        a.images.discard(image)
        if not a.images:
            self._go_on(now, a)

    def on_image_refused(self, now: int, attempt_id: str, image: str, kind: ErrorKind, why: str) -> None:
        """The image cannot be had. Of the localizer, or without a kind: not the user's fault."""
        a = self._attempts.get(attempt_id)
        if a is None or image not in a.images:
            return
        for record in a.records.values():
            if record.image == image:
                record.pull_ended_ms = now - a.accepted_at_ms
                record.error_kind, record.error = kind, why
        of_the_user = kind is not ErrorKind.NONE and a.records[Container.MAIN].image == image
        self._end(now, a, EndReason.ERROR if of_the_user else EndReason.REFUSED, why)

    def on_started(self, now: int, id: ContainerId) -> None:
        """The container runs."""
        a = self._current(id)
        if a is None or a.phase is not _Phase.STARTING:
            return
        a.phase = _Phase.RUNNING
        a.records[id.container].started_ms = now - a.accepted_at_ms
        if id.container is Container.MAIN:
            self._main_runs(a, now)
            self._to_note[id.attempt_id] = True
        else:
            self._to_note.setdefault(id.attempt_id, False)
        if a.halt is not None:
            self._actions.append(Stop(id, STOP_GRACE_S))

    def on_refused(self, now: int, id: ContainerId, kind: ErrorKind, why: str) -> None:
        """The container could not be started. No kind: the worker's fault."""
        a = self._current(id)
        if a is None:
            return
        record = a.records[id.container]
        record.error_kind, record.error = kind, why
        of_the_user = kind is not ErrorKind.NONE and (
            id.container is Container.MAIN or kind is ErrorKind.OUT_OF_DISK
        )
        if a.halt is not None:
            self._end(now, a, *a.halt)
        else:
            self._end(now, a, EndReason.ERROR if of_the_user else EndReason.REFUSED, why)

    def on_ended(self, now: int, id: ContainerId, exit: Exit, log_bytes: int) -> None:
        """The container has ended, and its output is in its log, of that many bytes."""
        a = self._current(id)
        if a is None:
            return
        self._close(now, a, id.container, exit, log_bytes)
        if a.halt is not None:
            self._end(now, a, *a.halt)
        elif not exit.known or (exit.exit_code is None and exit.error_kind is ErrorKind.NONE):
            name = id.container.name.lower()
            self._end(now, a, EndReason.LOST, exit.error or f"nobody knows how its {name} container ended")
        elif id.container is Container.MAIN:
            self._main_ended(now, a)
        elif exit.exit_code != 0:
            self._files_failed(now, a, id.container)
        else:
            self._go_on(now, a)

    def on_tick(self, now: int) -> None:
        """Stops what ran too long; notes from time to time how long main containers have run."""
        while self._timeouts and self._timeouts[0][0] <= now:
            self._time_out(heappop(self._timeouts)[1])
        if self._note_at_ms is not None and now >= self._note_at_ms:
            self._note_at_ms = None
            for a in self._attempts.values():
                if a.main_began_at_ms is not None:
                    self._to_note.setdefault(a.job.attempt_id, False)
                    self._note_at_ms = now + NOTE_EVERY_MS

    def recover(
        self, now: int, *, survivors: Iterable[Survivor], ended: Iterable[str], found: Collection[Found]
    ) -> None:
        """Once, before anything else, after a restart: goes on with what the disk and the runtime know.

        Containers that still run are adopted, those that ended meanwhile count, an attempt whose
        main container may have run and is gone is LOST, containers of no held attempt are removed.
        """
        self._ended.update(dict.fromkeys(ended))
        containers: dict[str, dict[Container, bool]] = {}
        for f in found:
            containers.setdefault(f.id.attempt_id, {})[f.id.container] = f.running
        for survivor in survivors:
            self._resume(now, survivor, containers.pop(survivor.job.attempt_id, {}))
        for attempt_id, strangers in containers.items():
            self._actions.append(Remove(attempt_id, tuple(strangers)))

    # --- how an attempt goes on

    def _accept(self, now: int, job: Assignment) -> None:
        a = self._new(job, now)
        self._records.append(Accept(job, now))
        self._prepare(now, a)

    def _new(self, job: Assignment, accepted_at_ms: int) -> _Attempt:
        image_of = {Container.MAIN: job.image or self._default_image}
        if job.input_files:
            image_of[Container.INPUT] = self._localizer_image
        if job.output_files:
            image_of[Container.OUTPUT] = self._localizer_image
        order = sorted(image_of)
        a = _Attempt(
            job,
            accepted_at_ms,
            images=set(image_of.values()),
            todo=deque(order),
            records={c: ContainerRecord(c, image_of[c]) for c in order},
        )
        self._attempts[job.attempt_id] = a
        return a

    def _prepare(self, now: int, a: _Attempt) -> None:
        for record in a.records.values():
            if record.image in a.images:
                record.pull_started_ms = now - a.accepted_at_ms
        self._actions += [Prepare(a.job.attempt_id, image) for image in sorted(a.images)]

    def _go_on(self, now: int, a: _Attempt) -> None:
        """To the next container, or to the end."""
        if a.todo:
            a.phase = _Phase.STARTING
            a.current = a.todo.popleft()
            a.made.append(a.current)
            self._actions.append(Start(a.job, a.current))
        else:
            self._end(now, a, *(a.verdict or (EndReason.COMPLETED, "")))

    def _main_runs(self, a: _Attempt, began_at_ms: int) -> None:
        a.main_began_at_ms = began_at_ms
        if a.job.timeout_ms:
            heappush(self._timeouts, (began_at_ms + a.job.timeout_ms, a.job.attempt_id))
        if self._note_at_ms is None:
            self._note_at_ms = began_at_ms + NOTE_EVERY_MS

    def _main_ended(self, now: int, a: _Attempt) -> None:
        main = a.records[Container.MAIN]
        unseen = not a.main_seen_throughout and 0 < a.job.timeout_ms <= a.main_ms
        if a.timed_out or unseen:
            main.error_kind = ErrorKind.TIMED_OUT
            main.error = f"timed out: it ran longer than {a.job.timeout_ms / 1000:g} s"
        elif main.exit_code == 0:
            main.error_kind, main.error = ErrorKind.NONE, ""
        self._judge(a)
        self._go_on(now, a)

    def _judge(self, a: _Attempt) -> None:
        """The main container has ended: what that means for the attempt, and what is still to run."""
        main = a.records[Container.MAIN]
        if main.error_kind is not ErrorKind.NONE:
            a.verdict = (EndReason.ERROR, main.error or _in_words(main.error_kind))
        succeeded = main.exit_code == 0 and a.verdict is None
        if not succeeded and not a.job.always_copy_output:
            a.todo.clear()

    def _files_failed(self, now: int, a: _Attempt, container: Container) -> None:
        """The localizer did not succeed. After a main container that failed, the main's failure counts."""
        record = a.records[container]
        name = container.name.lower()
        if record.error_kind is ErrorKind.NONE:
            record.error_kind = ErrorKind.FILES
        record.error = record.error or f"{name} files could not be moved: see the log of the {name} container"
        main_failed = container is Container.OUTPUT and a.records[Container.MAIN].exit_code != 0
        if main_failed:
            self._end(now, a, *(a.verdict or (EndReason.COMPLETED, "")))
        else:
            self._end(now, a, EndReason.ERROR, record.error)

    def _close(self, now: int, a: _Attempt, container: Container, exit: Exit, log_bytes: int) -> None:
        record = a.records[container]
        record.exit_code, record.error_kind, record.error = exit.exit_code, exit.error_kind, exit.error
        record.log_bytes = log_bytes
        record.ended_ms = now - a.accepted_at_ms
        if container is Container.MAIN:
            a.main_ms = self._main_ms(a, now)
            if not a.main_seen_throughout:
                a.main_ms = a.main_ms if exit.ran_ms is None else exit.ran_ms
                if record.started_ms is None:
                    record.started_ms = max(0, now - a.accepted_at_ms - a.main_ms)
                record.ended_ms = record.started_ms + a.main_ms
            a.main_began_at_ms = None
        self._to_note.setdefault(a.job.attempt_id, False)

    def _revoke(self, now: int, attempt_id: str) -> None:
        self._halt(now, attempt_id, EndReason.REVOKED, "the controller withdrew it", STOP_GRACE_S)

    def _halt(self, now: int, attempt_id: str, reason: EndReason, message: str, grace_s: float) -> None:
        a = self._attempts[attempt_id]
        if a.phase is _Phase.PREPARING:
            self._end(now, a, reason, message)
            return
        if a.halt is None or grace_s < STOP_GRACE_S:
            self._actions.append(Stop(ContainerId(attempt_id, a.current), grace_s))
        if a.halt is None:
            a.halt = (reason, message)

    def _time_out(self, attempt_id: str) -> None:
        a = self._attempts.get(attempt_id)
        if a is not None and a.main_began_at_ms is not None and a.halt is None:
            a.timed_out = True
            self._actions.append(Stop(ContainerId(attempt_id, Container.MAIN), STOP_GRACE_S))

    def _end(self, now: int, a: _Attempt, reason: EndReason, message: str) -> None:
        attempt_id = a.job.attempt_id
        a.main_ms = self._main_ms(a, now)
        del self._attempts[attempt_id]
        self._ended[attempt_id] = None
        records = tuple(a.records[c] for c in sorted(a.records))
        self._records.append(
            Tell(Report(attempt_id, AttemptState.ENDED, a.main_ms, reason, message, records))
        )
        self._actions.append(Remove(attempt_id, tuple(a.made)))

    def _end_unheld(self, attempt_id: str, reason: EndReason, message: str) -> None:
        self._ended[attempt_id] = None
        self._records.append(Tell(Report(attempt_id, AttemptState.ENDED, 0, reason, message)))

    # --- after a restart

    def _resume(self, now: int, survivor: Survivor, containers: Mapping[Container, bool]) -> None:
        a = self._new(survivor.job, survivor.accepted_at_ms)
        a.made = sorted(containers)
        if survivor.last is not None:
            a.main_ms = survivor.last.main_ms
            for record in survivor.last.containers:
                a.records[record.container] = record
        if not survivor.same_boot:
            self._end(now, a, EndReason.LOST, "the machine was restarted")
            return
        while a.todo and a.records[a.todo[0]].exit_code is not None:
            if a.todo.popleft() is Container.MAIN:
                self._judge(a)
        if a.todo and a.todo[0] in containers:
            self._adopt(now, a, running=containers[a.todo[0]])
        elif a.todo and a.todo[0] is Container.MAIN and survivor.main_start_ordered:
            self._end(now, a, EndReason.LOST, "its main container has vanished")
        elif a.todo:
            a.images = {a.records[c].image for c in a.todo}
            self._prepare(now, a)
        else:
            self._go_on(now, a)

    def _adopt(self, now: int, a: _Attempt, *, running: bool) -> None:
        a.current = a.todo.popleft()
        a.phase = _Phase.RUNNING
        record = a.records[a.current]
        if a.current is Container.MAIN:
            # A start that nobody saw is not recorded, or after one more crash it would pass for seen.
            a.main_seen_throughout = running and record.started_ms is not None
            if running:
                seen = record.started_ms
                self._main_runs(a, now - a.main_ms if seen is None else a.accepted_at_ms + seen)
        elif record.started_ms is None:
            record.started_ms = now - a.accepted_at_ms
        self._to_note[a.job.attempt_id] = _state(a) is AttemptState.STARTED
        self._actions.append(Adopt(ContainerId(a.job.attempt_id, a.current)))

    # --- small things

    def _is_known(self, attempt_id: str) -> bool:
        return attempt_id in self._attempts or attempt_id in self._ended or attempt_id in self._acked

    def _remember(self, attempt_id: str) -> None:
        self._acked[attempt_id] = None
        if len(self._acked) > REMEMBERED:
            del self._acked[next(iter(self._acked))]

    def _current(self, id: ContainerId) -> _Attempt | None:
        """The attempt, if this is the container that it is at; else what is said comes too late."""
        a = self._attempts.get(id.attempt_id)
        if a is None or a.phase is _Phase.PREPARING or a.current is not id.container:
            return None
        return a

    def _main_ms(self, a: _Attempt, now: int) -> int:
        return a.main_ms if a.main_began_at_ms is None else now - a.main_began_at_ms

    def _report(self, a: _Attempt, now: int) -> Report:
        """How things stand with it; a copy, for it goes on."""
        records = tuple(replace(a.records[c]) for c in sorted(a.records))
        return Report(a.job.attempt_id, _state(a), self._main_ms(a, now), containers=records)


def _state(a: _Attempt) -> AttemptState:
    started = a.main_began_at_ms is not None or a.records[Container.MAIN].started_ms is not None
    return AttemptState.STARTED if started else AttemptState.ASSIGNED


def _in_words(kind: ErrorKind) -> str:
    return kind.name.lower().replace("_", " ")
