"""The real Codex CLI with a pool whose identities are limited, refused and cut: what a person sees."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.client.conftest import Make, World
from tests.running import answered, pat, trouble, until
from tests.standin import RESPONSES, Answer, Seen, Token

pytestmark = pytest.mark.real_client

HOUR = 3600
ROUNDS = int(os.environ.get("CODEXPOOL_ROUNDS", "3"))
"""Rounds of the long session. 50 take some minutes."""


def other(world: World, name: str) -> str:
    return next(token.name for token in world.tokens if token.name != name)


def token_of(world: World, name: str) -> Token:
    return next(token for token in world.tokens if token.name == name)


def limit(world: World, name: str, seconds: float = HOUR) -> float:
    """Limit an identity for so many seconds. Return the time of its reset."""
    resets_at = float(int(time.time() + seconds))
    world.standin.limit(token_of(world, name).token, resets_at)
    return resets_at


def first_turn(world: World, word: str = "banana") -> str:
    """Make a turn. Return the identity that serves the session from now on."""
    return answered(world.client.exec(f"say hi echo:{word}"), word)


def model_calls(world: World, name: str) -> list[Seen]:
    """Return the model requests under an identity, over HTTP and on sockets, without prewarms."""
    return world.standin.requests(RESPONSES, name)


@contextmanager
def when(holds: Callable[[], object], then: Callable[[], object]) -> Iterator[None]:
    """Call ``then`` as soon as ``holds()`` is true, while the client works."""
    ended = threading.Event()

    def wait() -> None:
        while not ended.is_set():
            if holds():
                then()
                return
            time.sleep(0.002)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def answered_messages(world: World) -> list[Seen]:
    return [seen for seen in list(world.standin.seen) if seen.transport == "message" and seen.complete]


# -- limits


def test_a_limit_goes_unseen_and_is_not_tried_again(make: Make, transport: str) -> None:
    # given a session whose identity reaches its limit (at the handshake, or at the POST)
    world = make(pat("work"), pat("spare"), transport=transport)
    first = first_turn(world)
    limit(world, first)

    run = world.client.exec("resume", "--last", "and now echo:apple")

    assert answered(run, "apple") == other(world, first)
    tried = len(model_calls(world, first))
    # when the client asks again, in the same session and in a new one
    assert answered(world.client.exec("resume", "--last", "now echo:cherry"), "cherry") == other(world, first)
    assert answered(world.client.exec("say echo:plum"), "plum") == other(world, first)
    # then the limited one is not tried
    assert len(model_calls(world, first)) == tried
    world.check()


def test_a_limit_outlives_the_proxy_and_ends_with_its_time(make: Make) -> None:
    world = make(pat("work"), pat("spare"), transport="http")
    first = first_turn(world)
    limit(world, first, 20)
    assert answered(world.client.exec("resume", "--last", "echo:fig"), "fig") == other(world, first)
    ends = time.time() + 20
    world.proxy.stop()
    world.proxy.start()
    world.client.environ["HTTPS_PROXY"] = world.proxy.url
    tried = len(model_calls(world, first))

    for word in ("one", "two"):
        assert answered(world.client.exec(f"say echo:{word}"), word) == other(world, first)

    assert len(model_calls(world, first)) == tried
    until(lambda: time.time() > ends + 1, 30, "the end of the limit")
    names = {answered(world.client.exec(f"say echo:{word}"), word) for word in ("three", "four")}
    assert first in names
    world.check()


def test_a_limit_in_a_frame_goes_unseen(make: Make) -> None:
    world = make(pat("work"), pat("spare"))

    with when(lambda: len(answered_messages(world)) >= 3, lambda: limit(world, answered_messages(world)[-1].name)):
        run = world.client.exec("--dangerously-bypass-approvals-and-sandbox", "tools:5 echo:banana")

    last = answered(run, "banana")
    first = answered_messages(world)[0].name
    assert last == other(world, first)
    assert "is limited until" in world.proxy.log
    tried = len(model_calls(world, first))
    assert answered(world.client.exec("say echo:plum"), "plum") == last
    assert len(model_calls(world, first)) == tried
    world.check()


def test_a_token_that_dies_with_its_socket_open_goes_unseen(make: Make) -> None:
    world = make(pat("work"), pat("spare"))

    def kill() -> None:
        world.standin.kill(token_of(world, answered_messages(world)[-1].name).token)

    with when(lambda: len(answered_messages(world)) >= 3, kill):
        run = world.client.exec("--dangerously-bypass-approvals-and-sandbox", "tools:5 echo:banana")

    first = answered_messages(world)[0].name
    assert answered(run, "banana") == other(world, first)
    until(lambda: "needs_replacement" in world.pool, 20, "the flag in pool.toml")
    assert sum(seen.status == 401 for seen in model_calls(world, first)) <= 1
    world.check()


@pytest.mark.parametrize(
    ("transport", "code"), [("http", "rate_limit_exceeded"), ("websocket", "usage_not_included")]
)
def test_an_answer_that_fails_at_its_beginning_goes_unseen(make: Make, transport: str, code: str) -> None:
    world = make(pat("work"), pat("spare"), transport=transport)
    failure = Answer(path=RESPONSES, method="POST", fail=code, fail_message="try again in 30s")
    if transport == "websocket":  # after the prewarm
        failure = replace(failure, method="MESSAGE", transport="message", after=1)
    world.standin.plan(failure)

    run = world.client.exec("say hi echo:banana")

    served = answered(run, "banana")
    assert {seen.name for seen in world.standin.requests(RESPONSES)} == {served, other(world, served)}
    world.check()


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_a_429_with_and_without_retry_after_goes_unseen(make: Make, transport: str) -> None:
    world = make(pat("work"), pat("spare"), pat("third"), transport=transport)
    body = {"error": {"type": "rate_limit_exceeded", "code": "rate_limit_exceeded", "message": "slow"}}
    method = "POST" if transport == "http" else "GET"
    for headers in ({"retry-after": "60"}, {}):
        world.standin.plan(Answer(path=RESPONSES, method=method, status=429, headers=headers, body=body))

    run = world.client.exec("say hi echo:banana")

    answered(run, "banana")
    tried = [seen for seen in world.standin.requests(RESPONSES) if seen.method == method]
    assert [seen.status for seen in tried][:2] == [429, 429]
    assert len({seen.name for seen in tried}) == 3
    world.check()


def test_with_all_limited_the_client_shows_when_to_retry(make: Make, transport: str) -> None:
    world = make(pat("work"), pat("spare"), transport=transport)
    first = first_turn(world)
    soon = limit(world, first, 2 * HOUR)
    limit(world, other(world, first), 9 * HOUR)

    begun = time.monotonic()
    run = world.client.exec("resume", "--last", "and now echo:apple")

    assert run.returncode == 1
    assert time.monotonic() - begun < 20
    local = time.localtime(soon)
    shown = f"{local.tm_hour % 12 or 12}:{local.tm_min:02d} {'AM' if local.tm_hour < 12 else 'PM'}"
    # (with the date, if that is another day)
    message = rf"all 2 identities are at their limit, or try again at [^.]*\b{shown}\."
    assert re.search(message, run.stderr), run.stderr
    assert trouble(run) == []
    # and each was tried once
    assert [seen.status for name in ("work", "spare") for seen in model_calls(world, name)].count(429) == 2
    world.check()


# -- cut sockets and errors of the backend


def test_a_socket_cut_in_mid_turn_goes_unseen(make: Make) -> None:
    world = make(pat("work"), pat("spare"))
    world.standin.plan(Answer(path=RESPONSES, transport="message", after=1, cut="body"))

    run = world.client.exec("say hi echo:banana")

    served = answered(run, "banana")
    assert {seen.name for seen in world.standin.requests(RESPONSES)} == {served}
    world.check()


@pytest.mark.parametrize("code", [1011])
def test_a_socket_closed_in_mid_turn_goes_unseen(make: Make, code: int) -> None:
    world = make(pat("work"), pat("spare"))
    world.standin.plan(Answer(path=RESPONSES, transport="message", after=1, close=code))

    run = world.client.exec("say hi echo:banana")

    answered(run, "banana")
    world.check()


def test_a_503_twice_goes_unseen(make: Make, transport: str) -> None:
    world = make(pat("work"), pat("spare"), transport=transport)
    world.standin.plan(Answer(path=RESPONSES, times=2, status=503, body={"error": {"message": "no", "type": "x"}}))

    run = world.client.exec("say hi echo:banana")

    served = answered(run, "banana")
    assert {seen.name for seen in world.standin.requests(RESPONSES)} == {served}
    world.check()


def test_a_connection_lost_before_the_first_byte_goes_unseen(make: Make) -> None:
    world = make(pat("work"), transport="http")
    world.standin.plan(Answer(path=RESPONSES, method="POST", times=1, cut="head"))

    run = world.client.exec("say hi echo:banana")

    answered(run, "banana")
    assert len(world.standin.requests(RESPONSES)) == 3  # the handshake, and the POST twice
    world.check()


# -- encrypted reasoning


def test_foreign_encrypted_reasoning_is_left_out_once(make: Make, transport: str) -> None:
    """One refusal is enough to remember it."""
    world = make(pat("work"), pat("spare"), transport=transport, encrypted="bound")
    first = first_turn(world)
    limit(world, first)

    run = world.client.exec("resume", "--last", "and now echo:apple")

    assert answered(run, "apple") == other(world, first)
    refused = [seen for seen in world.standin.seen if "encrypted content of" in seen.refusal or seen.status == 400]
    assert len(refused) == 1
    # and later turns need no second attempt, and keep the reasoning of the new identity
    run = world.client.exec("resume", "--last", "now echo:cherry")
    assert answered(run, "cherry") == other(world, first)
    assert [seen for seen in world.standin.seen if seen.status == 400] == refused
    last = [seen for seen in world.standin.seen if seen.body and b"echo:cherry" in seen.body][-1]
    account = token_of(world, other(world, first)).account_id
    assert f"enc:{account}:".encode() in (last.body or b"")
    assert world.standin.leaks == []


# -- many turns


def test_a_session_on_one_socket_survives_limits(make: Make) -> None:
    world = make(*(pat(name) for name in ("a", "b", "c")), encrypted="bound")
    picks = random.Random(4)
    for number in range(ROUNDS):
        seen_before, turn = len(answered_messages(world)), picks.randint(1, 12)

        def asked(since: int = seen_before) -> list[Seen]:
            return answered_messages(world)[since:]

        def limit_it() -> None:
            limit(world, asked()[-1].name, 6)

        with when(lambda: len(asked()) > turn, limit_it):  # noqa: B023
            run = world.client.exec("--dangerously-bypass-approvals-and-sandbox", f"tools:12 echo:round{number}")

        answered(run, f"round{number}")
        # each of the twelve calls ran once
        outputs = re.findall(r"^answer from \S+, request (\d+)", run.stdout + run.stderr, re.MULTILINE)
        assert len(set(outputs)) >= 12, run.stderr
    assert [refusal for refusal in world.standin.refusals if "encrypted" not in refusal] == []
    assert world.standin.leaks == []
