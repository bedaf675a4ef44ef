"""`longshore tree`: which jobs of a batch wait for which; of a big batch, which kinds of jobs."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import click

from ..handles import Batch
from ..status import JobStatus, Record
from ..terminal import one_line
from . import words
from .connection import connect
from .formats import output_option, write_one
from .output import Look, hint, say
from .targets import Target, TargetType, find_batch

_SMALL = 100
"""Of a batch with more jobs, kinds of jobs are shown."""
_MOST = 2000
"""Each job has to be asked for what it waits for."""
_AT_ONCE = 8
_DEEPEST = 20
"""Steps to the right that a line may stand."""
_NUMBERS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Node(Record):
    """A job, or jobs whose names differ in their numbers only."""

    id: int
    """Of the job, or of the first of them."""
    name: str
    n_jobs: int
    states: Mapping[str, int]
    after: tuple[int, ...]
    """Ids of the nodes that it waits for; smaller than its own."""


@click.command("tree", epilog="Example: longshore tree last --all")
@click.argument(
    "batch", type=TargetType(no_job="{target} is one job; what all jobs wait for: longshore tree {batch}")
)
@click.option("--all", "each", is_flag=True, help=f"Each job, also of a batch with more than {_SMALL}.")
@output_option
def command(batch: Target, each: bool, output: str) -> None:
    """Show which jobs of a BATCH wait for which.

    Jobs of a big batch whose names differ in their numbers only are shown as one.
    """
    with connect() as client:
        found = find_batch(client, batch)
        status = found.status()
        nodes = nodes_of(_jobs(found))
    if not each and status.n_jobs > _SMALL:
        nodes = collapsed(nodes)
    if output != "table":
        write_one("tree", nodes, output)
        return
    look = Look.of(sys.stdout)
    for line in drawn(nodes, look):
        click.echo(line, color=True)
    if status.n_jobs > _MOST:
        say(f"of the first {_MOST:,} of {status.n_jobs:,} jobs")
    elif not each and status.n_jobs > _SMALL:
        hint(f"each job: longshore tree {batch} --all")


def _jobs(batch: Batch) -> Iterator[JobStatus]:
    """The first jobs, with their specs, which lists do not have."""
    with ThreadPoolExecutor(_AT_ONCE) as asking:
        yield from asking.map(lambda job: job.status(), islice(batch.jobs(), _MOST))


def nodes_of(jobs: Iterable[JobStatus]) -> list[Node]:
    return [
        Node(job.job_id, job.name, 1, {job.state: 1}, tuple(sorted(job.spec.parents)) if job.spec else ())
        for job in jobs
    ]


def collapsed(nodes: Sequence[Node]) -> list[Node]:
    """One node for all whose names are the same but for numbers; they may also wait for each other."""
    first: dict[str, int] = {}
    kind_of: dict[int, int] = {}
    for node in nodes:
        kind_of[node.id] = first.setdefault(_kind(node), node.id)
    members: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        members[kind_of[node.id]].append(node)
    found = []
    for kind, of_kind in members.items():
        states: Counter[str] = Counter()
        for node in of_kind:
            states.update(node.states)
        after = {kind_of[parent] for node in of_kind for parent in node.after if parent in kind_of}
        name = _kind(of_kind[0]) if len(of_kind) > 1 else of_kind[0].name
        # Kinds that began later are waited for by some; what is drawn must have no circles.
        earlier = tuple(sorted(each for each in after if each < kind))
        found.append(Node(kind, name, len(of_kind), dict(states), earlier))
    return found


def drawn(nodes: Sequence[Node], look: Look) -> Iterator[str]:
    """A line for each node, below the last of those that it waits for; the others are named."""
    known = {node.id for node in nodes}
    children: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        parents = [parent for parent in node.after if parent in known]
        children[parents[-1] if parents else 0].append(node)
    corner, tee, bar = ("└─ ", "├─ ", "│  ") if look.symbols else ("`- ", "|- ", "|  ")
    waiting = [(node, "", "") for node in reversed(children[0])]
    while waiting:
        node, here, below = waiting.pop()
        yield _line(node, here, look)
        if len(below) >= _DEEPEST * len(bar):
            below = below[: -len(bar)]  # No further to the right.
        last = len(children[node.id]) - 1
        waiting += [
            (child, below + (corner if i == last else tee), below + ("   " if i == last else bar))
            for i, child in reversed(list(enumerate(children[node.id])))
        ]


def _line(node: Node, indent: str, look: Look) -> str:
    name = one_line(node.name)
    if node.n_jobs == 1:
        (state,) = node.states
        cell = words.state(state, look)
        what = f"{node.id} {name}".rstrip() + "  " + look.paint(cell.text, cell.colour)
    else:
        shown = []
        for state, n in node.states.items():
            cell = words.state(state, look)
            shown.append(look.paint(f"{words.count(n, look)} {cell.text}", cell.colour))
        what = f"{name}  {words.count(node.n_jobs, look)} jobs: {', '.join(shown)}"
    others = node.after[:-1]
    also = ", ".join(map(str, others[:8])) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
    return f"{indent}{what}" + (f"  (also after {also})" if others else "")


def _kind(node: Node) -> str:
    return _NUMBERS.sub("#", node.name) or "(without a name)"
