"""How far a batch is, told to people while they wait: one policy for terminals, pipes and notebooks.

============  ==========================================================================
``auto``      what fits, of the following three
``tty``       bars on stderr that are gone in the end; needs rich
``plain``     lines on stderr: at the start, at each tenth or minute, at the end
``notebook``  one display that changes: tqdm's with ipywidgets, else a line of HTML
False         nothing
============  ==========================================================================

All but the last tell of the first job that failed in a way that no other did before.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from .errors import BatchError, UsageError, WaitTimeout
from .status import BatchStatus
from .terminal import one_line
from .units import dollars

if TYPE_CHECKING:
    from .handles import Batch

ProgressKind = str | Literal[False]
_KINDS: tuple[ProgressKind, ...] = ("auto", "tty", "plain", "notebook", False)

_EVERY_S = 60.0
_REDRAW_S = 0.25
_BAR_CELLS = 20
_FIRST_LOOK_S, _LOOK_S = 5.0, 60.0
"""After so long somebody looks why nothing runs, if nothing does; and then again and again."""
_IN_A_MOMENT = frozenset({"PLACING", "DUE", "RUNNING", "PREPARING"})
"""Reasons of which one will hear anyhow."""
_RELIABLE_S = 10.0
"""Before that nobody knows how long it will take."""


class Progress(Protocol):
    """Used with ``with``; told what is known, shows it as it likes."""

    def submitted(self, n: int, of: int) -> None: ...
    def changed(self, status: BatchStatus) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class TalkingProgress(Progress, Protocol):
    """Besides, it can be told what to say."""

    def say(self, line: str) -> None:
        """Show a line that stays."""


def choose_progress(disable: bool = False, kind: ProgressKind = "auto") -> TalkingProgress:
    """What shows progress here; nothing when `disable` is set, whatever `kind` says.

    Raises UsageError for a kind that is none or cannot be had.
    """
    if kind not in _KINDS:
        raise UsageError(f"progress={kind!r} is not one of {', '.join(map(repr, _KINDS))}")
    if disable or kind is False:
        return _Silent()
    if kind == "auto":
        kind = "notebook" if in_notebook() else "tty" if sys.stderr.isatty() and _has("rich") else "plain"
    if kind == "notebook":
        return _Tqdm() if _has("tqdm") and _has("ipywidgets") else _Html()
    if kind == "plain":
        return _Lines()
    if not _has("rich"):
        raise UsageError("progress='tty' needs rich", hint="pip install 'longshore[tui]'")
    return _Bars()


def follow(batch: Batch, progress: TalkingProgress, timeout: float | None = None) -> BatchStatus:
    """Wait until the batch is complete, and let `progress` show it; its last status.

    Raises WaitTimeout after `timeout` seconds.
    """
    from .failures import FirstFailures

    if isinstance(progress, _Silent):
        for status in batch.watch(timeout):
            progress.changed(status)
        return status
    firsts = FirstFailures(batch)
    for status in watch_and_say(batch, progress.say, timeout):
        if not status.complete:  # What failed is told in the end, too, and better.
            for line in firsts.news(status):
                progress.say(line)
        progress.changed(status)
    return status


def watch_and_say(
    batch: Batch, say: Callable[[str], object], timeout: float | None = None
) -> Iterator[BatchStatus]:
    """`Batch.watch`, and each reason why nothing of it runs, when nothing does for a while."""
    waits = _Waits(batch)
    end = None if timeout is None else time.monotonic() + timeout
    look_s = _FIRST_LOOK_S
    while True:
        left = None if end is None else max(0.001, end - time.monotonic())
        try:
            yield from batch.watch(look_s if left is None else min(look_s, left))
            return
        except WaitTimeout:
            if end is not None and time.monotonic() >= end:
                raise WaitTimeout(f"not complete after {timeout:g} s") from None
        for line in waits.news():
            say(line)
        look_s = _LOOK_S


class _Waits:
    """Tells why nothing of a batch runs, once for each reason."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._told: set[str] = set()

    def news(self) -> list[str]:
        """Asks only if nothing runs, as far as was seen."""
        seen = self._batch.last_status
        if seen is None or seen.complete or seen.n_running or not seen.n_ready:
            return []
        try:
            first = self._batch.why()[0]
        except BatchError:
            return []  # It is not the answer that one waits for.
        if first.code in self._told or first.code in _IN_A_MOMENT:
            return []
        self._told.add(first.code)
        text, fix = one_line(first.text), one_line(first.fix)
        return [f"nothing runs: {text}" + (f" ({fix})" if fix else "")]


@contextmanager
def detaching(batch: Batch) -> Iterator[None]:
    """Ctrl-C ends the waiting, and nothing else; that is said."""
    try:
        yield
    except KeyboardInterrupt:
        print(detached(batch), file=sys.stderr, flush=True)
        # Where in gRPC it was waiting is nobody's business.
        raise KeyboardInterrupt from None


def detached(batch: Batch) -> str:
    """What is said when Ctrl-C ends the waiting, and nothing else."""
    seen = batch.last_status
    so_far = f", {_cost(seen)}" if seen else ""
    return (
        f"\ndetached from #{batch.id} (still running{so_far}). "
        f"reattach: longshore wait {batch.id} · cancel: longshore cancel {batch.id}"
    )


def in_notebook() -> bool:
    """This is a cell of a notebook: IPython with a kernel."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


# What is shown.


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


def number_of_jobs(n: int) -> str:
    """
    >>> number_of_jobs(1), number_of_jobs(1000)
    ('1 job', '1,000 jobs')
    """
    return f"{n:,} job{'' if n == 1 else 's'}"


def cells(status: BatchStatus, width: int) -> dict[str, int]:
    """How many of a bar's cells are of jobs that succeeded, failed, were cancelled, run and wait.

    What there is has a cell at least, however little of it there is.
    """
    shares = {
        "succeeded": status.n_succeeded,
        "failed": status.n_failed,
        "cancelled": status.n_cancelled,
        "running": status.n_running,
    }
    total = max(1, status.n_jobs)
    bar = {what: max(1, width * n // total) if n else 0 for what, n in shares.items()}
    while sum(bar.values()) > width:
        bar[max(bar, key=lambda what: bar[what])] -= 1
    bar["waiting"] = width - sum(bar.values())
    if status.complete and bar["waiting"]:  # What was rounded away.
        bar[max(shares, key=lambda what: shares[what])] += bar.pop("waiting")
    return bar


def time_left(status: BatchStatus, elapsed_s: float) -> str:
    """A guess by what was done so far, e.g. ``~1h20m``; ``''`` while any would be idle."""
    if status.complete or elapsed_s < _RELIABLE_S or status.n_completed < max(3, status.n_jobs // 50):
        return ""
    seconds = round(elapsed_s * (status.n_jobs - status.n_completed) / status.n_completed)
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"~{hours}h{minutes % 60:02}m"
    return f"~{minutes}m" if minutes else f"~{seconds}s"


def _and_cost(status: BatchStatus) -> str:
    """Nothing for a run on this machine, for which nobody pays."""
    return f"  {_cost(status)}" if status.billing_project else ""


def _cost(status: BatchStatus) -> str:
    return dollars(status.cost, so_far=not status.complete)


def _line(status: BatchStatus) -> str:
    end = f"  complete, {status.state}" if status.complete else ""
    return f"batch {status.id}: {in_words(status)}{end}"


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class _Silent:
    def submitted(self, n: int, of: int) -> None:
        pass

    def changed(self, status: BatchStatus) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class _Telling:
    """Says lines on stderr; knows since when it has looked at a batch."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def submitted(self, n: int, of: int) -> None:
        pass

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def _left(self, status: BatchStatus) -> str:
        return time_left(status, time.monotonic() - self._began)


class _Lines(_Telling):
    """A line at each tenth, after a minute of changes, and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._sent = self._done = -1
        self._said_at = 0.0

    def submitted(self, n: int, of: int) -> None:
        tenth = 10 * n // max(1, of)
        if 0 < n < of and tenth > self._sent:
            self._sent = tenth
            self.say(f"{n:,} of {number_of_jobs(of)} submitted")

    def changed(self, status: BatchStatus) -> None:
        tenth = 10 * status.n_completed // max(1, status.n_jobs)
        now = time.monotonic()
        if tenth > self._done or now - self._said_at >= _EVERY_S or status.complete:
            self._done, self._said_at = tenth, now
            self.say(_line(status))


class _Bars(_Telling):
    """One bar for submitting, one for the batch; gone in the end, which is told in a line."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import Progress as RichProgress
        from rich.progress import SpinnerColumn, TextColumn

        self._console = Console(stderr=True)
        self._bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[bar]}"),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[counts]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False, style="dim"),
            console=self._console,
            transient=True,
        )
        self._task = self._bars.add_task("submit", total=None, bar="", counts="", left="", visible=False)

    def submitted(self, n: int, of: int) -> None:
        full = _BAR_CELLS * n // max(1, of)
        bar = f"[cyan]{'█' * full}[/][dim]{'░' * (_BAR_CELLS - full)}[/]"
        rate = n / max(0.001, time.monotonic() - self._began)
        left = f"{rate:,.0f} jobs/s" if n else ""
        self._bars.update(
            self._task,
            visible=True,
            completed=n,
            total=of,
            bar=bar,
            counts=f"{n:,}/{of:,} jobs",
            left=left,
            refresh=True,
        )

    def changed(self, status: BatchStatus) -> None:
        looks = {
            "succeeded": ("█", "green"),
            "failed": ("▓", "red"),
            "cancelled": ("▒", "yellow"),
            "running": ("▒", "cyan"),
            "waiting": ("░", "dim"),
        }
        bar = "".join(
            f"[{looks[what][1]}]{looks[what][0] * n}[/]" for what, n in cells(status, _BAR_CELLS).items() if n
        )
        look = f"longshore ui {status.id}" if status.billing_project else ""
        self._bars.update(
            self._task,
            description=f"#{status.id}",
            visible=True,
            completed=status.n_completed if status.n_jobs else 1,
            total=status.n_jobs or 1,
            bar=bar,
            counts=counts(status),
            left=f"{self._left(status)}  {look}".strip(),
            refresh=True,
        )
        if status.complete:
            self._bars.update(self._task, visible=False, refresh=True)
            self.say(_line(status))

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()


class _Tqdm(_Telling):
    """tqdm's bar for notebooks: one for submitting, which goes, and one for the batch, which stays."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None

    def submitted(self, n: int, of: int) -> None:
        self._show("submit", n, of, "", leave=False)

    def changed(self, status: BatchStatus) -> None:
        what = f"#{status.id} {status.state}"
        self._show(what, status.n_completed, status.n_jobs, counts(status), leave=True)

    def say(self, line: str) -> None:
        self._bar.write(line)

    def _show(self, what: str, n: int, of: int, text: str, *, leave: bool) -> None:
        from tqdm.auto import tqdm

        if self._bar is None:
            self._bar = tqdm(total=of, unit="job", leave=leave)
        self._bar.n = n
        self._bar.set_description_str(what, refresh=False)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.refresh()

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()


class _Html(_Telling):
    """A line of HTML in a notebook, in place of the one before; lines that stay come above it."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: Any = None
        self._shown_at = 0.0
        self._said: list[str] = []

    def submitted(self, n: int, of: int) -> None:
        self._show(f"{n:,} of {number_of_jobs(of)} submitted", last=n == of)

    def changed(self, status: BatchStatus) -> None:
        from .html import batch_line

        self._show(batch_line(status, self._left(status)), last=status.complete)

    def say(self, line: str) -> None:
        from html import escape

        self._said.append(escape(line))

    def _show(self, line: str, *, last: bool) -> None:
        from IPython.display import HTML, display

        now = time.monotonic()
        if not last and now - self._shown_at < _REDRAW_S:
            return
        self._shown_at = now
        html = HTML("<br>".join((*self._said, line)))
        if self._shown is None:
            self._shown = display(html, display_id=True)
        else:
            self._shown.update(html)
