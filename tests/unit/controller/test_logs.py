"""Log bytes stand where they stood on the worker, whatever is repeated, cut off or full."""

from __future__ import annotations

import errno
import os
import secrets
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from longshore_controller import logs as module
from longshore_controller.core.model import ContainerName, Refusal, RefusalKind
from longshore_controller.logs import CHUNK_BYTES, MAX_LOG_BYTES, LogId, Logs

LOG = LogId(1, 2, "a" * 32, ContainerName.MAIN)


async def refused(logs: Logs, offset: int, chunk: bytes) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        await logs.append(LOG, offset, chunk)
    return refusal.value


async def test_bytes_stand_at_their_offsets(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    await logs.append(LOG, 0, b"hello ")
    await logs.append(LOG, 6, b"world\0\xff")
    assert (tmp_path / "1" / "2" / ("a" * 32) / "main.log").read_bytes() == b"hello world\0\xff"
    assert await logs.read(LOG, 6) == b"world\0\xff"
    assert await logs.read(LOG, 6, 3) == b"wor"
    assert await logs.read(LOG, 99) == b""
    assert await logs.read(LOG, 2**64 - 1) == b""
    assert logs.size(LOG) == 13


async def test_what_never_wrote_is_empty(tmp_path: Path) -> None:
    assert await Logs(tmp_path).read(LOG, 0) == b""
    assert Logs(tmp_path).size(LOG) == 0


async def test_bytes_that_are_there_are_skipped(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    await logs.append(LOG, 0, b"abcdef")
    await logs.append(LOG, 0, b"???")
    await logs.append(LOG, 3, b"???ghi")
    await logs.append(LOG, 9, b"")
    assert await logs.read(LOG, 0) == b"abcdefghi"


async def test_a_gap_is_refused_and_says_from_where_to_push(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    await logs.append(LOG, 0, b"abc")
    refusal = await refused(logs, 5, b"x")
    assert refusal.kind is RefusalKind.FAILED_PRECONDITION
    assert "3 bytes are stored; push from there" in refusal.message
    assert logs.size(LOG) == 3


PIECES = st.lists(st.sampled_from([b"a", b"B", b"ab", b"\n", b"x" * 5, b"\xff"]), max_size=40)
TEXTS = st.sampled_from([b"a", b"AB", b"ba", b"xx", b"aba", b"\xff"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PIECES, TEXTS, st.integers(0, 80), st.booleans())
async def test_the_next_line_with_a_text_is_found_wherever_blocks_end(
    tmp_path: Path, pieces: list[bytes], text: bytes, offset: int, backward: bool
) -> None:
    data = b"".join(pieces)
    log = LOG._replace(attempt_id=secrets.token_hex(16))
    logs = Logs(tmp_path)
    await logs.append(log, 0, data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "SEARCH_BYTES", 7)
        found = await logs.find(log, text, offset, backward=backward, until=time.monotonic() + 60)
    low, wanted = data.lower(), text.lower()
    starts = [i for i in range(len(low)) if low.startswith(wanted, i)]
    before, beyond = [i for i in starts if i < offset], [i for i in starts if i >= offset]
    expected = before[-1:] if backward else beyond[:1]
    if not expected:
        assert (found.line_offset, found.end) == (None, True)
        return
    assert found.line_offset is not None
    # Matches may overlap, and of a long line only the last bytes are looked at.
    assert data.rfind(b"\n", 0, expected[0]) + 1 <= found.line_offset <= expected[0]
    begin = data.rfind(b"\n", 0, expected[0]) + 1
    assert found.line_offset == begin or expected[0] - begin > 7


async def test_a_search_ends_in_time_and_says_how_far_it_came(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    await logs.append(LOG, 0, b"a" * 100)
    assert await logs.find(LOG, b"b", 10, backward=False, until=0) == (None, 10, False)
    assert await logs.find(LOG, b"b", 10, backward=True, until=0) == (None, 10, False)


async def test_a_log_without_end_is_refused(tmp_path: Path) -> None:
    assert (await refused(Logs(tmp_path), MAX_LOG_BYTES, b"x")).kind is RefusalKind.INVALID_ARGUMENT


async def test_a_read_holds_no_more_than_a_chunk(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    await logs.append(LOG, 0, bytes(3 * CHUNK_BYTES))
    assert len(await logs.read(LOG, 0, 10 * CHUNK_BYTES)) == CHUNK_BYTES


async def test_a_full_disk_loses_nothing_that_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 10
    real = os.pwrite

    def pwrite(file: int, data: memoryview, offset: int) -> int:
        if offset >= room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[: room - offset], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    logs = Logs(tmp_path)
    refusal = await refused(logs, 0, b"0123456789abcdef")
    assert refusal.kind is RefusalKind.RESOURCE_EXHAUSTED
    assert str(tmp_path) in refusal.message
    assert await logs.read(LOG, 0) == b"0123456789"
    room = 100
    await logs.append(LOG, 0, b"0123456789abcdef")
    assert await logs.read(LOG, 0) == b"0123456789abcdef"


async def test_who_watches_is_told_of_growth_and_everybody_of_who_watches(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    grown: list[int] = []
    lists: list[list[str]] = []
    with logs.listening(lambda: lists.append(logs.watched())):
        with logs.watching(LOG, lambda: grown.append(logs.size(LOG))):
            await logs.append(LOG, 0, b"abc")
            await logs.append(LOG._replace(job_id=3), 0, b"abc")
        await logs.append(LOG, 3, b"def")
    assert grown == [3]
    assert lists == [[LOG.attempt_id], []]
    with logs.watching(LOG, lambda: None):
        assert len(lists) == 2
