"""The spool, with real files: what was flushed is there again, whatever happened to the end of it."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from longshore_workerd import spool as spool_module
from longshore_workerd.spool import Entry, Kind, Spool


def reopened(folder: Path) -> dict[str, Entry]:
    spool = Spool(folder)
    try:
        return spool.entries()
    finally:
        spool.close()


def fill(folder: Path, *records: tuple[Kind, str, bytes]) -> None:
    spool = Spool(folder)
    for record in records:
        spool.append(*record)
    spool.flush(durable=True)
    spool.close()


def test_a_new_spool_is_empty(tmp_path: Path) -> None:
    assert reopened(tmp_path / "state") == {}


def test_what_was_flushed_is_there_after_a_restart(tmp_path: Path) -> None:
    fill(
        tmp_path,
        (Kind.ACCEPTED, "a", b"job"),
        (Kind.MAIN_ORDERED, "a", b""),
        (Kind.REPORTED, "a", b"one"),
        (Kind.REPORTED, "a", b"two"),
        (Kind.REPORTED, "b", b"end"),
    )
    assert reopened(tmp_path) == {"a": Entry(b"job", True, b"two"), "b": Entry(report=b"end")}


def test_what_was_not_flushed_is_not(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(Kind.ACCEPTED, "a", b"job")
    spool.close()
    assert reopened(tmp_path) == {}


def test_what_was_forgotten_is_gone(tmp_path: Path) -> None:
    fill(tmp_path, (Kind.ACCEPTED, "a", b"job"), (Kind.REPORTED, "a", b"end"), (Kind.FORGOTTEN, "a", b""))
    assert reopened(tmp_path) == {}


def test_every_torn_tail_leaves_the_records_before_it(tmp_path: Path) -> None:
    fill(tmp_path, (Kind.ACCEPTED, "a", b"first"))
    whole = (tmp_path / "spool").stat().st_size
    fill(tmp_path, (Kind.ACCEPTED, "b", b"second"))
    data = (tmp_path / "spool").read_bytes()
    for length in range(whole, len(data)):
        (tmp_path / "spool").write_bytes(data[:length])
        assert set(reopened(tmp_path)) == {"a"}
        assert (tmp_path / "spool").stat().st_size == whole


@pytest.mark.parametrize(
    "tail", [bytes(64), b"\xff" * 64, b"\0\0\0\x02\0\0\0\0ab"], ids=["zeros", "ones", "sum"]
)
def test_a_tail_of_garbage_is_cut_off_and_writing_goes_on(tmp_path: Path, tail: bytes) -> None:
    fill(tmp_path, (Kind.ACCEPTED, "a", b"first"))
    with open(tmp_path / "spool", "ab") as file:
        file.write(tail)
    fill(tmp_path, (Kind.ACCEPTED, "b", b"second"))
    assert set(reopened(tmp_path)) == {"a", "b"}


def test_a_full_disk_loses_nothing_and_a_later_flush_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.append(Kind.ACCEPTED, "a", b"job" * 100)
    real_write = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real_write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        spool.flush(durable=True)
    assert (tmp_path / "spool").stat().st_size == 0
    monkeypatch.undo()
    spool.flush(durable=True)
    spool.close()
    assert reopened(tmp_path) == {"a": Entry(b"job" * 100)}


def test_a_spool_of_forgotten_things_becomes_small_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "COMPACT_BYTES", 4096)
    rng = Random(1)
    spool = Spool(tmp_path)
    expected: dict[str, Entry] = {}
    largest = 0
    for number in range(3_000):
        attempt_id = f"{number:032x}"
        job = rng.randbytes(rng.randrange(40))
        spool.append(Kind.ACCEPTED, attempt_id, job)
        spool.append(Kind.REPORTED, attempt_id, b"end")
        if number % 100:
            spool.append(Kind.FORGOTTEN, attempt_id)
        else:
            expected[attempt_id] = Entry(job, report=b"end")
        if number % 10 == 0:
            spool.flush(durable=False)
            largest = max(largest, (tmp_path / "spool").stat().st_size)
    spool.flush(durable=True)
    assert spool.entries() == expected
    spool.close()
    assert reopened(tmp_path) == expected
    assert largest < 40_000


def test_a_compaction_that_was_cut_short_does_no_harm(tmp_path: Path) -> None:
    fill(tmp_path, (Kind.ACCEPTED, "a", b"job"))
    (tmp_path / "spool.new").write_bytes(b"half a record")
    assert set(reopened(tmp_path)) == {"a"}
    assert not (tmp_path / "spool.new").exists()


def test_random_histories_survive_any_restart(tmp_path: Path) -> None:
    for seed in range(60):
        rng = Random(seed)
        folder = tmp_path / str(seed)
        flushed: dict[str, Entry] = {}
        spool = Spool(folder)
        for _ in range(rng.randrange(1, 25)):
            appended = {a: Entry(e.accepted, e.main_ordered, e.report) for a, e in flushed.items()}
            for _ in range(rng.randrange(6)):
                attempt_id = f"a{rng.randrange(5)}"
                kind = rng.choice(list(Kind))
                payload = rng.randbytes(rng.randrange(50))
                spool.append(kind, attempt_id, payload)
                if kind is Kind.FORGOTTEN:
                    appended.pop(attempt_id, None)
                    continue
                entry = appended.setdefault(attempt_id, Entry())
                if kind is Kind.ACCEPTED:
                    entry.accepted = payload
                elif kind is Kind.MAIN_ORDERED:
                    entry.main_ordered = True
                else:
                    entry.report = payload
            if rng.random() < 0.7:
                spool.flush(durable=False)
                flushed = appended
            else:
                spool.close()
                if rng.random() < 0.5:
                    with open(folder / "spool", "ab") as file:
                        file.write(rng.randbytes(rng.randrange(30)))
                spool = Spool(folder)
                assert spool.entries() == flushed, f"seed {seed}"
        spool.close()
