"""Handles: a batch and its jobs at the service, a batch that is being built, a log that is read."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from .checks import check_attributes, check_bool, check_retries, check_text
from .errors import NotFound, NotSubmitted, Unavailable, UsageError, WrongType
from .status import AttemptStatus, BatchStatus, JobSpec, JobStatus, LogChunk
from .units import Amount, parse_bytes, parse_cpu, parse_seconds

if TYPE_CHECKING:
    from .service import Client


class Answering(Protocol):
    """Whom handles ask: the `Client` of a service, or a run on this machine."""

    @property
    def endpoint(self) -> str: ...
    def _batch_status(self, batch_id: int) -> BatchStatus: ...
    def _watch_batch(self, batch_id: int, timeout: float | None) -> Iterator[BatchStatus]: ...
    def _cancel(self, batch_id: int, reason: str | None) -> None: ...
    def _delete(self, batch_id: int) -> None: ...
    def _jobs(self, batch: Batch, states: Iterable[str]) -> Iterator[Job]: ...
    def _job_status(self, batch_id: int, job_id: int) -> JobStatus: ...
    def _log_chunks(
        self,
        batch_id: int,
        job_id: int,
        container: str,
        attempt_id: str,
        *,
        offset: int,
        limit: int | None,
        tail_bytes: int,
        follow: bool,
        timeout: float | None,
    ) -> Iterator[LogChunk]: ...


class Batch:
    """A batch at the service. Making a handle asks nothing; its methods do.

    `last_status` is what was last seen of it, without asking again; None if nothing was.
    """

    def __init__(self, client: Answering, batch_id: int | None, last_status: BatchStatus | None = None) -> None:
        self._client = client
        self._id = batch_id
        self.last_status = last_status

    @property
    def id(self) -> int:
        if self._id is None:
            raise NotSubmitted("this batch has no id yet", hint="submit() it first")
        return self._id

    @property
    def url(self) -> str:
        """A name of the batch that says which service it is at; `longshore ui <id>` shows it."""
        return f"longshore://{self._client.endpoint}/{self.id}"

    def status(self) -> BatchStatus:
        """The batch now. Raises NotFound, also when it was deleted."""
        self.last_status = self._client._batch_status(self.id)
        return self.last_status

    def watch(self, timeout: float | None = None) -> Iterator[BatchStatus]:
        """The batch now, and again whenever it changed, until it is complete.

        Goes on after the service was away. Raises WaitTimeout after `timeout` seconds.
        """
        for status in self._client._watch_batch(self.id, timeout):
            self.last_status = status
            yield status

    def wait(self, timeout: float | None = None) -> BatchStatus:
        """Wait until every job is complete, whatever became of it; the batch's last status.

        Raises WaitTimeout after `timeout` seconds; the batch goes on then.
        """
        for status in self.watch(timeout):
            if status.complete:
                return status
        raise AssertionError("a watch ends with a complete batch")

    def jobs(self, state: str | Iterable[str] = ()) -> Iterator[Job]:
        """Jobs by id, read page by page, each with its `last_status`.

        Only those in a state, or in one of several, e.g. ``jobs(['Failure', 'Error'])``.
        """
        return self._client._jobs(self, [state] if isinstance(state, str) else list(state))

    def job(self, job_id: int) -> Job:
        """The handle of one job; whether it exists shows when something is asked of it."""
        if isinstance(job_id, bool) or not isinstance(job_id, int) or not 0 < job_id < 2**32:
            raise UsageError(f"job_id must be a whole number, 1 or more: {job_id!r}")
        return Job(self, job_id)

    def cancel(self, reason: str | None = None) -> None:
        """Start no more of its jobs, but for always_run ones, and stop the running. May be repeated."""
        self._client._cancel(self.id, reason)

    def delete(self) -> None:
        """Hide it everywhere; cancels it when it is unfinished. It is still billed. May be repeated."""
        self._client._delete(self.id)

    def __repr__(self) -> str:
        if self._id is None:
            return "<Batch, not submitted>"
        seen = self.last_status
        return f"<Batch {self._id}{f' {seen.name!r} {seen.state}' if seen else ''}>"


class Job:
    """A job of a batch. `last_status` is what was last seen of it, without asking again."""

    def __init__(self, batch: Batch, job_id: int, last_status: JobStatus | None = None) -> None:
        self._batch = batch
        self._job_id = job_id
        self.last_status = last_status

    @property
    def id(self) -> int:
        """1, 2, 3 … within the batch; known before the batch is submitted."""
        return self._job_id

    @property
    def batch(self) -> Batch:
        return self._batch

    def status(self) -> JobStatus:
        """The job now, with its spec and attempts. Raises NotFound."""
        self.last_status = self._batch._client._job_status(self._batch.id, self._job_id)
        return self.last_status

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until the job is complete. Raises WaitTimeout after `timeout` seconds."""
        n_completed = -1
        for batch in self._batch.watch(timeout):
            if batch.n_completed > n_completed or batch.complete:
                n_completed = batch.n_completed
                status = self.status()
                if status.complete:
                    return status
        return self.status()

    def attempts(self) -> tuple[AttemptStatus, ...]:
        """Its attempts, oldest first."""
        return self.status().attempts

    def attributes(self) -> Mapping[str, str]:
        return self.status().attributes

    def log(self, container: str | None = None, attempt: int | str | None = None) -> Log:
        """The log of a container (``input``, ``main``, ``output``; ``main`` if none is named).

        `attempt` is its number (1, 2, 3 …) or id; the latest if none is named.
        """
        return Log(self, "main" if container is None else container, attempt)

    def __repr__(self) -> str:
        seen = self.last_status
        batch = "a batch that is not submitted" if self._batch._id is None else f"batch {self._batch._id}"
        return f"<Job {self._job_id}{f' {seen.name!r} {seen.state}' if seen else ''} of {batch}>"


class Log:
    """What one container of one attempt wrote, stdout and stderr together. Offsets never change.

    Nothing is read before it is asked for, and only `read` and `text` hold it whole.
    """

    def __init__(self, job: Job, container: str, attempt: int | str | None) -> None:
        self._job = job
        self._container = container
        self._attempt = attempt

    def chunks(
        self,
        offset: int = 0,
        limit: int | None = None,
        *,
        tail_bytes: int = 0,
        follow: bool = False,
        timeout: float | None = None,
    ) -> Iterator[LogChunk]:
        """Pieces of at most 64 KiB from `offset`, at most `limit` bytes together.

        With `tail_bytes` it starts so many bytes before the end; with `follow` it goes on until the
        container has ended. Raises WaitTimeout after `timeout` seconds.
        """
        return self._job._batch._client._log_chunks(
            self._job._batch.id,
            self._job.id,
            self._container,
            self._attempt_id(),
            offset=offset,
            limit=limit,
            tail_bytes=tail_bytes,
            follow=follow,
            timeout=timeout,
        )

    def read(self, offset: int = 0, limit: int | None = None) -> bytes:
        """The bytes that are there now."""
        return b"".join(chunk.data for chunk in self.chunks(offset, limit))

    def text(self) -> str:
        """All that is there now, as UTF-8; what is none is replaced."""
        return self.read().decode(errors="replace")

    def tail(self, n: int = 20, *, follow: bool = False, timeout: float | None = None) -> str:
        """The last `n` lines, of at most 64 KiB; with `follow` those before the container's end."""
        kept: deque[bytes] = deque()
        size = 0
        for chunk in self.chunks(tail_bytes=1 << 16, follow=follow, timeout=timeout):
            kept.append(chunk.data)
            size += len(chunk.data)
            while size - len(kept[0]) >= 1 << 16:
                size -= len(kept.popleft())
        lines = b"".join(kept).decode(errors="replace").splitlines()
        return "\n".join(lines[-n:])

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Log {self._container!r} of {self._job!r}>"

    def _attempt_id(self) -> str:
        if self._attempt is None:
            return ""
        if isinstance(self._attempt, str):
            return self._attempt
        for attempt in self._job.attempts():
            if attempt.number == self._attempt:
                return attempt.id
        raise NotFound(f"{self._job!r} has no attempt {self._attempt!r}")


class BatchBuilder:
    """A batch that is put together job by job and then submitted; made by `Client.create_batch`."""

    def __init__(
        self, client: Client, billing_project: str, attributes: Mapping[str, str], token: str | None
    ) -> None:
        self._client = client
        self._billing_project = billing_project
        self._attributes = attributes
        self._token = token
        self._request_id = uuid.uuid4().hex if token is None else token
        self._jobs: list[JobSpec] = []
        self._batch = Batch(client, None)

    def create_job(
        self,
        image: str | None,
        command: Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        resources: Mapping[str, Amount] | None = None,
        parents: Iterable[Job | int] = (),
        attributes: Mapping[str, str] | None = None,
        input_files: Iterable[tuple[str, str]] = (),
        output_files: Iterable[tuple[str, str]] = (),
        always_run: bool = False,
        timeout: float | None = None,
        retries: int = 0,
        always_copy_output: bool = False,
    ) -> Job:
        """Add a job; its handle can be a parent of later ones.

        Parameters
        ----------
        image : Docker image; None is the service's default one.
        command : program and arguments, run without a shell.
        resources : `cpu`, `memory`, `storage`, in the units of `Task.cpu` and `Task.memory`.
        parents : jobs of this batch that run before.
        input_files, output_files : (source, destination) pairs, between absolute paths of the store
            and paths below ``/io``.
        always_run, timeout, retries, always_copy_output : as in `Task`.
        """
        if isinstance(command, str) or not all(isinstance(each, str) for each in command):
            raise WrongType(f"command must be a list of str, e.g. ['echo', 'hello'], not {command!r}")
        asked = dict(resources or {})
        if unknown := asked.keys() - {"cpu", "memory", "storage"}:
            raise UsageError(f"resources must be cpu, memory, storage; not {', '.join(map(repr, unknown))}")
        return self.add_job(
            JobSpec(
                command=tuple(check_text("command", each) for each in command),
                name=check_text("name", name or ""),
                attributes=check_attributes(attributes),
                image=check_text("image", image or ""),
                env={check_text("env", k): check_text(f"env {k}", v) for k, v in (env or {}).items()},
                cpu_mcpu=parse_cpu(asked["cpu"]) if "cpu" in asked else 0,
                memory_bytes=parse_bytes("memory", asked["memory"]) if "memory" in asked else 0,
                storage_bytes=parse_bytes("storage", asked["storage"]) if "storage" in asked else 0,
                parents=tuple(self._parent_id(parent) for parent in parents),
                input_files=tuple(_pair("input_files", pair) for pair in input_files),
                output_files=tuple(_pair("output_files", pair) for pair in output_files),
                always_run=check_bool("always_run", always_run),
                timeout_ms=0 if timeout is None else parse_seconds("timeout", timeout),
                retries=check_retries(retries),
                always_copy_output=check_bool("always_copy_output", always_copy_output),
            )
        )

    def add_job(self, spec: JobSpec) -> Job:
        """Add a job that is described already, e.g. one that was read from another batch."""
        if self._batch._id is not None:
            raise UsageError(f"batch {self._batch._id} is submitted: no job can be added to it")
        self._jobs.append(spec)
        return Job(self._batch, len(self._jobs))

    def submit(self, on_progress: Callable[[int], None] | None = None) -> Batch:
        """Send everything; the jobs run from then on. Returns the batch's handle.

        `on_progress` is told the number of jobs that the service has stored. After an error it may
        be called again: when the service did not answer, or with a token, it goes on with the same
        batch; else that one is deleted, and the next is another. Once submitted it only returns the
        handle.
        """
        if self._batch._id is None:
            batch_id = self._client._create(
                self._request_id, self._billing_project, self._attributes, len(self._jobs)
            )
            try:
                self._client._fill(batch_id, self._jobs, on_progress)
            except BaseException as error:
                if self._token is None and not isinstance(error, Unavailable):
                    self._request_id = uuid.uuid4().hex
                    self._client._discard(batch_id)
                raise
            self._batch._id = batch_id
        return self._batch

    def __len__(self) -> int:
        return len(self._jobs)

    def _parent_id(self, parent: Job | int) -> int:
        if isinstance(parent, Job):
            if parent._batch is not self._batch:
                raise UsageError(f"{parent!r} cannot be a parent: it is not of this batch")
            return parent.id
        if isinstance(parent, bool) or not isinstance(parent, int):
            raise WrongType(f"a parent is a job of this batch or its id, not {parent!r}")
        if not 0 < parent <= len(self._jobs):
            raise UsageError(f"there is no job {parent} to be a parent of job {len(self._jobs) + 1}")
        return parent


def _pair(what: str, pair: tuple[str, str]) -> tuple[str, str]:
    if isinstance(pair, str) or len(pair) != 2:
        raise WrongType(f"{what} are (source, destination) pairs, not {pair!r}")
    return check_text(what, pair[0]), check_text(what, pair[1])
