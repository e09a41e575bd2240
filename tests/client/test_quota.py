"""What the real client's TUI shows of limits: those of the pool, never those of its own login."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests.client.conftest import Make
from tests.client.screen import Screen, tmux
from tests.running import CLIENT, pat
from tests.standin import USAGE

pytestmark = pytest.mark.real_client


@pytest.mark.skipif(tmux() is None and not os.environ.get("CI"), reason="needs tmux")
def test_a_login_at_its_limit_shows_what_the_pool_has_left(make: Make, tmp_path: Path) -> None:
    """No dialogue suggests a smaller model."""
    world = make(pat("work", turn_percent=1.0))
    world.standin.limit(CLIENT.token, time.time() + 9_000)
    world.standin.grant(CLIENT.token)
    with Screen(world.client, tmp_path) as screen:
        screen.shows("GPT")
        screen.types("say hi echo:banana")
        screen.shows(r"answer from work, request \d+, banana")
        screen.types("/status")
        screen.shows(r"5h limit: +\[.*\] (100|[89]\d)% left")
        shown = screen.text

    asked = world.standin.requests(USAGE)
    assert {one.name for one in asked if "codex-tui" in (one.header("user-agent") or "")} == {"work"}
    assert not re.search(r"Approaching rate limits|hit your usage limit|100% used|■", shown)
    assert world.standin.leaks == []
