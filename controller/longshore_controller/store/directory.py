"""Who people are and what they may do: users, their tokens, and the members of billing projects.

Rows of their own transactions, from any thread; the engine knows nothing of them. Every method raises
StoreUnavailable when the database does not answer; then nothing happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from longshore_controller.core.model import MemberRole, Refusal, RefusalKind, Viewer
from longshore_controller.store.audit import Audit

USED_EVERY_MS = 3_600_000
"""That a token was used is written down so often."""
SLIDING_MS = 30 * 86_400_000
"""A token that expires is good for so long after it was last used."""


class UserRow(NamedTuple):
    name: str
    admin: bool
    issuer: str
    subject: str
    email: str
    """For people; nobody is known by it but who was invited by it and has not come yet."""
    service_identity: str
    created_at_ms: int
    suspended_at_ms: int | None


class TokenRow(NamedTuple):
    sha256: bytes
    user_name: str
    name: str
    scope: int
    """1 reads, 2 reads and works with batches, 3 all that its user may do."""
    created_at_ms: int
    expires_at_ms: int | None
    ends_at_ms: int | None
    """It is no longer good then, however often it was used."""
    last_used_at_ms: int | None
    revoked_at_ms: int | None

    @property
    def token_id(self) -> str:
        """Says which one it is and nothing of what it is."""
        return id_of(self.sha256)

    def is_good(self, now_ms: int) -> bool:
        ends = (self.revoked_at_ms, self.expires_at_ms, self.ends_at_ms)
        return self.revoked_at_ms is None and all(at is None or now_ms < at for at in ends)


class Holder(NamedTuple):
    """Whose token it is."""

    token: TokenRow
    viewer: Viewer


def id_of(sha256: bytes) -> str:
    """What a token is called where people or the audit see it."""
    return sha256[:6].hex()


class Directory(Audit):
    # -- users -----------------------------------------------------------------------------------

    def ensure_user(self, name: str, now_ms: int = 0, *, admin: bool = False) -> None:
        """The user exists; ``admin``: and is one."""
        with self._db.writing() as db:
            self._db.execute(
                db,
                """INSERT INTO users (name, service_identity, created_at_ms) VALUES (?, ?, ?)
                ON CONFLICT DO NOTHING""",
                *(name, identity_of(name), now_ms),
            )
            # Users of before there were identities.
            sql = "UPDATE users SET service_identity = ? WHERE name = ? AND service_identity = ''"
            self._db.execute(db, sql, identity_of(name), name)
            if admin:
                self._db.execute(db, "UPDATE users SET admin = 1 WHERE name = ?", name)

    def user(self, name: str) -> UserRow | None:
        return next(iter(self._users("name = ?", name)), None)

    def viewer_of(self, user: str) -> Viewer:
        """What they may look at. Nobody, by that name: nothing but what is theirs."""
        with self._db.reading() as db:
            admin = self._db.rows(db, "SELECT admin FROM users WHERE name = ?", user)
            sql = "SELECT project, role FROM billing_member WHERE user_name = ?"
            roles = self._db.rows(db, sql, user)
        return _viewer(user, bool(admin and admin[0][0]), roles)

    def user_of_subject(self, issuer: str, subject: str) -> UserRow | None:
        """Who logged in as that before."""
        return next(iter(self._users("issuer = ? AND subject = ?", issuer, subject)), None)

    def users(self, after_name: str, limit: int) -> list[UserRow]:
        return self._users("name > ?", after_name, limit=limit)

    def invite(self, name: str, email: str, now_ms: int) -> UserRow:
        """Whoever comes with that address is that user. Refusal ALREADY_EXISTS when either is another's."""
        email = email.lower()
        taken = Refusal(
            RefusalKind.ALREADY_EXISTS, f"there is a user {name!r}, or one with {email!r}; choose another"
        )
        with self._recorded(f"user {name}") as db:
            sql = "SELECT name, email FROM users WHERE name = ? OR (email <> '' AND email = ?)"
            found = [tuple(row) for row in self._db.rows(db, sql, name, email)]
            if found not in ([], [(name, email)]):
                raise taken
            self._db.execute(
                db,
                """INSERT INTO users (name, email, service_identity, created_at_ms) VALUES (?, ?, ?, ?)
                ON CONFLICT DO NOTHING""",
                *(name, email, identity_of(name), now_ms),
            )
        user = self.user(name)
        if user is None or user.email != email:
            raise taken  # Somebody was quicker.
        return user

    def admit(self, issuer: str, subject: str, email: str) -> UserRow | None:
        """Who that is: who came before as the same, else who was invited by the address and has not come yet.
        None: nobody."""
        if (known := self.user_of_subject(issuer, subject)) is not None:
            return known
        with self._db.writing() as db:
            self._db.execute(
                db,
                """UPDATE users SET issuer = ?, subject = ?
                WHERE email = ? AND email <> '' AND issuer = '' AND suspended_at_ms IS NULL""",
                *(issuer, subject, email.lower()),
            )
        return self.user_of_subject(issuer, subject)

    def create_of_login(self, name: str, issuer: str, subject: str, email: str, now_ms: int) -> bool:
        """A user who was not invited. False: the name is another's."""
        with self._db.writing() as db:
            made = self._db.execute(
                db,
                """INSERT INTO users (name, issuer, subject, email, service_identity, created_at_ms)
                VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
                *(name, issuer, subject, email.lower(), identity_of(name), now_ms),
            )
            return bool(made.rowcount)

    def update_user(
        self, name: str, now_ms: int, *, suspended: bool | None = None, admin: bool | None = None
    ) -> UserRow:
        """Refusal NOT_FOUND."""
        words = [] if suspended is None else ["suspended" if suspended else "no longer suspended"]
        words += [] if admin is None else ["an admin" if admin else "no longer an admin"]
        with self._recorded(f"user {name}: {', '.join(words)}") as db:
            if suspended is not None:
                # The first time of several counts.
                at = "COALESCE(suspended_at_ms, ?)" if suspended else "CAST(? AS BIGINT)"
                sql = f"UPDATE users SET suspended_at_ms = {at} WHERE name = ?"
                self._db.execute(db, sql, now_ms if suspended else None, name)
            if admin is not None:
                self._db.execute(db, "UPDATE users SET admin = ? WHERE name = ?", int(admin), name)
            if not self._db.rows(db, "SELECT 1 FROM users WHERE name = ?", name):
                raise Refusal(RefusalKind.NOT_FOUND, f"there is no user {name!r}")
        user = self.user(name)
        assert user is not None  # Nobody is ever removed.
        return user

    def _users(self, where: str, *values: object, limit: int = 1) -> list[UserRow]:
        sql = f"SELECT {', '.join(UserRow._fields)} FROM users WHERE {where} ORDER BY name LIMIT {limit:d}"
        with self._db.reading() as db:
            return [UserRow(row[0], bool(row[1]), *row[2:]) for row in self._db.rows(db, sql, *values)]

    # -- tokens ----------------------------------------------------------------------------------

    def add_token(
        self,
        user: str,
        sha256: bytes,
        *,
        name: str = "",
        scope: int = 3,
        now_ms: int = 0,
        expires_at_ms: int | None = None,
        ends_at_ms: int | None = None,
    ) -> bool:
        """Whoever knows the token with this hash is that user, who exists. Without an end it is for ever.
        False: there is one with this hash."""
        with self._recorded(f"token {id_of(sha256)}") as db:
            added = self._db.execute(
                db,
                """INSERT INTO user_token
                    (sha256, user_name, name, scope, created_at_ms, expires_at_ms, ends_at_ms)
                VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
                *(sha256, user, name, scope, now_ms, expires_at_ms, ends_at_ms),
            )
            return bool(added.rowcount)

    def revoke_tokens(self, user: str, sha256s: Sequence[bytes], now_ms: int) -> int:
        """Those of the user's that were good so far; how many."""
        marks = ", ".join("?" * len(sha256s))
        with self._recorded(f"tokens {', '.join(map(id_of, sha256s))}"[:1_000]) as db:
            sql = f"""UPDATE user_token SET revoked_at_ms = ?
                WHERE user_name = ? AND sha256 IN ({marks}) AND revoked_at_ms IS NULL"""
            return int(self._db.execute(db, sql, now_ms, user, *sha256s).rowcount)

    def holder(self, sha256: bytes, now_ms: int) -> Holder | None:
        """Whose good token this is; None: nobody's. That it was used is written down once in a while."""
        columns = ", ".join(f"t.{name}" for name in TokenRow._fields)
        with self._db.reading() as db:
            found = self._db.rows(
                db,
                f"""SELECT {columns}, u.admin FROM user_token t JOIN users u ON u.name = t.user_name
                WHERE t.sha256 = ? AND u.suspended_at_ms IS NULL""",
                sha256,
            )
            if not found:
                return None
            *row, admin = found[0]
            token = TokenRow(bytes(row[0]), *row[1:])
            if not token.is_good(now_ms):
                return None
            sql = "SELECT project, role FROM billing_member WHERE user_name = ?"
            roles = self._db.rows(db, sql, token.user_name)
        if token.last_used_at_ms is None or now_ms - token.last_used_at_ms >= USED_EVERY_MS:
            self._note_use(token, now_ms)
        return Holder(token, _viewer(token.user_name, bool(admin), roles))

    def tokens(self, user: str) -> list[TokenRow]:
        """All that they have had, oldest first."""
        sql = f"""SELECT {", ".join(TokenRow._fields)} FROM user_token WHERE user_name = ?
            ORDER BY created_at_ms, sha256"""
        with self._db.reading() as db:
            return [TokenRow(bytes(row[0]), *row[1:]) for row in self._db.rows(db, sql, user)]

    def _note_use(self, token: TokenRow, now_ms: int) -> None:
        slides = token.expires_at_ms is not None and token.ends_at_ms is not None
        expires = token.expires_at_ms
        if slides:
            expires = max(expires or 0, min(now_ms + SLIDING_MS, token.ends_at_ms or 0))
        with self._db.writing() as db:
            sql = "UPDATE user_token SET last_used_at_ms = ?, expires_at_ms = ? WHERE sha256 = ?"
            self._db.execute(db, sql, now_ms, expires, token.sha256)

    # -- members of billing projects -------------------------------------------------------------

    def member_role(self, project: str, user: str) -> MemberRole | None:
        """None: not a member, or no such project."""
        with self._db.reading() as db:
            sql = "SELECT role FROM billing_member WHERE project = ? AND user_name = ?"
            found = self._db.rows(db, sql, project, user)
        return MemberRole(found[0][0]) if found else None

    def members(self, project: str) -> list[tuple[str, MemberRole]]:
        """By name."""
        with self._db.reading() as db:
            sql = "SELECT user_name, role FROM billing_member WHERE project = ? ORDER BY user_name"
            return [(name, MemberRole(role)) for name, role in self._db.rows(db, sql, project)]

    def set_member(self, project: str, user: str, role: MemberRole) -> None:
        """They are that from now on; both exist."""
        with self._recorded(f"project {project}: {user}") as db:
            self._db.execute(
                db,
                """INSERT INTO billing_member (project, user_name, role) VALUES (?, ?, ?)
                ON CONFLICT (project, user_name) DO UPDATE SET role = excluded.role""",
                *(project, user, role),
            )

    def remove_member(self, project: str, user: str) -> bool:
        """False: they were none."""
        with self._recorded(f"project {project}: {user}") as db:
            sql = "DELETE FROM billing_member WHERE project = ? AND user_name = ?"
            return bool(self._db.execute(db, sql, project, user).rowcount)

    def create_project(self, project: str) -> None:
        """The billing project exists; nobody is a member yet."""
        with self._recorded(f"billing project {project}") as db:
            self._db.execute(
                db, "INSERT INTO billing_project (name) VALUES (?) ON CONFLICT DO NOTHING", project
            )

    def change_member(
        self, project: str, user: str, role: MemberRole | None, *, may_leave_none: bool
    ) -> bool:
        """They are that in the project from now on, or nothing; both exist.

        False, and nothing happened: the project would be left without an owner, and it may not.
        """
        with self._db.writing() as db:
            # One change after the other: of two owners who leave at once one is the last.
            self._db.execute(db, "UPDATE billing_project SET name = name WHERE name = ?", project)
            sql = "SELECT user_name FROM billing_member WHERE project = ? AND role = ?"
            owners = {name for (name,) in self._db.rows(db, sql, project, int(MemberRole.OWNER))}
            if owners == {user} and role is not MemberRole.OWNER and not may_leave_none:
                return False
            if role is None:
                sql = "DELETE FROM billing_member WHERE project = ? AND user_name = ?"
                self._db.execute(db, sql, project, user)
            else:
                self._db.execute(
                    db,
                    """INSERT INTO billing_member (project, user_name, role) VALUES (?, ?, ?)
                    ON CONFLICT (project, user_name) DO UPDATE SET role = excluded.role""",
                    *(project, user, int(role)),
                )
            self._record(db, f"project {project}: {user}")
        return True

    def found_project(self, project: str, user: str) -> bool:
        """The billing project exists, and is this user's if it had no members. False: it has others."""
        with self._recorded(f"project {project}") as db:
            sql = "INSERT INTO billing_project (name) VALUES (?) ON CONFLICT DO NOTHING"
            self._db.execute(db, sql, project)
            self._db.execute(
                db,
                """INSERT INTO billing_member (project, user_name, role) SELECT ?, ?, 2
                WHERE NOT EXISTS (SELECT 1 FROM billing_member WHERE project = ?)""",
                *(project, user, project),
            )
        return self.member_role(project, user) is not None


def identity_of(user: str) -> str:
    """The account under which files are moved for a user; on one machine it is a name and no more."""
    return f"sa-{user}"


def _viewer(name: str, admin: bool, roles: list[tuple[str, int]]) -> Viewer:
    owned = frozenset(project for project, role in roles if role == MemberRole.OWNER)
    return Viewer(name, frozenset(project for project, _ in roles), admin, owned)
