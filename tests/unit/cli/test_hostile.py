"""Nothing that others wrote can steer a terminal, whatever is asked for.

Their texts are in every field that the service tells. With NO_COLOR nothing but `wait` and `watch`, which
draw anew, has a reason to write a control character.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from command_line import Run
from fakes_service import TOKEN, FakeBatch, FakeJob, FakeService
from hypothesis import given
from hypothesis import strategies as st
from longshore.cli.verbs import VERBS
from longshore.terminal import clean
from longshore_api.v1 import admin_service_pb2 as admin_pb
from longshore_api.v1 import auth_service_pb2 as auth_pb
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_api.v1 import billing_service_pb2 as billing_pb
from longshore_api.v1 import types_pb2 as types

Show = Callable[..., str]

ATTACKS = [
    *("\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\x1b]52;c;cm0gLXJm\x1b\\", "\x1b[31m", "\x1b[6n", "\x1bc"),
    *(
        "\x1b[?1049h",
        "\x1b]8;;http://x\x1b\\y\x1b]8;;\x1b\\",
        "\x1bP+q\x1b\\",
        "\x9b2J",
        "\x9d0;x\x9c",
        "\r$ ",
    ),
    *("a\bb", "\x0e", "\x7f", "\u202egpj.exe", "\u2066x\u2069", "\u200b", "\ufeff", "\u061c", "\u2028"),
    *("\U000e0041", "[red]x[/]", "%n{x}"),
]
CONTROLS = [chr(each) for each in (*range(1, 32), *range(0x7F, 0xA0))]


def _strings() -> list[str]:
    """A hundred of them, the same each time."""
    rng = random.Random(22)
    made = [f"h{i}{rng.choice(ATTACKS)}{rng.choice(CONTROLS)}é" for i in range(100)]
    for i, attack in enumerate([*ATTACKS, *CONTROLS]):
        made[i % 100] += attack
    return made


STRINGS = _strings()
N = 10
"""Objects that carry them, ten each."""


class Hostile(FakeService):
    """Says them wherever it may say a text."""

    def text(self, i: int) -> str:
        return " ".join(STRINGS[i % N * 10 : i % N * 10 + 10])

    def GetSession(
        self, request: auth_pb.GetSessionRequest, context: grpc.ServicerContext
    ) -> auth_pb.Session:
        session = super().GetSession(request, context)
        session.user, session.version, session.default_image = self.text(1), self.text(2), self.text(3)
        session.notices.append(self.text(4))
        return session

    def GetBatch(self, request: pb.GetBatchRequest, context: grpc.ServicerContext) -> types.Batch:
        if request.batch_id >= 1000:
            context.abort(grpc.StatusCode.NOT_FOUND, self.text(request.batch_id))
        return super().GetBatch(request, context)

    def _batch_message(self, batch: Any) -> types.Batch:
        message = super()._batch_message(batch)
        text = self.text(batch.batch_id)
        message.attributes[text] = text
        message.user = message.cancelled_by = message.cancel_reason = message.billing_project = text
        return message

    def _job_message(
        self, batch: Any, job: Any, *, whole: bool = False, with_spec: bool = False
    ) -> types.Job:
        message = super()._job_message(batch, job, whole=whole, with_spec=with_spec)
        text = self.text(batch.batch_id)
        message.reason = text if batch.batch_id % 2 or batch.batch_id > N else ""
        message.attributes[text] = text
        for attempt in message.attempts:
            attempt.message = attempt.worker_id = text
            for container in attempt.containers:
                container.image = container.error = text
        return message


@pytest.fixture
def service(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    with Hostile(folders / "service", runs_jobs=False) as service:
        monkeypatch.setenv("LONGSHORE_ENDPOINT", service.endpoint)
        monkeypatch.setenv("LONGSHORE_TOKEN", TOKEN)
        monkeypatch.setenv("NO_COLOR", "1")
        service.fleet.users["x"] = admin_pb.User(name=service.text(5), email=service.text(6), issuer="i")
        service.fleet.audit[0].actor = service.fleet.audit[0].object = service.text(7)
        service.tokens[b"t"] = auth_pb.Token(token_id="t", name=service.text(8))
        service.fleet.leaves_in = 5
        service.reasons = [
            pb.Reason(code="h", text=f"h{service.text(i)}", fix=service.text(i)) for i in range(N)
        ]
        service.fleet.admin = service.fleet.user = service.text(6)
        _hostile_money(service)
        for worker in service.fleet.workers.values():
            worker.name = worker.runtime = service.text(5)
        for i in range(N):
            _add(service, [service.text(i + 1)] * 2)
        _add(service, STRINGS)
        yield service


def _hostile_money(service: Hostile) -> None:
    text = service.text(7)
    member = billing_pb.Member(user=text, role=billing_pb.MEMBER_ROLE_OWNER)
    service.billing.projects["test"] = billing_pb.Project(name=text, limit_nanousd=5, members=[member])
    service.billing.cards[0] = billing_pb.RateCard(prices={"h\x1b[2Jh": "1"})
    service.billing.costs = [billing_pb.Cost(project=text, user=text, resource=text, nanousd=1)]


def _add(service: FakeService, names: list[str]) -> None:
    """A batch that has failed, of jobs with these names."""
    batch_id = len(service.batches) + 1
    batch = FakeBatch(batch_id, pb.CreateBatchRequest(n_jobs=len(names)), closed=True)
    batch.request.attributes["name"] = names[0]
    for job_id, name in enumerate(names, start=1):
        spec = types.JobSpec(
            name=name, command=[name], image=name, parents=[job_id - 1] if job_id > 1 else []
        )
        spec.env[name] = name
        spec.input_files.add(source=name, destination=name)
        batch.jobs[job_id] = FakeJob(spec, job_id)
    service.batches[batch_id] = batch
    for job_id, name in enumerate(names, start=1):
        service.finish(batch_id, job_id, exit_code=1, log=f"{name}\r\n{name}".encode() + b"\xff\x9b2J")


OF_EACH = [
    *("get {}", "get {}/1", "get {} -o yaml", "get {}/1 -o json", "get 100{}", "cancel {}"),
    *("jobs {}", "jobs {} -o wide", "jobs {} -o csv", "tree {}", "spec {}/1", "spec {}/1 -o json"),
    *("logs {}/1", "logs {}/1 -c all", "logs {}/1 --grep h", "attempts {}/1", "attempts {}/1 -o wide"),
    *(
        "why {}",
        "why {}/1",
        "why {}/1 -o yaml",
        "failures {}",
        "failures {} -o wide",
        "wait {}",
        "wait {}/1",
        "watch {}",
    ),
]
OF_ALL = [
    *("ls", "ls -o wide", "ls -o csv", "ls -o yaml", "ls -o jsonl", "jobs 11", "jobs 11 -o jsonl"),
    *("failures 11", "tree 11", "tree 11 --all", "get name", "whoami", "auth user -o yaml", "version"),
    *("doctor", "config show", "login", "delete 1-3 --yes", "open last", "run -d -- true", "logout"),
    *("workers ls", "workers ls -o csv", "workers drain w-1", "workers show w-1", "workers show w-1 -o yaml"),
    *("admin users ls", "admin users ls -o csv", "admin audit", "admin audit -o yaml", "history 11"),
    *("auth tokens", "auth tokens -o csv", "admin users suspend nobody", "auth token revoke nothing"),
    *("admin freeze", "admin status -o json", "admin status"),
    *(
        "undelete 1",
        "rerun 5 --failed --yes",
        f"retry 4/1 --attempt {'a' * 32}",
        "cancel 4 --yes --reason x",
        "completion bash",
        "submit nowhere.py",
        "ui",
        "up --cores x",
    ),
    *("cost 1", "cost 1 -o csv", "cost 1 --by job", "cost 1 --by attempt", "cost 1/1", "billing ls"),
    *("billing ls -o yaml", "billing show test", "billing members test", "billing usage --by project,user"),
    *("billing usage --by resource -o csv", "billing rates", "billing show test -o json"),
    *("estimate --duration 1h", "billing show none", "billing add test ann"),
    *("cancel 4 --yes --reason x", "completion bash", "submit nowhere.py", "ui", "up --cores x"),
]
DRAWN = re.compile(r"\x1b\[\?25h\r?|\r(?=\x1b\[2K)|\x1b\[(\?25l|2K|1A|[012]m)")
"""What rich writes to draw lines anew, bold and dim."""


def harmless(seen: str) -> bool:
    return seen.replace("\n", "").replace("\t", "").isprintable()


def test_no_verb_lets_anything_through_to_a_terminal(service: FakeService, show: Show) -> None:
    for i in range(1, N + 1):
        for command in OF_EACH:
            seen = show(*command.format(i).split())
            if command.startswith(("watch", "wait")):
                seen = DRAWN.sub("", seen)
            assert seen and harmless(seen), f"{command}: {seen!r}"
            assert "h" in seen
    for command in OF_ALL:
        assert harmless(show(*command.split())), command
    tried = {command.split()[0] for command in (*OF_EACH, *OF_ALL)}
    assert tried >= {name for verbs in VERBS.values() for name in verbs}


def test_a_pipe_gets_the_very_bytes_of_a_log_and_nothing_else_raw(service: FakeService, run: Run) -> None:
    for i in range(1, N + 1):
        log = service.batches[i].jobs[1].logs[2]
        assert run("logs", f"{i}/1").out == log
        for command in OF_EACH:
            if not command.startswith("logs"):
                ran = run(*command.format(i).split())
                assert harmless(ran.out.decode()) and harmless(ran.err), command


@given(st.text())
def test_clean_text_is_printable_but_for_line_ends_and_tabs(text: str) -> None:
    assert not set(clean(text)) & {
        *map(chr, range(9)),
        *map(chr, range(11, 32)),
        *map(chr, range(0x7F, 0xA0)),
    }
    assert clean(clean(text)) == clean(text)
