"""The way from a command to the service."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..service import Client

QUICK_S = 10.0
"""For how long a command that answers at once tries to reach the service."""
PATIENT_S = 180.0
"""The same of one that waits anyway."""


_HANG_UP_S = 2.0


@contextmanager
def connect(retry_s: float = QUICK_S, billing_project: str | None = None) -> Iterator[Client]:
    """A client of the service that the settings or `longshore up` name.

    Raises BatchError, with what to do, when none is known.
    """
    # gRPC reports lost connections on stderr by itself; here every failure is told once, by us. It reads
    # this when it first connects.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ..service import Client

    client = Client(billing_project, retry_s=retry_s)
    try:
        yield client
    finally:
        # gRPC waits for ever for a call that Ctrl-C has cut off while it was being made.
        closing = threading.Thread(target=client.close, daemon=True)
        closing.start()
        closing.join(_HANG_UP_S)
