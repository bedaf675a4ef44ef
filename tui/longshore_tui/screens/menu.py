"""Every key of a screen, to look for and to press; what the states mean."""

from __future__ import annotations

from typing import ClassVar, cast

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from .. import format
from ..widgets.key_bar import is_ours, shown_key

Chosen = tuple[DOMNode, str]
_NOTES = {
    "≥": "before a cost: more will come; costs are those of ended attempts, exact",
    "▲ 3 new": "rows that are newer than what is shown; Home shows them",
}


class MenuScreen(ModalScreen[Chosen | None]):
    """Ends with the action that was chosen, and whose it is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1", "dismiss(None)", "close"),
        Binding("down", "move('cursor_down')", "down", show=False),
        Binding("up", "move('cursor_up')", "up", show=False),
        Binding("pagedown", "move('page_down')", "down", show=False),
        Binding("pageup", "move('page_up')", "up", show=False),
    ]

    def __init__(self, about: Screen[object]) -> None:
        super().__init__()
        self._entries = entries_of(about)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Input(compact=True, placeholder="type to look for a key; ⏎ presses it, esc closes")
            yield OptionList()

    def on_mount(self) -> None:
        self._fill("")
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._fill(event.value)

    def on_input_submitted(self) -> None:
        self.query_one(OptionList).action_select()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._entries[int(cast(str, event.option_id))][2])

    def action_move(self, how: str) -> None:
        getattr(self.query_one(OptionList), f"action_{how}")()

    def _fill(self, wanted: str) -> None:
        options = self.query_one(OptionList)
        options.clear_options()
        for at, (keys, does, chosen) in enumerate(self._entries):
            text = Text(no_wrap=True, overflow="ellipsis")
            text.append(keys + " " * max(1, 16 - cell_len(keys)), format.KEY if chosen else "bold")
            text.append(does)
            if wanted.lower() in text.plain.lower():
                options.add_option(Option(text, id=str(at), disabled=chosen is None))
        options.action_first()


def entries_of(screen: Screen[object]) -> list[tuple[str, str, Chosen | None]]:
    """Keys, what they do, and how to do it; at the end what the signs mean."""
    found: dict[tuple[str, str], list[str]] = {}
    nodes: dict[tuple[str, str], DOMNode] = {}
    bindings = sorted(screen.active_bindings.items(), key=lambda each: not each[1].binding.show)
    for key, active in bindings:
        if active.enabled and is_ours(active.node, active.binding):
            entry = active.binding.action, active.binding.description
            found.setdefault(entry, []).append(shown_key(key, active.binding))
            nodes[entry] = active.node
    entries: list[tuple[str, str, Chosen | None]] = [
        (" ".join(keys), entry[1], (nodes[entry], entry[0])) for entry, keys in found.items()
    ]
    entries += [(format.state(word)[0], means, None) for word, means in format.MEANINGS.items()]
    entries += [(sign, means, None) for sign, means in _NOTES.items()]
    return entries
