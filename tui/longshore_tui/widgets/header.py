"""The first line of a screen: where one is, and how the connection is; below it what must be known."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual.widgets import Static

from ..format import WARNING, one_line
from ..model import Link
from .table import fit

_COLOURS = {"live": "#2fbf9b", "connecting": "#9aa0a6", "refused": "#e08bd0"}


class Header(Static):
    """A line, and below it every notice of the service and what trouble there is, in full."""

    def tell(self, crumbs: Sequence[str], link: Link, now: float) -> None:
        state, words = link.state(now)
        user = f"{one_line(link.session.user, 30)} · " if link.session else ""
        where = f"{user}{one_line(link.endpoint, 60)} · " if link.endpoint else ""
        width = max(20, self.app.size.width - 2)
        path = " ▸ ".join(one_line(crumb) for crumb in crumbs)
        if cell_len(path) + cell_len(where) + cell_len(words) + 2 > width:
            where = ""
        left = max(1, width - cell_len(where) - cell_len(words) - 1)
        text = Text()
        text.append(fit(path, left), "bold")
        text.append(f" {where}", "dim")
        text.append(words, _COLOURS.get(state, WARNING))
        for line in self._lines(link):
            text.append(f"\n! {one_line(line)}", WARNING)
        self.update(text)

    def _lines(self, link: Link) -> list[str]:
        lines = list(link.session.notices) if link.session else []
        if link.lost:
            lines.append(link.lost.error)
        if link.refused:
            refused = link.refused
            lines.append(f"{refused.error} ({refused.hint})" if refused.hint else refused.error)
        return lines
