"""A batch that runs on this machine: a thread for each job that runs, and answers for its handles.

A thread runs jobs one after another for as long as the schedule has one for it; what else may start
gets threads of its own. The last of them cleans up. So nothing waits for anything but its own command.
"""

from __future__ import annotations

import getpass
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType

from ..errors import NotFound, UsageError, WaitTimeout
from ..handles import Answering
from ..status import AttemptStatus, BatchStatus, FailureCounts, JobSpec, JobStatus, LogChunk, Reason
from ..units import BYTES_PER_CORE, reserved_mcpu
from . import explain
from .attempt import Attempt, Outcome, Surroundings
from .logs import Logs
from .schedule import Schedule

_log = logging.getLogger(__name__)

CONTAINERS = ("input", "main", "output")

_LOOK_S = 0.1
"""How often a handle that watches looks: the jobs shall not wake it each time."""
_CHUNK = 1 << 16


class _JobRecord:
    """What became of a job so far."""

    __slots__ = ("attempts", "ended_at", "exit_code", "n_attempts", "reason", "started_at")

    def __init__(self) -> None:
        self.n_attempts = 0
        self.attempts: list[AttemptStatus] = []
        self.exit_code: int | None = None
        self.reason = ""
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None


class LocalRun:
    """Implements `Answering` and `Connected` for the one batch that it runs."""

    endpoint = "local"

    def __init__(
        self,
        jobs: Sequence[JobSpec],
        attributes: Mapping[str, str],
        *,
        mcpu: int,
        around: Surroundings,
        logs: Logs,
        clean_up: Callable[[], None],
    ) -> None:
        """`clean_up` is called once, when every job is complete; it raises nothing."""
        self._jobs_specs = jobs
        self._attributes = MappingProxyType(dict(attributes))
        self._around = around
        self._logs = logs
        self._clean_up = clean_up
        self._lock = threading.Lock()
        self._schedule = Schedule(jobs, mcpu)
        self._records = [_JobRecord() for _ in jobs]
        self._running: dict[int, Attempt] = {}
        self._n_threads = 0
        self._version = 0
        """Grows with every change that a status shows."""
        self._over = threading.Event()
        self._user = _user()
        self._created_at = datetime.now(UTC)
        self._completed_at: datetime | None = None
        self._cancelled_at: datetime | None = None
        self._cancel_reason = ""
        self.first_failed: int | None = None
        """The job that was the first to end in Failure or Error."""

    @property
    def _calls(self) -> Answering:
        return self

    @property
    def batch_id(self) -> int:
        return self._around.batch_id

    def start(self) -> None:
        with self._lock:
            self._start_threads()

    def stop(self, reason: str) -> None:
        """End everything that runs, always_run or not, and start nothing more. `wait` for the end of it."""
        with self._lock:
            if not self._schedule.complete:
                self._note_cancel(reason)
                self._schedule.stop(self._why())
                self._around.stopped.ring()
                self._start_threads()

    def kill(self) -> None:
        """After `stop`: do not wait until what runs ends by itself."""
        with self._lock:
            if not self._schedule.complete:
                self._around.killed.ring()

    def wait(self) -> None:
        """Until every job is complete and everything is cleaned up."""
        self._over.wait()

    # --- running

    def _start_threads(self) -> None:
        """One for each job that may start now. With the lock held."""
        while (job_id := self._schedule.take()) is not None:
            self._start_thread(job_id)
        if not self._n_threads and self._schedule.complete and not self._over.is_set():
            self._finish()

    def _start_thread(self, job_id: int) -> None:
        self._n_threads += 1
        thread = threading.Thread(target=self._work, args=(job_id,), name=f"longshore job {job_id}")
        try:
            thread.start()
        except RuntimeError as error:  # The system has no more of them.
            self._n_threads -= 1
            self._end(job_id, Outcome("Error", None, str(error), 0, {}))

    def _work(self, first: int) -> None:
        job_id: int | None = first
        while job_id is not None:
            attempt = self._begin(job_id)
            outcome = self._perform(attempt)
            with self._lock:
                self._end(job_id, outcome, attempt)
                job_id = self._schedule.take()
                if job_id is None:
                    self._n_threads -= 1
                self._start_threads()

    def _begin(self, job_id: int) -> Attempt:
        record = self._records[job_id - 1]
        record.n_attempts += 1
        record.started_at = datetime.now(UTC)
        attempt = Attempt(self._jobs_specs[job_id - 1], job_id, record.n_attempts, self._around)
        for container in attempt.containers:
            self._logs.begin(attempt.id, container, attempt.log(container))
        with self._lock:
            self._running[job_id] = attempt
            self._version += 1
        return attempt

    def _perform(self, attempt: Attempt) -> Outcome:
        try:
            outcome = attempt.run()
        except Exception as error:
            outcome = Outcome("Error", None, f"this machine could not run it: {error}", 0, {})
        try:
            for container in attempt.containers:
                with suppress(OSError):  # A disk that is full costs the log, not the job.
                    self._logs.end(attempt.id, container, show=container == "main")
            if not self._around.keep_scratch:
                with suppress(OSError):  # Told by `clean_up`, which meets it too.
                    attempt.remove()
        except Exception:  # Whatever it is, nobody shall wait for ever for this job.
            _log.exception("after attempt %s", attempt.id)
        return outcome

    def _end(self, job_id: int, outcome: Outcome, attempt: Attempt | None = None) -> None:
        """With the lock held."""
        record = self._records[job_id - 1]
        state = self._schedule.ended(job_id, outcome.state)
        now = datetime.now(UTC)
        self._running.pop(job_id, None)
        if attempt is not None:
            record.attempts.append(self._attempt_status(attempt, outcome, record, now))
        if state != "Ready":
            record.exit_code, record.reason, record.ended_at = outcome.exit_code, outcome.reason, now
        if state in ("Failure", "Error") and self.first_failed is None:
            self.first_failed = job_id
        self._version += 1

    def _finish(self) -> None:
        self._completed_at = datetime.now(UTC)
        self._around.close()
        self._clean_up()
        self._version += 1
        self._over.set()

    def _attempt_status(
        self, attempt: Attempt, outcome: Outcome, record: _JobRecord, now: datetime
    ) -> AttemptStatus:
        assert record.started_at is not None
        reason = {"Error": "error", "Cancelled": "revoked"}.get(outcome.state, "completed")
        return AttemptStatus(
            id=attempt.id,
            number=attempt.number,
            worker_id=self.endpoint,
            state="ended",
            reason=reason,
            message=outcome.reason,
            assigned_at=record.started_at,
            started_at=record.started_at,
            ended_at=now,
            main_ms=outcome.main_ms,
            reserved_mcpu=attempt.mcpu,
            cost_nanousd=0,
            containers=outcome.containers,
        )

    def _note_cancel(self, reason: str) -> None:
        if self._cancelled_at is None:
            self._cancelled_at = datetime.now(UTC)
            self._cancel_reason = reason

    def _why(self) -> str:
        return f"batch cancelled by {self._user}"

    # --- answering

    async def batch_status(self, batch_id: int) -> BatchStatus:
        with self._lock:
            n = self._schedule.counts
            n_failed = n["Failure"] + n["Error"]
            return BatchStatus(
                id=batch_id,
                billing_project="",
                user=self._user,
                state=self._schedule.batch_state(),
                complete=self._over.is_set(),
                closed=True,
                n_jobs=len(self._records),
                n_pending=n["Pending"],
                n_ready=n["Ready"],
                n_running=n["Running"],
                n_completed=n["Success"] + n_failed + n["Cancelled"],
                n_succeeded=n["Success"],
                n_failed=n_failed,
                n_cancelled=n["Cancelled"],
                attributes=self._attributes,
                msec_mcpu=sum(a.main_ms * a.reserved_mcpu for r in self._records for a in r.attempts)
                if self._over.is_set()
                else 0,
                cost_nanousd=0,
                created_at=self._created_at,
                closed_at=self._created_at,
                completed_at=self._completed_at,
                cancelled_at=self._cancelled_at,
                cancelled_by=self._user if self._cancelled_at else "",
                cancel_reason=self._cancel_reason,
            )

    async def watch_batch(self, batch_id: int, timeout: float | None) -> AsyncGenerator[BatchStatus, None]:
        end = None if timeout is None else time.monotonic() + timeout
        seen = -1
        while True:
            version = self._version
            status = await self.batch_status(batch_id)
            if version != seen or status.complete:
                seen = version
                yield status
            if status.complete:
                return
            self._rest(end, timeout)

    async def watch_job(
        self, batch_id: int, job_id: int, timeout: float | None
    ) -> AsyncGenerator[JobStatus, None]:
        end = None if timeout is None else time.monotonic() + timeout
        seen = None
        while True:
            status = await self.job_status(batch_id, job_id)
            if status != seen:
                seen = status
                yield status
            if status.complete:
                return
            self._rest(end, timeout)

    def _rest(self, end: float | None, timeout: float | None) -> None:
        """Until it is time to look again, or all is over. Raises WaitTimeout."""
        left_s = _LOOK_S if end is None else end - time.monotonic()
        if left_s <= 0:
            raise WaitTimeout(f"not complete after {timeout:g} s")
        self._over.wait(min(_LOOK_S, left_s))

    async def cancel(self, batch_id: int, reason: str | None) -> None:
        with self._lock:
            if not self._schedule.complete:
                self._note_cancel(reason or "")
                self._schedule.cancel(self._why())
                self._around.cancelled.ring()
                self._version += 1
                self._start_threads()

    async def delete(self, batch_id: int) -> None:
        raise UsageError(
            "a batch that runs on this machine is not kept anywhere, so it cannot be deleted",
            hint="cancel() ends it",
        )

    async def undelete(self, batch_id: int) -> None:
        raise UsageError("a batch that runs on this machine is not kept anywhere, so it cannot be undeleted")

    async def end_attempt(self, batch_id: int, job_id: int, attempt_id: str, reason: str | None) -> None:
        raise UsageError("an attempt on this machine cannot be ended alone", hint="cancel() ends the batch")

    async def jobs(
        self, batch_id: int, query: str | None, states: Iterable[str]
    ) -> AsyncGenerator[JobStatus, None]:
        if query:
            raise UsageError(
                f"jobs({query!r}): only a service can search",
                hint="use states=, e.g. jobs(states=['Failure', 'Error'])",
            )
        wanted = frozenset(states)
        for job_id in range(1, len(self._records) + 1):
            if not wanted or self._schedule.state(job_id) in wanted:
                yield self._status(batch_id, job_id, whole=False)

    async def failure_counts(self, batch_id: int) -> FailureCounts | None:
        return None

    async def job_status(self, batch_id: int, job_id: int) -> JobStatus:
        self._check_job(batch_id, job_id)
        return self._status(batch_id, job_id, whole=True)

    async def explain(self, batch_id: int, job_id: int) -> tuple[Reason, ...]:
        if not job_id:
            return explain.of_batch(await self.batch_status(batch_id))
        self._check_job(batch_id, job_id)
        parents = self._jobs_specs[job_id - 1].parents
        of_them = [self._status(batch_id, p, whole=False) for p in parents]
        return (explain.of_job(self._status(batch_id, job_id, whole=False), of_them),)

    def _status(self, batch_id: int, job_id: int, *, whole: bool) -> JobStatus:
        with self._lock:
            record, spec = self._records[job_id - 1], self._jobs_specs[job_id - 1]
            mcpu = reserved_mcpu(spec.cpu_mcpu, spec.memory_bytes)
            duration_ms = sum(attempt.main_ms for attempt in record.attempts)
            return JobStatus(
                batch_id=batch_id,
                job_id=job_id,
                name=spec.name,
                state=self._schedule.state(job_id),
                reason=self._schedule.reason(job_id) or record.reason,
                exit_code=record.exit_code,
                duration_ms=duration_ms,
                msec_mcpu=duration_ms * mcpu,
                cost_nanousd=0,
                n_attempts=record.n_attempts,
                reserved_mcpu=mcpu,
                reserved_memory_bytes=BYTES_PER_CORE * mcpu // 1000,
                attributes=MappingProxyType(dict(sorted(spec.attributes.items()))),
                always_run=spec.always_run,
                started_at=record.started_at,
                ended_at=record.ended_at,
                spec=spec if whole else None,
                attempts=tuple(record.attempts) if whole else (),
            )

    async def log_chunks(
        self,
        batch_id: int,
        job_id: int,
        container: str,
        attempt_id: str,
        *,
        offset: int,
        limit: int | None,
        tail_bytes: int,
        follow: bool,
        timeout: float | None,
    ) -> AsyncGenerator[LogChunk, None]:
        if container not in CONTAINERS:
            raise UsageError(f"container {container!r} is not one of {', '.join(CONTAINERS)}")
        self._check_job(batch_id, job_id)
        end = None if timeout is None else time.monotonic() + timeout
        while not (id := attempt_id or self._latest_attempt(job_id)) and follow and not self._is_over(job_id):
            self._rest(end, timeout)
        if tail_bytes:
            offset = max(offset, self._logs.size(id, container) - tail_bytes)
        left = limit
        while left != 0:
            live = self._logs.is_live(id, container)
            data = self._logs.read(id, container, offset, _CHUNK if left is None else min(_CHUNK, left))
            if data:
                yield LogChunk(offset, data)
                offset += len(data)
                left = None if left is None else left - len(data)
            elif live and follow:
                self._rest(end, timeout)
            else:
                yield LogChunk(offset, b"", end=True)
                return

    async def find_in_log(
        self,
        batch_id: int,
        job_id: int,
        container: str,
        attempt_id: str,
        text: str,
        *,
        offset: int,
        backward: bool,
    ) -> int | None:
        if container not in CONTAINERS:
            raise UsageError(f"container {container!r} is not one of {', '.join(CONTAINERS)}")
        self._check_job(batch_id, job_id)
        attempt = attempt_id or self._latest_attempt(job_id)
        return self._logs.find(attempt, container, text.encode(), offset, backward=backward)

    def _latest_attempt(self, job_id: int) -> str:
        """``''`` if there was none yet."""
        with self._lock:
            if (attempt := self._running.get(job_id)) is not None:
                return attempt.id
            attempts = self._records[job_id - 1].attempts
            return attempts[-1].id if attempts else ""

    def _is_over(self, job_id: int) -> bool:
        return self._schedule.state(job_id) not in ("Pending", "Ready", "Running")

    def _check_job(self, batch_id: int, job_id: int) -> None:
        if job_id > len(self._records):
            raise NotFound(f"batch {batch_id} has no job {job_id}")


def _user() -> str:
    """Who runs this program; the number of one that has no name here."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
