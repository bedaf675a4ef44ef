"""What the keys do and what the states mean."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from .. import format


class HelpScreen(ModalScreen[None]):
    """The keys of another screen, as they are bound there."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q,enter", "dismiss", "close")]

    def __init__(self, about: Screen[None]) -> None:
        super().__init__()
        self._keys = _keys_of(about)

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(_two_columns([(Text(keys), does) for keys, does in self._keys.items()]))
            yield Static("")
            yield Static(
                _two_columns([(Text(*format.state(word)), does) for word, does in format.MEANINGS.items()])
            )
            yield Static("")
            yield Static("≥ before a cost: more will come. Costs are those of ended attempts, exact.")


def _keys_of(screen: Screen[None]) -> dict[str, str]:
    """Our keys, not those that Textual adds, and what they do."""
    found = {}
    for node in (screen.focused, screen, screen.app):
        for cls in type(node).__mro__:
            if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
                for binding in vars(cls).get("BINDINGS", ()):
                    each = Binding.make_bindings([binding])
                    found[" ".join(map(screen.app.get_key_display, each))] = binding.description
    return found


def _two_columns(rows: list[tuple[Text, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for left, right in rows:
        table.add_row(left, Text(right))
    return table
