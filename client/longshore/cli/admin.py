"""`longshore admin`: freezing the service, and what still runs then."""

from __future__ import annotations

import sys

import click

from ..service import Client
from ..status import ServiceStatus
from . import words
from .connection import connect
from .draining import say_what_is_left, wait_option
from .formats import output_option, write_one
from .output import Look, hint, say, write_fields
from .users import audit, users


@click.group("admin", epilog="Example: longshore admin freeze --reason 'a new network' --wait")
def command() -> None:
    """Freeze and thaw the service, let users in, see who did what; for admins."""


command.add_command(users)
command.add_command(audit)


@command.command("freeze", epilog="Example: longshore admin freeze --reason 'a new network' --wait")
@click.option("--reason", default="", help="Shown to everybody.")
@wait_option
@output_option
def freeze(reason: str, wait: bool, output: str) -> None:
    """Start no more jobs, in the whole service, until `admin thaw`.

    What runs goes on, and so do submissions. It stays so when the service is started again. Ctrl-C while
    waiting ends the waiting and nothing else.
    """
    with connect() as client:
        status = client.admin.freeze(reason)
        say("the service is frozen; thaw it: longshore admin thaw", colour="yellow")
        if wait:
            status = _until_nothing_runs(client)
    _show(status, output)


@command.command("thaw", epilog="Example: longshore admin thaw")
@output_option
def thaw(output: str) -> None:
    """Start jobs again."""
    with connect() as client:
        status = client.admin.thaw()
    say("the service is not frozen: jobs start", colour="green")
    _show(status, output)


@command.command("status", epilog="Examples: longshore admin status · longshore admin status -o json")
@output_option
def status(output: str) -> None:
    """Show whether the service is frozen, and what still runs."""
    with connect() as client:
        found = client.admin.status()
    _show(found, output)
    hint("its workers: longshore workers ls")


def _until_nothing_runs(client: Client) -> ServiceStatus:
    def look() -> tuple[ServiceStatus, int]:
        found = client.admin.status()
        return found, found.n_running

    return say_what_is_left(look)


def _show(status: ServiceStatus, output: str) -> None:
    if output != "table":
        write_one("service", status, output)
        return
    look = Look.of(sys.stdout)
    used = status.capacity_mcpu - status.free_mcpu
    fields = [
        ("frozen", "" if status.frozen else "no"),
        *words.pause(status.frozen, look, "frozen"),
        ("workers", f"{status.n_workers}" + (f", {status.n_draining} draining" if status.n_draining else "")),
        ("cores", f"{words.number_of_cores(used)} of {words.number_of_cores(status.capacity_mcpu)} used"),
        ("running", words.count(status.n_running, look)),
    ]
    write_fields([*fields, *(("", words.running(r, look)) for r in status.running)], look)
