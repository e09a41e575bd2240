"""Another script raises in a hook, so that mitmproxy skips ours: nothing may leak."""

from __future__ import annotations

from pathlib import Path

import pytest
from mitmproxy import http
from mitmproxy.io import FlowReader

from tests.e2e.conftest import Make
from tests.e2e.test_secrets import forms
from tests.e2e.world import BACKEND, FAILED_CLOSED, World, served_by, socket_turn
from tests.running import key_of, member, pat, until
from tests.standin import DISCOVERY, RESPONSES, Answer

GETS = {"requestheaders": 503, "request": 503, "responseheaders": 200, "response": 503, "error": 200}
"""What a client gets whose first identity is refused while such a script raises, by the hook that it raises in."""

TOKENS = pat("work"), pat("spare")


def refusal(world: World) -> Answer:
    """A 401 that repeats the token it refuses, in its body and in a header."""
    name = next(iter(world.tokens))
    repeated = f"no: {name.token}"
    error = {"error": {"code": "token_revoked", "message": repeated}}
    return Answer(path=RESPONSES, token=name.token, status=401, body=error, headers={"x-said": repeated})


def dumped(path: Path) -> list[http.HTTPFlow]:
    with path.open("rb") as file:
        return [flow for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]


@pytest.mark.parametrize("hook", GETS)
def test_unjudged_answers_reach_neither_client_nor_dump(make: Make, tmp_path: Path, hook: str) -> None:
    dump = tmp_path / "flows"
    world = make(*TOKENS, arguments=("-w", str(dump)), head='[pool]\nselection = "drain-first"\n')
    world.standin.plan(refusal(world))

    world.proxy.door("raise", hook)
    with world.proxy.client() as client:
        answer = world.turn(client, "s")
    world.proxy.door("restore")
    with world.proxy.client() as client:
        served_by(world.turn(client, "s"))
    world.proxy.stop()

    assert answer.status_code == GETS[hook]
    if answer.status_code == 503:
        assert answer.json()["error"]["code"] == FAILED_CLOSED
    secret = list(forms(world.tokens[0].token))
    said = answer.content + str(answer.headers).encode() + dump.read_bytes()
    assert not [form for form in secret if form in said]
    assert len(dumped(dump)) >= 2
    world.nothing_of_the_client_left()


def test_a_discovery_that_was_not_rewritten_is_withheld(make: Make) -> None:
    world = make(*TOKENS)
    world.proxy.door("raise", "response")
    with world.proxy.client() as client:
        answer = client.get(BACKEND + DISCOVERY)

    assert answer.status_code == 503
    assert not [token.account_id for token in world.tokens if token.account_id in answer.text]


async def test_a_good_answer_is_not_held_back(make: Make) -> None:
    world = make(*TOKENS, pace=0.3)
    for hook in ("responseheaders", "response"):
        world.proxy.door("raise", hook)
        with world.proxy.client() as client:
            served_by(world.turn(client, hook))
        async with world.socket(hook) as socket:
            served_by(await socket_turn(socket))


@pytest.mark.parametrize("hook", ["response", "error"])
def test_a_member_gets_its_slot_back(make: Make, hook: str) -> None:
    """The turn is over, even if a hook was skipped."""
    ann = member("ann", turns_at_once=1)
    world = make(pat("work"), head='[pool]\naccess = "members"\n', tail=ann)
    world.proxy.door("raise", hook)
    with world.proxy.client() as client:
        client.headers["authorization"] = f"Bearer {key_of('ann')}"
        for status in (401, 0):
            if hook == "error":
                world.standin.plan(Answer(path=RESPONSES, cut="head"))
            elif status:
                world.standin.plan(Answer(path=RESPONSES, status=status, body={"error": {"message": "no"}}))
            world.turn(client, "s")
        world.proxy.door("restore")
        served_by(world.turn(client, "s"))


def test_a_key_in_an_unread_body_does_not_leave(make: Make) -> None:
    world = make(pat("work"), head='[pool]\naccess = "members"\n', tail=member("ann"))
    world.proxy.door("raise", "request")
    with world.proxy.client() as client:
        client.headers["authorization"] = f"Bearer {key_of('ann')}"
        answer = world.turn(client, "s", text=key_of("ann"))

    assert answer.status_code == 503
    until(lambda: not [seen for seen in world.seen if seen.path == RESPONSES], 1, "nothing to have left")
    world.check()
