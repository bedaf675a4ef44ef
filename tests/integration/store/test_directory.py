"""Who people are: users, tokens, members, as rows."""

from __future__ import annotations

import pytest
from longshore_controller.core.model import MemberRole, Viewer
from longshore_controller.store import Store, id_of

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
