"""BatchBackend: runs a pipeline as a batch of a service."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

from .checks import check_bool, check_text
from .compile import compile_pipeline, plan
from .errors import UsageError, WrongType
from .failures import batch_failed
from .handles import Batch
from .pipeline import Pipeline
from .progress import ProgressKind, choose_progress, detaching, follow, in_notebook, number_of_jobs
from .service import Client
from .status import BatchStatus, JobSpec, Session
from .terminal import clean
from .units import BYTES_PER_CORE, reserved_mcpu


class BatchBackend:
    """Runs pipelines at a service, and lets a billing project pay.

    :param billing_project: its name.
    :param endpoint: the service; see `Client`.
    :param token: what to show it; see `Client`.
    :param remote_tmpdir: a folder for intermediate files; the service's own if none is given.

    Besides `dry_run`, `verbose` and `delete_scratch_on_exit`, ``Pipeline.run`` takes here:

    wait : True
        Return when the batch is complete; otherwise at once.
    open : False
        Show the batch in the dashboard: in this terminal when it waits and there is one (leave it
        with ``q``), else by printing the command. Never fails the run.
    progress : 'auto'
        How to show progress: ``'tty'``, ``'plain'``, ``'notebook'``, what fits of these, or False.
    disable_progress_bar : False
        Show none.
    check : True
        Raise BatchFailedError when the batch is not a success; after ``wait=False`` that is up to
        ``batch.wait()``.

    Ctrl-C while it waits ends the waiting, not the batch, and says how to come back.

    Intermediate files lie below `remote_tmpdir`, in a folder of that run. It is removed by whoever
    waits for the batch with the returned handle: by `run` itself, or after ``wait=False`` by
    ``batch.wait()``; if nobody waits, it stays. On a service of another machine it stays too.

    Raises an error that says what to do when no service is known, or no token for it.

    >>> with BatchBackend('my-project') as backend:
    ...     p = Pipeline(name='hello', backend=backend)
    ...     t = p.new_task(name='hello').command('echo "hello world"')
    ...     batch = p.run()
    >>> batch.last_status.state
    'success'
    """

    _run_options = frozenset({"wait", "open", "progress", "disable_progress_bar", "check"})

    def __init__(
        self,
        billing_project: str,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        remote_tmpdir: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(billing_project, str):
            raise WrongType(
                f"billing_project must be a str, not {billing_project!r}", hint="BatchBackend('my-project')"
            )
        self._remote_tmpdir = check_text("remote_tmpdir", os.fspath(remote_tmpdir or ""))
        self._client = Client(billing_project, endpoint=endpoint, token=token)
        self._told: set[str] = set()
        """Notices of the service that the user has seen."""

    @property
    def client(self) -> Client:
        """For everything that is not a pipeline.

        >>> BatchBackend('my-project').client.session().embedded
        True
        """
        return self._client

    def close(self) -> None:
        """Hang up. Batches go on. May be called again.

        >>> backend = BatchBackend('my-project')
        >>> backend.close()
        """
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BatchBackend at {self._client.endpoint}>"

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
        choose_progress(disable_progress_bar, progress)  # Refused before anything runs.
        session = self._client.session()
        tmpdir = (self._remote_tmpdir or session.remote_tmpdir).rstrip("/")
        scratch = f"{tmpdir}/{uuid.uuid4().hex}"
        jobs = compile_pipeline(pipeline, scratch=scratch, folder=os.getcwd())
        _check_reachable(jobs, session)
        _check_sizes(jobs, session)
        if dry_run or verbose:
            print(clean(plan(jobs)))
        if dry_run:
            return None

        for notice in session.notices:
            if notice not in self._told:
                self._told.add(notice)
                _say(f"note: {clean(notice)}")
        builder = self._client.create_batch(pipeline.attributes, name=pipeline.name or None)
        builder.add_jobs(jobs)
        with choose_progress(disable_progress_bar, progress) as shown:
            shown.submitted(0, len(jobs))
            submitted = builder.submit(lambda n: shown.submitted(n, len(jobs)))
        batch = _RunBatch(submitted, Path(scratch) if delete_scratch_on_exit else None, check=check)
        _say(f"batch {batch.id}: {number_of_jobs(len(jobs))} submitted; look: longshore ui {batch.id}")
        if open and wait:
            _open_dashboard(batch.id, self._client)
        if not wait:
            return batch
        with detaching(batch), choose_progress(disable_progress_bar, progress) as shown:
            status = follow(batch, shown)
        if check and status.state != "success":
            raise batch_failed(batch, status)
        return batch


class _RunBatch(Batch):
    """A batch of a run: its intermediate files are removed once it was seen complete."""

    def __init__(self, batch: Batch, scratch: Path | None, *, check: bool) -> None:
        super().__init__(batch._client, batch.id)
        self._scratch = scratch
        self._check = check

    async def _watch(self, timeout: float | None) -> AsyncGenerator[BatchStatus, None]:
        async with aclosing(super()._watch(timeout)) as statuses:
            async for status in statuses:
                if status.complete:
                    self._remove_scratch()
                yield status

    def wait(self, timeout: float | None = None, *, check: bool | None = None) -> BatchStatus:
        with detaching(self):
            return super().wait(timeout, check=check)

    def _remove_scratch(self) -> None:
        """Whatever happens here, the batch stays what it is. Only a folder of this very run is touched."""
        if self._scratch is not None and self._scratch.is_dir():
            try:
                shutil.rmtree(self._scratch)
            except OSError as error:
                _say(f"note: intermediate files stay in {self._scratch}: {error.strerror}")
        self._scratch = None


def _check_reachable(jobs: list[JobSpec], session: Session) -> None:
    """Refuse files that this service cannot move, before anything runs."""
    folder = session.store_folder.rstrip("/") + "/"
    for job in jobs:
        if not job.input_files and not job.output_files:
            continue
        for path in (*(source for source, _ in job.input_files), *(dest for _, dest in job.output_files)):
            if path.startswith("gs://"):
                raise UsageError(
                    f"job {job.name!r} needs {path!r}: this service cannot use Google Storage (gs://) yet",
                    hint=f"use a path of its machine below {folder}, and copy from or to the bucket yourself",
                )
            if not path.startswith(folder):
                raise UsageError(
                    f"job {job.name!r} needs {path!r}: this service reads and writes only below {folder}"
                )


def _check_sizes(jobs: list[JobSpec], session: Session) -> None:
    """Refuse what no worker can hold, in the words of the task; the service would, in its own."""
    largest = session.largest_worker_mcpu
    fits: set[tuple[int, int]] = set()
    for i, job in enumerate(jobs):
        size = job.cpu_mcpu, job.memory_bytes
        if size in fits:
            continue
        reserved = reserved_mcpu(*size)
        if reserved <= largest:
            fits.add(size)
            continue
        if (job.cpu_mcpu or 1000) > largest:
            asked, of = _cores(job.cpu_mcpu or 1000), "cpu_mcpu"
        else:
            asked, of = f"{_gigabytes(job.memory_bytes)} ({_cores(reserved)})", "memory_bytes"
        raise UsageError(
            f"task {job.name or i + 1!r} asks for {asked}; the largest worker has {_cores(largest)} "
            f"({_gigabytes(BYTES_PER_CORE * largest // 1000)})  [jobs[{i}].resources.{of}]"
        )


def _cores(mcpu: int) -> str:
    return f"{mcpu / 1000:g} core{'' if mcpu == 1000 else 's'}"


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:g} GB"


def _open_dashboard(batch_id: int, client: Client) -> None:
    """Let the dashboard have the terminal until it is left; where there is none, the hint stands above."""
    if in_notebook() or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    if not all(importlib.util.find_spec(package) for package in ("longshore_tui", "textual")):
        _say("note: the dashboard is not installed: pip install 'longshore[tui]'")
        return
    environ = dict(os.environ)
    address = client._calls.transport.address
    if address.file is None:  # Otherwise it finds the service as we did, and again should it move.
        environ |= {"LONGSHORE_ENDPOINT": address.endpoint, "LONGSHORE_TOKEN": address.token}
    program = "import sys; from longshore.cli import main; sys.exit(main())"
    try:
        subprocess.run([sys.executable, "-c", program, "ui", str(batch_id)], env=environ, check=False)
    except (OSError, KeyboardInterrupt) as error:
        _say(f"note: the dashboard cannot be opened here: {error}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
