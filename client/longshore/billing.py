"""Who pays, how much and for what. `Client.billing` and `AsyncClient.billing`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from longshore_api.v1 import billing_service_pb2 as pb

from . import wire
from .checks import check_bool, check_id, check_text
from .costs import BillingProject, Cost, Estimate, RateCard, check_prices, estimate, parse_dollars
from .errors import UsageError, WrongType
from .steps import finish
from .units import Amount

if TYPE_CHECKING:
    from .calls import Calls

Dollars = Decimal | int | float | str
BY = ("day", "project", "user", "batch", "resource")


class BillingCalls:
    """The calls themselves, for both kinds of client."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def projects(self) -> list[BillingProject]:
        answer = await self._calls._ask("ListProjects", pb.ListProjectsRequest())
        return [wire.billing_project(each) for each in answer.projects]

    async def project(self, name: str) -> BillingProject:
        request = pb.GetProjectRequest(name=check_text("name", name))
        return wire.billing_project(await self._calls._ask("GetProject", request))

    async def create(self, name: str) -> BillingProject:
        request = pb.CreateProjectRequest(name=check_text("name", name))
        return wire.billing_project(await self._calls._ask("CreateProject", request))

    async def set_limit(self, name: str, limit: Dollars | None, hard: bool) -> BillingProject:
        request = pb.SetProjectRequest(name=check_text("name", name), hard=check_bool("hard", hard))
        if limit is None:
            request.no_limit = True
        else:
            request.limit_nanousd = parse_dollars(limit)
        return wire.billing_project(await self._calls._ask("SetProject", request))

    async def set_closed(self, name: str, closed: bool) -> BillingProject:
        request = pb.SetProjectRequest(name=check_text("name", name), closed=closed)
        return wire.billing_project(await self._calls._ask("SetProject", request))

    async def add_member(self, name: str, user: str, owner: bool) -> BillingProject:
        role = pb.MEMBER_ROLE_OWNER if check_bool("owner", owner) else pb.MEMBER_ROLE_MEMBER
        request = pb.SetMemberRequest(name=check_text("name", name), user=check_text("user", user), role=role)
        return wire.billing_project(await self._calls._ask("SetMember", request))

    async def remove_member(self, name: str, user: str) -> BillingProject:
        request = pb.RemoveMemberRequest(name=check_text("name", name), user=check_text("user", user))
        return wire.billing_project(await self._calls._ask("RemoveMember", request))

    async def costs(
        self,
        billing_project: str | None,
        user: str | None,
        batch_id: int | None,
        since: date | None,
        until: date | None,
        by: Iterable[str],
    ) -> list[Cost]:
        wanted = (by,) if isinstance(by, str) else tuple(by)
        if unknown := [each for each in wanted if each not in BY]:
            raise UsageError(f"by {unknown[0]!r} is not one of {', '.join(BY)}")
        request = pb.GetCostsRequest(
            project=check_text("billing_project", billing_project or ""),
            user=check_text("user", user or ""),
            batch_id=0 if batch_id is None else check_id("batch_id", batch_id),
            since_day=0 if since is None else _day(since),
            until_day=0 if until is None else _day(until) + 1,
            by=[wire.COSTS_BY[each] for each in wanted],  # type: ignore[misc]
        )
        answer = await self._calls._ask("GetCosts", request)
        return [wire.cost(each, wanted) for each in answer.costs]

    async def rates(self) -> list[RateCard]:
        answer = await self._calls._ask("ListRates", pb.ListRatesRequest())
        return [wire.rate_card(card) for card in answer.cards]

    async def set_rates(self, from_day: date, prices: Mapping[str, str]) -> list[RateCard]:
        request = pb.SetRatesRequest(from_day=_day(from_day), prices=check_prices(prices))
        answer = await self._calls._ask("SetRates", request)
        return [wire.rate_card(card) for card in answer.cards]

    async def estimate(
        self, cpu: Amount | None, memory: Amount | None, duration: float, n_jobs: int
    ) -> Estimate:
        today = datetime.now(UTC).date()
        card = next(card for card in reversed(await self.rates()) if card.from_day <= today)
        return estimate(card, cpu, memory, duration, n_jobs)


class Billing:
    """Billing projects, costs and prices. All calls may be repeated.

    Of a billing project that one is no member of everything raises NotFound, as if there were none.
    """

    def __init__(self, calls: Calls) -> None:
        self._asked = BillingCalls(calls)

    def projects(self) -> Sequence[BillingProject]:
        """Mine, by name; an admin's are all.

        >>> [project.name for project in client.billing.projects()]
        ['my-project']
        """
        return finish(self._asked.projects())

    def project(self, name: str) -> BillingProject:
        """One, with its members. Raises NotFound.

        >>> client.billing.project('my-project').state
        'open'
        """
        return finish(self._asked.project(name))

    def create(self, name: str) -> BillingProject:
        """Make one, for admins. One that exists stays as it is.

        >>> client.billing.create('my-project').name
        'my-project'
        """
        return finish(self._asked.create(name))

    def set_limit(self, name: str, limit: Dollars | None, *, hard: bool = False) -> BillingProject:
        """What it may spend, in dollars; None: as much as it will. For its owners and admins.

        When that is spent nothing of it starts any more until the limit is raised; what runs goes on, or
        is cancelled if the limit is `hard`.

        >>> client.billing.set_limit('my-project', 500).limit
        Decimal('500.000000000')
        >>> client.billing.set_limit('my-project', None).limit is None
        True
        """
        return finish(self._asked.set_limit(name, limit, hard))

    def close(self, name: str) -> BillingProject:
        """Start nothing of it any more, and refuse its batches, until `open`. What runs goes on.

        >>> client.billing.close('my-project').state
        'closed'
        >>> client.billing.open('my-project').state
        'open'
        """
        return finish(self._asked.set_closed(name, True))

    def open(self, name: str) -> BillingProject:
        """Take back `close`.

        >>> client.billing.open('my-project').closed
        False
        """
        return finish(self._asked.set_closed(name, False))

    def add_member(self, name: str, user: str, *, owner: bool = False) -> BillingProject:
        """Make the user a member, or an owner; of who is one, what is said. Raises NotFound.

        >>> me = client.session().user
        >>> client.billing.add_member('my-project', me, owner=True).members[0].role
        'owner'
        """
        return finish(self._asked.add_member(name, user, owner))

    def remove_member(self, name: str, user: str) -> BillingProject:
        """What runs of theirs goes on. Only an admin removes the last owner.

        >>> len(client.billing.remove_member('my-project', 'nobody').members)
        1
        """
        return finish(self._asked.remove_member(name, user))

    def costs(
        self,
        *,
        billing_project: str | None = None,
        user: str | None = None,
        batch_id: int | None = None,
        since: date | None = None,
        until: date | None = None,
        by: Iterable[str] = (),
    ) -> Sequence[Cost]:
        """What was used of what I may see, by attempts that have ended, also of deleted batches.

        Days are those of use, both included. `by` tells apart by one or more of ``day``, ``project``,
        ``user``, ``batch`` and ``resource``; the parts of a sum are exactly the sum.

        >>> parts = client.billing.costs(batch_id=1, by='resource')
        >>> [part.resource for part in parts]
        ['compute', 'disk', 'ip', 'service']
        >>> sum(part.cost for part in parts) == client.get_batch(1).status().cost
        True
        """
        return finish(self._asked.costs(billing_project, user, batch_id, since, until, by))

    def rates(self) -> Sequence[RateCard]:
        """All prices, also those to come, by their first day.

        >>> f'{float(client.billing.rates()[0].total):.6f}'
        '0.021704'
        """
        return finish(self._asked.rates())

    def set_rates(self, from_day: date, prices: Mapping[str, str]) -> Sequence[RateCard]:
        """What a core costs for an hour from that day on, for admins. What was used keeps its price.

        >>> from datetime import date
        >>> client.billing.set_rates(date(2999, 1, 1), {'compute': '0.01'})[-1].from_day
        datetime.date(2999, 1, 1)
        """
        return finish(self._asked.set_rates(from_day, prices))

    def estimate(
        self,
        *,
        cpu: Amount | None = None,
        memory: Amount | None = None,
        duration: float,
        n_jobs: int = 1,
    ) -> Estimate:
        """What jobs of so many seconds would cost by today's prices. Submits nothing.

        >>> found = client.billing.estimate(cpu=1, memory='7G', duration=3600, n_jobs=100)
        >>> found.reserved_mcpu, found.cost
        (2000, Decimal('4.340896600'))
        """
        return finish(self._asked.estimate(cpu, memory, duration, n_jobs))


class AsyncBilling:
    """`Billing`, awaited."""

    def __init__(self, calls: Calls) -> None:
        self._asked = BillingCalls(calls)

    async def projects(self) -> Sequence[BillingProject]:
        """Mine, by name; an admin's are all."""
        return await self._asked.projects()

    async def project(self, name: str) -> BillingProject:
        """One, with its members. Raises NotFound."""
        return await self._asked.project(name)

    async def create(self, name: str) -> BillingProject:
        """Make one, for admins; see `Billing.create`."""
        return await self._asked.create(name)

    async def set_limit(self, name: str, limit: Dollars | None, *, hard: bool = False) -> BillingProject:
        """What it may spend, in dollars; see `Billing.set_limit`."""
        return await self._asked.set_limit(name, limit, hard)

    async def close(self, name: str) -> BillingProject:
        """Start nothing of it any more; see `Billing.close`."""
        return await self._asked.set_closed(name, True)

    async def open(self, name: str) -> BillingProject:
        """Take back `close`."""
        return await self._asked.set_closed(name, False)

    async def add_member(self, name: str, user: str, *, owner: bool = False) -> BillingProject:
        """Make the user a member, or an owner. Raises NotFound."""
        return await self._asked.add_member(name, user, owner)

    async def remove_member(self, name: str, user: str) -> BillingProject:
        """What runs of theirs goes on; see `Billing.remove_member`."""
        return await self._asked.remove_member(name, user)

    async def costs(
        self,
        *,
        billing_project: str | None = None,
        user: str | None = None,
        batch_id: int | None = None,
        since: date | None = None,
        until: date | None = None,
        by: Iterable[str] = (),
    ) -> Sequence[Cost]:
        """What was used of what I may see; see `Billing.costs`."""
        return await self._asked.costs(billing_project, user, batch_id, since, until, by)

    async def rates(self) -> Sequence[RateCard]:
        """All prices, also those to come, by their first day."""
        return await self._asked.rates()

    async def set_rates(self, from_day: date, prices: Mapping[str, str]) -> Sequence[RateCard]:
        """What a core costs for an hour from that day on; see `Billing.set_rates`."""
        return await self._asked.set_rates(from_day, prices)

    async def estimate(
        self,
        *,
        cpu: Amount | None = None,
        memory: Amount | None = None,
        duration: float,
        n_jobs: int = 1,
    ) -> Estimate:
        """What jobs of so many seconds would cost by today's prices. Submits nothing."""
        return await self._asked.estimate(cpu, memory, duration, n_jobs)


def _day(day: date) -> int:
    if not isinstance(day, date) or isinstance(day, datetime):
        raise WrongType(f"{day!r} must be a datetime.date, e.g. date(2026, 11, 1)")
    return (day - date(1970, 1, 1)).days
