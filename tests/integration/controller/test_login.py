"""Logging in against an OpenID provider, honest or not; tokens; users; the audit."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from integration.controller.service import Running, User, config_of, job, running
from integration.controller.test_users import refused
from longshore import Client, browser_login
from longshore.errors import AuthError, PermissionDenied, WaitTimeout
from longshore.people import Login, hash_of, is_whole, new_token
from longshore_api.v1 import admin_service_pb2 as admin_pb
from longshore_api.v1 import admin_service_pb2_grpc as admin_grpc
from longshore_api.v1 import auth_service_pb2 as pb
from longshore_api.v1 import auth_service_pb2_grpc as auth_grpc
from longshore_api.v1 import batch_service_pb2 as batch_pb
from longshore_controller import auth, interceptors
from longshore_controller import config as settings
from openid import FOREIGN_KEY, OpenIdProvider

CODE = grpc.StatusCode


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    with OpenIdProvider() as provider:
        yield provider


@pytest.fixture
async def service(tmp_path: Path, provider: OpenIdProvider) -> AsyncIterator[Running]:
    (tmp_path / "secret").write_text(provider.secret + "\n")
    config = config_of(tmp_path)
    login = settings.Login(
        provider.issuer, provider.client_id, str(tmp_path / "secret"), domains=["example.com"]
    )
    config = replace(config, login=login, service=replace(config.service, embedded=False))
    async with running(config) as service:
        service.store.invite("bob", "Bob@example.org", 1)
        yield service


def auth_stub(service: Running) -> Any:
    return auth_grpc.AuthServiceStub(service.channel)


async def session(service: Running, token: str) -> Any:
    metadata = (("authorization", f"Bearer {token}"),)
    return await auth_stub(service).GetSession(pb.GetSessionRequest(), metadata=metadata)


class Browser:
    """Goes where it is sent, logs in, and comes back; keeps what it was shown."""

    def __init__(self, provider: OpenIdProvider, change: Callable[[str], str] = lambda url: url) -> None:
        self._provider = provider
        self._change = change
        self.page = ""
        self.coming_back = threading.Thread()

    def open(self, url: str) -> None:
        self.coming_back = threading.Thread(target=self._come_back, args=(self._provider.log_in(url),))
        self.coming_back.start()

    def _come_back(self, url: str) -> None:
        try:
            with urllib.request.urlopen(self._change(url), timeout=10) as answer:
                self.page = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                self.page = error.read().decode()


def log_in(service: Running, browser: Browser) -> tuple[str, str]:
    try:
        with Client(endpoint=service.endpoint, token="-", retry_s=0) as client:
            return browser_login.by_browser(Login.of(client), browser.open)
    finally:
        browser.coming_back.join()


async def test_who_was_invited_logs_in_with_a_browser_and_is_known_by_subject(
    service: Running, provider: OpenIdProvider
) -> None:
    browser = Browser(provider)
    user, token = await asyncio.to_thread(log_in, service, browser)
    assert user == "bob"
    assert browser_login.DONE in browser.page
    assert is_whole(token)
    mine = await session(service, token)
    assert (mine.user, mine.service_identity, mine.admin) == ("bob", "sa-bob", False)
    provider.claims["email"] = "robert@elsewhere.org"  # The account is the same.
    assert (await asyncio.to_thread(log_in, service, Browser(provider)))[0] == "bob"
    provider.claims |= {"sub": "another", "email": "bob@example.org"}  # The address went to somebody else.
    with pytest.raises(PermissionDenied, match="not invited"):
        await asyncio.to_thread(log_in, service, Browser(provider))


async def test_who_is_of_a_domain_that_is_let_in_needs_no_invitation(
    service: Running, provider: OpenIdProvider
) -> None:
    provider.claims |= {"sub": "s2", "email": "Ann.Lee@example.com"}
    assert (await asyncio.to_thread(log_in, service, Browser(provider)))[0] == "ann-lee"
    provider.claims |= {"sub": "s3", "email": "ann_lee@example.com"}
    assert (await asyncio.to_thread(log_in, service, Browser(provider)))[0] == "ann-lee-2"
    provider.claims |= {"sub": "s4", "email_verified": False}
    with pytest.raises(PermissionDenied, match="without a verified e-mail address is not invited"):
        await asyncio.to_thread(log_in, service, Browser(provider))


def shifted(name: str, by: int) -> Callable[[dict[str, Any]], None]:
    def lie(claims: dict[str, Any]) -> None:
        claims[name] += by

    return lie


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param({"iss": "https://evil.example"}, id="issuer"),
        pytest.param({"aud": "another client"}, id="audience"),
        pytest.param({"aud": ["longshore-test", "another"], "azp": "another"}, id="authorized party"),
        pytest.param({"nonce": "of another login"}, id="nonce"),
        pytest.param({"exp": 1_600_000_000}, id="expired"),
        pytest.param({"iat": 4_000_000_000}, id="not yet"),
        pytest.param({"sub": ""}, id="nobody"),
    ],
)
async def test_an_id_token_that_is_not_for_this_login_is_refused(
    service: Running, provider: OpenIdProvider, lie: dict[str, Any]
) -> None:
    provider.lie = lambda claims: claims.update(lie)
    browser = Browser(provider)
    with pytest.raises(AuthError):
        await asyncio.to_thread(log_in, service, browser)
    assert not service.store.tokens("bob")


@pytest.mark.parametrize("how", ["none", "HS256", "foreign key", "no nonce"])
async def test_an_id_token_that_the_provider_did_not_sign_is_refused(
    service: Running, provider: OpenIdProvider, how: str
) -> None:
    if how == "foreign key":
        provider.key = FOREIGN_KEY
    elif how == "no nonce":
        provider.lie = lambda claims: claims.pop("nonce")
    else:
        provider.algorithm = how
    with pytest.raises(AuthError):
        await asyncio.to_thread(log_in, service, Browser(provider))


async def test_a_clock_that_is_a_little_wrong_is_forgiven(service: Running, provider: OpenIdProvider) -> None:
    provider.lie = lambda claims: claims.update(exp=claims["iat"] - 40)
    assert (await asyncio.to_thread(log_in, service, Browser(provider)))[0] == "bob"


async def test_an_answer_to_another_login_is_not_taken(
    service: Running, provider: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser_login, "PATIENCE_S", 0.3)
    browser = Browser(provider, lambda url: url.replace("state=", "state=x"))
    with pytest.raises(WaitTimeout):
        await asyncio.to_thread(log_in, service, browser)
    assert "not the login that was begun here" in browser.page


VERIFIER = "v" * 43


async def begun(service: Running, provider: OpenIdProvider) -> pb.FinishLoginRequest:
    """A login by code up to its last step."""
    redirect = "http://127.0.0.1:4711/login"
    request = pb.BeginLoginRequest(
        redirect_uri=redirect, state="s" * 20, nonce="n" * 20,
    )  # fmt: skip
    digest = hashlib.sha256(VERIFIER.encode()).digest()
    request.code_challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    url = (await auth_stub(service).BeginLogin(request)).url
    code = provider.log_in(url).partition("code=")[2].partition("&")[0]
    return pb.FinishLoginRequest(
        code=code, redirect_uri=redirect, nonce="n" * 20, code_verifier=VERIFIER,
        token_sha256=hash_of(new_token()),
    )  # fmt: skip


async def test_a_login_sent_twice_or_at_once_is_one_and_a_code_is_good_for_one_token(
    service: Running, provider: OpenIdProvider
) -> None:
    request = await begun(service, provider)
    stub = auth_stub(service)
    answers = await asyncio.gather(*(stub.FinishLogin(request) for _ in range(4)))
    assert {answer.user for answer in answers} == {"bob"}
    assert (await stub.FinishLogin(request)).user == "bob"
    assert len(service.store.tokens("bob")) == 1
    request.token_sha256 = hash_of(new_token())
    code, words = await refused(stub.FinishLogin(request))
    assert (code, words) == (CODE.UNAUTHENTICATED, "this login was used already; log in again")


async def test_a_code_is_worth_nothing_without_its_verifier(
    service: Running, provider: OpenIdProvider
) -> None:
    request = await begun(service, provider)
    request.code_verifier = "w" * 43
    code, words = await refused(auth_stub(service).FinishLogin(request))
    assert code is CODE.UNAUTHENTICATED
    assert "invalid_grant" in words


async def test_a_redirect_goes_to_this_machine_alone(service: Running) -> None:
    for uri in ("https://evil.example/", "http://127.0.0.1.evil.example:1/", "http://evil.example:80/login"):
        request = pb.BeginLoginRequest(
            redirect_uri=uri, state="s" * 20, nonce="n" * 20, code_challenge="c" * 43
        )
        code, words = await refused(auth_stub(service).BeginLogin(request))
        assert code is CODE.INVALID_ARGUMENT
        assert words.startswith("redirect_uri: http://127.0.0.1:PORT")


async def test_a_login_on_another_device_waits_until_the_code_is_typed_in(
    service: Running, provider: OpenIdProvider
) -> None:
    told: list[str] = []

    def tell(url: str, code: str) -> None:
        told.extend((url, code))
        (device,) = provider.devices
        provider.devices[device] = True

    def log_in() -> tuple[str, str]:
        with Client(endpoint=service.endpoint, token="-", retry_s=0) as client:
            return browser_login.by_device(Login.of(client), tell)

    user, token = await asyncio.to_thread(log_in)
    assert told == [f"{provider.issuer}/activate", "BCDF-GHJK"]
    assert (user, (await session(service, token)).user) == ("bob", "bob")


async def test_a_device_that_nobody_has_typed_in_is_pending_and_a_used_one_is_over(
    service: Running, provider: OpenIdProvider
) -> None:
    stub = auth_stub(service)
    begun = await stub.BeginLogin(pb.BeginLoginRequest(device=True))
    request = pb.FinishLoginRequest(device_code=begun.device_code, token_sha256=hash_of(new_token()))
    assert await stub.FinishLogin(request) == pb.FinishLoginResponse()
    provider.slow_down = True
    assert (await stub.FinishLogin(request)).slow_down
    provider.devices[begun.device_code] = True
    assert (await stub.FinishLogin(request)).user == "bob"
    assert (await stub.FinishLogin(request)).user == "bob"
    other = pb.FinishLoginRequest(device_code=begun.device_code, token_sha256=hash_of(new_token()))
    assert (await refused(stub.FinishLogin(other)))[0] is CODE.UNAUTHENTICATED


async def test_a_flood_of_logins_from_one_address_is_stopped(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "LOGINS_PER_MINUTE", 3)
    monkeypatch.setattr(time, "monotonic", lambda: 1.0)
    stub = auth_stub(service)
    for _ in range(3):
        await stub.BeginLogin(pb.BeginLoginRequest(device=True))
    code, _ = await refused(stub.BeginLogin(pb.BeginLoginRequest(device=True)))
    assert code is CODE.RESOURCE_EXHAUSTED


async def test_a_provider_that_is_away_is_unavailable(service: Running, provider: OpenIdProvider) -> None:
    provider.__exit__()
    request = pb.BeginLoginRequest(device=True)
    code, words = await refused(auth_stub(service).BeginLogin(request))
    assert code is CODE.UNAVAILABLE
    assert words.startswith("the login provider cannot be asked just now")


# -- tokens ------------------------------------------------------------------------------------------


async def test_a_token_that_is_revoked_is_refused_with_the_next_call(service: Running) -> None:
    stub, ada = auth_stub(service), service.ada.metadata
    token = new_token()
    request = pb.AddTokenRequest(
        sha256=hash_of(token), name="ci", scope=pb.TOKEN_SCOPE_READ, lifetime_ms=86_400_000
    )
    made = [await stub.AddToken(request, metadata=ada) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0].name == "ci"
    assert (await session(service, token)).token.scope == pb.TOKEN_SCOPE_READ
    request.name = "other"
    assert (await refused(stub.AddToken(request, metadata=ada)))[0] is CODE.ALREADY_EXISTS
    listed = (await stub.ListTokens(pb.ListTokensRequest(), metadata=ada)).tokens
    assert sorted((t.name, t.current) for t in listed) == [("", True), ("ci", False)]
    revoke = pb.RevokeTokensRequest(token_id=made[0].token_id)
    assert (await stub.RevokeTokens(revoke, metadata=ada)).n_revoked == 1
    assert (await stub.RevokeTokens(revoke, metadata=ada)).n_revoked == 1
    assert (await refused(session(service, token)))[0] is CODE.UNAUTHENTICATED
    stranger = service.user("eve").metadata
    assert (await refused(stub.RevokeTokens(revoke, metadata=stranger)))[0] is CODE.NOT_FOUND


async def test_no_token_makes_one_that_may_do_more(service: Running) -> None:
    service.store.ensure_user("bob")
    service.store.add_token("bob", interceptors.hash_of("narrow"), scope=2)
    narrow = (("authorization", "Bearer narrow"),)
    request = pb.AddTokenRequest(sha256=bytes(32), name="x", scope=pb.TOKEN_SCOPE_ALL, lifetime_ms=1_000)
    assert (await refused(auth_stub(service).AddToken(request, metadata=narrow)))[0] is CODE.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"sha256": b"short"}, "sha256"),
        ({"name": ""}, "name"),
        ({"scope": 0}, "scope"),
        ({"scope": 9}, "scope"),
        ({"lifetime_ms": 0}, "lifetime_ms"),
        ({"lifetime_ms": 91 * 86_400_000}, "lifetime_ms"),
    ],
)
async def test_a_token_that_cannot_be_is_refused_by_its_field(
    service: Running, fields: dict[str, Any], path: str
) -> None:
    good: dict[str, Any] = {"sha256": bytes(32), "name": "ci", "scope": 1, "lifetime_ms": 1_000}
    request = pb.AddTokenRequest(**good | fields)
    code, words = await refused(auth_stub(service).AddToken(request, metadata=service.ada.metadata))
    assert code is CODE.INVALID_ARGUMENT
    assert words.startswith(f"{path}: ")


# -- users and the audit -----------------------------------------------------------------------------


async def admin(service: Running, method: str, request: Any) -> Any:
    stub: Any = admin_grpc.AdminServiceStub(service.channel)
    return await getattr(stub, method)(request, metadata=service.ada.metadata)


async def test_an_invitation_may_be_repeated_and_nobody_elses_name_or_address_taken(service: Running) -> None:
    request = admin_pb.InviteUserRequest(name="cat", email="cat@example.org")
    first = await admin(service, "InviteUser", request)
    assert first == await admin(service, "InviteUser", request)
    for name, email in (("cat", "dog@example.org"), ("dog", "cat@example.org"), ("ada", "x@example.org")):
        other = admin_pb.InviteUserRequest(name=name, email=email)
        assert (await refused(admin(service, "InviteUser", other)))[0] is CODE.ALREADY_EXISTS
    bad = admin_pb.InviteUserRequest(name="Cat", email="cat@example.org")
    assert (await refused(admin(service, "InviteUser", bad)))[1].startswith("name: ")


async def test_who_is_suspended_is_refused_at_once_and_restored_is_let_in(service: Running) -> None:
    eve = service.user("eve")
    await eve.call("ListBatches", batch_pb.ListBatchesRequest())
    suspend = admin_pb.UpdateUserRequest(name="eve", suspended=True)
    assert (await admin(service, "UpdateUser", suspend)).HasField("suspended_at_ms")
    assert (await refused(eve.batch(1)))[0] is CODE.UNAUTHENTICATED
    restore = admin_pb.UpdateUserRequest(name="eve", suspended=False)
    assert not (await admin(service, "UpdateUser", restore)).HasField("suspended_at_ms")
    assert (await refused(eve.batch(1)))[0] is CODE.NOT_FOUND
    assert (await admin(service, "UpdateUser", admin_pb.UpdateUserRequest(name="eve", admin=True))).admin
    missing = admin_pb.UpdateUserRequest(name="nobody", admin=True)
    assert (await refused(admin(service, "UpdateUser", missing)))[0] is CODE.NOT_FOUND
    for change in ({"suspended": True}, {"admin": False}):
        locked = admin_pb.UpdateUserRequest(name="ada", **change)
        assert (await refused(admin(service, "UpdateUser", locked)))[0] is CODE.FAILED_PRECONDITION


async def audit(service: Running, **which: Any) -> list[Any]:
    await service.controller._refusals.write()
    request = admin_pb.ListAuditRequest(page_size=1000, **which)
    return list((await admin(service, "ListAudit", request)).entries)


async def test_every_deed_and_every_refusal_is_in_the_audit_without_secrets(service: Running) -> None:
    service.store.found_project("test", "ada")
    ada, eve = service.ada, service.user("eve")
    batch_id = await ada.submit(job())
    await ada.close(batch_id)  # Closing it again changes nothing.
    await ada.cancel(batch_id, "hunter2")
    for _ in range(3):
        await refused(eve.cancel(batch_id))
    await refused(User(service.channel, "hunter2").batch(batch_id))
    await admin(service, "InviteUser", admin_pb.InviteUserRequest(name="cat", email="cat@example.org"))
    await ada.delete(batch_id)
    entries = await audit(service)
    said = [(e.actor, e.role, e.method.rpartition("/")[2], e.batch_id, e.outcome, e.times) for e in entries]
    for wanted in (
        ("ada", "admin", "CreateBatch", batch_id, "OK", 1),
        ("ada", "admin", "SubmitJobs", batch_id, "OK", 1),
        ("ada", "admin", "CloseBatch", batch_id, "OK", 1),
        ("ada", "admin", "CancelBatch", batch_id, "OK", 1),
        ("ada", "admin", "DeleteBatch", batch_id, "OK", 1),
        ("ada", "admin", "InviteUser", 0, "OK", 1),
        ("eve", "user", "CancelBatch", batch_id, "NOT_FOUND", 3),
        ("", "anyone", "GetBatch", 0, "UNAUTHENTICATED", 1),
    ):
        assert said.count(wanted) == 1, wanted
    assert {e.peer for e in entries} == {"127.0.0.1"}
    assert all(e.at_ms for e in entries)
    token = ada.metadata[0][1].split()[1]
    assert "hunter2" not in str(entries) and token not in str(entries)
    assert {e.actor for e in await audit(service, user="eve")} == {"eve"}
    assert {e.batch_id for e in await audit(service, batch_id=batch_id)} == {batch_id}


async def test_a_history_is_for_who_sees_the_batch_and_holds_no_refusals(service: Running) -> None:
    service.store.found_project("test", "ada")
    eve = service.user("eve")
    batch_id = await service.ada.submit(job())
    await refused(eve.cancel(batch_id))
    await audit(service)
    request = batch_pb.GetBatchHistoryRequest(batch_id=batch_id)
    deeds = (await service.ada.call("GetBatchHistory", request)).deeds
    assert [(d.user, d.deed) for d in deeds] == [
        ("ada", "CreateBatch"), ("ada", "SubmitJobs"), ("ada", "CloseBatch")
    ]  # fmt: skip
    assert (await refused(eve.call("GetBatchHistory", request)))[0] is CODE.NOT_FOUND


async def test_a_deed_whose_commit_failed_is_in_no_audit(service: Running) -> None:
    service.store.found_project("test", "ada")
    with service.database_away():
        await refused(service.ada.create(0, "lost"))
    assert not [e for e in await audit(service) if e.method.endswith("CreateBatch")]


async def test_a_flood_of_refusals_is_a_few_rows(service: Running) -> None:
    eve = service.user("eve")
    for batch_id in range(1, 200):
        await refused(eve.batch(batch_id))
    entries = await audit(service, user="eve")
    assert len(entries) <= 2 * interceptors.REFUSALS_MOST
    assert sum(e.times for e in entries) == 199
