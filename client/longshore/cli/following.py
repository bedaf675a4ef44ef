"""Following a batch or a job to its end: what is shown meanwhile, what is said when one turns away."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from ..handles import Batch
from ..progress import TalkingProgress, choose_progress
from ..status import BatchStatus
from .exits import exit_code_of_state
from .formats import SCHEMA, json_line, plain
from .output import Look, say
from .words import money

_WAYS = ("auto", "tty", "plain", "json", "none")

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Wait no longer; exit code 124 then. What is waited for goes on.",
)
if_failed_option = click.option(
    "--ok-if-failed", is_flag=True, help="Exit code 0 also when it failed or was cancelled."
)


def progress_option(command: Callable[..., Any]) -> Callable[..., Any]:
    def preferred() -> str:
        wanted = os.environ.get("LONGSHORE_PROGRESS", "")
        return wanted if wanted in _WAYS else "auto"

    return click.option(
        "--progress",
        "shown",
        type=click.Choice(_WAYS),
        default=preferred,
        show_default="LONGSHORE_PROGRESS, or auto",
        help="How to tell on stderr how far it is.",
    )(command)


def progress_of(shown: str) -> TalkingProgress:
    """What was asked for; `auto` is bars on a terminal that can show them."""
    if shown == "json":
        return _JsonLines()
    simple = os.environ.get("CI") or os.environ.get("TERM") == "dumb" or os.environ.get("LONGSHORE_PLAIN")
    if shown == "none":
        return choose_progress(disable=True)
    return choose_progress(kind="plain" if shown == "auto" and simple else shown)


def exit_code(state: str, *, ok_if_failed: bool) -> int:
    return 0 if ok_if_failed else exit_code_of_state(state)


def say_detached(batch: Batch, job_id: int | None = None, again: str = "wait") -> None:
    """Ctrl-C ended the looking, and nothing else. `again`: the verb that goes on looking."""
    seen = batch.last_status
    look = replace(Look.of(sys.stderr), tty=True)
    so_far = f", {money(seen.cost, look, so_far=True)}" if seen else ""
    what = f"{batch.id}" if job_id is None else f"{batch.id}/{job_id}"
    say(
        f"\ndetached from #{what} (still running{so_far}). "
        f"reattach: longshore {again} {what} · cancel: longshore cancel {batch.id}"
    )


class _JsonLines:
    """A document a line at each change, for programs."""

    def submitted(self, n: int, of: int) -> None:
        click.echo(json_line({"schema": SCHEMA, "submitted": {"n_jobs": n, "of": of}}), err=True)

    def changed(self, status: BatchStatus) -> None:
        click.echo(json_line({"schema": SCHEMA, "batch": plain(status)}), err=True)

    def say(self, line: str) -> None:
        click.echo(json_line({"schema": SCHEMA, "said": line}), err=True)

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass
