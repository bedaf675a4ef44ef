"""What every runtime promises: one suite, on Docker and on plain processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import docker
import pytest
from integration.docker.machine import Machine, MemorySink
from longshore_workerd.docker_runtime import DockerRuntime
from longshore_workerd.runtime import ErrorKind, Exit, RuntimeRefused


@pytest.mark.parametrize("code", [0, 1, 42, 137, 255])
async def test_the_exit_code_is_the_commands(machine: Machine, code: int) -> None:
    ended, _ = await machine.bash(f"exit {code}")
    assert ended == Exit(code)


async def test_the_first_failing_command_ends_a_task(machine: Machine) -> None:
    ended, output = await machine.bash("echo one; false; echo two")
    assert (ended.exit_code, output) == (1, b"one\n")


async def test_output_is_kept_byte_for_byte(machine: Machine) -> None:
    ended, output = await machine.run(
        "python3", "-c", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 100)"
    )
    assert ended == Exit(0)
    assert output == bytes(range(256)) * 100


async def test_standard_output_and_error_are_one_log(machine: Machine) -> None:
    _, output = await machine.bash("echo out; echo err >&2; echo again")
    assert sorted(output.split()) == [b"again", b"err", b"out"]


async def test_a_log_of_five_megabytes_is_complete(machine: Machine) -> None:
    ended, output = await machine.bash("head -c 5000000 /dev/urandom | tee /io/copy")
    assert ended == Exit(0)
    assert output == (machine.io / "copy").read_bytes()


async def test_output_arrives_while_the_command_runs(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", "echo first; until [ -e /io/go ]; do sleep 0.05; done; echo second")
    sink = await machine.start(spec)
    async with asyncio.timeout(30):
        while bytes(sink.content) != b"first\n":
            await asyncio.sleep(0.02)
    (machine.io / "go").touch()
    assert await machine.runtime.wait(spec.id) == Exit(0)
    assert sink.content == b"first\nsecond\n"


async def test_arguments_and_environment_reach_the_command_untouched(machine: Machine) -> None:
    hard = ["", " ", "a b", "$HOME", "`id`", "'\"\\", "line\nline", "*", "-c", "häß 🚢", "\x1b[31m"]
    script = "import os, sys; print(ascii(sys.argv[1:])); print(ascii(os.environ['WORD']))"
    _, output = await machine.run("python3", "-c", script, *hard, env={"WORD": "$x 'y' \"z\" ü\n"})
    argv, word = output.decode().splitlines()
    assert argv == ascii(hard)
    assert word == ascii("$x 'y' \"z\" ü\n")


async def test_files_of_io_are_the_attempts_folder(machine: Machine) -> None:
    (machine.io / "given").write_text("ship\n")
    ended, output = await machine.bash(
        'cat </io/given >/io/made; echo $WHERE; ls "$WHERE"', env={"WHERE": "/io"}
    )
    assert ended == Exit(0)
    assert (machine.io / "made").read_text() == "ship\n"
    assert output.split()[1:] == [b"given", b"made"]


async def test_a_command_that_is_not_there_cannot_start(machine: Machine) -> None:
    try:
        ended, _ = await machine.run("no-such-program", "x")
    except RuntimeRefused as refused:
        kind, words = refused.kind, refused.message
    else:
        kind, words = ended.error_kind, ended.error
    assert kind == ErrorKind.CANNOT_START
    assert "no-such-program" in words


async def test_a_command_killed_from_outside_is_just_137(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", "echo $$ >/io/pid; sleep 1000")
    await machine.start(spec)
    pid = int(await machine.appears("pid"))
    if isinstance(machine.runtime, DockerRuntime):
        engine = docker.APIClient()
        engine.kill(f"longshore-{spec.id.attempt_id}-main", signal="SIGKILL")
        engine.close()
    else:
        os.kill(pid, signal.SIGKILL)
    assert await machine.runtime.wait(spec.id) == Exit(137)


async def test_stop_lets_a_command_end_by_itself(machine: Machine) -> None:
    spec = machine.spec(
        "bash", "-c", "trap 'echo bye; exit 5' TERM; echo up >/io/up; while :; do sleep 0.05; done"
    )
    sink = await machine.start(spec)
    await machine.appears("up")
    await machine.runtime.stop(spec.id, grace_s=30)
    assert await machine.runtime.wait(spec.id) == Exit(5)
    assert sink.content.endswith(b"bye\n")


async def test_stop_kills_what_ignores_it(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", "trap '' TERM; echo up >/io/up; while :; do sleep 0.05; done")
    await machine.start(spec)
    await machine.appears("up")
    await machine.runtime.stop(spec.id, grace_s=0.2)
    assert await asyncio.wait_for(machine.runtime.wait(spec.id), 10) == Exit(137)


async def test_stopping_what_has_ended_or_never_was_does_nothing(machine: Machine) -> None:
    spec = machine.spec("true")
    await machine.start(spec)
    assert await machine.runtime.wait(spec.id) == Exit(0)
    await machine.runtime.stop(spec.id, grace_s=1)
    await machine.runtime.stop(machine.spec("true").id, grace_s=1)


async def test_a_command_that_closes_its_outputs_is_waited_for(machine: Machine) -> None:
    ended, _ = await machine.bash("exec >&- 2>&-; sleep 0.7; exit 7")
    assert ended == Exit(7)


async def test_what_a_command_leaves_behind_ends_with_it(machine: Machine) -> None:
    ended, _ = await machine.bash(
        "(while :; do echo >>/io/beats; sleep 0.02; done) & until [ -s /io/beats ]; do :; done"
    )
    assert ended == Exit(0)
    beats = (machine.io / "beats").stat().st_size
    await asyncio.sleep(0.3)
    assert (machine.io / "beats").stat().st_size == beats


async def test_starting_twice_starts_once(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", "echo ran >>/io/runs; until [ -e /io/go ]; do sleep 0.05; done")
    sink = await machine.start(spec)
    await machine.appears("runs")
    await machine.runtime.start(spec, sink)
    await machine.restart()
    await machine.runtime.start(spec, MemorySink())
    (machine.io / "go").touch()
    assert (await machine.runtime.wait(spec.id)).exit_code == 0
    assert (machine.io / "runs").read_text() == "ran\n"


async def test_a_running_command_is_adopted_with_its_log_and_exit_code(machine: Machine) -> None:
    script = "echo before >&2; echo up >/io/up; until [ -e /io/go ]; do sleep 0.05; done; seq 20000; exit 9"
    spec = machine.spec("bash", "-c", script)
    sink = await machine.start(spec)
    await machine.appears("up")
    async with asyncio.timeout(30):
        while bytes(sink.content) != b"before\n":
            await asyncio.sleep(0.02)
    await machine.restart()

    assert [(found.id, found.running) for found in await machine.runtime.list()] == [(spec.id, True)]
    again = MemorySink(bytes(sink.content))
    await machine.runtime.adopt(spec.id, again)
    (machine.io / "go").touch()
    ended = await machine.runtime.wait(spec.id)
    assert (ended.exit_code, ended.known) == (9, True)
    assert ended.ran_ms, "nobody else may have seen its start"
    assert again.content == b"before\n" + b"".join(b"%d\n" % i for i in range(1, 20001))
    assert again.closed


async def test_an_end_that_nobody_watched_is_known_afterwards(machine: Machine) -> None:
    begun = time.monotonic()
    script = "sleep 0.2; echo up >/io/up; until [ -e /io/go ]; do :; done; echo late; echo >/io/done; exit 3"
    spec = machine.spec("bash", "-c", script)
    await machine.start(spec)
    await machine.appears("up")
    await machine.runtime.close()
    (machine.io / "go").touch()
    await machine.appears("done")
    await machine.restart()
    async with asyncio.timeout(30):
        while (await machine.runtime.list())[0].running:
            await asyncio.sleep(0.02)

    sink = MemorySink()
    await machine.runtime.adopt(spec.id, sink)
    ended = await machine.runtime.wait(spec.id)
    assert (ended.exit_code, ended.known, ended.error) == (3, True, "")
    assert ended.ran_ms is not None
    assert 190 <= ended.ran_ms <= (time.monotonic() - begun) * 1000
    assert sink.content == b"late\n"


async def test_an_adopted_command_can_be_stopped(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", "echo up >/io/up; sleep 1000")
    await machine.start(spec)
    await machine.appears("up")
    await machine.restart()
    await machine.runtime.adopt(spec.id, MemorySink())
    await machine.runtime.stop(spec.id, grace_s=5)
    ended = await asyncio.wait_for(machine.runtime.wait(spec.id), 10)
    assert ended.exit_code in (137, 143)


async def test_removing_leaves_nothing(machine: Machine) -> None:
    spec = machine.spec(
        "bash", "-c", "mkdir deep; touch deep/file; chmod 0 deep; echo up >/io/up; sleep 1000"
    )
    await machine.start(spec)
    await machine.appears("up")
    await machine.runtime.remove(spec.id)
    await machine.runtime.remove(spec.id)
    assert await machine.runtime.list() == []
    assert not (await machine.runtime.wait(spec.id)).known


async def test_removing_what_runs_and_was_not_adopted_ends_it(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", "while :; do echo >>/io/beats; sleep 0.02; done")
    await machine.start(spec)
    await machine.appears("beats")
    await machine.restart()
    await machine.runtime.remove(spec.id)
    beats = (machine.io / "beats").stat().st_size
    await asyncio.sleep(0.3)
    assert (machine.io / "beats").stat().st_size == beats
    assert await machine.runtime.list() == []


async def test_what_never_was_has_no_known_end(machine: Machine) -> None:
    assert not (await machine.runtime.wait(machine.spec("true").id)).known


async def test_many_at_once_all_end_with_their_own_code(machine: Machine) -> None:
    ends = await asyncio.gather(*(machine.bash(f"echo {n}; exit {n}") for n in range(12)))
    assert ends == [(Exit(n), b"%d\n" % n) for n in range(12)]


async def test_the_localizer_moves_files_in_and_out(machine: Machine, tmp_path: Path) -> None:
    store = tmp_path / "store (ü)"
    store.mkdir()
    (store / "source file").write_text("cargo\n")
    ended, output = await machine.localize("input", [(f"{store}/source file", "/io/in/a")])
    assert ended == Exit(0), output
    ended, _ = await machine.bash("tr a-z A-Z </io/in/a >/io/b")
    assert ended == Exit(0)
    ended, output = await machine.localize("output", [("/io/b", f"{store}/new/result")])
    assert ended == Exit(0), output
    assert (store / "new" / "result").read_text() == "CARGO\n"


async def test_the_localizer_names_a_missing_source_and_exits_1(machine: Machine, tmp_path: Path) -> None:
    ended, output = await machine.localize("input", [(f"{tmp_path}/no such", "/io/a")])
    assert ended == Exit(1)
    assert output.decode() == f"error: {tmp_path}/no such does not exist\n"
