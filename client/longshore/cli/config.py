"""`longshore config`: settings and profiles, and where each comes from."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ..discovery import find_service, find_token, home_folder
from ..errors import BatchError, NotFound, UsageError
from ..profiles import (
    KEYS,
    LOCAL,
    PROJECT_FILE,
    active_profile,
    cache_folder,
    change_config,
    config_file,
    credentials_file,
    profiles,
    read_toml,
    set_in_profile,
    setting,
)
from ..status import Record
from .formats import Listing, output_option, write_list, write_one
from .output import Column, hint, say

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


@click.group("config", epilog="Example: longshore config show --origin")
def command() -> None:
    """Show and change settings and profiles.

    A setting comes from a flag, else from the environment (LONGSHORE_ENDPOINT, LONGSHORE_BILLING_PROJECT),
    else from the profile that --profile or LONGSHORE_PROFILE names, else from .longshore.toml of this
    folder, else from the profile of `longshore config use`.
    """


@dataclass(frozen=True, slots=True)
class _Row(Record):
    key: str
    value: str
    origin: str


def _complete_profiles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        return [CompletionItem(name) for name in profiles() if name.startswith(incomplete)]
    except BatchError:
        return []


@command.command("show", epilog="Examples: longshore config show --origin · longshore config show -o json")
@click.option("--origin", is_flag=True, help="Also where each comes from.")
@output_option
def show(origin: bool, output: str) -> None:
    """Show the settings that count here. A token is never shown."""
    rows = list(_settings())
    if output != "table":
        shown = [dict(row) if origin else {"key": row.key, "value": row.value} for row in rows]
        write_one("settings", shown, output)
        return
    columns = [
        Column[_Row]("KEY", lambda row, _: row.key),
        Column("VALUE", lambda row, _: row.value, gives_way=True),
        Column("ORIGIN", lambda row, _: row.origin, gives_way=True),
    ]
    listing = Listing("setting", "settings", columns if origin else columns[:2], lambda row: row.key)
    write_list(listing, rows, "table")
    others = [name for name in profiles() if name != active_profile().value]
    if others:
        hint(f"other profiles: {', '.join(others)}; use one: longshore config use NAME")


@command.command("set", epilog="Examples: longshore config set billing_project genomics · "
                 "longshore --profile prod config set endpoint batch.example.org:443")  # fmt: skip
@click.argument("key", type=click.Choice(KEYS))
@click.argument("value")
def set_(key: str, value: str) -> None:
    """Set KEY (endpoint, billing_project, ca_file) of the profile in use, which is made when missing."""
    profile = os.environ.get("LONGSHORE_PROFILE") or active_profile().value
    if profile == LOCAL and key == "endpoint":
        raise UsageError("the profile local is the service of `longshore up`; its endpoint cannot be set")
    if not value.strip() or not value.isprintable():
        raise UsageError(f"{key} {value!r}: it must be printable, and not empty")
    file = change_config(lambda document: set_in_profile(document, profile, {key: value}))
    say(f"{key} of profile {profile} is {value} now ({file})")


@command.command("use", epilog="Example: longshore config use prod")
@click.argument("profile", shell_complete=_complete_profiles)
def use(profile: str) -> None:
    """Use PROFILE from now on, where neither a flag nor the environment names another."""
    have = profiles()
    if profile not in have:
        raise NotFound(
            f"there is no profile {profile!r}; there are: {', '.join(have)}",
            hint=f"longshore --profile {profile} config set endpoint HOST:PORT makes it",
        )

    def choose(document: TOMLDocument) -> None:
        document["default_profile"] = profile

    say(f"profile {profile} is in use ({change_config(choose)})")


@command.command("path", epilog="Example: cat $(longshore config path)")
@click.option("--all", "all_", is_flag=True, help="Also of what else there is, with names.")
def path(all_: bool) -> None:
    """Show where the file with the settings is, or will be."""
    if not all_:
        click.echo(config_file())
        return
    for name, file in {
        "config": config_file(),
        "credentials": credentials_file(),
        "cache": cache_folder(),
        "up": home_folder(),
        "project": PROJECT_FILE,
    }.items():
        click.echo(f"{name:<12} {file}")


@command.command("edit", epilog="Example: EDITOR=nano longshore config edit")
def edit() -> None:
    """Open the file with the settings in your editor (VISUAL, EDITOR)."""
    if not sys.stdin.isatty():
        raise click.UsageError("an editor needs a terminal; without one: longshore config set, config path")
    file = config_file()
    if not file.exists():
        change_config(lambda document: None)
    click.edit(filename=str(file))
    read_toml(file)
    profiles()
    say(f"{file} can be read")


def _settings() -> list[_Row]:
    profile = active_profile()
    rows = [_Row("profile", profile.value, profile.origin)]
    endpoint = setting("endpoint")
    if endpoint is None or endpoint.value == LOCAL:
        where = str(home_folder() / "service.json")
        try:
            value = find_service().endpoint
        except BatchError:
            value = "(`longshore up` does not run)"
        origin = where if endpoint is None else f"{endpoint.origin}: {where}"
        rows.append(_Row("endpoint", value, origin))
        rows.append(_Row("token", "(set)" if value[0] != "(" else "", where))
    else:
        rows.append(_Row("endpoint", endpoint.value, endpoint.origin))
        try:
            rows.append(_Row("token", "(set)", find_token(endpoint).origin))
        except BatchError as error:
            rows.append(_Row("token", "", error.message))
    project = setting("billing_project")
    rows.append(_Row("billing_project", project.value if project else "", project.origin if project else ""))
    return rows
