"""`longshore ui [TARGET]`: looks at a service until `q` is pressed."""

from __future__ import annotations

import sys

from longshore.cli.exits import tell
from longshore.cli.targets import find_batch, parse_target
from longshore.errors import BatchError, UsageError
from longshore.service import Client

from .app import Dashboard
from .feed import Feed, connect_to


def run(target: str | None = None) -> int:
    """Show the dashboard, at a batch (`8120`, `last`) or a job (`8120/4705`); 0 when it was left.

    Raises BatchError when no service is known, or `target` is no target; a service that is known and
    does not answer is shown as such, and waited for.
    """
    feed = Feed(connect_to())
    batch_id = job_id = None
    if target is not None:
        try:
            parsed = parse_target(target)
        except ValueError as error:
            raise UsageError(str(error)) from None
        job_id = parsed.job_id
        with Client(retry_s=10.0) as client:
            batch_id = find_batch(client, parsed).id
    app = Dashboard(feed, batch_id, job_id)
    app.run()
    return app.return_code or 0


def main() -> int:
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        print("usage: python -m longshore_tui [TARGET]", file=sys.stderr)
        return 2
    try:
        return run(*sys.argv[1:])
    except BatchError as error:
        return tell(error, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
