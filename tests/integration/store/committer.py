"""A process to be killed: it opens a store and commits, telling each commit once it is durable.

Arguments: the database's URL. Each line on stdout: the number of the last committed event.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from world import Job, World, open_store


def main(url: str) -> None:
    world = World(open_store(url))
    world.hello()
    while True:
        batch = world.submit(Job(), Job(parents=[1]))
        for job_id in (1, 2):
            world.settle()
            world.end(world.attempt_of(batch, job_id))
            world.settle()
            print(world.seq, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
