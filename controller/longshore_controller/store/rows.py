"""What lies in rows: how a bunch's columns are packed, and what readers get. No I/O."""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from longshore_controller.core.model import ALWAYS_RUN, JobColumns, StagedJobs
from longshore_controller.core.rows import JobRow


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as people see it: what changes, and beside it what never does."""

    row: JobRow
    name: str
    attributes: dict[str, str]
    mcpu: int
    always_run: bool

    def with_row(self, row: JobRow) -> JobView:
        return JobView(row, self.name, self.attributes, self.mcpu, self.always_run)


def to_json(attributes: dict[str, str]) -> str:
    """Nothing for nothing: most jobs have none."""
    return json.dumps(attributes, ensure_ascii=False, separators=(",", ":")) if attributes else ""


def from_json(text: str) -> dict[str, str]:
    attributes: dict[str, str] = json.loads(text) if text else {}
    return attributes


def pack(jobs: StagedJobs) -> bytes:
    """A bunch's columns: a byte of flags for each job, then u32 of mcpu, retries, number of parents for
    each, then all parents' ids; little-endian."""
    parents = array("I")
    for ids in jobs.parents:
        parents.frombytes(ids)
    counts = array("I", (len(ids) // 4 for ids in jobs.parents))
    u32 = (array("I", jobs.mcpu), array("I", jobs.retries), counts, parents)
    return b"".join((jobs.always_run, *(_little_endian(column).tobytes() for column in u32)))


def sha256(jobs: StagedJobs, packed: bytes) -> bytes:
    """Of all that a bunch says."""
    hashed = hashlib.sha256(packed)
    texts = ((name, to_json(a)) for name, a in zip(jobs.names, jobs.attributes, strict=True))
    for piece in [json.dumps(list(texts)).encode(), *jobs.specs]:
        hashed.update(len(piece).to_bytes(8, "little"))
        hashed.update(piece)
    return hashed.digest()


@dataclass(slots=True)
class Unpacking:
    """Bunches put together again, in the order of their first job ids."""

    always_run: bytearray = field(default_factory=bytearray)
    mcpu: array[int] = field(default_factory=lambda: array("I"))
    retries: dict[int, int] = field(default_factory=dict)
    parents: list[bytes] = field(default_factory=list)
    n_missing: int = 0
    first_missing: int | None = None
    """Where the first gap begins. What comes after it is only counted."""
    _next: int = 1
    _have_parents: bool = False

    def add(self, first_job_id: int, n: int, packed: bytes) -> None:
        """The next bunch."""
        self.expect(first_job_id)
        self._next = first_job_id + n
        if self.n_missing:
            return
        u32 = array("I")
        u32.frombytes(packed[n:])
        u32 = _little_endian(u32)
        self.always_run += packed[:n]
        self.mcpu += u32[:n]
        self.retries.update((first_job_id + i, r) for i, r in enumerate(u32[n : 2 * n]) if r)
        if len(u32) == 3 * n:
            self.parents.extend([b""] * n)
            return
        self._have_parents = True
        ids, at = u32[3 * n :].tobytes(), 0
        for count in u32[2 * n : 3 * n]:
            self.parents.append(ids[at : at + 4 * count])
            at += 4 * count

    def expect(self, job_id: int) -> None:
        """This job is the next that is there; or, at the end, would be."""
        if self._next < job_id:
            self.n_missing += job_id - self._next
            if self.first_missing is None:
                self.first_missing = self._next

    def columns(self, states: bytearray) -> JobColumns:
        """Of the whole batch, its jobs in these states."""
        parents = self.parents if self._have_parents else None
        return JobColumns.build(states, self.mcpu, parents, self.retries)


def spec_rows(
    batch_id: int, first_job_id: int, jobs: StagedJobs
) -> Iterator[tuple[int, int, str, str, int, int, bytes]]:
    """Rows of `job_spec`."""
    columns: Iterable[tuple[str, dict[str, str], int, int, bytes]] = zip(
        jobs.names, jobs.attributes, jobs.mcpu, jobs.always_run, jobs.specs, strict=True
    )
    for job_id, (name, attributes, mcpu, bits, spec) in enumerate(columns, first_job_id):
        yield batch_id, job_id, name, to_json(attributes), mcpu, bits // ALWAYS_RUN, spec


def _little_endian(column: array[int]) -> array[int]:
    if sys.byteorder == "big":
        column = array("I", column)
        column.byteswap()
    return column
