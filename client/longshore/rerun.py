"""Which jobs of a batch are run again, and how: the failed ones and those cancelled because of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .checks import check_limit, check_retries, check_text
from .errors import UsageError
from .status import JobSpec, JobStatus
from .units import parse_bytes, parse_cpu, parse_seconds

_CHANGES = {
    "cpu": ("cpu_mcpu", parse_cpu),
    "memory": ("memory_bytes", lambda value: parse_bytes("memory", value)),
    "storage": ("storage_bytes", lambda value: parse_bytes("storage", value)),
    "timeout": ("timeout_ms", lambda value: parse_seconds("timeout", value)),
    "retries": ("retries", check_retries),
    "max_preempted": ("max_preempted", lambda value: check_limit("max_preempted", value)),
    "max_lost": ("max_lost", lambda value: check_limit("max_lost", value)),
    "image": ("image", lambda value: check_text("image", value)),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs of a rerun, in the order of those that they repeat."""

    jobs: tuple[JobSpec, ...]
    before: tuple[int, ...]
    """Ids of the jobs that they repeat."""
    n_orphans: int
    """Jobs that do not wait any more for some parent, since it has succeeded."""
    n_reading_scratch: int
    """Of these: jobs that read intermediate files of the first run."""


def changes_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be different in each job, by field of `JobSpec`. Raises UsageError."""
    if unknown := asked.keys() - _CHANGES.keys():
        names = ", ".join(map(repr, sorted(unknown)))
        raise UsageError(f"a rerun can change {', '.join(_CHANGES)}; not {names}")
    return {_CHANGES[name][0]: _CHANGES[name][1](value) for name, value in asked.items()}


def plan(jobs: Iterable[JobStatus], changes: Mapping[str, Any], scratch: str) -> Plan:
    """``jobs``: those that did not succeed, by id, with their specs; ``scratch``: below it lie intermediate
    files. A cancelled one is run again if a job that it depends on is."""
    ids: dict[int, int] = {}
    specs: list[JobSpec] = []
    n_orphans = n_reading_scratch = 0
    below = scratch.rstrip("/") + "/"
    for job in jobs:
        spec = job.spec
        if spec is None or (job.state == "Cancelled" and not any(p in ids for p in spec.parents)):
            continue
        parents = tuple(ids[p] for p in spec.parents if p in ids)
        if len(parents) < len(spec.parents):
            n_orphans += 1
            n_reading_scratch += any(source.startswith(below) for source, _ in spec.input_files)
        specs.append(replace(spec, parents=parents, **changes))
        ids[job.job_id] = len(specs)
    return Plan(tuple(specs), tuple(ids), n_orphans, n_reading_scratch)
