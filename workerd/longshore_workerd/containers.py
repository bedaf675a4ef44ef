"""PURE. What each of an attempt's three containers is: image, command, environment, mounts."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from longshore_workerd.model import Assignment
from longshore_workerd.runtime import Container, ContainerId, ContainerSpec, Mount

DEFAULT_IMAGE = "longshore/task:latest"
"""Of tasks that name none."""
LOCALIZER_IMAGE = "longshore/localizer:latest"
LOCALIZER_COMMAND = ("longshore-localizer",)
VARIABLE = 100_000
"""Characters of one environment variable at most: Linux ends at 128 KiB."""
STORE_PREFIX = "/host"
"""Where a localizer finds the store when the store is the whole machine."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all attempts of this worker."""

    store: Path
    """Files of jobs lie below it."""
    owner: str
    """uid:gid with which files of the store are read and written."""
    isolated: bool
    """Containers see only their mounts; otherwise they see the machine as it is."""
    default_image: str = DEFAULT_IMAGE
    localizer_image: str = LOCALIZER_IMAGE


def container_spec(
    job: Assignment, container: Container, io_folder: Path, surroundings: Surroundings
) -> ContainerSpec:
    if container is Container.MAIN:
        return _main(job, io_folder, surroundings)
    return _localizer(job, container, io_folder, surroundings)


def may_see_io(spec: ContainerSpec, surroundings: Surroundings) -> bool:
    """Whether it needs its folder: what sees the machine as it is finds it only where it was told."""
    return surroundings.isolated or any("/io" in text for text in (*spec.command, *spec.env.values()))


def _main(job: Assignment, io_folder: Path, surroundings: Surroundings) -> ContainerSpec:
    return ContainerSpec(
        id=ContainerId(job.attempt_id, Container.MAIN),
        image=job.image or surroundings.default_image,
        command=job.command,
        env={
            **job.env,
            "LONGSHORE_BATCH_ID": str(job.batch_id),
            "LONGSHORE_JOB_ID": str(job.job_id),
            "LONGSHORE_ATTEMPT_ID": job.attempt_id,
            "LONGSHORE_CPU": f"{job.mcpu / 1000:g}",
            "LONGSHORE_MEMORY_BYTES": str(job.memory_bytes),
        },
        io_folder=io_folder,
        mcpu=job.mcpu,
        memory_bytes=job.memory_bytes,
    )


def _localizer(
    job: Assignment, container: Container, io_folder: Path, surroundings: Surroundings
) -> ContainerSpec:
    """It needs no network: the store is a folder of this machine."""
    copies = job.input_files if container is Container.INPUT else job.output_files
    store = surroundings.store
    env = {
        "LONGSHORE_DIRECTION": container.name.lower(),
        **told((copy.source, copy.destination) for copy in copies),
        "LONGSHORE_OWNER": surroundings.owner,
        "LONGSHORE_STORE": str(store),
        "LONGSHORE_IO": "/io",
    }
    mounts: tuple[Mount, ...] = ()
    if surroundings.isolated:
        prefix = STORE_PREFIX if store == Path("/") else ""
        env["LONGSHORE_STORE_PREFIX"] = prefix
        mounts = (Mount(store, prefix or str(store), read_only=container is Container.INPUT),)
    return ContainerSpec(
        id=ContainerId(job.attempt_id, container),
        image=surroundings.localizer_image,
        command=LOCALIZER_COMMAND,
        env=env,
        io_folder=io_folder,
        mounts=mounts,
        network=False,
    )


def told(copies: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The variables that tell the localizer of sources and destinations, as it reads them.

    They are few and short where paths are alike, which they are where a job has thousands.
    """
    paths = "\0".join(path for copy in copies for path in copy)
    text = b64encode(zlib.compress(paths.encode())).decode()
    pieces = [text[at : at + VARIABLE] for at in range(0, len(text), VARIABLE)]
    return {f"LONGSHORE_COPIES_{n}" if n else "LONGSHORE_COPIES": piece for n, piece in enumerate(pieces)}
