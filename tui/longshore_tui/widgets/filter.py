"""The line where a filter is typed, with what it may go on with below it."""

from __future__ import annotations

from typing import ClassVar

from longshore.status import QueryCompletions
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Input

from ..format import KEY, count, one_line

_SHOWN = 8


class FilterInput(Input):
    """What it may go on with is what the service said of this text with the cursor there."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("tab", "complete", "complete", show=False)]

    offered: QueryCompletions | None = None

    def offer(self, asked: tuple[str, int], found: QueryCompletions) -> bool:
        """False: the text is another one by now."""
        if asked != (self.value, self.cursor_position):
            return False
        self.offered = found
        return True

    def shown(self) -> Text | None:
        """None: nothing is offered."""
        if self.offered is None or not self.offered.found:
            return None
        text = Text("  tab ", KEY, no_wrap=True, overflow="ellipsis")
        for found in self.offered.found[:_SHOWN]:
            text.append(f"  {one_line(found.text, 40)}", "")
            if found.n is not None:
                text.append(f" {count(found.n, 6).strip()}", "dim")
        if (n := len(self.offered.found) - _SHOWN) > 0:
            text.append(f"  … {n} more", "dim")
        return text

    def action_complete(self) -> None:
        """The first that is offered stands in its place."""
        if self.offered is None or not self.offered.found:
            return
        first, length, text = self.offered.first, self.offered.length, self.offered.found[0].text
        self.offered = None
        self.value = self.value[:first] + text + self.value[first + length :]
        self.cursor_position = first + len(text)
