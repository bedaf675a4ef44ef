"""`longshore up`: the whole service on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import re
import time
from importlib.util import find_spec
from pathlib import Path

import click

from ..discovery import ServiceAddress, home_folder
from ..errors import BatchError
from . import words
from .children import Child, Ended, how, next_signal, signals_waited_for
from .embedded import EmbeddedService, Plan, occupied, user
from .output import Look, say

_BYTES_PER_CORE = 3_750_000_000
_PARTS = {"peewee": "controller", "structlog": "controller", "docker": "workerd"}
_QUIET_S = 1.5
"""What takes no longer needs no announcement."""

_NO_ISOLATION = (
    "jobs run as plain processes of {user}, without Docker: no isolation, no limits of memory or cores, "
    "and their images are ignored"
)


@click.command("up", epilog="Example: longshore up --cores 2 --runtime process")
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything is kept. Default: LONGSHORE_HOME or ~/.local/state/longshore/up.",
)
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=0,
    help="To listen at, on this machine only. Default: the last one, or any that is free.",
)
@click.option(
    "--cores",
    metavar="N",
    type=click.FloatRange(0, 10_000, min_open=True),
    help="To offer to jobs. Default: all, as far as the memory goes with 3.75 GB for each.",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "docker", "process"]),
    default="auto",
    show_default=True,
    help="What runs jobs; auto is docker where an engine answers.",
)
@click.option("--database", metavar="URL", default="", help="postgresql://… instead of SQLite.")
def command(folder: Path | None, port: int, cores: float | None, runtime: str, database: str) -> None:
    """Run the whole service on this machine: controller, worker, database.

    It listens to nobody but this machine, and its programs find it by themselves. Ctrl-C ends it; jobs
    that run then are stopped, and run again with the next `longshore up`.
    """
    _check_installed()
    place = (folder or home_folder()).absolute()
    mcpu, notices = _offer(cores)
    try:
        with signals_waited_for(), occupied(place) as lock:
            chosen, notice = _choose_runtime(runtime, place, lock)
            plan = Plan(chosen, mcpu, port, database, tuple(filter(None, (notice, *notices))))
            service = EmbeddedService(place, plan, lock)
            try:
                address = service.start()
                _banner(address, place, plan)
                service.watch()
            except Ended:
                say("stopping: running jobs end now, and run again with the next `longshore up`")
            finally:
                service.stop()
    except Ended:
        pass
    except OSError as error:
        raise BatchError(
            f"{place} cannot be used: {error}", hint="another folder: longshore up --dir FOLDER"
        ) from error


def _check_installed() -> None:
    missing = [package for package in _PARTS if find_spec(package) is None]
    if missing:
        raise click.ClickException(
            f"the service is not installed ({', '.join(missing)} missing): pip install 'longshore[all]'"
        )


def _offer(cores: float | None) -> tuple[int, list[str]]:
    """What this machine offers, in thousandths of a core, and what is to be said about it."""
    if cores is not None:
        return max(1, round(cores * 1000)), []
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mcpu = offered_mcpu(len(os.sched_getaffinity(0)), memory_bytes)
    if memory_bytes >= _BYTES_PER_CORE:
        return mcpu, []
    has = words.size(memory_bytes, Look(tty=True))
    return mcpu, [f"this machine has {has} of memory, and one core promises 3.75 GB: a job may run out of it"]


def offered_mcpu(n_cores: int, memory_bytes: int) -> int:
    """Its cores, as far as its memory goes with 3.75 GB for each, in tenths of a core; at least one.

    >>> offered_mcpu(8, 16_000_000_000), offered_mcpu(2, 16_000_000_000), offered_mcpu(2, 1_000_000_000)
    (4200, 2000, 1000)
    """
    by_memory = memory_bytes * 10 // _BYTES_PER_CORE * 100
    return max(1000, min(n_cores * 1000, by_memory))


def _choose_runtime(wanted: str, folder: Path, lock: int) -> tuple[str, str]:
    """``docker`` with its images there, or ``process`` with the notice that it needs.

    Raises BatchError when Docker is wanted and cannot be used.
    """
    isolation = _NO_ISOLATION.format(user=user())
    if wanted == "process":
        return "process", isolation
    making = Child("maker of images", "longshore_workerd.images", folder / "images.log", lock)
    making.start([], dict(os.environ))
    announce_at = time.monotonic() + _QUIET_S
    try:
        while (code := making.exit_code()) is None:
            if time.monotonic() >= announce_at:
                say("making the images longshore/task and longshore/localizer from this machine, once")
                announce_at = float("inf")
            next_signal(_QUIET_S)
    except Ended:
        making.stop(0)
        raise
    if code == 0:
        return "docker", ""
    why = making.last_words(3).strip().removeprefix("error: ") or how(code)
    if wanted == "docker":
        raise BatchError(
            f"Docker cannot be used: {why}",
            hint="longshore doctor says what to do; without Docker: longshore up --runtime process",
        )
    say(f"Docker cannot be used: {why} (what to do: longshore doctor)")
    return "process", isolation


def _banner(address: ServiceAddress, folder: Path, plan: Plan) -> None:
    for notice in plan.notices:
        _shout(notice)
    say("Longshore is up.", colour="green")
    say(f"  endpoint   {address.endpoint}, for this machine only")
    say(f"  runtime    {plan.runtime}")
    say(f"  cores      {words.number_of_cores(plan.mcpu)}")
    say(f"  folder     {folder}")
    if plan.database:
        say(f"  database   {_without_password(plan.database)}")
    if folder != home_folder().absolute():
        say(f"In another terminal, first:  export LONGSHORE_HOME={folder}")
    say("  run        python YOUR_PROGRAM.py, or: longshore submit YOUR_PROGRAM.py")
    say("  look       longshore ui")
    say("  stop       Ctrl-C")


def _shout(notice: str) -> None:
    say(f"*** {notice[0].upper()}{notice[1:]}. ***", colour="yellow")


def _without_password(url: str) -> str:
    """
    >>> _without_password('postgresql://ada:secret@db/longshore')
    'postgresql://ada@db/longshore'
    """
    return re.sub(r"(?<=//)([^:@/]*):[^@/]*@", r"\1@", url)
