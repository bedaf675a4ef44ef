"""The way from a command to the service."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..service import Client

QUICK_S = 10.0
"""For how long a command that answers at once tries to reach the service."""
PATIENT_S = 180.0
"""The same of one that waits anyway."""


def connect(retry_s: float = QUICK_S, billing_project: str | None = None) -> Client:
    """A client of the service that the settings or `longshore up` name; use it with ``with``.

    Raises BatchError, with what to do, when none is known.
    """
    # gRPC reports lost connections on stderr by itself; here every failure is told once, by us. It reads
    # this when it first connects.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ..service import Client

    return Client(billing_project, retry_s=retry_s)
