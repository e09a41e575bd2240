"""A 401 of the backend: the client never sees it, and only whoami's word condemns a token."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.conftest import Make
from tests.e2e.world import MODEL, World, served_by, socket_turn
from tests.running import pat, until
from tests.standin import CLOUDFLARE_PAGE, DISCOVERY, RESPONSES, WHOAMI, Answer, Token

NO_MATCHING_RULE = {"error": {"code": "no_matching_rule", "message": "no rule for this endpoint", "type": "auth"}}
REVOKED = {"error": {"code": "token_revoked", "message": "revoked"}}


def bound(world: World, session: str) -> Token:
    """The identity that serves a session, which is begun with this."""
    with world.proxy.client() as client:
        name = served_by(world.turn(client, session))
    world.reset()
    return next(token for token in world.tokens if token.name == name)


def in_pool(world: World) -> list[str]:
    """The flags in pool.toml, a line each."""
    return [line for line in world.proxy.pool.read_text().splitlines() if line.startswith("needs_replacement")]


def other_than(world: World, token: Token) -> str:
    return next(one.name for one in world.tokens if one is not token)


def test_a_refused_pat_is_replaced_unseen(make: Make) -> None:
    """The answer streams from its first byte."""
    world = make(pat("work"), pat("spare"))
    dead = bound(world, "s")
    head = "# mine\n[pool]   # odd  spacing\nselection = 'round-robin'\n"
    world.proxy.pool.write_text(head + world.proxy.pool.read_text() + "# the end\n\n\n")
    world.proxy.says("was reloaded")
    before = world.proxy.pool.read_bytes().splitlines(keepends=True)
    world.standin.kill(dead.token)
    world.standin.plan(Answer(path=RESPONSES, token=next(t.token for t in world.tokens if t is not dead), pace=0.2))

    arrivals, text = [], b""
    with world.proxy.client() as client:
        body = {"model": "m", "input": "echo:banana"}
        with client.stream("POST", MODEL, json=body, headers={"thread-id": "s"}) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_raw():
                arrivals.append(time.monotonic())
                text += piece

    assert b"banana" in text
    assert arrivals[-1] - arrivals[0] > 0.6
    assert [(seen.name, seen.status) for seen in world.seen] == [(dead.name, 401), (other_than(world, dead), 200)]
    assert len({(seen.body_sha256, seen.path) for seen in world.seen}) == 1
    world.check()

    world.proxy.says(f"{dead.name} needs_replacement")
    until(lambda: in_pool(world), 5, "the flag")
    after = world.proxy.pool.read_bytes().splitlines(keepends=True)
    [flag] = [line for line in after if line.startswith(b"needs_replacement")]
    assert [line for line in after if line is not flag] == before
    assert b"token_revoked" in flag
    assert dead.token.encode() not in flag

    # A flagged token is not tried after a restart, by whoami neither ...
    world.proxy.stop()
    number = len(world.standin.seen)
    world.proxy.ready = 1
    world.proxy.start()
    with world.proxy.client() as client:
        for session in ("s", "t", "u"):
            assert served_by(world.turn(client, session)) != dead.name
    assert {seen.name for seen in world.standin.seen[number:] if not seen.by_pool} == {other_than(world, dead)}

    # ... and a new one serves by itself, and the flag goes.
    new = Token("at-test-brand-new-0123456789abcdef", dead.account_id, dead.user_id, name="new")
    world.standin.add(new)
    world.proxy.pool.write_text(world.proxy.pool.read_text().replace(dead.token, new.token))
    until(lambda: not in_pool(world), 10, "the flag to go")
    assert world.proxy.pool.read_bytes().replace(new.token.encode(), dead.token.encode()) == b"".join(before)
    numbers = count()
    with world.proxy.client() as client:
        until(lambda: served_by(world.turn(client, f"new-{next(numbers)}")) == "new", 10, "the new one to serve")
    world.check()


def test_a_page_of_the_content_network_is_relayed(shared: World) -> None:
    """It flags no identity."""
    bound(shared, "edge")
    shared.standin.plan(
        Answer(path=RESPONSES, status=403, headers={"cf-mitigated": "challenge"}, body=CLOUDFLARE_PAGE)
    )
    with shared.proxy.client() as client:
        answer = shared.turn(client, "edge")

    assert (answer.status_code, answer.text) == (403, CLOUDFLARE_PAGE)
    assert len(shared.seen) == 1
    assert shared.whoamis() == []
    assert in_pool(shared) == []


def test_a_401_page_never_reaches_the_client(shared: World) -> None:
    bound(shared, "edge-401")
    shared.standin.plan(Answer(path=RESPONSES, status=401, body=CLOUDFLARE_PAGE))
    with shared.proxy.client() as client:
        served_by(shared.turn(client, "edge-401"))

    assert shared.whoamis() == []
    assert in_pool(shared) == []


def test_healthy_pats_survive_an_endpoint_scoped_401(shared: World) -> None:
    """With one call each at most."""
    world = shared
    path = "/backend-api/codex/images/generations"
    world.standin.plan(Answer(path=path, times=None, status=401, body=NO_MATCHING_RULE))
    with world.proxy.client() as client:
        first, second = (client.post(f"https://chatgpt.com{path}", json={}) for _ in range(2))
        served_by(world.turn(client))

    assert (first.status_code, second.status_code) == (400, 400)
    assert "not used on codex/images/generations until" in first.text
    assert sorted(seen.name for seen in world.seen if seen.path == path) == ["spare", "work"]
    assert in_pool(world) == []
    assert world.whoamis() == []


@pytest.mark.parametrize(
    "silence",
    [
        Answer(times=2, status=503, body={"error": "busy"}),
        Answer(times=2, status=401, body=CLOUDFLARE_PAGE),
        Answer(times=2, cut="head"),
    ],
    ids=["busy", "page", "cut"],
)
def test_an_empty_whoami_condemns_nobody_and_is_retried(make: Make, silence: Answer) -> None:
    suspect = pat("suspect")
    world = make(suspect, pat("serves"))
    world.standin.plan(replace(silence, path=WHOAMI, token=suspect.token))
    world.standin.plan(Answer(path=RESPONSES, token=suspect.token, times=None, status=401, body=REVOKED))
    times = len(world.whoamis("suspect")) + 1 + (silence.times or 0)
    with world.proxy.client() as client:
        assert {served_by(world.turn(client, f"s-{number}")) for number in range(5)} == {"serves"}

    until(lambda: len(world.whoamis("suspect")) == times, 20, "whoami to be asked again")
    world.proxy.says("suspect rests until")
    assert in_pool(world) == []
    assert "needs_replacement" not in world.proxy.log


async def test_many_refusals_at_once_cost_one_confirmation(shared: World) -> None:
    world = shared
    async with world.proxy.async_client() as client:

        async def turn(number: int) -> str:
            body, headers = {"model": "m", "input": "x"}, {"thread-id": f"many-{number}"}
            return served_by(await client.post(MODEL, json=body, headers=headers))

        served = await asyncio.gather(*(turn(number) for number in range(24)))
        dead = Counter(served).most_common(1)[0][0]
        world.reset()
        token = next(token.token for token in world.tokens if token.name == dead)
        world.standin.plan(Answer(path=RESPONSES, token=token, times=None, status=401, body=REVOKED, delay=0.2))
        again = await asyncio.gather(*(turn(number) for number in range(24)))

    assert dead not in again
    # Sessions that were of another identity stay with it.
    assert all(now == then for now, then in zip(again, served, strict=True) if then != dead)
    await asyncio.to_thread(until, lambda: not world.proxy.door("rested"), 10, "whoami's word")
    assert len(world.whoamis(dead)) == 1
    world.check()


async def test_a_refused_handshake_becomes_a_101_elsewhere(shared: World) -> None:
    world = shared
    async with world.socket("ws") as socket:
        dead = served_by(await socket_turn(socket))
    world.reset()
    world.standin.plan(Answer(path=RESPONSES, transport="websocket", status=401, body=REVOKED))

    async with world.socket("ws") as socket:
        events = await socket_turn(socket, "echo:cherry")

    assert served_by(events) != dead
    assert "cherry" in json.dumps(events)
    assert [seen.status for seen in world.seen if seen.transport == "websocket"] == [401, 101]
    world.check()


async def test_when_all_are_dead_the_client_gets_one_answer(make: Make) -> None:
    """Each was tried once."""
    world = make(pat("work"), pat("spare"), pat("third"))
    for token in world.tokens:
        world.standin.kill(token.token)
    # As far away as a backend is: whoami has confirmed the first refusal before the third one comes.
    world.standin.plan(Answer(path=RESPONSES, times=None, delay=0.2))
    number = len(world.standin.seen)
    async with world.proxy.async_client() as client:
        body, headers = {"model": "m", "input": "x"}, {"thread-id": "dead"}
        answers = [await client.post(MODEL, json=body, headers=headers) for _ in range(3)]
        discovered = await client.get(f"https://chatgpt.com{DISCOVERY}", headers={"thread-id": "dead"})
        with pytest.raises(InvalidStatus) as upgrade:
            async with world.socket("dead"):
                pass

    assert [answer.status_code for answer in answers] == [400] * 3
    for token in world.tokens:
        assert f"{token.name}: replace its PAT (" in answers[0].text
        assert token.token not in str([answer.text for answer in answers])
    assert upgrade.value.response.status_code == 426
    assert (discovered.status_code, discovered.json()["default_account_id"]) == (200, "acc-client")
    paths = (RESPONSES, WHOAMI)
    asked = Counter((seen.path, seen.name) for seen in world.standin.seen[number:] if seen.path in paths)
    assert asked == {(path, token.name): 1 for token in world.tokens for path in paths}


def test_the_client_never_sees_a_401(shared: World) -> None:
    """Whatever the backend answers, in any order."""
    world = shared
    says = [
        Answer(path=RESPONSES, status=401, body=REVOKED),
        Answer(path=RESPONSES, status=401, body={"detail": "Unauthorized"}),
        Answer(path=RESPONSES, status=401, body=CLOUDFLARE_PAGE),
        Answer(path=RESPONSES, status=401),
        Answer(path=RESPONSES, status=401, headers={"www-authenticate": "Bearer"}, body=b"\xff\xfe"),
        Answer(path=RESPONSES, status=500, body=b"oops"),
        Answer(path=RESPONSES, status=429, body={"error": {"code": "rate_limited"}}),
        Answer(path=RESPONSES, status=403, body=CLOUDFLARE_PAGE),
        Answer(path=RESPONSES, cut="head"),
        Answer(path=RESPONSES),
    ]
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    with world.proxy.client() as client:
        for number in range(12):
            world.reset()
            verdicts = [chance.choice(says) for _ in range(chance.randint(1, 4))]
            for verdict in verdicts:
                world.standin.plan(verdict)
            answer = world.turn(client, f"random-{number % 5}")
            about = f"seed {seed}, turn {number}: {verdicts}"
            assert answer.status_code != 401, about
            assert "www-authenticate" not in answer.headers, about
            calls = Counter(seen.name for seen in world.seen)
            once_more = 1  # after a lost connection
            assert max(calls.values(), default=0) <= 2 + once_more, about
            world.nothing_of_the_client_left()
    assert in_pool(world) == []  # whoami vouched for every one of them
