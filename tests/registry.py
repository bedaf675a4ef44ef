"""A registry of images that has none: it says no in the words of a registry."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Registry(BaseHTTPRequestHandler):
    """The repository's name says which no: ``gone``, ``secret``, or else silence."""

    def do_GET(self) -> None:
        if self.path == "/v2/":
            return self._answer(200, {})
        if "/gone/" in self.path:
            return self._answer(
                404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            )
        if "/secret/" in self.path:
            return self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "unauthorized"}]})
        assert isinstance(self.server, _Server)
        self.server.over.wait(30)

    do_HEAD = do_GET

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Registry)
        self.over = threading.Event()


@contextmanager
def empty_registry() -> Iterator[str]:
    """Its host:port, which an engine speaks to without encryption since it is this machine."""
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
