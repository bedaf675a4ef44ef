"""What only plain processes promise. What both runtimes do is in tests/integration/docker."""

from __future__ import annotations

import asyncio
import doctest
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex

import pytest
from integration.docker.machine import Machine, MemorySink
from longshore_workerd import process_runtime
from longshore_workerd.process_runtime import ProcessRuntime
from longshore_workerd.runtime import Container, ContainerId, ErrorKind, Exit, RuntimeRefused


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
    workerd = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTER, told)
    assert await workerd.wait() == -signal.SIGKILL

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


async def test_a_killed_shell_takes_its_command_along_and_the_end_is_unknown(machine: Machine) -> None:
    spec = machine.spec("bash", "-c", "echo $PPID >/io/shell; while :; do echo >>/io/beats; sleep 0.02; done")
    await machine.start(spec)
    os.kill(int(await machine.appears("shell")), signal.SIGKILL)
    assert not (await machine.runtime.wait(spec.id)).known
    beats = (machine.io / "beats").stat().st_size
    await asyncio.sleep(0.3)
    assert (machine.io / "beats").stat().st_size == beats


async def test_a_stray_name_among_the_processes_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    for name in ("lost+found", ".DS_Store", "-main", "a-mainly"):
        (tmp_path / "state" / name).mkdir()
    spec = machine.spec("sleep", "1000")
    await machine.start(spec)
    assert [found.id for found in await machine.runtime.list()] == [spec.id]


async def test_a_process_that_cannot_be_looked_at_leaves_no_open_file(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = machine.spec("bash", "-c", "echo up >/io/up; sleep 1000")
    await machine.start(spec)
    await machine.appears("up")

    def gone(pid: int) -> str:
        raise ProcessLookupError(pid)

    with monkeypatch.context() as blind:
        open_files = len(os.listdir("/proc/self/fd"))
        blind.setattr(process_runtime, "_stat", gone)
        assert [found.running for found in await machine.runtime.list()] == [False]
        assert len(os.listdir("/proc/self/fd")) == open_files


async def test_another_process_of_the_same_number_is_not_taken_for_ours(
    machine: Machine, tmp_path: Path
) -> None:
    id = ContainerId(token_hex(16), Container.MAIN)
    folder = tmp_path / "state" / f"{id.attempt_id}-main"
    folder.mkdir()
    fields = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")
    numbers = fields[2].split()
    numbers[19] = str(int(numbers[19]) - 1)
    (folder / "record").write_text(f"{fields[0]}) {' '.join(numbers)}\n")
    assert [found.running for found in await machine.runtime.list()] == [False]
    await machine.runtime.adopt(id, MemorySink())
    assert not (await machine.runtime.wait(id)).known
    await machine.runtime.remove(id)


async def test_a_command_does_not_see_workerds_secrets(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
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
    output = tmp_path / "state" / f"{spec.id.attempt_id}-main" / "output"
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
