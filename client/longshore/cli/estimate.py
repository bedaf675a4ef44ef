"""`longshore estimate`: what jobs would cost. Nothing is submitted."""

from __future__ import annotations

import re
import sys

import click

from ..costs import Estimate
from . import words
from .connection import connect
from .formats import output_option, write_one
from .output import Look, write_fields

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)")


class Time(click.ParamType[float]):
    """Seconds; ``20m``, ``1.5h``."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _TIME.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no time: write 90, 90s, 20m, 1.5h or 2d", param, ctx)
        return float(found[1]) * _UNITS[found[2] or "s"]


@click.command(
    "estimate", epilog="Example: longshore estimate --cpu 1 --memory 7G --duration 20m --jobs 1000"
)
@click.option("--cpu", metavar="CORES", help="Of each job: 2, 0.5 or 500m.  [default: 1]")
@click.option(
    "--memory", metavar="BYTES", help="Of each job: 7.5G or 8Gi.  [default: what comes with the cores]"
)
@click.option(
    "--duration", required=True, type=Time(), help="How long each main container runs: 90s, 20m, 1.5h."
)
@click.option(
    "--jobs", "n_jobs", type=click.IntRange(1, 10_000_000), default=1, show_default=True, help="How many."
)
@output_option
def command(cpu: str | None, memory: str | None, duration: float, n_jobs: int, output: str) -> None:
    """Say what jobs would cost by today's prices, if none is preempted. Submits nothing.

    Memory may reserve more cores than were asked for: 3.75 GB come with each.
    """
    with connect() as client:
        found = client.billing.estimate(cpu=cpu, memory=memory, duration=duration, n_jobs=n_jobs)
    if output != "table":
        write_one("estimate", found, output)
        return
    _show(found, Look.of(sys.stdout))


def _show(found: Estimate, look: Look) -> None:
    fields = [
        ("jobs", words.count(found.n_jobs, look)),
        ("reserved", f"{words.cores(found.reserved_mcpu)} each"),
        ("time", f"{words.duration(found.duration_ms, look)} each"),
        ("cost", f"~{words.money(found.cost, look)}"),
    ]
    parts = [("", f"{words.money(usd, look)} {name}") for name, usd in found.by_resource.items()]
    write_fields([*fields, *parts], look)
