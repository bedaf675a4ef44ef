"""Asking before something is done that cannot be undone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from ..format import WARNING, one_line, symbol


class ConfirmScreen(ModalScreen[bool]):
    """Ends with whether it shall be done; who presses a key by mistake keeps everything.

    `lines`: a state (or '') and what becomes of what is in it; `typed`: what must be typed, or ''.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(False)", "keep"),
        Binding("left,right,up,down", "other", "the other", show=False),
    ]

    def __init__(
        self, question: str, lines: Sequence[tuple[str, str]], typed: str, do: str, same_as: str
    ) -> None:
        super().__init__()
        self._question = question
        self._lines = lines
        self._typed = typed
        self._do = do
        self._same_as = same_as

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._text())
            if self._typed:
                yield Static(f"Type {self._typed} to confirm, esc keeps it:", markup=False)
                yield Input(compact=True)
            else:
                with Horizontal():
                    yield Button("keep", id="keep", compact=True)
                    yield Button(self._do, id="do", compact=True, variant="error")
            yield Static(f"same as: {self._same_as}", id="same-as", markup=False)

    def on_mount(self) -> None:
        self.set_focus(self.query_one(Input) if self._typed else self.query_one("#keep"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.value.strip() == self._typed:
            self.dismiss(True)
        else:
            event.input.value = ""
            event.input.placeholder = f"that is not {self._typed}; nothing was done"

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "do")

    def action_other(self) -> None:
        if not self._typed:
            # At once: `Widget.focus` comes after keys that were pressed quickly.
            self.set_focus(self.query_one("#keep" if self.query_one("#do").has_focus else "#do"))

    def _text(self) -> Text:
        text = Text(f"{one_line(self._question)}\n\n", "bold")
        for state, words in self._lines:
            sign, colour = symbol(state) if state else (" ", "")
            text.append(f"  {sign} ", colour)
            text.append(f"{one_line(words)}\n", "" if state else WARNING)
        return text
