"""How quickly the command line begins: what is imported before anything is done, and how long that takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from command_line import LONGSHORE, Run

HEAVY = {"grpc", "google", "longshore_api", "rich", "textual", "docker", "peewee", "yaml", "tomlkit"}
COMPLETION = {
    "_LONGSHORE_COMPLETE": "bash_complete",
    "COMP_WORDS": "longshore logs last/1 --ta",
    "COMP_CWORD": "3",
}


def imported(*args: str, **environ: str) -> set[str]:
    """Everything that is imported when this is run."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *LONGSHORE[1:], *args],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE))


@pytest.mark.parametrize(
    ("args", "environ"),
    [(["--version"], {}), (["--help"], {}), (["jobs", "--help"], {}), ([], COMPLETION)],
    ids=["version", "help", "help of a verb", "completion"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(args: list[str], environ: dict[str, str]) -> None:
    names = imported(*args, **environ)
    assert "longshore.cli" in names
    assert not {name for name in names if name.partition(".")[0] in HEAVY}
    assert "longshore.service" not in names


def test_help_imports_no_verb() -> None:
    assert not {name for name in imported("--help") if re.match(r"longshore\.cli\.(?!verbs|__main__)", name)}


def test_the_version_is_told_before_click_is_imported(run: Run) -> None:
    assert "click" not in imported("--version")
    assert run("--version").out == run("--plain", "--version").out


def test_the_version_takes_less_time_than_the_import_of_click() -> None:
    def least_s(*command: str) -> float:
        took = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            took.append(time.perf_counter() - start)
        return min(took)

    assert least_s(*LONGSHORE[1:], "--version") < least_s("-c", "import click")
