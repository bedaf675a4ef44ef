"""The dashboard's only way to the service: what a view shows, read again when an event concerns it.

Each followed thing has a connection and threads of its own, so that hanging up is all it takes to end
it. It outlives the service: what was lost is asked for again, with `backoff`, until it is closed.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import assert_never

from longshore.errors import BatchError, Unavailable
from longshore.handles import Batch
from longshore.service import Client, backoff
from longshore.status import Events

from .model import (
    FAILED,
    PAGE,
    BatchesRead,
    BatchesView,
    Connected,
    Heard,
    JobRead,
    JobsRead,
    JobsView,
    JobView,
    LogEnded,
    LogRead,
    Lost,
    Refused,
    Update,
    View,
)

_BETWEEN_READS_S = 0.4
_TAIL_BYTES = 1 << 20
_LATE_LOG_S = 5.0
"""Until a log that the worker has not delivered is asked for again."""

Tell = Callable[[Update], None]
Connect = Callable[[], Client]
"""Makes a client that does not repeat calls by itself: to tell what is lost is up to the feed."""


class Follow:
    """Something that is followed from now on; `tell` is called in other threads until `close`."""

    def __init__(self, connect: Connect, tell: Tell) -> None:
        self._connect = connect
        self._tell = tell
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._tries = 0
        """Failures in a row."""
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Nothing is told after this. May be called again, from any thread."""
        with self._lock:
            self._closed.set()
            client = self._client
        if client:
            client.close()

    def join(self) -> None:
        """Wait until the thread of a closed follow has ended."""
        self._thread.join()

    def _visit(self, client: Client) -> bool:
        """Follow as long as the connection is there; False when there is nothing more to follow."""
        raise NotImplementedError

    def _say(self, update: Update) -> None:
        with self._lock:
            if not self._closed.is_set():
                self._tell(update)

    def _heard(self, update: Update) -> None:
        self._tries = 0
        self._say(update)

    def _run(self) -> None:
        rng = random.Random()
        goes_on = True
        while goes_on and not self._closed.is_set():
            try:
                with self._connect() as client:
                    with self._lock:
                        self._client = client
                    goes_on = self._closed.is_set() or self._visit(client)
            except Unavailable as error:
                delay = backoff(self._tries, rng)
                self._tries += 1
                self._say(Lost(error.message, self._tries, delay))
                self._closed.wait(delay)
            except BatchError as error:
                self._say(Refused(error.message, error.hint))
                return
            except Exception as error:
                # A call on a connection that was closed meanwhile, or a defect: that is told.
                self._say(Refused(f"the dashboard failed: {error!r}", ""))
                return


class ViewFollow(Follow):
    """A view: what it shows now, and again when an event concerns it, at most some times a second."""

    def __init__(self, connect: Connect, tell: Tell, view: View) -> None:
        super().__init__(connect, tell)
        self._view = view

    def _visit(self, client: Client) -> bool:
        self._say(Connected(client.session(), client.endpoint))
        batch_id = None if isinstance(self._view, BatchesView) else self._view.batch_id
        seq = self._read(client)
        inbox: SimpleQueue[Events | Exception] = SimpleQueue()
        listener = threading.Thread(
            target=_listen, args=(client, seq, batch_id, inbox), name="ViewFollow listener", daemon=True
        )
        listener.start()
        try:
            self._read_when_concerned(client, inbox)
        finally:
            client.close()
            listener.join()
        return False

    def _read_when_concerned(self, client: Client, inbox: SimpleQueue[Events | Exception]) -> None:
        while not self._closed.is_set():
            news = [inbox.get()]
            while True:
                try:
                    news.append(inbox.get_nowait())
                except Empty:
                    break
            self._heard(Heard())
            stale = False
            for each in news:
                if isinstance(each, Exception):
                    raise each
                stale = stale or each.reset or any(map(self._view.concerned_by, each.events))
            if stale:
                self._read(client)
                self._closed.wait(_BETWEEN_READS_S)

    def _read(self, client: Client) -> int:
        """Tell what the view shows now; events after the returned number are not in it."""
        view = self._view
        if isinstance(view, BatchesView):
            batches = client.page_of_batches(view.before, PAGE)
            self._heard(BatchesRead(batches))
            return batches.seq
        if isinstance(view, JobsView):
            jobs = client.page_of_jobs(view.batch_id, view.after, PAGE, FAILED if view.only_failed else ())
            self._heard(JobsRead(Batch(client, view.batch_id).status(), jobs))
            return jobs.seq
        if isinstance(view, JobView):
            # The list knows the sequence number; what is read after it holds at least so much.
            seq = client.page_of_jobs(view.batch_id, view.job_id - 1, 1).seq
            batch = Batch(client, view.batch_id)
            self._heard(JobRead(batch.status(), batch.job(view.job_id).status()))
            return seq
        assert_never(view)


def _listen(client: Client, seq: int, batch_id: int | None, inbox: SimpleQueue[Events | Exception]) -> None:
    try:
        for events in client.watch_events(seq, batch_id):
            inbox.put(events)
    except Exception as error:  # Told by whoever reads the inbox.
        inbox.put(error)


class LogFollow(Follow):
    """A container's log: its end, and what is written from then on, until the container has ended."""

    def __init__(
        self, connect: Connect, tell: Tell, batch_id: int, job_id: int, container: str, attempt_id: str
    ) -> None:
        super().__init__(connect, tell)
        self._ids = batch_id, job_id
        self._container = container
        self._attempt_id = attempt_id
        self._offset: int | None = None

    def _visit(self, client: Client) -> bool:
        batch_id, job_id = self._ids
        log = Batch(client, batch_id).job(job_id).log(self._container, self._attempt_id)
        tail_bytes = _TAIL_BYTES if self._offset is None else 0
        for chunk in log.chunks(self._offset or 0, tail_bytes=tail_bytes, follow=True):
            if chunk.data:
                self._offset = chunk.offset + len(chunk.data)
                self._heard(LogRead(chunk.offset, chunk.data))
            if chunk.end:
                self._heard(LogEnded(chunk.incomplete))
                if not chunk.incomplete:
                    return False
                self._closed.wait(_LATE_LOG_S)
        return True


class Feed:
    """A service, and what is followed of it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._follows: list[Follow] = []
        with connect() as client:  # Asks nothing.
            self.endpoint = client.endpoint

    def follow(self, view: View, tell: Tell) -> Follow:
        return self._start(ViewFollow(self._connect, tell, view))

    def follow_log(self, batch_id: int, job_id: int, container: str, attempt_id: str, tell: Tell) -> Follow:
        return self._start(LogFollow(self._connect, tell, batch_id, job_id, container, attempt_id))

    def close(self) -> None:
        """End whatever is followed, and wait until it has ended."""
        for follow in self._follows:
            follow.close()
        for follow in self._follows:
            follow.join()
        self._follows.clear()

    def _start(self, follow: Follow) -> Follow:
        self._follows = [each for each in self._follows if each.goes_on]
        self._follows.append(follow)
        follow.start()
        return follow


def connect_to(endpoint: str | None = None, token: str | None = None) -> Connect:
    """How the dashboard connects: see `longshore.discovery`."""
    return lambda: Client(endpoint=endpoint, token=token, retry_s=0)
