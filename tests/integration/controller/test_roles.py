"""Who may call what, for what: every method of every service, every role, an object that is there and one
that is not. A new method has to be entered into `TABLE`, or the first test fails.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from integration.controller.service import Running, config_of, job, running
from longshore_api.v1 import types_pb2 as types
from longshore_api.v1 import worker_service_pb2 as worker_pb
from longshore_controller.__main__ import SERVICES
from longshore_controller.billing import BillingService
from longshore_controller.core.model import MemberRole, Refusal, Viewer
from longshore_controller.interceptors import METHOD_POLICY, May, hash_of
from longshore_controller.store import TokenRow, id_of
from longshore_controller.store.directory import Directory
from longshore_controller.visible import Visible

METHODS = {f"{s.name}/{m.name}": (s, m) for s in SERVICES for m in s.methods}

# What each role is answered: ok, or a refusal. Who is nobody, or was somebody, is never told more.
OK, NO, HIDDEN, WHO = "ok", "PERMISSION_DENIED", "NOT_FOUND", "UNAUTHENTICATED"
ROLES = ("nobody", "expired", "stranger", "member", "creator", "owner", "admin", "worker")
ANSWERS = {
    #          nobody expired stranger member creator owner admin worker
    "anyone": (OK, OK, OK, OK, OK, OK, OK, OK),
    "any user": (WHO, WHO, OK, OK, OK, OK, OK, NO),
    "who sees": (WHO, WHO, HIDDEN, OK, OK, OK, OK, NO),
    "who fills": (WHO, WHO, HIDDEN, NO, OK, NO, NO, NO),
    "who ends": (WHO, WHO, HIDDEN, NO, OK, OK, OK, NO),
    "who pays": (WHO, WHO, HIDDEN, OK, OK, OK, OK, NO),
    "who manages": (WHO, WHO, HIDDEN, NO, NO, OK, OK, NO),
    "members": (WHO, WHO, NO, OK, OK, OK, NO, NO),
    "admins": (WHO, WHO, NO, NO, NO, NO, OK, NO),
    "workers": (WHO, WHO, NO, NO, NO, NO, NO, OK),
}
TABLE = {
    "AuthService/GetSession": "any user",
    "AuthService/WatchSession": "any user",
    "AuthService/BeginLogin": "anyone",
    "AuthService/FinishLogin": "anyone",
    "AuthService/AddToken": "any user",
    "AuthService/ListTokens": "any user",
    "AuthService/RevokeTokens": "any user",
    "BatchService/CreateBatch": "members",
    "BatchService/SubmitJobs": "who fills",
    "BatchService/CloseBatch": "who fills",
    "BatchService/CancelBatch": "who ends",
    "BatchService/DeleteBatch": "who ends",
    "BatchService/UpdateBatch": "who fills",
    "BatchService/UndeleteBatch": "who ends",
    "BatchService/EndAttempt": "who ends",
    "BatchService/GetBatch": "who sees",
    "BatchService/GetBatchHistory": "who sees",
    "BatchService/ListBatches": "any user",
    "BatchService/GetJob": "who sees",
    "BatchService/ListJobs": "who sees",
    "BatchService/FailureGroups": "who sees",
    "BatchService/CompleteQuery": "who sees",
    "BatchService/WatchBatch": "who sees",
    "BatchService/WatchEvents": "who sees",
    "BatchService/WatchBatches": "any user",
    "BatchService/WatchJobs": "who sees",
    "BatchService/WatchJob": "who sees",
    "BatchService/Explain": "who sees",
    "BatchService/ReadLog": "who sees",
    "BatchService/SearchLog": "who sees",
    "AdminService/Freeze": "admins",
    "AdminService/Thaw": "admins",
    "AdminService/GetServiceStatus": "admins",
    "AdminService/ListWorkers": "admins",
    "AdminService/GetWorker": "admins",
    "AdminService/DrainWorker": "admins",
    "AdminService/UndrainWorker": "admins",
    "AdminService/InviteUser": "admins",
    "AdminService/ListUsers": "admins",
    "AdminService/UpdateUser": "admins",
    "AdminService/ListAudit": "admins",
    "BillingService/ListProjects": "any user",
    "BillingService/GetProject": "who pays",
    "BillingService/CreateProject": "admins",
    "BillingService/SetProject": "who manages",
    "BillingService/SetMember": "who manages",
    "BillingService/RemoveMember": "who manages",
    "BillingService/GetCosts": "any user",
    "BillingService/ListRates": "any user",
    "BillingService/SetRates": "admins",
    "WorkerService/Activate": "anyone",
    "WorkerService/Connect": "workers",
    "WorkerService/PushLogs": "workers",
    "Health/Check": "anyone",
    "Health/List": "anyone",
    "Health/Watch": "anyone",
}
OF_A_BATCH = {"who sees", "who fills", "who ends"}
NO_ATTEMPT = "0" * 32
PASSED = {"OK", "FAILED_PRECONDITION"}
"""Whoever may is not refused, though it may be impossible just now."""
OF_ANYONE = PASSED | {"UNAUTHENTICATED", "UNIMPLEMENTED"}
"""A token that is good for one worker is not known, whoever shows it; health is not listed to anybody."""


def test_every_method_is_in_the_table() -> None:
    assert TABLE.keys() == METHODS.keys()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    config = config_of(tmp_path)
    config = replace(config, service=replace(config.service, embedded=False))
    async with running(config) as service:
        yield service


class Company:
    """A project `lab` with everybody that there can be in it and around it."""

    def __init__(self, service: Running, worker: tuple[str, str], attempt_id: str) -> None:
        self.service = service
        self.worker_id, token = worker
        self.attempt_id = attempt_id
        self._n = itertools.count(1)
        store = service.store
        names = {"stranger": "eve", "member": "cat", "creator": "bob", "owner": "olga"}
        self.users = {role: service.user(name) for role, name in names.items()}
        self.tokens = {role: f"token of {name}" for role, name in names.items()}
        store.found_project("lab", "olga")
        for name in ("bob", "cat"):
            store.set_member("lab", name, MemberRole.MEMBER)
        store.ensure_user("dan")
        store.set_member("lab", "dan", MemberRole.OWNER)
        store.add_token("dan", hash_of("token of dan"), expires_at_ms=1)
        for role, name in {**names, "admin": "ada"}.items():
            store.add_token(name, bytes([ROLES.index(role)] * 32))
        admin = service.ada.metadata[0][1].split()[1]
        self.tokens |= {"nobody": "", "expired": "token of dan", "admin": admin, "worker": token}
        self.users["creator"].project = "lab"

    async def batch(self, name: str) -> int:
        """A new one of bob's, open if it is to be filled."""
        bob = self.users["creator"]
        if TABLE[name] == "who fills":
            batch_id = await bob.create(1)
            if name.endswith("CloseBatch"):
                await bob.add(batch_id, job())
            return batch_id
        return await bob.submit(job())

    def request(self, name: str, role: str, batch_id: int) -> Any:
        """A request for that batch, if it is for one; its other fields are good."""
        n = next(self._n)
        message: Any = GetMessageClass(METHODS[name][1].input_type)()
        special: dict[str, dict[str, Any]] = {
            "AuthService/AddToken": {
                "sha256": n.to_bytes(32, "big"), "name": "x", "scope": 1, "lifetime_ms": 1000
            },
            "AuthService/RevokeTokens": {"token_id": id_of(bytes([ROLES.index(role)] * 32))},
            "BatchService/EndAttempt": {"attempt_id": NO_ATTEMPT},
            "AdminService/InviteUser": {"name": f"user-{n}", "email": f"{n}@example.org"},
            "AdminService/UpdateUser": {"name": "dan", "suspended": False},
            "BillingService/GetProject": {"name": "lab"},
            "BillingService/CreateProject": {"name": f"project-{n}"},
            "BillingService/SetProject": {"name": "lab", "limit_nanousd": 10**15},
            "BillingService/SetMember": {"name": "lab", "user": "cat", "role": 1},
            "BillingService/RemoveMember": {"name": "lab", "user": "nobody"},
            "BillingService/SetRates": {"from_day": 100_000 + n},
            "WorkerService/PushLogs": {"attempt_id": self.attempt_id},
        }  # fmt: skip
        good: dict[str, Any] = {
            "batch_id": batch_id,
            "job_id": 1,
            "first_job_id": 1,
            "container": types.CONTAINER_MAIN,
            "request_id": f"request {n}",
            "billing_project": "lab",
            "worker_id": self.worker_id,
            "text": "x",
        }
        for field, value in (good | special.get(name, {})).items():
            if field in message.DESCRIPTOR.fields_by_name:
                setattr(message, field, value)
        if name in ("BatchService/SubmitJobs", "BatchService/UpdateBatch"):
            message.jobs.append(job())
        if name == "BillingService/SetRates":
            message.prices["compute"] = "0.02"
        if name == "WorkerService/Connect":
            message.hello.CopyFrom(worker_pb.Hello(capacity_mcpu=1000, runtime="fake"))
        return message

    async def ask(self, name: str, role: str, request: Any) -> tuple[str, str]:
        """Code and words; of a stream those with which it begins."""
        while (told := await self._ask(name, role, request))[1] == "Internal error from Core":
            pass  # What this client says of a stream that was ended while it was still sending to it.
        return told

    async def _ask(self, name: str, role: str, request: Any) -> tuple[str, str]:
        service, method = METHODS[name]
        kinds = {(False, False): "unary_unary", (False, True): "unary_stream",
                 (True, False): "stream_unary", (True, True): "stream_stream"}  # fmt: skip
        kind = kinds[method.client_streaming, method.server_streaming]
        output: Any = GetMessageClass(method.output_type)
        multicallable = getattr(self.service.channel, kind)(
            f"/{service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=output.FromString,
        )
        token = self.tokens[role]
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            if method.client_streaming and method.server_streaming:
                call = multicallable(metadata=metadata, timeout=20)
                await call.write(request)
                await call.read()
            elif method.server_streaming:
                call = multicallable(request, metadata=metadata, timeout=20)
                await call.read()
            elif method.client_streaming:
                call = multicallable(iter([request]), metadata=metadata, timeout=20)
                await call
            else:
                call = multicallable(request, metadata=metadata, timeout=20)
                await call
        except asyncio.InvalidStateError:
            pass  # It was ended while it was sent to; its code says why.
        except aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        if call.done():
            return (await call.code()).name, await call.details() or ""
        call.cancel()
        return "OK", ""


@pytest.fixture
async def company(service: Running) -> AsyncIterator[Company]:
    identity = await service.activate()
    service.store.found_project("of-carl", "ada")
    service.ada.project = "of-carl"
    async with service.worker(identity) as workerd:
        await service.ada.submit(job())
        (run,) = await workerd.assigned()
    yield Company(service, identity, run.attempt_id)


@pytest.mark.parametrize("name", TABLE)
async def test_each_role_is_answered_as_the_table_says(company: Company, name: str) -> None:
    wanted = dict(zip(ROLES, ANSWERS[TABLE[name]], strict=True))
    # First those who are refused: that must leave the object to the others as it is.
    for role in sorted(ROLES, key=lambda role: wanted[role] == OK):
        batch_id = await company.batch(name)
        code, words = await company.ask(name, role, company.request(name, role, batch_id))
        if words.startswith(f"there is no attempt {NO_ATTEMPT} of "):
            code = "OK"  # The batch and its job are shown; the job has not run.
        passed = OF_ANYONE if TABLE[name] == "anyone" else PASSED
        assert code in passed if wanted[role] == OK else code == wanted[role], (role, code, words)


@pytest.mark.parametrize("name", [name for name, who in TABLE.items() if who in OF_A_BATCH])
async def test_what_is_hidden_is_answered_like_what_is_not_there(company: Company, name: str) -> None:
    """To the byte, but for the number that was asked for."""
    batch_id, missing = await company.batch(name), 4711
    theirs = await company.ask(name, "stranger", company.request(name, "stranger", batch_id))
    nothing = await company.ask(name, "stranger", company.request(name, "stranger", missing))
    assert theirs == (HIDDEN, nothing[1].replace(str(missing), str(batch_id)))
    for role in ("member", "creator", "owner", "admin"):
        assert await company.ask(name, role, company.request(name, role, missing)) == nothing


async def test_a_stranger_is_told_the_same_with_and_without_others(company: Company) -> None:
    """Lists, windows and events of one who has nothing, before and after others have done much."""
    looks = [n for n, who in TABLE.items() if who == "any user" and n.startswith("BatchService")]
    looks.append("BatchService/WatchEvents")

    async def seen() -> list[tuple[str, str]]:
        requests = [company.request(name, "stranger", 0) for name in looks]
        return [await company.ask(name, "stranger", r) for name, r in zip(looks, requests, strict=True)]

    before = await seen()
    for _ in range(3):
        await company.batch("BatchService/GetBatch")
    assert await seen() == before
    listed = await company.users["stranger"].call(
        "ListBatches", company.request("BatchService/ListBatches", "stranger", 0)
    )
    assert not listed.batches


async def test_another_workers_attempt_is_like_one_that_is_not_there(company: Company) -> None:
    _, company.tokens["worker"] = await company.service.activate()
    answers = []
    for attempt_id in (company.attempt_id, "0" * 32):
        request = worker_pb.PushLogsRequest(attempt_id=attempt_id, container=types.CONTAINER_MAIN)
        code, words = await company.ask("WorkerService/PushLogs", "worker", request)
        answers.append((code, words.replace(attempt_id, "ID")))
    assert answers[0] == answers[1]
    assert answers[0][0] == HIDDEN


_BATCHES, _ADMIN = "/longshore_api.v1.BatchService/", "/longshore_api.v1.AdminService/"
PLANTED: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "everybody sees everything": (
        "BatchService/GetBatch", lambda p: p.setattr(Viewer, "sees", lambda *_: True)
    ),
    "members do not see": (
        "BatchService/WatchBatch", lambda p: p.setattr(Viewer, "sees", lambda v, user, _: user == v.name)
    ),
    "members end batches": (
        "BatchService/CancelBatch",
        lambda p: p.setattr(Viewer, "ends", lambda v, user, project: project in v.projects),
    ),
    "members fill batches": (
        "BatchService/CloseBatch", lambda p: p.setitem(METHOD_POLICY, _BATCHES + "CloseBatch", May.SEE)
    ),
    "everybody lists users": (
        "AdminService/ListUsers", lambda p: p.setitem(METHOD_POLICY, _ADMIN + "ListUsers", May.ASK)
    ),
    "admins pay with any project": (
        "BatchService/CreateBatch",
        lambda p: p.setattr(Directory, "member_role", lambda *_: MemberRole.MEMBER),
    ),
    "members set limits": (
        "BillingService/SetProject",
        lambda p: p.setattr(BillingService, "_manageable", BillingService._visible),
    ),
    "no token ends": ("AuthService/GetSession", lambda p: p.setattr(TokenRow, "is_good", lambda *_: True)),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
async def test_a_planted_bug_is_found(company: Company, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    name, plant = PLANTED[bug]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        await test_each_role_is_answered_as_the_table_says(company, name)


async def test_a_planted_leak_of_existence_is_found(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Visible.batch

    async def leaking(visible: Visible, batch_id: int, **how: Any) -> Any:
        try:
            return await real(visible, batch_id, **how)
        except Refusal as refusal:
            if await asyncio.to_thread(visible._store.batch, batch_id) is None:
                raise
            raise Refusal(refusal.kind, refusal.message + " for you") from None

    monkeypatch.setattr(Visible, "batch", leaking)
    with pytest.raises(AssertionError):
        await test_what_is_hidden_is_answered_like_what_is_not_there(company, "BatchService/GetBatch")
