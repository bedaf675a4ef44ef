"""Logs of containers: raw bytes in a file each, at offsets that never change, with a time index.

Beside ``main.log`` stands ``main.times``: pairs of (offset, UTC ms), big-endian 64-bit, one at most
every 100 ms: at that time the log was that long. Nothing here ever holds a log in memory.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from longshore_workerd.runtime import Container, ContainerId

_log = logging.getLogger(__name__)

LOG_CAP_BYTES = 100_000_000
INDEX_EVERY_MS = 100
_INDEX = struct.Struct(">QQ")


def _utc_ms() -> int:
    return time.time_ns() // 1_000_000


class LogFile:
    """One container's log being written: a runtime.LogSink. The file appears with its first byte.

    A disk that is full does not disturb the container: what cannot be written is cut off there,
    with a word in workerd's own log.
    """

    def __init__(
        self, path: str, cap: int, clock_ms: Callable[[], int], *, stored: int, on_made: Callable[[], None]
    ) -> None:
        """``stored``: bytes in the file, 0 when there is none. ``on_made``: called before it is made."""
        self._path = path
        self._cap = cap
        self._clock_ms = clock_ms
        self._file: int | None = None
        self._index: int | None = None
        self._indexed_at_ms = 0
        self._broken = False
        self._marker = f"\n[longshore: this log was cut off after {cap} bytes]\n".encode()
        self._on_made = on_made
        self._taken = stored
        self._stored = stored

    @property
    def size(self) -> int:
        """Bytes taken from the container so far (also those cut by the cap)."""
        return self._taken

    @property
    def stored(self) -> int:
        """Bytes in the file."""
        return self._stored

    def write(self, data: bytes) -> None:
        if not data:
            return
        room = self._cap - self._stored
        self._taken += len(data)
        if room > 0:
            self._append(data[:room])
        if self._taken > self._cap and self._stored < self._cap + len(self._marker):
            self._append(self._marker[max(0, self._stored - self._cap) :])

    def close(self) -> None:
        for descriptor in (self._file, self._index):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._index = None

    def _append(self, data: bytes) -> None:
        if self._broken:
            return
        try:
            if self._file is None:
                self._open()
            assert self._file is not None and self._index is not None
            now = self._clock_ms()
            if now - self._indexed_at_ms >= INDEX_EVERY_MS:
                os.write(self._index, _INDEX.pack(self._stored, now))
                self._indexed_at_ms = now
            view = memoryview(data)
            while view:
                written = os.write(self._file, view)
                self._stored += written
                view = view[written:]
        except OSError as error:
            self._broken = True
            _log.error("%s is cut off after %d bytes: %s", self._path, self._stored, error)

    def _open(self) -> None:
        self._on_made()
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)
        self._index = os.open(self._path.removesuffix(".log") + ".times", flags, 0o600)


class Logs:
    """The attempts' folders: for each ``io`` (the job's files) and ``logs``."""

    def __init__(
        self, folder: Path, *, cap: int = LOG_CAP_BYTES, clock_ms: Callable[[], int] = _utc_ms
    ) -> None:
        self._folder = str(folder)
        self._cap = cap
        self._clock_ms = clock_ms
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._known = set(os.listdir(folder))
        """Attempts that may have a folder. Most short jobs never have: they are not looked for on disk."""

    def open(self, id: ContainerId) -> LogFile:
        """To be written, from where it ends."""
        on_made = partial(self._known.add, id.attempt_id)
        return LogFile(self._path(id), self._cap, self._clock_ms, stored=self.size(id), on_made=on_made)

    def size(self, id: ContainerId) -> int:
        """Bytes that can be read now."""
        return _size(self._path(id)) if id.attempt_id in self._known else 0

    def read(self, id: ContainerId, offset: int, limit: int) -> bytes:
        """At most that many bytes from there; empty at the end."""
        try:
            with open(self._path(id), "rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def last_line(self, id: ContainerId, limit: int) -> str:
        """Its last line that is not empty, or as much of its end as the limit allows."""
        tail = self.read(id, max(0, self.size(id) - limit), limit)
        return (tail.decode(errors="replace").strip().splitlines() or [""])[-1]

    def containers(self, attempt_id: str) -> list[ContainerId]:
        """Those that have said something, in the order in which they run."""
        ids = [ContainerId(attempt_id, container) for container in Container]
        return [id for id in ids if os.path.exists(self._path(id))]

    def has_folder(self, attempt_id: str) -> bool:
        return attempt_id in self._known and os.path.exists(f"{self._folder}/{attempt_id}")

    def has_io_folder(self, attempt_id: str) -> bool:
        return attempt_id in self._known and os.path.exists(self.io_folder(attempt_id))

    def attempts(self) -> list[str]:
        """All that have a folder."""
        return sorted(os.listdir(self._folder))

    def make_io_folder(self, attempt_id: str) -> Path:
        """Open to whatever user the image has; only the machine's own users are kept out, one above."""
        self._known.add(attempt_id)
        path = self.io_folder(attempt_id)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        return path

    def _path(self, id: ContainerId) -> str:
        """No Path: one would cost more than all else that is done for a short job."""
        return f"{self._folder}/{id.attempt_id}/logs/{_NAMES[id.container]}.log"

    def io_folder(self, attempt_id: str) -> Path:
        return Path(self._folder, attempt_id, "io")

    def remove_io_folder(self, attempt_id: str) -> None:
        _remove(self.io_folder(attempt_id))

    def remove(self, *attempt_ids: str) -> None:
        """Everything of them."""
        for attempt_id in attempt_ids:
            _remove(Path(self._folder, attempt_id))
            self._known.discard(attempt_id)


_NAMES = {container: container.name.lower() for container in Container}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("%s could not be removed: %s", path, error)
