"""The real Codex CLI while its proxy is ended and another one takes its place: a person sees nothing of it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.client.conftest import Make, World
from tests.client.test_keeps_serving import when
from tests.running import answered, pat

pytestmark = pytest.mark.real_client


def is_asked(world: World) -> bool:
    """Whether the turn is under way, and not only the warming up of a socket."""
    return any(b"echo:banana" in (seen.body or b"") for seen in world.model_calls(200))


def test_a_turn_outlives_the_end_of_its_proxy(make: Make, transport: str) -> None:
    """The successor serves the next one."""
    # given a turn that takes its time
    world = make(pat("work"), pat("spare"), transport=transport, pace=0.3)
    log = world.proxy.log_file

    # when the proxy is told to end in the middle of it
    with when(lambda: is_asked(world), lambda: os.kill(world.proxy.pid, signal.SIGTERM)):
        first = answered(world.client.exec("say hi echo:banana"), "banana")

    # then it was waited for
    assert world.proxy.stop(0) == 0
    assert "1 under way, with 30 seconds to end" in log.read_text()
    # and another proxy goes on with the session
    world.proxy.start()
    world.client.environ["HTTPS_PROXY"] = world.proxy.url
    assert answered(world.client.exec("resume", "--last", "and now echo:apple"), "apple") == first
    world.nothing_amiss()
