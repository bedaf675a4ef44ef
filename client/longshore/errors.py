"""The exceptions of the package: one root, each with a code and a hint.

Nothing else is raised on purpose, but for `AttributeError` and `TypeError` where Python itself
expects them. Errors of the network keep their cause in ``__cause__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .handles import AnyBatch
    from .status import BatchStatus


class BatchError(Exception):
    """The root of all. `code` is for programs, `hint` for people: what to do about it.

    `request_id` is what the service calls the request that failed; ``''`` if it never got there.
    """

    code = "internal"

    def __init__(self, message: str, *, hint: str = "", code: str = "", request_id: str = "") -> None:
        Exception.__init__(self, message)  # Whatever else a subclass inherits from is not asked.
        self.message = message
        self.hint = hint
        self.request_id = request_id
        if code:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(BatchError, ValueError):
    """The program asked for something that cannot be; nothing was changed."""

    code = "invalid_argument"


class WrongType(UsageError, TypeError):
    """A value of the wrong type, or a call of what cannot be called."""


class NotSubmitted(UsageError):
    """A batch or job was asked for what only a submitted one knows."""

    code = "failed_precondition"


class AuthError(BatchError):
    """The service does not know who is calling."""

    code = "unauthenticated"


class PermissionDenied(BatchError):
    """The service knows the caller and says no."""

    code = "permission_denied"


class NotFound(BatchError, LookupError):
    """No such batch, job or attempt, or it is somebody else's."""

    code = "not_found"


class Conflict(BatchError):
    """What is there already does not allow it: `already_exists` or `failed_precondition`."""

    code = "failed_precondition"


class QuotaExceeded(BatchError):
    """A limit is reached."""

    code = "resource_exhausted"


class Unavailable(BatchError, ConnectionError):
    """The service did not answer, also after repeated tries; or none is known."""

    code = "unavailable"


class WaitTimeout(BatchError, TimeoutError):
    """The time given to a `wait` is over; what was waited for goes on."""

    code = "deadline_exceeded"


class BatchFailedError(BatchError):
    """A batch is complete and did not succeed. `batch` is its handle, `status` its last status."""

    code = "batch_failed"

    def __init__(self, message: str, *, batch: AnyBatch, status: BatchStatus) -> None:
        super().__init__(message)
        self.batch = batch
        self.status = status


_BY_CODE: dict[str, type[BatchError]] = {
    "invalid_argument": UsageError,
    "out_of_range": UsageError,
    "unauthenticated": AuthError,
    "permission_denied": PermissionDenied,
    "not_found": NotFound,
    "already_exists": Conflict,
    "failed_precondition": Conflict,
    "aborted": Conflict,
    "resource_exhausted": QuotaExceeded,
    "unavailable": Unavailable,
    "deadline_exceeded": Unavailable,
    "cancelled": Unavailable,
}

_HINTS: dict[str, str] = {
    "unauthenticated": "the service does not accept this token: set LONGSHORE_TOKEN, or start "
    "`longshore up` again",
    "unavailable": "is it running? `longshore up` starts a service on this machine",
}


def error_of_code(code: str, message: str, request_id: str = "") -> BatchError:
    """The exception for a gRPC status, given its name in lower case and its words."""
    kind = _BY_CODE.get(code, BatchError)
    words = message or code.replace("_", " ")
    return kind(words, hint=_HINTS.get(code, ""), code=code, request_id=request_id)
