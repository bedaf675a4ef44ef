"""The command line: `longshore VERB`. Each verb is a module that is imported when it is used.

stdout carries data and nothing else; whatever is said to people goes to stderr.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line with `args`, or those of the process; the exit code (see `exits`)."""
    given = sys.argv[1:] if args is None else list(args)
    if given == ["--version"]:  # Click alone would take longer than all the rest.
        from .. import __version__

        print("longshore", __version__)
        return 0
    from .verbs import run

    return run(given)
