"""What the screens share: something that is followed while the screen is in front, header, keys, states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from longshore.terminal import clean
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from ..feed import Follow, Tell
from ..model import Heard, Lost, Refused, Update
from ..widgets.header import Header
from ..widgets.key_bar import KeyBar

if TYPE_CHECKING:
    from longshore.status import BatchStatus, JobStatus

    from ..app import Dashboard

SMALLEST = (60, 15)


class LiveScreen(Screen[None]):
    """A screen that shows something of the service; what was told last stays when the service is away."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "clear_or_back", "back"),
        Binding("q", "leave", "quit"),
        Binding("q", "back", "back"),
        Binding("ctrl+r", "refollow", "ask again now", show=False),
        Binding("g", "go", "go to …", show=False),
    ]
    KEYS: ClassVar[Sequence[str]] = ()
    """Actions whose keys the last line shows, the most important first."""

    class Told(Message):
        """The feed told something; for the follow that asked for it."""

        def __init__(self, follow: int, update: Update) -> None:
            super().__init__()
            self.follow = follow
            self.update = update

    def __init__(self) -> None:
        super().__init__()
        self.refused: Refused | None = None
        self.lost: Lost | None = None
        self._follow: Follow | None = None
        self._n_follows = 0
        self._was_made = False

    # What a screen is.

    @property
    def crumbs(self) -> Sequence[str]:
        """Where one is, from the root."""
        raise NotImplementedError

    def body(self) -> ComposeResult:
        raise NotImplementedError

    def start(self, tell: Tell) -> Follow:
        """Follow what the screen shows."""
        raise NotImplementedError

    def take(self, update: Update) -> None:
        """Show what was told."""
        raise NotImplementedError

    @property
    def has_read(self) -> bool:
        """Whether anything was told so far."""
        raise NotImplementedError

    def nothing(self) -> str:
        """What to say when what was told is nothing; '' when it is something."""
        return ""

    def few_words(self) -> str:
        """What is most important, for a terminal that is too small for the rest."""
        return ""

    def clear(self) -> bool:
        """Undo the latest narrowing of what is shown; False when there is none."""
        return False

    def tick(self) -> None:
        """A second is over: what depends on the time of day is another."""
        self.show_header()

    def redraw(self) -> None:
        """The theme is another."""
        self.show_header()
        self.show_empty()

    # What all do.

    @property
    def is_made(self) -> bool:
        """Its widgets are there; not any more while the program ends."""
        return self._was_made and bool(self.query(KeyBar))

    @property
    def dashboard(self) -> Dashboard:
        return cast("Dashboard", self.app)

    @property
    def now(self) -> float:
        return self.dashboard.clock()

    @property
    def is_wide(self) -> bool:
        return self.app.size.width >= 110

    def compose(self) -> ComposeResult:
        yield Header()
        with Vertical(id="body"):
            yield from self.body()
        yield Static(id="empty")
        yield KeyBar()
        yield Static(id="too-small")

    def on_mount(self) -> None:
        self._was_made = True
        self.set_interval(1.0, self.tick)
        self.show_header()
        self.show_empty()

    def on_resize(self) -> None:
        if self.is_made:
            self.show_header()

    def show_too_small(self) -> None:
        """In place of all, on a terminal on which nothing can be read."""
        size = self.app.size
        too_small = size.width < SMALLEST[0] or size.height < SMALLEST[1]
        if too_small != self.has_class("-too-small"):
            self.set_class(too_small, "-too-small")
            self.show_empty()
        if too_small:
            words = f"need {SMALLEST[0]}×{SMALLEST[1]}, have {size.width}×{size.height}\n{self.few_words()}"
            self.query_one("#too-small", Static).update(Text(words, justify="center"))

    def on_screen_resume(self) -> None:
        if self._follow is None:
            self.action_refollow()
        self.redraw()

    def on_screen_suspend(self) -> None:
        if not self.app.screen.is_modal:  # Behind a modal one it is still seen.
            self.unfollow()

    def on_unmount(self) -> None:
        self.unfollow()

    def action_refollow(self) -> None:
        """Ask anew; what comes from an earlier asking is not heard any more."""
        self.unfollow()
        self._n_follows += 1
        self.refused = None
        self._follow = self.start(self._teller(self._n_follows))
        self.dashboard.session.hurry()

    def hurry(self) -> None:
        """The service is back."""
        if self._follow:
            self._follow.hurry()

    def unfollow(self) -> None:
        if self._follow:
            self._follow.close()
            self._follow = None

    def on_live_screen_told(self, message: Told) -> None:
        if message.follow != self._n_follows or not self.is_made:
            return
        update = message.update
        self.refused = update if isinstance(update, Refused) else None
        self.lost = update if isinstance(update, Lost) else None
        if not isinstance(update, Heard | Lost | Refused):
            self.take(update)
        self.show_header()
        self.show_empty()

    def show_header(self) -> None:
        if not self.is_made:
            return
        self.show_too_small()
        link = self.dashboard.link
        state = link.state(self.now)
        trouble = self.refused.error if self.refused and self.has_read else ""
        if link.lost:
            trouble = link.lost.error
        elif state[0] == "live" and self.lost:
            state = "stale", "◐ asking again"
        self.query_one(Header).tell(self.crumbs, link.session, self.dashboard.feed.endpoint, state, trouble)
        self.set_class(state[0] not in ("live", "connecting"), "-not-live")
        self.show_keys()

    def show_keys(self) -> None:
        is_root = self.dashboard.is_root(self)
        self.query_one(KeyBar).tell(self.KEYS, ["app.menu", "leave" if is_root else "clear_or_back"])

    def show_empty(self) -> None:
        """In place of the body, when there is nothing to show: why."""
        if not self.is_made:
            return
        why = self.nothing() if self.has_read else self._without_connection()
        if self.refused and self.has_read:
            why = self._refusal(self.refused)
        empty = self.query_one("#empty", Static)
        empty.update(Text(why))
        too_small = self.has_class("-too-small")
        empty.display = bool(why) and not too_small
        self.query_one("#body").display = not why and not too_small

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether it makes sense now: other keys are not offered."""
        if action in ("leave", "back"):
            return self.dashboard.is_root(self) == (action == "leave")
        return True

    def action_clear_or_back(self) -> None:
        if not self.clear():
            self.action_back()

    def action_back(self) -> None:
        # Below the first of our screens lies Textual's own, to which nobody goes back.
        if len(self.app.screen_stack) > 2:
            self.app.pop_screen()

    def action_leave(self) -> None:
        self.app.exit()

    def action_go(self) -> None:
        from .go import GoScreen

        self.app.push_screen(GoScreen(), self._gone)

    def _gone(self, where: str | None) -> None:
        if where == "batches":
            self.dashboard.go_to_batches()
        elif where and (focused := self.focused) is not None:
            self.run_worker(focused.run_action(where), exit_on_error=True)

    def _teller(self, follow: int) -> Callable[[Update], None]:
        """How threads of the feed reach this screen."""

        def tell(update: Update) -> None:
            self.post_message(self.Told(follow, update))

        return tell

    def _without_connection(self) -> str:
        refused = self.refused or self.dashboard.link.refused
        lost = self.dashboard.link.lost or self.lost
        if refused:
            return self._refusal(refused)
        endpoint = self.dashboard.feed.endpoint
        if lost:
            return (
                f"No connection to {endpoint}\n\n{clean(lost.error)}\n\n"
                "It is asked again and again; ctrl+r asks now.\n\n"
                "Is it running?      longshore up        starts one on this machine\n"
                "What is wrong?      longshore doctor    looks for it"
            )
        return f"Connecting to {endpoint} …"

    def _refusal(self, refused: Refused) -> str:
        return f"{clean(refused.error)}\n\n{clean(refused.hint)}".rstrip()


def crumb(number: str, named: BatchStatus | JobStatus | None) -> str:
    """Number and name of where one is, as far as they are known."""
    return f"{number} {named.name}".rstrip() if named else number
