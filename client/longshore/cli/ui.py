"""`longshore ui` and `longshore open`: the dashboard, in this terminal."""

from __future__ import annotations

import os
import runpy
import sys
from importlib.util import find_spec

import click

from .targets import Target, TargetType, find_batch


@click.command("ui", epilog="Examples: longshore ui · longshore ui last · longshore ui 8120/4705")
@click.argument("target", type=TargetType(), required=False)
def command(target: Target | None) -> None:
    """Open the dashboard, at the batch or job TARGET if there is one."""
    if not find_spec("textual"):
        raise click.ClickException("the dashboard is not installed: pip install 'longshore[tui]'")
    if not _at_terminal():
        raise click.UsageError("the dashboard needs a terminal; without one: longshore ls, longshore get")
    _show(_named(target) if target else None)


@click.command("open", epilog="Example: longshore open last")
@click.argument("target", type=TargetType(), required=False)
def open_target(target: Target | None) -> None:
    """Open the dashboard at TARGET; where there is no terminal for it, print the command that does."""
    named = _named(target) if target else None
    if find_spec("textual") and _at_terminal():
        _show(named)
    else:
        click.echo(f"longshore ui {named}" if named else "longshore ui")


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _show(target: str | None) -> None:
    sys.argv = ["longshore ui", *([target] if target else [])]
    runpy.run_module("longshore_tui", run_name="__main__", alter_sys=True)


def _named(target: Target) -> str:
    """The target with its batch's number instead of `last` or a name."""
    if target.batch_id is not None:
        return str(target)
    from .connection import connect

    with connect() as client:
        batch = find_batch(client, target)
    return str(Target(batch.id, job_id=target.job_id))
