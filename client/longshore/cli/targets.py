"""What a command is about: `8120`, `8120/4705`, `last`, `last~1`, `last/3`, a name; `8100-8110,8112`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ..errors import NotFound, UsageError
from ..handles import Batch, Job
from ..terminal import clean

if TYPE_CHECKING:
    from ..service import Client

_FORM = re.compile(r"(?:(?P<batch>[0-9]{1,18})|last(?:~(?P<back>[0-9]{1,9}))?)(?:/(?P<job>[0-9]{1,9}))?")
_NAMED = re.compile(r"(?P<name>(?=.*[^\W\d_])[^/~\s-][^/~]*)(?:/(?P<job>[0-9]{1,9}))?")
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_MOST = 10_000
"""Batches that a range may name."""


@dataclass(frozen=True, slots=True)
class Target:
    """A batch, or one of its jobs. Without `batch_id` and `name`: the newest batch but `back`."""

    batch_id: int | None
    back: int = 0
    job_id: int | None = None
    name: str = ""
    of_range: bool = False
    """Nobody said that there is such a batch."""

    def __str__(self) -> str:
        back = f"~{self.back}" if self.back else ""
        batch = self.name or f"last{back}" if self.batch_id is None else str(self.batch_id)
        return batch if self.job_id is None else f"{batch}/{self.job_id}"


def parse_target(text: str) -> Target:
    """The target that `text` names. Raises ValueError, saying the accepted forms.

    >>> str(parse_target('8120/4705')), parse_target('last~2').back, parse_target('align/3').name
    ('8120/4705', 2, 'align')
    """
    if found := _FORM.fullmatch(text):
        numbers = [int(number) for number in (found["batch"], found["job"]) if number]
        if all(numbers):
            return Target(
                batch_id=int(found["batch"]) if found["batch"] else None,
                back=int(found["back"] or 0),
                job_id=int(found["job"]) if found["job"] else None,
            )
    elif (named := _NAMED.fullmatch(text)) and int(named["job"] or 1):
        return Target(None, name=named["name"], job_id=int(named["job"]) if named["job"] else None)
    raise ValueError(
        f"{text!r} is neither a batch nor a job: write 8120, 8120/4705, last or last~1, or a batch's name"
    )


def parse_targets(text: str) -> list[Target]:
    """The same for several with commas between, also ranges.

    >>> [str(target) for target in parse_targets('8100-8102,last')]
    ['8100', '8101', '8102', 'last']
    """
    if not re.fullmatch(r"[0-9a-z~/,-]+", text):
        return [parse_target(text)]  # A name may hold a comma.
    found = []
    for part in text.split(","):
        if ends := _RANGE.fullmatch(part):
            first, last = int(ends[1]), int(ends[2])
            if not 0 < first <= last < first + _MOST:
                raise ValueError(f"{part!r} is no range of at most {_MOST:,} batches, e.g. 8100-8110")
            found += [Target(batch_id, of_range=True) for batch_id in range(first, last + 1)]
        else:
            found.append(parse_target(part))
    return found


class TargetType(click.ParamType[Target]):
    """A batch or a job; only a batch, with `refusal` said of jobs; or only a job, the same of batches."""

    name = "target"

    def __init__(self, *, no_job: str = "", no_batch: str = "") -> None:
        self._no_job = no_job
        self._no_batch = no_batch

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        try:
            return self._checked(value if isinstance(value, Target) else parse_target(str(value)), ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Batches that were seen lately; nobody is asked."""
        from .recent import seen

        return [
            CompletionItem(str(batch_id), help=clean(name).replace("\n", " ").replace("\t", " "))
            for batch_id, name in seen()
            if str(batch_id).startswith(incomplete)
        ]

    def _checked(self, target: Target, ctx: click.Context | None) -> Target:
        refusal = self._no_batch if target.job_id is None else self._no_job
        if refusal:
            raise click.UsageError(refusal.format(batch=replace(target, job_id=None), target=target), ctx)
        return target


class TargetsType(TargetType):
    """Several, e.g. ``8100-8110,8112``; `flat` makes one list of what the arguments name."""

    def convert(  # type: ignore[override]
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Target]:
        if isinstance(value, list):
            return value
        try:
            return [self._checked(target, ctx) for target in parse_targets(str(value))]
        except ValueError as error:
            self.fail(str(error), param, ctx)


def flat(arguments: Iterable[list[Target]]) -> list[Target]:
    """Each target once, as they were written."""
    return list(dict.fromkeys(target for targets in arguments for target in targets))


def find_batch(client: Client, target: Target) -> Batch:
    """The batch of a target. `last` and names are looked up; whether a number exists shows when it is asked.

    Raises NotFound when there are not so many batches, or none of that name, UsageError when several
    have it.
    """
    if target.batch_id is not None:
        return Batch(client, target.batch_id)
    if target.name:
        return _named(client, target.name)
    batch = next(islice(client.list_batches(target.back + 1), target.back, None), None)
    if batch is None:
        raise NotFound(f"there is no {replace(target, job_id=None)}: you have fewer batches")
    return batch


def find_batches(client: Client, targets: Iterable[Target]) -> list[Batch]:
    """All of them, with their `last_status`; of a range, those that there are.

    Raises NotFound when there is none, or not one that was named by itself.
    """
    found: dict[int, Batch] = {}
    for target in targets:
        batch = find_batch(client, target)
        try:
            batch.status()
        except NotFound:
            if not target.of_range:
                raise
            continue
        found.setdefault(batch.id, batch)
    if not found:
        raise NotFound("there is no batch in that range")
    return list(found.values())


def find_job(client: Client, target: Target) -> Job:
    """The job of a target that names one."""
    assert target.job_id is not None, "the parameter's type refuses batches"
    return find_batch(client, target).job(target.job_id)


def _named(client: Client, name: str) -> Batch:
    """The one batch with this name."""
    found = [batch for batch in _with_word_of(client, name) if _name_of(batch) == name]
    if not found:
        raise NotFound(f"none of your batches is called {name!r}", hint="longshore ls")
    if len(found) > 1:
        ids = ", ".join(str(batch.id) for batch in found[:5])
        raise UsageError(
            f"{len(found)} of your batches are called {name!r}: {ids}{', …' if len(found) > 5 else ''}",
            hint="use one's number, or last",
        )
    return found[0]


def _with_word_of(client: Client, name: str) -> Iterator[Batch]:
    """Batches that may have this name: the service looks for its longest word, if that means only itself."""
    word = max(re.findall(r"[^\W_]+", name), key=len, default="")
    return client.list_batches(query=word)


def _name_of(batch: Batch) -> str:
    return batch.last_status.name if batch.last_status else ""
