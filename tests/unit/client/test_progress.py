"""What is shown while one waits: on a terminal, through a pipe, in a notebook."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import longshore as hp
import longshore.failures
import longshore.progress
import pytest
from fakes_service import TOKEN, FakeService
from hypothesis import given
from hypothesis import strategies as st
from longshore.html import batch_html
from longshore.progress import cells, choose_progress, counts, follow, in_notebook, time_left
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import types_pb2 as types

EMPTY = hp.BatchStatus(
    id=8120, billing_project="test", user="ada", state="running", complete=False, closed=True, n_jobs=0,
    n_pending=0, n_ready=0, n_running=0, n_completed=0, n_succeeded=0, n_failed=0, n_cancelled=0,
    attributes={}, msec_mcpu=0, cost_nanousd=0, created_at=datetime.now(UTC), closed_at=None,
    completed_at=None, cancelled_at=None, cancelled_by="", cancel_reason="",
)  # fmt: skip


def of(succeeded: int = 0, failed: int = 0, cancelled: int = 0, running: int = 0, waiting: int = 0) -> Any:
    done = succeeded + failed + cancelled
    return replace(
        EMPTY, n_jobs=done + running + waiting, n_succeeded=succeeded, n_failed=failed, n_pending=waiting,
        n_cancelled=cancelled, n_running=running, n_completed=done, complete=not running + waiting,
    )  # fmt: skip


@pytest.fixture
def batch(idle_client: hp.Client) -> hp.Batch:
    """Ten jobs that end when the test says so."""
    builder = idle_client.create_batch(name="ten")
    for i in range(10):
        builder.create_job(None, ["true"], name=f"align-{i}")
    return builder.submit()


@pytest.fixture
def steps(batch: hp.Batch, idle_service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches the batch sees one job end after another, some of them badly; all is told at once."""
    monkeypatch.setattr(longshore.failures, "_NEWS_EVERY_S", 0.0)
    real = hp.Batch.watch
    ends = [(0, b""), (1, b"ok\nKeyError: 'a', sample 1\n"), (1, b"KeyError: 'a', sample 2\n"), (137, b"")]

    def watch(self: hp.Batch, timeout: float | None = None) -> Iterator[hp.BatchStatus]:
        for n, status in enumerate(real(self, 30)):
            yield status
            if n < 10:
                exit_code, log = ends[n] if n < len(ends) else (0, b"")
                idle_service.finish(self.id, n + 1, exit_code=exit_code, log=log)

    monkeypatch.setattr(hp.Batch, "watch", watch)


# Pipes.


@pytest.mark.usefixtures("steps")
def test_lines_tell_the_start_each_tenth_each_new_way_to_fail_and_the_end(
    batch: hp.Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    with choose_progress(kind="plain") as progress:
        progress.submitted(0, 10)
        progress.submitted(5, 10)
        progress.submitted(10, 10)
        assert follow(batch, progress).state == "failure"
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert lines[0] == "5 of 10 jobs submitted"
    assert lines[1] == "batch 1: 0 of 10 jobs done, 10 waiting  ≥$0.00"
    assert lines[-1] == "batch 1: 10 of 10 jobs done, 3 failed  $0.00  complete, failure"
    assert [line for line in lines if line.startswith("job")] == [
        "job 2 align-1 is Failure: exit code 1: KeyError: 'a', sample 1",
        "job 4 align-3 is Failure: exit code 137",
    ]
    assert len(lines) == 14


def test_lines_that_tell_nothing_new_come_once_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((1000.0, 1000.0, 1030.0, 1059.0, 1061.0, 1100.0))
    monkeypatch.setattr(longshore.progress, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with choose_progress(kind="plain") as progress:
        for _ in range(5):
            progress.changed(of(succeeded=1, waiting=99))
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.usefixtures("steps")
def test_silence_asks_for_nothing_and_says_nothing(
    batch: hp.Batch, idle_service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    for progress in (choose_progress(disable=True), choose_progress(kind=False)):
        with progress:
            follow(batch, progress)
    assert capsys.readouterr() == ("", "")
    assert "ListJobs" not in idle_service.faults.calls


def test_a_kind_that_is_none_is_refused() -> None:
    for bad in ("loud", "", True, None):
        with pytest.raises(hp.UsageError, match="is not one of 'auto', 'tty', 'plain', 'notebook', False"):
            choose_progress(kind=bad)  # type: ignore[arg-type]


# Terminals.


@pytest.mark.usefixtures("steps")
def test_bars_on_a_terminal_are_gone_in_the_end_and_leave_a_line(
    batch: hp.Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    with choose_progress() as progress:
        progress.submitted(5, 10)
        follow(batch, progress)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "5/10 jobs" in text and "job 2 align-1 is Failure" in text
    assert text.split()[-8:] == ["10", "jobs", "done,", "3", "failed", "$0.00", "complete,", "failure"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(*[st.integers(0, 10**9)] * 5, st.integers(8, 200))
def test_a_bar_shows_whatever_there_is(
    succeeded: int, failed: int, cancelled: int, running: int, waiting: int, width: int
) -> None:
    status = of(succeeded, failed, cancelled, running, waiting)
    bar = cells(status, width)
    assert sum(bar.values()) == width and min(bar.values()) >= 0
    for what, n in {
        "succeeded": succeeded,
        "failed": failed,
        "cancelled": cancelled,
        "running": running,
    }.items():
        assert (bar[what] > 0) == (n > 0) or not status.n_jobs
    if status.complete and status.n_jobs:
        assert not bar.get("waiting")


def test_29_failures_of_104332_are_seen() -> None:
    assert cells(of(104_303, 29), 10) == {
        "succeeded": 9, "failed": 1, "cancelled": 0, "running": 0, "waiting": 0
    }  # fmt: skip


def test_time_that_is_left_is_a_guess_made_when_there_is_something_to_guess_by() -> None:
    assert time_left(of(25, waiting=75), 60) == "~3m"
    assert time_left(of(25, waiting=75), 2000) == "~1h40m"
    assert time_left(of(25, waiting=25), 20) == "~20s"
    assert [time_left(*each) for each in ((of(2, waiting=9), 60), (of(9, waiting=9), 1), (of(9), 60))] == [
        ""
    ] * 3


# Notebooks.


class Notebook:
    """IPython with a kernel, as far as it is asked; what its displays show, and what replaced that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[str] = []
        ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
        shell = SimpleNamespace(kernel=object())
        vars(ipython).update(get_ipython=lambda: shell, display=display)
        vars(display).update(HTML=lambda text: text, display=self._display)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def _display(self, html: str, *, display_id: bool) -> Any:
        assert display_id
        self.shown.append(html)
        return SimpleNamespace(update=lambda html: self.shown.append(html))


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    return Notebook(monkeypatch)


def without(*packages: str) -> Callable[[str], bool]:
    return lambda package: package not in packages


@pytest.mark.usefixtures("steps")
def test_a_notebook_has_one_display_that_changes(
    batch: hp.Batch,
    notebook: Notebook,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert in_notebook()
    monkeypatch.setattr(longshore.progress, "_has", without("tqdm"))
    monkeypatch.setattr(longshore.progress, "_REDRAW_S", 0.0)
    with choose_progress() as progress:
        progress.submitted(10, 10)
        follow(batch, progress)
    assert "10 of 10 jobs submitted" in notebook.shown[0]
    last = notebook.shown[-1]
    assert "<b>failure</b>" in last and "✓ 7 ✗ 3" in last
    assert "job 2 align-1 is Failure: exit code 1: KeyError: &#x27;a&#x27;, sample 1<br>" in last
    assert capsys.readouterr() == ("", "")


class Tqdm:
    """What tqdm's bar is asked for."""

    made: list[Tqdm]

    def __init__(self, *, total: int, unit: str, leave: bool) -> None:
        self.total, self.unit, self.leave, self.n = total, unit, leave, 0
        self.seen: list[tuple[int, str, str]] = []
        self.text = self.postfix = ""
        self.written: list[str] = []
        self.closed = False
        self.made.append(self)

    def set_description_str(self, text: str, refresh: bool) -> None:
        self.text = text

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.postfix = text

    def refresh(self) -> None:
        self.seen.append((self.n, self.text, self.postfix))

    def write(self, line: str) -> None:
        self.written.append(line)

    def close(self) -> None:
        self.closed = True


@pytest.mark.usefixtures("steps", "notebook")
def test_a_notebook_with_widgets_has_the_bar_of_tqdm(
    batch: hp.Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = ModuleType("tqdm.auto")
    vars(auto).update(tqdm=Tqdm)
    Tqdm.made = []
    monkeypatch.setitem(sys.modules, "tqdm", ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", auto)
    monkeypatch.setattr(longshore.progress, "_has", without())
    with choose_progress() as progress:
        progress.submitted(10, 10)
    with choose_progress() as progress:
        follow(batch, progress)
    submit, bar = Tqdm.made
    assert (submit.total, submit.leave, submit.closed, submit.seen) == (10, False, True, [(10, "submit", "")])
    assert (bar.total, bar.leave, bar.closed) == (10, True, True)
    assert bar.seen[-1] == (10, "#1 failure", "✓ 7 ✗ 3  $0.00")
    assert bar.written[0].startswith("job 2 align-1 is Failure")


def test_a_batch_shows_itself_in_a_notebook_without_asking(
    batch: hp.Batch, idle_service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hp.Batch(batch._client, 1)._repr_html_() is None
    assert batch._repr_html_() is None
    batch.status()
    n_calls = len(idle_service.faults.calls)
    html = batch._repr_html_()
    assert html is not None and len(idle_service.faults.calls) == n_calls
    assert "<b>Batch 1 ten</b>: running, unfinished" in html and "as of 0 s ago" in html
    assert "longshore ui 1" in html and "· 10" in html
    assert "<script" not in html and "http" not in html
    for job_id in range(1, 11):
        idle_service.finish(batch.id, job_id, exit_code=int(job_id == 3), log=b"<oh> no\n")
    with pytest.raises(hp.BatchFailedError):
        batch.wait(timeout=30, check=True)
    html = batch._repr_html_()
    assert html is not None and "failure, complete" in html and "exit code 1: &lt;oh&gt; no" in html


def test_names_cannot_be_html() -> None:
    status = replace(EMPTY, attributes={"name": "<b onload=x>\x1b[2J"})
    html = batch_html(status, 7200, ["<i>"], kept=False)
    assert "&lt;b onload=x&gt;\\x1b[2J" in html and "&lt;i&gt;" in html and "as of 2 h ago" in html
    assert "longshore" not in html


# Turning away.


def test_ctrl_c_in_a_wait_of_a_run_detaches_and_says_what_it_cost_so_far(
    idle_service: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with hp.BatchBackend("test", endpoint=idle_service.endpoint, token=TOKEN) as backend:
        p = hp.Pipeline(backend=backend)
        p.new_task().command("true")
        batch = p.run(wait=False)
        assert batch is not None
        batch.status()

        async def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(hp.Batch, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch.wait()
        assert capsys.readouterr().err.endswith(
            "\ndetached from #1 (still running, ≥$0.00). "
            "reattach: longshore wait 1 · cancel: longshore cancel 1\n"
        )
        assert not idle_service.batches[1].cancelled


@pytest.mark.parametrize("waits", ["p.run()", "p.run(wait=False).wait()"])
def test_a_real_ctrl_c_leaves_the_batch_running(idle_service: FakeService, waits: str) -> None:
    program = (
        f"import longshore as hp\np = hp.Pipeline(backend=hp.BatchBackend('test'))\np.new_task()\n{waits}"
    )
    environ = {**os.environ, "LONGSHORE_ENDPOINT": idle_service.endpoint, "LONGSHORE_TOKEN": TOKEN}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        try:
            while "WatchBatch" not in idle_service.faults.calls and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert process.wait(60) == -signal.SIGINT
        finally:
            process.kill()
    assert "\ndetached from #1 (still running" in said and "longshore cancel 1\n" in said
    assert "grpc" not in said and said.endswith("KeyboardInterrupt\n")
    assert not idle_service.batches[1].cancelled and not idle_service.batches[1].deleted


def test_a_run_on_this_machine_costs_nothing_and_says_nothing_of_it() -> None:
    assert counts(replace(of(3), billing_project="")) == "✓ 3"


def test_when_nothing_runs_it_is_said_why_once(
    idle_service: FakeService, idle_client: hp.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longshore.progress, "_FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(longshore.progress, "_LOOK_S", 0.05)
    builder = idle_client.create_batch(name="stuck")
    builder.create_job(None, ["true"])
    batch = builder.submit()
    idle_service.batches[batch.id].jobs[1].state = types.JOB_STATE_READY
    idle_service.reasons = [pb.Reason(code="FROZEN", text="the service is\x1b frozen", fix="wait")]
    told: list[str] = []

    class Listening:
        def submitted(self, n: int, of: int) -> None: ...
        def changed(self, status: hp.BatchStatus) -> None: ...
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *exc: object) -> None: ...

        def say(self, line: str) -> None:
            told.append(line)
            idle_service.reasons = [pb.Reason(code="NO_ROOM", text="3rd in the queue")]
            if len(told) == 2:
                idle_service.finish(batch.id, 1)

    assert follow(batch, Listening()).state == "success"
    assert told == ["nothing runs: the service is\\x1b frozen (wait)", "nothing runs: 3rd in the queue"]
    with pytest.raises(hp.WaitTimeout, match="not complete after 0.2 s"):
        other = idle_client.create_batch()
        other.create_job(None, ["true"])
        follow(other.submit(), Listening(), 0.2)
