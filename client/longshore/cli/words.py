"""How values read in tables: states with their symbols, money, durations, sizes, times.

On a terminal they are rounded and relative; elsewhere exact, as `Look` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from ..status import BatchStatus, JobStatus, Pause, RunningAttempt
from ..units import dollars
from .formats import rfc3339
from .output import Cell, Look

_STATES = {  # symbol, in ASCII, colour
    "open": ("…", "~", "yellow"),
    "pending": ("·", ".", "bright_black"),
    "ready": ("○", "o", "yellow"),
    "running": ("▶", ">", "cyan"),
    "success": ("✓", "+", "green"),
    "failure": ("✗", "x", "red"),
    "error": ("!", "!", "magenta"),
    "cancelled": ("⊘", "-", "bright_black"),
}
_UNKNOWN = ("?", "?", "bright_black")
"""Of a newer service."""


def state(word: str, look: Look, *, unfinished: bool = False) -> Cell:
    """The word, on a terminal with symbol and colour.

    `unfinished`: that a batch has this state while jobs of it still run.
    """
    symbol, in_ascii, colour = _STATES.get(word.lower(), _UNKNOWN)
    text = f"{word}, running" if unfinished and word != "running" else word
    if look.tty:
        text = f"{symbol if look.symbols else in_ascii} {text}"
    return Cell(text, colour)


def colour_of(word: str) -> str:
    return _STATES.get(word.lower(), _UNKNOWN)[2]


def batch_state(status: BatchStatus, look: Look) -> Cell:
    """A batch can be failure or cancelled while jobs still run: that is said too."""
    unfinished = status.state in ("failure", "cancelled") and not status.complete
    return state(status.state, look, unfinished=unfinished)


def money(usd: Decimal, look: Look, *, so_far: bool = False) -> str:
    """Dollars, rounded on a terminal, where it is also said that more will come (`so_far`).

    >>> money(Decimal('0.000006028'), Look()), money(Decimal('0.000006028'), Look(tty=True))
    ('$0.000006028', '$0.0000060')
    >>> money(Decimal('231.4012'), Look(tty=True), so_far=True)
    '≥$231.40'
    """
    if not look.tty:
        return f"{'' if look.bare else '$'}{usd:.9f}"
    text = dollars(usd, so_far=so_far)
    return text if look.symbols else text.replace("≥", ">=")


def duration(ms: int | None, look: Look) -> str:
    """
    >>> duration(754_321, Look(tty=True)), duration(754_321, Look()), duration(None, Look())
    ('12m34s', '754.321s', '')
    """
    if ms is None:
        return ""
    seconds = ms / 1000
    if not look.tty:
        return f"{seconds:.3f}{'' if look.bare else 's'}"
    if seconds < 1:
        return f"{ms}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02}h"
    return f"{hours}h{m:02}m" if hours else f"{m}m{s:02}s"


def job_duration(job: JobStatus, look: Look) -> str:
    """How long it ran; of one that runs, so far; nothing of one that never did."""
    if job.state == "Running" and job.started_at:
        return duration(max(0, int((look.now - job.started_at).total_seconds() * 1000)), look)
    ran = job.duration_ms or job.exit_code is not None
    return duration(job.duration_ms if ran else None, look)


def moment(at: datetime | None, look: Look) -> str:
    """How long ago, on a terminal; otherwise the time, in UTC."""
    if at is None:
        return ""
    if not look.tty:
        return rfc3339(at)
    seconds = int((look.now - at).total_seconds())
    if seconds < 1:
        return "now"
    return f"{seconds}s ago" if seconds < 60 else f"{duration(seconds * 1000, look)} ago"


def cores(mcpu: int) -> str:
    """
    >>> cores(1500), cores(1000)
    ('1.5 cores', '1 core')
    """
    return f"{number_of_cores(mcpu)} core{'' if mcpu == 1000 else 's'}"


def number_of_cores(mcpu: int) -> str:
    """
    >>> number_of_cores(1500), number_of_cores(1)
    ('1.5', '0.001')
    """
    return f"{Decimal(mcpu) / 1000:f}"


def size(n_bytes: int, look: Look) -> str:
    """
    >>> size(3_750_000_000, Look(tty=True)), size(3_750_000_000, Look())
    ('3.75 GB', '3750000000')
    """
    if not look.tty:
        return str(n_bytes)
    value = Decimal(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def count(n: int, look: Look) -> str:
    return f"{n:,}" if look.tty else str(n)


def pause(found: Pause | None, look: Look, title: str) -> Iterator[tuple[str, str]]:
    """Fields that say since when, by whom and why nothing starts; none if it does."""
    if found is not None:
        yield title, f"{moment(found.at, look)} by {found.by}"
        yield "reason", found.reason


def running(attempt: RunningAttempt, look: Look) -> str:
    """An attempt that has not ended, on a line."""
    since = moment(attempt.started_at or attempt.assigned_at, look)
    what = "started" if attempt.started_at else "assigned"
    where = f"on {attempt.worker_id}, {cores(attempt.mcpu)}"
    return f"{attempt.batch_id}/{attempt.job_id} of {attempt.user} {where}, {what} {since}"
