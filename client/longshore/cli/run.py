"""`longshore run -- COMMAND`: one command as a job, followed to its end, whose exit code is ours."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import PurePath

import click

from ..errors import BatchError, UsageError
from ..handles import Job
from ..profiles import setting
from ..progress import watch_and_say
from ..status import JobStatus
from . import recent
from .connection import PATIENT_S, connect
from .exits import BATCH_CANCELLED, INTERRUPTED, tell
from .following import say_detached
from .logs import write
from .output import say

SERVICE_FAILED = 125
"""As `docker run` has it: the command's own code is not known."""
_EMBEDDED_PROJECT = "default"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class _Input(click.ParamType[tuple[str, str]]):
    """SOURCE or SOURCE=NAME."""

    name = "input"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        text = str(value)
        source, equals, name = text.rpartition("=")
        if not equals or os.path.exists(text):
            source, name = text, PurePath(text).name
        if not source or not _NAME.fullmatch(name) or not name.strip("."):
            self.fail(f"{text!r}: write FILE or FILE=NAME; NAME has only letters, digits, . _ -", param, ctx)
        return _absolute(source), f"/io/{name}"


class _Output(click.ParamType[tuple[str, str]]):
    """NAME=DESTINATION."""

    name = "output"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, _, destination = str(value).partition("=")
        if not destination or not _NAME.fullmatch(name) or not name.strip("."):
            self.fail(f"{value!r}: write NAME=FILE; the command writes /io/NAME", param, ctx)
        return f"/io/{name}", _absolute(destination)


class _Variable(click.ParamType[tuple[str, str]]):
    """KEY=VALUE, or KEY for what it is here."""

    name = "variable"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, equals, text = str(value).partition("=")
        if not equals:
            if key not in os.environ:
                self.fail(f"{key!r} is not set here: write {key}=VALUE", param, ctx)
            text = os.environ[key]
        return key, text


@click.command(
    "run",
    context_settings={"allow_interspersed_args": False},
    epilog="Example: longshore run --cpu 2 --in reads.txt --out top.txt=top.txt -- "
    "bash -c 'sort /io/reads.txt | head > /io/top.txt'",
)
@click.option("--image", metavar="IMAGE", help="Docker image. Default: the service's own.")
@click.option("--cpu", metavar="CORES", help="E.g. 2, 0.5 or 500m. Default: 1.")
@click.option("--mem", metavar="BYTES", help="E.g. 7.5G; a bare number is G. Default: 3.75G for each core.")
@click.option("--storage", metavar="BYTES", help="E.g. 50G.")
@click.option(
    "-e", "--env", "variables", metavar="KEY=VALUE", type=_Variable(), multiple=True,
    help="For the command's environment; KEY alone: as it is here. May be repeated.",
)  # fmt: skip
@click.option(
    "--in", "inputs", metavar="FILE[=NAME]", type=_Input(), multiple=True,
    help="The command finds it as /io/NAME. May be repeated.",
)  # fmt: skip
@click.option(
    "--out", "outputs", metavar="NAME=FILE", type=_Output(), multiple=True,
    help="What the command writes as /io/NAME becomes FILE. May be repeated.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Of the batch and its job. Default: the program's.")
@click.option("--timeout", metavar="SECONDS", type=float, help="End the command after so long.")
@click.option("--retries", metavar="N", type=int, default=0, help="Try again so often when it fails.")
@click.option("-d", "--detach", is_flag=True, help="Do not follow it: print its number, e.g. 8120/1.")
@click.argument("command_line", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def command(
    ctx: click.Context,
    image: str | None,
    cpu: str | None,
    mem: str | None,
    storage: str | None,
    variables: tuple[tuple[str, str], ...],
    inputs: tuple[tuple[str, str], ...],
    outputs: tuple[tuple[str, str], ...],
    name: str | None,
    timeout: float | None,
    retries: int,
    detach: bool,
    command_line: tuple[str, ...],
) -> int:
    """Run one COMMAND as a job, print what it writes, and return its exit code.

    It is run without a shell: for pipes and the like write bash -c '…'. Exit code 125: the service could
    not run it; 11: it was cancelled; 130: Ctrl-C, after which it goes on.
    """
    title = name if name is not None else PurePath(command_line[0]).name
    resources = {"cpu": cpu, "memory": mem, "storage": storage}
    try:
        with connect(PATIENT_S, _billing_project()) as client:
            project = None if _billing_project() else _project_of(client.session().embedded)
            batch = client.create_batch(name=title, billing_project=project)
            batch.create_job(
                image,
                list(command_line),
                name=title,
                env=dict(variables),
                resources={what: amount for what, amount in resources.items() if amount is not None},
                input_files=inputs,
                output_files=outputs,
                timeout=timeout,
                retries=retries,
            )
            job = batch.submit().job(1)
            recent.remember(client.endpoint, [job.batch.status()])
            if detach:
                click.echo(f"{job.batch.id}/1")
                return 0
            say(f"job {job.batch.id}/1 is submitted")
            try:
                write(_log(job))
                return _exit_code(job.status())
            except (KeyboardInterrupt, BrokenPipeError) as error:  # Or nobody reads any more.
                say_detached(job.batch, 1, again="logs -f")
                if isinstance(error, BrokenPipeError):
                    raise
                return INTERRUPTED
    except UsageError:
        raise
    except BatchError as error:
        tell(error, sys.argv[1:])
        return SERVICE_FAILED


def _billing_project() -> str | None:
    found = setting("billing_project")
    return found.value if found else None


def _project_of(embedded: bool) -> str:
    """Who pays when nobody said so: on one's own machine it does not matter."""
    if embedded:
        return _EMBEDDED_PROJECT
    raise UsageError(
        "nobody pays for it: there is no billing project",
        hint="longshore --billing-project NAME run …, or longshore config set billing_project NAME",
    )


def _log(job: Job) -> Iterator[bytes]:
    """What the main container of each attempt writes, one after another, until the job is complete."""
    n = 0
    status = job.status()
    while not (status.complete and n >= len(status.attempts)):
        if n < len(status.attempts):
            if n:
                say(f"the job is tried again: attempt {n + 1}")
            for chunk in job.log("main", status.attempts[n].id).chunks(follow=True):
                if chunk.data:
                    yield chunk.data
            n += 1
            status = job.status()
        else:
            status = _next_attempt(job, n)


def _next_attempt(job: Job, n: int) -> JobStatus:
    """The job as soon as it has more than `n` attempts, or is complete."""
    for _ in watch_and_say(job.batch, say):
        status = job.status()
        if len(status.attempts) > n or status.complete:
            return status
    return job.status()


def _exit_code(job: JobStatus) -> int:
    what = f"job {job.batch_id}/{job.job_id}"
    if job.state == "Success":
        return 0
    why = f": {job.reason}" if job.reason else ""
    if job.state == "Cancelled":
        say(f"{what} was cancelled{why}", colour="red")
        return BATCH_CANCELLED
    main = job.containers.get("main")
    if main and main.exit_code:  # Not that of what moves its files.
        if job.state == "Error":
            say(f"{what} ended in an error{why}", colour="red")
        return main.exit_code
    say(f"{what} could not be run{why}", colour="red")
    say(f"hint: longshore get {job.batch_id}/{job.job_id}")
    return SERVICE_FAILED


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path) + ("/" if path.endswith("/") else "")
