"""Runs containers in a Docker engine. The engine outlives workerd: labels let a restart adopt them.

Whether an end can be believed. An engine that is stopped or restarted takes its containers with it
and afterwards tells of them as if they had ended by themselves. But it closes its door before it
touches a container. So an end is known when the engine still opens the door after it, and is the
same that was seen to run the container: the connection of a witness has lasted, or the engine, which
keeps its last events in memory alone, remembers both itself. Else nobody can tell.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import LogConfig, Mount, Ulimit

from longshore_workerd import images
from longshore_workerd.docker_pull import image_refused, pull
from longshore_workerd.docker_witness import Witness
from longshore_workerd.runtime import (
    Container,
    ContainerId,
    ContainerSpec,
    EngineAway,
    ErrorKind,
    Exit,
    Found,
    LogSink,
    Prepared,
    RuntimeRefused,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPT = "longshore.attempt"
_CONTAINER = "longshore.container"
_WORKER = "longshore.worker"

_RUNNING = ("running", "paused", "restarting")
_CALL_S = 60
"""How long the engine may be silent on a call before it counts as away."""
_MEMORY_OF_AN_END_S = 2.0
"""How long after an end an engine that saw it may need to say so."""

# What root in an image needs to be root over its own files and users (apt, pip, su); nothing more.
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETFCAP", "SETGID", "SETUID"]
_PIDS_PER_CORE = 4096
# The engine refuses limits below these and one above its own cores. Who asks for so little, or of a
# worker that offers more than it has, gets the nearest.
_LEAST_MCPU = 10
_LEAST_MEMORY = 6 << 20
# Not the engine's default, which may be a billion: programs that close them all would take minutes. Nor
# more than we have ourselves: an engine on the same restricted machine could not give it.
_OPEN_FILES = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])

# docker-init starts the command, so what cannot be started is its last word and not the engine's.
_NOT_STARTED = re.compile(rb"\[FATAL tini \(\d+\)\] (exec .{1,300} failed: .{1,200})")

_AWAY = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What an engine that does not answer raises. APIError is one of them by inheritance: catch it first.

Not DockerException: the SDK raises it for what is wrong on this side, where asking again is no use."""


class _Followed:
    """One container whose output and end a thread waits for."""

    def __init__(self, name: str, sink: LogSink, stream: Any, witness: Witness | None) -> None:
        self.name = name
        self.sink = sink
        self.stream = stream
        """What is read at present; closing it from another thread ends the reading."""
        self.witness = witness
        """Of the engine that was seen to run it, from before that was seen."""
        self.head = b""
        self.started_here = stream is not None
        """Then workerd knows better than the engine's clock how long it ran."""
        self.ended: asyncio.Future[Exit]


class DockerRuntime:
    """Implements `Runtime` with the Docker engine that DOCKER_HOST or /var/run/docker.sock names.

    Logs are read as they come from an attachment made before the start. When that breaks (workerd
    or the engine went away) the rest is taken from the engine's own log: it is complete unless the
    engine's configuration rotates logs, but where standard output and error met within a
    millisecond their order can differ, and then some bytes at the seam.
    """

    name = "docker"
    isolated = True

    def __init__(self, worker_id: str, base_url: str | None = None) -> None:
        """`worker_id` marks the containers that belong to this runtime; others are not touched."""
        self._worker_id = worker_id
        self._base_url = base_url
        self._engine: Any = None
        self._engine_cores = 1
        self._present_witness: Witness | None = None
        self._witnessing = threading.Lock()
        self._calls = ThreadPoolExecutor(16, "docker call")
        self._fetches = ThreadPoolExecutor(4, "docker pull")  # may take long; no stop waits behind them
        self._followers = ThreadPoolExecutor(4096, "docker log")
        self._followed: dict[ContainerId, _Followed] = {}
        self._preparing: dict[str, asyncio.Lock] = {}
        self._own_images_current = False
        self._closing = threading.Event()

    async def open(self) -> None:
        if self._engine is None:
            engine = await self._call(self._connect)
            self._engine_cores = (await self._call(engine.info))["NCPU"]
            self._engine = engine

    async def list(self) -> list[Found]:
        return list(await self._call(self._list))

    async def prepare(self, image: str) -> Prepared:
        one_at_a_time = images.TASK_IMAGE if images.is_own(image) else image
        async with self._preparing.setdefault(one_at_a_time, asyncio.Lock()):
            if (here := await self._call(lambda: self._image_here(image))) is not None:
                return here
            return await self._call(lambda: self._fetch(image), self._fetches)

    async def start(self, spec: ContainerSpec, sink: LogSink) -> None:
        if spec.id not in self._followed:
            stream, witness = await self._call(lambda: self._start(spec))
            self._follow_in_thread(spec.id, sink, stream, witness)

    async def adopt(self, id: ContainerId, sink: LogSink) -> None:
        if id not in self._followed:
            self._follow_in_thread(id, sink, None, None)

    async def wait(self, id: ContainerId) -> Exit:
        if followed := self._followed.get(id):
            return await asyncio.shield(followed.ended)
        return Exit(None, known=False, error="there is no such container")

    async def stop(self, id: ContainerId, grace_s: float) -> None:
        if not await self._call(lambda: self._signal(id, "SIGTERM")):
            return
        if followed := self._followed.get(id):
            await asyncio.wait([followed.ended], timeout=grace_s)
            if followed.ended.done():
                return
        await self._call(lambda: self._signal(id, "SIGKILL"))

    async def remove(self, id: ContainerId) -> None:
        def remove() -> None:
            with suppress(NotFound):
                self._engine.remove_container(_name(id), force=True, v=True)

        await self._call(remove)
        if followed := self._followed.pop(id, None):
            await asyncio.wait([followed.ended])

    async def close(self) -> None:
        self._closing.set()
        pending = {followed.ended for followed in self._followed.values()}
        while pending:  # a thread may open another stream after its last one was interrupted
            for followed in self._followed.values():
                _interrupt(followed.stream)
            _, pending = await asyncio.wait(pending, timeout=0.1)
        self._followed.clear()
        self._followers.shutdown(wait=False)
        self._fetches.shutdown(wait=False, cancel_futures=True)
        self._calls.shutdown(wait=False)
        if self._present_witness is not None:
            self._present_witness.close()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    # Below this line everything runs in threads.

    async def _call(self, function: Callable[[], T], threads: ThreadPoolExecutor | None = None) -> T:
        """Runs it in a thread. EngineAway when the engine did not answer, RuntimeRefused as it is."""
        try:
            return await asyncio.get_running_loop().run_in_executor(threads or self._calls, function)
        except APIError as error:
            raise EngineAway(f"the Docker engine refused: {_words(error)}") from error
        except _AWAY as error:
            raise EngineAway(f"the Docker engine does not answer: {error}") from error

    def _connect(self) -> Any:
        """A client with connections of its own. ConnectionError when there is no engine."""
        try:
            if self._base_url is None:
                settings: dict[str, Any] = docker.utils.kwargs_from_env()
            else:
                settings = {"base_url": self._base_url}
            return docker.APIClient(timeout=_CALL_S, **settings)
        except DockerException as error:  # it asks for the version, and wraps whatever comes of that
            raise ConnectionError(str(error)) from error

    def _list(self) -> Sequence[Found]:
        labelled = {"label": f"{_WORKER}={self._worker_id}"}
        found = []
        for each in self._engine.containers(all=True, filters=labelled):
            id = ContainerId(each["Labels"][_ATTEMPT], Container[each["Labels"][_CONTAINER].upper()])
            with suppress(NotFound):
                running = self._runs(id) if each["State"] == "created" else each["State"] in _RUNNING
                found.append(Found(id, running))
        return found

    def _runs(self, id: ContainerId) -> bool:
        """Whether it runs now. NotFound when it was never started; then it never will be.

        The start of one that was made may be on its way, asked for by a workerd that was killed. The
        engine removes what does not run and starts nothing that it removes, whichever it is asked first.
        What starts and ends within the removal is gone with its end: it counts as lost.
        """
        while (state := self._engine.inspect_container(_name(id))["State"])["Status"] == "created":
            try:
                self._engine.remove_container(_name(id), v=True)
            except APIError as error:
                if error.status_code != 409:  # started just now
                    raise
        return bool(state["Running"])

    def _image_here(self, image: str) -> Prepared | None:
        """None when it is not here, or perhaps out of date."""
        if images.is_own(image) and not self._own_images_current:
            return None
        try:
            return self._inspect_image(image)
        except ImageNotFound:
            return None

    def _fetch(self, image: str) -> Prepared:
        own = images.is_own(image)
        if own:
            self._make_own_images()
        else:
            pull(self._engine, image)
        try:
            return replace(self._inspect_image(image), pulled=not own)
        except ImageNotFound as error:
            message = f"image {image!r} was removed as soon as it was here"
            raise RuntimeRefused(ErrorKind.NONE, message) from error

    def _inspect_image(self, image: str) -> Prepared:
        """ImageNotFound; RuntimeRefused when the engine does not take the name."""
        try:
            found = self._engine.inspect_image(image)
        except ImageNotFound:
            raise
        except APIError as error:
            raise image_refused(image, _words(error)) from error
        digests = [each.partition("@")[2] for each in found.get("RepoDigests") or ()]
        return Prepared(image, digest=(digests or [found["Id"]])[0])

    def _make_own_images(self) -> None:
        try:
            images.ensure(self._engine)
        except images.ImagesNotMade as error:
            raise RuntimeRefused(ErrorKind.NONE, str(error)) from error
        self._own_images_current = True

    def _witness(self) -> Witness:
        """Of the engine that answers now."""
        with self._witnessing:
            if self._present_witness is None or not self._present_witness.lasts():
                self._present_witness = Witness(self._engine)
            return self._present_witness

    def _start(self, spec: ContainerSpec) -> tuple[Any, Witness | None]:
        """Makes, attaches and starts it; the attachment and a witness. Nones when it ran already."""
        name = _name(spec.id)
        try:
            self._create(name, spec)
        except APIError as error:
            if error.status_code != 409:
                raise _start_refused(error) from error
            if self._engine.inspect_container(name)["State"]["Status"] != "created":
                return None, None
        witness = self._witness()
        stream = self._engine.attach(name, stream=True, stdout=True, stderr=True)
        try:
            self._engine.start(name)
        except APIError as error:
            _release(stream)
            with suppress(NotFound):
                self._engine.remove_container(name, force=True, v=True)
            raise _start_refused(error) from error
        except _AWAY:
            _release(stream)
            raise
        return stream, witness

    def _create(self, name: str, spec: ContainerSpec) -> None:
        mounts = [Mount("/io", str(spec.io_folder), type="bind")]
        for mount in spec.mounts:
            mounts.append(Mount(mount.target, str(mount.source), type="bind", read_only=mount.read_only))
        limits: dict[str, Any] = {"pids_limit": _PIDS_PER_CORE * max(1, -(-spec.mcpu // 1000))}
        if spec.mcpu:
            limits["nano_cpus"] = min(max(spec.mcpu, _LEAST_MCPU), 1000 * self._engine_cores) * 1_000_000
        if spec.memory_bytes:
            memory = max(spec.memory_bytes, _LEAST_MEMORY)
            # Together: no swap. Else a job could have more memory than it pays for, slowly.
            limits |= {"mem_limit": memory, "memswap_limit": memory}
        self._engine.create_container(
            spec.image,
            entrypoint=list(spec.command),  # an argv: not an argument of the image's own entrypoint
            environment=spec.env,
            user=spec.user or None,
            name=name,
            labels={
                _ATTEMPT: spec.id.attempt_id,
                _CONTAINER: spec.id.container.name.lower(),
                _WORKER: self._worker_id,
            },
            healthcheck={"test": ["NONE"]},
            host_config=self._engine.create_host_config(
                mounts=mounts,
                init=True,
                cap_drop=["ALL"],
                cap_add=_CAPABILITIES,
                security_opt=["no-new-privileges"],
                network_mode="bridge" if spec.network else "none",
                oom_score_adj=500,
                ulimits=[
                    Ulimit(name="nofile", soft=_OPEN_FILES, hard=_OPEN_FILES),
                    Ulimit(name="core", soft=0, hard=0),
                ],
                log_config=LogConfig(type=LogConfig.types.JSON, config={}),
                **limits,
            ),
        )

    def _signal(self, id: ContainerId, signal: str) -> bool:
        """False when it does not run (any more)."""
        try:
            self._engine.kill(_name(id), signal=signal)
        except APIError as error:
            if error.status_code in (404, 409):
                return False
            raise
        return True

    def _follow_in_thread(self, id: ContainerId, sink: LogSink, stream: Any, witness: Witness | None) -> None:
        followed = _Followed(_name(id), sink, stream, witness)
        followed.ended = asyncio.wrap_future(self._followers.submit(self._follow, followed))
        self._followed[id] = followed

    def _follow(self, followed: _Followed) -> Exit:
        """Moves output to the sink until the container has ended, through absences of the engine."""
        pause_s = 0.05
        while True:
            try:
                self._read_output(followed)
                state = self._end_of(followed.name)
                if state is not None:
                    result = self._exit(followed, state)
                    followed.sink.close()
                    return result
            except NotFound:
                followed.sink.close()
                return Exit(None, known=False, error="the container is gone")
            except _AWAY as error:
                log.debug("following %s: %s", followed.name, error)
            if self._closing.is_set():
                return Exit(None, known=False, error="workerd ends")  # nobody waits for it any more
            self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def _read_output(self, followed: _Followed) -> None:
        """To the end of the attachment; without one, what the engine's log has beyond the sink."""
        skip = 0
        if followed.stream is None:
            skip = followed.sink.size
            witness = self._witness()
            running = self._engine.inspect_container(followed.name)["State"]["Running"]
            if running:
                followed.witness = witness
            followed.stream = self._engine.logs(
                followed.name, stdout=True, stderr=True, stream=True, follow=running
            )
        try:
            for chunk in followed.stream:
                beyond = chunk[skip:]
                skip -= len(chunk) - len(beyond)
                if beyond:
                    if len(followed.head) < 1024:
                        followed.head += beyond[:1024]
                    followed.sink.write(beyond)
                if self._closing.is_set():
                    break
        finally:
            _release(followed.stream)
            followed.stream = None

    def _end_of(self, name: str) -> dict[str, Any] | None:
        """Its state, once it does not run; None when it does after all (it closed its outputs)."""
        for pause_s in (0.001, 0.01, 0.1, 0.5):
            state: dict[str, Any] = self._engine.inspect_container(name)["State"]
            if not state["Running"]:
                return state
            self._closing.wait(pause_s)
        return None

    def _exit(self, followed: _Followed, state: dict[str, Any]) -> Exit:
        code = int(state["ExitCode"])
        if not self._end_was_seen(followed):
            return Exit(
                None, known=False, error=f"the engine was away when the container ended (it says {code})"
            )
        ran_ms = None
        if not followed.started_here:
            ran_ms = max(0, _utc_ms(state["FinishedAt"]) - _utc_ms(state["StartedAt"]))
        kind, words = ErrorKind.NONE, ""
        if code and (fatal := _NOT_STARTED.match(followed.head)):
            kind, words = ErrorKind.CANNOT_START, f"cannot start: {fatal[1].decode(errors='replace')}"
        elif code and state["OOMKilled"]:
            limit = self._engine.inspect_container(followed.name)["HostConfig"]["Memory"]
            kind, words = ErrorKind.OUT_OF_MEMORY, f"out of memory: it used more than its {limit:,} bytes"
        return Exit(code, kind, words, ran_ms=ran_ms)

    def _end_was_seen(self, followed: _Followed) -> bool:
        """Whether the engine that answers now is the one that saw it end, and is not shutting down."""
        engine = self._connect()  # a kept connection would be served also behind the closed door
        events: Any = None
        try:
            engine.ping()
            if followed.witness is not None and followed.witness.lasts():
                return True
            events = engine.events(
                since=1,
                until=f"{time.time() + _MEMORY_OF_AN_END_S:.3f}",
                filters={"container": followed.name, "event": ["start", "kill", "die"]},
                decode=True,
            )
            seen = set()
            for event in events:
                seen.add(event["Action"])
                # An engine that finds containers of its predecessor when it starts kills them, and
                # remembers that: then it has seen the kill but not the start.
                if event["Action"] == "die":
                    return "start" in seen or "kill" not in seen
            return False
        finally:
            _release(events)
            engine.close()


def _interrupt(stream: Any) -> None:
    """Ends a stream of the SDK under the hands of the thread that reads it."""
    with suppress(*_AWAY, DockerException, AttributeError, ValueError):
        stream.close()


def _release(stream: Any) -> None:
    """Closes a stream of the SDK and its socket, which its own close() leaves to chance."""
    _interrupt(stream)
    with suppress(*_AWAY, AttributeError, ValueError):
        stream._response.close()


def _name(id: ContainerId) -> str:
    return f"longshore-{id.attempt_id}-{id.container.name.lower()}"


def _utc_ms(time: str) -> int:
    """Of the engine's RFC 3339 with nanoseconds."""
    return int(datetime.fromisoformat(time[:23].rstrip("Z") + "+00:00").timestamp() * 1000)


def _words(error: APIError) -> str:
    return str(error.explanation or error)


def _start_refused(error: APIError) -> RuntimeRefused:
    """Whose fault it is that a container could not be made or started."""
    words = _words(error)
    asked = "init was OOM-killed|cfs_quota_us.* invalid argument|Minimum memory limit|Range of CPUs"
    if re.search(asked, words):
        return RuntimeRefused(ErrorKind.CANNOT_START, f"cannot start with so little or so much: {words}")
    ours = "docker-init|mount|no space left|cgroup|network|No such image|address pool|no such device"
    if re.search(ours, words) or (error.status_code or 500) >= 500 and "exec" not in words:
        return RuntimeRefused(ErrorKind.NONE, f"the engine cannot start the container: {words}")
    return RuntimeRefused(ErrorKind.CANNOT_START, f"cannot start: {words}")
