"""`longshore auth login|logout|user`, also `login`, `logout`, `whoami`: who you are to a service."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..discovery import find_service, find_token
from ..errors import AuthError, Conflict, UsageError
from ..profiles import (
    LOCAL,
    Setting,
    active_profile,
    change_config,
    change_credentials,
    config_file,
    credentials_file,
    profiles,
    read_toml,
    set_in_profile,
    setting,
)
from ..status import TokenStatus
from . import words
from .connection import QUICK_S, connect
from .formats import Listing, list_options, output_option, write_list, write_one
from .output import Column, Look, hint, say, write_fields

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


class Days(click.ParamType[timedelta]):
    """30d, or 12h."""

    name = "days"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        units = {"d": timedelta(days=1), "h": timedelta(hours=1)}
        if value[:-1].isdecimal() and len(value) < 6 and value[-1:] in units and int(value[:-1]):
            return int(value[:-1]) * units[value[-1]]
        self.fail(f"{value!r} is not like 30d or 12h", param, ctx)


TOKENS = Listing(
    "token",
    "tokens",
    [
        Column[TokenStatus]("ID", lambda token, _: token.id),
        Column("NAME", lambda token, _: token.name, gives_way=True),
        Column("SCOPE", lambda token, _: token.scope),
        Column("CREATED", lambda token, look: words.moment(token.created_at, look)),
        Column("EXPIRES", lambda token, look: words.moment(token.expires_at, look) or "never"),
        Column("USED", lambda token, look: words.moment(token.last_used_at, look)),
        Column("CURRENT", lambda token, _: "yes" if token.current else ""),
    ],
    lambda token: token.id,
)


@click.group("auth", epilog="Examples: longshore auth user · longshore auth tokens")
def command() -> None:
    """Log in to a service and out, and see who you are there."""


@command.command(
    "login",
    epilog="Examples: longshore --endpoint batch.example.org:443 login --token - < token.txt · "
    "longshore --profile prod login",
)
@click.option(
    "--token",
    metavar="TOKEN",
    help="A token that you have; - reads it from stdin. Default: LONGSHORE_TOKEN, or a login by browser.",
)
@click.option("--no-browser", is_flag=True, help="Log in on another device, with a short code.")
def login(token: str | None, no_browser: bool) -> None:
    """Log in to a service, with a browser if there is one, and keep the token it gives.

    It is kept with the profile, in a file that only you can read. The service of `longshore up` needs no
    login.
    """
    endpoint = setting("endpoint")
    if endpoint is None or endpoint.value == LOCAL:
        say("no login is needed: the service of `longshore up` knows its owner")
        hint("another service: longshore --endpoint HOST:PORT login")
        return
    profile = _profile_for(endpoint.value)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ..service import Client

    of_environment = os.environ.get("LONGSHORE_TOKEN") or os.environ.get("LONGSHORE_TOKEN_FILE")
    if token is None and (no_browser or not of_environment):
        given = _by_login(endpoint.value, no_browser) or _given(token, endpoint.value)
    else:
        given = _given(token, endpoint.value)

    with Client(endpoint=endpoint.value, token=given, retry_s=QUICK_S) as client:
        session = client.session()

    def remember(document: TOMLDocument) -> None:
        document[profile] = {"endpoint": endpoint.value, "token": given, "user": session.user}

    change_credentials(remember)
    if profiles().get(profile, {}).get("endpoint") != endpoint.value:
        change_config(lambda document: set_in_profile(document, profile, {"endpoint": endpoint.value}))
    say(f"logged in to {endpoint.value} as {session.user}; kept as profile {profile}", colour="green")
    if (now := active_profile().value) != profile:
        hint(f"the profile in use is {now}; change it: longshore config use {profile}")


@command.command("logout", epilog="Example: longshore --profile prod logout")
def logout() -> None:
    """Forget the token of the profile in use. The service is not told: the token stays valid there."""
    profile = os.environ.get("LONGSHORE_PROFILE") or active_profile().value
    if profile not in read_toml(credentials_file()):
        say(f"profile {profile} is not logged in")
        return

    def forget(document: TOMLDocument) -> None:
        del document[profile]

    change_credentials(forget)
    say(f"forgot the token of profile {profile}, which stays valid at the service")
    if os.environ.get("LONGSHORE_TOKEN") or os.environ.get("LONGSHORE_TOKEN_FILE"):
        say("the environment still has one: LONGSHORE_TOKEN or LONGSHORE_TOKEN_FILE")


@command.command("user", epilog="Examples: longshore whoami · longshore auth user -o json")
@output_option
def user(output: str) -> None:
    """Show who you are to which service."""
    with connect() as client:
        session = client.session()
        endpoint = client.endpoint
    shown = {
        "user": session.user,
        "endpoint": endpoint,
        "version": session.version,
        "embedded": session.embedded,
        "profile": active_profile().value,
        "token_from": _origin_of_token(),
        "billing_project": project.value if (project := setting("billing_project")) else None,
        "largest_job_mcpu": session.largest_worker_mcpu,
        "notices": list(session.notices),
        "admin": session.admin,
        "projects": [each.as_dict() for each in session.projects],
        "service_identity": session.service_identity or None,
        "email": session.email or None,
        "token_id": session.token_id or None,
        "token_scope": session.token_scope or None,
    }
    if output != "table":
        write_one("user", shown, output)
        return
    look = Look.of(sys.stdout)
    grants = bool(session.service_identity) and not session.embedded
    write_fields(
        [
            ("user", f"{session.user}, admin" if session.admin else session.user),
            ("e-mail", session.email),
            ("projects", ", ".join(f"{p.project}{' (owner)' if p.owner else ''}" for p in session.projects)),
            ("service identity", session.service_identity),
            ("", "give it read access to your input, and write access to your output" if grants else ""),
            ("service", f"{endpoint}, version {session.version}"),
            ("token from", str(shown["token_from"])),
            ("profile", str(shown["profile"])),
            ("billing project", str(shown["billing_project"] or "")),
            ("largest job", words.cores(session.largest_worker_mcpu)),
            *(("notice", notice) for notice in session.notices),
        ],
        look,
    )


@command.command("tokens", epilog="Example: longshore auth tokens -o csv --columns id,name,expires")
@list_options
def tokens(output: str, columns: Sequence[str]) -> None:
    """List your tokens that are good."""
    with connect() as client:
        write_list(TOKENS, client.people.tokens(), output, columns)
    hint("another: longshore auth token create --name ci · away with one: longshore auth token revoke ID")


@command.group("token", epilog="Example: longshore auth token create --name ci --scope read --expires 30d")
def token_group() -> None:
    """Make and revoke tokens of yours, for programs."""


@token_group.command(
    "create", epilog="Example: longshore auth token create --name ci --scope submit --expires 30d"
)
@click.option("--name", required=True, help="What it is for.")
@click.option(
    "--scope",
    type=click.Choice(["read", "submit", "all"]),
    default="submit",
    show_default=True,
    help="What it may do.",
)
@click.option("--expires", type=Days(), default="30d", show_default=True, metavar="DAYS", help="90d at most.")
def create_token(name: str, scope: str, expires: timedelta) -> None:
    """Print a new token. Nobody can show it again: not you, not the service.

    read: looks. submit: and makes, cancels and deletes batches. all: whatever you may do.
    """
    with connect() as client:
        token = client.people.create_token(name, scope, expires)
    click.echo(token)
    hint("keep it now: it is not shown again")


@token_group.command("revoke", epilog="Examples: longshore auth token revoke 3f9a · ... revoke --all")
@click.argument("token_id", metavar="ID", required=False)
@click.option("--all", "everything", is_flag=True, help="All of them, also the one in use.")
def revoke_token(token_id: str | None, everything: bool) -> None:
    """Have the service refuse a token from now on; ID as `auth tokens` lists it, or its beginning."""
    if bool(token_id) == everything:
        raise click.UsageError("give an ID, or --all")
    with connect() as client:
        if everything:
            say(f"revoked {client.people.revoke_all_tokens()} tokens; log in again")
            return
        found = [each.id for each in client.people.tokens() if each.id.startswith(token_id or "")]
        if len(found) > 1:
            raise UsageError(f"{len(found)} tokens begin with {token_id}", hint="longshore auth tokens")
        client.people.revoke_token(found[0] if found else token_id or "")
    say(f"revoked token {found[0] if found else token_id}")


def _by_login(endpoint: str, no_browser: bool) -> str | None:
    """The new token; None: the service has no such login."""
    from ..browser_login import by_browser, by_device, has_browser
    from ..people import Login
    from ..service import Client

    def open_url(url: str) -> None:
        say(f"opening {url}")
        if click.launch(url) != 0:
            say("no browser could be opened: open that address yourself, or use --no-browser")

    def tell(url: str, code: str) -> None:
        say(f"open {url} on any device and enter the code {code}")

    with Client(endpoint=endpoint, token="-", retry_s=QUICK_S) as client:
        try:
            if has_browser() and not no_browser:
                return by_browser(Login.of(client), open_url)[1]
            return by_device(Login.of(client), tell)[1]
        except Conflict:
            if no_browser:
                raise
            return None


def _profile_for(endpoint: str) -> str:
    """The profile that keeps a token for this endpoint. Raises Conflict when it is for another one."""
    name = os.environ.get("LONGSHORE_PROFILE") or active_profile().value
    have = profiles()
    other = have.get(name, {}).get("endpoint")
    if other not in (None, endpoint):
        which = "`longshore up`" if other == LOCAL else other
        raise Conflict(
            f"profile {name} of {config_file()} is for {which}, not for {endpoint}",
            hint=f"keep it as another one: longshore --profile NAME --endpoint {endpoint} login",
        )
    return name


def _given(token: str | None, endpoint: str) -> str:
    if token == "-":
        token = sys.stdin.readline()
    elif token is None:
        token = os.environ.get("LONGSHORE_TOKEN")
        if token is None and (file := os.environ.get("LONGSHORE_TOKEN_FILE")):
            try:
                token = Path(file).read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise AuthError(f"LONGSHORE_TOKEN_FILE={file} cannot be read: {error}") from error
        if token is None and sys.stdin.isatty():
            token = click.prompt(f"Token for {endpoint}", hide_input=True, err=True)
        if token is None:
            raise click.UsageError("there is no token: give --token -, or set LONGSHORE_TOKEN")
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError("that is no token: it must be printable ASCII, and not empty")
    return token


def _origin_of_token() -> str:
    endpoint = setting("endpoint")
    if endpoint is None or endpoint.value == LOCAL:
        return str(find_service().file)
    return find_token(Setting(endpoint.value, endpoint.origin, endpoint.of_project)).origin
