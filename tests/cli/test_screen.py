"""What the demo prints: no token, colours where they belong, and an honest exit code."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from codexpool.cli.demo.screen import WIDE, Row, Screen
from codexpool.views.header_table import Sign

TOKEN = "at-test-screen-0123456789abcdef"


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def screen(width: int = WIDE) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False)
    return Screen(console, console), text


def test_a_hidden_token_is_shown_by_kind_length_and_fingerprint() -> None:
    shown, text = screen()
    shown.hide([TOKEN])

    shown.say(f"Bearer {TOKEN}")

    assert TOKEN not in text.getvalue()
    assert f"PAT, {len(TOKEN)} characters, sha256:" in text.getvalue()


def test_a_token_that_nobody_named_is_not_shown_either() -> None:
    shown, text = screen()

    shown.say(f"Bearer {TOKEN}")

    assert TOKEN not in text.getvalue()


@pytest.mark.parametrize("width", [40, 80, WIDE, 200])
def test_no_width_brings_a_token_into_the_table(width: int) -> None:
    shown, text = screen(width)
    shown.hide([TOKEN])

    shown.headers([Row(Sign.REPLACED, "authorization", TOKEN, "<codexpool:work>", TOKEN)], every=True)

    assert "screen-0123" not in text.getvalue()
    assert "at-test" not in text.getvalue()


def test_headers_that_were_kept_can_be_counted_only() -> None:
    shown, text = screen()

    shown.headers([Row(Sign.KEPT, name, "1", "1", "1") for name in ("x-one", "x-two")], every=False)

    assert "x-one" not in text.getvalue()
    assert "2 others" in text.getvalue()


def test_one_check_that_does_not_hold_makes_the_exit_code_1() -> None:
    shown, text = screen()
    shown.check(True, "the first")
    shown.check(False, "the second")

    assert shown.verdict(1.0) == 1
    assert "1 of 2 checks failed: the second" in text.getvalue()


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_a_terminal_whose_user_wants_them(
    monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)

    Screen().check(True, "it holds")

    assert ("\x1b[32m" in terminal.getvalue()) is coloured
