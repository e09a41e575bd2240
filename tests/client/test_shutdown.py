"""The real Codex CLI while its proxy shuts down and another one replaces it: the person sees nothing."""

from __future__ import annotations

import os
import signal

import pytest

from tests.client.conftest import Make, World
from tests.client.test_keeps_serving import when
from tests.running import answered, pat

pytestmark = pytest.mark.real_client


def is_asked(world: World) -> bool:
    """Tell whether the turn is under way, and not only the prewarm of a socket."""
    return any(b"echo:banana" in (seen.body or b"") for seen in world.model_calls(200))


def test_a_turn_survives_the_shutdown_of_its_proxy(make: Make, transport: str) -> None:
    """The next proxy serves the next turn."""
    # given a slow turn
    world = make(pat("work"), pat("spare"), transport=transport, pace=0.3)
    log = world.proxy.log_file

    # when the proxy gets a SIGTERM in the middle of it
    with when(lambda: is_asked(world), lambda: os.kill(world.proxy.pid, signal.SIGTERM)):
        first = answered(world.client.exec("say hi echo:banana"), "banana")

    # then the proxy waits for it
    assert world.proxy.stop(0) == 0
    assert "requests under way: 1; waiting up to 30 s" in log.read_text()
    # and another proxy continues the session
    world.proxy.start()
    world.client.environ["HTTPS_PROXY"] = world.proxy.url
    assert answered(world.client.exec("resume", "--last", "and now echo:apple"), "apple") == first
    world.check()
