"""What a command is about: `8120`, `8120/4705`, `last`, `last~1`, `last/3`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice

import click

from ..errors import NotFound
from ..handles import Batch, Job
from ..service import Client

_FORM = re.compile(r"(?:(?P<batch>[0-9]{1,18})|last(?:~(?P<back>[0-9]{1,9}))?)(?:/(?P<job>[0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Target:
    """A batch, or one of its jobs. Without `batch_id`: the newest batch but `back`."""

    batch_id: int | None
    back: int = 0
    job_id: int | None = None

    def __str__(self) -> str:
        back = f"~{self.back}" if self.back else ""
        batch = f"last{back}" if self.batch_id is None else str(self.batch_id)
        return batch if self.job_id is None else f"{batch}/{self.job_id}"


def parse_target(text: str) -> Target:
    """The target that `text` names. Raises ValueError, saying the accepted forms.

    >>> str(parse_target('8120/4705')), parse_target('last~2').back
    ('8120/4705', 2)
    """
    found = _FORM.fullmatch(text)
    if not found or any(number and not int(number) for number in (found["batch"], found["job"])):
        raise ValueError(f"{text!r} is neither a batch nor a job: write 8120, 8120/4705, last or last~1")
    return Target(
        batch_id=int(found["batch"]) if found["batch"] else None,
        back=int(found["back"] or 0),
        job_id=int(found["job"]) if found["job"] else None,
    )


class TargetType(click.ParamType[Target]):
    """A batch or a job; only a batch, with `refusal` said of jobs; or only a job, the same of batches."""

    name = "target"

    def __init__(self, *, no_job: str = "", no_batch: str = "") -> None:
        self._no_job = no_job
        self._no_batch = no_batch

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        try:
            target = value if isinstance(value, Target) else parse_target(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        refusal = self._no_batch if target.job_id is None else self._no_job
        if refusal:
            raise click.UsageError(refusal.format(batch=replace(target, job_id=None), target=target), ctx)
        return target


def find_batch(client: Client, target: Target) -> Batch:
    """The batch of a target. Only `last` is looked up: whether another exists shows when it is asked.

    Raises NotFound when there are not so many batches.
    """
    if target.batch_id is not None:
        return Batch(client, target.batch_id)
    batch = next(islice(client.list_batches(target.back + 1), target.back, None), None)
    if batch is None:
        raise NotFound(f"there is no {replace(target, job_id=None)}: you have fewer batches")
    return batch


def find_job(client: Client, target: Target) -> Job:
    """The job of a target that names one."""
    assert target.job_id is not None, "the parameter's type refuses batches"
    return find_batch(client, target).job(target.job_id)
