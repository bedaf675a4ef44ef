"""What is asked about people: logging in, one's tokens; for admins users and the audit.

`Client.people` and `AsyncClient.people`; and `new_token`: whoever wants a token makes it and sends its hash.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from longshore_api.v1 import admin_service_pb2, auth_service_pb2, batch_service_pb2

from . import wire
from .checks import check_text
from .errors import UsageError
from .status import AuditEntry, BatchDeed, TokenStatus, UserStatus
from .steps import finish

if TYPE_CHECKING:
    from .calls import Calls
    from .service import Client

SCOPES = ("read", "submit", "all")


def new_token() -> str:
    """A secret like no other; its last six characters are a checksum, by which scanners know it."""
    body = secrets.token_urlsafe(32)
    return f"lsu_{body}{_checksum(body)}"


def is_whole(token: str) -> bool:
    """It looks like one of ours, and no character of it is wrong."""
    body = token.removeprefix("lsu_")[:-6]
    return token.startswith("lsu_") and len(body) == 43 and token.endswith(_checksum(body))


def hash_of(token: str) -> bytes:
    """All of a token that the service knows."""
    return hashlib.sha256(token.encode()).digest()


def _checksum(body: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body.encode()).digest())[:6].decode()


@dataclass(frozen=True, slots=True)
class DeviceLogin:
    """What to type in where, and how to ask what came of it."""

    url: str
    user_code: str
    device_code: str
    interval_s: int
    expires_s: int


class PeopleCalls:
    """The calls themselves."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def login_url(self, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        request = auth_service_pb2.BeginLoginRequest(
            redirect_uri=redirect_uri, state=state, nonce=nonce, code_challenge=challenge
        )
        return str((await self._calls._ask("BeginLogin", request)).url)

    async def begin_device(self) -> DeviceLogin:
        answer = await self._calls._ask("BeginLogin", auth_service_pb2.BeginLoginRequest(device=True))
        return DeviceLogin(
            answer.url, answer.user_code, answer.device_code, answer.interval_s, answer.expires_s
        )

    async def finish_code(
        self, code: str, redirect_uri: str, nonce: str, verifier: str, token: str, name: str
    ) -> str:
        request = auth_service_pb2.FinishLoginRequest(
            code=code,
            redirect_uri=redirect_uri,
            nonce=nonce,
            code_verifier=verifier,
            token_sha256=hash_of(token),
            token_name=name,
        )
        return str((await self._calls._ask("FinishLogin", request)).user)

    async def finish_device(self, device_code: str, token: str, name: str) -> tuple[str, bool]:
        """The user, empty while nobody has logged in; and whether to ask more slowly."""
        request = auth_service_pb2.FinishLoginRequest(
            device_code=device_code, token_sha256=hash_of(token), token_name=name
        )
        answer = await self._calls._ask("FinishLogin", request)
        return answer.user, answer.slow_down

    async def add_token(self, token: str, name: str, scope: str, lifetime: timedelta) -> TokenStatus:
        if scope not in SCOPES:
            raise UsageError(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
        request = auth_service_pb2.AddTokenRequest(
            sha256=hash_of(token),
            name=check_text("name", name),
            scope=auth_service_pb2.TokenScope.ValueType(SCOPES.index(scope) + 1),
            lifetime_ms=max(0, lifetime // timedelta(milliseconds=1)),
        )
        return wire.token_status(await self._calls._ask("AddToken", request))

    async def tokens(self) -> list[TokenStatus]:
        answer = await self._calls._ask("ListTokens", auth_service_pb2.ListTokensRequest())
        return [wire.token_status(token) for token in answer.tokens]

    async def revoke(self, token_id: str | None) -> int:
        request = auth_service_pb2.RevokeTokensRequest(token_id=token_id or "", all=token_id is None)
        return int((await self._calls._ask("RevokeTokens", request)).n_revoked)

    async def invite(self, name: str, email: str) -> UserStatus:
        request = admin_service_pb2.InviteUserRequest(
            name=check_text("name", name), email=check_text("email", email)
        )
        return wire.user_status(await self._calls._ask("InviteUser", request))

    async def update(self, name: str, *, suspended: bool | None, admin: bool | None) -> UserStatus:
        request = admin_service_pb2.UpdateUserRequest(
            name=check_text("name", name), suspended=suspended, admin=admin
        )
        return wire.user_status(await self._calls._ask("UpdateUser", request))

    async def users(self, after: str) -> tuple[list[UserStatus], bool]:
        request = admin_service_pb2.ListUsersRequest(page_size=1000, after_name=after)
        answer = await self._calls._ask("ListUsers", request)
        return [wire.user_status(user) for user in answer.users], answer.more

    async def audit(
        self, before: int, batch_id: int, user: str, since_ms: int, n: int
    ) -> tuple[list[AuditEntry], bool]:
        request = admin_service_pb2.ListAuditRequest(
            page_size=n, before_audit_id=before, batch_id=batch_id, user=user, since_ms=since_ms
        )
        answer = await self._calls._ask("ListAudit", request)
        return [wire.audit_entry(entry) for entry in answer.entries], answer.more

    async def history(self, batch_id: int) -> list[BatchDeed]:
        request = batch_service_pb2.GetBatchHistoryRequest(batch_id=batch_id)
        answer = await self._calls._ask("GetBatchHistory", request)
        return [wire.batch_deed(deed) for deed in answer.deeds]


class People:
    """Tokens of one's own; for admins users, and who did what. Every method may be repeated."""

    def __init__(self, calls: Calls) -> None:
        self._asked = PeopleCalls(calls)

    def create_token(self, name: str, scope: str = "all", lifetime: timedelta = timedelta(days=30)) -> str:
        """A new token, which nobody can ever show again; `scope` is 'read', 'submit' or 'all'.

        >>> token = client.people.create_token('ci', 'submit')
        >>> token.startswith('lsu_')
        True
        """
        token = new_token()
        finish(self._asked.add_token(token, name, scope, lifetime))
        return token

    def tokens(self) -> Sequence[TokenStatus]:
        """Mine that are good, oldest first.

        >>> client.people.tokens()[0].scope
        'all'
        """
        return finish(self._asked.tokens())

    def revoke_token(self, token_id: str) -> None:
        """It is refused from now on. Raises NotFound.

        >>> token = client.people.create_token('for a moment', 'read')
        >>> client.people.revoke_token(client.people.tokens()[-1].id)
        """
        finish(self._asked.revoke(check_text("token_id", token_id)))

    def revoke_all_tokens(self) -> int:
        """All of mine, also the one in use; how many.

        >>> client.people.revoke_all_tokens()  # doctest: +SKIP
        3
        """
        return finish(self._asked.revoke(None))

    def users(self) -> Iterator[UserStatus]:
        """All, by name. For admins.

        >>> [user.admin for user in client.people.users() if user.name == client.session().user]
        [True]
        """
        after, more = "", True
        while more:
            page, more = finish(self._asked.users(after))
            yield from page
            after = page[-1].name if page else ""

    def invite(self, name: str, email: str) -> UserStatus:
        """Whoever logs in with that address is that user. For admins. Raises Conflict.

        >>> client.people.invite('lin', 'lin@example.org').service_identity
        'sa-lin'
        """
        return finish(self._asked.invite(name, email))

    def update_user(
        self, name: str, *, suspended: bool | None = None, admin: bool | None = None
    ) -> UserStatus:
        """For admins. Raises NotFound.

        >>> client.people.invite('eve', 'eve@example.org').suspended_at is None
        True
        >>> client.people.update_user('eve', suspended=True).suspended_at is None
        False
        """
        return finish(self._asked.update(name, suspended=suspended, admin=admin))

    def audit(
        self, *, batch_id: int = 0, user: str = "", since_ms: int = 0, limit: int | None = None
    ) -> Iterator[AuditEntry]:
        """Who did what and who was refused what, newest first. For admins.

        >>> next(client.people.audit()).outcome
        'OK'
        """
        before, more, n = 0, True, 0
        while more and (limit is None or n < limit):
            size = 1000 if limit is None else min(1000, limit - n)
            page, more = finish(self._asked.audit(before, batch_id, user, since_ms, size))
            yield from page
            n += len(page)
            before = page[-1].id if page else 0

    def history(self, batch_id: int) -> Sequence[BatchDeed]:
        """Who did what to a batch, oldest first. Raises NotFound.

        >>> client.people.history(batch.id)[0].deed
        'CreateBatch'
        """
        return finish(self._asked.history(batch_id))


class AsyncPeople:
    """`People`, awaited."""

    def __init__(self, calls: Calls) -> None:
        self._asked = PeopleCalls(calls)

    async def create_token(
        self, name: str, scope: str = "all", lifetime: timedelta = timedelta(days=30)
    ) -> str:
        """A new token; see `People.create_token`."""
        token = new_token()
        await self._asked.add_token(token, name, scope, lifetime)
        return token

    async def tokens(self) -> Sequence[TokenStatus]:
        """Mine that are good, oldest first."""
        return await self._asked.tokens()

    async def revoke_token(self, token_id: str) -> None:
        """It is refused from now on. Raises NotFound."""
        await self._asked.revoke(check_text("token_id", token_id))

    async def revoke_all_tokens(self) -> int:
        """All of mine, also the one in use; how many."""
        return await self._asked.revoke(None)

    async def users(self) -> AsyncIterator[UserStatus]:
        """All, by name. For admins."""
        after, more = "", True
        while more:
            page, more = await self._asked.users(after)
            for user in page:
                yield user
                after = user.name

    async def invite(self, name: str, email: str) -> UserStatus:
        """Whoever logs in with that address is that user. For admins. Raises Conflict."""
        return await self._asked.invite(name, email)

    async def update_user(
        self, name: str, *, suspended: bool | None = None, admin: bool | None = None
    ) -> UserStatus:
        """For admins. Raises NotFound."""
        return await self._asked.update(name, suspended=suspended, admin=admin)

    async def audit(
        self, *, batch_id: int = 0, user: str = "", since_ms: int = 0, limit: int | None = None
    ) -> AsyncIterator[AuditEntry]:
        """Who did what and who was refused what, newest first. For admins."""
        before, more, n = 0, True, 0
        while more and (limit is None or n < limit):
            size = 1000 if limit is None else min(1000, limit - n)
            page, more = await self._asked.audit(before, batch_id, user, since_ms, size)
            for entry in page:
                yield entry
                before = entry.id
            n += len(page)

    async def history(self, batch_id: int) -> Sequence[BatchDeed]:
        """Who did what to a batch, oldest first. Raises NotFound."""
        return await self._asked.history(batch_id)


class Login(People):
    """For `longshore login`, which has no token yet."""

    @classmethod
    def of(cls, client: Client) -> Login:
        return cls(client._calls)

    def login_with_code(self, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """Where to send the browser of whoever logs in; see `longshore login`."""
        return finish(self._asked.login_url(redirect_uri, state, nonce, challenge))

    def finish_code(
        self, code: str, redirect_uri: str, nonce: str, verifier: str, token: str, name: str
    ) -> str:
        """The user whose token this is from now on. Raises AuthError."""
        return finish(self._asked.finish_code(code, redirect_uri, nonce, verifier, token, name))

    def begin_device_login(self) -> DeviceLogin:
        """A code to type in on another device."""
        return finish(self._asked.begin_device())

    def finish_device(self, device_code: str, token: str, name: str) -> tuple[str, bool]:
        """The user, empty while nobody has logged in; and whether to ask more slowly."""
        return finish(self._asked.finish_device(device_code, token, name))
