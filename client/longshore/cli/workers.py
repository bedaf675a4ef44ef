"""`longshore workers`: the machines that run jobs, and draining them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..errors import NotFound, UsageError
from ..service import Client
from ..status import WorkerStatus
from . import words
from .connection import connect
from .draining import say_what_is_left, wait_option
from .formats import Listing, list_options, output_option, write_list, write_one
from .output import Cell, Column, Look, hint, say, write_fields

_COLOURS = {"active": "green", "draining": "yellow", "lost": "red"}


def _used(worker: WorkerStatus) -> str:
    used = worker.capacity_mcpu - worker.free_mcpu
    return f"{words.number_of_cores(used)}/{words.number_of_cores(worker.capacity_mcpu)}"


COLUMNS = [
    Column[WorkerStatus]("ID", lambda worker, _: worker.id),
    Column("NAME", lambda worker, _: worker.name, gives_way=True),
    Column("STATE", lambda worker, _: Cell(worker.state, _COLOURS.get(worker.state, "bright_black"))),
    Column("USED", lambda worker, _: _used(worker), right=True),
    Column("RUNNING", lambda worker, look: words.count(worker.n_running, look), right=True),
    Column("RUNTIME", lambda worker, _: worker.runtime),
    Column("HEARD", lambda worker, look: words.moment(worker.heard_at, look)),
    Column("JOINED", lambda worker, look: words.moment(worker.joined_at, look), wide=True),
    Column("DRAINING", lambda worker, _: worker.draining.reason if worker.draining else "", gives_way=True),
]
WORKERS = Listing("worker", "workers", COLUMNS, lambda worker: worker.id)


@click.group("workers", epilog="Example: longshore workers drain w-17 --reason 'a new disk' --wait")
def command() -> None:
    """See the workers, and drain them; for admins. WORKER is an id, or a name that only one has."""


@command.command("ls", epilog="Example: longshore workers ls -o csv --columns id,state,running")
@list_options
def ls(output: str, columns: Sequence[str]) -> None:
    """List the workers, with what they have and what keeps them from being given more."""
    with connect() as client:
        n = write_list(WORKERS, client.admin.workers(), output, columns)
    hint("one of them: longshore workers show WORKER" if n else "No workers: longshore up runs one here")


@command.command("show", epilog="Example: longshore workers show w-17")
@click.argument("worker")
@output_option
def show(worker: str, output: str) -> None:
    """Show the WORKER, and what runs there."""
    with connect() as client:
        _show(client.admin.worker(_id_of(client, worker)), output)


@command.command("drain", epilog="Example: longshore workers drain w-17 --reason 'a new disk' --wait")
@click.argument("worker")
@click.option("--reason", default="", help="Shown to admins.")
@wait_option
@output_option
def drain(worker: str, reason: str, wait: bool, output: str) -> None:
    """Give the WORKER nothing new. What it runs goes on; when nothing is left it may be taken away.

    It stays so when the worker or the service is started again. Ctrl-C while waiting ends the waiting and
    nothing else.
    """
    with connect() as client:
        worker_id = _id_of(client, worker)
        drained = client.admin.drain(worker_id, reason)
        say(f"{worker} is draining; take it back: longshore workers undrain {worker_id}", colour="yellow")
        if wait:
            drained = say_what_is_left(lambda: _left(client.admin.worker(worker_id)))
        _show(drained, output)


@command.command("undrain", epilog="Example: longshore workers undrain w-17")
@click.argument("worker")
@output_option
def undrain(worker: str, output: str) -> None:
    """Give the WORKER jobs again."""
    with connect() as client:
        worker_id = _id_of(client, worker)
        taken_back = client.admin.undrain(worker_id)
        _show(taken_back, output)


def _left(worker: WorkerStatus) -> tuple[WorkerStatus, int]:
    return worker, worker.n_running


def _id_of(client: Client, worker: str) -> str:
    """Raises NotFound, and UsageError for a name of several."""
    known = client.admin.workers()
    if any(each.id == worker for each in known):
        return worker
    named = [each.id for each in known if each.name == worker]
    if len(named) > 1:
        raise UsageError(f"{len(named)} workers are called {worker!r}", hint=f"one of: {', '.join(named)}")
    if not named:
        raise NotFound(f"there is no worker {worker!r}", hint="longshore workers ls")
    return named[0]


def _show(worker: WorkerStatus, output: str) -> None:
    if output != "table":
        write_one("worker", worker, output)
        return
    look = Look.of(sys.stdout)
    fields: list[tuple[str, str | Cell]] = [
        ("worker", worker.id),
        ("name", worker.name),
        ("state", Cell(worker.state, _COLOURS.get(worker.state, "bright_black"))),
        *words.pause(worker.draining, look, "draining"),
        ("cores", f"{_used(worker)} used"),
        ("runtime", worker.runtime),
        ("heard", words.moment(worker.heard_at, look)),
        ("joined", words.moment(worker.joined_at, look)),
        ("running", words.count(worker.n_running, look)),
    ]
    write_fields([*fields, *(("", words.running(each, look)) for each in worker.running)], look)
