"""The first line of a screen: where one is, who, and how the connection is; below it what must be known."""

from __future__ import annotations

from collections.abc import Sequence

from longshore.status import Session
from rich.cells import cell_len
from rich.text import Text
from textual.widgets import Static

from ..format import DIM, WARNING, one_line, symbol
from .table import fit

_LOOKS = {"live": symbol("success")[1], "connecting": DIM, "refused": symbol("error")[1]}


class Header(Static):
    """A line, and below it what the service notes and what trouble there is."""

    def tell(
        self,
        crumbs: Sequence[str],
        session: Session | None,
        endpoint: str,
        state: tuple[str, str],
        trouble: str,
    ) -> None:
        link, words = state
        width = max(20, self.app.size.width - 2)
        path = " ▸ ".join(one_line(crumb) for crumb in crumbs)
        user = f"{one_line(session.user, 30)} · " if session else ""
        where = f"{one_line(endpoint, 60)} · "
        while cell_len(path) + cell_len(where + user) + cell_len(words) + 2 > width and (where or user):
            where, user = ("", user) if where else ("", "")
        left = max(1, width - cell_len(where + user) - cell_len(words) - 1)
        text = Text()
        text.append(fit(path, left), "bold")
        text.append(f" {where}{user}", DIM)
        text.append(words, _LOOKS.get(link, WARNING))
        for line in (*(session.notices if session else ()), *([trouble] if trouble else [])):
            # At most two lines; the rest of the screen is for the rest.
            text.append(f"\n! {one_line(line, 2 * width - 20)}", WARNING)
        self.update(text)
