"""How Sphinx makes the documentation, of what lies beside it and of the program's own words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from longshore import __version__
from longshore.cli.verbs import cli

project = "Longshore"
copyright = "the Longshore authors"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Longshore"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
napoleon_google_docstring = False


def _commands(group: click.Group, words: list[str]) -> Iterator[list[str]]:
    """The words of every command below a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if not command.hidden:
            yield [*words, name]
        if isinstance(command, click.Group):
            yield from _commands(command, [*words, name])


def _help(words: list[str]) -> str:
    asked = [sys.executable, "-m", "longshore.cli", *words, "--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(asked, env=environment, check=True, capture_output=True, text=True).stdout


def _write_command_reference(page: Path) -> None:
    page.parent.mkdir(exist_ok=True)
    sections = [
        f"## longshore {' '.join(words)}\n\n```text\n{_help(words).rstrip()}\n```\n"
        for words in _commands(cli, [])
    ]
    page.write_text("\n".join(sections))


_write_command_reference(Path(__file__).parent / "generated" / "commands.md")
