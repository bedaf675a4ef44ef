"""AuthService: who the caller is, what this service is, logging in, the caller's tokens."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from longshore_api.v1 import auth_service_pb2 as pb
from longshore_api.v1 import auth_service_pb2_grpc

from longshore_controller.core import why_texts
from longshore_controller.core.model import Refusal, RefusalKind
from longshore_controller.engine import Engine
from longshore_controller.feed import Feed
from longshore_controller.interceptors import Tokens, act_as, caller, scope, token_id, viewer
from longshore_controller.login import Identity, Pending, Provider
from longshore_controller.store import SLIDING_MS, Store, UserRow
from longshore_controller.wire import people, submission

ALIVE_EVERY_S = 5.0
LOGINS_PER_MINUTE = 60
"""Calls about logging in from one address, polls among them."""
REMEMBER_S = 600.0
"""What came of a login is known so long: the same call again is the same answer, another one is refused."""
REMEMBERED = 10_000

Context = Any


@dataclass(frozen=True, slots=True)
class About:
    """What the service says of itself."""

    version: str
    embedded: bool
    remote_tmpdir: str
    notices: tuple[str, ...]
    default_image: str = "longshore/task"


class AuthService(auth_service_pb2_grpc.AuthServiceServicer):
    def __init__(
        self,
        about: About,
        bounds: submission.Bounds,
        engine: Engine,
        feed: Feed,
        store: Store,
        tokens: Tokens,
        provider: Provider | None,
        domains: frozenset[str],
    ) -> None:
        """``provider``: of logins. ``domains``: whoever is of one of these needs no invitation."""
        self._about = about
        self._bounds = bounds
        self._engine = engine
        self._feed = feed
        self._store = store
        self._tokens = tokens
        self._provider = provider
        self._domains = domains
        self._calls: dict[str, int] = {}
        """By address, in the current minute."""
        self._minute = 0
        self._finished: OrderedDict[bytes, tuple[float, bytes, asyncio.Task[str]]] = OrderedDict()
        """By code: until when, for which token, and who that is."""

    # -- the session -------------------------------------------------------------------------------

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.Session:
        submission.check_fields(request)
        return self._session(await asyncio.to_thread(self._store.user, caller()))

    async def WatchSession(
        self, request: pb.GetSessionRequest, context: Context
    ) -> AsyncIterator[pb.Session]:
        submission.check_fields(request)
        user = await asyncio.to_thread(self._store.user, caller())
        with self._feed.follow(frozen=True) as following:
            while True:
                yield self._session(user)
                await following.next(ALIVE_EVERY_S)

    def _session(self, user: UserRow | None) -> pb.Session:
        frozen = self._engine.frozen
        paying = [p for name in sorted(viewer().projects) if (p := self._engine.project(name)) is not None]
        return pb.Session(
            user=caller(),
            version=self._about.version,
            embedded=self._about.embedded,
            store_folder=self._bounds.store_folder,
            remote_tmpdir=self._about.remote_tmpdir,
            notices=[
                *self._about.notices,
                *([why_texts.frozen(frozen).text] if frozen else []),
                *(project.warning for project in paying if project.warning),
            ],
            largest_worker_mcpu=self._bounds.largest_mcpu,
            default_image=self._about.default_image,
            now_ms=self._engine.now_ms(),
            frozen=why_texts.frozen(frozen).text if frozen else "",
            admin=viewer().admin,
            projects=people.memberships(viewer()),
            service_identity=user.service_identity if user else "",
            email=user.email if user else "",
            token=pb.Token(token_id=token_id(), scope=pb.TokenScope.ValueType(scope()), current=True),
            has_login=self._provider is not None,
        )

    # -- logging in --------------------------------------------------------------------------------

    async def BeginLogin(self, request: pb.BeginLoginRequest, context: Context) -> pb.BeginLoginResponse:
        submission.check_fields(request)
        provider = self._provider_for(context)
        if request.device:
            device = await asyncio.to_thread(provider.begin_device)
            return pb.BeginLoginResponse(**device._asdict())
        asked = people.login_url(request)
        return pb.BeginLoginResponse(url=await asyncio.to_thread(provider.authorization_url, *asked))

    async def FinishLogin(self, request: pb.FinishLoginRequest, context: Context) -> pb.FinishLoginResponse:
        provider = self._provider_for(context)
        people.finished_login(request)
        key = hashlib.sha256((request.code or request.device_code).encode()).digest()
        self._forget_finished()
        _, wanted, task = self._finished.get(key, (0.0, request.token_sha256, None))
        if wanted != request.token_sha256:
            raise Refusal(RefusalKind.UNAUTHENTICATED, "this login was used already; log in again")
        who: Identity | None = None
        if request.device_code and task is None:
            found = await asyncio.to_thread(provider.of_device, request.device_code)
            if isinstance(found, Pending):
                return pb.FinishLoginResponse(slow_down=found.slow_down)
            who = found
        if task is None:
            # A twin of this call that came meanwhile waits for the same answer.
            made = self._let_in(request, who, provider)
            task = self._finished.setdefault(
                key, (time.monotonic() + REMEMBER_S, request.token_sha256, asyncio.create_task(made))
            )[2]
        try:
            return pb.FinishLoginResponse(user=await asyncio.shield(task))
        except Refusal as refusal:
            if refusal.kind is RefusalKind.UNAVAILABLE:
                self._finished.pop(key, None)
            raise

    async def _let_in(self, request: pb.FinishLoginRequest, who: Identity | None, provider: Provider) -> str:
        if who is None:
            code = request.code, request.redirect_uri, request.code_verifier, request.nonce
            who = await asyncio.to_thread(provider.of_code, *code)
        user = await asyncio.to_thread(self._user_of, who)
        act_as(user.name)
        if user.suspended_at_ms is not None:
            raise Refusal(RefusalKind.PERMISSION_DENIED, f"{user.name} is suspended; ask an admin")
        now = self._engine.now_ms()
        added = await asyncio.to_thread(
            self._store.add_token,
            user.name,
            request.token_sha256,
            name=request.token_name or "login",
            now_ms=now,
            expires_at_ms=now + SLIDING_MS,
            ends_at_ms=now + people.LONGEST_MS,
        )
        if not added:
            raise Refusal(RefusalKind.ALREADY_EXISTS, "token_sha256: there is such a token; make another")
        return user.name

    def _user_of(self, who: Identity) -> UserRow:
        if (user := self._store.admit(who.issuer, who.subject, who.email)) is not None:
            return user
        if who.email and who.domain in self._domains:
            base = re.sub(r"[^a-z0-9]+", "-", who.email.partition("@")[0]).strip("-")[:60] or "user"
            for n in range(1, 100):
                name = base if n == 1 else f"{base}-{n}"
                now = self._engine.now_ms()
                if self._store.create_of_login(name, who.issuer, who.subject, who.email, now):
                    break
            if (user := self._store.user_of_subject(who.issuer, who.subject)) is not None:
                return user
        whose = who.email or "an account without a verified e-mail address"
        raise Refusal(
            RefusalKind.PERMISSION_DENIED, f"{whose} is not invited to this service; ask one of its admins"
        )

    def _provider_for(self, context: Context) -> Provider:
        if self._provider is None:
            raise Refusal(
                RefusalKind.FAILED_PRECONDITION,
                "this service has no login by browser; ask its admin for a token: longshore login --token -",
            )
        minute, peer = int(time.monotonic() // 60), context.peer().rpartition(":")[0]
        if minute != self._minute:
            self._minute, self._calls = minute, {}
        self._calls[peer] = self._calls.get(peer, 0) + 1
        if self._calls[peer] > LOGINS_PER_MINUTE:
            raise Refusal(RefusalKind.RESOURCE_EXHAUSTED, "too many logins from this address; wait a minute")
        return self._provider

    def _forget_finished(self) -> None:
        while self._finished and (
            len(self._finished) > REMEMBERED or next(iter(self._finished.values()))[0] < time.monotonic()
        ):
            self._finished.popitem(last=False)

    # -- tokens ------------------------------------------------------------------------------------

    async def AddToken(self, request: pb.AddTokenRequest, context: Context) -> pb.Token:
        people.new_token(request, scope())
        user, now = caller(), self._engine.now_ms()
        ends = now + request.lifetime_ms
        await asyncio.to_thread(
            self._store.add_token,
            user,
            request.sha256,
            name=request.name,
            scope=request.scope,
            now_ms=now,
            expires_at_ms=ends,
            ends_at_ms=ends,
        )
        for row in await asyncio.to_thread(self._store.tokens, user):
            same = (row.name, row.scope, (row.ends_at_ms or 0) - row.created_at_ms)
            if row.sha256 == request.sha256 and same == (request.name, request.scope, request.lifetime_ms):
                return people.token_message(row, token_id())
        raise Refusal(RefusalKind.ALREADY_EXISTS, "sha256: there is such a token; make another")

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        submission.check_fields(request)
        now, rows = self._engine.now_ms(), await asyncio.to_thread(self._store.tokens, caller())
        good = (people.token_message(row, token_id()) for row in rows if row.is_good(now))
        return pb.ListTokensResponse(tokens=good)

    async def RevokeTokens(
        self, request: pb.RevokeTokensRequest, context: Context
    ) -> pb.RevokeTokensResponse:
        submission.check_fields(request)
        if bool(request.token_id) == request.all:
            raise Refusal(RefusalKind.INVALID_ARGUMENT, "token_id: give one, or all, and not both")
        user = caller()
        rows = await asyncio.to_thread(self._store.tokens, user)
        meant = [row.sha256 for row in rows if request.all or row.token_id == request.token_id]
        if not meant:
            raise Refusal(RefusalKind.NOT_FOUND, f"you have no token {request.token_id!r}")
        await asyncio.to_thread(self._store.revoke_tokens, user, meant, self._engine.now_ms())
        self._tokens.forget()
        return pb.RevokeTokensResponse(n_revoked=len(meant))
