"""An OpenID provider says who somebody is: where to send them, and what its answer is worth.

Nothing is kept between the beginning and the end of a login: the caller holds state, nonce and verifier, this
service the client's secret. Every method waits for the network; call it in a thread. Refusal: UNAUTHENTICATED
when the provider does not confirm who it is, UNAVAILABLE when it does not answer.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jwt

from longshore_controller.config import Login
from longshore_controller.core.model import Refusal, RefusalKind

GOOGLE = "https://accounts.google.com"
LEEWAY_S = 60
"""Between the provider's clock and ours."""
ANSWER_S = 10.0
MAX_ANSWER = 1 << 20
REMEMBER_S = 3_600.0
"""What the provider says of itself; its keys are asked for again at once when one is missing ..."""
KEYS_AGAIN_S = 30.0
"""... but no more often than this."""
ALGORITHMS = ["RS256", "ES256", "PS256"]
"""Those with public keys; never `none`, nor one whose key would be a public one taken for a secret."""
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class Identity(NamedTuple):
    """Somebody, as the provider knows them: (issuer, subject) is who they are, the rest is for people."""

    issuer: str
    subject: str
    email: str
    """Empty unless the provider has verified that it is theirs."""
    domain: str
    """Of the organisation whose account it is; empty: nobody's."""


class Device(NamedTuple):
    url: str
    user_code: str
    device_code: str
    interval_s: int
    expires_s: int


class Pending(NamedTuple):
    """They have not typed in the code yet."""

    slow_down: bool


@dataclass(frozen=True, slots=True)
class _Client:
    client_id: str
    secret: str


class Provider:
    def __init__(self, settings: Login) -> None:
        """OSError when a secret's file cannot be read."""
        self.issuer = settings.issuer
        self._client = _Client(settings.client_id, _secret_of(settings.client_secret_file))
        self._device = _Client(
            settings.device_client_id or settings.client_id,
            _secret_of(settings.device_client_secret_file or settings.client_secret_file),
        )
        self._lock = threading.Lock()
        self._said: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, dict[str, jwt.PyJWK]] | None = None

    def authorization_url(self, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """For a browser."""
        query = {
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid email",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = self._endpoint("authorization_endpoint")
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urllib.parse.urlencode(query)}"

    def of_code(self, code: str, redirect_uri: str, verifier: str, nonce: str) -> Identity:
        """Who logged in with the browser."""
        answer = self._ask_token(
            self._client,
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": redirect_uri,
                "code_verifier": verifier,
            },
        )
        if "error" in answer:
            _not_confirmed(f"the provider refuses the code: {_word(answer['error'])}; log in again")
        claims = self._verified(answer, self._client)
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            _not_confirmed("the provider's answer is to another login (nonce); log in again")
        return self._identity(claims)

    def begin_device(self) -> Device:
        """A login on another device."""
        form = {"client_id": self._device.client_id, "scope": "openid email"}
        answer = self._ask(self._endpoint("device_authorization_endpoint"), form)
        try:
            url = str(answer.get("verification_uri") or answer["verification_url"])
            return Device(
                url, str(answer["user_code"]), str(answer["device_code"]),
                max(1, int(answer.get("interval", 5))), int(answer["expires_in"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise _away(f"it refuses a login by device: {_word(answer.get('error', 'no code'))}") from None

    def of_device(self, device_code: str) -> Identity | Pending:
        """Who logged in there, if they have."""
        form = {"grant_type": DEVICE_GRANT, "device_code": device_code}
        answer = self._ask_token(self._device, form)
        if (error := answer.get("error")) in ("authorization_pending", "slow_down"):
            return Pending(slow_down=error == "slow_down")
        if error is not None:
            _not_confirmed(f"the login was refused or has expired: {_word(error)}; log in again")
        return self._identity(self._verified(answer, self._device))

    # -- pieces ------------------------------------------------------------------------------------

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        email = str(claims.get("email", "")) if claims.get("email_verified") is True else ""
        # At Google an address of an organisation's domain may be anybody's account; `hd` is the organisation.
        domain = str(claims.get("hd", "")) if self.issuer == GOOGLE else email.rpartition("@")[2]
        return Identity(self.issuer, str(claims["sub"]), email.lower(), domain.lower() if email else "")

    def _verified(self, answer: Mapping[str, Any], client: _Client) -> dict[str, Any]:
        """The claims of an id token that is signed by the provider, for this client, and good now."""
        token = answer.get("id_token")
        if not isinstance(token, str):
            _not_confirmed("the provider's answer holds no id token")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise jwt.InvalidAlgorithmError(f"alg {_word(header.get('alg'))}")
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key(str(header.get("kid", ""))),
                algorithms=ALGORITHMS,
                audience=client.client_id,
                issuer=self.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            _not_confirmed(f"the provider's id token is not good: {_word(error)}")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if (several or "azp" in claims) and claims.get("azp") != client.client_id:
            _not_confirmed("the provider's id token is for another client")
        if not claims["sub"]:
            _not_confirmed("the provider's id token names nobody")
        return claims

    def _key(self, kid: str) -> jwt.PyJWK:
        with self._lock:
            now = time.monotonic()
            at, keys = self._keys or (-1e9, {})
            if now - at > REMEMBER_S or (kid not in keys and now - at > KEYS_AGAIN_S):
                said = self._ask(self._endpoint("jwks_uri"))
                keys = {}
                for each in said.get("keys", ()):
                    if each.get("use", "sig") == "sig" and each.get("kty") in ("RSA", "EC"):
                        keys[str(each.get("kid", ""))] = jwt.PyJWK(each)
                self._keys = now, keys
        if kid not in keys:
            raise jwt.InvalidKeyError("it is signed by a key that is not the provider's")
        return keys[kid]

    def _endpoint(self, name: str) -> str:
        now = time.monotonic()
        if self._said is None or now - self._said[0] > REMEMBER_S:
            said = self._ask(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            if said.get("issuer") != self.issuer:
                raise _away(f"it calls itself {_word(said.get('issuer'))}")
            self._said = now, said
        endpoint = self._said[1].get(name)
        if not isinstance(endpoint, str) or not is_safe(endpoint):
            raise _away(f"it has no {name} that can be used")
        return endpoint

    def _ask_token(self, client: _Client, form: Mapping[str, str]) -> dict[str, Any]:
        whole = {"client_id": client.client_id, **form}
        if client.secret:
            whole["client_secret"] = client.secret
        return self._ask(self._endpoint("token_endpoint"), whole)

    def _ask(self, url: str, form: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What it answers, also if that is an error in JSON."""
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        request = urllib.request.Request(url, data, {"accept": "application/json"})
        try:
            try:
                with _OPENER.open(request, timeout=ANSWER_S) as answer:
                    text = answer.read(MAX_ANSWER)
            except urllib.error.HTTPError as error:
                text = error.read(MAX_ANSWER)
                if form is None:
                    raise _away(f"HTTP {error.code}") from None
            said = json.loads(text)
        except (OSError, ValueError) as error:
            raise _away(type(error).__name__) from error
        if not isinstance(said, dict):
            raise _away("its answer is no JSON object")
        return said


def is_safe(url: str) -> bool:
    """Encrypted, or within this machine."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    try:
        return parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost" and parts.scheme == "http"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A secret goes nowhere but where the provider said."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def _secret_of(file: str) -> str:
    return Path(file).read_text().strip() if file else ""


def _word(what: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(what))[:200]


def _not_confirmed(why: str) -> NoReturn:
    raise Refusal(RefusalKind.UNAUTHENTICATED, why)


def _away(why: str) -> Refusal:
    return Refusal(RefusalKind.UNAVAILABLE, f"the login provider cannot be asked just now ({why}); repeat it")
