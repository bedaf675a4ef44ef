"""Whatever is sent to whatever method, the answer is one of the closed set, and a refusal leaves no row.

Requests are made of the descriptors of all services, so that a new method or field is tried, too:
hostile values, values that mean something here, and bytes that are no message. ``make fuzz`` sends more.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from integration.controller.service import Running, config_of, job, running
from longshore_controller.__main__ import SERVICES
from longshore_controller.errors import STATUS

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "2000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
AT_ONCE = 16
ANSWER_S = 0.03
"""For what a stream has to say."""
MEMORY_BYTES = 150 << 20
"""That this process, with the service and whoever asks in it, may grow by."""
TEXTS = (
    "", "a", "tides", "../../etc/passwd", "'; DROP TABLE batch; --", "$(reboot)", "%s%n", "{}", "\0",
    "\x1b]0;x\x07", "\u202eevil", "😀" * 40, "state:failure", "state:", "(((((", '"', "-", "x OR (",
    'name=~"(a+)+$"', "1 OR 1=1",
    "http://169.254.169.254/", "/io", "/io/../x", "/tmp/x", "bash", "a" * 5_000, "9" * 400,
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 5, 50, 1_000, 1_001, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
WIDTH = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
ANSWERS = {code.name for code in STATUS.values()} | {"OK", "CANCELLED", "UNIMPLEMENTED"}


class Method(NamedTuple):
    name: str
    descriptor: MethodDescriptor

    @property
    def of_worker(self) -> bool:
        return ".WorkerService/" in self.name


METHODS = [Method(f"/{service.full_name}/{m.name}", m) for service in SERVICES for m in service.methods]


class Fuzz:
    """Requests of one seed."""

    def __init__(self, seed: int, words: list[str]) -> None:
        self.rng = Random(seed)
        self._words = words
        """Texts that mean something to this service."""

    def request(self, method: Method) -> bytes:
        rng = self.rng
        made = self.message(method.descriptor.input_type).SerializeToString()
        if rng.random() < 0.1:
            at = rng.randrange(len(made) + 1)
            made = made[:at] + rng.randbytes(rng.choice([1, 3, 30])) + made[at + rng.choice([0, 1]) :]
        return made

    def message(self, kind: Descriptor, depth: int = 0) -> Message:
        message = GetMessageClass(kind)()
        for field in kind.fields:
            if self.rng.random() < (0.65 if depth < 4 else 0.2):
                self._fill(message, field, depth)
        return message

    def _fill(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        rng, held = self.rng, getattr(message, field.name)
        n = rng.choice([1, 1, 1, 2, 3, 40])
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            for _ in range(n):
                if value.message_type is None:
                    held[self._value(key)] = self._value(value)
        elif field.is_repeated and field.message_type is not None:
            held.extend(self.message(field.message_type, depth + 1) for _ in range(n))
        elif field.is_repeated:
            held.extend(self._value(field) for _ in range(n))
        elif field.message_type is not None:
            held.CopyFrom(self.message(field.message_type, depth + 1))
        else:
            setattr(message, field.name, self._value(field))

    def _value(self, field: FieldDescriptor) -> Any:
        rng = self.rng
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.choice([0, 1, 32, 5_000]))
            case FieldDescriptor.CPPTYPE_STRING:
                return rng.choice(self._words if rng.random() < 0.5 else TEXTS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return rng.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return rng.choice([0, 1, 2, 3, 7, 99, -1])
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return rng.choice([0.0, -1.0, 1e300, float("nan"), float("inf")])
        low, high = WIDTH[field.cpp_type]
        number = rng.choice(NUMBERS[:5] if rng.random() < 0.6 else NUMBERS)
        return max(low, min(high, -number if rng.random() < 0.1 else number))


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    async with running(config_of(tmp_path)) as service:
        # Else it revokes the token with which it asks, and is answered nothing but that.
        monkeypatch.setattr(service.store, "revoke_tokens", lambda *_: 0)
        yield service


class Caller:
    """Sends bytes, and says with which status they were answered."""

    def __init__(self, service: Running, token: str, worker_token: str) -> None:
        self._channel = service.channel
        self._of = {False: _bearer(token), True: _bearer(worker_token)}

    async def send(self, method: Method, *requests: bytes) -> str:
        descriptor, metadata = method.descriptor, self._of[method.of_worker]
        kind: Callable[..., Any] = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }[descriptor.client_streaming, descriptor.server_streaming]
        sent: Any = _stream(requests) if descriptor.client_streaming else requests[0]
        call: Any = kind(method.name)(sent, metadata=metadata, timeout=10)
        try:
            if not descriptor.server_streaming:
                await call
            else:
                async with asyncio.timeout(ANSWER_S):
                    async for _ in call:
                        pass
        except TimeoutError:
            call.cancel()
        except aio.AioRpcError as error:
            assert error.details() or method.name.startswith("/grpc."), (method.name, requests)
        # What this client says of a stream that was ended while it was still sending to it.
        if await call.details() == "Internal error from Core":
            return "CANCELLED"
        return str((await call.code()).name)


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def _stream(requests: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


async def some_batches(service: Running) -> list[str]:
    """Complete, open, running, somebody else's; the words that name what is theirs."""
    ada, eve = service.ada, service.user("eve")
    async with service.worker(cores=1) as workerd:
        await ada.create(1, "done", jobs=[job()])
        (run,) = await workerd.assigned()
        await workerd.push((run.attempt_id, 0, b"hello\n"))
        await workerd.run_to_end(run.attempt_id, log_bytes=6)
        await ada.create(3, "open")
        await eve.create(2, "hers", jobs=[job(), job(parents=[1])])
        await ada.create(2, "waits", jobs=[job(), job()])
    return [run.attempt_id, "done", "open", "waits", "test", "ada", "eve"]


def rows_of(service: Running) -> dict[str, int]:
    """How many rows each table has, but for what is kept of refusals."""
    with service.store._db.reading() as db:
        sql = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = [name for (name,) in service.store._db.rows(db, sql)]
        counted = [name for name in tables if not re.search("audit|denial|sqlite|migr", name)]
        return {name: service.store._db.rows(db, f"SELECT COUNT(*) FROM {name}")[0][0] for name in counted}


def memory() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]


async def test_no_request_is_answered_with_a_defect(service: Running) -> None:
    fuzz = Fuzz(SEED, await some_batches(service))
    caller = Caller(service, *await tokens(service))
    answered: Counter[tuple[str, str]] = Counter()

    async def ask(requests: Iterator[tuple[Method, list[bytes]]]) -> None:
        for method, sent in requests:
            code = await caller.send(method, *sent)
            answered[method.name, code] += 1
            assert code in ANSWERS, (method.name, code, sent)

    requests = ((m, [fuzz.request(m) for _ in range(fuzz.rng.choice([1, 2]))]) for m in kinds(fuzz))
    await ask(requests_of(requests, 200))
    before = memory()
    shared = requests_of(requests, REQUESTS)
    await asyncio.gather(*(ask(shared) for _ in range(AT_ONCE)))
    assert memory() - before < MEMORY_BYTES
    assert not service.loop.done()
    assert {name for name, _ in answered} == {method.name for method in METHODS}
    assert len({code for _, code in answered}) >= 5, answered


async def test_what_is_refused_leaves_no_row(service: Running) -> None:
    fuzz = Fuzz(SEED + 1, await some_batches(service))
    caller = Caller(service, *await tokens(service))
    changing = [m for m in METHODS if not re.search("Get|List|Watch|Read|Search|Connect|Health", m.name)]
    n_refused = 0
    for i in range(REQUESTS // 4):
        method = changing[i % len(changing)]
        before = rows_of(service)
        request = fuzz.request(method)
        if await caller.send(method, request) != "OK":
            n_refused += 1
            assert rows_of(service) == before, (method.name, request)
    assert n_refused > REQUESTS // 10


async def tokens(service: Running) -> tuple[str, str]:
    token = Path(service.config.service.owner_token_file).read_text().strip()
    return token, (await service.activate())[1]


def kinds(fuzz: Fuzz) -> Iterator[Method]:
    while True:
        yield from METHODS


def requests_of(
    requests: Iterator[tuple[Method, list[bytes]]], n: int
) -> Iterator[tuple[Method, list[bytes]]]:
    for _ in range(n):
        yield next(requests)
