"""What a batch cost, by resource; apart from it what is not certain: asked again while it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

from longshore.costs import BillingProject, Cost, forecast
from longshore.errors import BatchError, NotFound
from longshore.handles import Batch
from longshore.service import Client
from longshore.status import BatchStatus
from longshore.units import dollars
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

AGAIN_S = 5.0
_STATES = {"warned": format.WARNING, "spent": format.WARNING, "closed": format.WARNING}


class Bill(NamedTuple):
    batch: BatchStatus
    parts: Sequence[Cost]
    """By resource."""
    project: BillingProject | None
    """Who pays; None: that may not be seen."""


class CostScreen(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,dollar_sign,enter", "dismiss", "close")]

    class Answered(Message):
        def __init__(self, found: Bill | BatchError) -> None:
            super().__init__()
            self.found = found

    def __init__(self, batch_id: int) -> None:
        super().__init__()
        self._batch_id = batch_id
        self._is_asking = False

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(id="cost")

    def on_mount(self) -> None:
        self._ask()
        self.set_interval(AGAIN_S, self._ask)

    def on_cost_screen_answered(self, message: Answered) -> None:
        self._is_asking = False
        found = message.found
        if isinstance(found, BatchError):
            text = Text(format.one_line(found.message), format.WARNING)
        else:
            text = bill_text(found)
        self.query_one("#cost", Static).update(text)

    def _ask(self) -> None:
        if not self._is_asking:
            self._is_asking = True
            dashboard = cast("Dashboard", self.app)
            dashboard.feed.ask(self._question, lambda found: self.post_message(self.Answered(found)))

    def _question(self, client: Client) -> Bill:
        batch = Batch(client, self._batch_id).status()
        parts = client.billing.costs(batch_id=batch.id, by="resource")
        try:
            project = client.billing.project(batch.billing_project)
        except NotFound:
            project = None
        return Bill(batch, parts, project)


def bill_text(bill: Bill) -> Text:
    """Each figure with what it is: exact, run up so far, or a guess."""
    batch = bill.batch
    text = Text()

    def line(amount: str, what: str, look: str = "") -> None:
        text.append(f"{amount:>16}", look or "bold")
        text.append(f"  {what}\n", look)

    text.append(f"cost of batch #{batch.id}\n\n", "bold")
    done = f"{batch.n_completed:,} of {batch.n_jobs:,} jobs complete"
    line(dollars(batch.cost, so_far=not batch.complete), f"of complete jobs ({done})")
    if not batch.complete:
        line(f"~{dollars(batch.unfinished_cost)}", "run up so far by jobs that are not complete", format.DIM)
        if (guess := forecast(batch)) is not None:
            line(f"~{dollars(guess[0])}", f"forecast of the whole ({guess[1]})", format.DIM)
    if bill.parts:
        text.append("\nof attempts that have ended\n", "bold")
    for part in bill.parts:
        line(dollars(part.cost), f"{format.one_line(part.resource, 32)}, {part.core_hours:,.2f} core-hours")
    if (project := bill.project) is not None:
        text.append(f"\nbilling project {format.one_line(project.name, 60)}\n", "bold")
        used = Decimal(project.spent_nanousd + project.running_nanousd).scaleb(-9)
        what = f"of its limit of {dollars(project.limit)}" if project.limit is not None else "spent, no limit"
        line(dollars(used), what)
        if project.state in _STATES:
            text.append(f"{'':16}  {project.state}\n", _STATES[project.state])
    text.rstrip()
    return text
