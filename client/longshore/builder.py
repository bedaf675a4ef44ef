"""A batch that is put together job by job, and then submitted."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from .checks import check_attributes, check_bool, check_count, check_limit, check_retries, check_text
from .errors import Unavailable, UsageError, WrongType
from .handles import AnyBatch, AnyJob, Batch, Job
from .status import JobSpec
from .steps import finish
from .units import Amount, parse_bytes, parse_cpu, parse_seconds

if TYPE_CHECKING:
    from .service import AnyClient, Client

AJob = TypeVar("AJob", bound=AnyJob)


class Draft(NamedTuple):
    """What a batch is created with, checked."""

    billing_project: str
    attributes: Mapping[str, str]
    token: str | None
    cancel_after_n_failures: int
    callback: str
    rerun_of: int = 0

    @classmethod
    def of(
        cls,
        billing_project: str | None,
        attributes: Mapping[str, str] | None,
        name: str | None,
        token: str | None,
        cancel_after_n_failures: int | None,
        callback: str | None,
    ) -> Draft:
        if not billing_project:
            raise UsageError("a batch needs a billing project", hint="Client('my-project')")
        whole = check_attributes(attributes)
        if name is not None:
            whole["name"] = check_text("name", name)
        if token is not None:
            token = check_text("token", token)
        most = 0
        if cancel_after_n_failures is not None:
            most = check_count("cancel_after_n_failures", cancel_after_n_failures)
        if callback is not None:
            callback = check_text("callback", callback)
        return cls(check_text("billing_project", billing_project), whole, token, most, callback or "")


class AnyBuilder(ABC, Generic[AJob]):
    """A batch that is put together job by job and then submitted; made by `Client.create_batch`."""

    def __init__(self, client: AnyClient, draft: Draft, batch: AnyBatch) -> None:
        self._calls = client._calls
        self._draft = draft
        self._batch = batch
        self._request_id = draft.token or uuid.uuid4().hex
        self._jobs: list[JobSpec] = []
        self._n_before = 0
        """Jobs that the batch has already."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} job{'' if len(self) == 1 else 's'}>"

    def create_job(
        self,
        image: str | None,
        command: Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        resources: Mapping[str, Amount] | None = None,
        parents: Iterable[AJob | int] = (),
        attributes: Mapping[str, str] | None = None,
        input_files: Iterable[tuple[str, str]] = (),
        output_files: Iterable[tuple[str, str]] = (),
        always_run: bool = False,
        timeout: float | None = None,
        retries: int = 0,
        always_copy_output: bool = False,
        max_preempted: int | None = None,
        max_lost: int | None = None,
    ) -> AJob:
        """Add a job; its handle can be a parent of later ones.

        :param image: Docker image; None is the service's default one.
        :param command: program and arguments, run without a shell.
        :param name: for people; names need not differ.
        :param env: environment variables of the command.
        :param resources: ``cpu``, ``memory``, ``storage``, in the units of `Task.cpu` and `Task.memory`.
        :param parents: jobs of this batch that run before, or their ids.
        :param attributes: str to str, shown with it.
        :param input_files: (source, destination) pairs, from absolute paths of the store to paths below
            ``/io``, before the command.
        :param output_files: (source, destination) pairs, from paths below ``/io`` to absolute paths of
            the store, after the command.
        :param always_run: see `Task.always_run`.
        :param timeout: seconds; see `Task.timeout`.
        :param retries: see `Task.retries`.
        :param always_copy_output: see `Task.always_copy_output`.
        :param max_preempted: so many preemptions make it an Error, 20 if nothing is said; with 1 it is not
            tried again.
        :param max_lost: so many attempts that were lost with their worker, or refused by it, make it an
            Error, 5 if nothing is said.

        Raises UsageError for what cannot be, also when the batch is submitted already.

        >>> builder = client.create_batch()
        >>> first = builder.create_job('python:3.11', ['python', 'a.py'], resources={'cpu': '500m'})
        >>> builder.create_job(None, ['rm', '-f', '/tmp/a'], parents=[first], always_run=True)
        <Job 2 of a batch that is not submitted>
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
                max_preempted=None if max_preempted is None else check_limit("max_preempted", max_preempted),
                max_lost=None if max_lost is None else check_limit("max_lost", max_lost),
            )
        )

    def add_job(self, spec: JobSpec) -> AJob:
        """Add a job that is described already, e.g. one that was read from another batch.

        >>> builder = client.create_batch(name='again')
        >>> builder.add_job(client.get_batch(1).job(2).status().spec)
        <Job 1 of a batch that is not submitted>
        """
        self.add_jobs([spec])
        return self._handle(self._n_before + len(self._jobs))

    def add_jobs(self, specs: Iterable[JobSpec]) -> None:
        """Add jobs that are described already; their ids follow those of the jobs before.

        >>> builder = client.create_batch(name='many')
        >>> builder.add_jobs(JobSpec(('echo', str(i))) for i in range(100))
        >>> len(builder)
        100
        """
        self._check_open()
        self._jobs.extend(list(specs))  # All of them or none.

    @abstractmethod
    def _handle(self, job_id: int) -> AJob: ...

    def _check_open(self) -> None:
        if self._batch._id is not None:
            raise UsageError(f"batch {self._batch._id} is submitted: no job can be added to it")

    async def _submit(self, on_progress: Callable[[int], None] | None) -> None:
        if self._batch._id is not None:
            return
        batch_id = None
        try:
            batch_id, runs = await self._calls.create(
                self._request_id, self._draft, self._jobs, keep=self._draft.token is not None
            )
            if not runs:
                await self._calls.fill(batch_id, self._jobs, on_progress)
            elif on_progress:
                on_progress(len(self._jobs))
        except BaseException as error:
            if self._draft.token is None and not isinstance(error, Unavailable):
                self._request_id = uuid.uuid4().hex
                if batch_id is not None:
                    await self._calls.discard(batch_id)
            raise
        self._batch._id = batch_id

    def _parent_id(self, parent: AJob | int) -> int:
        if isinstance(parent, AnyJob):
            if not self._is_mine(parent):
                raise UsageError(f"{parent!r} cannot be a parent: it is not of this batch")
            return parent.id
        if isinstance(parent, bool) or not isinstance(parent, int):
            raise WrongType(f"a parent is a job of this batch or its id, not {parent!r}")
        n = self._n_before + len(self._jobs)
        if not 0 < parent <= n:
            raise UsageError(f"there is no job {parent} to be a parent of job {n + 1}")
        return parent

    def _is_mine(self, job: AJob) -> bool:
        return job._of is self._batch


class AnyUpdate(AnyBuilder[AJob]):
    """Jobs that are added to a batch which was submitted; made by `Batch.update`.

    Ids go on after those of the batch, whose jobs can be parents, also complete ones.
    """

    def __init__(self, client: AnyClient, batch: AnyBatch, n_before: int, token: str | None) -> None:
        super().__init__(client, Draft("", {}, token, 0, ""), batch)
        self._n_before = n_before
        self._submitted = False

    def __repr__(self) -> str:
        n = len(self)
        return f"<{type(self).__name__} of {n} more job{'' if n == 1 else 's'} for batch {self._batch.id}>"

    def _check_open(self) -> None:
        if self._submitted:
            raise UsageError("this update is submitted: make another one to add more jobs")

    async def _submit(self, on_progress: Callable[[int], None] | None) -> None:
        if not self._submitted:
            first = self._n_before + 1
            await self._calls.update(self._batch.id, self._request_id, first, self._jobs, on_progress)
            self._submitted = True

    def _is_mine(self, job: AJob) -> bool:
        same_service = job._of._client is self._batch._client
        return job._of is self._batch or (same_service and job._of._id == self._batch.id)


class BatchBuilder(AnyBuilder[Job]):
    __doc__ = AnyBuilder.__doc__

    _batch: Batch

    def __init__(self, client: Client, draft: Draft) -> None:
        super().__init__(client, draft, Batch(client, None))

    def submit(self, on_progress: Callable[[int], None] | None = None) -> Batch:
        """Send everything; the jobs run from then on. Returns the batch's handle.

        `on_progress` is told the number of jobs that the service has stored. After an error it may
        be called again: when the service did not answer, or with a token, it goes on with the same
        batch; else that one is deleted, and the next is another. Once submitted it only returns the
        handle.

        >>> builder = client.create_batch(name='two')
        >>> jobs = [builder.create_job(None, ['sleep', '0.1']) for _ in range(2)]
        >>> batch = builder.submit(lambda n: print(n, 'jobs are stored'))
        2 jobs are stored
        >>> batch.wait().n_succeeded
        2
        """
        finish(self._submit(on_progress))
        return self._batch

    def _handle(self, job_id: int) -> Job:
        return Job(self._batch, job_id)


class Update(AnyUpdate[Job]):
    __doc__ = AnyUpdate.__doc__

    _batch: Batch

    def submit(self, on_progress: Callable[[int], None] | None = None) -> Batch:
        """Send the jobs; they run from then on. Returns the batch's handle.

        They are added up to 1,000 at a time, each time all or none. After an error it may be called
        again: what is there already is not added twice. Raises Conflict when other jobs were added to
        the batch meanwhile, and when it is cancelled.

        >>> builder = client.create_batch(name='grows')
        >>> first = builder.create_job(None, ['true'])
        >>> batch = builder.submit()
        >>> update = batch.update()
        >>> more = update.create_job(None, ['echo', 'more'], parents=[first])
        >>> update.submit().wait().n_jobs, more.log().text()
        (2, 'more\\n')
        """
        finish(self._submit(on_progress))
        return self._batch

    def _handle(self, job_id: int) -> Job:
        return Job(self._batch, job_id)


def _pair(what: str, pair: tuple[str, str]) -> tuple[str, str]:
    if isinstance(pair, str) or len(pair) != 2:
        raise WrongType(f"{what} are (source, destination) pairs, not {pair!r}")
    return check_text(what, pair[0]), check_text(what, pair[1])
