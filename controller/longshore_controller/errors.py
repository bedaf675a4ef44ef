"""The closed set of errors on the wire: each kind of refusal is one gRPC status, and the other way round."""

from __future__ import annotations

import grpc

from longshore_controller.core.model import Refusal, RefusalKind
from longshore_controller.store import StoreUnavailable

STATUS = {
    RefusalKind.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalKind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    RefusalKind.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    RefusalKind.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    RefusalKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    RefusalKind.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    RefusalKind.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RefusalKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}

MAX_MESSAGE = 1_000
"""Characters of an error's words; they travel in a header, whose size is limited."""


def status_of(error: Exception, request_id: str) -> tuple[grpc.StatusCode, str]:
    """What the caller is told. Of an error that is nobody's refusal: nothing but where to look it up."""
    if isinstance(error, Refusal):
        words = error.message
        if len(words) > MAX_MESSAGE:
            words = words[: MAX_MESSAGE - 1] + "…"
        return STATUS[error.kind], words
    if isinstance(error, StoreUnavailable):
        return grpc.StatusCode.UNAVAILABLE, "the service cannot reach its database just now; repeat the call"
    if isinstance(error, NotImplementedError):  # Of the services that are gRPC's own.
        return grpc.StatusCode.UNIMPLEMENTED, "this service does not answer that"
    return (
        grpc.StatusCode.INTERNAL,
        f"a defect in the service; its log tells more about request {request_id}",
    )
