"""What scripts rely on: documents that parse, money that adds up to the nano-dollar, exit codes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran, run_in_process
from embedded import Up, job, running, submit

RATES = {  # Dollars per core and hour, as the documentation derives them.
    "compute": Fraction("0.01"),
    "disk": Fraction("0.17") * 100 / Fraction("30.4375") / 24 / 16,
    "ip": Fraction("0.00025"),
    "service": Fraction("0.01"),
}

MANY = """
batch = client.create_batch(name='many')
for cores, script in [
    ('0.1', 'sleep 0.02'), ('1', 'sleep 0.3'), ('300m', 'exit 3')
]:
    batch.create_job(None, ['bash', '-c', script], resources={'cpu': cores}, retries=2)
batch.create_job(None, ['true'], parents=[3])
batch.create_job(None, ['true'], resources={'cpu': 0.1, 'memory': '2G'})
print(batch.submit().id)
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), "--runtime", "process", "--cores", "2") as up:
        yield up


def exactly(ran: Ran) -> Any:
    """The document, with each number as it is written."""
    return json.loads(ran.out, parse_float=Decimal)


def cost_of(attempt: dict[str, Any]) -> Decimal:
    """As documented: the time of the main container × the cores; for each resource and day rounded once."""
    if attempt["started_at"] is None:
        return Decimal(0)
    start = datetime.fromisoformat(attempt["started_at"])
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    today = Fraction(round((midnight - start) / timedelta(milliseconds=1)), 1000)
    seconds = Fraction(attempt["main_s"])
    pieces = [min(seconds, today), max(Fraction(0), seconds - today)]
    nanousd = 0
    for piece in pieces:
        core_hours = Fraction(attempt["reserved_mcpu"], 1000) * piece / 3600
        nanousd += sum(int(core_hours * usd * 10**9 + Fraction(1, 2)) for usd in RATES.values())
    return Decimal(nanousd).scaleb(-9)


def test_costs_add_up_to_the_nano_dollar(up: Up, tmp_path: Path) -> None:
    batch_id = submit(up, tmp_path, MANY)
    assert up.run("wait", str(batch_id)).code == 10
    jobs = exactly(up.run("jobs", str(batch_id), "-o", "json"))["jobs"]
    batch = exactly(up.run("get", str(batch_id), "-o", "json"))["batch"]
    assert [job["n_attempts"] for job in jobs] == [1, 1, 3, 0, 1]
    assert [job["reserved_mcpu"] for job in jobs] == [100, 1000, 300, 1000, 534]
    for listed in jobs:
        whole = exactly(up.run("get", f"{batch_id}/{listed['job_id']}", "-o", "json"))["job"]
        attempts = whole["attempts"]
        assert [attempt["cost"]["usd"] for attempt in attempts] == list(map(cost_of, attempts))
        assert listed["cost"] == whole["cost"] == {"usd": sum(map(cost_of, attempts))}
        assert listed["duration_s"] == sum(attempt["main_s"] for attempt in attempts)
        mcpu_ms = sum(attempt["main_s"] * 1000 * attempt["reserved_mcpu"] for attempt in attempts)
        assert listed["msec_mcpu"] == mcpu_ms
    assert batch["cost"]["usd"] == sum(job["cost"]["usd"] for job in jobs) > 0
    assert batch["msec_mcpu"] == sum(job["msec_mcpu"] for job in jobs)
    assert float(sum(RATES.values())) == pytest.approx(0.02170, abs=0.00001)


def test_every_document_parses_and_says_its_schema(up: Up, tmp_path: Path) -> None:
    batch = str(submit(up, tmp_path, job("echo hello")))
    for command, key in [
        (["wait", batch], "batch"),
        (["get", batch], "batch"),
        (["get", "last/1"], "job"),
        (["ls"], "batches"),
        (["jobs", batch], "jobs"),
        (["cancel", batch, "--yes"], "batches"),
        (["version"], "service"),
        (["failures", batch], "failures"),
        (["attempts", "last/1"], "attempts"),
        (["spec", "last/1"], "spec"),
        (["tree", batch], "tree"),
        (["whoami"], "user"),
        (["config", "show"], "settings"),
        (["doctor"], "findings"),
        (["delete", batch, "--yes"], "deleted"),
    ]:
        ran = up.run(*command, "-o", "json")
        assert ran.code == 0, f"{command}: {ran.err}"
        document = ran.document
        assert document["schema"] == "longshore/v1" and key in document, command


def test_exit_codes_say_what_became_of_it(up: Up, tmp_path: Path) -> None:
    good, bad = submit(up, tmp_path, job("true")), submit(up, tmp_path, job("exit 3"))
    program = tmp_path / "own.py"
    program.write_text("raise SystemExit(7)")
    for command, code in [
        (["wait", f"{good}"], 0),
        (["wait", f"{bad}"], 10),
        (["wait", f"{bad}/1"], 10),
        (["get", f"{bad}"], 0),
        (["get", f"{good + 1_000}"], 3),
        (["get", f"{good}/2"], 3),
        (["logs", f"{good}/2"], 3),
        (["cancel", f"{good}", "--yes"], 0),
        (["cancel", f"{good}/1", "--yes"], 2),
        (["get", "what"], 3),
        (["get", "what/ever"], 2),
        (["run", "--", "bash", "-c", "exit 42"], 42),
        (["run", "--cpu", "1000", "--", "true"], 2),
        (["run", "--image", "", "--", "no-such-program"], 125),
        (["gt", "1"], 2),
        (["submit", str(tmp_path / "missing.py")], 2),
        (["submit", str(program)], 7),
    ]:
        ran = up.run(*command)
        assert ran.code == code, f"{command}: {ran.err}"
        assert code not in (2, 3) or (ran.err and not ran.out), f"{command}: only why not is said"


def test_a_command_runs_with_its_files_as_on_ones_own_machine(up: Up, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("c\nb\na\n")
    ran = up.run(
        *("run", "--in", f"{tmp_path}/in", "--out", f"sorted={tmp_path}/out", "-e", "WORD=done"),
        *("--", "bash", "-c", "sort /io/in > /io/sorted; echo $WORD"),
    )
    assert (ran.code, ran.out) == (0, b"done\n"), ran.err + up.logs()
    assert (tmp_path / "out").read_text() == "a\nb\nc\n"


def test_what_matches_a_query_is_listed(up: Up, tmp_path: Path) -> None:
    good, bad = submit(up, tmp_path, job("true")), submit(up, tmp_path, job("exit 3"))
    assert up.run("wait", f"{good},{bad}").code == 10
    assert str(bad) in up.run("ls", "-q", "one state:failure", "-o", "id").lines
    assert str(good) not in up.run("ls", "-q", "one state:failure", "-o", "id").lines
    assert up.run("jobs", f"{bad}", "-q", "only -other", "-o", "id").lines == [f"{bad}/1"]
    ran = up.run("ls", "-q", "colour:red")
    assert ran.code == 2 and "colour" in ran.err


def test_waiting_ends_with_what_it_waited_for_or_with_its_time(up: Up, tmp_path: Path) -> None:
    batch = str(submit(up, tmp_path, job("sleep 600")))
    assert up.run("wait", batch, "--timeout", "0.1").code == 124
    assert up.run("delete", batch).code != 0, "nobody is there to be asked"
    assert up.run("cancel", batch, "--yes").code == 0
    assert up.run("wait", batch).code == 11
    assert up.run("wait", f"{batch}/1").code == 11


def test_who_is_not_known_is_told_4_and_where_nobody_answers_7(up: Up) -> None:
    endpoint = json.loads((up.folder / "service.json").read_text())["endpoint"]
    stranger = run_in_process(
        "ls",
        "-o",
        "json",
        environ={**up.environ, "LONGSHORE_ENDPOINT": endpoint, "LONGSHORE_TOKEN": "made up"},
    )
    assert stranger.code == 4 and stranger.out == b""
    error = json.loads(stranger.err)
    assert error["schema"] == "longshore/v1" and error["error"]["hint"]
    nowhere = run_in_process("ls", environ={**up.environ, "LONGSHORE_HOME": str(up.folder / "empty")})
    assert nowhere.code == 7 and "longshore up" in nowhere.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # And nobody listens.
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        silent = run_in_process(
            "version", environ={**up.environ, "LONGSHORE_ENDPOINT": address, "LONGSHORE_TOKEN": "x"}
        )
    assert silent.code == 0 and "no service" in silent.err and address in silent.err
