"""What only plain processes promise. What both runtimes do is in tests/integration/docker."""

from __future__ import annotations

import asyncio
import doctest
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex

import pytest
from integration.docker.machine import Machine, MemorySink
from longshore_workerd import containers, keeper, keepers, localizer, process_runtime
from longshore_workerd.process_runtime import ProcessRuntime
from longshore_workerd.runtime import Container, ContainerId, EngineAway, ErrorKind, Exit, RuntimeRefused


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(lambda: ProcessRuntime(tmp_path / "state"), tmp_path / "io")
    await machine.runtime.open()
    yield machine
    await machine.clear()


STARTER = """
import asyncio, json, os, signal, sys
from pathlib import Path
from longshore_workerd.process_runtime import ProcessRuntime
from longshore_workerd.runtime import Container, ContainerId, ContainerSpec

class Sink:
    size = 0
    def write(self, data): ...
    def close(self): ...

async def main(folder, io, attempts):
    runtime = ProcessRuntime(Path(folder))
    await runtime.open()
    for n, attempt in enumerate(attempts):
        script = f"echo {n}; echo ready >>/io/ready; until [ -e /io/go ]; do sleep 0.02; done"
        script += f"; echo end; exit {n}"
        id = ContainerId(attempt, Container.MAIN)
        await runtime.start(ContainerSpec(id, "", ("bash", "-c", script), {}, Path(io)), Sink())
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*json.loads(sys.argv[1])))
"""


async def test_ten_processes_of_a_killed_workerd_are_adopted(machine: Machine, tmp_path: Path) -> None:
    attempts = [token_hex(16) for _ in range(10)]
    told = json.dumps([str(tmp_path / "state"), str(machine.io), attempts])
    await machine.runtime.close()
    workerd = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTER, told)
    assert await workerd.wait() == -signal.SIGKILL

    await machine.runtime.open()
    found = await machine.runtime.list()
    assert {each.id.attempt_id for each in found if each.running} == set(attempts)
    sinks = {each.id: MemorySink() for each in found}
    for each in found:
        await machine.runtime.adopt(each.id, sinks[each.id])
    async with asyncio.timeout(30):
        while (await asyncio.to_thread((machine.io / "ready").read_text)).count("ready") < 10:
            await asyncio.sleep(0.02)
    (machine.io / "go").touch()
    for n, attempt in enumerate(attempts):
        id = ContainerId(attempt, Container.MAIN)
        exit = await machine.runtime.wait(id)
        assert (exit.exit_code, exit.known) == (n, True)
        assert sinks[id].content == b"%d\nend\n" % n


def keeper_of(pid: int) -> int:
    """The parent of a command's process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def is_over(machine: Machine, file: str) -> bool:
    """Nothing writes to this file of /io any more."""
    size = (machine.io / file).stat().st_size
    await asyncio.sleep(0.3)
    return (machine.io / file).stat().st_size == size


BEATS = "echo $$ >/io/pid; while :; do echo >>/io/beats; sleep 0.02; done"


async def test_a_killed_keeper_takes_its_commands_along_and_their_end_is_unknown(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", BEATS)
    await machine.start(spec)
    os.kill(keeper_of(int(await machine.appears("pid"))), signal.SIGKILL)
    assert not (await machine.runtime.wait(spec.id)).known
    assert await is_over(machine, "beats")
    assert await machine.bash("exit 3") == (Exit(3), b""), "another keeper goes on"
    await machine.runtime.remove(spec.id)
    assert await machine.runtime.list() == []


async def test_what_was_asked_of_a_keeper_that_is_killed_is_not_started_a_second_time(
    machine: Machine,
) -> None:
    first = machine.spec("bash", "-c", BEATS)
    await machine.start(first)
    keeper_pid = keeper_of(int(await machine.appears("pid")))
    os.kill(keeper_pid, signal.SIGSTOP)
    spec = machine.spec("bash", "-c", "echo ran >>/io/runs")
    asked = asyncio.create_task(machine.start(spec))
    await asyncio.sleep(0)
    os.kill(keeper_pid, signal.SIGKILL)
    await asked
    assert not (await machine.runtime.wait(spec.id)).known
    assert not (machine.io / "runs").exists()


async def test_a_keeper_killed_with_its_workerd_leaves_nothing_running(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", BEATS)
    await machine.start(spec)
    pid = int(await machine.appears("pid"))
    await machine.runtime.close()
    os.kill(keeper_of(pid), signal.SIGKILL)
    await machine.restart()
    assert [found.running for found in await machine.runtime.list()] == [False]
    await machine.runtime.adopt(spec.id, MemorySink())
    assert not (await machine.runtime.wait(spec.id)).known
    assert await is_over(machine, "beats")


async def test_a_process_that_no_keeper_had_time_to_write_down_is_stopped(
    machine: Machine, tmp_path: Path
) -> None:
    folder = tmp_path / "state" / "7" / "0"
    folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"], cwd=folder) as stray:
        await machine.restart()
        assert stray.wait(30) == -signal.SIGKILL
    assert await machine.runtime.list() == []


async def test_a_keeper_ends_with_the_last_of_what_a_gone_workerd_has_started(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", "echo $$ >/io/pid; until [ -e /io/go ]; do sleep 0.02; done")
    await machine.start(spec)
    pidfd = os.pidfd_open(keeper_of(int(await machine.appears("pid"))))
    await machine.restart()
    (machine.io / "go").touch()
    await asyncio.wait_for(asyncio.to_thread(select.select, [pidfd], [], []), 30)
    os.close(pidfd)
    assert [(found.id, found.running) for found in await machine.runtime.list()] == [(spec.id, False)]


async def test_a_keeper_that_may_still_start_something_is_waited_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = machine.spec("bash", "-c", BEATS)
    await machine.start(spec)
    keeper_pid = keeper_of(int(await machine.appears("pid")))
    os.kill(keeper_pid, signal.SIGSTOP)
    await machine.runtime.close()
    with monkeypatch.context() as hasty:
        hasty.setattr(keepers, "LOCK_WITHIN_S", 0.1)
        with pytest.raises(EngineAway, match="keeper"):
            await machine.runtime.open()
    opening = asyncio.create_task(machine.runtime.open())
    os.kill(keeper_pid, signal.SIGCONT)
    await opening
    assert [(found.id, found.running) for found in await machine.runtime.list()] == [(spec.id, True)]


async def test_a_stray_name_among_the_processes_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    for name in ("lost+found", ".DS_Store", "-main", "a-mainly"):
        (tmp_path / "state" / name).mkdir()
    spec = machine.spec("sleep", "1000")
    await machine.start(spec)
    await machine.restart()
    assert [found.id for found in await machine.runtime.list()] == [spec.id]


async def test_a_process_that_cannot_be_looked_at_leaves_no_open_file(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = machine.spec("bash", "-c", "echo up >/io/up; sleep 1000")
    await machine.start(spec)
    await machine.appears("up")
    await machine.restart()
    await machine.runtime.adopt(spec.id, MemorySink())

    def gone(pid: int) -> str:
        raise ProcessLookupError(pid)

    with monkeypatch.context() as blind:
        open_files = len(os.listdir("/proc/self/fd"))
        blind.setattr(keepers, "_stat", gone)
        await machine.runtime.stop(spec.id, grace_s=0)
        assert len(os.listdir("/proc/self/fd")) == open_files
    assert [found.running for found in await machine.runtime.list()] == [True]


async def test_another_process_of_the_same_number_is_not_taken_for_ours(
    machine: Machine, tmp_path: Path
) -> None:
    id = ContainerId(token_hex(16), Container.MAIN)
    folder = tmp_path / "state" / "7"
    folder.mkdir()
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as other:
        before_ms = keeper.now_ms() - 1000
        record = keeper.Record(f"{id.attempt_id}-main", other.pid, before_ms, before_ms, before_ms)
        (folder / "records").write_bytes(record.line())
        await machine.restart()
        assert [(found.id, found.running) for found in await machine.runtime.list()] == [(id, False)]
        await machine.runtime.adopt(id, MemorySink())
        assert not (await machine.runtime.wait(id)).known
        await machine.runtime.remove(id)
        assert other.poll() is None
        other.kill()
    assert await machine.runtime.list() == []


async def test_a_command_starts_in_an_empty_folder_of_its_own(machine: Machine) -> None:
    folders = set()
    for script in ("touch a b", "mkdir c; touch c/d; chmod 0 c", "chmod 500 .", "true"):
        _, output = await machine.bash("stat -c %a .; ls -A; pwd >>/io/places; " + script)
        assert output == b"700\n"
        folders |= set((machine.io / "places").read_text().split())
    at_once = await asyncio.gather(*(machine.bash("pwd; sleep 0.2") for _ in range(3)))
    assert len({output for _, output in at_once}) == 3
    assert len(folders) == 1, "it is used again when it was cleared"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_localizers_run_one_after_the_other_in_one_process_which_can_be_stopped(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "source").write_text("cargo")
    for n in range(3):
        ended, output = await machine.localize("input", [(f"{tmp_path}/source", f"/io/{n}")])
        assert (ended, output) == (Exit(0), f"{tmp_path}/source -> /io/{n}: 5 bytes\n".encode())
    spec = machine.spec("bash", "-c", BEATS)
    await machine.start(spec)
    keeper_pid = keeper_of(command := int(await machine.appears("pid")))
    (helper,) = {*children_of(keeper_pid)} - {command}
    os.kill(helper, signal.SIGSTOP)
    stopped = machine.spec(
        localizer.COMMAND,
        env={localizer.DIRECTION: "input", **containers.told([(f"{tmp_path}/source", "/io/late")])},
    )
    await machine.start(stopped)
    assert [found.running for found in await machine.runtime.list()] == [True, True]
    await machine.runtime.stop(stopped.id, grace_s=0)
    assert await machine.runtime.wait(stopped.id) == Exit(137)
    ended, _ = await machine.localize("input", [(f"{tmp_path}/source", "/io/again")])
    assert ended == Exit(0)
    assert sorted(path.name for path in machine.io.iterdir()) == ["0", "1", "2", "again", "beats", "pid"]


async def test_a_command_does_not_see_workerds_secrets(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    await machine.restart()
    _, output = await machine.run("env", env={"MINE": "yes"})
    assert b"secret" not in output
    assert b"LC_ALL=C.UTF-8" in output
    assert b"MINE=yes" in output


async def test_a_command_has_no_open_files_but_its_own(machine: Machine) -> None:
    left_open = os.dup(0)
    os.set_inheritable(left_open, True)
    await machine.runtime.open()
    _, output = await machine.run("ls", "/proc/self/fd")
    assert output == b"0\n1\n2\n3\n", "3 is the directory that ls reads"
    os.close(left_open)


async def test_what_the_log_has_is_not_kept_twice(machine: Machine, tmp_path: Path) -> None:
    spec = machine.spec("bash", "-c", "head -c 40000000 /dev/zero; echo >/io/up; sleep 1000")
    sink = await machine.start(spec)
    await machine.appears("up")
    async with asyncio.timeout(30):
        while sink.size < 40_000_000:
            await asyncio.sleep(0.05)
    (output,) = (tmp_path / "state").glob("*/*.output")
    assert output.stat().st_size == 40_000_000
    assert output.stat().st_blocks * 512 < 17_000_000


async def test_a_command_is_a_program_and_not_the_shells_own(machine: Machine) -> None:
    _, output = await machine.run("echo", "a\\nb")
    assert output == b"a\\nb\n", "dash would have made a line break"


async def test_too_long_an_argument_is_the_users_affair(machine: Machine) -> None:
    with pytest.raises(RuntimeRefused) as refused:
        await machine.run("echo", "x" * 200_000)
    assert refused.value.kind == ErrorKind.CANNOT_START
    assert await machine.runtime.list() == []


async def test_a_folder_that_is_no_program_cannot_start(machine: Machine) -> None:
    with pytest.raises(RuntimeRefused) as refused:
        await machine.run("/tmp")
    assert refused.value.kind == ErrorKind.CANNOT_START


async def test_an_unsafe_alias_folder_is_refused(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else must not be able to say where /io is."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr(process_runtime, "_alias", lambda attempt_id: shared / attempt_id)
    folder = tmp_path / "with space"
    folder.mkdir()
    with pytest.raises(RuntimeRefused, match="not a folder of this user alone"):
        await machine.run("true", io_folder=folder)


async def test_300_commands_start_and_end_in_a_few_seconds(machine: Machine) -> None:
    async def one(n: int) -> Exit:
        async with slots:
            return (await machine.run("true"))[0]

    slots = asyncio.Semaphore(16)
    async with asyncio.timeout(30):
        assert set(await asyncio.gather(*(one(n) for n in range(300)))) == {Exit(0)}


def test_the_examples_of_its_paths_hold() -> None:
    assert doctest.testmod(process_runtime).failed == 0


def test_paths_in_quotes_lists_and_options_are_found() -> None:
    cases = {
        '"/io/a"': '"/w/a"',
        "PATH=/io/bin:/usr/bin:/io/lib": "PATH=/w/bin:/usr/bin:/w/lib",
        "f(/io)": "f(/w)",
        "{/io/a,/io/b}": "{/w/a,/w/b}",
        "</io/a>/io/b": "</w/a>/w/b",
        "`/io/run`;/io/x&&/io/y|/io/z": "`/w/run`;/w/x&&/w/y|/w/z",
    }
    others = "x:///io/x a/io/b ../io/x ./io /ioz /io.x ${D}/io $(pwd)/io"
    cases |= {same: same for same in others.split()}
    assert {text: process_runtime.at_home(text, "/w") for text in cases} == cases


def test_the_runtime_needs_no_docker() -> None:
    script = "import sys, longshore_workerd.process_runtime; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
