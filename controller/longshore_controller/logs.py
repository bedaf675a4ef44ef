"""Where log bytes live: one file for each container of each attempt, bytes at the offsets they had there.

Files are not flushed to disk one by one: a log is not worth that, and what a power cut takes away shows,
since the size that a log should have is in the database.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from longshore_controller.core.model import AttemptState, ContainerName, Refusal, RefusalKind
from longshore_controller.core.rows import AttemptRow
from longshore_controller.feed import Committed, Following, Reset
from longshore_controller.store import Store
from longshore_controller.wire.submission import LogQuery

CHUNK_BYTES = 64 * 1024
"""Read at a time."""
SEARCH_BYTES = 1 << 20
"""Looked through at a time, and before what is found for the beginning of its line."""
MAX_LOG_BYTES = 256 << 20
"""Of one log. A worker that behaves stops long before."""

LATE_S = 10.0
"""For so long a reader waits for the rest of an ended log, each time anew when some has come."""
FIRST_S = 1.5
"""For so long a reader waits for a worker to push what a running container has written so far,"""
NEXT_S = 0.5
"""... for so long for more of it,"""
ENOUGH_S = 10.0
"""... and in all at most so long: it may write for ever."""


class LogId(NamedTuple):
    """Which log. The attempt's id is one that the controller made: it is safe as a folder's name."""

    batch_id: int
    job_id: int
    attempt_id: str
    container: ContainerName


class FoundLine(NamedTuple):
    """Where a search has come to, and what it found there."""

    line_offset: int | None
    searched_to: int
    end: bool
    """All was looked at in this direction."""


Tell = Callable[[], None]


class Logs:
    """All logs, and who watches them. Files are read and written in threads."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the first log comes."""
        self._folder = folder
        self._watching: dict[LogId, list[Tell]] = {}
        self._listening: list[Tell] = []

    async def append(self, log: LogId, offset: int, chunk: bytes) -> None:
        """The chunk stands at its offset. Bytes that are there already are skipped, so repeat it freely.

        Refusal FAILED_PRECONDITION when it would leave a gap, RESOURCE_EXHAUSTED when the disk is full:
        then what was written stands, and the same chunk may come again.
        """
        await asyncio.to_thread(self._write, log, offset, chunk)
        for tell in self._watching.get(log, ()):
            tell()

    async def read(self, log: LogId, offset: int, limit: int = CHUNK_BYTES) -> bytes:
        """At most that many bytes, at most CHUNK_BYTES; empty at the end and of what never wrote."""
        return await asyncio.to_thread(self._read, log, offset, min(limit, CHUNK_BYTES))

    async def find(self, log: LogId, text: bytes, offset: int, *, backward: bool, until: float) -> FoundLine:
        """The next line that holds the text, from the offset on, or the last one before it.

        A line is found by a text that begins in it on that side of the offset. A to z in any case.
        ``until``: by the monotonic clock; what was not looked at by then is left.
        """
        return await asyncio.to_thread(self._find, log, text, offset, backward, until)

    def size(self, log: LogId) -> int:
        """Bytes that stand."""
        try:
            return self._path(log).stat().st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def watching(self, log: LogId, grown: Tell) -> Iterator[None]:
        """Meanwhile its attempt is `watched`, and ``grown`` is called whenever bytes have come."""
        self._watching.setdefault(log, []).append(grown)
        self._changed()
        try:
            yield
        finally:
            self._watching[log].remove(grown)
            if not self._watching[log]:
                del self._watching[log]
            self._changed()

    def watched(self) -> list[str]:
        """Attempts of which somebody watches a log right now."""
        return sorted({log.attempt_id for log in self._watching})

    @contextmanager
    def listening(self, changed: Tell) -> Iterator[None]:
        """Meanwhile ``changed`` is called whenever `watched` may have changed."""
        self._listening.append(changed)
        try:
            yield
        finally:
            self._listening.remove(changed)

    def _changed(self) -> None:
        for tell in self._listening:
            tell()

    def _path(self, log: LogId) -> Path:
        folder = self._folder / str(log.batch_id) / str(log.job_id) / log.attempt_id
        return folder / f"{log.container.name.lower()}.log"

    def _read(self, log: LogId, offset: int, limit: int) -> bytes:
        try:
            file = os.open(self._path(log), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(file, limit, min(offset, MAX_LOG_BYTES))
        finally:
            os.close(file)

    def _find(self, log: LogId, text: bytes, offset: int, backward: bool, until: float) -> FoundLine:
        wanted = re.compile(re.escape(text), re.IGNORECASE)
        size = self.size(log)
        at = min(offset, size)
        while at > 0 if backward else at < size:
            if time.monotonic() > until:
                return FoundLine(None, at, end=False)
            begin, end = (max(0, at - SEARCH_BYTES), at) if backward else (at, min(at + SEARCH_BYTES, size))
            # What begins in these bytes may end beyond them.
            data = self._read(log, begin, end - begin + len(text) - 1)
            found = [begin + match.start() for match in wanted.finditer(data) if match.start() < end - begin]
            if found:
                first = found[-1 if backward else 0]
                return FoundLine(self._line_of(log, first), first, end=False)
            at = begin if backward else end
        return FoundLine(None, at, end=True)

    def _line_of(self, log: LogId, offset: int) -> int:
        """Where the line begins that has this byte; of one that is very long, not so far away."""
        begin = max(0, offset - SEARCH_BYTES)
        return begin + self._read(log, begin, offset - begin).rfind(b"\n") + 1

    def _write(self, log: LogId, offset: int, chunk: bytes) -> None:
        if offset + len(chunk) > MAX_LOG_BYTES:
            raise Refusal(
                RefusalKind.INVALID_ARGUMENT,
                f"a log of at most {MAX_LOG_BYTES:,} bytes, got {len(chunk):,} at offset {offset:,}",
            )
        path = self._path(log)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                _write_at(file, offset, chunk)
            finally:
                os.close(file)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Refusal(
                RefusalKind.RESOURCE_EXHAUSTED,
                f"no room for logs in {self._folder}: make room; workers keep theirs and push again",
            ) from error


def _write_at(file: int, offset: int, chunk: bytes) -> None:
    """Two writers of the same bytes do not disturb each other: neither shortens the file."""
    stands = os.fstat(file).st_size
    if offset > stands:
        raise Refusal(
            RefusalKind.FAILED_PRECONDITION,
            f"offset {offset:,} leaves a gap: {stands:,} bytes are stored; push from there",
        )
    rest = memoryview(chunk)[stands - offset :]
    while rest:
        written = os.pwrite(file, rest, stands)
        stands += written
        rest = rest[written:]


class LogPiece(NamedTuple):
    """Bytes at their offset; the last piece of a reading has ``end``."""

    offset: int
    chunk: bytes = b""
    end: bool = False
    incomplete: bool = False
    """With end: there is, or may be, more, which is not here (yet)."""


class LogReading:
    """Reads while the log is watched; ``following`` is of its batch and woken when the log has grown."""

    def __init__(
        self, store: Store, logs: Logs, log: LogId, attempt: AttemptRow, following: Following
    ) -> None:
        self._store = store
        self._logs = logs
        self._log = log
        self._attempt = attempt
        self._following = following

    async def pieces(self, query: LogQuery) -> AsyncIterator[LogPiece]:
        """The bytes asked for, then one piece that says whether the log is whole up to there."""
        if not query.follow or query.tail_bytes:
            await self._catch_up()
        offset, left = self._start(query), query.limit
        while left is None or left > 0:
            chunk = await self._logs.read(self._log, offset, CHUNK_BYTES if left is None else left)
            if chunk:
                yield LogPiece(offset, chunk)
                offset += len(chunk)
                left = None if left is None else left - len(chunk)
            elif not await self._more_beyond(offset, query.follow):
                whole = self._has_ended and self._size_in_the_end is not None
                incomplete = not whole or offset < (self._size_in_the_end or 0)
                yield LogPiece(offset, end=True, incomplete=incomplete)
                return
        yield LogPiece(offset, end=True)

    def _start(self, query: LogQuery) -> int:
        if not query.tail_bytes:
            return query.offset
        size = self._size_in_the_end if self._has_ended else None
        return max(0, (self._logs.size(self._log) if size is None else size) - query.tail_bytes)

    @property
    def _has_ended(self) -> bool:
        return self._attempt.state is AttemptState.ENDED

    @property
    def _size_in_the_end(self) -> int | None:
        """As its worker reported it. None: the worker did not live to tell."""
        for record in self._attempt.containers:
            if record.container is self._log.container:
                return record.log_bytes
        never_ran = bool(self._attempt.containers) or self._attempt.started_at_ms is None
        return 0 if never_ran else None

    async def _catch_up(self) -> None:
        """A worker pushes the log of a running container only while somebody watches."""
        enough = time.monotonic() + ENOUGH_S
        quiet = FIRST_S
        size = await asyncio.to_thread(self._logs.size, self._log)
        while not self._has_ended and time.monotonic() < enough:
            if not await self._grown_beyond(size, quiet):
                return
            before, size, quiet = size, self._logs.size(self._log), NEXT_S
            if size - before < CHUNK_BYTES:
                return  # More than it writes just now would have come in one piece.

    async def _more_beyond(self, offset: int, follow: bool) -> bool:
        """There are bytes beyond the offset, perhaps after a while."""
        if not self._has_ended:
            return follow and await self._grown_beyond(offset, None)
        expected = self._size_in_the_end
        return expected is not None and offset < expected and await self._grown_beyond(offset, LATE_S)

    async def _grown_beyond(self, size: int, timeout_s: float | None) -> bool:
        """The log has grown, or its attempt has ended; False when neither happened in time."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        ended = self._has_ended
        while True:
            if self._logs.size(self._log) > size or self._has_ended is not ended:
                return True
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return False
            await self._learn(await self._following.next(left))

    async def _learn(self, news: list[Committed] | Reset | None) -> None:
        attempt_id = self._attempt.attempt_id
        if isinstance(news, Reset):
            found = await asyncio.to_thread(self._store.attempt, attempt_id)
            self._attempt = found or self._attempt
        for committed in news if isinstance(news, list) else ():
            # What was read may be newer than what is news.
            if not self._has_ended:
                self._attempt = committed.changes.attempts.get(attempt_id, self._attempt)
