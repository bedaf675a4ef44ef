"""Who sees what: creators, members of billing projects, admins, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from integration.controller.service import Running, User, config_of, job, running
from integration.controller.test_users import read, refused
from longshore_api.v1 import batch_service_pb2 as pb
from longshore_controller import interceptors
from longshore_controller.core.model import MemberRole

CODE = grpc.StatusCode


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Running]:
    """A service of many: ada is its admin, bob and cat are members of `lab`, olga owns it, eve is nobody."""
    config = config_of(tmp_path)
    config = replace(config, service=replace(config.service, embedded=False))
    async with running(config) as service:
        yield service


def people(service: Running) -> dict[str, User]:
    made = {name: service.user(name) for name in ("bob", "cat", "olga", "eve")}
    service.store.found_project("lab", "olga")
    for name in ("bob", "cat"):
        service.store.set_member("lab", name, MemberRole.MEMBER)
    for user in made.values():
        user.project = "lab"
    return made | {"ada": service.ada}


async def test_members_see_a_batch_its_creator_fills_it_owners_and_admins_end_it(shared: Running) -> None:
    who = people(shared)
    batch_id = await who["bob"].create(1)
    for name in ("bob", "cat", "olga", "ada"):
        assert (await who[name].batch(batch_id)).user == "bob"
    for name in ("cat", "olga", "ada"):
        code, words = await refused(who[name].add(batch_id, job()))
        assert (code, words) == (
            CODE.PERMISSION_DENIED,
            f"batch {batch_id} is bob's, who alone may add jobs to it",
        )
        assert (await refused(who[name].close(batch_id)))[0] is CODE.PERMISSION_DENIED
    await who["bob"].add(batch_id, job())
    await who["bob"].close(batch_id)
    assert await refused(who["cat"].cancel(batch_id)) == (
        CODE.PERMISSION_DENIED,
        f"batch {batch_id} is bob's; ask them, or an owner of lab",
    )
    assert (await refused(who["cat"].delete(batch_id)))[0] is CODE.PERMISSION_DENIED
    await who["olga"].cancel(batch_id)
    assert (await who["bob"].batch(batch_id)).cancelled_by == "olga"
    await who["ada"].delete(batch_id)
    for user in who.values():
        assert await refused(user.batch(batch_id)) == (CODE.NOT_FOUND, f"there is no batch {batch_id}")


async def test_who_is_no_member_hears_the_same_whether_a_project_exists(shared: Running) -> None:
    who = people(shared)
    theirs = await refused(who["eve"].create(0, billing_project="lab"))
    missing = await refused(who["eve"].create(0, billing_project="bal"))
    assert theirs[0] is missing[0] is CODE.PERMISSION_DENIED
    assert theirs[1].replace("lab", "bal") == missing[1]
    assert (await refused(who["ada"].create(0, billing_project="lab")))[0] is CODE.PERMISSION_DENIED


async def test_a_list_is_of_ones_own_batches(shared: Running) -> None:
    who = people(shared)
    mine = await who["bob"].create(0)
    await who["cat"].create(0)
    listed = await who["bob"].call("ListBatches", pb.ListBatchesRequest())
    assert [b.batch_id for b in listed.batches] == [mine]


async def test_members_follow_the_batches_of_their_project_and_strangers_none(shared: Running) -> None:
    who = people(shared)
    cat, eve = (
        who[name].stream("WatchEvents", pb.WatchEventsRequest(after_seq=0)) for name in ("cat", "eve")
    )
    batch_id = await who["bob"].create(0)
    seen = await read(cat)
    while not seen.events:
        seen = await read(cat)
    assert seen.events[0].batch_created.batch_id == batch_id
    assert not (await read(eve)).events


async def test_who_leaves_a_project_sees_no_more_of_it_with_the_next_message(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "REMEMBER_S", -1.0)
    who = people(shared)
    batch_id = await who["bob"].submit(job(), job())
    watch = who["cat"].stream("WatchBatch", pb.WatchBatchRequest(batch_id=batch_id))
    await read(watch)
    shared.store.remove_member("lab", "cat")
    await who["bob"].cancel(batch_id)
    code, _ = await refused(watch.read())
    assert code is CODE.UNAVAILABLE  # It calls again, and then it is told:
    assert await refused(who["cat"].batch(batch_id)) == (CODE.NOT_FOUND, f"there is no batch {batch_id}")
    assert (await refused(who["cat"].create(0)))[0] is CODE.PERMISSION_DENIED


@pytest.mark.parametrize("scope", [1, 2])
async def test_a_token_is_good_for_its_scope_alone(shared: Running, scope: int) -> None:
    people(shared)
    shared.store.add_token("bob", interceptors.hash_of("narrow"), scope=scope)
    narrow = User(shared.channel, "narrow", "lab")
    await narrow.call("ListBatches", pb.ListBatchesRequest())
    if scope == interceptors.Scope.SUBMIT:
        await narrow.cancel(await narrow.create(0))
        return
    code, words = await refused(narrow.create(0))
    assert (code, words) == (CODE.PERMISSION_DENIED, "this token is for scope 'read' only; use another")
