"""The real client whose identity is chosen by hand: named in the proxy's URL, or pinned to its session."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from codexpool.state.sqlite import open_state
from codexpool.upkeep.persistence import PINNED, pin_name
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
    with closing(open_state(world.proxy.state)) as state:
        note = {"identity": identity, "at": time.time()} if identity is not None else {}
        state.put_note(PINNED, pin_name(world.proxy.pool, session), note)
    until(lambda: pins(world) != before, 10, "the proxy to know of the pin")


def test_terminal_is_served_by_the_identity_it_names_and_an_unknown_one_is_told_at_once(
    make: Make, transport: str
) -> None:
    world = make(pat("work"), pat("spare"), transport=transport)
    for user in ("spare", "work"):
        name(world, user)
        assert answered(world.client.exec("say hi echo:banana"), "banana") == user
    name(world, "wrok")
    calls, begun = len(world.standin.requests(RESPONSES)), time.monotonic()

    run = world.client.exec("say hi echo:banana")

    assert time.monotonic() - begun < 10
    assert run.returncode == 1
    assert trouble(run) == []
    assert {line.partition(" name")[0] for line in run.stderr.splitlines() if UNKNOWN in line} == {
        f"ERROR: {UNKNOWN}"
    }
    assert len(world.standin.requests(RESPONSES)) == calls
    world.check()


@pytest.mark.skipif(tmux() is None and not os.environ.get("CI"), reason="needs tmux")
def test_tui_moves_with_its_pin_unseen_and_says_when_that_identity_is_at_its_limit(
    make: Make, tmp_path: Path
) -> None:
    world = make(pat("work"), pat("spare"))
    with Screen(world.client, tmp_path) as screen:
        screen.shows("GPT")
        screen.types("say hi echo:banana")
        screen.shows(r"answer from \w+, request \d+, banana")
        served = world.standin.requests(RESPONSES)[-1]
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
