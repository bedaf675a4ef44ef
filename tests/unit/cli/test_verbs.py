"""What looks into a batch: failures, attempts, specs, trees, parts of logs; and what looks around."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import longshore.failures
import pytest
from command_line import Run, run_in_process
from fakes_service import FakeService
from longshore import Batch, Client
from longshore.cli import doctor, recent, watch
from longshore.cli.grep import grep
from longshore.cli.output import Look
from longshore.cli.tree import Node, collapsed, drawn
from longshore.cli.verbs import VERBS, cli
from longshore_api.v1 import types_pb2 as types
from longshore_controller.core.completion import Written, of_fields
from longshore_controller.core.language import BATCHES, JOBS

Show = Callable[..., str]


def submit(client: Client, n_jobs: int = 2, name: str = "align") -> Batch:
    builder = client.create_batch(name=name)
    for i in range(n_jobs):
        builder.create_job(None, ["true"], name=f"part-{i}")
    return builder.submit()


def fork(client: Client, n: int) -> Batch:
    """One job, `n` after it, and one after these."""
    builder = client.create_batch(name="fork")
    first = builder.create_job(None, ["true"], name="split")
    parts = [builder.create_job(None, ["true"], name=f"align-{i}", parents=[first]) for i in range(n)]
    builder.create_job(None, ["true"], name="merge", parents=parts)
    return builder.submit()


def test_failures_are_grouped_by_what_is_the_same_in_them(
    run: Run, service: FakeService, client: Client
) -> None:
    submit(client, 6)
    for job_id in (1, 2, 3):
        service.finish(1, job_id, exit_code=1, log=f"begun\nKeyError: sample {job_id}\n".encode())
    service.finish(1, 4, exit_code=1, log=b"no space\n")
    service.finish(1, 5, exit_code=3, log=b"no space\n")
    ran = run("failures", "1")
    assert ran.lines[0] == "5 of 6 jobs failed:"
    groups = [line.split("×")[0].strip() for line in ran.lines if "×" in line]
    assert groups == ["3", "1", "1"] and "KeyError: sample" in ran.lines[1]
    rows = run("failures", "1", "-o", "json").document["failures"]
    assert [(row["n"], row["job"]["exit_code"]) for row in rows] == [(3, 1), (1, 1), (1, 3)]
    assert run("failures", "1", "-o", "id").lines == ["1/1", "1/4", "1/5"]


def test_very_many_failures_are_counted_by_the_service(
    run: Run, service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longshore.failures, "_LOOKED_AT", 3)
    submit(client, 6)
    for job_id in (1, 2, 3, 5):
        service.finish(1, job_id, exit_code=1, log=f"begun\nKeyError: sample {job_id}\n".encode())
    service.finish(1, 4, exit_code=3, log=b"no space\n")
    service.finish(1, 6)
    ran = run("failures", "1")
    assert ran.lines[0] == "5 of 6 jobs failed:" and "ListJobs" not in service.faults.calls
    assert ran.lines[1].split()[:5] == ["4×", "Failure", "exit", "code", "1"]
    assert [line.strip() for line in ran.lines[2:4]] == ["begun", "KeyError: sample 1"]
    assert "1×" in ran.lines[4] and "exit code 3" in ran.lines[4]
    assert not [line for line in ran.lines if "logs not read" in line or "of the first" in line]
    counts = client.failure_counts(1)
    assert counts.n_failed == 5 and [(c.n, c.job.job_id) for c in counts.counts] == [(4, 1), (1, 4)]


def test_a_shell_completes_the_fields_of_queries_without_asking_the_service() -> None:
    def offered(verb: str, incomplete: str) -> list[str]:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        (option,) = [each for each in command.params if each.name == "query"]
        return [item.value for item in option.shell_complete(click.Context(command), incomplete)]

    assert offered("jobs", "align -ex") == ["align -exit:"]
    assert offered("ls", "cr") == ["created>"] and offered("jobs", "cr") == []
    assert offered("ls", "state:fa") == []
    for verb, subject in (("jobs", JOBS), ("ls", BATCHES)):
        before = Written(0, "", "")
        assert sorted(offered(verb, "")) == sorted(found.text for found in of_fields(before, subject))


def test_no_failures_is_said(run: Run, client: Client) -> None:
    submit(client)
    ran = run("failures", "1")
    assert (ran.code, ran.out) == (0, b"") and "has failed so far" in ran.err


def test_attempts_tell_where_a_job_ran(run: Run, service: FakeService, client: Client) -> None:
    submit(client)
    service.finish(1, 1, exit_code=3)
    assert [line.split()[:2] for line in run("attempts", "1/1").lines[:2]] == [
        ["ATTEMPT", "STATE"],
        ["1", "ended"],
    ]
    assert run("attempts", "1/1", "-o", "json").document["attempts"][0]["number"] == 1
    ran = run("attempts", "1/2")
    assert (ran.code, ran.out) == (0, b"") and "has not run" in ran.err


def test_a_container_that_never_came_to_run_did_not_run(
    run: Run, service: FakeService, client: Client
) -> None:
    submit(client, 1)
    service.write(1, 1, b"")
    assert " output " not in run("get", "1/1").out.decode()
    service.write(1, 1, b"", container=3)
    assert "Pending" in next(line for line in run("get", "1/1").lines if " output " in line)
    service.batches[1].jobs[1].exit_code = None
    with service._changed:
        service.batches[1].jobs[1].state = types.JOB_STATE_ERROR
    rows = run("attempts", "1/1").lines
    assert "did not run" in next(line for line in rows if " output " in line)


def test_a_spec_is_what_was_asked_for_and_nothing_else(run: Run, client: Client) -> None:
    builder = client.create_batch()
    builder.create_job(None, ["bash", "-c", "a\nb"], input_files=[("/a b", "/io/a")])
    builder.submit()
    assert run("spec", "1/1", "-o", "json").document["spec"] == {
        "command": ["bash", "-c", "a\nb"],
        "input_files": [{"source": "/a b", "destination": "/io/a"}],
    }
    assert "  - |-\n    a\n    b\n" in run("spec", "1/1").out.decode()


def test_a_tree_puts_each_job_below_the_last_that_it_waits_for(run: Run, client: Client) -> None:
    fork(client, 2)
    assert [re.sub(r"  .*", "", line) if line[0] == "1" else line for line in run("tree", "1").lines] == [
        "1 split",
        "├─ 2 align-0  Pending",
        "└─ 3 align-1  Pending",
        "   └─ 4 merge  Pending  (also after 2)",
    ]


def test_the_tree_of_a_big_batch_has_a_line_for_each_kind_of_job(
    run: Run, service: FakeService, client: Client
) -> None:
    service._page = 1000
    fork(client, 150)
    lines = run("tree", "1").lines
    assert len(lines) == 3 and lines[1] == "└─ align-#  150 jobs: 150 Pending"
    assert len(run("tree", "1", "--all").lines) == 152
    (_, kind, _) = run("tree", "1", "-o", "json").document["tree"]
    assert kind["n_jobs"] == 150 and kind["states"] == {"Pending": 150}


def test_a_long_chain_is_drawn_without_going_far_to_the_right() -> None:
    chain = [Node(i, f"step-{i}", 1, {"Success": 1}, (i - 1,) if i > 1 else ()) for i in range(1, 5001)]
    lines = list(drawn(chain, Look()))
    assert len(lines) == 5000 and max(map(len, lines)) < 100
    (kind,) = collapsed(chain)
    assert kind.n_jobs == 5000 and kind.after == ()


def test_kinds_that_wait_for_each_other_are_drawn_once() -> None:
    nodes = [Node(i, f"{'ab'[i % 2]}-{i}", 1, {"Ready": 1}, (i - 1,) if i > 1 else ()) for i in range(1, 7)]
    assert len(list(drawn(collapsed(nodes), Look()))) == 2


@pytest.mark.parametrize(
    ("context", "found"),
    [
        (0, b"x1\nx2\nx9"),
        (1, b"a\nx1\nb\n--\nd\nx2\ne\n--\nz\nx9"),
        (9, b"a\nx1\nb\nc\nd\nx2\ne\nf\ng\nz\nx9"),
    ],
)
def test_grep_prints_lines_around_those_that_match(context: int, found: bytes) -> None:
    log = b"a\nx1\nb\nc\nd\nx2\ne\nf\ng\nz\nx9"
    for size in (1, 3, 100):
        pieces = [log[i : i + size] for i in range(0, len(log), size)]
        assert b"".join(grep(pieces, re.compile(b"^x"), context)) == found


def test_logs_can_be_searched(run: Run, service: FakeService, client: Client) -> None:
    submit(client)
    service.finish(1, 1, log=b"one\n\xff error: two\nthree\n")
    assert run("logs", "1/1", "--grep", "^..error").out == b"\xff error: two\n"
    assert run("logs", "1/1", "--grep", "error", "-C", "1").out == b"one\n\xff error: two\nthree\n"
    assert run("logs", "1/1", "--grep", "(").code == 2
    assert run("logs", "1/1", "-C", "1").code == 2
    assert run("logs", "1/1", "-a", "all").out == b"one\n\xff error: two\nthree\n"


def test_the_reason_of_a_cancelled_batch_is_said_once_on_a_terminal(
    run: Run, show: Show, service: FakeService, client: Client
) -> None:
    submit(client, 3).cancel("wrong genome")
    for job, reason in zip((1, 2), ("batch cancelled by ada", "batch cancelled"), strict=True):
        service.batches[1].jobs[job].reason = reason
    seen = show("jobs", "1")
    assert seen.count("cancelled by") == 1 and "batch cancelled by ada: wrong genome" in seen
    assert "REASON" not in seen and "REASON" in run("jobs", "1").lines[0]


def test_targets_may_be_ranges_and_names(run: Run, client: Client) -> None:
    for name in ("one", "two", "two", "the three, a/b"):
        submit(client, 1, name)
    assert run("get", "one", "-o", "json").document["batch"]["id"] == 1
    ran = run("get", "two")
    assert ran.code == 2 and "3, 2" in ran.err
    assert run("get", "wo").code == 3
    cancelled = run("cancel", "2-3,last", "99-120", "--yes", "-o", "id")
    assert cancelled.lines == ["2", "3", "4"]
    assert run("cancel", "99", "--yes").code == 3
    assert run("cancel", "200-300", "--yes").code == 3
    assert run("cancel", "1-99999999", "--yes").code == 2
    assert run("delete", "2-4", "--yes", "-o", "json").document["deleted"] == [2, 3, 4]


def test_lists_can_be_asked_for_what_matches(run: Run, client: Client) -> None:
    submit(client, name="align")
    submit(client, name="test")
    assert run("ls", "-q", "-test", "-o", "id").lines == ["1"]
    assert run("jobs", "1", "-q", "part-1", "-o", "id").lines == ["1/2"]
    assert run("ls", "-q", "colour:red").code == 2


def test_watching_a_batch_in_a_pipe_is_lines_and_ends_as_wait_does(
    run: Run, service: FakeService, client: Client
) -> None:
    submit(client, 1)
    service.finish(1, 1, exit_code=3, log=b"why\n")
    ran = run("watch", "1")
    assert ran.code == 10 and ran.out == b"" and "why" in ran.err
    assert run("watch", "1", "--ok-if-failed").code == 0 == run("wait", "1", "--ok-if-failed").code


def test_watching_on_a_terminal_draws_what_runs_and_what_failed(
    show: Show, service: FakeService, client: Client
) -> None:
    batch = submit(client, 3)
    service.write(1, 2, b"begun")
    service.finish(1, 3, exit_code=1)
    status = batch.status()
    picture = watch._picture(status, watch._worth_seeing(batch, status), Look(tty=True))
    lines = picture().plain.splitlines()
    assert lines[0].startswith("#1 align  ✗ failure, running") and " 33%  ✓ 0 ✗ 1 ▶ 1 · 1" in lines[1]
    assert [line.split()[:3] for line in lines[2:]] == [["▶", "2", "part-1"], ["✗", "3", "part-2"]]
    service.finish(1, 1)
    service.finish(1, 2)
    seen = re.sub(r"\x1b\[[\d;]*m", "", show("watch", "1"))
    assert "100%  ✓ 2 ✗ 1" in seen and "✗ 3 part-2  exit code 1" in seen


def test_wait_for_several_and_for_less_than_the_end(run: Run, service: FakeService, client: Client) -> None:
    submit(client, 2), submit(client, 1)
    service.write(1, 1, b"")
    service.finish(2, 1)
    assert run("wait", "1", "--for", "started", "-o", "json").document["batch"]["state"] == "running"
    assert run("wait", "1-2", "--timeout", "0.2").code == 124
    service.finish(1, 1, exit_code=1)
    assert run("wait", "1", "--for", "success", "--progress", "none").code == 10, "it can no longer succeed"
    service.finish(1, 2)
    ran = run("wait", "1-2", "-o", "id", "--progress", "json")
    assert (ran.code, ran.lines) == (10, ["1", "2"])
    assert all(line.startswith("{") for line in ran.err.splitlines())


def forbidden(where: str) -> str:
    raise PermissionError(errno.EACCES, "Permission denied", where)


def test_doctor_says_what_is_there_and_what_to_do(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    findings = {each["what"]: each for each in run("doctor", "-o", "json").document["findings"]}
    assert findings["endpoint"]["how"] == findings["token"]["how"] == "ok"
    assert findings["Docker"]["how"] == "note" and "start the engine" in findings["Docker"]["to_do"]
    with monkeypatch.context() as patch:
        patch.setattr("longshore.cli.doctor._engine_version", forbidden)
        findings = {each["what"]: each for each in run("doctor", "-o", "json").document["findings"]}
    assert "usermod -aG docker" in findings["Docker"]["to_do"]
    monkeypatch.setenv("LONGSHORE_TOKEN", "stolen")
    ran = run("doctor")
    assert ran.code == 4 and b"LONGSHORE_TOKEN" in ran.out
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("LONGSHORE_ENDPOINT", f"127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(doctor, "_PATIENCE_S", 0.2)
        assert run("doctor").code == 7


def test_doctor_tells_a_wrong_clock() -> None:
    now = datetime.now(UTC)
    assert doctor._clock(now, now, now).how == "ok"
    assert "90 s behind" in doctor._clock(now + timedelta(seconds=90), now, now).found
    assert "90 s ahead" in doctor._clock(now - timedelta(seconds=90), now, now).found


def test_open_prints_the_command_where_there_is_no_terminal(run: Run, client: Client) -> None:
    submit(client)
    assert run("open", "last").lines == ["longshore ui 1"]
    assert run("open", "1/2").lines == ["longshore ui 1/2"] and run("open").lines == ["longshore ui"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(run: Run, shell: str) -> None:
    assert f"_LONGSHORE_COMPLETE={shell}_complete" in run("completion", shell).out.decode()


def test_numbers_complete_from_what_was_seen_and_nobody_is_asked(
    run: Run, service: FakeService, client: Client
) -> None:
    submit(client, name="one\n\x1b[2J")
    submit(client, name="two")
    run("ls")
    assert recent.seen() == [(2, "two"), (1, "one\n\x1b[2J")]
    service.faults.calls.clear()

    def completed(words: str) -> list[str]:
        environ = {
            "_LONGSHORE_COMPLETE": "fish_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": words.split(" ")[-1],
        }
        ran = run_in_process(environ={**os.environ, **environ})
        return [line for line in ran.lines if line]

    assert completed("longshore cancel ") == ["plain,2\ttwo", "plain,1\tone \\x1b[2J"]
    assert completed("longshore logs 1") == ["plain,1\tone \\x1b[2J"]
    assert completed("longshore conf") == ["plain,config\tShow and change settings and profiles."]
    assert completed("longshore config use ") == ["plain,local"]
    assert service.faults.calls == []
    run("delete", "2", "--yes")
    assert [batch_id for batch_id, _ in recent.seen()] == [1]


def test_only_ascii_is_written_to_who_asks_for_it(show: Show, service: FakeService, client: Client) -> None:
    fork(client, 2)
    service.finish(1, 1, exit_code=1, log=b"oh\n")
    for command in ("ls", "jobs 1", "get 1", "get 1/1", "tree 1", "failures 1", "attempts 1/1", "doctor"):
        seen = show("--plain", *command.split())
        assert seen.isascii() and "\x1b" not in seen, command


def test_every_command_has_help_with_an_example(run: Run) -> None:
    import click

    names = [[name] for verbs in VERBS.values() for name in verbs]
    context = click.Context(cli)
    for (name,) in list(names):
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            names += [[name, each] for each in command.list_commands(context)]
    assert len(names) > 25
    for words in names:
        ran = run(*words, "--help")
        assert ran.code == 0 and "Example" in ran.out.decode(), words
        assert all(len(line) <= 80 for line in ran.lines), words


def test_an_attempt_that_is_stuck_is_ended_and_its_end_says_who_wanted_it(
    run: Run, service: FakeService, client: Client
) -> None:
    submit(client)
    ran = run("retry", "1/2")
    assert (ran.code, "job 1/2 is not running: it is Pending" in ran.err) == (2, True)
    service.write(1, 1, b"")
    ran = run("retry", "1/1", "--reason", "it hangs")
    assert (ran.code, ran.out) == (0, b"")
    assert "attempt 1 of job 1/1 is being stopped; the job is tried again" in ran.err
    assert "ended by ada: it hangs" in run("attempts", "1/1").out.decode()
    assert run("retry", "1/1", "--attempt", "b" * 32).code == 3
    assert run("retry", "1/1", "-o", "json").document["attempt"]["number"] == 1
    service.finish(1, 1)
    ran = run("retry", "1/1", "--attempt", "a" * 32)
    assert (ran.code, "attempt 1 of job 1/1 has ended already" in ran.err) == (0, True)


def test_deleted_batches_come_back_by_their_numbers(run: Run, service: FakeService, client: Client) -> None:
    submit(client)
    submit(client)
    assert "longshore undelete 1" in run("delete", "1", "--yes").err
    assert run("undelete", "last").code == 2
    assert run("undelete", "1-2").err.splitlines()[0] == "#1 align is in the lists again (running)"
    assert run("ls", "-o", "id").lines == ["2", "1"]
    assert run("undelete", "1", "-o", "json").document == {"schema": "longshore/v1", "undeleted": [1]}
    assert run("undelete", "7").code == 3


def test_failed_jobs_run_again_as_a_new_batch(run: Run, service: FakeService, client: Client) -> None:
    fork(client, 2)
    for job_id, code in ((1, 0), (2, 1), (3, 0)):
        service.finish(1, job_id, exit_code=code)
    assert run("rerun", "1").code == 2
    assert "is not NAME=VALUE" in run("rerun", "1", "--failed", "--set", "memory").err
    assert run("rerun", "1", "--failed", "--set", "colour=red").code == 2
    ran = run("rerun", "1", "--failed", "--set", "memory=8Gi", "--set", "retries=2")
    assert (ran.code, ran.out) == (0, b"") and "batch 2 runs 2 jobs of batch 1 again" in ran.err
    spec = service.batches[2].jobs[1].spec
    assert (spec.name, spec.resources.memory_bytes, spec.retries) == ("align-0", 8 << 30, 2)
    assert "batch 1" in next(line for line in run("get", "2").lines if line.startswith("rerun of"))
    assert "batch 2" in next(line for line in run("get", "1").lines if line.startswith("run again by"))
    assert run("rerun", "2", "--failed").code == 6
    assert run("rerun", "1", "--failed", "-o", "json").document["batch"]["rerun_of"] == 1


def test_a_rerun_that_reads_what_may_be_gone_says_so_before_it_runs(
    run: Run, service: FakeService, client: Client
) -> None:
    builder = client.create_batch()
    first = builder.create_job(None, ["true"])
    scratch = f"{service.folder}/tmp/run/1/a"
    builder.create_job(None, ["true"], parents=[first], input_files=[(scratch, "/io/a")])
    builder.submit()
    service.finish(1, 1)
    service.finish(1, 2, exit_code=1)
    ran = run("rerun", "1", "--failed")
    assert (ran.code, len(service.batches)) == (2, 1)
    assert "1 of these jobs reads intermediate files" in ran.err and "--yes does not ask" in ran.err
    assert run("rerun", "1", "--failed", "--yes").code == 0
