"""The real client whose identity is chosen by hand: named in the proxy's URL, or pinned to its session."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import closing
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from codexpool.state.notes import PINNED, pin_name
from codexpool.state.sqlite import SqliteState
from tests.client.conftest import Make, World
from tests.client.screen import Screen, tmux
from tests.running import answered, pat, trouble, until
from tests.standin import RESPONSES

pytestmark = pytest.mark.real_client

UNKNOWN = (
    "codexpool: the client asks for wrok (codexpool env --identity), but the pool has no usable identity of that"
)


def name(world: World, user: str) -> None:
    """Do what `codexpool env --identity` does."""
    world.client.environ["HTTPS_PROXY"] = world.proxy.url.replace("://", f"://{user}:@")


def pins(world: World) -> list[dict[str, str]]:
    with build_opener(ProxyHandler({"http": world.proxy.url})).open("http://codex.pool/api/status") as answer:
        found: list[dict[str, str]] = json.load(answer)["pins"]
        return found


def pin(world: World, session: str, identity: str | None) -> None:
    """Pin or unpin a session, as `codexpool pin` and `unpin` do, and wait until the proxy knows."""
    before = pins(world)
    with closing(SqliteState(world.proxy.state)) as state:
        note = {"identity": identity, "at": time.time()} if identity is not None else {}
        state.put_note(PINNED, pin_name(str(world.proxy.pool), session), note)
    until(lambda: pins(world) != before, 10, "the proxy to know of the pin")


def errors(run: subprocess.CompletedProcess[str]) -> set[str]:
    """Return what the client shows as errors. (It shows each twice.)"""
    return {line for line in run.stderr.splitlines() if line.startswith("ERROR:")}


def test_a_terminal_is_served_by_the_identity_it_names_only(make: Make, transport: str) -> None:
    """Once that is at its limit, the client is told so, and no other identity serves."""
    world = make(pat("work"), pat("spare"), transport=transport)
    for user, word in (("work", "apple"), ("spare", "fig")):
        name(world, user)
        assert answered(world.client.exec(f"say echo:{word}"), word) == user
    served = len(world.standin.requests(RESPONSES, "work"))
    world.standin.limit(world.tokens[1].token, time.time() + 3600)

    run = world.client.exec("resume", "--last", "echo:pear")

    assert run.returncode == 1
    (line,) = errors(run)
    assert "the client asks for spare (codexpool env --identity), which is at its limit, or try again at" in line
    assert trouble(run) == []
    assert len(world.standin.requests(RESPONSES, "work")) == served
    world.check()


def test_an_unknown_identity_is_told_at_once_in_one_line(make: Make) -> None:
    world = make(pat("work"))
    name(world, "wrok")
    begun = time.monotonic()

    run = world.client.exec("say echo:apple")

    assert time.monotonic() - begun < 10
    assert run.returncode == 1
    (line,) = errors(run)
    assert line.startswith(
        "ERROR: codexpool: the client asks for wrok (codexpool env --identity), but the pool has no"
    )
    assert trouble(run) == []
    assert world.standin.requests(RESPONSES) == []
    world.check()


@pytest.mark.skipif(tmux() is None and not os.environ.get("CI"), reason="needs tmux")
def test_the_tui_moves_with_its_pin_unseen(make: Make, tmp_path: Path) -> None:
    """Once that identity is at its limit, the TUI says so, until the session is unpinned."""
    world = make(pat("work"), pat("spare"))
    with Screen(world.client, tmp_path) as screen:
        screen.shows("GPT")
        screen.types("say hi echo:banana")
        screen.shows(r"answer from \w+, request \d+, banana")
        number, *_ = re.findall(r"answer from \w+, request (\d+), banana", screen.text)  # Others are for the title.
        served = next(seen for seen in world.standin.requests(RESPONSES) if seen.number == int(number))
        first, session = served.name, str(served.header("thread-id"))
        other = {"work": "spare", "spare": "work"}[first]
        pin(world, session, other)
        screen.types("and now echo:apple")
        screen.shows(rf"answer from {other}, request \d+, apple")
        assert not any(sign in screen.text for sign in ("■", "Reconnecting"))

        world.standin.limit(next(token.token for token in world.tokens if token.name == other), time.time() + 7200)
        screen.types("and now echo:cherry")
        screen.shows(rf"(?s)■.*this session is pinned to\s+{other}\s+\(codexpool\s+unpin\)")
        pin(world, session, None)
        screen.types("and now echo:fig")
        screen.shows(rf"answer from {first}, request \d+, fig")
        assert "Reconnecting" not in screen.text
    assert world.standin.leaks == []
