"""PURE. What the dashboard knows: views, the updates that tell about them, and what follows from both.

An update is told by the feed; everything here is a fold of updates. `now` is seconds since 1970.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from longshore.terminal import clean

if TYPE_CHECKING:
    from longshore.status import BatchStatus, Event, JobStatus, Page, Session

CONTAINERS = ("input", "main", "output")
FAILED = ("Failure", "Error")
PAGE = 100
"""Rows of a list that are read, and kept up to date, at a time."""

# What a screen can show. Each knows which events concern it.


@dataclass(frozen=True, slots=True)
class BatchesView:
    """A page of batches: those older than one, or the newest."""

    before: int | None = None

    def concerned_by(self, event: Event) -> bool:
        return bool(event.batch_id) and (self.before is None or event.batch_id < self.before)


@dataclass(frozen=True, slots=True)
class JobsView:
    """A batch and a page of its jobs."""

    batch_id: int
    after: int = 0
    only_failed: bool = False

    def concerned_by(self, event: Event) -> bool:
        # Any of its jobs moves the counters of the batch, which are shown too.
        return event.batch_id == self.batch_id


@dataclass(frozen=True, slots=True)
class JobView:
    """One job with its attempts."""

    batch_id: int
    job_id: int

    def concerned_by(self, event: Event) -> bool:
        return event.batch_id == self.batch_id and (
            not event.jobs or any(first <= self.job_id <= last for first, last in event.jobs)
        )


View = BatchesView | JobsView | JobView

# What the feed tells.


@dataclass(frozen=True, slots=True)
class Connected:
    """The service answers."""

    session: Session
    endpoint: str


@dataclass(frozen=True, slots=True)
class Heard:
    """The service is alive."""


@dataclass(frozen=True, slots=True)
class BatchesRead:
    page: Page[BatchStatus]


@dataclass(frozen=True, slots=True)
class JobsRead:
    batch: BatchStatus
    page: Page[JobStatus]


@dataclass(frozen=True, slots=True)
class JobRead:
    batch: BatchStatus
    job: JobStatus


@dataclass(frozen=True, slots=True)
class LogRead:
    """A piece of a log; `offset` is that of its first byte."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LogEnded:
    """Nothing follows; `incomplete`: but the worker may still deliver some."""

    incomplete: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The service does not answer; it is asked again in `retry_s` seconds."""

    error: str
    tries: int
    retry_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The service said no, and will not be asked again."""

    error: str
    hint: str


Update = Connected | Heard | BatchesRead | JobsRead | JobRead | LogRead | LogEnded | Lost | Refused

_STALE_S = 10.0


@dataclass(frozen=True, slots=True)
class Link:
    """What is known about the connection."""

    session: Session | None = None
    endpoint: str = ""
    heard_at: float | None = None
    lost: Lost | None = None
    lost_at: float = 0.0
    refused: Refused | None = None

    def after(self, update: Update, now: float) -> Link:
        if isinstance(update, Lost):
            return replace(self, lost=update, lost_at=now, refused=None)
        if isinstance(update, Refused):
            return replace(self, refused=update, lost=None)
        if isinstance(update, Connected):
            return Link(update.session, update.endpoint, heard_at=now)
        return Link(self.session, self.endpoint, heard_at=now)

    def state(self, now: float) -> tuple[str, str]:
        """``connecting``, ``live``, ``stale``, ``offline`` or ``refused``, and the same for people."""
        if self.refused:
            return "refused", "○ refused"
        if self.lost:
            wait_s = max(0.0, self.lost_at + self.lost.retry_s - now)
            return "offline", f"○ offline · try {self.lost.tries + 1} in {wait_s:.0f}s"
        if self.heard_at is None:
            return "connecting", "◐ connecting"
        silent_s = now - self.heard_at
        if silent_s > _STALE_S:
            return "stale", f"◐ stale {silent_s:.0f}s"
        return "live", "● live"


# Lists.


def place(keys: Sequence[int], key: int | None, index: int) -> int:
    """Where the cursor belongs in a list that was read again: at its row, else where that row was."""
    if key in keys:
        return keys.index(key)
    return max(0, min(index, len(keys) - 1))


# A job.


@dataclass(frozen=True, slots=True)
class Step:
    """A container of the latest attempt. `state`: a job's word, or ``''`` when there is no such container."""

    name: str
    state: str
    started_s: float | None = None
    """Seconds since 1970."""
    ran_ms: int | None = None
    exit_code: int | None = None
    error: str = ""


def steps(job: JobStatus) -> tuple[Step, ...]:
    """The three containers of a job as far as they are known.

    Their records come when the attempt ends; until then follows from its state which of them runs.
    """
    attempt = job.attempts[-1] if job.attempts else None
    spec = job.spec
    has = {
        "input": spec is None or bool(spec.input_files),
        "main": True,
        "output": spec is None or bool(spec.output_files),
    }
    if attempt is None or attempt.state == "ended":
        # It never came to what has no record.
        rest = dict.fromkeys(CONTAINERS, "cancelled" if job.complete else "pending")
    elif attempt.state == "started":
        rest = {"input": "success", "main": "running", "output": "pending"}
    else:
        rest = {"input": "running", "main": "pending", "output": "pending"}
    found = []
    for name in CONTAINERS:
        record = attempt.containers.get(name) if attempt else None
        if record is None or record.state == "Pending":
            started = attempt.started_at if attempt and name == "main" else None
            found.append(
                Step(
                    name,
                    rest[name] if has[name] else "",
                    started_s=started.timestamp() if started and rest[name] == "running" else None,
                )
            )
            continue
        ran = record.started_ms is not None and record.ended_ms is not None
        found.append(
            Step(
                name,
                record.state.lower(),
                ran_ms=(record.ended_ms or 0) - (record.started_ms or 0) if ran else None,
                exit_code=record.exit_code,
                error=record.error or record.error_kind,
            )
        )
    return tuple(found)


def foremost(containers: Sequence[Step]) -> str:
    """Whose log to look at first: of the one that failed, else of the one that runs, else main."""
    for state in ("error", "failure", "running"):
        for step in containers:
            if step.state == state:
                return step.name
    return "main"


# A log.

_COLOURS = re.compile("\x1b\\[[0-9;:]*m")


class LogText:
    """The lines of a log, from its bytes: harmless, at most `most` of them, the latest.

    Colours are left out, other control characters spelled; of a line that was written over with
    carriage returns the last version stays; of a very long one its beginning.
    """

    LONGEST = 8192

    def __init__(self, most: int = 20_000) -> None:
        self.lines: deque[str] = deque(maxlen=most)
        self.n_dropped = 0
        """Lines that were there and gave way."""
        self.offset: int | None = None
        """Of the first byte; None before any came."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._rest_cut = 0

    @property
    def n_bytes_before(self) -> int:
        """Bytes of the log that were not read because they are too far from its end."""
        return self.offset or 0

    @property
    def last(self) -> str:
        """The line that is still being written; often ``''``."""
        return self._line(self._rest) if self._rest else ""

    def add(self, piece: LogRead) -> None:
        if self.offset is None:
            self.offset = piece.offset
        self._take(self._decoder.decode(piece.data))

    def end(self) -> None:
        """What is still being written is a line too."""
        self._take(self._decoder.decode(b"", final=True))
        if self._rest:
            self._take("\n")

    def _take(self, text: str) -> None:
        first, *more = text.split("\n")
        self._write(first)
        for line in more:
            if len(self.lines) == self.lines.maxlen:
                self.n_dropped += 1
            self.lines.append(self._line(self._rest))
            self._rest, self._rest_cut = "", 0
            self._write(line)

    def _write(self, text: str) -> None:
        """Add to the line that is being written, of which only so much is kept as is needed."""
        self._rest += text
        body = self._rest.rstrip("\r")
        if "\r" in body:
            self._rest_cut = 0
        self._rest = body.rpartition("\r")[2] + ("\r" if len(body) < len(self._rest) else "")
        if len(self._rest) > self.LONGEST:
            self._rest_cut += len(self._rest) - self.LONGEST
            self._rest = self._rest[: self.LONGEST]

    def _line(self, raw: str) -> str:
        text = clean(_COLOURS.sub("", raw.rstrip("\r"))).expandtabs(8)
        return f"{text} …(+{self._rest_cut:,} characters)" if self._rest_cut else text
