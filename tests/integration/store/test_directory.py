"""Who people are: users, tokens, members, as rows."""

from __future__ import annotations

import pytest
from longshore_controller.core.model import MemberRole, Refusal, RefusalKind, Viewer
from longshore_controller.core.rows import AuditRow
from longshore_controller.store import Store, deed, id_of
from world import Job, World

DAY = 86_400_000


@pytest.fixture
def people(store: Store) -> Store:
    for name in ("ann", "bob"):
        store.ensure_user(name, 5)
    return store


def test_each_user_has_a_service_identity_from_the_start(people: Store) -> None:
    ann = people.user("ann")
    assert ann is not None
    assert (ann.service_identity, ann.created_at_ms, ann.admin) == ("sa-ann", 5, False)
    people.ensure_user("ann", 9, admin=True)
    again = people.user("ann")
    assert again == ann._replace(admin=True)
    assert people.user("eve") is None


def test_whoever_founds_a_project_owns_it_and_others_do_not(people: Store) -> None:
    assert people.found_project("p", "ann")
    assert people.found_project("p", "ann")
    assert not people.found_project("p", "bob")
    assert people.members("p") == [("ann", MemberRole.OWNER)]
    assert people.viewer_of("ann") == Viewer("ann", frozenset({"p"}), owned=frozenset({"p"}))
    assert people.viewer_of("bob") == Viewer("bob")


def test_members_come_are_promoted_and_go(people: Store) -> None:
    people.found_project("p", "ann")
    people.set_member("p", "bob", MemberRole.MEMBER)
    assert people.viewer_of("bob") == Viewer("bob", frozenset({"p"}))
    people.set_member("p", "bob", MemberRole.OWNER)
    assert people.member_role("p", "bob") is MemberRole.OWNER
    assert people.remove_member("p", "bob")
    assert not people.remove_member("p", "bob")
    assert people.member_role("p", "bob") is None


def test_a_token_is_good_until_its_end_and_its_use_moves_its_expiry(people: Store) -> None:
    key = b"k" * 32
    people.add_token("ann", key, now_ms=0, expires_at_ms=30 * DAY, ends_at_ms=90 * DAY)
    for day in (0, 29, 58, 87):
        holder = people.holder(key, day * DAY)
        assert holder is not None
        assert holder.token.token_id == id_of(key)
    assert people.holder(key, 90 * DAY) is None
    people.add_token("ann", b"l" * 32, now_ms=0, expires_at_ms=30 * DAY, ends_at_ms=90 * DAY)
    assert people.holder(b"l" * 32, 30 * DAY) is None


def test_that_a_token_was_used_is_written_once_an_hour(people: Store) -> None:
    key = b"k" * 32
    people.add_token("ann", key)
    used = []
    for minute in (0, 30, 59, 60, 61):
        people.holder(key, minute * 60_000)
        (token,) = people.tokens("ann")
        used.append(token.last_used_at_ms)
    assert used == [0, 0, 0, 3_600_000, 3_600_000]


def test_who_was_invited_is_known_by_subject_from_the_first_time(people: Store) -> None:
    invited = people.invite("cat", "Cat@Example.org", 7)
    assert (invited.email, invited.service_identity) == ("cat@example.org", "sa-cat")
    assert people.invite("cat", "cat@example.org", 9) == invited
    for name, email in (("cat", "dog@example.org"), ("dog", "cat@example.org"), ("ann", "a@example.org")):
        with pytest.raises(Refusal) as refused:
            people.invite(name, email, 9)
        assert refused.value.kind is RefusalKind.ALREADY_EXISTS
    assert people.admit("https://i", "s1", "nobody@example.org") is None
    for email in ("CAT@example.org", "", "new@example.org"):
        admitted = people.admit("https://i", "s1", email)
        assert admitted is not None and admitted.name == "cat"
    assert people.admit("https://i", "s2", "cat@example.org") is None
    assert people.create_of_login("eve", "https://i", "s3", "eve@example.org", 9)
    assert not people.create_of_login("eve", "https://i", "s4", "eve@example.org", 9)
    assert [user.name for user in people.users("", 10)] == ["ann", "bob", "cat", "eve"]
    assert [user.name for user in people.users("bob", 1)] == ["cat"]


def test_who_is_suspended_has_no_good_token_until_restored(people: Store) -> None:
    people.add_token("ann", b"k" * 32)
    assert people.update_user("ann", 11, suspended=True, admin=True).suspended_at_ms == 11
    assert people.update_user("ann", 12, suspended=True).suspended_at_ms == 11
    assert people.holder(b"k" * 32, 12) is None
    assert people.update_user("ann", 13, suspended=False).suspended_at_ms is None
    holder = people.holder(b"k" * 32, 13)
    assert holder is not None and holder.viewer.admin
    assert people.revoke_tokens("bob", [b"k" * 32], 14) == 0
    assert people.revoke_tokens("ann", [b"k" * 32], 14) == 1
    assert people.holder(b"k" * 32, 14) is None
    with pytest.raises(Refusal) as refused:
        people.update_user("nobody", 15, admin=True)
    assert refused.value.kind is RefusalKind.NOT_FOUND


def test_a_deed_and_its_line_are_one_transaction(people: Store) -> None:
    ann = AuditRow(21, "ann", "admin", "t", "127.0.0.1", "AdminService/X", request_id="r")
    token = deed.set(ann)
    try:
        people.invite("cat", "cat@example.org", 21)
        with pytest.raises(Refusal):
            people.update_user("nobody", 22, admin=True)
        people.found_project("p", "ann")
        people.set_member("p", "bob", MemberRole.MEMBER)
        people.remove_member("p", "bob")
    finally:
        deed.reset(token)
    people.set_member("p", "bob", MemberRole.MEMBER)  # Nobody's deed.
    people.add_refusals([ann._replace(at_ms=30, outcome="NOT_FOUND", batch_id=7, times=5)] * 120)
    refusals = people.audit(batch_id=7, before_id=None, limit=1_000)
    assert [row.times for _, row in refusals] == [5] * 120
    before = refusals[-1][0]
    lines = [row.object for _, row in people.audit(user="ann", before_id=before, limit=1_000)]
    assert lines == ["project p: bob", "project p: bob", "project p", "user cat"]
    assert not people.audit(since_ms=31, before_id=None, limit=1)
    assert not people.history(7, 10)


def test_whose_deed_events_are_is_committed_with_them(store: Store) -> None:
    world = World(store)
    ann = AuditRow(1, "ann", "user", "t", "127.0.0.1", "BatchService/CreateBatch", batch_id=1)
    world.create(Job(), whole=True)
    events, changes = world.reactor.take()
    changes.audit = [ann, ann._replace(method="BatchService/CancelBatch")]
    store.commit(events, changes, world.now)
    assert [row.method for row in store.history(1, 10)] == [
        "BatchService/CreateBatch",
        "BatchService/CancelBatch",
    ]
