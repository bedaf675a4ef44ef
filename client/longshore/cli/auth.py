"""`longshore auth login|logout|user`, also `login`, `logout`, `whoami`: who you are to a service."""

from __future__ import annotations

import os
import sys
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
from . import words
from .connection import QUICK_S, connect
from .formats import output_option, write_one
from .output import Look, hint, say, write_fields

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


@click.group("auth", epilog="Example: longshore auth user")
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
    help="The token; - reads it from stdin. Default: LONGSHORE_TOKEN, or you are asked.",
)
def login(token: str | None) -> None:
    """Keep a token for a service, after asking the service whether it is valid.

    It is kept with the profile, in a file that only you can read. The service of `longshore up` needs no
    login.
    """
    endpoint = setting("endpoint")
    if endpoint is None or endpoint.value == LOCAL:
        say("no login is needed: the service of `longshore up` knows its owner")
        hint("another service: longshore --endpoint HOST:PORT login")
        return
    profile = _profile_for(endpoint.value)
    given = _given(token, endpoint.value)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ..service import Client

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
    }
    if output != "table":
        write_one("user", shown, output)
        return
    look = Look.of(sys.stdout)
    write_fields(
        [
            ("user", session.user),
            ("service", f"{endpoint}, version {session.version}"),
            ("token from", str(shown["token_from"])),
            ("profile", str(shown["profile"])),
            ("billing project", str(shown["billing_project"] or "")),
            ("largest job", words.cores(session.largest_worker_mcpu)),
            *(("notice", notice) for notice in session.notices),
        ],
        look,
    )


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
