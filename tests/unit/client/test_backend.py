"""Pipelines that really run: through the compiler, the client, gRPC and a shell."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import longshore as hp
import pytest
from fakes_service import TOKEN, FakeService
from longshore.backend import _RunBatch
from longshore.failures import batch_failed

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, in which the program runs."""
    folder = tmp_path / "it's (my) folder [1] ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def found(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says where the service is."""
    monkeypatch.setenv("LONGSHORE_ENDPOINT", service.endpoint)
    monkeypatch.setenv("LONGSHORE_TOKEN", TOKEN)


@pytest.mark.usefixtures("found")
def test_the_documentations_program_runs(service: FakeService, capfd: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "hello.py"))
    (batch,) = service.batches.values()
    assert (batch.request.billing_project, batch.request.attributes["name"]) == ("test", "test")
    assert batch.jobs[1].logs == {2: b"hello world\n"}
    assert "longshore ui 1" in capfd.readouterr().err


def test_hello_is_the_documentations_program_but_for_the_import() -> None:
    assert (EXAMPLES / "hello.py").read_text() == (
        "import longshore as hp\n"
        "backend = hp.BatchBackend('test') # replace 'test' with your own billing project\n"
        "p = hp.Pipeline(backend=backend, name='test')\n"
        "t = p.new_task(name='hello')\n"
        "t.command('echo \"hello world\"')\n"
        "p.run(open=True)\n"
    )


@pytest.mark.usefixtures("found")
def test_word_count_counts_what_coreutils_count(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["word_count.py", "out put"])
    runpy.run_path(str(EXAMPLES / "word_count.py"))
    one_go = (
        "cat \"$@\" | tr -cs A-Za-z '[\\n*]' | tr A-Z a-z | sed '/^$/d' | sort | uniq -c | sort -k1,1nr -k2"
    )
    texts = sorted(map(str, (EXAMPLES / "data").glob("*.txt")))
    lines = subprocess.run(
        ["bash", "-c", one_go, "-", *texts], capture_output=True, text=True, check=True
    ).stdout
    expected = [line.split() for line in lines.splitlines()[:10]]
    assert [line.split() for line in (here / "out put/top_ten.txt").read_text().splitlines()] == expected
    assert (here / "out put/harbour at night.count").is_file()


def test_files_flow_between_tasks_and_out_under_any_name(backend: hp.BatchBackend, here: Path) -> None:
    (here / "in 'put' (ü) [1]*.txt").write_text("one\ntwo\n")
    p = hp.Pipeline(backend=backend)
    head, tail, both = p.new_task(name="../x"), p.new_task(name="a b"), p.new_task()
    source = p.read_input("in 'put' (ü) [1]*.txt")
    head.command(f"head -1 {source} > {head['the head']}")
    tail.declare_resource_group(out={"txt": "{root}.txt", "n": "{root}.n"})
    tail.command(f"tail -1 {source} > {tail.out}.txt; wc -l < {tail.out.txt} > {tail.out.n}")
    both.env("FILES", f"{head['the head']} {tail.out.txt}").command(f"cat $FILES {tail.out}.n > {both.x}")
    p.write_output(both.x, 'result "$(false)" ü.txt')
    p.write_output(tail.out, "sub/dir/group")
    p.write_output(source, "straight/")
    batch = p.run(disable_progress_bar=True)
    assert batch is not None and batch.status().state == "success"
    assert (here / 'result "$(false)" ü.txt').read_text() == "one\ntwo\n1\n"
    assert (here / "sub/dir/group.n").read_text() == "1\n"
    assert (here / "straight/in 'put' (ü) [1]*.txt").read_text() == "one\ntwo\n"


def test_a_pipeline_may_run_again(service: FakeService, backend: hp.BatchBackend, here: Path) -> None:
    p = hp.Pipeline(backend=backend)
    a, b = p.new_task(), p.new_task()
    a.command(f"echo x > {a.x}")
    b.command(f"cat {a.x}")
    for _ in range(2):
        p.run()
    first, second = service.batches.values()
    assert first.jobs[1].spec.output_files != second.jobs[1].spec.output_files  # Scratch is a run's own.


def test_an_empty_pipeline_succeeds(backend: hp.BatchBackend) -> None:
    batch = hp.Pipeline(backend=backend).run()
    assert batch is not None and batch.status().state == "success"


def test_intermediate_files_are_removed_when_the_batch_is_complete(
    service: FakeService, backend: hp.BatchBackend
) -> None:
    p = hp.Pipeline(backend=backend)
    a, b = p.new_task(), p.new_task()
    a.command(f"echo x > {a.x}")
    b.command(f"cat {a.x}; exit 1")
    scratch = service.folder / "tmp"
    p.run(check=False)
    assert list(scratch.iterdir()) == []
    batch = p.run(wait=False, check=False)
    assert batch is not None
    batch.wait(timeout=30)
    assert list(scratch.iterdir()) == []
    p.run(check=False, delete_scratch_on_exit=False)
    (kept,) = scratch.iterdir()
    assert (kept / "1/x").read_text() == "x\n"


def test_a_scratch_that_cannot_be_removed_changes_nothing(
    backend: hp.BatchBackend,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = hp.Pipeline(backend=backend).run(wait=False)
    assert batch is not None

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", refuse)
    assert _RunBatch(batch, tmp_path, check=True).wait(timeout=30).state == "success"
    assert f"intermediate files stay in {tmp_path}: Permission denied" in capsys.readouterr().err


def test_a_remote_tmpdir_can_be_chosen(
    backend: hp.BatchBackend, service: FakeService, tmp_path: Path
) -> None:
    own = hp.BatchBackend("test", endpoint=service.endpoint, token=TOKEN, remote_tmpdir=tmp_path / "own")
    with own:
        p = hp.Pipeline(backend=own)
        a, b = p.new_task(), p.new_task()
        a.command(f"echo x > {a.x}")
        b.command(f"cat {a.x}")
        p.run(delete_scratch_on_exit=False)
    assert [path.read_text() for path in (tmp_path / "own").glob("*/1/x")] == ["x\n"]


# Refusals before anything runs.


def test_google_storage_is_refused_in_words_when_the_service_has_none(
    service: FakeService, backend: hp.BatchBackend
) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task(name="align").command(f"cat {p.read_input('gs://bucket/a.txt')}")
    with pytest.raises(
        hp.UsageError, match=r"job 'align' needs 'gs://bucket/a.txt': .*Google Storage \(gs://\) yet"
    ):
        p.run()
    assert not service.batches


def test_files_outside_the_services_folder_are_refused(
    service: FakeService, backend: hp.BatchBackend
) -> None:
    service.store_folder = "/srv/store"
    p = hp.Pipeline(backend=backend)
    p.new_task(name="t").command(f"cat {p.read_input('/srv/store-of-others/x')}")
    with pytest.raises(hp.UsageError, match="only below /srv/store/"):
        p.run()


def test_an_unknown_option_is_refused_with_what_was_meant(
    service: FakeService, backend: hp.BatchBackend
) -> None:
    p = hp.Pipeline(backend=backend)
    with pytest.raises(hp.WrongType, match="no option 'wiat'.*\n.*did you mean `wait`"):
        p.run(wiat=True)  # type: ignore[call-overload]
    with pytest.raises(hp.WrongType, match="it has check, disable_progress_bar, open, progress, wait"):
        p.run(xyzzy=True)  # type: ignore[call-overload]
    with pytest.raises(hp.WrongType, match="wait"):
        p.run(wait="yes")  # type: ignore[call-overload]
    with pytest.raises(hp.UsageError, match="progress='loud' is not one of 'auto', 'tty', 'plain'"):
        p.run(progress="loud")
    assert not service.batches


def test_a_cycle_is_refused_before_anything_runs(service: FakeService, backend: hp.BatchBackend) -> None:
    p = hp.Pipeline(backend=backend)
    a, b = p.new_task(name="a"), p.new_task(name="b")
    a.depends_on(b.depends_on(a))
    with pytest.raises(hp.UsageError, match="circle"):
        p.run()
    assert not service.batches


def test_a_dry_run_prints_and_submits_nothing(
    service: FakeService, backend: hp.BatchBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task(name="t\x1b[2J").command("echo hello")
    assert p.run(dry_run=True) is None
    out = capsys.readouterr().out
    assert "job 1 't" in out and "    | echo hello" in out and "\x1b" not in out
    assert not service.batches


def test_without_a_service_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN", "LONGSHORE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LONGSHORE_HOME", str(tmp_path))
    with pytest.raises(hp.Unavailable, match="`longshore up`"):
        hp.BatchBackend("test")
    with pytest.raises(hp.AuthError, match="LONGSHORE_TOKEN"):
        hp.BatchBackend("test", endpoint="127.0.0.1:1")
    for bad in ("", None, 3):
        with pytest.raises(hp.UsageError, match="billing_project"):
            hp.BatchBackend(bad, endpoint="127.0.0.1:1", token="t")  # type: ignore[arg-type]


# Failures.


def test_a_failed_batch_raises_with_its_failures_grouped_and_their_last_lines(
    backend: hp.BatchBackend,
) -> None:
    p = hp.Pipeline(backend=backend, name="sums")
    for i in range(3):
        p.new_task(name=f"div-{i}").command(
            "echo working; printf 'ZeroDivisionError: \\033[31mno\\n'; exit 1"
        )
    p.new_task(name="other").command("exit 7")
    p.new_task(name="fine").command("true")
    with pytest.raises(hp.BatchFailedError) as failure:
        p.run()
    lines = str(failure.value).splitlines()
    assert lines[0] == "batch 1 'sums' failed: 4 of 5 jobs"
    assert lines[1:] == [
        "      3×  Failure  exit code 1: ZeroDivisionError: \\x1b[31mno    e.g. job 1 div-0",
        "            working",
        "            ZeroDivisionError: \\x1b[31mno",
        "      1×  Failure  exit code 7    e.g. job 4 other",
        "            (it wrote nothing)",
        "  all: longshore failures 1    log: longshore logs 1/1    dashboard: longshore ui 1",
    ]
    assert failure.value.batch.id == failure.value.status.id == 1


def test_check_false_returns_the_handle_of_a_failed_batch(backend: hp.BatchBackend) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task().command("exit 1")
    batch = p.run(check=False)
    assert batch is not None and batch.status().state == "failure"


def test_a_run_that_is_not_waited_for_raises_when_it_is_waited_for(backend: hp.BatchBackend) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task().command("exit 1")
    batch = p.run(wait=False)
    assert batch.wait(timeout=30, check=False).state == "failure"
    with pytest.raises(hp.BatchFailedError, match="exit code 1"):
        batch.wait()
    assert p.run(wait=False, check=False).wait(timeout=30).state == "failure"


def test_a_failure_whose_jobs_cannot_be_asked_is_told_all_the_same(
    service: FakeService, backend: hp.BatchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(service, "_job_message", refuse)
    p = hp.Pipeline(backend=backend, name="x")
    p.new_task().command("exit 1")
    with pytest.raises(
        hp.BatchFailedError, match=r"batch 1 'x' failed: 1 of 1 job\n  \(which ones cannot be"
    ):
        p.run(disable_progress_bar=True)


def test_a_cancelled_batch_says_by_whom_and_why(idle_service: FakeService) -> None:
    with hp.BatchBackend("test", endpoint=idle_service.endpoint, token=TOKEN) as backend:
        p = hp.Pipeline(backend=backend, name="a\x1b\\b")
        p.new_task().command("true")
        batch = p.run(wait=False)
        assert batch is not None
        batch.cancel("too dear")
        with pytest.raises(hp.BatchFailedError) as failure:
            raise batch_failed(batch, batch.wait(timeout=30, check=False))
        assert str(failure.value).startswith(r"batch 1 'a\x1b\b' was cancelled by ada: too dear")


def test_a_task_that_failed_cancels_only_its_descendants(
    service: FakeService, backend: hp.BatchBackend
) -> None:
    p = hp.Pipeline(backend=backend)
    bad = p.new_task(name="bad").command("exit 1")
    p.new_task(name="child").depends_on(bad)
    p.new_task(name="anyway").depends_on(bad).always_run()
    p.new_task(name="other").command("true")
    batch = p.run(check=False)
    assert batch is not None
    states = {job.last_status.name: job.last_status.state for job in batch.jobs() if job.last_status}
    assert states == {"bad": "Failure", "child": "Cancelled", "anyway": "Success", "other": "Success"}


# What is shown.


def test_ctrl_c_detaches_and_says_how_to_come_back(
    backend: hp.BatchBackend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: hp.Batch, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hp.Batch, "watch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hp.Pipeline(backend=backend).run()
    err = capsys.readouterr().err
    assert err.endswith(
        "\ndetached from #1 (still running). reattach: longshore wait 1 · cancel: longshore cancel 1\n"
    )


def test_progress_is_plain_lines_where_nobody_looks_and_silent_on_request(
    service: FakeService, backend: hp.BatchBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    service.notices = ["no isolation\x1b[0m"]
    p = hp.Pipeline(backend=backend)
    for code in (0, 1, 0):
        p.new_task().command(f"exit {code}")
    p.run(check=False)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert lines[0] == "note: no isolation\\x1b[0m"
    assert lines[1] == "batch 1: 3 jobs submitted; look: longshore ui 1"
    assert lines[-1].startswith("batch 1: 3 of 3 jobs done, 1 failed  $0.0")
    assert lines[-1].endswith("complete, failure")
    p.run(check=False, disable_progress_bar=True)  # The notice has been told.
    assert capsys.readouterr().err == "batch 2: 3 jobs submitted; look: longshore ui 2\n"


def test_a_task_that_no_worker_can_hold_is_refused_by_its_name_before_anything_is_created(
    service: FakeService, backend: hp.BatchBackend
) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task(name="small")
    p.new_task(name="big").memory("100G")
    with pytest.raises(hp.UsageError) as refused:
        p.run()
    assert str(refused.value) == (
        "task 'big' asks for 100 GB (27 cores); the largest worker has 16 cores (60 GB)"
        "  [jobs[1].resources.memory_bytes]"
    )
    p = hp.Pipeline(backend=backend)
    p.new_task().cpu(17)
    with pytest.raises(hp.UsageError, match="task 1 asks for 17 cores; the largest worker has 16 cores"):
        p.run()
    assert not service.batches


def test_a_batch_that_failed_in_one_way_says_so_in_the_first_line(backend: hp.BatchBackend) -> None:
    p = hp.Pipeline(backend=backend, name="silent")
    p.new_task().command("exit 3")
    with pytest.raises(hp.BatchFailedError) as failed:
        p.run()
    first, *rest = failed.value.message.splitlines()
    assert first == "batch 1 'silent' failed: 1 of 1 job, exit code 3"
    assert "(it wrote nothing)" in map(str.strip, rest)
