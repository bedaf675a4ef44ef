"""`longshore admin users` and `longshore admin audit`: who may come in, and who did what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click

from ..status import AuditEntry, UserStatus
from . import words
from .auth import Days
from .connection import connect
from .formats import Listing, list_options, write_list
from .output import Cell, Column, hint, say


def _state(user: UserStatus) -> Cell:
    if user.suspended_at is not None:
        return Cell("suspended", "red")
    return Cell("active" if user.has_come or not user.email else "invited")


USERS = Listing(
    "user",
    "users",
    [
        Column[UserStatus]("NAME", lambda user, _: user.name),
        Column("STATE", lambda user, _: _state(user)),
        Column("ADMIN", lambda user, _: "yes" if user.admin else ""),
        Column("EMAIL", lambda user, _: user.email, gives_way=True),
        Column("SERVICE_IDENTITY", lambda user, _: user.service_identity, gives_way=True),
        Column("CREATED", lambda user, look: words.moment(user.created_at, look), wide=True),
    ],
    lambda user: user.name,
)
AUDIT = Listing(
    "entry",
    "entries",
    [
        Column[AuditEntry]("AT", lambda entry, look: words.moment(entry.at, look)),
        Column("WHO", lambda entry, _: entry.actor or "-", gives_way=True),
        Column("ROLE", lambda entry, _: entry.role),
        Column("WHAT", lambda entry, _: entry.method.rpartition("/")[2]),
        Column("BATCH", lambda entry, _: str(entry.batch_id or ""), right=True),
        Column("ABOUT", lambda entry, _: entry.object, gives_way=True),
        Column("OUTCOME", lambda entry, _: Cell(entry.outcome, None if entry.outcome == "OK" else "red")),
        Column("TIMES", lambda entry, look: words.count(entry.times, look), right=True),
        Column("FROM", lambda entry, _: entry.peer),
        Column("TOKEN", lambda entry, _: entry.token_id, wide=True),
        Column("REQUEST", lambda entry, _: entry.request_id, wide=True),
    ],
    lambda entry: str(entry.id),
)


@click.group("users", epilog="Example: longshore admin users invite ada ada@example.org")
def users() -> None:
    """Who may come in."""


@users.command("ls", epilog="Example: longshore admin users ls -o csv --columns name,state")
@list_options
def ls(output: str, columns: Sequence[str]) -> None:
    """List all users, by name."""
    with connect() as client:
        write_list(USERS, client.people.users(), output, columns)
    hint("another: longshore admin users invite NAME EMAIL")


@users.command("invite", epilog="Example: longshore admin users invite ada ada@example.org")
@click.argument("name")
@click.argument("email")
def invite(name: str, email: str) -> None:
    """Let somebody in: who logs in with EMAIL is NAME from then on, whatever becomes of the address."""
    with connect() as client:
        user = client.people.invite(name, email)
    say(f"{user.name} can log in with {user.email}; their service identity is {user.service_identity}")


@users.command("suspend", epilog="Example: longshore admin users suspend ada")
@click.argument("name")
def suspend(name: str) -> None:
    """Refuse a user from now on. Their batches go on."""
    with connect() as client:
        client.people.update_user(name, suspended=True)
    say(f"{name} is suspended; let them in again: longshore admin users restore {name}")


@users.command("restore", epilog="Example: longshore admin users restore ada")
@click.argument("name")
def restore(name: str) -> None:
    """Let a suspended user in again."""
    with connect() as client:
        client.people.update_user(name, suspended=False)
    say(f"{name} can come in")


@users.command("promote", epilog="Example: longshore admin users promote ada")
@click.argument("name")
def promote(name: str) -> None:
    """Make a user an admin."""
    with connect() as client:
        client.people.update_user(name, admin=True)
    say(f"{name} is an admin")


@users.command("demote", epilog="Example: longshore admin users demote ada")
@click.argument("name")
def demote(name: str) -> None:
    """Make an admin a user like others."""
    with connect() as client:
        client.people.update_user(name, admin=False)
    say(f"{name} is no admin any more")


@click.command(
    "audit", epilog="Examples: longshore admin audit --user ada --since 7d · ... audit --batch 8120"
)
@click.option("--batch", metavar="ID", type=click.IntRange(1), default=None, help="About this batch alone.")
@click.option("--user", metavar="NAME", default="", help="Of this user alone.")
@click.option("--since", type=Days(), metavar="TIME", default=None, help="Not older than, e.g. 7d or 12h.")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@list_options
def audit(
    batch: int | None, user: str, since: timedelta | None, limit: int, output: str, columns: Sequence[str]
) -> None:
    """Show who did what, and who was refused what, newest first."""
    since_ms = int((datetime.now(UTC) - since).timestamp() * 1000) if since else 0
    with connect() as client:
        entries = client.people.audit(batch_id=batch or 0, user=user, since_ms=since_ms, limit=limit)
        write_list(AUDIT, entries, output, columns)
