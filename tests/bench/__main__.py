"""Benchmarks: `PYTHONPATH=tests python -m bench [GOAL …] [--quick] [--json FILE]`; no goals: all of them."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from bench.measure import Result, Size, table
from bench.service import servers

GOALS = ("1", "2", "3", "4", "5", "6", "7", "9", "10", "14")


def main(arguments: list[str]) -> int:
    """0 when everything was measured, whether or not goals were met; 1 when something could not be."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("goals", nargs="*", metavar="GOAL", help=f"of {', '.join(GOALS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write everything there, too")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.goals) - set(GOALS):
        parser.error(
            f"there is no benchmark of goal {', '.join(sorted(unknown))}: choose from {', '.join(GOALS)}"
        )
    size = Size(quick=asked.quick, tiny=asked.tiny)
    results: list[Result] = []
    failed: dict[str, str] = {}
    loads = [os.getloadavg()[0]]
    began = time.monotonic()
    print(_header(size), flush=True)
    with servers() as server:
        for goal in asked.goals or GOALS:
            module = importlib.import_module(f"bench.goal{goal}")
            try:
                found = module.measure(server, size)
                results += found
                print(table(found), flush=True)
            except Exception as error:
                failed[goal] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
                print(f"FAIL  goal {goal:3} could not be measured: {failed[goal]}", flush=True)
            loads.append(os.getloadavg()[0])
    took = time.monotonic() - began
    print(f"load average {min(loads):.1f} to {max(loads):.1f} meanwhile; {took:.0f} s", flush=True)
    if asked.json:
        whole = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "quick": size.quick,
            "cores": os.cpu_count(),
            "load_averages": loads,
            "seconds": took,
            "results": [result.as_dict() for result in results],
            "failed": failed,
        }
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(whole, indent=1) + "\n")
    return 1 if failed else 0


def _header(size: Size) -> str:
    now = datetime.now(UTC)
    sizes = "tiny" if size.tiny else "quick" if size.quick else "full"
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{now:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load average {load}, sizes: {sizes}. "
        f"Medians of {size.runs} run{'s' * (size.runs > 1)} (smallest–largest), base and ours in turns."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
