"""Something of ours breaks, or another addon gets in the way: nothing leaves that should not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.exceptions import WebSocketException

from tests.e2e.door import SECRET
from tests.e2e.world import BACKEND, FAILED_CLOSED, OWN, World, a_world, served_by, socket_turn
from tests.running import CLIENT, pat
from tests.standin import DISCOVERY, RESPONSES, Answer

REVOKED = {"error": {"code": "token_revoked", "message": "revoked"}}

OURS = [
    ("codexpool.proxy.requests", "Requests.open"),
    ("codexpool.proxy.flows", "Flows.policy"),
    ("codexpool.proxy.tunnels", "Tunnels.name"),
    ("codexpool.proxy.tunnels", "Tunnels.pass_through"),
    ("codexpool.proxy.turns", "Turns.ended"),
    ("codexpool.proxy.requests", "carries_key"),
    ("codexpool.proxy.gate", "Gate.enter"),
    ("codexpool.proxy.turns", "Turns.begin"),
    ("codexpool.members.ledger", "Ledger.count_served"),
    ("codexpool.protocol.token_usage", "Meter.passed"),
    ("codexpool.proxy.requests", "Requests.assign"),
    ("codexpool.proxy.answers", "Answers.headers_came"),
    ("codexpool.proxy.answers", "Answers.judge"),
    ("codexpool.proxy.attempts", "Attempts.judged"),
    ("codexpool.proxy.attempts", "Attempts.follow"),
    ("codexpool.proxy.attempts", "begin"),
    ("codexpool.proxy.answers", "Answers._is_sent_again"),
    ("codexpool.proxy.attempts", "Attempts.is_outdated"),
    ("codexpool.pool.portability", "TurnStates.fit"),
    ("codexpool.pool.portability", "TurnStates.issued"),
    ("codexpool.proxy.outgoing", "Dressing.request"),
    ("codexpool.proxy.attempts", "Attempts.served"),
    ("codexpool.proxy.answers", "Answers._judge"),
    ("codexpool.proxy.answers", "judge"),
    ("codexpool.proxy.answers", "learn"),
    ("codexpool.proxy.requests", "asked_of"),
    ("codexpool.proxy.judge", "learn_limits"),
    ("codexpool.proxy.judge", "of_response"),
    ("codexpool.protocol.stream_events", "Beginning.take"),
    ("codexpool.protocol.rate_limits", "of_headers"),
    ("codexpool.pool.sessions", "Sessions.get"),
    ("codexpool.pool.portability", "Portability.foreign"),
    ("codexpool.proxy.requests", "Exchange"),
    ("codexpool.proxy.answers", "scrub"),
    ("codexpool.proxy.answers", "comment"),
    ("codexpool.proxy.attempts", "comment"),
    ("codexpool.proxy.tracer", "begun"),
    ("codexpool.proxy.tracer", "attempted"),
    ("codexpool.proxy.tracer", "candidacies"),
    ("codexpool.proxy.tracer", "over"),
    ("codexpool.traces.history", "History.began"),
    ("codexpool.traces.history", "History.assigned"),
    ("codexpool.traces.history", "History.judged"),
    ("codexpool.traces.history", "History.ended"),
    ("codexpool.traces.trace", "AttemptTrace.sent"),
    ("codexpool.traces.trace", "AttemptTrace.answered"),
    ("codexpool.proxy.answers", "show_own_id"),
    ("codexpool.proxy.requests", "label"),
    ("codexpool.proxy.answers", "label"),
    ("codexpool.pool.recovery", "attempts"),
    ("codexpool.proxy.judge", "classify"),
    ("codexpool.proxy.judge", "error_in"),
    ("codexpool.upkeep.keeper", "Keeper.bearer"),
    ("codexpool.upkeep.keeper", "Keeper.served"),
    ("codexpool.upkeep.vault", "Vault.look_after"),
    ("codexpool.upkeep.keeper", "Keeper.status_changed"),
    ("codexpool.pool.pool", "Pool.choose"),
    ("codexpool.pool.pool", "IdentityStates.refused"),
    ("codexpool.pool.pool", "Pool.succeeded"),
    ("codexpool.protocol.headers", "swapped"),
    ("codexpool.protocol.headers", "labelled"),
    ("codexpool.protocol.headers", "identity_values"),
    ("codexpool.protocol.routes", "Routes.route"),
    ("codexpool.protocol.routes", "normalised"),
]

OF_EACH_REQUEST = ("Flows.policy", "Routes.route", "normalised", "carries_key", "Tunnels.name")
"""What a request with the client's own credential needs, too. (`normalised` for the first one of a path.)"""
"""What may break; each is broken while a good request, a refused one, a discovery and a handshake go by."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("closed")
    with a_world(folder, pat("work"), pat("spare"), pat("third")) as world:
        yield world


@pytest.fixture(autouse=True)
def _anew(world: World) -> None:
    world.reset()


@pytest.mark.parametrize(("module", "name"), OURS, ids=[name for _, name in OURS])
async def test_nothing_leaves_undressed_whatever_breaks(world: World, module: str, name: str) -> None:
    """The client gets one answer."""
    refused = ""
    with world.proxy.broken(module, name), world.proxy.client() as client:
        answers = [world.turn(client, f"good-{name}")]
        world.standin.plan(Answer(path=RESPONSES, status=401, body=REVOKED))
        answers.append(world.turn(client, f"refused-{name}"))
        answers.append(client.get(BACKEND + DISCOVERY, headers={"thread-id": f"discovery-{name}"}))
        world.standin.plan(Answer(path=RESPONSES, transport="websocket", status=401, body=REVOKED))
        try:
            async with world.socket(f"socket-{name}") as socket:
                await socket_turn(socket)
        except (WebSocketException, OSError) as error:
            refused = str(error)
        own = client.get(OWN)

    assert "401" not in refused
    for answer in answers:
        assert answer.status_code in (200, 400, 503), answer.text
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == FAILED_CLOSED
    told = "".join(answer.text + str(answer.headers) for answer in answers)
    assert not [token.name for token in (*world.tokens, CLIENT) if token.token in told]
    assert SECRET not in told + world.proxy.log
    assert own.status_code == 200 or name in OF_EACH_REQUEST
    world.nothing_of_the_client_left()
    world.check()

    world.reset()
    with world.proxy.client() as client:
        served_by(world.turn(client, f"after-{name}"))


DEEDS = {
    "stream": {502, 503, 200},
    "answer": {418},
    "elsewhere": {503},
    "path": {503},
    "credential": {200},
    "break-response": {200},
}
"""What other addons do to flows (see door.py), and what the client may get then."""


@pytest.mark.parametrize("deed", DEEDS)
def test_beside_another_addon_nothing_leaves_undressed(world: World, deed: str) -> None:
    world.proxy.door("flow", deed)
    with world.proxy.client() as client:
        answers = [world.turn(client, f"{deed}-1"), world.turn(client, f"{deed}-2", text="x" * 200_000)]

    assert {answer.status_code for answer in answers} <= DEEDS[deed]
    world.nothing_of_the_client_left()
    world.check()


@pytest.mark.parametrize("deed", ["kill", "kill-answer"])
def test_a_flow_that_another_addon_kills_is_ended(world: World, deed: str) -> None:
    world.proxy.door("flow", deed)
    world.standin.plan(Answer(path=RESPONSES, status=401, body=REVOKED))
    with world.proxy.client() as client, pytest.raises(httpx.TransportError):
        world.turn(client, "killed")

    assert len(world.seen) == (1 if deed == "kill-answer" else 0)
    world.nothing_of_the_client_left()


OPTIONS = {
    "map_remote": ("|chatgpt.com/backend-api/codex|ab.chatgpt.com/elsewhere", {503}),
    "modify_headers": (f"/~q/Authorization/Bearer {CLIENT.token}", {200}),
    "modify_body": ("/~q/hello/good bye", {200}),
    "block_list": ("|responses|418", {418}),
}
"""Options of mitmproxy itself, and what the client gets while they are set."""


@pytest.mark.parametrize("option", OPTIONS)
def test_beside_mitmproxys_own_addons_nothing_leaves_undressed(world: World, option: str) -> None:
    value, statuses = OPTIONS[option]
    world.proxy.door("set", option, value)
    world.standin.plan(Answer(path=RESPONSES, status=401, body=REVOKED))
    with world.proxy.client() as client:
        answer = world.turn(client, option)
        again = world.turn(client, option)

    assert {answer.status_code, again.status_code} <= statuses
    if option == "modify_body":
        assert {seen.body for seen in world.seen} == {b'{"model":"m","input":"good bye"}'}
    assert all(seen.host == "chatgpt.com" for seen in world.seen)
    world.nothing_of_the_client_left()
    world.check()


def test_with_proxyauth_only_members_are_swapped(world: World) -> None:
    world.proxy.door("set", "proxyauth", "door:knocks")
    with world.proxy.client() as client, pytest.raises(httpx.ProxyError):
        world.turn(client, "stranger")
    assert world.seen == []
    with httpx.Client(
        proxy=world.proxy.url.replace("://", "://door:knocks@"), verify=world.proxy.trust, trust_env=False
    ) as member:
        served_by(world.turn(member, "member"))

    assert "proxy-authorization" not in [key.lower() for key, _ in world.seen[-1].headers]
    world.nothing_of_the_client_left()


def test_under_a_storm_of_breakages_nothing_leaves_undressed(world: World) -> None:
    with world.proxy.client() as client, ThreadPoolExecutor(8) as pool:

        def turn(number: int) -> int:
            return world.turn(client, f"storm-{number}").status_code

        going = [pool.submit(turn, number) for number in range(30)]
        for module, name in OURS[:10]:
            with world.proxy.broken(module, name):
                going += [pool.submit(turn, 1000 + number) for number in range(3)]
        statuses = {one.result(30) for one in going}

    assert statuses <= {200, 400, 503}
    world.nothing_of_the_client_left()
    world.check()
