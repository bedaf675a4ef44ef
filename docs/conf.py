"""How Sphinx makes the documentation, of what lies beside it and of the program's own words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from longshore import __version__

sys.path.insert(0, str(Path(__file__).parent))
from command_reference import text as command_reference

project = "Longshore"
copyright = "the Longshore authors"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["generated"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Longshore"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
default_role = "py:obj"

_commands = Path(__file__).parent / "generated" / "commands.md"
_commands.parent.mkdir(exist_ok=True)
_commands.write_text(command_reference())

_MADE_BY_USERS = {"Pipeline", "LocalBackend", "BatchBackend", "Client", "AsyncClient", "JobSpec"}


def _signature(_: Any, what: str, name: str, *__: Any) -> tuple[str, None] | None:
    """What nobody makes himself is shown without the arguments that it is made with."""
    shown = what not in ("class", "exception") or name.rpartition(".")[2] in _MADE_BY_USERS
    return None if shown else ("", None)


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", _signature)
