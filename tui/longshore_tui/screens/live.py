"""What the screens share: a view that is followed while the screen is in front, and the header."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, cast

from longshore.terminal import clean
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from ..feed import Follow
from ..model import Connected, Heard, Link, Lost, Refused, Update, View
from ..widgets.header import Header
from ..widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from longshore.status import BatchStatus, JobStatus, Page

    from ..app import Dashboard


class LiveScreen(Screen[None]):
    """A screen that shows a view of the service; what was read last stays when the service is away."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "back", "back"),
        Binding("ctrl+r", "refollow", "ask again now", show=False),
    ]

    class Told(Message):
        """The feed told something; for the follow that asked for it."""

        def __init__(self, follow: int, update: Update) -> None:
            super().__init__()
            self.follow = follow
            self.update = update

    def __init__(self) -> None:
        super().__init__()
        self.link = Link()
        self._follow: Follow | None = None
        self._n_follows = 0

    # What a screen is.

    @property
    def view(self) -> View:
        raise NotImplementedError

    @property
    def crumbs(self) -> Sequence[str]:
        """Where one is, from the root."""
        raise NotImplementedError

    def body(self) -> ComposeResult:
        raise NotImplementedError

    def take(self, update: Update) -> None:
        """Show what was read."""
        raise NotImplementedError

    @property
    def has_read(self) -> bool:
        """Whether anything was read of the view so far."""
        raise NotImplementedError

    def nothing(self) -> str:
        """What to say when what was read is nothing; '' when it is something."""
        return ""

    def tick(self) -> None:
        """A second is over: what depends on the time of day is another."""
        self.show_header()

    # What all do.

    @property
    def dashboard(self) -> Dashboard:
        return cast("Dashboard", self.app)

    @property
    def now(self) -> float:
        return self.dashboard.clock()

    def compose(self) -> ComposeResult:
        yield Header()
        with Vertical(id="body"):
            yield from self.body()
        yield Static(id="empty")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.set_interval(1.0, self.tick)
        self.show_header()
        self.show_empty()

    def on_resize(self) -> None:
        self.show_header()

    def on_screen_resume(self) -> None:
        if self._follow is None:
            self.action_refollow()

    def on_screen_suspend(self) -> None:
        if not self.app.screen.is_modal:  # Behind a modal one it is still seen.
            self.unfollow()

    def on_unmount(self) -> None:
        self.unfollow()

    def action_refollow(self) -> None:
        """Ask for the view as it is now; what comes from an earlier asking is not heard any more."""
        self.unfollow()
        self._n_follows += 1
        self._follow = self.dashboard.feed.follow(self.view, self.teller(self._n_follows))

    def teller(self, follow: int) -> Callable[[Update], None]:
        """How threads of the feed reach this screen."""

        def tell(update: Update) -> None:
            self.post_message(self.Told(follow, update))

        return tell

    def unfollow(self) -> None:
        if self._follow:
            self._follow.close()
            self._follow = None

    def on_live_screen_told(self, message: Told) -> None:
        if message.follow != self._n_follows or not self.is_mounted:
            return
        self.link = self.link.after(message.update, self.now)
        if not isinstance(message.update, Connected | Heard | Lost | Refused):
            self.take(message.update)
        self.show_header()
        self.show_empty()

    def show_header(self) -> None:
        self.query_one(Header).tell(self.crumbs, self.link, self.now)
        self.set_class(self.link.state(self.now)[0] != "live", "-not-live")

    def show_empty(self) -> None:
        """In place of the body, when there is nothing to show: why."""
        why = self.nothing() if self.has_read else self._without_connection()
        empty = self.query_one("#empty", Static)
        empty.update(Text(why))
        empty.display = bool(why)
        self.query_one("#body").display = not why

    def action_back(self) -> None:
        self.app.pop_screen()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # Below the first of our screens lies Textual's own, to which nobody goes back.
        return action != "back" or len(self.app.screen_stack) > 2

    def _without_connection(self) -> str:
        if self.link.refused:
            return f"{clean(self.link.refused.error)}\n\n{clean(self.link.refused.hint)}"
        if self.link.lost:
            return (
                f"{clean(self.link.lost.error)}\n\nThe service is asked again and again; ctrl+r asks now. "
                "Is it running? `longshore up` starts one on this machine."
            )
        return f"Connecting to {self.dashboard.feed.endpoint} …"


class PagedScreen(LiveScreen, Generic[Row]):
    """A list, of which one page is shown; beyond its first and last row lie the neighbouring pages."""

    def __init__(self, columns: Sequence[Column[Row]], key: Callable[[Row], int]) -> None:
        super().__init__()
        self.page: Page[Row] | None = None
        self._columns = columns
        self._key = key
        self._starts: list[int] = []
        """After which row each page begins, up to this one; none: it is the first."""
        self._turning = 0

    @property
    def start(self) -> int | None:
        """After which row the page begins; None: the first page."""
        return self._starts[-1] if self._starts else None

    @property
    def page_words(self) -> str:
        """Which page it is, where there are several."""
        if self.page is None or not (self.page.more or self._starts):
            return ""
        return f"page {len(self._starts) + 1}{' ▾' if self.page.more else ''}"

    @property
    def has_read(self) -> bool:
        return self.page is not None

    def body(self) -> ComposeResult:
        yield Static(id="summary")
        yield Table[Row](self._columns, self._key)

    def summary(self) -> Text:
        """The line above the list."""
        raise NotImplementedError

    def tick(self) -> None:
        super().tick()
        self.query_one(Table).refresh()

    def show_page(self, page: Page[Row]) -> None:
        if not page.rows and self._starts:
            self._turn(-1)
            return
        self.page = page
        table = self.query_one(Table)
        if self._turning:
            table.turn(page.rows, to_last=self._turning < 0)
            self._turning = 0
        else:
            table.show(page.rows)
        self.query_one("#summary", Static).update(self.summary())

    def first_page(self) -> None:
        """Begin again, with another view."""
        self._starts.clear()
        self._turning = 1
        self.action_refollow()

    def on_table_left(self, message: Table.Left) -> None:
        if not self._turning and self.page and (self.page.more if message.forward else self._starts):
            self._turn(1 if message.forward else -1)

    def _turn(self, by: int) -> None:
        if by < 0:
            self._starts.pop()
        elif self.page:
            self._starts.append(self._key(self.page.rows[-1]))
        self._turning = by
        self.action_refollow()


def crumb(number: str, named: BatchStatus | JobStatus | None) -> str:
    """Number and name of where one is, as far as they are known."""
    return f"{number} {named.name}".rstrip() if named else number
