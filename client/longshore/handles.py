"""Handles: a batch, its jobs and their logs, at a service or of a run on this machine.

What both kinds of handles do is said once, in `AnyBatch`, `AnyJob` and `AnyLog`, as coroutines; those of
this module run them to their end (see `transport`), those of `aio` leave them to an event loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from .checks import check_id, check_text
from .errors import BatchFailedError, Conflict, NotFound, NotSubmitted, UsageError
from .status import AttemptStatus, BatchStatus, FailureCounts, JobStatus, LogChunk, Reason
from .steps import finish, iterate

if TYPE_CHECKING:
    from .builder import Draft, Update
    from .failures import Failures
    from .rerun import Plan

_LONGEST_LINE = 1 << 20
_TAIL_BYTES = 1 << 16


class Answering(Protocol):
    """Whom handles ask: a service (`calls.Calls`), or a run on this machine.

    Coroutines, so that they can serve both kinds of handles; for those of this module they must never
    wait for an event loop, though they may block.
    """

    @property
    def endpoint(self) -> str: ...
    async def batch_status(self, batch_id: int) -> BatchStatus: ...
    def watch_batch(self, batch_id: int, timeout: float | None) -> AsyncGenerator[BatchStatus, None]: ...
    async def cancel(self, batch_id: int, reason: str | None) -> None: ...
    async def delete(self, batch_id: int) -> None: ...
    async def undelete(self, batch_id: int) -> None: ...
    async def end_attempt(self, batch_id: int, job_id: int, attempt_id: str, reason: str | None) -> None: ...
    def jobs(
        self, batch_id: int, query: str | None, states: Iterable[str]
    ) -> AsyncGenerator[JobStatus, None]: ...
    async def failure_counts(self, batch_id: int) -> FailureCounts | None:
        """None: nobody has counted them."""

    async def job_status(self, batch_id: int, job_id: int) -> JobStatus: ...
    async def explain(self, batch_id: int, job_id: int) -> tuple[Reason, ...]: ...
    def watch_job(
        self, batch_id: int, job_id: int, timeout: float | None
    ) -> AsyncGenerator[JobStatus, None]: ...
    def log_chunks(
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
    ) -> AsyncGenerator[LogChunk, None]: ...

    async def find_in_log(
        self,
        batch_id: int,
        job_id: int,
        container: str,
        attempt_id: str,
        text: str,
        *,
        offset: int,
        backward: bool,
    ) -> int | None: ...


class Connected(Protocol):
    """What makes handles: a client, or a run on this machine."""

    @property
    def _calls(self) -> Answering: ...


class AnyBatch:
    """A batch at the service. Making a handle asks nothing; its methods do.

    `last_status` is what was last seen of it, without asking again; None if nothing was.
    """

    _kept = True
    """A service keeps it, so that commands can show it."""

    _word = "Batch"

    def __init__(
        self, client: Connected, batch_id: int | None, last_status: BatchStatus | None = None
    ) -> None:
        self._client = client
        self._id = batch_id
        self._check = False
        """What `wait` does with a batch that did not succeed when it is not told."""
        self._seen_at = time.time()
        self._failures: Failures | None = None
        self.last_status = last_status

    @property
    def id(self) -> int:
        """The batch's number at its service.

        >>> batch.id
        1
        """
        if self._id is None:
            raise NotSubmitted("this batch has no id yet", hint="submit() it first")
        return self._id

    @property
    def url(self) -> str:
        """A name of the batch that says which service it is at; `longshore ui <id>` shows it.

        >>> batch.url == f'longshore://{client.endpoint}/1'
        True
        """
        return f"longshore://{self._calls.endpoint}/{self.id}"

    def __repr__(self) -> str:
        if self._id is None:
            return f"<{self._word}, not submitted>"
        seen = self.last_status
        return f"<{self._word} {self._id}{f' {seen.name!r} {seen.state}' if seen else ''}>"

    def _repr_html_(self) -> str | None:
        """What a notebook shows: what was last seen of it, without asking."""
        if self._id is None or self.last_status is None:
            return None
        from .failures import in_words
        from .html import batch_html

        failures = in_words(self._failures) if self._failures else ()
        return batch_html(self.last_status, time.time() - self._seen_at, failures, kept=self._kept)

    @property
    def _calls(self) -> Answering:
        return self._client._calls

    def _connected(self) -> Any:
        """Whom a batch was submitted to."""
        if not self._kept:
            raise UsageError("no job can be added to a batch that runs on this machine")
        return self._client

    async def _rerun_draft(self, name: str | None, token: str | None) -> Draft:
        """What a batch of its failed jobs is created with. Raises Conflict while it runs."""
        from .builder import Draft

        client, status = self._connected(), await self._ask_status()
        if not status.complete:
            raise Conflict(f"batch {status.id} is still {status.state}", hint="wait until it is complete")
        attributes = {key: value for key, value in status.attributes.items() if key != "name"}
        draft = Draft.of(
            client._billing_project or status.billing_project,
            attributes, status.name or None if name is None else name, token,
            status.cancel_after_n_failures or None, status.callback or None,
        )  # fmt: skip
        return draft._replace(rerun_of=status.id)

    async def _rerun_plan(self, asked: Mapping[str, Any]) -> Plan:
        from .rerun import changes_of, plan

        calls, changes = self._connected()._calls, changes_of(asked)
        states = ("Failure", "Error", "Cancelled")
        async with aclosing(calls.jobs(self.id, None, states, with_spec=True)) as jobs:
            found = [job async for job in jobs]
        made = plan(found, changes, (await calls.session()).remote_tmpdir)
        if not made.jobs:
            raise UsageError(f"no job of batch {self.id} has failed: there is nothing to run again")
        return made

    def _note(self, status: BatchStatus) -> BatchStatus:
        self.last_status, self._seen_at = status, time.time()
        return status

    async def _ask_status(self) -> BatchStatus:
        return self._note(await self._calls.batch_status(self.id))

    async def _watch(self, timeout: float | None) -> AsyncGenerator[BatchStatus, None]:
        async with aclosing(self._calls.watch_batch(self.id, timeout)) as statuses:
            async for status in statuses:
                yield self._note(status)

    async def _wait(self, timeout: float | None, check: bool | None) -> BatchStatus:
        async with aclosing(self._watch(timeout)) as statuses:
            async for status in statuses:
                if status.complete:
                    break
        if (self._check if check is None else check) and status.state != "success":
            raise await self._failure(status)
        return status

    async def _failure(self, status: BatchStatus) -> BatchFailedError:
        from .failures import failure_of

        return await failure_of(self, status)


class AnyJob:
    """A job of a batch. `last_status` is what was last seen of it, without asking again."""

    def __init__(self, batch: AnyBatch, job_id: int, last_status: JobStatus | None = None) -> None:
        self._of = batch
        self._job_id = check_id("job_id", job_id, below=2**32)
        self.last_status = last_status

    @property
    def id(self) -> int:
        """1, 2, 3 … within the batch; known before the batch is submitted.

        >>> job.id
        1
        """
        return self._job_id

    def __repr__(self) -> str:
        seen = self.last_status
        batch = "a batch that is not submitted" if self._of._id is None else f"batch {self._of._id}"
        name = type(self).__name__
        return f"<{name} {self._job_id}{f' {seen.name!r} {seen.state}' if seen else ''} of {batch}>"

    async def _ask_status(self) -> JobStatus:
        self.last_status = await self._of._calls.job_status(self._of.id, self._job_id)
        return self.last_status

    async def _watch(self, timeout: float | None) -> AsyncGenerator[JobStatus, None]:
        async with aclosing(self._of._calls.watch_job(self._of.id, self._job_id, timeout)) as statuses:
            async for status in statuses:
                self.last_status = status
                yield status

    async def _wait(self, timeout: float | None) -> JobStatus:
        async with aclosing(self._watch(timeout)) as statuses:
            async for status in statuses:
                if status.complete:
                    break
        return status

    async def _end_attempt(self, attempt_id: str | None, reason: str | None) -> AttemptStatus | None:
        attempts = (await self._ask_status()).attempts
        if attempt_id is None:
            live = [attempt for attempt in attempts if attempt.state != "ended"]
        else:
            live = [attempt for attempt in attempts if attempt.id == attempt_id]
            if not live:
                raise NotFound(f"{self!r} has no attempt {attempt_id!r}")
        if not live:
            return None
        await self._of._calls.end_attempt(self._of.id, self._job_id, live[-1].id, reason)
        return live[-1]


class AnyLog:
    """What one container of one attempt wrote, stdout and stderr together. Offsets never change.

    Nothing is read before it is asked for, and only `read` and `text` hold it whole.
    """

    def __init__(self, job: AnyJob, container: str, attempt: int | str | None, follow: bool) -> None:
        self._job = job
        self._container = container
        self._attempt = attempt
        self._follow = follow

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._container!r} of {self._job!r}>"

    async def _chunks(
        self,
        offset: int = 0,
        limit: int | None = None,
        *,
        tail_bytes: int = 0,
        follow: bool | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[LogChunk, None]:
        batch = self._job._of
        chunks = batch._calls.log_chunks(
            batch.id,
            self._job.id,
            self._container,
            await self._attempt_id(),
            offset=offset,
            limit=limit,
            tail_bytes=tail_bytes,
            follow=self._follow if follow is None else follow,
            timeout=timeout,
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _read(self, offset: int, limit: int | None) -> bytes:
        async with aclosing(self._chunks(offset, limit)) as chunks:
            return b"".join([chunk.data async for chunk in chunks])

    async def _find(self, text: str, offset: int, backward: bool) -> int | None:
        if not check_text("text", text) or "\n" in text:
            raise UsageError(f"text must be some of one line, got {text!r}")
        batch = self._job._of
        return await batch._calls.find_in_log(
            batch.id,
            self._job.id,
            self._container,
            await self._attempt_id(),
            text,
            offset=offset,
            backward=backward,
        )

    async def _lines(self) -> AsyncGenerator[str, None]:
        rest = b""
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk.data).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
                if len(rest) > _LONGEST_LINE:
                    yield rest.decode(errors="replace")
                    rest = b""
        if rest:
            yield rest.decode(errors="replace")

    async def _tail(self, n: int, follow: bool | None, timeout: float | None) -> str:
        kept: deque[bytes] = deque()
        size = 0
        source = self._chunks(tail_bytes=_TAIL_BYTES, follow=follow, timeout=timeout)
        async with aclosing(source) as chunks:
            async for chunk in chunks:
                kept.append(chunk.data)
                size += len(chunk.data)
                while size - len(kept[0]) >= _TAIL_BYTES:
                    size -= len(kept.popleft())
        lines = b"".join(kept).decode(errors="replace").splitlines()
        return "\n".join(lines[-n:] if n else [])

    async def _attempt_id(self) -> str:
        if self._attempt is None:
            return ""
        if isinstance(self._attempt, str):
            return self._attempt
        for attempt in (await self._job._ask_status()).attempts:
            if attempt.number == self._attempt:
                return attempt.id
        raise NotFound(f"{self._job!r} has no attempt {self._attempt!r}")


class Batch(AnyBatch):
    __doc__ = AnyBatch.__doc__

    def status(self) -> BatchStatus:
        """The batch now. Raises NotFound, also when it was deleted.

        >>> status = batch.status()
        >>> status.state, status['n_failed'], status.complete
        ('failure', 1, True)
        """
        return finish(self._ask_status())

    def watch(self, timeout: float | None = None) -> Iterator[BatchStatus]:
        """The batch now, and again whenever it changed, until it is complete.

        Goes on after the service was away. Raises WaitTimeout after `timeout` seconds.

        >>> for status in batch.watch():
        ...     print(f'{status.n_completed} of {status.n_jobs}')
        2 of 2
        """
        return iterate(self._watch(timeout))

    def wait(self, timeout: float | None = None, *, check: bool | None = None) -> BatchStatus:
        """Wait until every job is complete; the batch's last status.

        With `check` raises BatchFailedError for a batch that did not succeed; without, as `run` was
        told if that made the batch, otherwise not. Raises WaitTimeout after `timeout` seconds; the
        batch goes on then.

        >>> batch.wait(timeout=60).state
        'failure'
        """
        return finish(self._wait(timeout, check))

    def jobs(self, query: str | None = None, *, states: Iterable[str] = ()) -> Iterator[Job]:
        """Jobs by id, read page by page, each with its `last_status`.

        Only those that match `query` (docs/queries.md is about its language): terms with spaces between,
        such as ``align -qc state:failure exit:137 dur>10m attr.sample=NA12878 name=~"chr[0-9]+"``; ``OR`` and
        parentheses. With `states` only those in one of them, e.g.
        ``states=['Failure', 'Error']``. Raises UsageError for a query that cannot be read, and for any of
        a run on this machine: only a service can search.

        >>> for job in batch.jobs('state:failure'):
        ...     print(job.id, job.last_status.name, job.log().tail(1))
        2 fail KeyError: 'x'
        """
        for status in iterate(self._calls.jobs(self.id, query, states)):
            yield Job(self, status.job_id, last_status=status)

    def why(self) -> tuple[Reason, ...]:
        """Why jobs of it do not run, or how it ended; what matters most first. Raises NotFound.

        >>> print(batch.why()[0].text)
        the batch is complete: of 2 jobs 1 failed
        """
        return finish(self._calls.explain(self.id, 0))

    def job(self, job_id: int) -> Job:
        """The handle of one job; whether it exists shows when something is asked of it.

        >>> batch.job(2).status().exit_code
        3
        """
        return Job(self, job_id)

    def update(self, token: str | None = None) -> Update:
        """More jobs for this batch, which may run or be complete, but not cancelled; added at `submit`.

        `token` makes it the same update whoever submits it, like that of `Client.create_batch`.

        >>> batch.update()
        <Update of 0 more jobs for batch 1>
        """
        from .builder import Update

        client = self._connected()
        return Update(client, self, self.status().n_jobs, token)

    def rerun(
        self, changes: Mapping[str, Any] | None = None, *, name: str | None = None, token: str | None = None
    ) -> Batch:
        """A new batch of the jobs that failed and of those that were cancelled because of them.

        It says of which batch it is a rerun, has its attributes, and is submitted when this returns. In
        each job `changes` are different: ``cpu``, ``memory``, ``storage``, ``timeout``, ``retries``,
        ``max_preempted``, ``max_lost``, ``image``, in the units of `create_job`. What succeeded is not run
        again, and its output is read from where it was; the intermediate files of a pipeline are gone if
        its scratch was removed when it ended (``delete_scratch_on_exit``), and jobs that read them fail.
        `token` makes it the same rerun whoever asks for it. Raises Conflict while the batch is not
        complete, UsageError when no job has failed.

        >>> again = batch.rerun({'memory': '2Gi'}, name='hello again')
        >>> again.wait().n_jobs, again.status().rerun_of, batch.status().reruns == (again.id,)
        (1, 1, True)
        """
        from .builder import BatchBuilder

        draft = finish(self._rerun_draft(name, token))
        builder = BatchBuilder(self._connected(), draft)
        builder.add_jobs(finish(self._rerun_plan(changes or {})).jobs)
        return builder.submit()

    def cancel(self, reason: str | None = None) -> None:
        """Start no more of its jobs, but for always_run ones, and stop the running. May be repeated.

        >>> builder = client.create_batch(name='too long')
        >>> job = builder.create_job(None, ['sleep', '600'])
        >>> batch = builder.submit()
        >>> batch.cancel('changed my mind')
        >>> batch.wait().state
        'cancelled'
        """
        finish(self._calls.cancel(self.id, reason))

    def delete(self) -> None:
        """Hide it everywhere; cancels it when it is unfinished. It is still billed. May be repeated.

        >>> batch = client.create_batch(name='mistake').submit()
        >>> batch.delete()
        >>> list(client.list_batches(query='mistake'))
        []
        """
        finish(self._calls.delete(self.id))

    def undelete(self) -> None:
        """Show it again. What was cancelled when it was deleted stays cancelled. May be repeated.

        >>> batch = client.create_batch(name='kept').submit()
        >>> batch.delete()
        >>> batch.undelete()
        >>> [batch.last_status.name for batch in client.list_batches(query='kept')]
        ['kept']
        """
        finish(self._calls.undelete(self.id))


class Job(AnyJob):
    __doc__ = AnyJob.__doc__

    def __init__(self, batch: Batch, job_id: int, last_status: JobStatus | None = None) -> None:
        super().__init__(batch, job_id, last_status)
        self._batch = batch

    @property
    def batch(self) -> Batch:
        """The batch that it belongs to.

        >>> job.batch
        <Batch 1 'hello' failure>
        """
        return self._batch

    def status(self) -> JobStatus:
        """The job now, with its spec and attempts. Raises NotFound.

        >>> status = job.status()
        >>> status.state, status.exit_code, status.containers['main'].state
        ('Success', 0, 'Success')
        """
        return finish(self._ask_status())

    def watch(self, timeout: float | None = None) -> Iterator[JobStatus]:
        """The job now, with its spec and attempts, and again whenever it changed, until it is complete.

        Goes on after the service was away. Raises WaitTimeout after `timeout` seconds.

        >>> [status.state for status in job.watch()]
        ['Success']
        """
        return iterate(self._watch(timeout))

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until the job is complete. Raises WaitTimeout after `timeout` seconds.

        >>> batch.job(2).wait(timeout=60).state
        'Failure'
        """
        return finish(self._wait(timeout))

    def why(self) -> Reason:
        """Why it does not run, or how it ended, and what to do about it. Raises NotFound.

        >>> print(batch.job(2).why().text)
        its command ended with exit code 3
        """
        return finish(self._of._calls.explain(self._of.id, self._job_id))[0]

    def end_attempt(self, attempt_id: str | None = None, reason: str | None = None) -> AttemptStatus | None:
        """End an attempt that is stuck; the job is tried again, and nothing is counted against it.

        Without `attempt_id` the one that is under way; returns it as it was then, None if there was none.
        An attempt that has ended stays as it is.

        >>> builder = client.create_batch(name='stuck')
        >>> stuck = builder.create_job(None, ['sleep', '600'])
        >>> batch = builder.submit()
        >>> next(seen for seen in stuck.watch() if seen.attempts).state
        'Running'
        >>> stuck.end_attempt(reason='it hangs').number
        1
        >>> batch.cancel()
        """
        return finish(self._end_attempt(attempt_id, reason))

    def attempts(self) -> tuple[AttemptStatus, ...]:
        """Its attempts, oldest first.

        >>> [(attempt.number, attempt.reason) for attempt in job.attempts()]
        [(1, 'completed')]
        """
        return self.status().attempts

    def attributes(self) -> Mapping[str, str]:
        """What `create_job` or `new_task` was given.

        >>> dict(job.attributes())
        {}
        """
        return self.status().attributes

    def log(
        self, container: str | None = None, attempt: int | str | None = None, *, follow: bool = False
    ) -> Log:
        """The log of a container (``input``, ``main``, ``output``; ``main`` if none is named).

        `attempt` is its number (1, 2, 3 …) or id; the latest if none is named. With `follow` whoever
        reads it goes on until the container has ended.

        >>> for line in job.log('main', attempt=1, follow=True):
        ...     print(line)
        hello
        world
        """
        return Log(self, "main" if container is None else container, attempt, follow)


class Log(AnyLog):
    __doc__ = AnyLog.__doc__

    def chunks(
        self,
        offset: int = 0,
        limit: int | None = None,
        *,
        tail_bytes: int = 0,
        follow: bool | None = None,
        timeout: float | None = None,
    ) -> Iterator[LogChunk]:
        """Pieces of at most 64 KiB from `offset`, at most `limit` bytes together.

        With `tail_bytes` it starts so many bytes before the end; with `follow` it goes on until the
        container has ended (None: as `Job.log` was told). Raises WaitTimeout after `timeout` seconds.

        >>> [chunk.data for chunk in job.log().chunks(6, 5)]
        [b'world']
        """
        return iterate(self._chunks(offset, limit, tail_bytes=tail_bytes, follow=follow, timeout=timeout))

    def read(self, offset: int = 0, limit: int | None = None) -> bytes:
        """The bytes that are there now; of a log that is followed, all until its end.

        >>> job.log().read()
        b'hello\\nworld\\n'
        """
        return finish(self._read(offset, limit))

    def text(self) -> str:
        """What `read` gives, as UTF-8; what is none is replaced.

        >>> job.log().text()
        'hello\\nworld\\n'
        """
        return self.read().decode(errors="replace")

    def tail(self, n: int = 20, *, follow: bool | None = None, timeout: float | None = None) -> str:
        """The last `n` lines, of at most 64 KiB; with `follow` those before the container's end.

        >>> job.log().tail(1)
        'world'
        """
        return finish(self._tail(n, follow, timeout))

    def find(self, text: str, offset: int = 0, *, backward: bool = False) -> int | None:
        """The offset of the next line that holds `text`, from `offset` on, or of the last one before it.

        Looked for is where the log lies, in what has come of it, a to z in any case. None: there is none.

        >>> job.log().find('WORLD')
        6
        """
        return finish(self._find(text, offset, backward))

    def __iter__(self) -> Iterator[str]:
        """Its lines, without what ends them, as they come; one of over a MiB comes in pieces."""
        return iterate(self._lines())

    def __str__(self) -> str:
        return self.text()
