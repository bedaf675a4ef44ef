"""Why a batch or a job does not run, or how it ended: asked again while it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from longshore.errors import BatchError
from longshore.handles import Batch
from longshore.service import Client
from longshore.status import Reason
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static

from .. import format

if TYPE_CHECKING:
    from ..app import Dashboard

AGAIN_S = 2.0


class WhyScreen(ModalScreen[None]):
    """`job_id` 0: about the batch alone; else about the job, and below it about its batch."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,W,enter", "dismiss", "close")]

    class Answered(Message):
        """A title and its reasons, in this order; or why there are none."""

        def __init__(self, found: list[tuple[str, Sequence[Reason]]] | BatchError) -> None:
            super().__init__()
            self.found = found

    def __init__(self, batch_id: int, job_id: int = 0) -> None:
        super().__init__()
        self._ids = batch_id, job_id
        self._is_asking = False

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(id="why")

    def on_mount(self) -> None:
        self._ask()
        self.set_interval(AGAIN_S, self._ask)

    def on_why_screen_answered(self, message: Answered) -> None:
        self._is_asking = False
        self.query_one("#why", Static).update(_text(message.found))

    def _ask(self) -> None:
        if not self._is_asking:
            self._is_asking = True
            dashboard = cast("Dashboard", self.app)
            dashboard.feed.ask(self._question, lambda found: self.post_message(self.Answered(found)))

    def _question(self, client: Client) -> list[tuple[str, Sequence[Reason]]]:
        batch_id, job_id = self._ids
        batch = Batch(client, batch_id)
        of_batch = f"batch #{batch_id}", batch.why()
        if not job_id:
            return [of_batch]
        return [(f"job {batch_id}/{job_id}", [batch.job(job_id).why()]), of_batch]


def _text(found: list[tuple[str, Sequence[Reason]]] | BatchError) -> Text:
    if isinstance(found, BatchError):
        return Text(format.one_line(found.message), format.WARNING)
    text = Text()
    for title, reasons in found:
        text.append(f"{title}\n", "bold")
        for reason in reasons:
            text.append(f"  {format.one_line(reason.text)}\n")
            if reason.fix:
                text.append(f"    → {format.one_line(reason.fix)}\n", format.DIM)
        text.append("\n")
    text.rstrip()
    return text
