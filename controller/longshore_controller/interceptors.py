"""At the door: who is calling, may they, what they are told when it goes wrong, one log line per call.

A method that `METHOD_POLICY` does not name is not served at all: `check_policy` sees to it at the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from longshore_controller.core.model import Refusal, RefusalKind, Viewer
from longshore_controller.core.rows import AuditRow
from longshore_controller.errors import status_of
from longshore_controller.store import Store, StoreUnavailable, deed, id_of

REMEMBER_S = 5.0
"""What a token is good for is looked up again after so long, also for who listens: whoever may no longer
see something is told no more of it with the first message after that."""
REMEMBERED = 10_000
"""Tokens; when there are more, all are looked up again."""

REQUEST_ID = "longshore-request-id"
"""In the metadata after an error; the log line of the call has the same."""

log = logging.getLogger("longshore_controller.rpc")


class Role(Enum):
    ANYONE = "anyone"
    USER = "user"
    WORKER = "worker"


class May(Enum):
    """What a method asks of its caller. About which batch or project is asked where that is looked up."""

    ANYONE = "needs nobody's name"
    ASK = "any user: about themself, and for lists of what they may see"
    OWN = "any user, about their own tokens, with one that is good for all"
    CREATE = "a member of the billing project that it names"
    SEE = "the batch's creator, members of its billing project, admins; for others it does not exist"
    FILL = "the batch's creator"
    END = "the batch's creator, owners of its billing project, admins"
    MANAGE = "owners of the billing project, admins"
    ADMIN = "admins"
    WORK = "a worker, for its own attempts"

    @property
    def role(self) -> Role:
        return {May.ANYONE: Role.ANYONE, May.WORK: Role.WORKER}.get(self, Role.USER)


class Scope(IntEnum):
    """What a token is good for, of what its user may do."""

    READ = 1
    SUBMIT = 2
    ALL = 3


_SCOPES = {May.ASK: Scope.READ, May.SEE: Scope.READ} | dict.fromkeys(
    (May.CREATE, May.FILL, May.END), Scope.SUBMIT
)


class Principal(NamedTuple):
    """Whoever calls: a user by name, a worker by id."""

    role: Role
    name: str
    viewer: Viewer = Viewer("")
    scope: Scope = Scope.ALL
    token_id: str = ""


_BATCHES = "/longshore_api.v1.BatchService/"
_WORKERS = "/longshore_api.v1.WorkerService/"
_AUTH = "/longshore_api.v1.AuthService/"
_ADMIN = "/longshore_api.v1.AdminService/"
_BILLING = "/longshore_api.v1.BillingService/"

METHOD_POLICY = {
    "/longshore_api.v1.AuthService/GetSession": May.ASK,
    "/longshore_api.v1.AuthService/WatchSession": May.ASK,
    _AUTH + "BeginLogin": May.ANYONE,
    _AUTH + "FinishLogin": May.ANYONE,
    _AUTH + "AddToken": May.OWN,
    _AUTH + "ListTokens": May.OWN,
    _AUTH + "RevokeTokens": May.OWN,
    _BATCHES + "CreateBatch": May.CREATE,
    _BATCHES + "SubmitJobs": May.FILL,
    _BATCHES + "CloseBatch": May.FILL,
    _BATCHES + "UpdateBatch": May.FILL,
    _BATCHES + "CancelBatch": May.END,
    _BATCHES + "DeleteBatch": May.END,
    _BATCHES + "UndeleteBatch": May.END,
    _BATCHES + "EndAttempt": May.END,
    _BATCHES + "GetBatch": May.SEE,
    _BATCHES + "GetBatchHistory": May.SEE,
    _BATCHES + "ListBatches": May.ASK,
    _BATCHES + "GetJob": May.SEE,
    _BATCHES + "ListJobs": May.SEE,
    _BATCHES + "FailureGroups": May.SEE,
    _BATCHES + "CompleteQuery": May.SEE,
    _BATCHES + "WatchBatch": May.SEE,
    _BATCHES + "WatchEvents": May.SEE,
    _BATCHES + "WatchBatches": May.ASK,
    _BATCHES + "WatchJobs": May.SEE,
    _BATCHES + "WatchJob": May.SEE,
    _BATCHES + "Explain": May.SEE,
    _BATCHES + "ReadLog": May.SEE,
    _BATCHES + "SearchLog": May.SEE,
    _ADMIN + "Freeze": May.ADMIN,
    _ADMIN + "Thaw": May.ADMIN,
    _ADMIN + "GetServiceStatus": May.ADMIN,
    _ADMIN + "ListWorkers": May.ADMIN,
    _ADMIN + "GetWorker": May.ADMIN,
    _ADMIN + "DrainWorker": May.ADMIN,
    _ADMIN + "UndrainWorker": May.ADMIN,
    _ADMIN + "InviteUser": May.ADMIN,
    _ADMIN + "ListUsers": May.ADMIN,
    _ADMIN + "UpdateUser": May.ADMIN,
    _ADMIN + "ListAudit": May.ADMIN,
    _BILLING + "ListProjects": May.ASK,
    _BILLING + "GetProject": May.ASK,
    _BILLING + "CreateProject": May.ADMIN,
    _BILLING + "SetProject": May.MANAGE,
    _BILLING + "SetMember": May.MANAGE,
    _BILLING + "RemoveMember": May.MANAGE,
    _BILLING + "GetCosts": May.ASK,
    _BILLING + "ListRates": May.ASK,
    _BILLING + "SetRates": May.ADMIN,
    _WORKERS + "Activate": May.ANYONE,
    _WORKERS + "Connect": May.WORK,
    _WORKERS + "PushLogs": May.WORK,
    "/grpc.health.v1.Health/Check": May.ANYONE,
    "/grpc.health.v1.Health/List": May.ANYONE,
    "/grpc.health.v1.Health/Watch": May.ANYONE,
}
"""Who may call what. Of a batch it is asked by `Visible`, which every method looks it up with."""

_TOLD = frozenset(
    service + name
    for service, names in (
        (
            _BATCHES,
            "CreateBatch SubmitJobs CloseBatch UpdateBatch CancelBatch DeleteBatch UndeleteBatch EndAttempt",
        ),
        (_ADMIN, "Freeze Thaw DrainWorker UndrainWorker"),
        (_BILLING, "CreateProject SetProject SetMember RemoveMember SetRates"),
        (_WORKERS, "Activate"),
    )
    for name in names.split()
)
"""What changes something is logged; everything else only when it fails: looking is most of what is done."""

_LOOKS = ("Get", "List", "Watch", "Read", "Search", "Check", "Begin", "Estimate", "Explain", "Complete")
"""Methods whose names begin so change nothing; all others are deeds, if they have an effect."""
_REFUSED = (
    grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND
)  # fmt: skip
REFUSALS_EVERY_S = 10.0
"""Between two writings of refusals; what a controller that is killed counted since is lost."""
REFUSALS_MOST = 20
"""Of different kinds that are written apart at once: a flood of them does not fill the disk."""

_caller: ContextVar[Principal] = ContextVar("caller")
_right: ContextVar[May] = ContextVar("right")
_about: ContextVar[list[int]] = ContextVar("about")
"""The batch that was asked for last, if any."""


def caller() -> str:
    """Whoever made the call that is being answered: the user's name or the worker's id."""
    return _caller.get().name


def viewer() -> Viewer:
    """The user whose call is being answered, and what they may see."""
    return _caller.get().viewer


def right() -> May:
    """What the method that is being answered asks of its caller."""
    return _right.get()


def token_id() -> str:
    """Of the token with which it is called."""
    return _caller.get().token_id


def scope() -> Scope:
    """Of that token."""
    return _caller.get().scope


def note_batch(batch_id: int) -> None:
    """The call that is being answered is about this one: for the audit of its refusal."""
    if (about := _about.get(None)) is not None:
        about[:] = [batch_id]


def act_as(user: str) -> None:
    """Whoever called without a name turned out to be this user: what follows is their deed."""
    if (done := deed.get()) is not None:
        deed.set(done._replace(actor=user, role=Role.USER.value))


def hash_of(token: str) -> bytes:
    """All of a token that is ever stored."""
    return hashlib.sha256(token.encode()).digest()


def check_policy(services: Iterable[ServiceDescriptor]) -> None:
    """RuntimeError unless the policy names exactly the methods of these services."""
    methods = {f"/{s.full_name}/{m.name}" for s in services for m in s.methods}
    if wrong := methods ^ METHOD_POLICY.keys():
        raise RuntimeError(f"METHOD_POLICY and the services differ in {', '.join(sorted(wrong))}")


class Refusals:
    """Refused calls, counted until they are written: many that are alike are one row."""

    def __init__(self, store: Store, now_ms: Callable[[], int]) -> None:
        self._store = store
        self.now_ms = now_ms
        self._rows: dict[AuditRow, int] = {}

    def add(self, row: AuditRow) -> None:
        alike = row._replace(at_ms=0, request_id="")
        if alike not in self._rows and len(self._rows) >= REFUSALS_MOST:
            # Too many kinds: only by whom, and of those as many again.
            alike = alike._replace(batch_id=None, method="", peer="")
            if alike not in self._rows and len(self._rows) >= 2 * REFUSALS_MOST:
                alike = alike._replace(actor="", role="", token_id="")
        self._rows[alike] = self._rows.get(alike, 0) + 1

    async def run(self) -> None:
        """Write them down, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(REFUSALS_EVERY_S)
                await self.write()
        finally:
            await self.write()

    async def write(self) -> None:
        counted, self._rows = self._rows, {}
        rows = [row._replace(at_ms=self.now_ms(), times=n) for row, n in counted.items()]
        try:
            if rows:
                await asyncio.to_thread(self._store.add_refusals, rows)
        except StoreUnavailable as away:
            log.warning("%d kinds of refusals are not in the audit: %s", len(rows), away)


class Tokens:
    """Who a token belongs to, remembered for a short while."""

    def __init__(self, store: Store, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._known: dict[bytes, tuple[float, Principal]] = {}

    async def principal(self, token: str) -> Principal | None:
        """None: nobody's, or no longer good."""
        key, now = hash_of(token), time.monotonic()
        if (found := self._known.get(key)) and found[0] > now:
            return found[1]
        principal = await asyncio.to_thread(self._look_up, key)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        if principal is not None:
            self._known[key] = now + REMEMBER_S, principal
        else:
            self._known.pop(key, None)
        return principal

    def forget(self) -> None:
        """What anybody may do has changed: it is looked up again with their next calls."""
        self._known.clear()

    def _look_up(self, key: bytes) -> Principal | None:
        if (holder := self._store.holder(key, self._now_ms())) is not None:
            token, viewer = holder
            return Principal(Role.USER, viewer.name, viewer, Scope(token.scope), token.token_id)
        if (worker := self._store.worker_of_token(key)) is not None:
            return Principal(Role.WORKER, worker, token_id=id_of(key))
        return None


class _Unreadable(NamedTuple):
    """Stands for a request that is no message of its type."""

    why: str


Context = aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]


class Doorkeeper(aio.ServerInterceptor):
    """Stands before every method of the server."""

    def __init__(self, tokens: Tokens, refusals: Refusals) -> None:
        self._tokens = tokens
        self._refusals = refusals
        self._guarded: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        if method not in self._guarded:
            handler = await continuation(handler_call_details)
            if handler is None or method not in METHOD_POLICY:
                return None
            self._guarded[method] = self._guard(method, handler)
        return self._guarded[method]

    def _guard(self, method: str, handler: Any) -> Handler:
        behaviour = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )

        async def answer(request: Any, context: Context) -> Any:
            async def act() -> Any:
                if isinstance(request, _Unreadable):
                    raise Refusal(RefusalKind.INVALID_ARGUMENT, f"the request cannot be read: {request.why}")
                requests = _readable(request) if handler.request_streaming else request
                answered = behaviour(requests, context)
                if not inspect.isasyncgen(answered):
                    return await answered
                checked = time.monotonic() + REMEMBER_S
                async with aclosing(answered):
                    async for response in answered:
                        if time.monotonic() > checked:
                            await self._check_again(context)
                            checked = time.monotonic() + REMEMBER_S
                        await context.write(response)

            return await self._call(method, context, act)

        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        kind: Any = kinds[handler.request_streaming, handler.response_streaming]
        made: Handler = kind(
            answer, _deserializer(handler.request_deserializer), _serializer(handler.response_serializer)
        )
        return made

    async def _call(self, method: str, context: Context, act: Callable[[], Awaitable[Any]]) -> Any:
        request_id = secrets.token_hex(8)
        started = time.monotonic()
        principal: Principal | None = None
        code = grpc.StatusCode.OK
        short, about = method.rpartition(".")[2], list[int]()
        try:
            policy = METHOD_POLICY[method]
            _about.set(about)
            principal = await self._admit(policy, context)
            _right.set(policy)
            if not short.rpartition("/")[2].startswith(_LOOKS):
                at_ms = self._refusals.now_ms()
                deed.set(_deed(principal, short, context, request_id, at_ms))
            return await act()
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except aio.AbortError:
            code = context.code()
            raise
        except Exception as error:
            code, words = status_of(error, request_id)
            if code is grpc.StatusCode.INTERNAL:
                log.exception("a call failed", extra={"method": method, "request_id": request_id})
            if code in _REFUSED:
                batch_id = about[0] if about and about[0] < 2**63 else None
                refused = _caller.get(Principal(Role.ANYONE, ""))
                row = _deed(refused, short, context, request_id, 0)
                self._refusals.add(row._replace(batch_id=batch_id, outcome=code.name))
            await context.abort(code, words, ((REQUEST_ID, request_id),))
        finally:
            quiet = code is grpc.StatusCode.OK and method not in _TOLD
            log.log(
                logging.DEBUG if quiet else logging.INFO,
                "rpc",
                extra={
                    "method": method,
                    "caller": f"{principal.role.value} {principal.name}".strip() if principal else "",
                    "code": getattr(code, "name", code),
                    "ms": round((time.monotonic() - started) * 1000, 1),
                    "request_id": request_id,
                },
            )

    async def _admit(self, policy: May, context: Context) -> Principal:
        allowed = policy.role
        if allowed is Role.ANYONE:
            nobody = Principal(Role.ANYONE, "")
            _caller.set(nobody)
            return nobody
        token = _token_of(context)
        principal = await self._tokens.principal(token) if token else None
        if principal is None:
            said = "unknown, or no longer good: log in again" if token else "missing"
            raise Refusal(
                RefusalKind.UNAUTHENTICATED, f"the token is {said}: send `authorization: Bearer TOKEN`"
            )
        _caller.set(principal)
        if principal.role is not allowed:
            raise Refusal(
                RefusalKind.PERMISSION_DENIED,
                f"this is for {allowed.value}s, and the token is a {principal.role.value}'s",
            )
        if principal.scope < _SCOPES.get(policy, Scope.ALL):
            scope = principal.scope.name.lower()
            raise Refusal(
                RefusalKind.PERMISSION_DENIED, f"this token is for scope {scope!r} only; use another"
            )
        if policy is May.ADMIN and not principal.viewer.admin:
            raise Refusal(RefusalKind.PERMISSION_DENIED, "this is for admins; ask one of them")
        return principal

    async def _check_again(self, context: Context) -> None:
        """Whoever listens for long is still who they were, and may still see what they saw."""
        before = _caller.get()
        if before.role is not Role.USER:
            return
        now = await self._tokens.principal(_token_of(context))
        if now is None:
            raise Refusal(RefusalKind.UNAUTHENTICATED, "the token is no longer good: log in again")
        if now.viewer != before.viewer:
            raise Refusal(RefusalKind.UNAVAILABLE, "what you may see has changed; call again")


def _deed(principal: Principal, method: str, context: Context, request_id: str, at_ms: int) -> AuditRow:
    role = "admin" if principal.viewer.admin else principal.role.value
    peer = context.peer().rpartition(":")[0].removeprefix("ipv4:").removeprefix("ipv6:")
    return AuditRow(at_ms, principal.name, role, principal.token_id, peer, method, request_id=request_id)


def _token_of(context: Context) -> str:
    metadata = dict(context.invocation_metadata() or ())
    scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _deserializer(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """gRPC would answer bytes that are no message with UNKNOWN and a traceback."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception as error:
            return _Unreadable(str(error))

    return read


def _serializer(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """What is told to many is written once: then it is bytes already."""
    return lambda message: message if isinstance(message, bytes) else serialize(message)


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, _Unreadable):
            raise Refusal(RefusalKind.INVALID_ARGUMENT, f"the request cannot be read: {request.why}")
        yield request
