"""The option `-q`, and what a shell may complete in it: the names of fields, which are known here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

JOB_FIELDS = (
    *(
        "state:",
        "name:",
        "id:",
        "exit:",
        "reason:",
        "dur>",
        "cost>",
        "attempts:",
        "preempted:",
        "cpu>",
        "mem>",
    ),
    *("started>", "ended>", "attr."),
)
BATCH_FIELDS = (
    *(
        "state:",
        "name:",
        "id:",
        "user:",
        "project:",
        "cost>",
        "dur>",
        "created>",
        "ended>",
        "jobs:",
        "failed:",
    ),
    "attr.",
)
"""With the operator that is asked most, or the dot."""

Command = TypeVar("Command", bound=Callable[..., Any])


def query_option(example: str, fields: Sequence[str]) -> Callable[[Command], Command]:
    """`-q QUERY`."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        begun = re.search(r"(?:^|(?<=[ (]))-?[a-z]*$", incomplete)
        if begun is None:
            return []
        word = begun[0].removeprefix("-")
        before = incomplete[: len(incomplete) - len(word)]
        return [before + field for field in fields if field.startswith(word)]

    return click.option(
        "-q", "--query", metavar="QUERY", shell_complete=complete, help=f"Only these, e.g. {example!r}."
    )
