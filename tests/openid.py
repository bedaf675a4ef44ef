"""An OpenID provider in this process: discovery, keys, codes, devices. It can be told to lie."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
"""Making one takes a while; one is enough for all tests."""
FOREIGN_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class OpenIdProvider:
    """`with OpenIdProvider() as provider:`; whoever opens an address of it is logged in as `claims` say."""

    client_id = "longshore-test"
    secret = "the client's secret"

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {
            "sub": "subject-1", "email": "bob@example.org", "email_verified": True
        }  # fmt: skip
        self.lie: Callable[[dict[str, Any]], None] = lambda claims: None
        """Changes the claims of id tokens."""
        self.key: Any = _KEY
        self.algorithm = "RS256"
        self.codes: dict[str, dict[str, str]] = {}
        self.devices: dict[str, bool] = {}
        """By code: whether somebody has typed it in."""
        self.slow_down = False
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._get(self)

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                form = {k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()}
                status, answer = provider._post(urlsplit(self.path).path, form)
                provider._answer(self, status, answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def log_in(self, url: str) -> str:
        """What a browser does there: the address to which it is sent back."""
        asked = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
        assert url.startswith(f"{self.issuer}/authorize?")
        assert (asked["client_id"], asked["response_type"]) == (self.client_id, "code")
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def id_token(self, nonce: str | None) -> str:
        claims = {"iss": self.issuer, "aud": self.client_id, "iat": int(time.time()), **self.claims}
        claims["exp"] = claims["iat"] + 300
        if nonce is not None:
            claims["nonce"] = nonce
        self.lie(claims)
        if self.algorithm == "none":
            return jwt.encode(claims, "", algorithm="none", headers={"kid": "k"})
        if self.algorithm == "HS256":
            return jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "k"})
        return jwt.encode(claims, self.key, algorithm=self.algorithm, headers={"kid": "k"})

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        if path == "/.well-known/openid-configuration":
            here = self.issuer
            said = {
                "issuer": here,
                "authorization_endpoint": f"{here}/authorize",
                "token_endpoint": f"{here}/token",
                "jwks_uri": f"{here}/keys",
                "device_authorization_endpoint": f"{here}/device",
            }
            return self._answer(handler, 200, said)
        if path == "/keys":
            key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(_KEY.public_key()))
            return self._answer(handler, 200, {"keys": [{**key, "kid": "k", "use": "sig"}]})
        self._answer(handler, 404, {})

    def _post(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if form.get("client_id") != self.client_id:
            return 401, {"error": "invalid_client"}
        if path == "/device":
            code = secrets.token_urlsafe(16)
            self.devices[code] = False
            return 200, {
                "device_code": code, "user_code": "BCDF-GHJK", "verification_uri": f"{self.issuer}/activate",
                "expires_in": 600, "interval": 1,
            }  # fmt: skip
        if form.get("client_secret") != self.secret:
            return 401, {"error": "invalid_client"}
        if form.get("grant_type") == "authorization_code":
            asked = self.codes.pop(form.get("code", ""), None)  # Good once.
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            if (
                asked is None
                or asked["redirect_uri"] != form.get("redirect_uri")
                or asked["code_challenge"] != challenge
            ):
                return 400, {"error": "invalid_grant"}
            return 200, {"id_token": self.id_token(asked["nonce"])}
        if (code := form.get("device_code", "")) not in self.devices:
            return 400, {"error": "expired_token"}
        if not self.devices[code]:
            return 400, {"error": "slow_down" if self.slow_down else "authorization_pending"}
        del self.devices[code]
        return 200, {"id_token": self.id_token(None)}

    def _answer(self, handler: BaseHTTPRequestHandler, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
