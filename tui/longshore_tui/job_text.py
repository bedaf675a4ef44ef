"""How a job reads: in one line, its containers as tabs, its attempts, its spec, why it has no log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from . import format
from .model import CONTAINERS, Step, attempt_of, steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longshore.status import AttemptStatus, JobStatus

TABS = (*CONTAINERS, "attempts", "spec")


def tabs_of(job: JobStatus, number: int | None) -> list[str]:
    """Those that have something to show; `number` as in `attempt_of`."""
    tabs = [step.name for step in steps(job, number) if step.state]
    return [*tabs, *(["attempts"] if job.attempts else []), *(["spec"] if job.spec else [])]


def summary(job: JobStatus, number: int | None) -> Text:
    """How it is, and below it what went wrong."""
    text = Text.assemble(format.state(job.state))
    attempt = attempt_of(job, number)
    parts = []
    if job.exit_code is not None:
        parts.append(f"exit {job.exit_code}")
    if attempt:
        many = len(job.attempts) > 1
        parts.append(f"attempt {attempt.number}{f' of {len(job.attempts)}' if many else ''}")
    if job.duration_ms or job.complete:
        parts.append(f"ran {format.duration(job.duration_ms)}")
    parts.append(format.money(job.cost_nanousd, so_far=not job.complete))
    if job.reserved_mcpu:
        parts.append(format.cores(job.reserved_mcpu))
    if job.reserved_memory_bytes:
        parts.append(format.size(job.reserved_memory_bytes))
    if attempt and attempt.worker_id:
        parts.append(f"worker {format.one_line(attempt.worker_id, 40)}")
    text.append("  " + " · ".join(parts))
    for reason in reasons(job, number)[:3]:
        text.append(f"\n{reason}", format.WARNING)
    return text


def reasons(job: JobStatus, number: int | None) -> list[str]:
    """Why it is in its state, each a line."""
    attempt = attempt_of(job, number)
    errors = [step.error for step in steps(job, number) if step.error]
    if attempt and attempt.reason not in ("", "completed"):
        errors.insert(0, attempt.message or attempt.reason)
    return list(dict.fromkeys(format.one_line(each) for each in (job.reason, *errors) if each))


def preview(job: JobStatus, width: int, now: float) -> Text:
    """How it is and how it went, in lines of at most `width` cells but for reasons."""
    text = Text.assemble(format.state(job.state))
    if job.exit_code is not None:
        text.append(f"  exit {job.exit_code}")
    text.append(f"  {format.money(job.cost_nanousd, so_far=not job.complete)}\n" if job.n_attempts else "\n")
    for reason in reasons(job, None)[:3]:
        text.append(f"{reason}\n", format.WARNING)
    for attempt in job.attempts[-3:-1]:
        text.append(f"attempt {attempt.number}: {attempt.reason} after {format.duration(attempt.main_ms)}\n")
    if job.attempts:
        text.append(f"attempt {job.attempts[-1].number}\n")
        _say_course(text, steps(job), width, now)
    return text


def _say_course(text: Text, containers: Sequence[Step], width: int, now: float) -> None:
    """Each container on a line, with when it ran of the whole time as a bar."""
    there = [step for step in containers if step.state]
    times = [
        step.ran_ms if step.ran_ms is not None else 1000 * max(0.0, now - (step.started_s or now))
        for step in there
    ]
    room = max(4, width - 23)
    whole = sum(times) or 1.0
    before = 0.0
    for step, ms in zip(there, times, strict=True):
        symbol, look = format.symbol(step.state)
        text.append(f"{step.name:7}")
        text.append(f"{symbol} ", look)
        begin = min(room - 1, int(room * before / whole))
        n = max(1, round(room * (before + ms) / whole) - begin) if ms else 0
        text.append(f"{' ' * begin}{'█' * n}".ljust(room), look)
        text.append(f" {format.duration(ms)}\n" if ms else "\n")
        before += ms


def tabs(job: JobStatus, number: int | None, in_front: str, now: float) -> Text:
    """The tabs, with how it stands with each container; `now` in seconds since 1970."""
    text = Text(no_wrap=True, overflow="ellipsis")
    found = {step.name: step for step in steps(job, number)}
    for place, name in enumerate(TABS, start=1):
        if name not in tabs_of(job, number):
            continue
        text.append(f" {place} {name.title()} ", "reverse" if name == in_front else "")
        if name == "attempts":
            text.append(f" {len(job.attempts)}")
        if name in found:
            _say_step(text, found[name], now)
        text.append("  ")
    return text


def attempts(job: JobStatus) -> Text:
    """All of them, the latest first."""
    text = Text()
    for attempt in reversed(job.attempts):
        _say_attempt(text, attempt, job)
    return text


def spec(job: JobStatus) -> Text:
    """What was asked, as in YAML."""
    return Text("\n".join(format.document(dict(job.spec or {}))))


def without_log(job: JobStatus, number: int | None, container: str, state: str, is_empty: bool) -> str:
    """Why no log of a container is shown, '' when one is; `state` as in `LogPane.state`."""
    step = next((step for step in steps(job, number) if step.name == container), None)
    if not job.attempts:
        return {
            "Pending": "The job has not started: it waits for the jobs it depends on.",
            "Ready": "The job has not started: it waits for a worker.",
            "Cancelled": "The job was cancelled before it started.",
        }.get(job.state, "The job has no attempt.")
    if state not in ("", "late", "ended"):
        return format.one_line(state)
    if step is None or not is_empty:
        return ""
    if step.state == "cancelled":
        return f"{step.name} did not run."
    if step.state == "pending":
        return f"{step.name} has not started yet."
    if state == "":
        return f"{step.name} has written nothing so far."
    if state == "late":
        return f"The worker has not delivered the log of {step.name} yet."
    return f"{step.name} wrote nothing."


def _say_step(text: Text, step: Step, now: float) -> None:
    symbol, look = format.symbol(step.state)
    text.append(f" {symbol}", look)
    if step.exit_code:
        text.append(f" exit {step.exit_code}", look)
    if step.ran_ms is not None:
        text.append(f" {format.duration(step.ran_ms)}")
    elif step.started_s is not None:
        text.append(f" {format.elapsed(now - step.started_s)}")


def _say_attempt(text: Text, attempt: AttemptStatus, job: JobStatus) -> None:
    so_far = attempt.state != "ended"
    text.append(f"attempt {attempt.number}", "bold")
    text.append(f"  {attempt.state}")
    if attempt.reason:
        text.append(f", {attempt.reason}")
    text.append(f"   {format.money(attempt.cost_nanousd, so_far=so_far)}\n")
    if said := attempt.revoked or attempt.message:
        text.append(f"  {format.one_line(said)}\n", format.WARNING)
    text.append(f"  worker {format.one_line(attempt.worker_id, 60)}")
    text.append(f"   assigned {attempt.assigned_at.astimezone():%Y-%m-%d %H:%M:%S}")
    if attempt.main_ms or not so_far:
        text.append(f"   main ran {format.duration(attempt.main_ms)}")
    text.append("\n")
    for step in steps(job, attempt.number):
        if not step.state:
            continue
        text.append(f"  {step.name:8}")
        text.append(*format.state(step.state))
        if step.exit_code is not None:
            text.append(f"  exit {step.exit_code}")
        if step.pulled_ms is not None:
            text.append(f"  image fetched in {format.duration(step.pulled_ms)}", format.DIM)
        if step.ran_ms is not None:
            text.append(f"  ran {format.duration(step.ran_ms)}")
        if step.error:
            text.append(f"  {format.one_line(step.error)}", format.WARNING)
        text.append("\n")
    text.append("\n")
