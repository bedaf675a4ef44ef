"""`import longshore` stays light: it is what every user's program, and every shell completion, pays."""

from __future__ import annotations

import json
import subprocess
import sys

IMPORT = """
import json, sys, time
start = time.perf_counter()
import longshore
took_s = time.perf_counter() - start
print(json.dumps([took_s, sorted(sys.modules)]))
"""
HEAVY = ("docker", "google", "grpc", "peewee", "psycopg", "structlog", "rich", "textual")


def imported() -> tuple[float, set[str]]:
    """Seconds that the import took in a fresh interpreter, and the modules it brought with it."""
    done = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
    took_s, names = json.loads(done.stdout)
    return took_s, set(names)


def test_the_import_takes_less_than_300_ms() -> None:
    # The least of three: what the import costs, not what else the machine is doing.
    assert min(imported()[0] for _ in range(3)) < 0.3


def test_the_import_brings_nothing_heavy_with_it() -> None:
    _, names = imported()
    assert not names & set(HEAVY)
