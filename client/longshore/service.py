"""The Client: every call of the service, for programs that do one thing after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from .admin import Admin
from .billing import Billing
from .builder import BatchBuilder, Draft
from .calls import PAGE, Calls
from .calls import backoff as backoff
from .checks import check_id, check_text
from .discovery import find_service
from .errors import UsageError
from .handles import Batch
from .people import People
from .status import (
    BatchesView,
    BatchStatus,
    Events,
    FailureCounts,
    JobStatus,
    JobsView,
    Page,
    QueryCompletions,
    Session,
)
from .steps import finish, iterate
from .transport import BlockingTransport, Transport
from .windows import Window


class AnyClient:
    """What both clients are made of.

    Both take the same arguments; see `Client`.
    """

    _transport: type[Transport[Any]]

    def __init__(
        self,
        billing_project: str | None = None,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        retry_s: float = 180.0,
    ) -> None:
        if billing_project is not None and not check_text("billing_project", billing_project):
            raise UsageError("billing_project is empty", hint="e.g. BatchBackend('my-project')")
        self._billing_project = billing_project
        self._calls = Calls(self._transport(find_service(endpoint, token)), retry_s)

    @property
    def endpoint(self) -> str:
        """Where the service is, ``host:port`` or ``unix:///path``.

        >>> client.endpoint.startswith('127.0.0.1:')
        True
        """
        return self._calls.endpoint

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.endpoint}>"


class Client(AnyClient):
    """A connection to a service. Safe to use from several threads; use ``with`` or `close`.

    Works in a notebook, too, and in a process that was forked. `AsyncClient` has the same methods for
    programs with an event loop.

    Raises Unavailable or AuthError, with what to do, when no service or no token is known; nothing
    is sent before the first call. Every error of a call is a `BatchError`.

    :param billing_project: pays for batches that are created; not needed to look at any.
    :param endpoint: the service: ``host:port`` or ``unix:///path``. Without it LONGSHORE_ENDPOINT, then
        the profile in use, then the service that ``longshore up`` runs on this machine, also when it has
        come back elsewhere.
    :param token: what to show it. Without it LONGSHORE_TOKEN, then that of a login.
    :param retry_s: for how many seconds of trouble in a row a call is repeated.

    >>> with hp.Client('my-project') as client:
    ...     builder = client.create_batch(name='hello')
    ...     job = builder.create_job(None, ['echo', 'hello'])
    ...     batch = builder.submit()
    ...     batch.wait().state, job.log().text()
    ('success', 'hello\\n')
    """

    _transport = BlockingTransport

    def close(self) -> None:
        """Hang up. Batches go on. May be called again; every other call is refused from then on.

        >>> client = hp.Client()
        >>> client.close()
        """
        finish(self._calls.transport.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def admin(self) -> Admin:
        """What admins may do: freeze the service, drain workers.

        >>> client.admin.status().n_workers
        1
        """
        return Admin(self._calls)

    @property
    def people(self) -> People:
        """My tokens; for admins users, and who did what.

        >>> client.people.tokens()[0].current
        True
        """
        return People(self._calls)

    @property
    def billing(self) -> Billing:
        """Who pays: billing projects with members and limits, costs, prices.

        >>> client.billing.project('my-project').spent > 0
        True
        """
        return Billing(self._calls)

    def session(self) -> Session:
        """Who I am to the service, and what it is.

        >>> client.session().default_image
        'longshore/task'
        """
        return finish(self._calls.session())

    def create_batch(
        self,
        attributes: Mapping[str, str] | None = None,
        *,
        name: str | None = None,
        billing_project: str | None = None,
        token: str | None = None,
        cancel_after_n_failures: int | None = None,
        callback: str | None = None,
    ) -> BatchBuilder:
        """A batch to add jobs to; the service hears of it at `submit`.

        The batch is cancelled as soon as `cancel_after_n_failures` of its jobs have failed; None: never.
        `callback` is a URL (http or https): once the batch is complete, the service sends its status there
        by one POST of JSON, what ``longshore get -o json`` prints, and says in `BatchStatus.callback_outcome`
        what came of it. The URL is seen by everybody who sees the batch.
        `token` makes it the same batch whoever submits it: give the same one to repeat a submission
        in another process. Without it a random one is made.

        >>> client.create_batch({'stage': 'align'}, name='monday', token='align-monday')
        <BatchBuilder of 0 jobs>
        """
        project = self._billing_project if billing_project is None else billing_project
        draft = Draft.of(project, attributes, name, token, cancel_after_n_failures, callback)
        return BatchBuilder(self, draft)

    def get_batch(self, batch_id: int) -> Batch:
        """The handle of a batch. Raises NotFound.

        >>> client.get_batch(1)
        <Batch 1 'hello' failure>
        """
        batch = Batch(self, check_id("batch_id", batch_id))
        batch.status()
        return batch

    def list_batches(self, limit: int | None = None, query: str | None = None) -> Iterator[Batch]:
        """My batches, newest first, all or at most `limit`, read page by page; each has its `last_status`.

        With `query` only those that match; see `Batch.jobs`.

        >>> [batch.id for batch in client.list_batches()][-1]
        1
        """
        for status in iterate(self._calls.batches(query, limit)):
            yield Batch(self, status.id, last_status=status)

    def page_of_batches(
        self, before: int | None = None, size: int = PAGE, query: str | None = None
    ) -> Page[BatchStatus]:
        """At most `size` of my batches, newest first: those older than the batch `before`, or the newest.

        >>> page = client.page_of_batches(before=2)
        >>> [status.name for status in page.rows], page.more
        (['hello'], False)
        """
        return finish(self._calls.page_of_batches(before, size, query))

    def page_of_jobs(
        self,
        batch_id: int,
        after: int = 0,
        size: int = PAGE,
        states: Iterable[str] = (),
        query: str | None = None,
    ) -> Page[JobStatus]:
        """At most `size` jobs of a batch, by id, after the job `after`; only those in one of `states`.

        >>> [status.name for status in client.page_of_jobs(1, after=1).rows]
        ['fail']
        """
        return finish(self._calls.page_of_jobs(batch_id, after, size, query, states))

    def failure_counts(self, batch_id: int) -> FailureCounts:
        """In which ways the jobs of a batch failed, up to 100 of them; it costs the same however many did.

        >>> [(count.n, count.job.exit_code, count.job.job_id) for count in client.failure_counts(1).counts]
        [(1, 3, 2)]
        """
        return finish(self._calls.failure_counts(batch_id))

    def complete_query(
        self, text: str, cursor: int | None = None, batch_id: int | None = None
    ) -> QueryCompletions:
        """How a query about batches, or about a batch's jobs, may go on at the cursor (None: at its end).

        Fields, then values with how many there are.

        >>> [(found.text, found.n) for found in client.complete_query('state:fa', batch_id=1).found]
        [('failure', 1)]
        """
        return finish(self._calls.complete_query(text, cursor, batch_id))

    def watch_events(self, after_seq: int, batch_id: int | None = None) -> Iterator[Events]:
        """What happens to my batches, or to one of them, after `after_seq` (see `Page`); never ends.

        Comes as it is committed, and every few seconds when nothing does.

        >>> first = next(client.watch_events(0, batch_id=1))
        >>> first.events[0].kind
        'batch created'
        """
        return iterate(self._calls.watch_events(after_seq, batch_id))

    def watch_session(self) -> Iterator[Session]:
        """Who I am to the service and what it is: now, when it changed, and every few seconds; never ends.

        >>> next(client.watch_session()).embedded
        True
        """
        return iterate(self._calls.watch_session())

    def watch_batches(
        self, query: str | None = None, *, first: int = 0, n: int = 50, anchor: int = 0
    ) -> Window[BatchesView]:
        """A window of my batches, newest first: those that match `query`, see `Batch.jobs`.

        >>> with client.watch_batches(n=1, anchor=1) as window:
        ...     view = next(iter(window))
        >>> [status.name for status in view.rows]
        ['hello']
        """
        window = Window(self._calls.window_of_batches(), of_batches=True)
        window.show(query=query, first=first, n=n, anchor=anchor)
        return window

    def watch_jobs(
        self, batch_id: int, query: str | None = None, *, first: int = 0, n: int = 50
    ) -> Window[JobsView]:
        """A window of a batch's jobs, by id: those that match `query`, see `Batch.jobs`.

        >>> with client.watch_jobs(1, 'state:failure') as window:
        ...     view = next(iter(window))
        >>> [status.name for status in view.rows], view.batch.state
        (['fail'], 'failure')
        """
        window = Window(self._calls.window_of_jobs(batch_id), of_batches=False)
        window.show(query=query, first=first, n=n)
        return window
