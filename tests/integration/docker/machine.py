"""A runtime under test with an attempt's folder, and an engine that may be killed."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import docker
from docker.errors import DockerException
from longshore_workerd import containers, images, localizer
from longshore_workerd.runtime import Container, ContainerId, ContainerSpec, Exit, Mount, Runtime


class MemorySink:
    """A LogSink that keeps everything, and begins where it is told."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.content)

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.content += data

    def close(self) -> None:
        self.closed = True


class Machine:
    """A runtime and what it needs; everything it started is removed at the end."""

    def __init__(self, make: Callable[[], Runtime], io_folder: Path) -> None:
        self._make = make
        self.io = io_folder
        self.io.mkdir(parents=True, exist_ok=True)
        self.runtime = make()

    def spec(self, *command: str, **fields: Any) -> ContainerSpec:
        given: dict[str, Any] = {
            "id": ContainerId(token_hex(16), Container.MAIN),
            "image": images.TASK_IMAGE,
            "command": command,
            "env": {},
            "io_folder": self.io,
            "network": False,
        }
        return ContainerSpec(**(given | fields))

    async def start(self, spec: ContainerSpec) -> MemorySink:
        sink = MemorySink()
        await self.runtime.prepare(spec.image)
        await self.runtime.start(spec, sink)
        return sink

    async def run(self, *command: str, **fields: Any) -> tuple[Exit, bytes]:
        spec = self.spec(*command, **fields)
        sink = await self.start(spec)
        ended = await asyncio.wait_for(self.runtime.wait(spec.id), 60)
        assert sink.closed
        await self.runtime.remove(spec.id)
        return ended, bytes(sink.content)

    async def bash(self, script: str, **fields: Any) -> tuple[Exit, bytes]:
        return await self.run("bash", "-c", "set -e\n" + script, **fields)

    async def localize(self, direction: str, copies: list[tuple[str, str]], **env: str) -> tuple[Exit, bytes]:
        """Runs an input or output container as workerd does, with the whole machine as store."""
        told = {
            localizer.DIRECTION: direction,
            **containers.told(copies),
            localizer.STORE_PREFIX: "/host",
        }
        return await self.run(
            localizer.COMMAND,
            image=images.LOCALIZER_IMAGE,
            env=told | env,
            mounts=(Mount(Path("/"), "/host"),),
        )

    async def appears(self, name: str) -> str:
        """The content of a file of /io, once it has a whole line."""
        async with asyncio.timeout(30):
            while True:
                path = self.io / name
                if path.exists() and (text := path.read_text()).endswith("\n"):
                    return text.strip()
                await asyncio.sleep(0.01)

    async def restart(self) -> None:
        """Throws the runtime object away, as a restart of workerd does, and makes a new one."""
        await self.runtime.close()
        self.runtime = self._make()
        await self.runtime.open()

    async def clear(self) -> None:
        for found in await self.runtime.list():
            await self.runtime.remove(found.id)
        await self.runtime.close()


class Engine:
    """A Docker engine of a test's own, without networks unless it is asked for them, that may be killed."""

    def __init__(self, folder: Path, *, networks: bool = False) -> None:
        self._folder = folder
        self._networks = networks
        self.url = f"unix://{folder}/sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # One that was killed leaves these, and another process may have its number by now.
        (self._folder / "pid").unlink(missing_ok=True)
        (self._folder / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)
        flags = ["--iptables=false", "--ip-masq=false", *([] if self._networks else ["--bridge=none"])]
        for name, file in (("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")):
            flags.append(f"--{name}={self._folder / file}")
        with (self._folder / "log").open("ab") as log:
            # In a network namespace of its own, or it would take the shared engine's bridge away.
            command = ["unshare", "--net", "dockerd", *flags, f"--host={self.url}"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                docker.APIClient(base_url=self.url, timeout=5).close()
                return
            except DockerException:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def clear(self) -> None:
        """Stops it and removes all that it made on this machine."""
        api = docker.APIClient(base_url=self.url)
        for container in api.containers(all=True):
            api.remove_container(container["Id"], force=True)
        api.close()
        self.stop(signal.SIGTERM)
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in sorted((path for path in mounted if path.startswith(f"{self._folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", path], check=True)
        shutil.rmtree(self._folder)
