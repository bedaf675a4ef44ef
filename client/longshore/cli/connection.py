"""The way from a command to the service."""

from __future__ import annotations

import os

from ..service import Client

# gRPC reports lost connections on stderr by itself; here every failure is told once, by us. It reads
# this when it first connects.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

QUICK_S = 10.0
"""For how long a command that answers at once tries to reach the service."""
PATIENT_S = 180.0
"""The same of one that waits anyway."""


def connect(retry_s: float = QUICK_S) -> Client:
    """A client of the service that the environment or `longshore up` names; use it with ``with``."""
    return Client(retry_s=retry_s)
