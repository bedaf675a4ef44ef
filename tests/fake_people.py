"""What FakeService knows of people: its user's tokens, users for its admin, an audit; no login."""

from __future__ import annotations

import grpc
from longshore_api.v1 import admin_service_pb2 as admin_pb
from longshore_api.v1 import auth_service_pb2 as auth_pb
from longshore_api.v1 import auth_service_pb2_grpc as auth_grpc

SINCE_MS = 1_700_000_000_000


class FakeTokens(auth_grpc.AuthServiceServicer):
    """Part of AuthService."""

    def __init__(self) -> None:
        self.tokens: dict[bytes, auth_pb.Token] = {}

    def BeginLogin(
        self, request: auth_pb.BeginLoginRequest, context: grpc.ServicerContext
    ) -> auth_pb.BeginLoginResponse:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this service has no login by browser")

    def FinishLogin(
        self, request: auth_pb.FinishLoginRequest, context: grpc.ServicerContext
    ) -> auth_pb.FinishLoginResponse:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this service has no login by browser")

    def AddToken(self, request: auth_pb.AddTokenRequest, context: grpc.ServicerContext) -> auth_pb.Token:
        return self.tokens.setdefault(
            request.sha256,
            auth_pb.Token(
                token_id=request.sha256[:6].hex(),
                name=request.name,
                scope=request.scope,
                created_at_ms=SINCE_MS,
                expires_at_ms=SINCE_MS + request.lifetime_ms,
            ),
        )

    def ListTokens(
        self, request: auth_pb.ListTokensRequest, context: grpc.ServicerContext
    ) -> auth_pb.ListTokensResponse:
        return auth_pb.ListTokensResponse(tokens=self.tokens.values())

    def RevokeTokens(
        self, request: auth_pb.RevokeTokensRequest, context: grpc.ServicerContext
    ) -> auth_pb.RevokeTokensResponse:
        meant = [k for k, t in self.tokens.items() if request.all or t.token_id == request.token_id]
        if not meant:
            context.abort(grpc.StatusCode.NOT_FOUND, f"you have no token {request.token_id!r}")
        for key in meant:
            del self.tokens[key]
        return auth_pb.RevokeTokensResponse(n_revoked=len(meant))


class FakeUsers:
    """Part of AdminService."""

    def __init__(self) -> None:
        self.users = {"ada": admin_pb.User(name="ada", admin=True, service_identity="sa-ada")}
        self.audit = [
            admin_pb.AuditEntry(
                audit_id=1, at_ms=SINCE_MS, actor="ada", role="admin", method="BatchService/CancelBatch",
                batch_id=7, outcome="OK", peer="127.0.0.1", token_id="abc", request_id="r", times=1,
            )
        ]  # fmt: skip

    def InviteUser(self, request: admin_pb.InviteUserRequest, context: grpc.ServicerContext) -> admin_pb.User:
        return self.users.setdefault(
            request.name,
            admin_pb.User(
                name=request.name, email=request.email, service_identity=f"sa-{request.name}",
                created_at_ms=SINCE_MS,
            ),
        )  # fmt: skip

    def ListUsers(
        self, request: admin_pb.ListUsersRequest, context: grpc.ServicerContext
    ) -> admin_pb.ListUsersResponse:
        after = sorted(name for name in self.users if name > request.after_name)
        return admin_pb.ListUsersResponse(users=[self.users[name] for name in after])

    def UpdateUser(self, request: admin_pb.UpdateUserRequest, context: grpc.ServicerContext) -> admin_pb.User:
        user = self.users.get(request.name)
        if user is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no user {request.name!r}")
        if request.HasField("admin"):
            user.admin = request.admin
        if request.HasField("suspended"):
            user.suspended_at_ms = SINCE_MS
            if not request.suspended:
                user.ClearField("suspended_at_ms")
        return user

    def ListAudit(
        self, request: admin_pb.ListAuditRequest, context: grpc.ServicerContext
    ) -> admin_pb.ListAuditResponse:
        return admin_pb.ListAuditResponse(entries=self.audit)
