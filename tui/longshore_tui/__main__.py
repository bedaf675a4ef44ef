"""`longshore ui [TARGET]`: looks at a service until `q` is pressed."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Mapping

from longshore.cli.exits import tell
from longshore.cli.targets import find_batch, parse_target
from longshore.errors import BatchError, UsageError
from longshore.profiles import config_file, read_toml
from longshore.service import Client

from . import themes
from .app import Dashboard
from .feed import Feed, connect_to


def run(target: str | None = None) -> int:
    """Show the dashboard, at a batch (`8120`, `last`) or a job (`8120/4705`); 0 when it was left.

    Raises BatchError when no service is known, `target` is no target, or there is no terminal; a service
    that is known and does not answer is shown as such, and waited for.
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
    if not sys.stdin.isatty():
        raise UsageError("the dashboard needs a terminal; without one: longshore ls, longshore get")
    app = Dashboard(feed, batch_id, job_id, theme=theme_of(os.environ))
    threading.Thread(target=_end_without_terminal, args=(sys.stdin.fileno(),), daemon=True).start()
    app.run()
    return app.return_code or 0


def theme_of(environ: Mapping[str, str]) -> str:
    """That of LONGSHORE_THEME, else of the configuration: `theme` in [ui]."""
    file = config_file(environ)
    ui = read_toml(file).get("ui", {})
    origin, name = "LONGSHORE_THEME", environ.get("LONGSHORE_THEME")
    if not name:
        origin, name = f"{file}: theme", ui.get("theme") if isinstance(ui, dict) else None
    if name and name not in themes.NAMES:
        raise UsageError(f"{origin} must be one of {', '.join(themes.NAMES)}, got {name!r}")
    return name or themes.DEFAULT


def _end_without_terminal(terminal: int) -> None:
    """Wait until the terminal is gone, and end as the hang-up signal ends a program that does not ignore it.

    Of a terminal that is gone one reads the end for ever, at once, and Textual goes on reading; what it
    has to write nobody takes any more, so that it could not even be asked to leave.
    """
    gone = select.poll()
    gone.register(terminal, 0)
    if any(event & select.POLLHUP for _, event in gone.poll()):
        os._exit(128 + signal.SIGHUP)


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
