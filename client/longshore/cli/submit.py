"""`longshore submit`: run a Python program that finds the service by itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ..discovery import find_service


@click.command(
    "submit",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: longshore submit word_count.py results/",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(file: Path, arguments: tuple[str, ...]) -> None:
    """Run the Python program FILE, with its ARGUMENTS, by this Python.

    A BatchBackend in it talks to the service that this command line talks to. Its exit code is this
    command's.
    """
    find_service()  # The program finds it in the same way, also when it moves; without one it is not run.
    sys.stdout.flush()
    # The program takes this process over: signals, terminal and exit code are its own.
    os.execv(sys.executable, [sys.executable, str(file), *arguments])
