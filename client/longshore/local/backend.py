"""LocalBackend: runs a pipeline on this machine, without a service."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from ..checks import check_bool, check_path
from ..compile import compile_pipeline, plan, script_of
from ..errors import BatchFailedError, Unavailable, UsageError
from ..failures import failure_of
from ..handles import AnyBatch, AnyJob, AnyLog, Batch
from ..pipeline import Pipeline
from ..progress import ProgressKind, TalkingProgress, choose_progress, follow, number_of_jobs
from ..status import BatchStatus, JobSpec
from ..terminal import clean
from ..units import Amount, parse_cpu
from .attempt import Surroundings
from .files import remove_tree
from .logs import Logs
from .run import LocalRun
from .schedule import AT_ONCE

if TYPE_CHECKING:
    from .containers import Engine

_SAFE = re.compile(r"/[A-Za-z0-9._/-]*")
"""Paths that mean the same in any quoting of any shell."""

_numbers = itertools.count(1)


class LocalFailedError(BatchFailedError, subprocess.CalledProcessError):
    """A pipeline that ran on this machine did not succeed: a BatchFailedError that says more.

    `returncode`, `cmd` and `output` are those of the task that was the first to fail: its exit code
    (1 if it never ran), its commands, and the end of what it wrote.
    """

    def __init__(
        self, message: str, *, batch: AnyBatch, status: BatchStatus, returncode: int, cmd: str, output: str
    ) -> None:
        BatchFailedError.__init__(self, message, batch=batch, status=status)
        self.returncode = returncode
        self.cmd = cmd
        self.output = output
        self.stderr = None

    def __str__(self) -> str:
        return BatchFailedError.__str__(self)


class LocalBackend:
    """Runs pipelines on this machine; what a Pipeline without a backend uses.

    As at a service: a failed task cancels only what depends on it, independent tasks run at the same
    time, as many as the cores allow, and states, reasons and files are the same. A task with an image
    runs in Docker. One without runs in a bash of yours: with your environment, in a new folder of its
    own, with nothing that holds it to its memory. What a task writes to its standard output or error
    appears on standard output in one piece when the task ends.

    >>> p = Pipeline(name='here')
    >>> t = p.new_task(name='hello')
    >>> _ = t.command('echo "hello world"')
    >>> batch = p.run(disable_progress_bar=True)
    hello world
    >>> batch.status().state, batch.job(1).log().text()
    ('success', 'hello world\\n')

    :param tmp_dir: where intermediate files and the folders of tasks lie; the system's own if none is
        given.
    :param cores: how many there are for tasks; by default all that this program may use. A task that
        asks for more runs alone.
    :param link_inputs: give tasks hard links of their input files instead of copies, where `tmp_dir` is
        on the same file system. It saves time and space, and a command that changes its input changes
        your file.

    ``Pipeline.run`` takes the options that it takes on a `BatchBackend`: `wait`, `open` (a note: there
    is no dashboard without a service), `progress`, `disable_progress_bar` and `check`, which raises
    `LocalFailedError`. With ``wait=False`` the program goes on, and ends when the batch is complete.
    Ctrl-C, or a signal that ends the program while it waits, ends the tasks. After `kill -9` nobody can:
    tasks that run then run to their end, nothing more is started, and the run's folder
    ``longshore-…`` stays in `tmp_dir`, to be removed by you.
    """

    _run_options = frozenset({"wait", "open", "progress", "disable_progress_bar", "check"})

    def __init__(
        self,
        tmp_dir: str | os.PathLike[str] | None = None,
        *,
        cores: Amount | None = None,
        link_inputs: bool = False,
    ) -> None:
        self._tmp_dir = None if tmp_dir is None else os.path.abspath(check_path("tmp_dir", tmp_dir))
        self._mcpu = 1000 * len(os.sched_getaffinity(0)) if cores is None else parse_cpu(cores)
        self._link_inputs = check_bool("link_inputs", link_inputs)

    def close(self) -> None:
        """Nothing is held between runs; here so that it can stand where a BatchBackend stands.

        >>> with LocalBackend(cores=2) as backend:
        ...     backend
        <LocalBackend of 2 cores>
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LocalBackend of {self._mcpu / 1000:g} cores>"

    def _run(
        self,
        pipeline: Pipeline,
        *,
        dry_run: bool,
        verbose: bool,
        delete_scratch_on_exit: bool,
        wait: bool = True,
        open: bool = False,
        progress: ProgressKind = "auto",
        disable_progress_bar: bool = False,
        check: bool = True,
        **none: Any,
    ) -> Batch | None:
        options = {"wait": wait, "open": open, "check": check, "disable_progress_bar": disable_progress_bar}
        for what, value in options.items():
            check_bool(what, value)
        shown = choose_progress(disable_progress_bar, progress)  # Refused before anything runs.
        token = uuid.uuid4().hex[:16]
        folder = os.path.join(self._tmp_dir or os.path.abspath(tempfile.gettempdir()), f"longshore-{token}")
        scratch = f"{folder}/files"
        jobs = compile_pipeline(pipeline, scratch=scratch, folder=os.getcwd())
        _check_reachable(jobs)
        if dry_run or verbose:
            print(clean(plan(jobs)))
        if dry_run:
            return None

        run = self._prepare(pipeline, jobs, token, folder, scratch, keep_scratch=not delete_scratch_on_exit)
        batch = _LocalBatch(run, check=check)
        if not disable_progress_bar and progress is not False:
            _say(f"batch {batch.id}: {number_of_jobs(len(jobs))} on this machine")
        if open:
            _say("note: a run on this machine has no dashboard; with `longshore up` there is one")
        if not wait:
            run.start()
            return batch
        with shown:
            _run_and_wait(run, batch, shown)
        batch.wait()
        return batch

    def _prepare(
        self,
        pipeline: Pipeline,
        jobs: list[JobSpec],
        token: str,
        folder: str,
        scratch: str,
        *,
        keep_scratch: bool,
    ) -> LocalRun:
        engine = _engine(jobs)
        safe_folder, link_folder = folder, ""
        try:
            os.makedirs(scratch)
            os.chmod(folder, 0o700)
            if not _SAFE.fullmatch(folder):
                link_folder = tempfile.mkdtemp(prefix="longshore-", dir="/tmp")
                safe_folder = f"{link_folder}/run"
                os.symlink(folder, safe_folder)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UsageError(
                f"cannot make a folder for the run in {os.path.dirname(folder)}: {error.strerror}",
                hint="LocalBackend(tmp_dir=…) chooses another place",
            ) from error
        around = Surroundings(
            batch_id=next(_numbers),
            token=token,
            folder=folder,
            safe_folder=safe_folder,
            scratch=scratch,
            readers=Counter(source for job in jobs for source, _ in job.input_files),
            link_inputs=self._link_inputs,
            keep_scratch=keep_scratch,
            engine=engine,
            environ=dict(os.environb),
        )

        def clean_up() -> None:
            if engine is not None:
                engine.close()
            if link_folder:
                shutil.rmtree(link_folder, ignore_errors=True)
            if keep_scratch:
                _say(f"note: the files of the tasks are in {folder}")
                return
            try:
                remove_tree(folder)
            except OSError as error:
                _say(f"note: intermediate files stay in {folder}: {error.strerror}")

        attributes = dict(pipeline.attributes)
        if pipeline.name:
            attributes["name"] = pipeline.name
        return LocalRun(
            jobs,
            attributes,
            mcpu=self._mcpu,
            around=around,
            logs=Logs(self._tmp_dir),
            clean_up=clean_up,
        )


class _LocalBatch(Batch):
    """The batch of a run on this machine."""

    _kept = False

    def __init__(self, run: LocalRun, *, check: bool) -> None:
        super().__init__(run, run.batch_id)
        self._check = check
        self._run = run

    async def _failure(self, status: BatchStatus) -> BatchFailedError:
        error = await failure_of(self, status)
        if self._run.first_failed is None:
            return error
        job = AnyJob(self, self._run.first_failed)
        first = await job._ask_status()
        assert first.spec is not None
        return LocalFailedError(
            error.message,
            batch=self,
            status=status,
            returncode=1 if first.exit_code is None else first.exit_code,
            cmd=script_of(first.spec),
            output=await AnyLog(job, "main", None, follow=False)._tail(20, None, None),
        )


def _run_and_wait(run: LocalRun, batch: Batch, progress: TalkingProgress) -> None:
    """Until it is complete. Who interrupts the waiting ends the tasks, and goes on when they have ended."""
    with _ended_with_us(run):
        try:
            run.start()
            follow(batch, progress)
        except BaseException as error:
            while True:
                try:
                    run.stop("interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__)
                    run.wait()
                    break
                except (KeyboardInterrupt, _Signalled):
                    run.kill()
            if isinstance(error, KeyboardInterrupt):
                # Where it was waiting is nobody's business.
                raise KeyboardInterrupt from None
            raise


class _Signalled(BaseException):
    """A signal wants this program to end."""


@contextmanager
def _ended_with_us(run: LocalRun) -> Iterator[None]:
    """Tasks are sessions of their own: no terminal that closes and no kill of us would reach them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = 0

    def end(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        received = signum
        raise _Signalled

    ours = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for each in ours:
        signal.signal(each, end)
    try:
        yield
    except _Signalled:
        pass
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)
    if received:
        os.kill(os.getpid(), received)


def _check_reachable(jobs: list[JobSpec]) -> None:
    for job in jobs:
        for path in (*(source for source, _ in job.input_files), *(dest for _, dest in job.output_files)):
            if path.startswith("gs://"):
                raise UsageError(
                    f"job {job.name!r} needs {path!r}: LocalBackend cannot use Google Storage (gs://) yet",
                    hint="use a path of this machine, and copy from or to the bucket yourself",
                )


def _engine(jobs: list[JobSpec]) -> Engine | None:
    """The Docker engine, if a job has an image. Raises Unavailable, which says what to install or start."""
    first = next((job for job in jobs if job.image), None)
    if first is None:
        return None
    needs = f"job {first.name!r} runs in Docker (image {first.image!r})"
    try:
        from .containers import Engine, NoEngine
    except ImportError as error:
        raise Unavailable(
            f"{needs}, and the Python package {error.name!r} is not installed",
            hint="pip install 'longshore[docker]'; a task without an image runs in your own shell",
        ) from error
    try:
        return Engine(AT_ONCE)
    except NoEngine as error:
        raise Unavailable(
            f"{needs}, and {error}",
            hint=f"{error.what_to_do}; a task without an image runs in your own shell",
        ) from None  # What is below it fills a screen with the innards of HTTP, and says the same.


def _say(line: str) -> None:
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
