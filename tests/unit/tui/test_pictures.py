"""Every screen as people see it, at two sizes, compared with the pictures in `snapshots`.

`LONGSHORE_UPDATE_PICTURES=1 pytest tests/unit/tui/test_pictures.py` takes them anew; look at them in the
diff. A picture is the text of the screen; what colours say, it says too.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
from fakes_service import TOKEN, FakeService
from longshore_api.v1 import types_pb2 as types
from longshore_tui.app import Dashboard
from longshore_tui.feed import Feed, connect_to
from terminal import Terminal

PICTURES = Path(__file__).parent / "snapshots"
SIZES = {"120x35": (120, 35), "80x24": (80, 24)}
NOW = 1_700_000_842.0
Submit = Callable[..., int]


def picture(terminal: Terminal) -> str:
    text = "\n".join(line.rstrip() for line in terminal.lines) + "\n"
    text = re.sub(r"127\.0\.0\.1:\d{4,5} *", "127.0.0.1:5300 ", text)
    return re.sub(r"202\d-\d\d-\d\d \d\d:\d\d", "YYYY-MM-DD --:--", text)


async def compare(name: str, terminal: Terminal) -> None:
    """Wait until the screen is as in the picture."""
    file = PICTURES / f"{name}.txt"
    if os.environ.get("LONGSHORE_UPDATE_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        last = ""
        while last != (last := picture(terminal)):
            await asyncio.sleep(0.5)
        file.write_text(last)
    expected = file.read_text()
    with suppress(pytest.fail.Exception):
        await terminal.until(lambda: picture(terminal) == expected)
    assert picture(terminal) == expected, f"{file} is another picture"


@pytest.fixture
def populated(service: FakeService, submit: Submit) -> FakeService:
    """Batches in all states; the second has jobs in all states."""
    submit("nightly-qc", 7)
    batch_id = submit("joint-calling-chr20", 240, input_files=[("/in", "/io/in")])
    jobs = service.batches[batch_id].jobs
    for job_id in range(1, 147):
        jobs[job_id].duration_ms = 842_000 + 1000 * job_id
        service.finish(batch_id, job_id, exit_code=137 if job_id % 40 == 4 else 0, log=LOG)
    jobs[4].reason = "exit code 137: out of memory"
    for job_id in range(147, 154):
        service.write(batch_id, job_id, LOG)
    done = submit("hello")
    service.finish(done, 1, log=b"hello world\n")
    cancelled = submit("rf-train-sweep", 64)
    for job_id in range(1, 22):
        service.finish(cancelled, job_id)
    service.batches[cancelled].cancelled = "wrong genome"
    for job in service.batches[cancelled].jobs.values():
        if job.exit_code is None:
            job.state = types.JOB_STATE_CANCELLED
    opened = submit("liftover-hg19-hg38", 5)
    service.batches[opened].closed = False
    return service


LOG = b"".join(
    b"[M::mem_process_seqs] Processed %d reads in %d.320 CPU sec, 5.412 real sec\n" % (n * 100_000, n * 21)
    for n in range(1, 60)
)
BATCH = 2

Frozen = Callable[..., AbstractAsyncContextManager[Terminal]]


async def press(terminal: Terminal, keys: list[str], *sees: str) -> None:
    await terminal.press(*keys)
    await terminal.sees(*sees)


PICTURES_OF: dict[str, tuple[tuple[int, ...], list[tuple[list[str], tuple[str, ...]]]]] = {
    "batches": ((), [([], ("nightly-qc", "● live"))]),
    "batches-marked": ((), [([], ("nightly-qc",)), (["space", "space"], ("◆ 2 marked",))]),
    "batches-filter": ((), [([], ("nightly-qc",)), (["slash", *"qc"], ("1 of 5 batches",))]),
    "batches-no-match": ((), [([], ("nightly-qc",)), (["slash", *"zzz", "enter"], ("Nothing matches",))]),
    "batches-refused-query": ((), [([], ("nightly-qc",)), (["slash", *":1"], ("no field",))]),
    "batch": ((BATCH,), [([], ("job-001", "● live"))]),
    "batch-failed-only": ((BATCH,), [([], ("job-001",)), (["f"], ("job-124", "4 of 240 jobs"))]),
    "batch-cancel": ((BATCH,), [([], ("job-001",)), (["c"], ("same as: longshore cancel 2",))]),
    "batch-spec": ((BATCH,), [([], ("job-001",)), (["2"], ("billing_project: test",))]),
    "job": ((BATCH, 4), [([], ("exit code 137: out of memory", "59 lines"))]),
    "job-running": ((BATCH, 150), [([], ("59 lines · follow ▼", "▶ running", "joint-calling"))]),
    "job-pending": ((BATCH, 200), [([], ("it waits for the jobs it depends on", "joint-calling"))]),
    "job-search": (
        (BATCH, 4),
        [([], ("59 lines", "joint-calling")), (["slash", *"5800000", "enter"], ("line 1 of 1",))],
    ),
    "job-attempts": ((BATCH, 4), [([], ("59 lines", "joint-calling")), (["4"], ("attempt 1  ended",))]),
    "job-spec": ((BATCH, 4), [([], ("59 lines", "joint-calling")), (["5"], ("command:",))]),
    "menu": ((), [([], ("nightly-qc",)), (["question_mark"], ("type to look for",))]),
    "unknown": ((77,), [([], ("does not exist, or is not yours", "● live"))]),
}


@pytest.fixture
def frozen(service: FakeService) -> Frozen:
    @asynccontextmanager
    async def frozen(
        size: tuple[int, int], *target: int, environ: dict[str, str] | None = None
    ) -> AsyncIterator[Terminal]:
        feed = Feed(connect_to(service.endpoint, TOKEN))
        app = Dashboard(feed, *target, clock=lambda: NOW, environ=environ or {})
        async with app.run_test(size=size) as pilot:
            yield Terminal(app, pilot)

    return frozen


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PICTURES_OF)
async def test_a_screen_looks_as_it_did(populated: FakeService, frozen: Frozen, name: str, size: str) -> None:
    target, steps = PICTURES_OF[name]
    async with frozen(SIZES[size], *target) as terminal:
        for keys, sees in steps:
            await press(terminal, keys, *sees)
        await compare(f"{name}-{size}", terminal)


@pytest.mark.parametrize("size", SIZES)
async def test_before_the_first_batch_the_list_teaches_how_to_make_one(frozen: Frozen, size: str) -> None:
    async with frozen(SIZES[size]) as terminal:
        await terminal.sees("No batches yet", "● live")
        await compare(f"empty-{size}", terminal)


@pytest.mark.parametrize("size", SIZES)
async def test_without_a_connection_it_is_said_what_to_do(
    service: FakeService, frozen: Frozen, size: str
) -> None:
    service.stop()
    try:
        async with frozen(SIZES[size]) as terminal:
            await terminal.sees("No connection to", "○ offline")
            assert "longshore doctor" in terminal.text
    finally:
        service.start()


async def test_a_terminal_that_is_too_small_is_told_so(populated: FakeService, frozen: Frozen) -> None:
    async with frozen((52, 12)) as terminal:
        await terminal.sees("need 60×15, have 52×12")
        await compare("too-small", terminal)
        await terminal.resize(120, 35)
        await terminal.sees("nightly-qc")


@pytest.mark.parametrize("size", SIZES)
async def test_a_plain_terminal_gets_ascii_that_says_the_same(
    populated: FakeService, frozen: Frozen, size: str
) -> None:
    async with frozen(SIZES[size], environ={"TERM": "linux"}) as terminal:
        await terminal.sees("nightly-qc", "* live")
        assert terminal.text.isascii()
        await compare(f"batches-plain-{size}", terminal)


def test_no_picture_is_left_over() -> None:
    taken = {f"{name}-{size}" for name in (*PICTURES_OF, "empty", "batches-plain") for size in SIZES}
    assert {file.stem for file in PICTURES.glob("*.txt")} == taken | {"too-small"}
