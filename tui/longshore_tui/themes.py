"""The themes: on what ground everything stands, and the colours of states, keys, and asides.

Every colour that is text can be read on every ground of its theme: 4.5 to 1 at least, as WCAG 2 counts,
7 to 1 in `longshore-hc`. What a colour says, a symbol and a word say too.
"""

from __future__ import annotations

from rich.style import Style
from rich.theme import Theme as Styles
from textual.theme import Theme

GROUNDS = ("background", "panel", "cursor", "cursor-focus")

_COLOURS = {
    "longshore-dark": {
        "background": "#14181c", "panel": "#1f262d", "cursor": "#1c2b35", "cursor-focus": "#213745",
        "text": "#dfe3e8", "quiet": "#9aa0a6", "warning": "#e6c229", "key": "#56b4e9",
        "pending": "#9aa0a6", "ready": "#e6c229", "running": "#56b4e9", "success": "#2fbf9b",
        "failure": "#ff7f50", "error": "#e08bd0", "cancelled": "#b0b0b0", "open": "#e6c229",
    },
    "longshore-light": {
        "background": "#fdfdfd", "panel": "#eceff2", "cursor": "#ebf5fc", "cursor-focus": "#d9f0ff",
        "text": "#1b1f23", "quiet": "#5f6368", "warning": "#7a5c00", "key": "#0b62a8",
        "pending": "#5f6368", "ready": "#7a5c00", "running": "#0b62a8", "success": "#00694e",
        "failure": "#b33c00", "error": "#8e2f7d", "cancelled": "#6b6b6b", "open": "#7a5c00",
    },
    "longshore-hc": {
        "background": "#000000", "panel": "#1a1a1a", "cursor": "#0d181f", "cursor-focus": "#162833",
        "text": "#ffffff", "quiet": "#d0d0d0", "warning": "#ffe14d", "key": "#6cc7ff",
        "pending": "#d0d0d0", "ready": "#ffe14d", "running": "#6cc7ff", "success": "#4dffcd",
        "failure": "#ff9b70", "error": "#ff9df0", "cancelled": "#c8c8c8", "open": "#ffe14d",
    },
}  # fmt: skip
NAMES = tuple(_COLOURS)
DEFAULT = NAMES[0]


def theme(name: str) -> Theme:
    """For Textual: the grounds, and what its own widgets take."""
    colours = _COLOURS[name]
    return Theme(
        name=name,
        primary=colours["key"],
        secondary=colours["success"],
        warning=colours["warning"],
        error=colours["failure"],
        success=colours["success"],
        accent=colours["key"],
        foreground=colours["text"],
        background=colours["background"],
        surface=colours["background"],
        panel=colours["panel"],
        dark=name != "longshore-light",
        variables=variables(name),
    )


def variables(name: str) -> dict[str, str]:
    """What `app.tcss` names beside Textual's own colours."""
    return {each: _COLOURS[name][each] for each in ("quiet", "cursor", "cursor-focus")}


def styles(name: str) -> Styles:
    """For texts, by the names that `format.py` gives."""
    colours = {word: colour for word, colour in _COLOURS[name].items() if word not in GROUNDS}
    found = {word: Style(color=colour, bold=word == "key" or None) for word, colour in colours.items()}
    return Styles({f"longshore.{word}": style for word, style in found.items()}, inherit=False)


def grounds(name: str) -> dict[str, str]:
    """What text may stand on, and its colour."""
    return {ground: _COLOURS[name][ground] for ground in GROUNDS}
