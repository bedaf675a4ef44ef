"""What can be read in which theme, and without any colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes_service import FakeService
from longshore import UsageError
from longshore_tui import format, themes
from longshore_tui.__main__ import theme_of
from rich.color import Color
from rich.segment import Segment
from terminal import Terminal

from .conftest import Open

Submit = Callable[..., int]
LEAST = {"longshore-dark": 4.5, "longshore-light": 4.5, "longshore-hc": 7.0}
"""WCAG 2 asks 4.5 to 1 of text, and 7 to 1 of text for everybody."""


def contrast(one: str | Color, other: str | Color) -> float:
    """As WCAG 2 counts."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str | Color) -> float:
    colour = Color.parse(colour) if isinstance(colour, str) else colour
    parts = [part / 255 for part in colour.get_truecolor()]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_counted_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == 21
    assert round(contrast("#777777", "#ffffff"), 2) == 4.48


@pytest.mark.parametrize("name", themes.NAMES)
def test_every_state_can_be_read_on_every_ground_of_every_theme(name: str) -> None:
    looks = themes.styles(name).styles
    assert {format.symbol(word)[1] for word in format.MEANINGS} <= looks.keys()
    for look, style in looks.items():
        for ground, colour in themes.grounds(name).items():
            assert style.color
            assert contrast(style.color, colour) >= LEAST[name], (look, ground)


def seen(terminal: Terminal) -> list[Segment]:
    """What is drawn in front, but for blanks and bars, which are no text."""
    screen = terminal.app.screen
    front = (screen.children[0] if screen.is_modal else screen).region
    strips = [
        strip.crop(front.x, front.right)
        for strip in screen._compositor.render_strips()[front.y : front.bottom]
    ]
    no_text = set(" █▓▚▒░▐▁▂▃▄▅▆▇▔▎▊│╭╮╰╯─")
    return [each for strip in strips for each in strip if set(each.text) - no_text and each.style]


async def walk(terminal: Terminal, look: Callable[[], None]) -> None:
    """See all kinds of screens."""
    await terminal.sees("doomed", "● live")
    look()
    await terminal.press("slash", *"a:1")
    await terminal.sees("no field")
    look()
    await terminal.press("escape", "question_mark")
    await terminal.sees("type to look for")
    look()
    await terminal.press("escape", "c")
    await terminal.sees("same as:")
    look()
    await terminal.press("escape", "enter")
    await terminal.sees("✗ failure", "✓ success", "▶ running")
    look()
    await terminal.press("down", "down", "enter")
    await terminal.sees("exit 3", "wrote this")
    look()
    await terminal.press("4")
    await terminal.sees("attempt 1  ended")
    look()


@pytest.fixture
def some_of_all(service: FakeService, submit: Submit) -> None:
    batch_id = submit("doomed", n_jobs=6)
    service.finish(batch_id, 1)
    service.write(batch_id, 2, b"on the way\n")
    service.finish(batch_id, 3, exit_code=3, log=b"wrote this\n")
    service.batches[batch_id].jobs[3].reason = "exit code 3"
    service.notices = ["mind the gap"]


@pytest.mark.parametrize("name", themes.NAMES)
async def test_whatever_is_on_a_screen_can_be_read(
    some_of_all: None, open_dashboard: Open, name: str
) -> None:
    async with open_dashboard(theme=name) as terminal:

        def look() -> None:
            for text, style, _ in seen(terminal):
                assert style
                assert style.color
                assert style.bgcolor
                assert not style.dim, text
                assert contrast(style.color, style.bgcolor) >= 4.5, (text, style, terminal.text)

        await walk(terminal, look)


async def test_another_theme_is_chosen_while_it_runs(some_of_all: None, open_dashboard: Open) -> None:
    def ground(terminal: Terminal) -> str | None:
        style = next(each.style for each in seen(terminal) if "doomed" in each.text)
        assert style
        assert style.bgcolor
        return style.bgcolor.name

    async with open_dashboard() as terminal:
        await terminal.sees("doomed", "● live")
        assert ground(terminal) == themes.grounds("longshore-dark")["cursor-focus"]
        await terminal.press("ctrl+p", *"light")
        await terminal.sees("theme longshore-light")
        await terminal.press("enter")
        await terminal.until(lambda: ground(terminal) == themes.grounds("longshore-light")["cursor-focus"])


async def test_without_colours_all_states_are_told_apart(
    some_of_all: None, open_dashboard: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with open_dashboard() as terminal:

        def look() -> None:
            for strip in terminal.app.screen._compositor.render_strips():
                for _, style, _ in strip:
                    for colour in (style.color, style.bgcolor) if style else ():
                        assert colour is None or len(set(colour.get_truecolor())) == 1

        await walk(terminal, look)


def test_a_theme_is_chosen_by_the_environment_or_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    environ = {"LONGSHORE_CONFIG": str(file)}
    assert theme_of(environ) == "longshore-dark"
    file.write_text('[ui]\ntheme = "longshore-light"\n')
    assert theme_of(environ) == "longshore-light"
    assert theme_of({**environ, "LONGSHORE_THEME": "longshore-hc"}) == "longshore-hc"
    with pytest.raises(UsageError, match=r"LONGSHORE_THEME must be one of longshore-dark, .*'pink'"):
        theme_of({**environ, "LONGSHORE_THEME": "pink"})
    file.write_text("[ui]\ntheme = 7\n")
    with pytest.raises(UsageError, match=r"config\.toml: theme must be one of .*, got 7"):
        theme_of(environ)
