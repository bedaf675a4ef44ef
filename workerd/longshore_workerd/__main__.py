"""The daemon's command line: reads the flags, builds every part, starts, and stops on SIGTERM.

SIGTERM or SIGINT end workerd and leave its containers running: the next start with the same state
folder adopts them, as after a crash. With --stop-jobs-on-exit they are stopped first and their jobs
go back to the queue. Exit code 0: told to stop; 1: the controller refuses this worker; 2: bad flags,
or a state folder that does not go with them.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from uuid import uuid4

from longshore_workerd import wire
from longshore_workerd.containers import Surroundings
from longshore_workerd.daemon import Daemon
from longshore_workerd.identity import Identity, Memory
from longshore_workerd.logs import Logs
from longshore_workerd.machine import boot_id, clock_ms, offered_mcpu
from longshore_workerd.model import AttemptState
from longshore_workerd.runtime import Runtime
from longshore_workerd.session import ActivationRefused, IdentityUnknown, Introduction, Session, activate
from longshore_workerd.spool import Spool

_log = logging.getLogger("longshore_workerd")


class StateRefused(Exception):
    """The state folder does not go with what was asked for."""


def main(arguments: list[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        flags.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(flags.state_dir)
    except OSError as error:
        print(
            f"longshore-workerd: the state folder {flags.state_dir} cannot be used: {error}", file=sys.stderr
        )
        return 2
    try:
        asyncio.run(_run(flags))
        return 0
    except (ActivationRefused, IdentityUnknown) as refused:
        _complain(str(refused))
        return 1
    except StateRefused as refused:
        _complain(str(refused))
        return 2
    finally:
        os.close(lock)


async def _run(flags: argparse.Namespace) -> None:
    state_dir: Path = flags.state_dir
    memory = Memory(state_dir)
    spool = Spool(state_dir)
    _settle_runtime(flags.runtime, memory, spool, state_dir)
    rng = Random()
    introduction = Introduction(
        name=flags.name,
        boot_id=boot_id(),
        incarnation=uuid4().hex,
        version=_version(),
        capacity_mcpu=flags.cores,
        runtime=flags.runtime,
    )
    become = partial(
        activate, flags.controller, introduction, memory, _token_source(flags), rng, ca=flags.ca_file
    )
    identity = await become()
    try:
        await _serve(flags, introduction, identity, memory, spool, rng)
    except IdentityUnknown as unknown:
        why = f"{flags.controller} does not know this worker ({unknown}): the state folder {state_dir}"
        if held := spool.entries():
            raise ActivationRefused(
                f"{why} belongs to another service, and holds {len(held)} attempts of it: remove the folder, "
                "or start with another one"
            ) from unknown
        _log.warning("%s is of another service and holds nothing: activating anew", why)
        try:
            identity = await become(anew=True)
        except ActivationRefused as refused:
            raise ActivationRefused(f"{why} belongs to another service, and {refused}") from refused
        await _serve(flags, introduction, identity, memory, spool, rng)
    finally:
        spool.close()


async def _serve(
    flags: argparse.Namespace,
    introduction: Introduction,
    identity: Identity,
    memory: Memory,
    spool: Spool,
    rng: Random,
) -> None:
    """As that worker, until SIGTERM. IdentityUnknown."""
    state_dir: Path = flags.state_dir
    runtime = _runtime(flags.runtime, state_dir, identity.worker_id)
    daemon = Daemon(
        runtime=runtime,
        spool=spool,
        logs=Logs(state_dir / "attempts"),
        memory=memory,
        surroundings=Surroundings(flags.store, flags.owner, isolated=runtime.isolated),
        boot_id=introduction.boot_id,
        clock_ms=clock_ms,
        rng=rng,
        io_folders=runtime.name != "fake",
    )
    session = Session(
        flags.controller, identity, introduction, memory, daemon, clock_ms, rng, ca=flags.ca_file
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    _log.info("worker %s offers %g cores, runtime %s", identity.worker_id, flags.cores / 1000, runtime.name)
    try:
        await daemon.run(session, stopping, stop_jobs=flags.stop_jobs_on_exit)
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)


def _settle_runtime(name: str, memory: Memory, spool: Spool, state_dir: Path) -> None:
    """StateRefused while containers of another runtime may run: this one could neither see nor stop them."""
    before = memory.runtime() or name
    if before != name and (held := _held(spool)):
        raise StateRefused(
            f"{len(held)} attempts in {state_dir} were begun with --runtime {before}, and --runtime {name} "
            f"would run them a second time. Start with --runtime {before} --stop-jobs-on-exit and end it, or "
            "stop their containers yourself and remove the folder"
        )
    if memory.runtime() != name:
        memory.remember_runtime(name)


def _held(spool: Spool) -> list[str]:
    """Attempts that were accepted and have not ended."""
    return [
        attempt_id
        for attempt_id, entry in spool.entries().items()
        if entry.accepted is not None
        and (entry.report is None or wire.decode_report(entry.report).state is not AttemptState.ENDED)
    ]


def _runtime(name: str, state_dir: Path, worker_id: str) -> Runtime:
    """Each brings its own dependencies, so only the one that is used is imported."""
    if name == "docker":
        from longshore_workerd.docker_runtime import DockerRuntime

        return DockerRuntime(worker_id)
    if name == "process":
        from longshore_workerd.process_runtime import ProcessRuntime

        return ProcessRuntime(state_dir / "processes")
    from longshore_workerd.fake_runtime import FakeRuntime

    return FakeRuntime(state_dir)


def _token_source(flags: argparse.Namespace) -> Callable[[], str]:
    """A file is read at each try: it may be written, or written anew, while workerd waits."""

    def token() -> str:
        if flags.activation_token is not None:
            return str(flags.activation_token)
        if flags.activation_token_file is None:
            raise ActivationRefused("this worker is new: give it an --activation-token")
        try:
            return str(flags.activation_token_file.read_text().strip())
        except OSError as error:
            raise ActivationRefused(f"the activation token cannot be read: {error}") from error

    return token


def _lock(state_dir: Path) -> int:
    """Held until the process ends. BlockingIOError: another workerd has this state folder."""
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _version() -> str:
    try:
        return version("longshore")
    except PackageNotFoundError:
        return "0"


def _complain(what: str) -> None:
    print(f"longshore-workerd: {what}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longshore-workerd", description="Runs on this machine what a Longshore controller wants."
    )
    add = parser.add_argument
    add("--controller", metavar="HOST:PORT", required=True, type=_endpoint, help="by TLS unless it is local")
    add("--ca-file", metavar="FILE", type=_certificates, help="who vouches for the controller; PEM")
    add("--state-dir", metavar="DIR", required=True, type=Path, help="of this worker alone, kept for ever")
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--activation-token", metavar="T", help="one-time; only for a new state folder")
    token.add_argument("--activation-token-file", metavar="FILE", type=Path, help="the same, not seen by ps")
    add("--runtime", required=True, choices=["docker", "process", "fake"])
    add("--cores", metavar="N", type=_cores, default=offered_mcpu(), help="to offer; default: all")
    add("--name", default=socket.gethostname(), help="for people; default: the host's name")
    owner = f"{os.getuid()}:{os.getgid()}"
    add("--owner", metavar="UID:GID", type=_owner, default=owner, help="who reads and writes the store")
    add("--store", metavar="DIR", type=_folder, default=Path("/"), help="has the jobs' files; default: /")
    add("--stop-jobs-on-exit", action="store_true", help="else the next start adopts them")
    return parser


def _endpoint(text: str) -> str:
    if text.startswith("unix:") or re.fullmatch(r"\S+:\d{1,5}", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT or unix:PATH, e.g. 127.0.0.1:7070")


def _certificates(text: str) -> bytes:
    try:
        return Path(text).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error.strerror}") from None


def _cores(text: str) -> int:
    """In thousandths."""
    if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text) and float(text) > 0:
        return round(float(text) * 1000)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of cores, e.g. 16 or 0.5")


def _owner(text: str) -> str:
    if re.fullmatch(r"\d+:\d+", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not UID:GID in numbers, e.g. 1000:1000")


def _folder(text: str) -> Path:
    path = Path(text)
    if path.is_absolute() and path.is_dir():
        return path
    raise argparse.ArgumentTypeError(f"{text!r} is not the absolute path of a folder")


if __name__ == "__main__":
    sys.exit(main())
