"""PURE. Every reason why something does not run, or ended as it did, in words: all of the texts in one place.

A text is one line: what keeps it, with names and numbers. A fix is what whoever reads it can do about it;
BATCH and JOB in it stand for the ids of what was asked about. No text ends in a full stop; what people have
called something is passed on as it is, and cleaned by whoever shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from longshore_controller.core.model import (
    ContainerName,
    ContainerRecord,
    EndReason,
    ErrorKind,
    JobState,
    Pause,
    Unfit,
    memory_of,
)
from longshore_controller.core.money import dollars


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: a word for programs, a line for people, what to do, and since when it is so."""

    code: str
    text: str
    fix: str = ""
    since_ms: int | None = None
    jobs: tuple[int, ...] = ()
    """Other jobs of the same batch that it names."""

    def about(self, batch_id: int, job_id: int = 0) -> Reason:
        """With the ids in what to do.

        >>> Reason('X', '', 'longshore why BATCH/3').about(7).fix
        'longshore why 7/3'
        """
        fix = self.fix.replace("BATCH", str(batch_id)).replace("JOB", str(job_id))
        return replace(self, fix=fix)


def frozen(pause: Pause) -> Reason:
    """
    >>> frozen(Pause('root', 'a new network', 0)).text
    'the service is frozen by root: a new network; what runs goes on, nothing new starts'
    """
    why = f": {pause.reason}" if pause.reason else ""
    return Reason(
        "FROZEN",
        f"the service is frozen by {pause.by}{why}; what runs goes on, nothing new starts",
        "wait until an admin thaws it (longshore admin thaw)",
        pause.at_ms,
    )


def held(project: str, *, closed: bool, used_nanousd: int, limit_nanousd: int) -> Reason:
    """Whoever pays for it does not.

    >>> held('tides', closed=False, used_nanousd=500_000_000_001, limit_nanousd=500_000_000_000).text
    'billing project tides has spent $500.00 of its limit of $500.00; what runs goes on, nothing new starts'
    >>> held('tides', closed=True, used_nanousd=0, limit_nanousd=0).text
    'billing project tides is closed; what runs goes on, nothing new starts'
    """
    if closed:
        what = f"billing project {project} is closed"
        fix = f"an owner can open it: longshore billing open {project}"
    else:
        spent, limit = dollars(used_nanousd), dollars(limit_nanousd)
        what = f"billing project {project} has spent {spent} of its limit of {limit}"
        fix = f"an owner can raise it: longshore billing limit {project} DOLLARS"
    return Reason("BUDGET", f"{what}; what runs goes on, nothing new starts", fix)


# -- Ready, and no worker has it -----------------------------------------------------------------------


def no_worker() -> Reason:
    """No worker at all."""
    return Reason("NO_WORKER", "there is no worker", "wait until one joins, or start one: longshore up")


def too_large(mcpu: int, most_mcpu: int) -> Reason:
    """Larger than every worker.

    >>> too_large(32_000, 16_000).text
    'it asks for 32 cores, and the largest worker has 16; it cannot run there'
    """
    return Reason(
        "TOO_LARGE",
        f"it asks for {_cores(mcpu)}, and the largest worker has {_number(most_mcpu)}; it cannot run there",
        f"cancel it and ask for at most .cpu({_number(most_mcpu)}), or for less .memory(...)",
    )


def workers_unfit(kept: Mapping[Unfit, int], mcpu: int) -> Reason:
    """There are workers that are large enough, and none may be given anything."""
    n = sum(kept.values())
    which = ", ".join(
        f"{number} {_UNFIT[why]}" for why, number in sorted(kept.items(), key=lambda k: k[0].value)
    )
    of_them = "the only worker" if n == 1 else f"none of the {n} workers"
    takes = "takes no jobs just now" if n == 1 else "takes jobs just now"
    fix = "wait; an admin can undrain workers (longshore workers ls)" if Unfit.DRAINING in kept else "wait"
    return Reason("WORKERS_UNFIT", f"{of_them} with {_cores(mcpu)} or more {takes}: {which}", fix)


_UNFIT = {
    Unfit.DRAINING: "draining",
    Unfit.AWAY: "not connected",
    Unfit.SILENT: "not heard for a while",
    Unfit.LEAVING: "about to be taken away",
    Unfit.SHUNNED: "paused after it could not run what it was given",
    Unfit.SHRUNK: "with fewer cores than it had",
}


def no_room(
    ahead: tuple[int, int], mcpu: int, *, capacity_mcpu: int, free_mcpu: int, most_mcpu: int, n_workers: int
) -> Reason:
    """Its worker would be large enough, were it not for what runs there.

    >>> no_room((30, 10), 4000, capacity_mcpu=16_000, free_mcpu=3000, most_mcpu=2000, n_workers=2).text
    '41st in the queue (10 of others before it): it asks for 4 cores; 13 of 16 on 2 workers are in use, at \
most 2 are free on one'
    """
    free = f", at most {_number(most_mcpu)} are free on one" if free_mcpu else ""
    where = "one worker" if n_workers == 1 else f"{n_workers} workers"
    used = f"{_number(capacity_mcpu - free_mcpu)} of {_number(capacity_mcpu)} on {where} are in use{free}"
    return Reason("NO_ROOM", f"{_queue(ahead)}: it asks for {_cores(mcpu)}; {used}", "wait until jobs end")


def reserved(ahead: tuple[int, int], mcpu: int) -> Reason:
    """It would fit, but for a larger job before it."""
    return Reason(
        "RESERVED",
        f"{_queue(ahead)}: the cores that it would fit into are kept for a job before it, of {_cores(mcpu)}",
        "wait until that one has started",
    )


def keeping(mcpu: int, worker: str, free_mcpu: int) -> Reason:
    """The scheduler keeps a worker free for it."""
    return Reason(
        "KEEPING",
        f"next in the queue: worker {worker} is kept for it; {_number(free_mcpu)} of the {_cores(mcpu)} "
        "that it asks for are free there",
        "wait until what runs there ends",
    )


def placing() -> Reason:
    """The scheduler is at work."""
    return Reason("PLACING", "jobs are being given to workers just now; it is among the next", "wait")


# -- not Ready -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parent:
    """A job that another one depends on."""

    job_id: int
    name: str
    state: JobState


def parents(incomplete: Sequence[Parent], n_incomplete: int, n: int) -> Reason:
    """Some of the jobs that it depends on are not complete; the first of them are given.

    >>> parents([Parent(1, 'merge', JobState.RUNNING), Parent(2, '', JobState.READY)], 2, 3).text
    'waits for 2 of the 3 jobs it depends on: 1 merge (running), 2 (ready)'
    """
    more = f" and {n_incomplete - len(incomplete):,} more" if n_incomplete > len(incomplete) else ""
    which = "the job" if n == 1 else f"{n_incomplete:,} of the {n:,} jobs"
    first = incomplete[0].job_id if incomplete else 0
    return Reason(
        "PARENTS",
        f"waits for {which} it depends on: {_named(incomplete)}{more}",
        f"ask why the first of them does not run: longshore why BATCH/{first}" if first else "wait",
        jobs=tuple(p.job_id for p in incomplete),
    )


def doomed(failed: Sequence[Parent], n_incomplete: int) -> Reason:
    """Some job it depends on did not succeed, and others are still under way: it will not run."""
    return Reason(
        "DOOMED",
        f"a job it depends on did not succeed: {_named(failed)}; it is cancelled once the other "
        f"{n_incomplete:,} are complete",
        _look_at(failed),
        jobs=tuple(p.job_id for p in failed),
    )


def due() -> Reason:
    """All parents are complete, and the next step says what that means."""
    return Reason("DUE", "all that it waited for is complete; it goes on in a moment", "wait")


def still_open(n_jobs: int, since_ms: int) -> Reason:
    """Of a batch."""
    return Reason(
        "OPEN",
        f"the batch is open: not all of its {n_jobs:,} jobs were submitted, and none runs before",
        "let the program that submits it finish, or cancel it",
        since_ms,
    )


def cancelling(by: str) -> Reason:
    """Its batch was cancelled a moment ago."""
    return Reason("CANCELLING", f"its batch was cancelled by {by}; so is it, in a moment", "wait")


# -- running -------------------------------------------------------------------------------------------


def preparing(number: int, worker: str, since_ms: int) -> Reason:
    """Its worker has it; its command does not run yet."""
    return Reason(
        "PREPARING",
        f"attempt {number} is on worker {worker}, which prepares it: image and input files",
        "",
        since_ms,
    )


def runs(number: int, worker: str, since_ms: int) -> Reason:
    """Its command runs."""
    return Reason("RUNNING", f"attempt {number} runs on worker {worker}", "", since_ms)


def stopping(why: str, worker: str) -> Reason:
    """It is being stopped."""
    return Reason("STOPPING", f"it is being stopped on worker {worker}: {why}", "wait")


# -- of whole batches ----------------------------------------------------------------------------------


def batch_cancelled(by: str, why: str, at_ms: int) -> Reason:
    """Somebody cancelled the batch; jobs of it may still run."""
    text = f"the batch was cancelled by {by}" + (f": {why}" if why else "")
    return Reason("CANCELLED", text, "run it again as a new batch", at_ms)


def of_jobs(n: int, job_id: int, reason: Reason) -> Reason:
    """What is said of one Ready job is so of several.

    >>> of_jobs(3, 7, no_worker()).text
    '3 jobs are ready, e.g. job 7: there is no worker'
    """
    head = f"job {job_id} is ready" if n == 1 else f"{n:,} jobs are ready, e.g. job {job_id}"
    return Reason(reason.code, f"{head}: {reason.text}", reason.fix, reason.since_ms, (job_id,))


def jobs_run(n: int) -> Reason:
    return Reason("RUNNING", f"{n:,} job{'s are' if n > 1 else ' is'} running")


def jobs_wait(n: int) -> Reason:
    what = "jobs wait" if n > 1 else "job waits"
    return Reason("PARENTS", f"{n:,} {what} for jobs of the batch that are not complete")


def batch_over(n_jobs: int, n_failed: int, n_cancelled: int, at_ms: int) -> Reason:
    """It is complete.

    >>> batch_over(5, 2, 1, 0).text
    'the batch is complete: of 5 jobs 2 failed and 1 were cancelled'
    """
    parts = [f"{n:,} {what}" for n, what in ((n_failed, "failed"), (n_cancelled, "were cancelled")) if n]
    ended = f"of {n_jobs:,} jobs {' and '.join(parts)}" if parts else f"{n_jobs:,} jobs succeeded"
    return Reason(
        "COMPLETE",
        f"the batch is complete: {ended}",
        "see in which ways: longshore failures BATCH" if n_failed else "",
        at_ms,
    )


# -- over ----------------------------------------------------------------------------------------------


def succeeded(n_attempts: int, at_ms: int | None) -> Reason:
    tries = f", at attempt {n_attempts}" if n_attempts > 1 else ""
    return Reason("SUCCESS", f"it succeeded{tries}", "", at_ms)


def cancelled(why: str, failed: Sequence[Parent], at_ms: int | None) -> Reason:
    """It did not run, or not to its end: its batch was cancelled, or a parent did not succeed."""
    named = f": {_named(failed)}" if failed else ""
    return Reason(
        "CANCELLED",
        f"it was cancelled: {why}{named}",
        _look_at(failed) if failed else "run it again in a new batch",
        at_ms,
        tuple(p.job_id for p in failed),
    )


def failed(exit_code: int, n_attempts: int, at_ms: int | None) -> Reason:
    """Its own command said no.

    >>> failed(137, 1, None).fix
    'it was killed: if it needs more memory, ask for it with .memory(...)'
    """
    tries = f", after {n_attempts} attempts" if n_attempts > 1 else ""
    fix = _BY_EXIT_CODE.get(exit_code, "read the end of what it wrote: longshore logs BATCH/JOB --tail 20")
    return Reason("FAILURE", f"its command ended with exit code {exit_code}{tries}", fix, at_ms)


def error(
    why: str, containers: Sequence[ContainerRecord], last: EndReason | None, mcpu: int, at_ms: int | None
) -> Reason:
    """Something around its command went wrong, or the command could not go on."""
    wrong = next((c for c in containers if c.error_kind is not ErrorKind.NONE), None)
    if wrong is not None:
        where = {ContainerName.INPUT: " (input files)", ContainerName.OUTPUT: " (output files)"}
        fix = _BY_KIND[wrong.error_kind]
        if wrong.error_kind is ErrorKind.OUT_OF_MEMORY:
            fix = f"{fix}; it had {_gigabytes(mcpu)} GB"
        return Reason("ERROR", f"{why}{where.get(wrong.container, '')}", fix, at_ms)
    fix = "run it again; if it happens again, tell an admin"
    if last in (EndReason.PREEMPTED, EndReason.LOST, EndReason.REFUSED):
        fix = "no fault of the job's; run it again, and tell an admin"
    return Reason("ERROR", why or "it could not be run", fix, at_ms)


_BY_EXIT_CODE = {
    126: "a program in the command cannot be executed: is it a script without its x bit?",
    127: "a program in the command was not found: is it in the image?",
    137: "it was killed: if it needs more memory, ask for it with .memory(...)",
}
_BY_KIND = {
    ErrorKind.NONE: "",
    ErrorKind.IMAGE_NOT_FOUND: "is the image's name right, and was it pushed?",
    ErrorKind.IMAGE_NO_ACCESS: "let the workers' account read the image in its registry",
    ErrorKind.IMAGE_BAD_NAME: "give .image(...) the name of an image, e.g. ubuntu:24.04",
    ErrorKind.IMAGE_UNREACHABLE: "run it again when the registry answers",
    ErrorKind.CANNOT_START: "is the command in the image?",
    ErrorKind.OUT_OF_MEMORY: "ask for more with .memory(...)",
    ErrorKind.OUT_OF_DISK: "ask for more with .storage(...)",
    ErrorKind.TIMED_OUT: "give it more time with .timeout(seconds)",
    ErrorKind.FILES: "is the file's path right? Did the command write it?",
}


# -- pieces --------------------------------------------------------------------------------------------


def _queue(ahead: tuple[int, int]) -> str:
    own, others = ahead
    of_others = f" ({others:,} of others before it)" if others else ""
    return f"{_ordinal(own + others + 1)} in the queue{of_others}"


def _ordinal(n: int) -> str:
    """
    >>> [_ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112, 1_003)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '13th', '21st', '112th', '1,003rd']
    """
    end = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{end}"


def _named(some: Sequence[Parent]) -> str:
    return ", ".join(f"{p.job_id} {p.name}".rstrip() + f" ({p.state.name.lower()})" for p in some)


def _look_at(some: Sequence[Parent]) -> str:
    return f"see why that one: longshore why BATCH/{some[0].job_id}" if some else ""


def _cores(mcpu: int) -> str:
    return f"{_number(mcpu)} core{'' if mcpu == 1000 else 's'}"


def _number(mcpu: int) -> str:
    """
    >>> _number(1500), _number(16_000), _number(1)
    ('1.5', '16', '0.001')
    """
    whole, rest = divmod(mcpu, 1000)
    return f"{whole}.{rest:03}".rstrip("0") if rest else str(whole)


def _gigabytes(mcpu: int) -> str:
    return f"{memory_of(mcpu) / 1e9:g}"
