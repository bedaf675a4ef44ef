"""PURE. What the end of an attempt means for its job: next state, exit code, reason."""

from __future__ import annotations

from dataclasses import dataclass

from longshore_controller.core.model import (
    ContainerName,
    ContainerRecord,
    EndReason,
    ErrorKind,
    JobState,
    Retries,
)


@dataclass(slots=True)
class Tries:
    """What became of a job's attempts so far; kept from its first attempt until it is complete."""

    n_attempts: int = 0
    n_preempted: int = 0
    n_lost: int = 0
    """Lost or refused: nobody's fault but ours."""
    n_failed: int = 0
    """The user's own failures, tried again because the job asks for it."""
    duration_ms: int = 0
    msec_mcpu: int = 0
    cost_nanousd: int = 0
    started_at_ms: int | None = None
    """When its latest attempt was assigned."""

    def count(self, reason: EndReason, job_state: JobState) -> None:
        """One more attempt has ended, for this reason, with that verdict."""
        if reason is EndReason.PREEMPTED:
            self.n_preempted += 1
        elif reason in (EndReason.LOST, EndReason.REFUSED):
            self.n_lost += 1
        elif reason is not EndReason.REVOKED and job_state is not JobState.SUCCESS:
            self.n_failed += 1


@dataclass(frozen=True, slots=True)
class Verdict:
    state: JobState
    exit_code: int | None = None
    reason: str = ""


def exit_code(containers: tuple[ContainerRecord, ...]) -> int | None:
    """Of the first container that did not exit 0, else 0; None if none ever ran (SPEC S9)."""
    codes = [c.exit_code for c in sorted(containers, key=lambda c: c.container) if c.exit_code is not None]
    return next((code for code in codes if code), 0) if codes else None


def verdict(
    reason: EndReason,
    message: str,
    containers: tuple[ContainerRecord, ...],
    tries: Tries,
    *,
    retries: Retries,
    cancelled: bool,
) -> Verdict:
    """The job's next state; READY means: try again. ``tries`` are those before this end.

    ``cancelled``: the batch is cancelled and the job is not always_run.
    """
    if reason is EndReason.COMPLETED or reason is EndReason.ERROR:
        mine = _of_the_user(reason, message, containers)
        if mine.state is JobState.SUCCESS or tries.n_failed >= retries.own or cancelled:
            return mine
        return Verdict(JobState.READY)
    if cancelled:
        return Verdict(JobState.CANCELLED, reason="batch cancelled")
    if reason is EndReason.PREEMPTED and tries.n_preempted + 1 >= retries.max_preempted:
        return Verdict(JobState.ERROR, None, f"preempted {_times(tries.n_preempted + 1)}")
    if reason in (EndReason.LOST, EndReason.REFUSED) and tries.n_lost + 1 >= retries.max_lost:
        return Verdict(JobState.ERROR, None, f"lost or refused {_times(tries.n_lost + 1)}, last: {message}")
    return Verdict(JobState.READY)


def _times(n: int) -> str:
    return f"{n} time{'s' * (n > 1)}"


def _of_the_user(reason: EndReason, message: str, containers: tuple[ContainerRecord, ...]) -> Verdict:
    code = exit_code(containers)
    if reason is EndReason.ERROR:
        wrong = next((c for c in containers if c.error_kind is not ErrorKind.NONE), None)
        return Verdict(JobState.ERROR, code, (wrong.error if wrong else "") or message)
    if code == 0:
        return Verdict(JobState.SUCCESS, 0)
    wrong = next(c for c in sorted(containers, key=lambda c: c.container) if c.exit_code)
    if wrong.container is ContainerName.MAIN:
        return Verdict(JobState.FAILURE, code)
    files = "input" if wrong.container is ContainerName.INPUT else "output"
    return Verdict(JobState.ERROR, code, wrong.error or f"{files} files could not be moved")
