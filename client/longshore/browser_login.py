"""Logging in with a browser, or on another device: what happens on this machine.

The browser comes back to a port of this machine (RFC 8252) with a code that is worth nothing without what
only this process knows (PKCE, S256). One answer is taken, from the login that was begun here (`state`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .errors import AuthError, WaitTimeout
from .people import Login, new_token

DONE = "Longshore is now authenticated."
"""What the browser shows."""
PATIENCE_S = 600.0
_PAGE = """<!doctype html><meta charset="utf-8"><title>Longshore</title>
<body style="font: 18px sans-serif; margin: 20vh auto; max-width: 30em; text-align: center">{}</body>"""


def has_browser(environ: Mapping[str, str] = os.environ) -> bool:
    """Of the person who sits here: not at the other end of an SSH connection."""
    if environ.get("SSH_CONNECTION") or environ.get("SSH_TTY"):
        return False
    graphical = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")
    return bool(graphical or environ.get("BROWSER")) or sys.platform == "darwin"


def by_browser(people: Login, open_url: Callable[[str], None]) -> tuple[str, str]:
    """The user and their new token. Raises AuthError, WaitTimeout."""
    verifier, state, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    token = new_token()
    with _Listener(state) as listener:
        redirect_uri = f"http://127.0.0.1:{listener.server_port}/login"
        open_url(people.login_with_code(redirect_uri, state, nonce, challenge))
        code = listener.code()
        try:
            user = people.finish_code(code, redirect_uri, nonce, verifier, token, socket.gethostname())
        except Exception:
            listener.tell("This did not work; the terminal says why.")
            raise
        listener.tell(DONE)
    return user, token


def by_device(people: Login, tell: Callable[[str, str], None]) -> tuple[str, str]:
    """The same on another device; ``tell`` the address and the code to type in there."""
    begun = people.begin_device_login()
    token = new_token()
    tell(begun.url, begun.user_code)
    until, interval = time.monotonic() + begun.expires_s, float(begun.interval_s)
    while time.monotonic() < until:
        time.sleep(interval)
        user, slow_down = people.finish_device(begun.device_code, token, socket.gethostname())
        if user:
            return user, token
        interval += 5 if slow_down else 0
    raise WaitTimeout("nobody has typed in the code in time; run it again")


class _Listener(HTTPServer):
    """Takes one answer, on a port of this machine that nobody else can reach."""

    def __init__(self, state: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self._state = state
        self._answered = threading.Event()
        self._told = threading.Event()
        self._words = ""
        self._query: dict[str, list[str]] = {}
        self._serving = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._serving.start()

    def __exit__(self, *_: Any) -> None:
        self.tell("This did not work; the terminal says why.")
        self.shutdown()
        self.server_close()

    def code(self) -> str:
        """What the provider sent with the browser."""
        if not self._answered.wait(PATIENCE_S):
            raise WaitTimeout("nobody has logged in within ten minutes; run it again")
        if error := self._query.get("error"):
            raise AuthError(f"the login was refused: {error[0][:200]}")
        return self._query["code"][0]

    def tell(self, words: str) -> None:
        """The browser gets its page; the first words count."""
        if not self._told.is_set():
            self._words = words
            self._told.set()

    def accept(self, query: dict[str, list[str]]) -> str:
        """What the browser is to show. An answer to another login is none, and is waited on for the right
        one."""
        ours = len(query.get("state", ())) == 1 and hmac.compare_digest(
            query["state"][0].encode(), self._state.encode()
        )
        if not ours or self._answered.is_set() or not ("code" in query or "error" in query):
            return ""
        self._query = query
        self._answered.set()
        self._told.wait(60)
        return self._words


class _Answer(BaseHTTPRequestHandler):
    server: _Listener
    timeout = 10

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        words = self.server.accept(parse_qs(url.query)) if url.path == "/login" else ""
        body = _PAGE.format(words or "This is not the login that was begun here.").encode()
        self.send_response(200 if words else 400)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """The terminal is for the person, and the address holds the code."""
