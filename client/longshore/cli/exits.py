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
130    Ctrl-C: detached, or stopped before it did anything
=====  ==================================================================
"""

from __future__ import annotations

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
from .output import json_text, say

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


def tell(error: Exception, args: Sequence[str]) -> int:
    """Say on stderr what went wrong; the exit code. An error that is a defect is raised again.

    As JSON when `args` ask for JSON.
    """
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if isinstance(error, BatchError):
        code = next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1)
        return _tell(error.code, error.message, error.hint, args, exit_code=code)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"{context.command_path} --help" if context else ""
        return _tell("usage", error.format_message(), hint, args, exit_code=error.exit_code)
    raise error


def _tell(code: str, message: str, hint: str, args: Sequence[str], *, exit_code: int) -> int:
    if _wants_json(args):
        told = {"code": code, "message": message, "hint": hint}
        click.echo(json_text({"schema": "longshore/v1", "error": told}), err=True)
    else:
        say(f"error: {message}", colour="red")
        if hint:
            say(f"hint: {hint}")
    return exit_code


def _wants_json(args: Sequence[str]) -> bool:
    """Also when the arguments were not understood."""
    return any(
        (option, value) in (("-o", "json"), ("--output", "json"))
        for option, value in zip(args, args[1:], strict=False)
    ) or bool({"-ojson", "--output=json"} & set(args))
