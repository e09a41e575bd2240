"""What a stream says is heard, however it is compressed and however late it says so, with plain clients."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

import httpx
import pytest

from tests.e2e.conftest import Make
from tests.e2e.world import World, served_by
from tests.running import pat
from tests.standin import RESPONSES, Answer

CODINGS = pytest.mark.parametrize("coding", ["", "zstd"])
"""Codings of a backend that compresses without being asked; tests/protocol/test_stream_events.py has all of them."""


def fails(world: World, after: int) -> None:
    world.standin.plan(Answer(path=RESPONSES, fail="usage_limit_reached", fail_message="no more", fail_after=after))


def asked(world: World) -> list[str]:
    return [seen.name for seen in world.seen if seen.path == RESPONSES and seen.method == "POST"]


@CODINGS
def test_a_limit_in_a_stream_moves_the_session(make: Make, coding: str) -> None:
    """At once before the answer has begun, otherwise with the next request."""
    world = make(pat("work"), pat("spare"), compress=coding)
    with world.proxy.client() as client:
        # given a limit in the first events: it goes unseen
        fails(world, after=0)
        early = world.turn(client, "early")
        assert early.headers.get("content-encoding", "") == coding
        assert "response.failed" not in early.text
        assert served_by(early) == asked(world)[-1] != asked(world)[-2]

    world.standin.unplan()
    world = make(pat("work"), pat("spare"), compress=coding)
    with world.proxy.client() as client:
        # given a limit after something was said: the client sees it, and its retry is another one's
        fails(world, after=1)
        late = world.turn(client, "late")
        assert late.status_code == 200
        assert "response.output_text.delta" in late.text
        assert "usage_limit_reached" in late.text
        retry = world.turn(client, "late")

    first, second = asked(world)
    assert served_by(retry) == second != first
    world.proxy.says(f"{first} is limited until")
    world.check()


def test_only_streams_are_requested_without_compression(make: Make) -> None:
    world = make(pat("work"))
    accepts = {"accept-encoding": "zstd,gzip", "thread-id": "s"}
    with world.proxy.client() as client:
        answer = world.turn(client, headers=accepts)
        client.get("https://chatgpt.com/backend-api/codex/models", headers=accepts)

    assert served_by(answer) == "work"
    assert "content-encoding" not in answer.headers
    asked = [seen for seen in world.seen if "/codex/" in seen.path]
    sent = {seen.path.rpartition("/")[2]: seen.header("accept-encoding") for seen in asked}
    assert sent == {"responses": None, "models": "zstd,gzip"}
    world.check()


@CODINGS
def test_a_compressed_stream_is_relayed_piece_by_piece(make: Make, coding: str) -> None:
    world = make(pat("work"), compress=coding, pace=0.2, deltas=5)
    came = []
    with world.proxy.client() as client, stream(client) as answer:
        for line in answer.iter_lines():
            if "delta" in line:
                came.append(time.monotonic())

    assert came[-1] - came[0] > 0.4


def stream(client: httpx.Client) -> AbstractContextManager[httpx.Response]:
    body = {"model": "m", "input": "x"}
    return client.stream("POST", f"https://chatgpt.com{RESPONSES}", json=body, headers={"thread-id": "s"})
