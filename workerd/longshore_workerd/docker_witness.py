"""Tells whether a Docker engine has been one and the same process all the while.

An engine does not say when it was started. But a connection that it holds open ends with it, and
its successor serves nobody before that.
"""

from __future__ import annotations

import select
import threading
from typing import Any


class Witness:
    """One idle connection to an engine. What was seen while it lasted was seen by one engine."""

    def __init__(self, engine: Any) -> None:
        """`engine` is a docker.APIClient. What it raises when there is no engine comes through."""
        self._lock = threading.Lock()
        # A stream of events that never come, without a timeout; nobody reads it.
        self._answer = engine.get(
            f"{engine.base_url}/v{engine.api_version}/events",
            params={"filters": '{"event": ["none that there is"]}'},
            timeout=(engine.timeout, None),
            stream=True,
        )
        self._socket = engine._get_raw_response_socket(self._answer)
        self._closed = False

    def lasts(self) -> bool:
        """The engine has not ended since this was made. False also when only the connection broke."""
        with self._lock:
            if self._closed:  # and its descriptor may be another's by now
                return False
            poll = select.poll()
            poll.register(self._socket.fileno(), select.POLLRDHUP)
            broken = bool(poll.poll(0))
        if broken:
            self.close()
        return not broken

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._answer.close()
