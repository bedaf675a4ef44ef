"""What went wrong, for people and programs: one message on stderr, one exit code.

=====  ==================================================================
0      done
1      internal, or unknown
2      usage
3      not found
4      not logged in
5      permission denied
6      conflict: its state does not allow it
7      the service does not answer
8      a quota or budget is used up
10     the batch (or job) failed
11     it was cancelled
124    the time given to `wait` is over
125    `run`: the job could not be run, or has no exit code of its own
130    Ctrl-C: detached, or stopped before it did anything
=====  ==================================================================
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from ..errors import (
    AuthError,
    BatchError,
    Conflict,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Unavailable,
    UsageError,
    WaitTimeout,
)
from .formats import SCHEMA, json_text
from .output import say

BATCH_FAILED = 10
BATCH_CANCELLED = 11
INTERRUPTED = 130

_EXIT_CODES: dict[type[BatchError], int] = {
    UsageError: 2,
    NotFound: 3,
    AuthError: 4,
    PermissionDenied: 5,
    Conflict: 6,
    Unavailable: 7,
    QuotaExceeded: 8,
    WaitTimeout: 124,
}


def exit_code_of_state(state: str) -> int:
    """What `wait` returns for the final state of a batch or a job."""
    return {"success": 0, "cancelled": BATCH_CANCELLED}.get(state.lower(), BATCH_FAILED)


def exit_code_of(error: BatchError) -> int:
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1)


def tell(error: Exception, args: Sequence[str]) -> int:
    """Say on stderr what went wrong; the exit code. An error that is a defect is raised again.

    As JSON when `args` ask for JSON.
    """
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if isinstance(error, BatchError):
        request_id = str(getattr(error, "request_id", "") or "")
        return _tell(
            error.code, error.message, error.hint, args, exit_code=exit_code_of(error), request_id=request_id
        )
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"{context.command_path} --help" if context else ""
        return _tell("usage", error.format_message(), hint, args, exit_code=error.exit_code)
    raise error


def _tell(
    code: str, message: str, hint: str, args: Sequence[str], *, exit_code: int, request_id: str = ""
) -> int:
    if _wants_json(args):
        told = {"code": code, "message": message, "hint": hint, "request_id": request_id or None}
        click.echo(json_text({"schema": SCHEMA, "error": told}), err=True)
    else:
        say(f"error: {message}", colour="red")
        if hint:
            say(f"hint: {hint}")
    return exit_code


def _wants_json(args: Sequence[str]) -> bool:
    """Also when the arguments were not understood."""
    own = list(args[: args.index("--")]) if "--" in args else list(args)
    asked = [value for option, value in zip(own, own[1:], strict=False) if option in ("-o", "--output")]
    asked += [arg.partition("=")[2] for arg in own if arg.startswith("--output=")]
    asked += [arg[2:] for arg in own if arg.startswith("-o") and not arg.startswith("--")]
    return (asked or [os.environ.get("LONGSHORE_OUTPUT", "")])[0] in ("json", "jsonl")
