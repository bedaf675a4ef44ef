"""All verbs by name; each is imported when it is used. Only Click is imported here, so that help is quick."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module

import click
from click.shell_completion import CompletionItem

VERBS = {
    "Run": {
        "up": "Run the whole service on this machine, until Ctrl-C.",
        "submit": "Run a Python program that uses the service.",
        "run": "Run one command as a job, and follow it.",
        "rerun": "Run the failed jobs of a batch again.",
    },
    "Look": {
        "ls": "List batches, newest first.",
        "get": "Show a batch or a job.",
        "jobs": "List the jobs of a batch.",
        "logs": "Print what a job wrote.",
        "why": "Say why a batch or job does not run, or how it ended.",
        "failures": "Show in which ways the jobs of a batch failed.",
        "attempts": "Show where and when a job ran, each time.",
        "spec": "Show what a job was asked to do.",
        "tree": "Show which jobs wait for which.",
        "history": "Show who did what to a batch.",
        "ui": "Open the dashboard.",
        "open": "Open the dashboard, or say how.",
    },
    "Wait": {
        "wait": "Wait until batches or jobs are complete.",
        "watch": "Watch a batch live until it is complete.",
    },
    "Act": {
        "cancel": "Cancel batches.",
        "delete": "Remove batches from all lists.",
        "undelete": "Show deleted batches again.",
        "retry": "End an attempt that is stuck; its job is tried again.",
    },
    "Pay": {
        "cost": "Show what a batch cost: by resource, day, job or attempt.",
        "billing": "Who pays: ls, show, limit, add, remove, usage, rates.",
        "estimate": "Say what jobs would cost. Submits nothing.",
    },
    "Run it": {
        "workers": "See the workers, and drain them: ls, show, drain, undrain.",
        "admin": "Freeze the service and thaw it; users; who did what.",
    },
    "Me": {
        "login": "Log in to a service.",
        "logout": "Forget the token of a service.",
        "whoami": "Show who you are to the service.",
        "auth": "Log in and out, and your tokens: login, logout, user, tokens, token.",
        "config": "Show and change settings and profiles.",
        "doctor": "Check whether everything is there, and say what to do.",
        "completion": "Print a script that completes commands in your shell.",
        "version": "Show the versions of this program and of the service.",
    },
}

_SHARED = {
    "login": ("auth", "login"),
    "logout": ("auth", "logout"),
    "whoami": ("auth", "user"),
    "open": ("ui", "open_target"),
}
"""Module and name there of verbs that do not have a module of their own."""


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for verbs in VERBS.values() for name in verbs]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module, of_module = _SHARED.get(name, (name, "command"))
        command: click.Command = getattr(import_module(f".{module}", __package__), of_module)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if not ctx.resilient_parsing and args[0] not in names and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=names, ctx=ctx)  # It suggests what is meant.
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(10), says) for name, says in verbs.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and what they say, without importing any."""
        items = [
            CompletionItem(name, help=says)
            for verbs in VERBS.values()
            for name, says in verbs.items()
            if name.startswith(incomplete)
        ]
        return items + click.Command.shell_complete(self, ctx, incomplete)


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """With these variables, or without those that are None; programs that are started in here get them."""
    before = {name: os.environ.get(name) for name in changes}
    _put(changes)
    try:
        yield
    finally:
        _put(before)


def _put(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from .. import __version__

        click.echo(f"longshore {__version__}")
        ctx.exit()


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="TARGET is a batch or a job: 8120, 8120/4705 (job 4705 of batch 8120), last, last~1, last/3, or a "
    "name that only one batch has. BATCH... also takes ranges: 8100-8110,8112.",
)
@click.option("--profile", metavar="NAME", help="Use this profile (see: longshore config).")
@click.option("--endpoint", metavar="HOST:PORT", help="Talk to this service; `local` is `longshore up`.")
@click.option("--billing-project", metavar="NAME", help="Who pays for what is run.")
@click.option("--plain", is_flag=True, help="Only ASCII, no colours.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version of this program.",
)  # fmt: skip
@click.pass_context
def cli(
    ctx: click.Context, profile: str | None, endpoint: str | None, billing_project: str | None, plain: bool
) -> None:
    """Run batches of containers and watch them.

    \b
    longshore up                      the whole service, on this machine
    longshore submit hello.py         a program that uses it
    longshore logs last/1             what its first job wrote
    """
    changes: dict[str, str | None] = {}
    told = os.environ.get("LONGSHORE_ENDPOINT")
    if told and (profile is not None or endpoint not in (None, told)):
        # The environment's service is not meant, nor may another one get its token.
        changes |= dict.fromkeys(("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN", "LONGSHORE_TOKEN_FILE"))
    if profile is not None:
        changes |= {"LONGSHORE_PROFILE": profile, "LONGSHORE_BILLING_PROJECT": None}
    if endpoint is not None:
        changes["LONGSHORE_ENDPOINT"] = endpoint
    if billing_project is not None:
        changes["LONGSHORE_BILLING_PROJECT"] = billing_project
    if plain:
        changes["LONGSHORE_PLAIN"] = "1"
    ctx.with_resource(_environment(changes))


def run(given: Sequence[str]) -> int:
    """What `longshore` does with these arguments; its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # What the terminal cannot show is spelled.
    try:
        code = cli.main(list(given), prog_name="longshore", standalone_mode=False)
    except Exception as error:
        from .exits import tell

        return tell(error, given)
    except KeyboardInterrupt:
        from .exits import INTERRUPTED

        return INTERRUPTED
    return code if isinstance(code, int) else 0
