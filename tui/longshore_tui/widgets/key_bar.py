"""The last line of a screen: the keys that matter most there, as many as there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widgets import Static

from ..format import DIM, KEY

MOST = 12


class KeyBar(Static):
    """Always ends with the keys of `ends`; before them come others, the most important first."""

    def tell(self, names: Sequence[str], ends: Sequence[str]) -> None:
        """Show the keys of these actions, as far as they can be taken now."""
        keys = keys_of(self.screen)
        found = [keys[name] for name in names if name in keys]
        last = [keys[name] for name in ends if name in keys]
        room = self.app.size.width - 2 - sum(_width(*each) for each in last)
        shown: list[tuple[str, str]] = []
        for each in found:
            room -= _width(*each)
            if room < 0 or len(shown) + len(last) >= MOST:
                break
            shown.append(each)
        text = Text(no_wrap=True)
        for key, does in (*shown, *last):
            text.append(f"{key} ", KEY)
            text.append(f"{does}  ", DIM)
        self.update(text)


def keys_of(screen: Screen[object]) -> dict[str, tuple[str, str]]:
    """By action, the first key that takes it and what it does."""
    found: dict[str, tuple[str, str]] = {}
    for key, active in screen.active_bindings.items():
        if active.enabled and is_ours(active.node, active.binding):
            found.setdefault(
                active.binding.action, (shown_key(key, active.binding), active.binding.description)
            )
    return found


def is_ours(node: DOMNode, binding: Binding) -> bool:
    """Not bound by Textual itself."""
    return binding.action in _actions_of(type(node))


@cache
def _actions_of(kind: type[DOMNode]) -> frozenset[str]:
    """What our own classes bind."""
    package = __name__.partition(".")[0]
    ours = [each for each in kind.__mro__ if each.__module__.partition(".")[0] == package]
    bound = [binding for each in ours for binding in vars(each).get("BINDINGS", ())]
    return frozenset(binding.action for binding in Binding.make_bindings(bound))


_KEYS = {
    "dollar_sign": "$",
    "enter": "⏎",
    "escape": "esc",
    "question_mark": "?",
    "slash": "/",
    "space": "spc",
    "left_curly_bracket": "{",
    "right_curly_bracket": "}",
    "pagedown": "PgDn",
    "pageup": "PgUp",
    "home": "Home",
    "end": "End",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "backspace": "backspace",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "ctrl+p": "^p",
    "ctrl+r": "^r",
    "ctrl+d": "^d",
    "ctrl+u": "^u",
    "colon": ":",
    "f1": "F1",
}


def shown_key(key: str, binding: Binding) -> str:
    return binding.key_display or _KEYS.get(key, key)


def _width(key: str, does: str) -> int:
    return cell_len(key) + cell_len(does) + 3
