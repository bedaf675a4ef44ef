"""What must outlive workerd: attempts accepted and not yet ended, ends not yet acknowledged.

One file that only grows, a record after the other, each with its length and checksum; written and
fsynced in groups. What a crash left half-written at its end is cut off. When most of the file is
about attempts that were forgotten, the rest is copied into a new one.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from longshore_workerd.identity import sync_folder

_log = logging.getLogger(__name__)

_FRAME = struct.Struct(">II")  # length and CRC-32 of the body
_BODY = struct.Struct(">BB")  # kind, length of the attempt id; then the id and the payload
COMPACT_BYTES = 8 << 20
"""A smaller file is never compacted."""


class Kind(IntEnum):
    """What a record says of its attempt. Numbers are those on disk."""

    ACCEPTED = 1
    MAIN_ORDERED = 2
    """Its main container may exist from now on."""
    REPORTED = 3
    """The latest counts."""
    FORGOTTEN = 4
    """Acknowledged: nothing of it is needed any more."""


@dataclass(slots=True)
class Entry:
    """What is known of one attempt; a REPORTED without ACCEPTED is an end of something never held."""

    accepted: bytes | None = None
    main_ordered: bool = False
    report: bytes | None = None


class Spool:
    """Not thread-safe: one call at a time. Only what :meth:`flush` returned from is on disk."""

    def __init__(self, folder: Path) -> None:
        """Opens or makes it. OSError when the folder cannot be used."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "spool"
        self._path.with_suffix(".new").unlink(missing_ok=True)
        self._file = self._open()
        sync_folder(folder)
        self._pending: list[tuple[Kind, str, bytes]] = []
        self._live: dict[str, dict[Kind, tuple[int, int]]] = {}
        self._live_bytes = 0
        self._size = 0
        for kind, attempt_id, start, end, _ in self._read():
            self._account(kind, attempt_id, start, end)
            self._size = end
        torn = os.fstat(self._file).st_size - self._size
        if torn:
            _log.warning("cut %d bytes off the end of %s: a crash left them half-written", torn, self._path)
            os.ftruncate(self._file, self._size)
        # What a killed workerd wrote and did not sync is told from now on: a power cut must not unsay it.
        os.fsync(self._file)

    def entries(self) -> dict[str, Entry]:
        """All that is not forgotten, as it is on disk."""
        entries: dict[str, Entry] = {}
        for kind, attempt_id, _, _, payload in self._read():
            if kind is Kind.FORGOTTEN:
                entries.pop(attempt_id, None)
                continue
            entry = entries.setdefault(attempt_id, Entry())
            if kind is Kind.ACCEPTED:
                entry.accepted = payload
            elif kind is Kind.MAIN_ORDERED:
                entry.main_ordered = True
            else:
                entry.report = payload
        return entries

    def append(self, kind: Kind, attempt_id: str, payload: bytes = b"") -> None:
        """To be written by the next flush."""
        self._pending.append((kind, attempt_id, payload))

    def flush(self, *, durable: bool) -> None:
        """All appended is written, in order; durable: and survives the machine, not only workerd.

        OSError (the disk is full): nothing of it is written; another flush tries again.
        """
        data = bytearray()
        places = []
        for kind, attempt_id, payload in self._pending:
            start = self._size + len(data)
            name = attempt_id.encode()
            body = _BODY.pack(kind, len(name)) + name + payload
            data += _FRAME.pack(len(body), zlib.crc32(body)) + body
            places.append((kind, attempt_id, start, self._size + len(data)))
        try:
            self._write(data)
            if durable:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        self._pending = []
        for place in places:
            self._account(*place)
        if self._size > COMPACT_BYTES and self._live_bytes < self._size // 4:
            try:
                self._compact()
            except OSError as error:
                _log.warning("%s could not be made smaller, it goes on growing: %s", self._path, error)

    def close(self) -> None:
        """What was appended and not flushed is lost."""
        os.close(self._file)

    def _write(self, data: bytearray) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def _account(self, kind: Kind, attempt_id: str, start: int, end: int) -> None:
        if kind is Kind.FORGOTTEN:
            for was_start, was_end in self._live.pop(attempt_id, {}).values():
                self._live_bytes -= was_end - was_start
            return
        records = self._live.setdefault(attempt_id, {})
        if kind in records:
            was_start, was_end = records[kind]
            self._live_bytes -= was_end - was_start
        records[kind] = (start, end)
        self._live_bytes += end - start

    def _read(self) -> Iterator[tuple[Kind, str, int, int, bytes]]:
        """Records from the start up to the first that is not whole: kind, attempt, place, payload."""
        with open(self._path, "rb") as file:
            start = 0
            while len(frame := file.read(_FRAME.size)) == _FRAME.size:
                length, checksum = _FRAME.unpack(frame)
                body = file.read(length)
                if length < _BODY.size or len(body) < length or zlib.crc32(body) != checksum:
                    return
                kind, name_length = _BODY.unpack_from(body)
                name_end = _BODY.size + name_length
                end = start + _FRAME.size + length
                yield Kind(kind), body[_BODY.size : name_end].decode(), start, end, body[name_end:]
                start = end

    def _compact(self) -> None:
        """Copies what is alive into a new file, which then takes the old one's place at once."""
        new_path = self._path.with_suffix(".new")
        live: dict[str, dict[Kind, tuple[int, int]]] = {}
        size = 0
        with open(self._path, "rb") as old, open(new_path, "wb", opener=_private) as copy:
            for attempt_id, records in self._live.items():
                live[attempt_id] = {}
                for kind, (start, end) in sorted(records.items()):
                    old.seek(start)
                    copy.write(old.read(end - start))
                    live[attempt_id][kind] = (size, size + end - start)
                    size += end - start
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(new_path, self._path)
        os.close(self._file)
        self._file = self._open()
        self._live, self._live_bytes, self._size = live, size, size
        sync_folder(self._path.parent)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
