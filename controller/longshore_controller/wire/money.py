"""What is asked about money, checked, and what is answered, as messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple, NoReturn

from longshore_api.v1 import billing_service_pb2 as pb

from longshore_controller.core.model import MemberRole, Refusal, RefusalKind
from longshore_controller.core.rows import ProjectRow, RateRow
from longshore_controller.store.ledger import GROUPS, CostRow, Wanted
from longshore_controller.wire import submission

MAX_NANOUSD = 10**18
"""Of a limit: a billion dollars."""
MAX_DAY = 10**6
MAX_RESOURCES = 100
_NAME = re.compile("[a-z0-9][a-z0-9-]{0,62}")
_PRICE = re.compile(r"\d{1,9}(\.\d{1,18}|/[1-9]\d{0,17})?")


class ProjectChange(NamedTuple):
    """None: stays as it is."""

    limit_nanousd: int | None
    no_limit: bool
    hard: bool | None
    closed: bool | None


def new_project(request: pb.CreateProjectRequest) -> str:
    """Its name. Refusal INVALID_ARGUMENT."""
    submission.check_fields(request)
    if not _NAME.fullmatch(request.name):
        _refuse("name", f"1 to 63 of a-z, 0-9 and -, not - at first, got {request.name[:100]!r}")
    return request.name


def project_change(request: pb.SetProjectRequest) -> ProjectChange:
    """Refusal INVALID_ARGUMENT."""
    submission.check_fields(request)
    limit = request.limit_nanousd if request.HasField("limit_nanousd") else None
    if limit is not None and request.no_limit:
        _refuse("no_limit", "give a limit or no_limit, not both")
    if limit is not None and not 0 < limit <= MAX_NANOUSD:
        _refuse("limit_nanousd", f"1 to {MAX_NANOUSD:,} nano-dollars, got {limit:,}")
    return ProjectChange(
        limit,
        request.no_limit,
        request.hard if request.HasField("hard") else None,
        request.closed if request.HasField("closed") else None,
    )


def member_role(request: pb.SetMemberRequest) -> MemberRole:
    """Refusal INVALID_ARGUMENT."""
    submission.check_fields(request)
    if request.role not in (pb.MEMBER_ROLE_MEMBER, pb.MEMBER_ROLE_OWNER):
        _refuse("role", f"member or owner, got {request.role}")
    return MemberRole(request.role)


def costs_wanted(request: pb.GetCostsRequest) -> Wanted:
    """Refusal INVALID_ARGUMENT."""
    submission.check_fields(request)
    names = dict(zip(sorted(set(pb.CostsBy.values()) - {0}), GROUPS, strict=True))
    if unknown := [by for by in request.by if by not in names]:
        _refuse("by", f"day, project, user, batch or resource, got {unknown[0]}")
    for field in ("since_day", "until_day"):
        if not 0 <= (day := getattr(request, field)) <= MAX_DAY:
            _refuse(field, f"UTC days since 1970, 0 to {MAX_DAY:,}, got {day:,}")
    if request.batch_id > 2**63 - 1:
        _refuse("batch_id", f"there is no batch {request.batch_id}")
    return Wanted(
        submission.text("project", request.project),
        submission.text("user", request.user),
        request.batch_id,
        request.since_day,
        request.until_day or None,
        tuple(dict.fromkeys(names[by] for by in request.by)),
    )


def rate_card(request: pb.SetRatesRequest) -> tuple[int, dict[str, str]]:
    """The first day, and exact prices as fractions. Refusal INVALID_ARGUMENT."""
    submission.check_fields(request)
    if not 0 <= request.from_day <= MAX_DAY:
        _refuse("from_day", f"UTC days since 1970, 0 to {MAX_DAY:,}, got {request.from_day:,}")
    if not 1 <= len(request.prices) <= MAX_RESOURCES:
        _refuse("prices", f"1 to {MAX_RESOURCES} resources, got {len(request.prices)}")
    for resource, price in request.prices.items():
        if not _NAME.fullmatch(resource):
            _refuse("prices", f"resources are 1 to 63 of a-z, 0-9 and -, got {resource[:100]!r}")
        if not _PRICE.fullmatch(price) or Fraction(price) > 10**6:
            what = f"dollars per core and hour, as 0.01 or 1/100, at most 1,000,000, got {price[:100]!r}"
            _refuse(f"prices[{resource!r}]", what)
    return request.from_day, {name: str(Fraction(price)) for name, price in request.prices.items()}


def project_message(
    row: ProjectRow, running_nanousd: int, members: Iterable[tuple[str, MemberRole]] = ()
) -> pb.Project:
    return pb.Project(
        name=row.name,
        limit_nanousd=row.limit_nanousd,
        hard=row.hard,
        closed=row.closed,
        spent_nanousd=row.spent_nanousd,
        running_nanousd=running_nanousd,
        members=[pb.Member(user=user, role=pb.MemberRole.ValueType(role)) for user, role in members],
    )


def cost_message(row: CostRow) -> pb.Cost:
    return pb.Cost(
        day=row.day or 0,
        project=row.project or "",
        user=row.user_name or "",
        batch_id=row.batch_id or 0,
        resource=row.resource or "",
        nanousd=row.nanousd,
        mcpu_ms=row.mcpu_ms,
    )


def rate_messages(rows: Iterable[RateRow]) -> list[pb.RateCard]:
    cards: dict[int, pb.RateCard] = {}
    for row in rows:
        card = cards.setdefault(row.from_day, pb.RateCard(from_day=row.from_day))
        card.prices[row.resource] = row.usd_per_core_hour
    return list(cards.values())


def _refuse(path: str, what: str) -> NoReturn:
    raise Refusal(RefusalKind.INVALID_ARGUMENT, f"{path}: {what}")
