"""Disks that can be full, and lose at a power cut what was not synced: a stand-in for the module ``os``.

Files are real, in a folder of each machine. What a process that is killed has written stays; what a
machine has not synced when its power is cut may be gone, in part or whole, or be zeros.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from sim.process import PROCESS, Process


class Disk:
    """Of all machines. Whatever is not written here is `os`'s own."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.full: set[str] = set()
        """Folders on which nothing more can be written."""
        self.dying = 0.0
        """How likely a process is killed in the midst of a write."""
        self.happened: Callable[[str], None] = lambda what: None
        self.on_write: Callable[[Process], None] = lambda process: None
        self._paths: dict[int, str] = {}
        self._synced: dict[str, int] = {}
        self._renamed: dict[str, bytes | None] = {}
        """What stood under a name before its folder was last synced."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        process = _writer()
        if flags & os.O_CREAT and not os.path.exists(path):
            self._require_room(str(path))
        file = os.open(path, flags, mode)
        process.files[file] = os.fstat(file).st_ino
        self._paths[file] = str(path)
        if flags & os.O_TRUNC:
            self._synced[str(path)] = 0
        return file

    def close(self, file: int) -> None:
        process = PROCESS.get()
        if process.files.pop(file, None) is not None:
            os.close(file)

    def write(self, file: int, data: Any) -> int:
        process = _writer()
        path = self._paths[file]
        part = memoryview(data)[: self._rng.randrange(len(data) + 1)]
        if self.dying and self._rng.random() < self.dying:
            self.happened("a kill in the midst of a write")
            os.write(file, part)
            process.on_death()
            raise asyncio.CancelledError
        try:
            self._require_room(path)
        except OSError:
            if not len(part):
                raise
            return os.write(file, part)
        self.on_write(process)
        return os.write(file, data)

    def fsync(self, file: int) -> None:
        _writer()
        path = self._paths.get(file)
        if path is None:
            return
        if os.path.isdir(path):
            for name in [n for n in self._renamed if os.path.dirname(n) == path]:
                del self._renamed[name]
        else:
            self._synced[path] = os.fstat(file).st_size

    def ftruncate(self, file: int, length: int) -> None:
        _writer()
        os.ftruncate(file, length)
        path = self._paths[file]
        self._synced[path] = min(self._synced.get(path, 0), length)

    def replace(self, source: Any, target: Any) -> None:
        _writer()
        before = Path(target)
        self._renamed.setdefault(str(target), before.read_bytes() if before.exists() else None)
        os.replace(source, target)
        # What was not synced of the file under its old name is not synced under its new one.
        self._synced[str(target)] = self._synced.pop(str(source), 0)

    def is_durable(self, path: Path, data: bytes) -> bool:
        """A power cut would leave these bytes in that file."""
        return data in path.read_bytes()[: self._synced.get(str(path), 0)]

    def cut_power(self, folder: Path) -> None:
        """Nobody has these files open any more."""
        prefix = f"{folder}/"
        for path, before in list(self._renamed.items()):
            if path.startswith(prefix):
                del self._renamed[path]
                if self._rng.random() < 0.5:
                    self.happened("a rename lost in a power cut")
                    _put(Path(path), before)
        for path in sorted(p for p in self._synced if p.startswith(prefix)):
            self._lose_tail(Path(path), self._synced[path])

    def _lose_tail(self, path: Path, synced: int) -> None:
        if not path.exists() or (size := path.stat().st_size) <= synced:
            return
        kept = self._rng.choice([synced, size, self._rng.randint(synced, size)])
        if kept < size:
            self.happened("writes lost in a power cut")
        with path.open("r+b") as file:
            file.truncate(kept)
            if self._rng.random() < 0.5:
                file.seek(kept)
                file.write(bytes(size - kept))
        self._synced[str(path)] = path.stat().st_size

    def _require_room(self, path: str) -> None:
        if any(path.startswith(folder) for folder in self.full):
            self.happened("a disk that is full")
            raise OSError(errno.ENOSPC, "No space left on device", path)


def _writer() -> Process:
    process = PROCESS.get()
    process.require_alive()
    return process


def _put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)
