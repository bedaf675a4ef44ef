"""The dashboard's only way to the service: streams that tell what is in sight, and single questions.

Each followed thing has a connection and a thread of its own, so that hanging up is all it takes to end
it. It outlives the service: what was lost is asked for again, with `backoff`, until it is closed.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from longshore.errors import BatchError, Unavailable, UsageError
from longshore.handles import Batch, Log
from longshore.service import Client, backoff
from longshore.status import BatchesView, JobsView, QueryCompletions
from longshore.windows import Window

from .model import (
    FAILED,
    BatchesRead,
    Heard,
    JobRead,
    JobsRead,
    LogEnded,
    Lost,
    QueryRefused,
    Refused,
    Update,
    Wanted,
    narrowed,
)

TAIL_BYTES = 256 << 10
"""Of a log that is opened at its end."""
_MOST_PENDING_BYTES = 4 << 20
_LATE_LOG_S = 5.0
"""Until a log that the worker has not delivered is asked for again."""
_SEEK_ROWS = 1000
_BEYOND = 1 << 62
"""An offset behind the end of any log."""

Tell = Callable[[Update], object]
Connect = Callable[[], Client]
"""Makes a client that does not repeat calls by itself: to tell what is lost is up to the feed."""
Answer = TypeVar("Answer")


class Follow:
    """Something that is followed from now on; `tell` is called in other threads until `close`."""

    def __init__(self, connect: Connect, tell: Tell) -> None:
        self._connect = connect
        self._tell = tell
        self._closed = threading.Event()
        self._awake = threading.Event()
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

    def hurry(self) -> None:
        """If it waits before it asks again: ask now."""
        self._awake.set()

    def close(self) -> None:
        """Nothing is told after this. May be called again, from any thread."""
        with self._lock:
            self._closed.set()
            self._awake.set()
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

    def _pause(self, seconds: float) -> None:
        self._awake.wait(seconds)
        if not self._closed.is_set():
            self._awake.clear()

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
                delay = max(0.5, backoff(self._tries, rng)) if self._tries else 0.5
                self._tries += 1
                self._say(Lost(error.message, self._tries, delay))
                self._pause(delay)
            except BatchError as error:
                self._say(Refused(error.message, error.hint))
                return
            except Exception as error:
                # A call on a connection that was closed meanwhile, or a defect: that is told.
                self._say(Refused(f"the dashboard failed: {error!r}", ""))
                return


class SessionFollow(Follow):
    """Who I am and whether the service is alive."""

    def _visit(self, client: Client) -> bool:
        for session in client.watch_session():
            self._heard(Heard(session))
        return True


class WindowFollow(Follow):
    """The rows of a list that are in sight: my batches, or the jobs of one."""

    def __init__(self, connect: Connect, tell: Tell, batch_id: int | None, wanted: Wanted) -> None:
        super().__init__(connect, tell)
        self._batch_id = batch_id
        self._wanted = wanted
        self._good_query = ""
        self._asked: set[str] = set()
        """Every query of this stream: a refusal does not say which one it is about."""
        self._window: Window[BatchesView] | Window[JobsView] | None = None

    def show(self, wanted: Wanted) -> None:
        """Other rows from now on; without an anchor those that are the newest now."""
        with self._lock:
            if wanted != self._wanted or not wanted.anchor:
                self._wanted = wanted
                self._asked.add(wanted.query)
                if self._window:
                    anchor = wanted.anchor if self._batch_id is None else None
                    self._window.show(query=wanted.query, first=wanted.first, n=wanted.n, anchor=anchor)

    def _visit(self, client: Client) -> bool:
        with self._lock:
            wanted = self._wanted
            self._asked = {wanted.query}
            if self._batch_id is None:
                self._window = client.watch_batches(
                    wanted.query, first=wanted.first, n=wanted.n, anchor=wanted.anchor
                )
            else:
                self._window = client.watch_jobs(self._batch_id, wanted.query, first=wanted.first, n=wanted.n)
            window = self._window
        try:
            for view in window:
                self._take(view)
        except UsageError as error:
            with self._lock:
                refused = self._wanted
                if len(self._asked) > 1 and not self._closed.is_set():
                    return True  # The latest, alone on a stream, will tell.
                if self._closed.is_set() or refused.query == self._good_query:
                    raise
                self._wanted = replace(refused, query=self._good_query)
            self._say(QueryRefused(refused.query, _position_in(error.message), error.message))
        finally:
            with self._lock:
                self._window = None
        return True

    def _take(self, view: BatchesView | JobsView) -> None:
        if view.whole:
            self._good_query = view.query
        if isinstance(view, JobsView):
            if view.batch is not None:
                self._heard(JobsRead(view))
            return
        with self._lock:
            if view.whole and view.query == self._wanted.query:
                # From now on positions count from here, also after the connection was lost.
                self._wanted = replace(self._wanted, anchor=view.anchor)
        if view.whole or view.rows or view.n_total:
            self._heard(BatchesRead(view))


class JobFollow(Follow):
    """A job with its attempts, until it is complete."""

    def __init__(self, connect: Connect, tell: Tell, batch_id: int, job_id: int) -> None:
        super().__init__(connect, tell)
        self._ids = batch_id, job_id

    def _visit(self, client: Client) -> bool:
        batch_id, job_id = self._ids
        for job in Batch(client, batch_id).job(job_id).watch():
            self._heard(JobRead(job))
        return False


class LogFollow(Follow):
    """A container's log: its end, and what is written from then on, until the container has ended.

    What came is kept until `take`; of what is not taken in time the beginning is left out.
    """

    def __init__(
        self, connect: Connect, tell: Tell, log_of: Callable[[Client], Log], tail_bytes: int
    ) -> None:
        super().__init__(connect, tell)
        self._log_of = log_of
        self._tail_bytes = tail_bytes
        self._offset: int | None = None
        self._pending = bytearray()

    def take(self) -> tuple[int, bytes] | None:
        """What came since the last time, and its offset; None when nothing did."""
        with self._lock:
            if self._offset is None or not self._pending:
                return None
            data = bytes(self._pending)
            self._pending.clear()
            return self._offset - len(data), data

    def _visit(self, client: Client) -> bool:
        log = self._log_of(client)
        tail_bytes = self._tail_bytes if self._offset is None else 0
        for chunk in log.chunks(self._offset or 0, tail_bytes=tail_bytes, follow=True):
            self._tries = 0
            with self._lock:
                self._offset = chunk.offset + len(chunk.data)
                self._pending += chunk.data
                if len(self._pending) > _MOST_PENDING_BYTES:
                    del self._pending[: len(self._pending) // 2]
            if chunk.end:
                self._say(LogEnded(chunk.incomplete))
                if not chunk.incomplete:
                    return False
                self._pause(_LATE_LOG_S)
        return True


class Feed:
    """A service, what is followed of it, and what it is asked."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._follows: list[Follow] = []
        self._asked: list[threading.Thread] = []
        self._asking: set[Client] = set()
        self._lock = threading.Lock()
        self._closed = False
        with connect() as client:  # Asks nothing.
            self.endpoint = client.endpoint

    def follow_session(self, tell: Tell) -> Follow:
        return self._start(SessionFollow(self._connect, tell))

    def follow_batches(self, wanted: Wanted, tell: Tell) -> WindowFollow:
        return self._start(WindowFollow(self._connect, tell, None, wanted))

    def follow_jobs(self, batch_id: int, wanted: Wanted, tell: Tell) -> WindowFollow:
        return self._start(WindowFollow(self._connect, tell, batch_id, wanted))

    def follow_job(self, batch_id: int, job_id: int, tell: Tell) -> Follow:
        return self._start(JobFollow(self._connect, tell, batch_id, job_id))

    def follow_log(
        self, log_of: Callable[[Client], Log], tell: Tell, *, tail_bytes: int = TAIL_BYTES
    ) -> LogFollow:
        return self._start(LogFollow(self._connect, tell, log_of, tail_bytes))

    def ask(
        self, question: Callable[[Client], Answer], done: Callable[[Answer | BatchError], object]
    ) -> None:
        """Ask once; `done` gets the answer, or why there is none, in another thread."""
        self._asked = [each for each in self._asked if each.is_alive()]
        thread = threading.Thread(target=self._answer, args=(question, done), name="ask", daemon=True)
        self._asked.append(thread)
        thread.start()

    def close(self) -> None:
        """End whatever is followed or asked, and wait until it has ended."""
        with self._lock:
            self._closed = True
            asking = list(self._asking)
        for client in asking:
            client.close()
        for follow in self._follows:
            follow.close()
        for follow in self._follows:
            follow.join()
        for thread in self._asked:
            thread.join()
        self._follows.clear()

    def _answer(
        self, question: Callable[[Client], Answer], done: Callable[[Answer | BatchError], object]
    ) -> None:
        answer: Answer | BatchError
        try:
            with ExitStack() as stack:
                client = stack.enter_context(self._connect())
                with self._lock:
                    if self._closed:
                        return
                    self._asking.add(client)
                stack.callback(self._asking.discard, client)
                answer = question(client)
        except BatchError as error:
            answer = error
        except OSError as error:
            answer = BatchError(str(error))
        if not self._closed:
            done(answer)

    def _start(self, follow: FollowT) -> FollowT:
        self._follows = [each for each in self._follows if each.goes_on]
        self._follows.append(follow)
        follow.start()
        return follow


FollowT = TypeVar("FollowT", bound=Follow)


def connect_to(endpoint: str | None = None, token: str | None = None) -> Connect:
    """How the dashboard connects: see `longshore.discovery`."""
    return lambda: Client(endpoint=endpoint, token=token, retry_s=0)


# Questions.


def complete_query(text: str, cursor: int, batch_id: int | None) -> Callable[[Client], QueryCompletions]:
    return lambda client: client.complete_query(text, cursor, batch_id)


def log_of(batch_id: int, job_id: int, container: str, attempt_id: str) -> Callable[[Client], Log]:
    return lambda client: Batch(client, batch_id).job(job_id).log(container, attempt_id)


def read_log(log: Callable[[Client], Log], offset: int, limit: int) -> Callable[[Client], bytes]:
    """At most `limit` bytes from `offset` on."""
    return lambda client: log(client).read(offset, limit)


def find_in_log(
    log: Callable[[Client], Log], text: str, offset: int, *, forward: bool
) -> Callable[[Client], int | None]:
    """Where the next line begins that holds the text, beginning again at the other end of the log."""

    def find(client: Client) -> int | None:
        found = log(client).find(text, offset, backward=not forward)
        if found is None:
            found = log(client).find(text, 0 if forward else _BEYOND, backward=not forward)
        return found

    return find


def save_log(log: Callable[[Client], Log], path: Path) -> Callable[[Client], int]:
    """Write the whole log to a new file, piece by piece; its size. Raises FileExistsError."""

    def save(client: Client) -> int:
        n_bytes = 0
        with path.open("xb") as out:
            for chunk in log(client).chunks(follow=False):
                n_bytes += out.write(chunk.data)
        return n_bytes

    return save


def cancel(batch_ids: Iterable[int]) -> Callable[[Client], None]:
    def ask(client: Client) -> None:
        for batch_id in batch_ids:
            Batch(client, batch_id).cancel()

    return ask


def delete(batch_ids: Iterable[int]) -> Callable[[Client], None]:
    def ask(client: Client) -> None:
        for batch_id in batch_ids:
            Batch(client, batch_id).delete()

    return ask


def undelete(batch_ids: Iterable[int]) -> Callable[[Client], None]:
    def ask(client: Client) -> None:
        for batch_id in batch_ids:
            Batch(client, batch_id).undelete()

    return ask


def rerun(batch_id: int) -> Callable[[Client], int]:
    """The new batch's id."""

    def ask(client: Client) -> int:
        return Batch(client, batch_id).rerun().id

    return ask


def next_failed(
    batch_id: int, query: str, job_id: int, *, forward: bool
) -> Callable[[Client], tuple[int, int] | None]:
    """The failed job of a list after or before another: its position in the list, and its id."""

    def ask(client: Client) -> tuple[int, int] | None:
        with client.watch_jobs(batch_id, narrowed(query, FAILED), n=_SEEK_ROWS) as window:
            seek = _Seek(window)
            at = seek.first_from(job_id + 1) if forward else seek.first_from(job_id) - 1
            found = seek.id_at(at)
        if found is None or not query.strip():
            return None if found is None else (found - 1, found)
        with client.watch_jobs(batch_id, query, n=_SEEK_ROWS) as window:
            return _Seek(window).first_from(found), found

    return ask


class _Seek:
    """Positions in a list of jobs, found by halving it."""

    def __init__(self, window: Window[JobsView]) -> None:
        self._window = window
        self._views = iter(window)
        self._ids: dict[int, tuple[int, ...]] = {}
        self._n = 0
        self._look(0)

    def first_from(self, job_id: int) -> int:
        """The position of the first job with this id or a greater one; the number of jobs if none has."""
        low, high = 0, self._n
        while low < high:
            middle = (low + high) // 2
            found = self.id_at(middle)
            if found is not None and found < job_id:
                low = middle + 1
            else:
                high = middle
        return low

    def id_at(self, position: int) -> int | None:
        if not 0 <= position < self._n:
            return None
        block = position // _SEEK_ROWS
        if block not in self._ids:
            self._window.show(first=block * _SEEK_ROWS)
            self._look(block)
        ids = self._ids[block]
        return ids[position % _SEEK_ROWS] if position % _SEEK_ROWS < len(ids) else None

    def _look(self, block: int) -> None:
        for view in self._views:
            if view.whole and view.first == block * _SEEK_ROWS:
                self._ids[block] = tuple(row.job_id for row in view.rows)
                self._n = view.n_matching
                return
        raise Unavailable("the service ended the list")


def _position_in(message: str) -> int:
    """Where in a query the service says it cannot go on, from 0."""
    found = re.search(r"\b(?:at|character) (\d+)", message)
    return max(0, int(found[1]) - 1) if found else 0
