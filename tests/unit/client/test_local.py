"""Pipelines that run on this machine without a service, in the user's own shell."""

from __future__ import annotations

import errno
import os
import re
import runpy
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import longshore as hp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from longshore.local import process
from longshore_workerd import process_runtime

EXAMPLES = Path(__file__).parents[3] / "examples"
ODD = """it's "a b" (1) $HOME;ü☃ *[x].txt"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, in which the program runs."""
    folder = tmp_path / "it's (my) folder [1] ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tmp_dir(tmp_path: Path) -> Iterator[Path]:
    """Where runs have their folders; nothing may stay in it that a test does not take away."""
    folder = tmp_path / "tmp"
    yield folder
    assert not folder.exists() or not list(folder.iterdir())


@pytest.fixture
def backend(tmp_dir: Path) -> hp.LocalBackend:
    return hp.LocalBackend(tmp_dir, cores=4)


def run(pipeline: hp.Pipeline, **options: Any) -> hp.Batch:
    batch: hp.Batch = pipeline.run(**{"disable_progress_bar": True, "check": False, **options})
    return batch


def one(backend: hp.LocalBackend, *commands: str, **options: Any) -> hp.JobStatus:
    """What became of a task of these commands."""
    p = hp.Pipeline(backend=backend)
    t = p.new_task(name="only")
    for command in commands:
        t.command(command)
    for setter, value in options.items():
        getattr(t, setter)(value)
    return run(p).job(1).status()


def states(batch: hp.Batch) -> dict[str, str]:
    return {job.last_status.name: job.last_status.state for job in batch.jobs() if job.last_status}


def until(holds: Any) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


# The same program, without a service.


def test_the_documentations_program_runs_without_its_backend(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (EXAMPLES / "hello.py").read_text().splitlines()
    text = "\n".join(line for line in program if not line.startswith("backend"))
    (here / "hello.py").write_text(text.replace("backend=backend, ", ""))
    runpy.run_path(str(here / "hello.py"))
    captured = capsys.readouterr()
    assert captured.out == "hello world\n"
    assert captured.err.splitlines()[-1].endswith("1 of 1 job done  complete, success")
    assert "note: a run on this machine has no dashboard" in captured.err


def test_files_flow_between_tasks_and_out_under_any_name(here: Path, tmp_path: Path) -> None:
    (here / ODD).write_text("one\ntwo\n")
    p = hp.Pipeline(backend=hp.LocalBackend(tmp_path / "an odd (tmp) 'dir'"))
    head, tail, both = p.new_task(name="../x"), p.new_task(name="a b"), p.new_task()
    source = p.read_input(ODD)
    head.command(f"head -1 {source} > {head['the head']}")
    tail.declare_resource_group(out={"txt": "{root}.txt", "n": "{root}.n"})
    tail.command(f"tail -1 {source} > {tail.out}.txt; wc -l < {tail.out.txt} > {tail.out.n}")
    both.env("FILES", f"{head['the head']} {tail.out.txt}").command(f"cat $FILES {tail.out}.n > {both.x}")
    p.write_output(both.x, f"results/{ODD}")
    p.write_output(tail.out, "sub/dir/group")
    p.write_output(source, "straight/")
    assert run(p, check=True).status().state == "success"
    assert (here / "results" / ODD).read_text() == "one\ntwo\n1\n"
    assert (here / "sub/dir/group.n").read_text() == "1\n"
    assert (here / "straight" / ODD).read_text() == "one\ntwo\n"
    assert not list((tmp_path / "an odd (tmp) 'dir'").iterdir())


def test_an_empty_pipeline_succeeds_and_one_may_run_again(backend: hp.LocalBackend, here: Path) -> None:
    p = hp.Pipeline(backend=backend)
    assert run(p).status().state == "success"
    t = p.new_task().command("echo again")
    assert t is not None
    assert [run(p).job(1).log().text() for _ in range(2)] == ["again\n", "again\n"]


def test_it_needs_neither_grpc_nor_docker_nor_a_service(tmp_path: Path) -> None:
    program = (
        "import sys, longshore as hp\n"
        "with hp.LocalBackend() as backend:\n"
        "    p = hp.Pipeline(backend=backend)\n"
        "    p.new_task().command('true')\n"
        "    p.run()\n"
        "print({'grpc', 'docker', 'google.protobuf', 'longshore_controller'} & set(sys.modules))\n"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path), "DOCKER_HOST": "unix:///nowhere"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr


# How tasks end, and what that means.


def test_a_task_that_failed_cancels_only_its_descendants(backend: hp.LocalBackend) -> None:
    p = hp.Pipeline(backend=backend)
    bad = p.new_task(name="bad").command("exit 3")
    child = p.new_task(name="child").depends_on(bad)
    p.new_task(name="grandchild").depends_on(child)
    p.new_task(name="anyway").depends_on(child).always_run()
    p.new_task(name="other").command("true")
    batch = run(p)
    assert states(batch) == {
        "bad": "Failure",
        "child": "Cancelled",
        "grandchild": "Cancelled",
        "anyway": "Success",
        "other": "Success",
    }
    status = batch.status()
    assert (status.state, status.complete, status.n_failed, status.n_cancelled) == ("failure", True, 1, 2)
    assert batch.job(2).status().reason == "a job it depends on did not succeed"


def test_the_first_failure_is_raised_as_a_called_process_error_that_tells_all(
    backend: hp.LocalBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    p = hp.Pipeline(backend=backend, name="sums")
    first = p.new_task(name="first").command("echo so far, so good; exit 7")
    then = p.new_task(name="then").always_run().depends_on(first)
    then.command("printf 'no\\033[31m\\n'; exit 8")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        p.run(disable_progress_bar=True)
    error = failed.value
    assert isinstance(error, hp.BatchFailedError) and isinstance(error, hp.LocalFailedError)
    assert (error.returncode, error.cmd, error.output) == (
        7,
        "set -e\necho so far, so good; exit 7",
        "so far, so good",
    )
    assert error.batch.id == error.status.id and error.code == "batch_failed"
    text = str(error)
    assert text.startswith(f"batch {error.status.id} 'sums' failed: 2 of 2 jobs\n")
    assert "e.g. job 1 first" in text and "e.g. job 2 then" in text
    assert "so far, so good" in text and "no\\x1b[31m" in text
    assert "longshore " not in text, "no command can show it"


def test_each_way_to_end_has_its_state_code_and_reason(backend: hp.LocalBackend, here: Path) -> None:
    def end(*args: Any, **options: Any) -> tuple[str, int | None, str]:
        job = one(backend, *args, **options)
        return job.state, job.exit_code, job.reason

    assert end() == ("Success", 0, "")
    assert end("false", "echo never") == ("Failure", 1, "")
    assert end("kill -9 $$") == ("Failure", 137, "")
    assert end("no-such-program") == ("Failure", 127, "")
    assert end("sleep 60; echo never", timeout=0.1) == ("Error", 143, "timed out: it ran longer than 0.1 s")


def test_a_task_that_does_not_heed_its_timeout_is_killed(
    backend: hp.LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.1)
    job = one(backend, "trap '' TERM; while :; do sleep 0.05; done", timeout=0.1)
    assert (job.state, job.exit_code) == ("Error", 137)


def test_a_task_is_tried_again_as_often_as_it_asks_each_time_with_clean_folders(
    backend: hp.LocalBackend, here: Path
) -> None:
    counter = here.parent / "counter"
    p = hp.Pipeline(backend=backend)
    t = p.new_task().retries(3)
    t.command(f"test ! -e {t.out} && test -z \"$(ls)\" && touch {t.out} mine && echo x >> '{counter}'")
    t.command(f"test $(wc -l < '{counter}') = 3 && cp '{counter}' {t.out}")
    p.write_output(t.out, "out")
    job = run(p, check=True).job(1).status()
    assert (job.state, job.n_attempts) == ("Success", 3)
    assert [attempt.number for attempt in job.attempts] == [1, 2, 3]
    assert (here / "out").read_text() == "x\nx\nx\n"


def test_output_of_a_task_that_failed_is_copied_only_if_it_asks(backend: hp.LocalBackend, here: Path) -> None:
    p = hp.Pipeline(backend=backend)
    for name in ("keeps", "shows"):
        t = p.new_task(name=name).always_copy_output(name == "shows")
        t.command(f"echo {name} > {t.out}; exit 1")
        p.write_output(t.out, name)
    run(p)
    assert [path.name for path in here.iterdir()] == ["shows"]


def test_nothing_of_a_task_runs_on_when_it_has_ended(backend: hp.LocalBackend, here: Path) -> None:
    job = one(backend, f"sleep 1000 & echo $! > {here.parent}/pid")
    assert job.state == "Success"
    pid = int((here.parent / "pid").read_text())
    until(lambda: not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text())


# Where a command runs.


def test_a_command_has_the_users_environment_an_empty_folder_and_knows_who_it_is(
    backend: hp.LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", 'it\'s "mine" ü')
    p = hp.Pipeline(backend=backend)
    p.new_task().cpu(0.5).memory("1.5Gi").env("LONGSHORE_JOB_ID", "a lie").command(
        'echo "$MINE"; ls -A; test "$PWD" != "$OLDPWD"; echo $LONGSHORE_CPU $LONGSHORE_MEMORY_BYTES'
        " $LONGSHORE_BATCH_ID/$LONGSHORE_JOB_ID/$LONGSHORE_ATTEMPT_ID; touch litter"
    )
    p.new_task().command("ls -A")
    batch = run(p, check=True)
    attempt = batch.job(1).attempts()[0]
    assert batch.job(1).log().text() == (
        f'it\'s "mine" ü\n0.5 1875000000 {batch.id}/1/{attempt.id}\n'  # Two cores are 7.5 GB.
    )
    assert batch.job(2).log().text() == ""
    assert attempt.reserved_mcpu == 500 and attempt.containers["main"].log_bytes > 0


def test_a_long_script_and_hard_characters_reach_the_shell_as_they_are(backend: hp.LocalBackend) -> None:
    hard = """'single' "double" `back` $(dollar) $$ ${x:-y} \\ \\n % {braces} !~ #hash & | ; < > * ? [a] ü☃"""
    p = hp.Pipeline(backend=backend)
    t = p.new_task()
    for i in range(300):
        t.command(f"cat <<'END' >> {t.out}\n{i} {hard} {'x' * 400}\nEND")
    t.command(f"tail -1 {t.out}; wc -l < {t.out}; cat /io/out | wc -l")
    assert run(p, check=True).job(1).log().text() == f"299 {hard} {'x' * 400}\n300\n300\n"


@given(st.text(alphabet="/io.-=I '\"$a~>\n({", max_size=30))
@example("cat /io/a '/io/b c' >/io/d --out=/io/e -I/io/f ~/io src/io /ion /io-2 $HOME/io")
def test_io_means_the_same_here_as_in_plain_processes_of_a_service(text: str) -> None:
    assert process.at_home(text, "/w/1") == process_runtime.at_home(text, "/w/1")


def test_independent_tasks_run_at_the_same_time(backend: hp.LocalBackend, here: Path) -> None:
    for name in ("a", "b"):
        os.mkfifo(here.parent / name)
    p = hp.Pipeline(backend=backend, default_timeout=30)
    p.new_task().command(f"cd '{here.parent}'; echo x > a; read y < b")
    p.new_task().command(f"cd '{here.parent}'; read y < a; echo x > b")
    assert run(p).status().state == "success"


def test_no_more_run_at_once_than_there_are_cores_for(tmp_dir: Path, here: Path) -> None:
    p = hp.Pipeline(backend=hp.LocalBackend(tmp_dir, cores=1), default_cpu=0.6)
    for _ in range(4):
        p.new_task().command(f"mkdir {here.parent}/alone; sleep 0.02; rmdir {here.parent}/alone")
    p.new_task().cpu(64).command("true")
    assert run(p).status().state == "success"


# Files.


def test_a_command_that_changes_its_input_changes_only_its_own(backend: hp.LocalBackend, here: Path) -> None:
    (here / "mine").write_text("as it was\n")
    p = hp.Pipeline(backend=backend)
    mine = p.read_input("mine")
    make = p.new_task()
    make.command(f"echo made > {make.x}")
    for name in ("a", "b"):
        t = p.new_task()
        t.command(f"cat {mine} {make.x} > {t.seen}; echo spoilt >> {mine}; echo spoilt >> {make.x}")
        p.write_output(t.seen, name)
    p.write_output(make.x, "made")
    run(p, check=True)
    assert (here / "mine").read_text() == "as it was\n"
    assert (here / "a").read_text() == (here / "b").read_text() == "as it was\nmade\n"
    assert (here / "made").read_text() == "made\n"


def test_a_file_with_one_reader_is_its_own_too(backend: hp.LocalBackend, here: Path) -> None:
    p = hp.Pipeline(backend=backend)
    a, b, c = (p.new_task() for _ in range(3))
    a.command(f"mkdir {a.tree}; echo x > {a.tree}/x; echo y > {a.tree}/y; chmod 400 {a.tree}/y")
    b.command(f"stat -c %h {a.tree}/x; echo z >> {a.tree}/x; cat {a.tree}/* > {b.out}; ln {b.out} {b.same}")
    c.command(f"cat {b.out} {b.same}; echo more >> {b.out}; wc -l < {b.same}")
    batch = run(p, check=True)
    assert batch.job(2).log().text() == "1\n"
    assert batch.job(3).log().text() == "x\nz\ny\n" * 2 + "3\n"


def test_inputs_can_be_linked(tmp_dir: Path, here: Path) -> None:
    (here / "big").write_text("big")
    (here / "link").symlink_to("big")
    p = hp.Pipeline(backend=hp.LocalBackend(tmp_dir, link_inputs=True))
    p.new_task().command(f"stat -c '%i %F' {p.read_input('big')} {p.read_input('link')}")
    inode = (here / "big").stat().st_ino
    assert run(p, check=True).job(1).log().text() == f"{inode} regular file\n" * 2


def test_folders_and_wildcards_come_as_they_do_at_a_service(backend: hp.LocalBackend, here: Path) -> None:
    for name in ("in/deep/x", "in/.hidden", "in/a b", "[x]/*.txt", "[x]/1.csv", "[x]/2.csv", "[x]/.no.csv"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    (here / "in/deep/x").chmod(0o755)
    (here / "in/to a").symlink_to("a b")
    (here / "in/around").symlink_to("deep")
    p = hp.Pipeline(backend=backend)
    p.write_output(p.read_input("in"), "out")
    t = p.new_task()
    t.command(f"cat {p.read_input('[x]/*.txt')}; cd {p.read_input('[x]/?.csv')}; ls -A")
    t.command(f"cat {p.read_input('in/d*/x')}/x")
    assert run(p, check=True).job(1).log().text() == "[x]/*.txt1.csv\n2.csv\nin/deep/x"
    assert sorted(path.relative_to(here / "out").as_posix() for path in (here / "out").rglob("*")) == sorted(
        [".hidden", "a b", "around", "around/x", "deep", "deep/x", "to a"]
    )
    assert (here / "out/to a").read_text() == "in/a b" and not (here / "out/to a").is_symlink()
    assert (here / "out/deep/x").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("not there", "{here}/not there does not exist"),
        ("n*thing", "{here}/n*thing matches nothing"),
        ("file/", "{here}/file/ is not a directory"),
        ("folder", "{here}/folder/pipe is a FIFO, not a file or directory"),
        ("loop", "{here}/loop/again is a link to a directory around it"),
        ("?/x", "{here}/a/x and {here}/b/x would both become /io/inputs/1/__x/x"),
        ("dangling", "{here}/dangling does not exist"),
    ],
)
def test_an_input_that_cannot_be_had_is_named_and_the_command_never_runs(
    backend: hp.LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, complaint: str
) -> None:
    here = tmp_path / "here"
    for folder in ("folder", "loop", "a", "b"):
        (here / folder).mkdir(parents=True)
    for file in ("file", "a/x", "b/x"):
        (here / file).touch()
    os.mkfifo(here / "folder" / "pipe")
    (here / "loop" / "again").symlink_to(here / "loop")
    (here / "dangling").symlink_to("nowhere")
    monkeypatch.chdir(here)
    p = hp.Pipeline(backend=backend)
    p.new_task().command(f"echo {p.read_input(path)} > '{here}/ran'")
    batch = run(p)
    job = batch.job(1).status()
    said = complaint.format(here=here).replace("__x", job.spec.input_files[0][1].split("/")[4])  # type: ignore[union-attr]
    assert (job.state, job.exit_code, job.reason) == ("Error", 1, said)
    assert job.containers["input"].error_kind == "files" and list(job.containers) == ["input"]
    assert batch.job(1).log("input").text() == f"error: {said}\n"
    assert not (here / "ran").exists()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("true", "/io/out does not exist"),
        ("ln -s /etc/passwd /io/out", "/io/out is a link that leads out of /io: /etc/passwd"),
        ("ln -s ../../x /io/out", "/io/out is a link that leads out of /io"),
        ("ln -s out /io/out", "/io/out: too many symbolic links"),
        ("mkfifo /io/out", "/io/out is a FIFO, not a file or directory"),
    ],
)
def test_an_output_that_is_none_is_an_error_and_the_task_has_run(
    backend: hp.LocalBackend, here: Path, command: str, complaint: str
) -> None:
    p = hp.Pipeline(backend=backend)
    t = p.new_task()
    t.command(f"{command} # {t.out}")
    p.write_output(t.out, "out")
    job = run(p).job(1).status()
    assert (job.state, job.exit_code, job.reason) == ("Error", 1, complaint)
    assert job.containers["main"].state == "Success" and job.containers["output"].state == "Error"
    assert not list(here.iterdir())


def test_links_within_io_are_followed(backend: hp.LocalBackend, here: Path) -> None:
    p = hp.Pipeline(backend=backend)
    t = p.new_task()
    t.command(f"echo x > /io/x; mkdir /io/d; ln -s /io/x {t.a}; ln -s ../x /io/d/up; ln -s d {t.b}")
    p.write_output(t.a, "a")
    p.write_output(t.b, "b")
    run(p, check=True)
    assert (here / "a").read_text() == (here / "b/up").read_text() == "x\n"
    assert not (here / "a").is_symlink() and not (here / "b").is_symlink()


def test_an_output_appears_whole_and_replaces_what_was_there(backend: hp.LocalBackend, here: Path) -> None:
    (here / "out").write_text("old")
    held = open(here / "out")  # noqa: SIM115
    p = hp.Pipeline(backend=backend)
    t = p.new_task()
    t.command(f"echo new > {t.out}")
    p.write_output(t.out, "out")
    p.write_output(t.out, "in the way")
    (here / "in the way").mkdir()
    job = run(p).job(1).status()
    assert (job.state, job.reason) == ("Error", f"{here}/in the way is a directory")
    assert (here / "out").read_text() == "new\n" and held.read() == "old"
    held.close()


# What is shown, and what is left.


def test_the_output_of_tasks_appears_in_whole_pieces(
    backend: hp.LocalBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    p = hp.Pipeline(backend=backend)
    for i in range(6):
        p.new_task().command(f"for j in 1 2 3; do echo {i}; done; printf {i} >&2")
    batch = run(p)
    captured = capfd.readouterr()
    assert sorted(captured.out.split()) == [str(i) for i in range(6) for _ in range(4)]
    assert all(f"{i}\n{i}\n{i}\n{i}\n" in captured.out for i in range(6))
    assert captured.err == ""
    assert batch.job(6).log().text() == "5\n5\n5\n5"


def test_a_text_is_looked_for_in_all_of_a_log(
    backend: hp.LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore.local.logs._CHUNK", 8)
    p = hp.Pipeline(backend=backend)
    p.new_task().command("for i in 1 2 3; do echo Line $i; done")
    log = run(p).job(1).log()
    assert [log.find("line"), log.find("line", 1), log.find("line", 14), log.find("e 3")] == [0, 7, 14, 14]
    assert [log.find("LINE", 21, backward=True), log.find("line", 14, backward=True)] == [14, 7]
    assert [log.find("line", 15), log.find("line", backward=True), log.find("e 4")] == [None, None, None]
    for text in ("", "a\nb"):
        with pytest.raises(hp.UsageError, match="text"):
            log.find(text)


def test_logs_of_any_bytes_can_be_read_in_pieces_for_as_long_as_the_handle_is_there(
    backend: hp.LocalBackend,
) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task().command("head -c 300000 /dev/zero; printf '\\377end\\nlast'")
    p.new_task().command("echo two")
    batch = run(p)
    log = batch.job(1).log()
    assert log.read() == b"\0" * 300_000 + b"\xffend\nlast"
    assert log.read(300_000, 4) == b"\xffend"[:4] and log.tail(1) == "last"
    assert batch.job(2).log().text() == "two\n"
    assert batch.job(2).log("output").text() == ""
    with pytest.raises(hp.UsageError, match="container 'mian'"):
        batch.job(2).log("mian").text()
    with pytest.raises(hp.NotFound, match="has no job 3"):
        batch.job(3).status()


def test_a_dry_run_prints_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = hp.Pipeline(backend=hp.LocalBackend(tmp_path / "not made"))
    p.new_task(name="t\x1b[2J").image("python:3.11").command("echo hello")
    assert p.run(dry_run=True) is None
    out = capsys.readouterr().out
    assert "job 1 't" in out and "in python:3.11" in out and "    | echo hello" in out and "\x1b" not in out
    assert not list(tmp_path.iterdir())


def test_a_verbose_run_prints_the_commands(
    backend: hp.LocalBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task(name="loud").command("echo $((6 * 7))")
    run(p, verbose=True)
    out = capsys.readouterr().out
    assert out.index("| echo $((6 * 7))") < out.index("42\n")


def test_the_files_of_the_tasks_stay_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = hp.Pipeline(backend=hp.LocalBackend(tmp_path))
    a, b = p.new_task(), p.new_task()
    a.command(f"echo x > {a.x}; echo y > litter")
    b.command(f"cat {a.x}; exit 1")
    run(p, delete_scratch_on_exit=False)
    (folder,) = tmp_path.iterdir()
    assert (folder / "files/1/x").read_text() == (folder / "1.1.io/x").read_text() == "x\n"
    assert (folder / "1.1.work/litter").read_text() == "y\n"
    assert (folder / "2.1.io/inputs/1/x").exists()
    assert f"note: the files of the tasks are in {folder}" in capsys.readouterr().err
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_a_command_made_unreadable_is_removed_as_well(backend: hp.LocalBackend) -> None:
    assert one(backend, "mkdir -p a/b; chmod 0 a/b a; chmod 0 .").state == "Success"
    assert one(backend, "ls -A; touch /io/x; chmod 0 /io").state == "Success"


def test_it_refuses_what_cannot_be_before_anything_runs(
    backend: hp.LocalBackend, here: Path, tmp_path: Path
) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task(name="first").command(f"touch {here.parent}/ran")
    with pytest.raises(hp.WrongType, match="no option 'wiat'.*\n.*did you mean `wait`"):
        p.run(wiat=True)  # type: ignore[call-overload]
    with pytest.raises(hp.WrongType, match="check"):
        p.run(check="yes")  # type: ignore[call-overload]
    p.new_task(name="align").command(f"cat {p.read_input('gs://bucket/a.txt')}")
    with pytest.raises(hp.UsageError, match=r"job 'align' needs 'gs://bucket/a.txt'.*\(gs://\) yet"):
        p.run()
    (tmp_path / "file").touch()
    with pytest.raises(hp.UsageError, match="cannot make a folder for the run in .*: Not a directory"):
        hp.Pipeline(backend=hp.LocalBackend(tmp_path / "file")).run()
    for bad in ({"cores": 0}, {"cores": "many"}, {"link_inputs": 1}, {"tmp_dir": 3}):
        with pytest.raises(hp.UsageError):
            hp.LocalBackend(**bad)
    assert not (here.parent / "ran").exists()


def raising(error: OSError) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse


def test_an_image_without_docker_is_refused_with_what_to_install_or_start(
    backend: hp.LocalBackend, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task().command(f"touch {here.parent}/ran")
    p.new_task(name="boxed").image("python:3.11")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nobody.sock")  # Longer paths have another fault.
    with pytest.raises(hp.Unavailable, match="'boxed' runs in Docker.*no Docker engine answers") as refused:
        p.run()
    assert "unix:///nobody.sock: No such file or directory" in refused.value.message
    assert "start its engine" in refused.value.hint
    assert "urllib3" not in "".join(traceback.format_exception(refused.value))
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", raising(PermissionError(errno.EACCES, "Permission denied")))
        with pytest.raises(hp.Unavailable, match="nobody.sock: Permission denied") as refused:
            p.run()
    assert "sudo usermod -aG docker" in refused.value.hint
    monkeypatch.delitem(sys.modules, "longshore.local.containers", raising=False)
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(hp.Unavailable, match="Python package 'docker' is not installed") as refused:
        p.run()
    assert "pip install 'longshore[docker]'" in refused.value.hint
    assert not (here.parent / "ran").exists()


def test_a_file_that_is_missing_comes_with_what_to_look_at(backend: hp.LocalBackend, here: Path) -> None:
    p = hp.Pipeline(backend=backend)
    forgets = p.new_task()
    p.write_output(forgets.command(f": {forgets.out}").out, "out")
    p.new_task().command(f"cat {p.read_input('nowhere')}")
    p.new_task().command(f"cat {p.read_input('*.none')}")
    with pytest.raises(hp.BatchFailedError) as failure:
        p.run()
    lines = [line.strip() for line in str(failure.value).splitlines()]
    hints = {re.split(" {2,}", lines[i - 1])[2]: line for i, line in enumerate(lines) if "hint: " in line}
    assert hints == {
        "/io/out does not exist, exit code 1": "hint: its commands did not write it",
        f"{here}/nowhere does not exist, exit code 1": "hint: is this input's path right?",
        f"{here}/*.none matches nothing, exit code 1": "hint: is this input's path right?",
    }


# Going on without waiting, and ending early.


def test_a_run_need_not_be_waited_for(backend: hp.LocalBackend, here: Path) -> None:
    os.mkfifo(here.parent / "go")
    p = hp.Pipeline(backend=backend)
    p.new_task(name="waits").command(f"echo begun; read x < '{here.parent}/go'; echo $x")
    p.new_task(name="after").depends_on(*p.select_tasks("waits"))
    batch = run(p, wait=False, check=True)
    job = batch.job(1)
    assert next(iter(job.log(follow=True).chunks())).data == b"begun\n"
    assert states(batch) == {"waits": "Running", "after": "Pending"}
    assert (batch.status().complete, batch.status().n_running) == (False, 1)
    with pytest.raises(hp.WaitTimeout):
        batch.wait(timeout=0.01)
    (here.parent / "go").write_text("gone on\n")
    assert job.log(follow=True).text() == "begun\ngone on\n"
    assert job.wait().state == "Success"
    assert batch.wait().state == "success"


def test_a_cancel_stops_all_but_what_always_runs(backend: hp.LocalBackend) -> None:
    p = hp.Pipeline(backend=backend)
    p.new_task(name="runs").command("echo begun; sleep 600")
    p.new_task(name="waits").depends_on(*p.select_tasks("runs"))
    p.new_task(name="cleans").depends_on(*p.select_tasks("waits")).always_run().command("echo clean")
    batch = run(p, wait=False, check=True)
    next(iter(batch.job(1).log(follow=True).chunks()))
    batch.cancel("enough")
    with pytest.raises(hp.BatchFailedError, match="was cancelled by .*: enough$"):
        batch.wait(timeout=30)
    assert states(batch) == {"runs": "Cancelled", "waits": "Cancelled", "cleans": "Success"}
    assert batch.job(1).attempts()[0].reason == "revoked"
    assert (batch.status().state, batch.status().cancel_reason) == ("cancelled", "enough")
    batch.cancel()
    with pytest.raises(hp.UsageError, match="cannot be deleted"):
        batch.delete()


STUBBORN = """
    import longshore as hp, sys
    p = hp.Pipeline(backend=hp.LocalBackend(sys.argv[1], cores=8))
    for i in range(2):
        t = p.new_task(name="runs").command("echo $$; trap '{trap}' TERM; touch {ready}.$$")
        t.command("while :; do sleep 0.1; done")
    p.new_task().always_run().depends_on(*p.select_tasks('runs')).command("touch {ran}")
    p.run()
"""


@pytest.mark.parametrize(
    ("signals", "trap", "code"),
    [
        ([signal.SIGINT], "exit 0", -signal.SIGINT),
        ([signal.SIGTERM], "exit 0", -signal.SIGTERM),
        ([signal.SIGHUP], "exit 0", -signal.SIGHUP),
        ([signal.SIGINT, signal.SIGINT], "", -signal.SIGINT),
    ],
    ids=["ctrl-c", "terminated", "hung up", "ctrl-c twice, when tasks do not heed it"],
)
def test_whoever_ends_the_program_ends_the_tasks(
    tmp_dir: Path, here: Path, signals: list[signal.Signals], trap: str, code: int
) -> None:
    ready, ran = here.parent / "ready", here.parent / "ran"
    program = textwrap.dedent(STUBBORN).format(trap=trap, ready=ready, ran=ran)
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        until(lambda: len(list(here.parent.glob("ready.*"))) == 2 or running.poll() is not None)
        tasks = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_in(pid, tmp_dir)]
        assert tasks
        for each in signals:
            running.send_signal(each)
            time.sleep(0.2 * (len(signals) - 1))  # Two at once would be one.
        out, err = running.communicate(timeout=30)
    assert running.returncode == code, err
    assert time.monotonic() - began < 20
    assert sum(map(str.isdigit, out.split())) == 2, "what they wrote is shown all the same"
    assert not [pid for pid in tasks if _is_in(str(pid), tmp_dir)]
    assert not ran.exists()


def _is_in(pid: str, folder: Path) -> bool:
    """It runs in that folder."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(str(folder))
    except OSError:
        return False


def test_a_run_on_this_machine_says_why(backend: hp.LocalBackend) -> None:
    pipeline = hp.Pipeline(name="why", backend=backend)
    first = pipeline.new_task(name="first").command("exit 3")
    second = pipeline.new_task(name="second").command("true")
    second.depends_on(first)
    batch = run(pipeline)
    assert batch.job(1).why().text == "its command ended with exit code 3"
    said = batch.job(2).why()
    assert (said.code, said.text) == ("CANCELLED", "it was cancelled: a job it depends on did not succeed")
    assert batch.why()[-1].text == "the batch is complete: 1 of 2 jobs failed"
