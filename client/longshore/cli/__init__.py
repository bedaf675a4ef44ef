"""The command line: `longshore VERB`. Each verb is a module that is imported when it is used.

Only Click is imported here, so that `longshore --help` and `--version` are quick. stdout carries data
and nothing else; whatever is said to people goes to stderr.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

_VERBS = {
    "Run": {
        "up": "Run the whole service on this machine, until Ctrl-C.",
        "submit": "Run a Python program that uses the service.",
    },
    "Look": {
        "ls": "List batches, newest first.",
        "get": "Show a batch or a job.",
        "jobs": "List the jobs of a batch.",
        "logs": "Print what a job wrote.",
        "ui": "Open the dashboard.",
    },
    "Wait": {"wait": "Wait until a batch or a job is complete."},
    "Act": {
        "cancel": "Cancel batches.",
        "delete": "Remove batches from all lists.",
    },
    "About": {"version": "Show the versions of this program and of the service."},
}


class _Verb(click.Command):
    """Stands for a verb whose module is not imported yet."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        command: click.Command = import_module(f".{self.name}", __name__).command
        return command.make_context(info_name, args, parent=parent, **extra)


class _Verbs(click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in _VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(8), says) for name, says in verbs.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"longshore {own_version()}")
        ctx.exit()


@click.group(
    cls=_Verbs,
    commands={
        name: _Verb(name, short_help=says) for verbs in _VERBS.values() for name, says in verbs.items()
    },
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="TARGET is a batch or a job: 8120, 8120/4705 (job 4705 of batch 8120), last, last~1, last/3.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version of this program.",
)  # fmt: skip
def cli() -> None:
    """Run batches of containers and watch them."""


def own_version() -> str:
    """The version of this distribution; ``0`` where it runs from a folder that was never installed."""
    from importlib.metadata import PackageNotFoundError, version  # A third of the time that Click takes.

    try:
        return version("longshore")
    except PackageNotFoundError:
        return "0"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line with `args`, or those of the process; the exit code (see `exits`)."""
    given = sys.argv[1:] if args is None else list(args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # What the terminal cannot show is spelled.
    try:
        code = cli.main(given, prog_name="longshore", standalone_mode=False)
    except Exception as error:
        from .exits import tell

        return tell(error, given)
    return code if isinstance(code, int) else 0
