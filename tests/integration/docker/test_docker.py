"""What only Docker promises: images, limits, isolation, and the truth about an engine's absence."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import docker
import pytest
from integration.docker.machine import Engine, Machine, MemorySink
from longshore_workerd import docker_pull, images
from longshore_workerd.docker_runtime import DockerRuntime
from longshore_workerd.runtime import EngineAway, ErrorKind, Exit, RuntimeRefused
from registry import empty_registry

pytestmark = pytest.mark.docker

MB = 1_000_000


@pytest.fixture
async def on_docker(tmp_path: Path) -> AsyncIterator[Machine]:
    worker = f"test-{token_hex(8)}"
    machine = Machine(lambda: DockerRuntime(worker), tmp_path / "io")
    await machine.runtime.open()
    yield machine
    await machine.clear()


# Images.


@pytest.fixture
def registry() -> Iterator[str]:
    with empty_registry() as address:
        yield address


async def test_an_image_that_is_here_is_not_pulled(on_docker: Machine) -> None:
    prepared = await on_docker.runtime.prepare("longshore/task")
    assert not prepared.pulled
    assert prepared.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gone", ErrorKind.IMAGE_NOT_FOUND), ("secret", ErrorKind.IMAGE_NO_ACCESS)],
)
async def test_a_registrys_no_has_a_kind(
    on_docker: Machine, registry: str, name: str, kind: ErrorKind
) -> None:
    with pytest.raises(RuntimeRefused) as refused:
        await on_docker.runtime.prepare(f"{registry}/{name}:1")
    assert refused.value.kind == kind, refused.value.message
    assert f"{registry}/{name}:1" in refused.value.message


async def test_a_registry_that_is_not_there_is_unreachable(on_docker: Machine) -> None:
    with pytest.raises(RuntimeRefused) as refused:
        await on_docker.runtime.prepare("127.0.0.1:9/image:1")
    assert refused.value.kind == ErrorKind.IMAGE_UNREACHABLE, refused.value.message


async def test_a_registry_that_falls_silent_is_given_up(
    on_docker: Machine, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_pull, "_PULL_SILENCE_S", 0.5)
    with pytest.raises(RuntimeRefused) as refused:
        await asyncio.wait_for(on_docker.runtime.prepare(f"{registry}/silent:1"), 10)
    assert refused.value.kind == ErrorKind.IMAGE_UNREACHABLE, refused.value.message


async def test_a_credentials_store_that_fails_does_not_keep_an_image_from_being_asked_for(
    on_docker: Machine, registry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "broken"}')
    program = tmp_path / "docker-credential-broken"
    program.write_text("#!/bin/sh\necho the keyring is locked; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    await on_docker.restart()
    with pytest.raises(RuntimeRefused) as refused:
        await asyncio.wait_for(on_docker.runtime.prepare(f"{registry}/secret:1"), 10)
    assert refused.value.kind == ErrorKind.IMAGE_NO_ACCESS, refused.value.message
    assert "the keyring is locked" in refused.value.message


async def test_pulls_that_take_long_hold_up_nothing_else(on_docker: Machine, registry: str) -> None:
    pulls = [asyncio.create_task(on_docker.runtime.prepare(f"{registry}/silent:{n}")) for n in range(20)]
    try:
        spec = on_docker.spec("sleep", "1000")
        async with asyncio.timeout(30):
            await on_docker.start(spec)
            await on_docker.runtime.stop(spec.id, 0.1)
            assert (await on_docker.runtime.wait(spec.id)).known
        assert not any(pull.done() for pull in pulls)
    finally:
        for pull in pulls:
            pull.cancel()


@pytest.mark.parametrize("name", ["Not/Lower", "two words", "a:b:c", "x@sha256:short", "-"])
async def test_a_bad_name_is_called_one(on_docker: Machine, name: str) -> None:
    with pytest.raises(RuntimeRefused) as refused:
        await on_docker.runtime.prepare(name)
    assert refused.value.kind == ErrorKind.IMAGE_BAD_NAME, refused.value.message


async def test_the_task_image_is_a_small_unix_with_python(on_docker: Machine) -> None:
    script = """
        python3 -c 'import bz2, ctypes, hashlib, lzma, sqlite3, ssl, zlib, sys; print(sys.prefix)'
        python3 -c 'print("hä")'
        printf 'b\\na\\n' | sort | sed s/a/A/ | grep A | awk '{print $1 $1}' | tr A B
        mkdir d; echo x >d/f; tar -cz d | tar -tz | wc -l; find d -name f | xargs cat; diff d/f d/f
        sh -c 'echo $0'; stat -c %a /tmp; whoami
    """
    ended, output = await on_docker.bash(script)
    assert output.decode().split() == ["/usr", "hä", "BB", "2", "x", "sh", "1777", "root"]
    assert ended == Exit(0)


# Limits and isolation.


async def test_too_much_memory_is_an_error_that_keeps_137(on_docker: Machine) -> None:
    ended, _ = await on_docker.run("python3", "-c", "x = b'x' * 200_000_000", memory_bytes=50 * MB)
    assert (ended.exit_code, ended.error_kind, ended.known) == (137, ErrorKind.OUT_OF_MEMORY, True)
    assert "50,000" in ended.error or "49,999" in ended.error


async def test_a_child_out_of_memory_that_the_command_survives_is_a_success(on_docker: Machine) -> None:
    ended, _ = await on_docker.run(
        "bash", "-c", "python3 -c \"x = b'x' * 200_000_000\" || echo survived", memory_bytes=50 * MB
    )
    assert ended == Exit(0)


async def test_less_than_the_engine_takes_and_more_than_it_has_still_runs(on_docker: Machine) -> None:
    assert await on_docker.run("true", mcpu=5, memory_bytes=1 * MB) == (Exit(0), b"")
    assert await on_docker.run("true", mcpu=1_000_000) == (Exit(0), b"")


async def test_137_without_the_kernels_word_is_just_137(on_docker: Machine) -> None:
    assert (await on_docker.bash("exit 137", memory_bytes=50 * MB))[0] == Exit(137)


async def test_a_command_has_the_network_only_when_it_may(on_docker: Machine) -> None:
    _, without = await on_docker.bash("cat /proc/net/dev", network=False)
    _, with_it = await on_docker.bash("cat /proc/net/dev", network=True)
    assert b"eth0" not in without
    assert b"eth0" in with_it


async def test_root_in_a_container_owns_its_files_and_nothing_else(on_docker: Machine) -> None:
    script = """
        touch f; chown 12:34 f; chmod 600 f; echo x >f
        python3 -c 'import os; os.setgroups([7]); os.setgid(7); os.setuid(7); print(os.getuid())'
        mknod device c 1 3 2>&1 || echo refused
        grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | tr -d '[:space:]'
    """
    ended, output = await on_docker.bash(script)
    assert ended == Exit(0), output
    lines = output.decode().splitlines()
    assert lines[0] == "7"
    assert "refused" in lines
    assert lines[-1] == "NoNewPrivs:1Seccomp:2"


async def test_the_images_entrypoint_is_not_put_before_the_command(on_docker: Machine) -> None:
    engine = docker.APIClient()
    await on_docker.runtime.prepare(images.TASK_IMAGE)
    name = f"longshore-test/{token_hex(4)}"
    made = engine.create_container(images.TASK_IMAGE, ["true"])
    engine.commit(made, name, "1", conf={"Entrypoint": ["echo", "wrong"], "Cmd": ["again"]})
    engine.remove_container(made)
    try:
        assert await on_docker.run("echo", "right", image=f"{name}:1") == (Exit(0), b"right\n")
    finally:
        engine.remove_image(f"{name}:1")
        engine.close()


async def test_a_job_of_another_worker_is_not_listed(on_docker: Machine) -> None:
    spec = on_docker.spec("sleep", "1000")
    await on_docker.start(spec)
    other = DockerRuntime("somebody-else")
    await other.open()
    assert await other.list() == []
    await other.close()


# The engine goes away.


async def test_no_engine_is_an_engine_away(tmp_path: Path) -> None:
    runtime = DockerRuntime("w", base_url=f"unix://{tmp_path}/nothing")
    with pytest.raises(EngineAway):
        await runtime.open()
    await runtime.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_end_is_invented_when_the_engine_is_restarted(
    engine: Engine, tmp_path: Path, number: signal.Signals
) -> None:
    """One ends before, one while the engine is away, one is killed by its restart."""
    worker = f"test-{token_hex(8)}"
    machine = Machine(lambda: DockerRuntime(worker, engine.url), tmp_path / "io")
    await machine.runtime.open()
    before = machine.spec("bash", "-c", "echo one; exit 4")
    meanwhile = machine.spec(
        "bash", "-c", "trap 'exit 0' TERM; echo two; echo >/io/up; until [ -e /io/go ]; do :; done; exit 5"
    )
    long = machine.spec("bash", "-c", "echo three; sleep 1000")
    assert (await machine.runtime.prepare(images.TASK_IMAGE)).digest, "made, since it was not there"
    api = docker.APIClient(base_url=engine.url)
    api.remove_image(images.TASK_IMAGE)
    api.remove_image(images.LOCALIZER_IMAGE)
    api.close()
    sinks = [await machine.start(spec) for spec in (before, meanwhile, long)]
    assert await machine.runtime.wait(before.id) == Exit(4)
    await machine.appears("up")
    async with asyncio.timeout(30):
        while not all(sink.size for sink in sinks):
            await asyncio.sleep(0.02)
    waits = [asyncio.create_task(machine.runtime.wait(spec.id)) for spec in (meanwhile, long)]

    await asyncio.to_thread(engine.stop, number)
    (machine.io / "go").touch()
    with pytest.raises(EngineAway):
        await machine.runtime.list()
    assert not any(wait.done() for wait in waits), "the engine is away, nobody can know"
    await asyncio.to_thread(engine.start)

    ends = await asyncio.wait_for(asyncio.gather(*waits), 60)
    assert [end.known for end in ends] == [False, False], ends
    assert await machine.runtime.wait(before.id) == Exit(4)
    assert [bytes(sink.content) for sink in sinks] == [b"one\n", b"two\n", b"three\n"]
    assert await machine.run("echo", "back") == (Exit(0), b"back\n")

    await machine.restart()
    sink = MemorySink()
    await machine.runtime.adopt(long.id, sink)
    assert not (await machine.runtime.wait(long.id)).known, "nor does a restart of workerd make it known"
    await machine.clear()


@pytest.mark.slow
async def test_an_end_is_known_also_when_the_engine_has_forgotten_the_start(
    engine: Engine, tmp_path: Path
) -> None:
    """It remembers 256 events; a job that runs for long and is then stopped has only its end among them."""
    worker = f"test-{token_hex(8)}"
    machine = Machine(lambda: DockerRuntime(worker, engine.url), tmp_path / "io")
    await machine.runtime.open()
    stopped = machine.spec("bash", "-c", "trap 'exit 3' TERM; echo up >/io/up; while :; do sleep 0.1; done")
    adopted = machine.spec("bash", "-c", "trap 'exit 4' TERM; echo up >/io/up2; while :; do sleep 0.1; done")
    await machine.start(stopped)
    await machine.start(adopted)
    await machine.appears("up")
    await machine.appears("up2")

    def make_it_forget() -> None:
        api = docker.APIClient(base_url=engine.url)
        for _ in range(130):
            api.tag(images.TASK_IMAGE, "longshore-test/noise", "1")
            api.remove_image("longshore-test/noise:1", noprune=True)
        api.close()

    await asyncio.to_thread(make_it_forget)
    await machine.runtime.stop(stopped.id, 30)
    assert await machine.runtime.wait(stopped.id) == Exit(3)

    await machine.restart()
    sink = MemorySink()
    await machine.runtime.adopt(adopted.id, sink)
    await asyncio.to_thread(make_it_forget)
    await machine.runtime.stop(adopted.id, 30)
    ended = await machine.runtime.wait(adopted.id)
    assert (ended.exit_code, ended.known) == (4, True)
    await machine.clear()


@pytest.mark.parametrize("late_by_s", [None, 0.5, 0.0, 0.0])
async def test_a_start_on_its_way_from_a_killed_workerd_comes_about_or_never_will(
    tmp_path: Path, late_by_s: float | None
) -> None:
    """Else a job that was called lost, and runs elsewhere by now, would start here all the same."""
    worker_id = f"test-{token_hex(8)}"
    on_docker = Machine(lambda: DockerRuntime(worker_id), tmp_path / "io")
    await on_docker.runtime.open()
    spec = on_docker.spec("bash", "-c", "echo ran")
    name = f"longshore-{spec.id.attempt_id}-main"
    engine = docker.APIClient()

    def late_start() -> bool:
        if late_by_s is None:
            return False
        time.sleep(late_by_s)
        try:
            engine.start(name)
        except docker.errors.APIError as error:
            assert error.status_code in (404, 409), error
            return False
        return True

    labels = {
        "longshore.attempt": spec.id.attempt_id,
        "longshore.container": "main",
        "longshore.worker": worker_id,
    }
    engine.create_container(
        images.TASK_IMAGE, ["bash", "-c", "sleep 0.5; echo ran"], name=name, labels=labels
    )
    started = asyncio.create_task(asyncio.to_thread(late_start))
    found = await on_docker.runtime.list()
    if await started:
        assert [each.id for each in found] == [spec.id]
        sink = MemorySink()
        await on_docker.runtime.adopt(spec.id, sink)
        assert (await on_docker.runtime.wait(spec.id)).exit_code == 0
        assert sink.content == b"ran\n"
    else:
        assert not found
        with pytest.raises(docker.errors.NotFound):
            engine.inspect_container(name)
    engine.close()
    await on_docker.clear()
