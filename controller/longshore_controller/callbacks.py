"""Whoever asked for it is told, by one HTTP POST, when a batch is complete (SPEC S10).

Called is the address that was looked at, so that a name cannot lead elsewhere a moment later; redirects are
not followed; the answer's status is all that is read of it. A controller that dies between the call and
its commit calls again when it is back.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from longshore_controller.core.events import BatchUndeleted
from longshore_controller.core.model import Refusal
from longshore_controller.core.rows import BatchRow
from longshore_controller.engine import Engine
from longshore_controller.feed import Feed, Reset
from longshore_controller.store import Store, StoreUnavailable
from longshore_controller.wire.urls import Target, is_public, target_of

LIMIT_S = 10.0
"""For all of a call, from looking up the name to the status of the answer."""
AT_ONCE = 16
AT_ONCE_OF_USER = 2
"""So that one whose server never answers delays nobody else."""
PAGE = 1_000
RETRY_S = 1.0
"""Until the database or the engine is asked again."""
REMEMBERED = 10_000
"""Batches that were told lately."""
MAX_OUTCOME = 200

Post = Callable[[str, bytes, bool], str]
"""Calls a URL with a body, maybe one of this network, and says what came of it."""

log = logging.getLogger("longshore_controller.callbacks")


class Callbacks:
    """Calls what is due: what completes from now on, and what an earlier controller left."""

    def __init__(
        self, store: Store, engine: Engine, feed: Feed, *, private: bool, post: Post | None = None
    ) -> None:
        """``private``: addresses of this machine and of private networks may be called."""
        self._post = post or call
        self._store = store
        self._engine = engine
        self._feed = feed
        self._private = private
        self._calls: set[asyncio.Task[None]] = set()
        self._called: dict[int, int | None] = {}
        """batch id -> the completion that was told last: what is read of rows may be older than that."""
        self._of_user: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE_OF_USER))
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="callback")

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            with self._feed.follow(completed=True) as following:
                behind = True
                while True:
                    behind = behind and not await self._catch_up()
                    news = await following.next(RETRY_S if behind else None)
                    if isinstance(news, Reset):
                        behind = True
                        continue
                    for committed in news or ():
                        for event in committed.events:
                            if isinstance(event, BatchUndeleted):  # It may have been complete for long.
                                behind = True
                                continue
                            row = committed.changes.batches[event.batch_id]  # type: ignore[union-attr]
                            if row.callback:
                                self._start(row)
        finally:
            for task in self._calls:
                task.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _catch_up(self) -> bool:
        """Start the calls that are due by the rows. False: nobody knows, ask again."""
        after = 0
        while True:
            try:
                rows = await asyncio.to_thread(self._store.callbacks_due, after, PAGE)
            except StoreUnavailable:
                return False
            for row in rows:
                self._start(row)
            if len(rows) < PAGE:
                return True
            after = rows[-1].batch_id

    def _start(self, row: BatchRow) -> None:
        known = self._called.get(row.batch_id)
        if row.deleted_at_ms is None and (known is None or known != row.completed_at_ms):
            self._called[row.batch_id] = row.completed_at_ms
            if len(self._called) > REMEMBERED:
                self._called.pop(next(iter(self._called)))
            task = asyncio.create_task(self._call(row))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _call(self, row: BatchRow) -> None:
        body = json.dumps(document_of(row)).encode()
        loop = asyncio.get_running_loop()
        async with self._of_user[row.user]:
            outcome = await loop.run_in_executor(self._threads, self._post, row.callback, body, self._private)
        log.info("called back", extra={"batch": row.batch_id, "outcome": outcome})
        while True:
            try:
                await self._engine.submit(
                    lambda r, now: r.on_called_back(row.batch_id, row.user, outcome, now, row.billing_project)
                )
                return
            except Refusal:  # There is no memory just now, or nobody knows whether it was committed.
                pass
            except Exception:
                log.exception("what came of a callback is not recorded yet")
            await asyncio.sleep(RETRY_S)


def document_of(row: BatchRow) -> dict[str, object]:
    """What is sent: the batch as ``longshore get -o json`` prints it, but for what came of this call."""
    n_completed = row.n_succeeded + row.n_failed + row.n_cancelled
    batch = {
        "id": row.batch_id,
        "billing_project": row.billing_project,
        "user": row.user,
        "state": row.state.name.lower(),
        "complete": row.completed_at_ms is not None,
        "closed": row.closed_at_ms is not None,
        "n_jobs": row.n_jobs,
        "n_pending": row.n_pending,
        "n_ready": row.n_ready,
        "n_running": row.n_running,
        "n_completed": n_completed,
        "n_succeeded": row.n_succeeded,
        "n_failed": row.n_failed,
        "n_cancelled": row.n_cancelled,
        "attributes": row.attributes,
        "msec_mcpu": row.msec_mcpu,
        "cost": {"usd": row.cost_nanousd / 10**9},
        "unfinished_cost": {"usd": row.unfinished_nanousd / 10**9},
        "created_at": _rfc3339(row.created_at_ms),
        "closed_at": _rfc3339(row.closed_at_ms),
        "completed_at": _rfc3339(row.completed_at_ms),
        "cancelled_at": _rfc3339(row.cancelled_at_ms),
        "cancelled_by": row.cancelled_by,
        "cancel_reason": row.cancel_reason,
        "cancel_after_n_failures": row.cancel_after_n_failures,
        "rerun_of": row.rerun_of,
        "reruns": [],  # It has just become complete.
        "callback": row.callback,
        "name": row.attributes.get("name", ""),
    }
    return {"schema": "longshore/v1", "batch": batch}


def call(url: str, body: bytes, private: bool) -> str:
    """What came of it, in a line; never raises. Takes at most some `LIMIT_S`."""
    try:
        target = target_of(url, private=private)
        address = _address_of(target, private)
        status = _post(target, address, body)
    except ValueError as refused:
        outcome = f"not called: {refused}"
    except TimeoutError:
        outcome = f"no answer within {LIMIT_S:.0f} s"
    except (OSError, http.client.HTTPException) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        outcome = f"cannot be called: {words}"
    else:
        outcome = status
    return "".join(c if c.isprintable() else "?" for c in outcome)[:MAX_OUTCOME]


def _address_of(target: Target, private: bool) -> tuple[str, int]:
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    for _, _, _, _, address in found:
        if private or is_public(str(address[0])):
            return str(address[0]), target.port
    where = found[0][4][0] if found else "nothing"
    raise ValueError(f"{target.host} leads to {where}, which is on this machine or in a private network")


def _post(target: Target, address: tuple[str, int], body: bytes) -> str:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=LIMIT_S)
    expired = threading.Event()
    with socket.create_connection(address, timeout=LIMIT_S) as opened, opened.dup() as same:

        def end() -> None:
            expired.set()
            with suppress(OSError):
                same.shutdown(socket.SHUT_RDWR)

        # A socket's own limit is for each piece that arrives, and these may be many.
        timer = threading.Timer(LIMIT_S, end)
        timer.daemon = True
        timer.start()
        try:
            connection.sock = opened
            if target.secure:
                context = ssl.create_default_context()
                connection.sock = context.wrap_socket(opened, server_hostname=target.host)
            default = 443 if target.secure else 80
            host = f"[{target.host}]" if ":" in target.host else target.host
            headers = {
                "Host": host if target.port == default else f"{host}:{target.port}",
                "Content-Type": "application/json",
                "User-Agent": "longshore",
                "Connection": "close",
            }
            connection.request("POST", target.path, body, headers)
            answer = connection.getresponse()
            if expired.is_set():  # What was cut off may look like the end of the headers.
                raise TimeoutError
            return f"{answer.status} {answer.reason}".strip()
        except (OSError, http.client.HTTPException):
            if expired.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
            connection.close()


def _rfc3339(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
