"""What follows `g`."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import Static


class GoScreen(ModalScreen[str | None]):
    """Ends with where to go: ``batches``, or an action of what has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("b", "dismiss('batches')", "batches"),
        Binding("g,home", "dismiss('first')", "first row"),
        Binding("e,G,end", "dismiss('last')", "last row"),
        Binding("escape,q", "dismiss(None)", "nowhere"),
    ]

    def compose(self) -> ComposeResult:
        yield Static(" go to   b batches   g first row   e last row   esc stay ")
