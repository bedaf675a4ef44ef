"""The dashboard: batches, their jobs and their logs, live in a terminal."""

import os

# gRPC writes about lost connections to stderr by itself, which here is the screen. It reads this when
# it is first imported, so it is said before.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
