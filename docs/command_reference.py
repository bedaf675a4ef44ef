"""The reference of the command line: what every command says with ``--help``, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.testing import CliRunner
from longshore.cli.verbs import VERBS, cli

_TITLES = {
    "Run": "Running",
    "Look": "Looking",
    "Wait": "Waiting",
    "Act": "Acting",
    "Pay": "Paying",
    "Run it": "Running a service",
    "Me": "You and this program",
}


def text() -> str:
    """A section for the whole, and one for each group of verbs with all commands below it."""
    sections = [f"## longshore\n\n{_help([])}"]
    for group, verbs in VERBS.items():
        sections.append(f"## {_TITLES[group]}\n")
        for verb in verbs:
            sections += [f"### longshore {' '.join(words)}\n\n{_help(words)}" for words in _commands([verb])]
    return "\n".join(sections)


def _commands(words: list[str]) -> Iterator[list[str]]:
    """A command's words, then those of all commands below it."""
    yield words
    context = click.Context(cli)
    command: click.Command | None = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(context, word)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _commands([*words, name])


def _help(words: list[str]) -> str:
    asked = CliRunner().invoke(cli, [*words, "--help"], prog_name="longshore", env={"COLUMNS": "100"})
    if asked.exit_code != 0:
        raise RuntimeError(f"longshore {' '.join(words)} --help ended with {asked.exit_code}: {asked.output}")
    return f"```text\n{asked.output.rstrip()}\n```\n"
