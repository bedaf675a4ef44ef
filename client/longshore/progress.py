"""How far a batch is, on stderr: bars where rich is installed and somebody looks, else plain lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from .status import BatchStatus
from .units import dollars

if TYPE_CHECKING:
    from .handles import Batch

_EVERY_S = 60.0


class Progress(Protocol):
    """Used with ``with``; told what is known, shows it as it likes."""

    def submitted(self, n: int, of: int) -> None: ...
    def changed(self, status: BatchStatus) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def choose_progress(disable: bool) -> Progress:
    """Silent when disabled; bars when stderr is a terminal and rich is there; lines otherwise."""
    if disable:
        return _Silent()
    if sys.stderr.isatty():
        try:
            return _Bars()
        except ImportError:
            pass
    return _Lines()


def counts(status: BatchStatus) -> str:
    """``✓ 3 ✗ 1 ▶ 2 · 4  ≥$0.0012``: succeeded, failed, running, waiting, cost so far."""
    parts = [f"✓ {status.n_succeeded:,}"]
    if status.n_failed:
        parts.append(f"✗ {status.n_failed:,}")
    if status.n_cancelled:
        parts.append(f"⊘ {status.n_cancelled:,}")
    if status.n_running:
        parts.append(f"▶ {status.n_running:,}")
    if waiting := status.n_pending + status.n_ready:
        parts.append(f"· {waiting:,}")
    return f"{' '.join(parts)}{_and_cost(status)}"


def in_words(status: BatchStatus) -> str:
    """``2 of 5 jobs done, 1 failed, 2 running, 1 waiting  ≥$0.0012``."""
    parts = [f"{status.n_completed:,} of {number_of_jobs(status.n_jobs)} done"]
    for n, what in (
        (status.n_failed, "failed"),
        (status.n_cancelled, "cancelled"),
        (status.n_running, "running"),
        (status.n_pending + status.n_ready, "waiting"),
    ):
        if n:
            parts.append(f"{n:,} {what}")
    return f"{', '.join(parts)}{_and_cost(status)}"


def detached(batch: Batch) -> str:
    """What is said when Ctrl-C ends the waiting, and nothing else."""
    seen = batch.last_status
    so_far = f", {_cost(seen)}" if seen else ""
    return (
        f"\ndetached from #{batch.id} (still running{so_far}). "
        f"reattach: longshore wait {batch.id} · cancel: longshore cancel {batch.id}"
    )


def number_of_jobs(n: int) -> str:
    """
    >>> number_of_jobs(1), number_of_jobs(1000)
    ('1 job', '1,000 jobs')
    """
    return f"{n:,} job{'' if n == 1 else 's'}"


def _and_cost(status: BatchStatus) -> str:
    """Nothing for a run on this machine, for which nobody pays."""
    return f"  {_cost(status)}" if status.billing_project else ""


def _cost(status: BatchStatus) -> str:
    return dollars(status.cost, so_far=not status.complete)


class _Silent:
    def submitted(self, n: int, of: int) -> None:
        pass

    def changed(self, status: BatchStatus) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class _Lines(_Silent):
    """A line at each tenth, at the first failure, after a minute of changes, and at the end."""

    def __init__(self) -> None:
        self._tenth = -1
        self._failed = False
        self._said_at = 0.0

    def changed(self, status: BatchStatus) -> None:
        tenth = 10 * status.n_completed // max(1, status.n_jobs)
        now = time.monotonic()
        first_failure = bool(status.n_failed) and not self._failed
        if tenth > self._tenth or first_failure or now - self._said_at >= _EVERY_S or status.complete:
            self._tenth, self._failed, self._said_at = tenth, bool(status.n_failed), now
            end = f"  complete, {status.state}" if status.complete else ""
            print(f"batch {status.id}: {in_words(status)}{end}", file=sys.stderr, flush=True)


class _Bars(_Silent):
    """One bar for submitting, one for the batch; gone in the end but for the last."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bar = BarColumn(complete_style="cyan", finished_style="green", pulse_style="cyan")
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            self._bar,
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._submit = self._bars.add_task("submit", total=None, counts="", visible=False)
        self._batch = self._bars.add_task("", total=None, counts="", visible=False)

    def submitted(self, n: int, of: int) -> None:
        self._bars.update(self._submit, visible=n < of, completed=n, total=of, counts=f"{n:,}/{of:,} jobs")

    def changed(self, status: BatchStatus) -> None:
        if status.n_failed:
            self._bar.complete_style = self._bar.finished_style = "red"
        self._bars.update(
            self._batch,
            description=f"#{status.id} {status.state}",
            visible=True,
            completed=status.n_completed if status.n_jobs else 1,
            total=status.n_jobs or 1,
            counts=counts(status),
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()
