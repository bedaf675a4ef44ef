"""Histories on request: `PYTHONPATH=tests python -m sim SEED [HOW_MANY]`."""

from __future__ import annotations

import sys
import time
from collections import Counter

from sim.history import Failed, run


def main(first: int, how_many: int) -> int:
    began, seen, failed = time.monotonic(), Counter[str](), 0
    for seed in range(first, first + how_many):
        try:
            seen += run(seed)
        except Failed as failure:
            failed += 1
            print(failure if failed == 1 else str(failure).splitlines()[0], flush=True)
    for what, times in sorted(seen.items()):
        print(f"{times:9,}  {what}")
    print(f"{how_many} histories, {failed} failed, {time.monotonic() - began:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
