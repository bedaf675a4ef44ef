"""`longshore rerun`: the failed jobs of a batch once more, as a new batch."""

from __future__ import annotations

import sys
import uuid

import click

from ..builder import BatchBuilder
from ..steps import finish
from . import recent
from .connection import connect
from .formats import output_option, write_one
from .output import hint, say
from .targets import Target, TargetType, find_batch

_NO_JOB = "a batch's failed jobs are run again together: longshore rerun {batch} --failed"
_NUMBERS = {"retries", "max_preempted", "max_lost"}


class _Change(click.ParamType[tuple[str, object]]):
    name = "name=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        if isinstance(value, tuple):
            return value
        name, equals, said = str(value).partition("=")
        if not equals or not said:
            self.fail(f"{value!r} is not NAME=VALUE, e.g. memory=8Gi", param, ctx)
        if name in _NUMBERS and not said.isdecimal():
            self.fail(f"{value!r}: {name} is a whole number, e.g. {name}=3", param, ctx)
        if name == "timeout":
            try:
                return name, float(said)
            except ValueError:
                self.fail(f"{value!r}: timeout is in seconds, e.g. timeout=3600", param, ctx)
        return name, int(said) if name in _NUMBERS else said


@click.command("rerun", epilog="Example: longshore rerun 8120 --failed --set memory=8Gi")
@click.argument("batch", type=TargetType(no_job=_NO_JOB))
@click.option("--failed", is_flag=True, help="The jobs that failed, and those cancelled because of them.")
@click.option(
    "--set", "changes", type=_Change(), multiple=True, metavar="NAME=VALUE",
    help="What is different: cpu, memory, storage, timeout, retries, image, max_preempted, max_lost.",
)  # fmt: skip
@click.option("--name", help="Of the new batch; that of the old one if none is given.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
def command(
    batch: Target, failed: bool, changes: tuple[tuple[str, object], ...], name: str | None, yes: bool,
    output: str,
) -> None:  # fmt: skip
    """Run failed jobs of a complete BATCH again, as a new batch that says of which one it is a rerun.

    What succeeded is not run again; its files are read from where they are. Intermediate files of a
    pipeline are gone if its scratch was removed: it asks before it runs jobs that read some.
    """
    if not failed:
        raise click.UsageError("say what to run again: longshore rerun BATCH --failed")
    with connect() as client:
        old = find_batch(client, batch)
        draft = finish(old._rerun_draft(name, uuid.uuid4().hex))
        plan = finish(old._rerun_plan(dict(changes)))
        if plan.n_reading_scratch and not yes:
            _confirm(old.id, plan.n_reading_scratch)
        builder = BatchBuilder(client, draft)
        builder.add_jobs(plan.jobs)
        new = builder.submit()
        recent.remember(client.endpoint, [new.status()])
        if output != "table":
            write_one("batch", new.status(), output)
            return
        n = len(plan.jobs)
        say(f"batch {new.id} runs {n:,} job{'s' * (n > 1)} of batch {old.id} again")
        hint(f"live: longshore ui {new.id}")


def _confirm(batch_id: int, n: int) -> None:
    """Return if the user knows that these may fail."""
    it_reads = "1 of these jobs reads" if n == 1 else f"{n:,} of these jobs read"
    say(f"{it_reads} intermediate files that earlier jobs of batch {batch_id} wrote.")
    say("They are gone if the pipeline's scratch was removed when it ended (delete_scratch_on_exit).")
    if not sys.stdin.isatty():
        command = f"longshore rerun {batch_id} --failed"
        raise click.UsageError(f"there is no terminal to ask on: {command} --yes does not ask")
    if not click.confirm("Run them?", default=False, err=True):
        say("nothing was changed")
        raise click.Abort
