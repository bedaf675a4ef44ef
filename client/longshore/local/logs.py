"""What the jobs of a run wrote: a file each while they run, then all in one file without a name.

That file is gone when nobody can read it any more, however this program ends.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
import tempfile
import threading
import weakref
from contextlib import suppress

from ..terminal import clean

_CHUNK = 1 << 18


class Logs:
    """By attempt id and container. May be used by many threads."""

    def __init__(self, folder: str | None) -> None:
        """`folder` is where the file lies that has no name."""
        self._folder = folder
        self._lock = threading.Lock()
        self._file = -1
        self._size = 0
        self._kept: dict[tuple[str, str], tuple[int, int]] = {}
        self._live: dict[tuple[str, str], str] = {}
        self._shows = True

    def begin(self, attempt_id: str, container: str, path: str) -> None:
        """The container writes to this file from now on."""
        self._live[attempt_id, container] = path

    def end(self, attempt_id: str, container: str, *, show: bool) -> None:
        """It writes no more: its file goes. `show` what it holds on standard output, in one piece."""
        key = attempt_id, container
        path = self._live[key]
        try:
            if os.stat(path).st_size:
                with self._lock, open(path, "rb", buffering=0) as source:
                    self._keep(key, source.fileno(), show=show and self._shows)
            os.unlink(path)
        except FileNotFoundError:
            pass  # It never came to it.
        finally:
            del self._live[key]

    def is_live(self, attempt_id: str, container: str) -> bool:
        return (attempt_id, container) in self._live

    def size(self, attempt_id: str, container: str) -> int:
        key = attempt_id, container
        if (path := self._live.get(key)) is not None:
            with suppress(FileNotFoundError):
                return os.stat(path).st_size
        return self._kept.get(key, (0, 0))[1]

    def read(self, attempt_id: str, container: str, offset: int, limit: int) -> bytes:
        """At most so many bytes from there; none at its present end."""
        key = attempt_id, container
        if (path := self._live.get(key)) is not None:
            with suppress(FileNotFoundError), open(path, "rb") as file:
                return os.pread(file.fileno(), limit, offset)
        start, size = self._kept.get(key, (0, 0))
        limit = min(limit, size - offset)
        return os.pread(self._file, limit, start + offset) if limit > 0 else b""

    def find(
        self, attempt_id: str, container: str, text: bytes, offset: int, *, backward: bool
    ) -> int | None:
        """Where the next line begins that holds the text, or the last one of which it lies before."""
        wanted = re.compile(re.escape(text), re.IGNORECASE)
        size = self.size(attempt_id, container)
        at = min(offset, size)
        while at > 0 if backward else at < size:
            begin, end = (max(0, at - _CHUNK), at) if backward else (at, min(at + _CHUNK, size))
            data = self.read(attempt_id, container, begin, end - begin + len(text) - 1)
            found = [begin + match.start() for match in wanted.finditer(data) if match.start() < end - begin]
            if found:
                first = found[-1 if backward else 0]
                before = max(0, first - _CHUNK)
                return before + self.read(attempt_id, container, before, first - before).rfind(b"\n") + 1
            at = begin if backward else end
        return None

    def _keep(self, key: tuple[str, str], source: int, *, show: bool) -> None:
        if self._file < 0:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
        start = self._size
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        last = b""
        while chunk := os.read(source, _CHUNK):
            os.pwrite(self._file, chunk, self._size)
            self._size += len(chunk)
            last = chunk
            if show:
                self._show(decoder.decode(chunk))
        if show:
            rest = decoder.decode(b"", final=True)
            self._show(rest if last.endswith(b"\n") else f"{rest}\n", flush=True)
        self._kept[key] = start, self._size - start

    def _show(self, text: str, *, flush: bool = False) -> None:
        try:
            sys.stdout.write(clean(text) if sys.stdout.isatty() else text)
            if flush:
                sys.stdout.flush()
        except (OSError, ValueError):  # Whoever read it has gone; that is no reason to fail.
            self._shows = False
