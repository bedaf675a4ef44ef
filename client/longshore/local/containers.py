"""One command of a task with an image: a container of the Docker engine of this machine.

The only module of the client that knows Docker, and it is imported when a task asks for an image.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from docker import APIClient
from docker.auth import get_config_header, resolve_repository_name
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import LogConfig, Mount
from docker.utils import kwargs_from_env, parse_repository_tag

from .process import GRACE_S, Bell, CannotStart, Ended, Limits, wait

_CALL_S = 60
_PAUSE_S = 0.02
_SILENCE_S = 120
"""A registry that says nothing for so long does not answer."""

# As the service gives them: what root in an image needs for its own files and users, nothing more.
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETFCAP", "SETGID", "SETUID"]
_PIDS_PER_CORE = 4096
# The engine refuses limits below these.
_LEAST_MCPU = 10
_LEAST_MEMORY = 6 << 20

# docker-init starts the command, so what cannot be started is its last word and not the engine's.
_NOT_STARTED = re.compile(rb"\[FATAL tini \(\d+\)\] (exec .{1,300} failed: .{1,200})")

# What a registry says reaches us as text alone; "lookup ... not found" says the name service, of it.
_UNREACHABLE = (
    "dial tcp|lookup|no such host|connection refused|timeout|timed out|unreachable|tls|x509|eof|"
    "server misbehaving|name resolution|connection reset|too ?many ?requests|received unexpected http|"
    "service unavailable|server gave http response"
)
_REFUSALS = (
    (
        "image bad name",
        "is not the name of an image",
        "invalid reference|must be lowercase|invalid repository|invalid tag",
    ),
    (
        "image not found",
        "does not exist, here or in its registry",
        "(?!.*(dial tcp|lookup)).*(not found|manifest unknown|no such image|does not exist|name unknown"
        "|no matching manifest)",
    ),
    (
        "image no access",
        "may not be pulled: the registry refused access",
        "denied|unauthorized|no basic auth|authentication required|forbidden",
    ),
    ("image unreachable", "cannot be pulled: its registry does not answer", _UNREACHABLE),
    ("", "cannot be pulled", ""),
)


class ImageRefused(CannotStart):
    """The image cannot be had. `kind` as in `ContainerStatus.error_kind`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class NoEngine(Exception):
    """No Docker engine answers: where, and why, in words."""

    def __init__(self, message: str, what_to_do: str) -> None:
        super().__init__(message)
        self.what_to_do = what_to_do


class Engine:
    """The Docker engine that DOCKER_HOST or the usual socket names. May be used by many threads."""

    def __init__(self, connections: int) -> None:
        """Raises NoEngine."""
        try:
            self._api: Any = APIClient(
                version="auto", timeout=_CALL_S, max_pool_size=connections, **kwargs_from_env()
            )
            self._mcpu = 1000 * int(self._api.info()["NCPU"])
        except (DockerException, OSError) as error:
            where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
            cause = _of_the_system(error)
            why = str(error) if cause is None else cause.strerror
            what = "install Docker and start its engine"
            if isinstance(cause, PermissionError):
                what = "let your user in: sudo usermod -aG docker $USER, then log in again"
            raise NoEngine(f"no Docker engine answers at {where}: {why}", what) from error
        self._images: dict[str, ImageRefused | None] = {}
        self._pulling: dict[str, threading.Lock] = {}

    def close(self) -> None:
        self._api.close()

    def prepare(self, image: str) -> None:
        """The image is here, pulled if it was not. Asked once for each. Raises ImageRefused."""
        with self._pulling.setdefault(image, threading.Lock()):
            if image not in self._images:
                self._images[image] = self._fetch(image)
        if (refused := self._images[image]) is not None:
            raise refused

    def run(
        self,
        name: str,
        image: str,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        io_folder: str,
        mcpu: int,
        memory_bytes: int,
        log: str,
        limits: Limits,
    ) -> Ended:
        """Run a command in a container of that name, which is gone afterwards; its output goes to `log`.

        Raises CannotStart.
        """
        try:
            self._create(name, image, command, env, io_folder, mcpu, memory_bytes)
            try:
                return self._run(name, log, limits)
            finally:
                with suppress(NotFound):
                    self._api.remove_container(name, force=True, v=True)
        except APIError as error:
            raise CannotStart(f"cannot start: {error.explanation or error}") from error
        except (DockerException, OSError) as error:
            raise CannotStart(f"the Docker engine does not answer: {error}") from error

    def remove_files(self, image: str, folder: str) -> None:
        """Empty a folder of what root of a container left there and this user may not remove."""
        name = f"longshore-remove-{os.path.basename(folder)}"
        with suppress(DockerException, OSError):
            self._create(name, image, ["rm", "-rf", "/io"], {}, folder, 0, 0)
            try:
                self._api.start(name)
                self._api.wait(name)
            finally:
                self._api.remove_container(name, force=True, v=True)

    def _create(
        self,
        name: str,
        image: str,
        command: Sequence[str],
        env: Mapping[str, str],
        io_folder: str,
        mcpu: int,
        memory_bytes: int,
    ) -> None:
        limits: dict[str, Any] = {"pids_limit": _PIDS_PER_CORE * max(1, -(-mcpu // 1000))}
        if mcpu:
            limits["nano_cpus"] = min(max(mcpu, _LEAST_MCPU), self._mcpu) * 1_000_000
        if memory_bytes:
            memory = max(memory_bytes, _LEAST_MEMORY)
            limits |= {"mem_limit": memory, "memswap_limit": memory}
        self._api.create_container(
            image,
            entrypoint=list(command),  # Not arguments of the image's own entrypoint.
            environment=dict(env),
            name=name,
            labels={"longshore.local": str(os.getpid())},
            healthcheck={"test": ["NONE"]},
            host_config=self._api.create_host_config(
                mounts=[Mount("/io", io_folder, type="bind")],
                init=True,
                cap_drop=["ALL"],
                cap_add=_CAPABILITIES,
                security_opt=["no-new-privileges"],
                log_config=LogConfig(type="none"),
                **limits,
            ),
        )

    def _run(self, name: str, log: str, limits: Limits) -> Ended:
        """Start it, move its output to the log until it has ended, see that it heeds its limits."""
        stream = self._api.attach_socket(name, params={"stdout": 1, "stderr": 1, "stream": 1})
        frames = _Frames(stream)
        head = bytearray()
        timed_out = stopped = False
        bells = limits.stop
        try:
            self._api.start(name)
            end = None if limits.timeout_s is None else time.monotonic() + limits.timeout_s
            with open(log, "ab", buffering=0) as file:
                while True:
                    left_s = None if end is None else max(0.0, end - time.monotonic())
                    if not frames.over:
                        if wait(stream, left_s, bells):
                            for chunk in frames.read():
                                head += chunk[: 1024 - len(head)]
                                file.write(chunk)
                            continue
                    else:
                        state = self._api.inspect_container(name)["State"]
                        if not state["Running"]:
                            break
                        # It has closed its outputs, or ends just now.
                        pause_s = _PAUSE_S if left_s is None else min(left_s, _PAUSE_S)
                        wait(None, pause_s, bells)
                        if left_s != 0 and not _any_rung(bells):
                            continue
                    if bells is limits.stop:
                        stopped = _any_rung(bells)
                        timed_out = not stopped
                        self._signal(name, "SIGTERM")
                        end, bells = time.monotonic() + GRACE_S, (limits.kill,)
                    else:
                        self._signal(name, "SIGKILL")
                        end, bells = None, ()
        finally:
            stream.close()
        code = int(state["ExitCode"])
        kind = words = ""
        if code and not (timed_out or stopped):
            if fatal := _NOT_STARTED.match(head):
                kind, words = "cannot start", f"cannot start: {fatal[1].decode(errors='replace')}"
            elif state["OOMKilled"]:
                limit = self._api.inspect_container(name)["HostConfig"]["Memory"]
                kind = "out of memory"
                words = f"out of memory: it used more than its {limit:,} bytes"
        return Ended(code, timed_out, stopped, kind, words)

    def _signal(self, name: str, signal: str) -> None:
        """To one that runs; nothing to one that does not any more."""
        with suppress(APIError):
            self._api.kill(name, signal=signal)

    def _fetch(self, image: str) -> ImageRefused | None:
        try:
            self._api.inspect_image(image)
            return None
        except ImageNotFound:
            pass
        except APIError as error:
            return _refused(image, str(error.explanation or error))
        try:
            return self._pull(image)
        except (DockerException, OSError) as error:
            return _refused(image, str(error))

    def _pull(self, image: str) -> ImageRefused | None:
        # Not APIClient.pull: it would wait for ever for a registry that has fallen silent.
        repository, tag = parse_repository_tag(image)
        credentials = get_config_header(self._api, resolve_repository_name(repository)[0])
        answer = self._api.post(
            f"{self._api.base_url}/v{self._api.api_version}/images/create",
            params={"fromImage": repository, "tag": tag or "latest"},
            headers={"X-Registry-Auth": credentials} if credentials else {},
            timeout=(_CALL_S, _SILENCE_S),
            stream=True,
        )
        with answer:
            for line in answer.iter_lines():
                message = json.loads(line or "{}")
                if not answer.ok or "error" in message:
                    return _refused(image, message.get("error") or message.get("message", ""))
        return None


def _any_rung(bells: Sequence[Bell]) -> bool:
    return any(bell.rung for bell in bells)


class _Frames:
    """What a container writes, out of the frames in which the engine sends it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._head = b""
        self._left = 0
        """Bytes of the present frame that are still to come."""
        self.over = False

    def read(self) -> list[bytes]:
        """What is there now; there is something, or it is over."""
        received = os.read(self._stream.fileno(), 1 << 16)
        self.over = not received
        chunks = []
        while received:
            if self._left:
                chunk, received = received[: self._left], received[self._left :]
                self._left -= len(chunk)
                chunks.append(chunk)
            else:
                missing = 8 - len(self._head)
                self._head, received = self._head + received[:missing], received[missing:]
                if len(self._head) == 8:
                    self._left, self._head = int.from_bytes(self._head[4:]), b""
        return chunks


def _refused(image: str, words: str) -> ImageRefused:
    kind, meaning, _ = next(each for each in _REFUSALS if re.search(each[2], words, re.IGNORECASE))
    return ImageRefused(kind, f"image {image!r} {meaning} ({words.strip()})")


def _of_the_system(error: BaseException) -> OSError | None:
    """What the system said of the connection; it lies below what several libraries say of it."""
    below: BaseException | None = error
    while below:
        if isinstance(below, OSError) and below.strerror:
            return below
        below = below.__cause__ or below.__context__
    return None
