"""`longshore billing`: who pays; what may be spent, what was, and by what prices."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import date, datetime

import click

from ..costs import BillingProject, Cost, RateCard
from . import words
from .connection import connect
from .cost import COST, DAY, HOURS, RESOURCE
from .formats import Listing, list_options, output_option, write_list, write_one
from .output import Cell, Column, Look, hint, say, write_fields

_COLOURS = {"open": "green", "warned": "yellow", "spent": "red", "closed": "bright_black"}
_BY = {
    "day": DAY,
    "project": Column[Cost]("PROJECT", lambda cost, _: cost.billing_project, gives_way=True),
    "user": Column[Cost]("USER", lambda cost, _: cost.user, gives_way=True),
    "batch": Column[Cost]("BATCH", lambda cost, _: str(cost.batch_id or "")),
    "resource": RESOURCE,
}


def _limit(project: BillingProject, look: Look) -> str:
    if project.limit is None:
        return ""
    return words.money(project.limit, look) + (" hard" if project.hard and not look.bare else "")


def _share(project: BillingProject, _: Look) -> str:
    return "" if project.share is None else f"{int(project.share * 100)}%"


PROJECTS = Listing[BillingProject](
    "project",
    "projects",
    [
        Column("NAME", lambda project, _: project.name, gives_way=True),
        Column("STATE", lambda project, _: Cell(project.state, _COLOURS.get(project.state))),
        Column("SPENT", lambda project, look: words.money(project.spent, look), right=True),
        Column("RUNNING", lambda project, look: _running(project, look), right=True),
        Column("LIMIT", _limit, right=True),
        Column("USED", _share, right=True),
    ],
    lambda project: project.name,
)


def _running(project: BillingProject, look: Look) -> str:
    approximately = "" if look.bare else "~"
    return f"{approximately}{words.money(project.running, look)}" if project.running_nanousd else ""


@click.group("billing", epilog="Example: longshore billing usage --since 2026-11-01 --by project,user -o csv")
def command() -> None:
    """Billing projects, their members and limits; what was used, and its prices. Days are those of UTC."""


@command.command("ls", epilog="Example: longshore billing ls -o json")
@list_options
def ls(output: str, columns: Sequence[str]) -> None:
    """List my billing projects: what was spent, and what may be."""
    with connect() as client:
        n = write_list(PROJECTS, client.billing.projects(), output, columns)
    hint("one of them: longshore billing show PROJECT" if n else "None: ask an admin to make you a member")


@command.command("show", epilog="Example: longshore billing show my-project")
@click.argument("project")
@output_option
def show(project: str, output: str) -> None:
    """Show a PROJECT with its members."""
    with connect() as client:
        found = client.billing.project(project)
    _show(found, output)


@command.command("create", epilog="Example: longshore billing create tides")
@click.argument("project")
@output_option
def create(project: str, output: str) -> None:
    """Make a billing PROJECT; for admins. Its name: small letters, digits and '-'."""
    with connect() as client:
        found = client.billing.create(project)
    hint(f"its first owner: longshore billing add {project} USER --owner")
    _show(found, output)


@command.command(
    "limit", epilog="Examples: longshore billing limit tides 500 · longshore billing limit tides none"
)
@click.argument("project")
@click.argument("dollars")
@click.option("--hard", is_flag=True, help="When it is spent cancel what runs, too.")
@output_option
def limit(project: str, dollars: str, hard: bool, output: str) -> None:
    """Let a PROJECT spend so many DOLLARS, or `none` for no limit; for its owners and admins.

    When they are spent, batches are refused and nothing of it starts, until the limit is raised. What runs
    goes on, so a little more may be spent.
    """
    if dollars == "none" and hard:
        raise click.UsageError("--hard is of a limit; `none` is no limit")
    with connect() as client:
        found = client.billing.set_limit(project, None if dollars == "none" else dollars, hard=hard)
    _show(found, output)


@command.command("close", epilog="Example: longshore billing close tides")
@click.argument("project")
@output_option
def close(project: str, output: str) -> None:
    """Start nothing of a PROJECT any more, and refuse its batches. What runs goes on."""
    with connect() as client:
        found = client.billing.close(project)
    say(f"{project} is closed; take it back: longshore billing open {project}", colour="yellow")
    _show(found, output)


@command.command("open", epilog="Example: longshore billing open tides")
@click.argument("project")
@output_option
def open_again(project: str, output: str) -> None:
    """Let a closed PROJECT start jobs again."""
    with connect() as client:
        found = client.billing.open(project)
    _show(found, output)


@command.command("members", epilog="Example: longshore billing members tides")
@click.argument("project")
@output_option
def members(project: str, output: str) -> None:
    """Show who is a member of a PROJECT, and who owns it."""
    with connect() as client:
        found = client.billing.project(project)
    if output != "table":
        write_one("members", found.members, output)
        return
    write_fields([(member.role, member.user) for member in found.members], Look.of(sys.stdout))


@command.command("add", epilog="Example: longshore billing add tides lin --owner")
@click.argument("project")
@click.argument("user")
@click.option("--owner", is_flag=True, help="Who also sets its limit and members, and cancels its batches.")
@output_option
def add(project: str, user: str, owner: bool, output: str) -> None:
    """Make the USER a member of a PROJECT, who creates batches in it and sees all of its; or an owner."""
    with connect() as client:
        found = client.billing.add_member(project, user, owner=owner)
    _show(found, output)


@command.command("remove", epilog="Example: longshore billing remove tides lin")
@click.argument("project")
@click.argument("user")
@output_option
def remove(project: str, user: str, output: str) -> None:
    """Let the USER be no member of a PROJECT. What runs of theirs goes on."""
    with connect() as client:
        found = client.billing.remove_member(project, user)
    _show(found, output)


class Day(click.ParamType[date]):
    name = "day"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            return datetime.strptime(str(value), "%Y-%m-%d").date()
        except ValueError:
            self.fail(f"{value!r} is no day: write e.g. 2026-11-01", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """What costs are told apart by, with commas between."""

    name = "names"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(filter(None, str(value).split(","))))
        if unknown := [name for name in names if name not in _BY]:
            self.fail(f"{unknown[0]!r} is none of {', '.join(_BY)}", param, ctx)
        return names


@command.command(
    "usage", epilog="Example: longshore billing usage --since 2026-11-01 --by project,user -o csv"
)
@click.option("--since", type=Day(), metavar="DAY", help="The first day of use, e.g. 2026-11-01.")
@click.option("--until", type=Day(), metavar="DAY", help="The last one.")
@click.option("--project", metavar="NAME", help="Of this billing project alone.")
@click.option("--user", metavar="NAME", help="Of this user alone.")
@click.option(
    "--by", type=Names(), default="project", show_default=True, metavar="NAME,NAME",
    help="What is told apart: day, project, user, batch, resource.",
)  # fmt: skip
@list_options
def usage(
    since: date | None,
    until: date | None,
    project: str | None,
    user: str | None,
    by: tuple[str, ...],
    output: str,
    columns: Sequence[str],
) -> None:
    """Show what was used in a period, by the day of use; deleted batches count like all others.

    An admin sees everything, others their own and what is of their billing projects.
    """
    listing = Listing[Cost](
        "cost", "costs", [*map(_BY.__getitem__, by), HOURS, COST], lambda cost: str(cost.batch_id)
    )
    with connect() as client:
        found = client.billing.costs(billing_project=project, user=user, since=since, until=until, by=by)
        write_list(listing, found, output, columns)
    if output in ("table", "wide") and len(found) > 1:
        total = Cost(sum(cost.cost_nanousd for cost in found), 0)
        say(f"{words.money(total.cost, Look.of(sys.stderr))}  together")


@command.command("rates", epilog="Example: longshore billing rates")
@list_options
def rates(output: str, columns: Sequence[str]) -> None:
    """Show what a core costs for an hour: all prices, also those to come, by their first day."""
    with connect() as client:
        write_list(RATES, client.billing.rates(), output, columns)


@command.command(
    "set-rates", epilog="Example: longshore billing set-rates --from 2026-12-01 compute=0.01 ip=1/4000"
)
@click.option(
    "--from", "from_day", type=Day(), required=True, metavar="DAY", help="Their first day, one to come."
)
@click.argument("prices", nargs=-1, required=True, metavar="RESOURCE=DOLLARS...")
@list_options
def set_rates(from_day: date, prices: tuple[str, ...], output: str, columns: Sequence[str]) -> None:
    """Set all prices from a DAY on, in dollars per core and hour; for admins.

    What is used before that day keeps its price, also in batches that run then.
    """
    pairs = [price.partition("=") for price in prices]
    if wrong := [price for price, (_, equals, _) in zip(prices, pairs, strict=True) if not equals]:
        raise click.UsageError(f"{wrong[0]!r} is no price: write e.g. compute=0.01")
    with connect() as client:
        found = client.billing.set_rates(from_day, {name: usd for name, _, usd in pairs})
        write_list(RATES, found, output, columns)


RATES = Listing[RateCard](
    "card",
    "cards",
    [
        Column("FROM", lambda card, _: card.from_day.isoformat()),
        Column("PRICES", lambda card, _: " ".join(f"{name}={usd}" for name, usd in card.prices.items())),
        Column("TOTAL", lambda card, look: f"{'' if look.bare else '$'}{float(card.total):.6f}", right=True),
    ],
    lambda card: card.from_day.isoformat(),
)


def _show(project: BillingProject, output: str) -> None:
    if output != "table":
        write_one("project", project, output)
        return
    look = Look.of(sys.stdout)
    share = f" ({_share(project, look)} used)" if project.limit is not None else ""
    write_fields(
        [
            ("project", project.name),
            ("state", Cell(project.state, _COLOURS.get(project.state))),
            ("spent", words.money(project.spent, look)),
            ("running", _running(project, look)),
            ("limit", _limit(project, look) + share or "none"),
            *(("members" if i == 0 else "", f"{m.user} ({m.role})") for i, m in enumerate(project.members)),
        ],
        look,
    )
