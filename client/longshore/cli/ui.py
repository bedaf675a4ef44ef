"""`longshore ui`: the dashboard, in this terminal."""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec

import click

from .targets import Target, TargetType


@click.command("ui")
@click.argument("target", type=TargetType(), required=False)
def command(target: Target | None) -> None:
    """Open the dashboard, at the batch or job TARGET if there is one."""
    if not find_spec("textual"):
        raise click.ClickException("the dashboard is not installed: pip install 'longshore[tui]'")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("the dashboard needs a terminal; without one: longshore ls, longshore get")
    sys.argv = ["longshore ui", *([_named(target)] if target else [])]
    runpy.run_module("longshore_tui", run_name="__main__", alter_sys=True)


def _named(target: Target) -> str:
    """The target with its batch's number instead of `last`."""
    if target.batch_id is not None:
        return str(target)
    from .connection import connect
    from .targets import find_batch

    with connect() as client:
        batch = find_batch(client, target)
    return str(Target(batch.id, job_id=target.job_id))
