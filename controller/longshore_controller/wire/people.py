"""What is asked and told about people: users, tokens, logins, the audit; checked, as messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

from longshore_api.v1 import admin_service_pb2, auth_service_pb2, batch_service_pb2

from longshore_controller.core.model import Refusal, RefusalKind, Viewer
from longshore_controller.core.rows import AuditRow
from longshore_controller.store.directory import TokenRow, UserRow
from longshore_controller.wire import submission

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ADDRESS = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,255}")
_REDIRECT = re.compile(r"http://(127\.0\.0\.1|\[::1\]):\d{1,5}/[A-Za-z0-9/_-]{0,64}")
_SECRET = re.compile(r"[A-Za-z0-9._~-]{16,128}")
LONGEST_MS = 90 * 86_400_000


def name(value: str) -> str:
    """Of a user. Refusal INVALID_ARGUMENT."""
    if not NAME.fullmatch(value):
        _refuse("name", f"a to z, 0 to 9 and '-', at most 63, got {value[:100]!r}")
    return value


def invitation(request: admin_service_pb2.InviteUserRequest) -> tuple[str, str]:
    submission.check_fields(request)
    if not _ADDRESS.fullmatch(request.email):
        _refuse("email", f"an address like ada@example.org, got {request.email[:100]!r}")
    return name(request.name), request.email


def login_url(request: auth_service_pb2.BeginLoginRequest) -> tuple[str, str, str, str]:
    """Where the code goes, state, nonce, challenge."""
    _redirect(request.redirect_uri)
    for path in ("state", "nonce", "code_challenge"):
        _secret(path, getattr(request, path))
    return request.redirect_uri, request.state, request.nonce, request.code_challenge


def finished_login(request: auth_service_pb2.FinishLoginRequest) -> None:
    """Refuse what is not one of the two."""
    submission.check_fields(request)
    token_hash("token_sha256", request.token_sha256)
    submission.text("token_name", request.token_name)
    if request.device_code:
        submission.text("device_code", request.device_code)
        if request.code:
            _refuse("code", "give code or device_code, not both")
        return
    if not request.code or len(request.code) > 4_096:
        _refuse("code", "required, or device_code")
    _redirect(request.redirect_uri)
    for path in ("nonce", "code_verifier"):
        _secret(path, getattr(request, path))


def new_token(request: auth_service_pb2.AddTokenRequest, most: int) -> None:
    """``most``: the scope of the token with which it is asked."""
    submission.check_fields(request)
    token_hash("sha256", request.sha256)
    submission.text("name", request.name)
    if not request.name:
        _refuse("name", "required: what it is for, e.g. ci")
    if request.scope not in (1, 2, 3):
        _refuse("scope", f"READ, SUBMIT or ALL, got {request.scope}")
    if request.scope > most:
        raise Refusal(RefusalKind.PERMISSION_DENIED, "a token can make none that may do more than itself")
    if not 0 < request.lifetime_ms <= LONGEST_MS:
        _refuse("lifetime_ms", f"1 to {LONGEST_MS:,} (90 days), got {request.lifetime_ms:,}")


def token_hash(path: str, value: bytes) -> None:
    if len(value) != 32:
        _refuse(path, f"the 32 bytes of a SHA-256, got {len(value)}")


def token_message(row: TokenRow, current: str) -> auth_service_pb2.Token:
    return auth_service_pb2.Token(
        token_id=row.token_id,
        name=row.name,
        scope=auth_service_pb2.TokenScope.ValueType(row.scope),
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        ends_at_ms=row.ends_at_ms,
        last_used_at_ms=row.last_used_at_ms,
        current=row.token_id == current,
    )


def memberships(viewer: Viewer) -> Iterable[auth_service_pb2.Membership]:
    return (
        auth_service_pb2.Membership(project=project, owner=project in viewer.owned)
        for project in sorted(viewer.projects)
    )


def user_message(row: UserRow) -> admin_service_pb2.User:
    return admin_service_pb2.User(
        name=row.name,
        admin=row.admin,
        email=row.email,
        issuer=row.issuer,
        service_identity=row.service_identity,
        created_at_ms=row.created_at_ms,
        suspended_at_ms=row.suspended_at_ms,
    )


def audit_message(audit_id: int, row: AuditRow) -> admin_service_pb2.AuditEntry:
    return admin_service_pb2.AuditEntry(audit_id=audit_id, **row._asdict())


def deed_message(row: AuditRow) -> batch_service_pb2.BatchDeed:
    return batch_service_pb2.BatchDeed(at_ms=row.at_ms, user=row.actor, deed=row.method.rpartition("/")[2])


def _redirect(value: str) -> None:
    if not _REDIRECT.fullmatch(value):
        _refuse("redirect_uri", f"http://127.0.0.1:PORT/..., got {value[:100]!r}")


def _secret(path: str, value: str) -> None:
    if not _SECRET.fullmatch(value):
        _refuse(path, f"16 to 128 letters, digits, '-', '.', '_' and '~', got {len(value)} characters")


def _refuse(path: str, what: str) -> None:
    raise Refusal(RefusalKind.INVALID_ARGUMENT, f"{path}: {what}")
