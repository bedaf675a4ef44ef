"""Histories on request: `PYTHONPATH=tests python -m sim [--layer 2] SEED [HOW_MANY]`.

Layer 1 is the engine and the supervisor, with few lines for everything else; layer 2 both whole programs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import Pool

from sim import history, whole

Told = tuple[int, Counter[str], str, str]
"""A seed, what happened, the digest of all that did, and what broke, if anything did."""


def one(wanted: tuple[int, int, bool]) -> Told:
    layer, seed, trace = wanted
    try:
        if layer == 1:
            return seed, history.run(seed), "", ""
        told = whole.run(seed, trace=trace)
        return seed, told.seen, told.digest, ""
    except history.Failed as failure:
        return seed, Counter(), "", str(failure)


def run(flags: argparse.Namespace) -> Iterator[Told]:
    seeds = [(flags.layer, seed, flags.trace) for seed in range(flags.seed, flags.seed + flags.how_many)]
    if flags.jobs == 1:
        yield from map(one, seeds)
    else:
        with Pool(flags.jobs) as pool:
            yield from pool.imap(one, seeds, chunksize=4)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sim", description="Plays random histories.")
    add = parser.add_argument
    add("seed", type=int)
    add("how_many", type=int, nargs="?", default=1)
    add("--layer", type=int, choices=[1, 2], default=1)
    add("--trace", action="store_true", help="tell everything (layer 2)")
    add("--jobs", type=int, default=1, metavar="N", help="processes that play at the same time")
    add("--digests", action="store_true", help="print a digest of all that happened in each (layer 2)")
    flags = parser.parse_args(arguments)
    began, seen, failed = time.monotonic(), Counter[str](), list[int]()
    for seed, happened, digest, broken in run(flags):
        seen += happened
        if broken:
            failed.append(seed)
            print(broken if len(failed) == 1 else "\n".join(broken.splitlines()[:2]), flush=True)
        elif flags.digests:
            print(seed, digest)
    for what, times in sorted(seen.items()):
        print(f"{times:9,}  {what}")
    print(f"{flags.how_many} histories, {len(failed)} failed, {time.monotonic() - began:.1f} s")
    if failed:
        print(f"failed: {' '.join(map(str, failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
