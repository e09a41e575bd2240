"""What each identity has left and may use is known before a client's turn needs it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import httpx

from tests.e2e.conftest import Make
from tests.e2e.world import BACKEND, MODEL, World, served_by, socket_turn
from tests.running import pat, until
from tests.standin import MODELS, RESPONSES, USAGE, Seen

DRAIN_FIRST = '[pool]\nselection = "drain-first"\n'
HOUR = 3600


def drain(world: World, *names: str) -> None:
    for token in world.tokens:
        if token.name in names:
            world.standin.limit(token.token, time.time() + HOUR)


def reads(world: World) -> list[Seen]:
    return world.standin.requests(USAGE)


async def socket_served_by(world: World, session: str) -> str:
    async with world.socket(session) as socket:
        return served_by(await socket_turn(socket))


async def crowd(world: World) -> set[int]:
    """Let 20 clients take a turn at once, and then ask what is left. Return the statuses of the turns."""
    async with world.proxy.async_client() as client:
        body = {"model": "m", "input": "hello"}
        turns = (client.post(MODEL, json=body, headers={"thread-id": f"client-{n}"}) for n in range(20))
        statuses = {answer.status_code for answer in await asyncio.gather(*turns)}
        shown = await asyncio.gather(*(client.get(BACKEND + USAGE) for _ in range(20)))
        assert {answer.json()["rate_limit"]["allowed"] for answer in shown} == {False}
        return statuses


def listed(client: httpx.Client, **headers: str) -> httpx.Response:
    """Ask for the models, as the Codex CLI does."""
    return client.get(f"{BACKEND}{MODELS}", params={"client_version": "0.171.0"}, headers=headers)


def all_lists_known(world: World) -> None:
    names = {token.name for token in world.tokens}
    with world.proxy.client() as client:
        listed(client)
    until(lambda: {seen.name for seen in world.standin.requests(MODELS)} == names, 10, "all lists")


def turn_with(world: World, client: httpx.Client, model: str, session: str = "s") -> httpx.Response:
    headers = {"thread-id": session, "version": "0.171.0", "x-codex-routing-hint": f"model={model}"}
    return client.post(MODEL, json={"model": model, "input": "hello"}, headers=headers)


def test_an_identity_drained_before_the_start_gets_no_model_request(make: Make) -> None:
    """Not even with the first turn after the start, over both transports, and after a restart."""
    world = make(pat("drained"), pat("other"), head=DRAIN_FIRST, started=False, ready=1)
    drain(world, "drained")
    names = []

    for number in range(2):
        world.proxy.start()
        with world.proxy.client() as client:
            names += [served_by(world.turn(client, f"http-{number}"))]
        names += [asyncio.run(socket_served_by(world, f"socket-{number}"))]
        world.proxy.stop()

    assert names == ["other"] * 4
    assert world.standin.requests(RESPONSES, "drained") == []
    world.check()


def test_sessions_are_spread_by_what_is_left_from_the_start(make: Make) -> None:
    tokens = [pat(name, used_percent=10.0, weekly_percent=10.0) for name in ("a", "b", "c", "d")]
    tokens[0].used_percent = tokens[0].weekly_percent = 90.0
    world = make(*tokens)
    until(lambda: {seen.name for seen in reads(world)} == {"a", "b", "c", "d"}, 10, "the usage of each")

    with world.proxy.client() as client:
        served = Counter(served_by(world.turn(client, f"session-{number}")) for number in range(8))

    assert served["a"] < min(served[name] for name in "bcd")
    world.check()


def test_a_limit_lifted_early_is_noticed_by_the_next_request(make: Make) -> None:
    """While all stay limited, each is looked at once a minute, however many clients ask."""
    world = make(pat("work"), pat("spare"), started=False, ready=0)
    drain(world, "work", "spare")
    world.proxy.start()
    until(lambda: world.proxy.log.count(" is limited until ") == 2, 10, "both limits to be known")

    world.standin.unlimit(world.tokens[1].token)
    begun = time.monotonic()
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == "spare"
        assert time.monotonic() - begun < 3
        drain(world, "spare")
        assert world.turn(client).status_code == 429
    before = len(reads(world))
    assert asyncio.run(crowd(world)) == {429}
    assert [seen.by_pool for seen in reads(world)[before:]] == [False]
    world.proxy.door("later", "60")
    assert asyncio.run(crowd(world)) == {429}
    assert sorted(seen.name for seen in reads(world)[before + 1 :]) == ["spare", "work"]
    assert world.standin.requests(RESPONSES, "work") == []
    world.check()


def test_a_plan_without_a_model_is_not_asked_for_it(make: Make) -> None:
    free = pat("free", plan="free", models=("gpt-free",))
    paid = pat("paid", plan="plus", models=("gpt-paid", "gpt-free"))
    world = make(free, paid, head=DRAIN_FIRST)
    all_lists_known(world)

    with world.proxy.client() as client:
        models = ("gpt-free", "gpt-paid", "gpt-free")
        names = [served_by(turn_with(world, client, model)) for model in models]

    async def on_sockets() -> list[str]:
        async with world.socket("socket") as socket:
            first = served_by(await socket_turn(socket, model="gpt-free"))
            (told,) = await socket_turn(socket, model="gpt-paid")
        assert told["error"]["code"] == "websocket_connection_limit_reached", told
        async with world.socket("socket") as socket:
            return [first, served_by(await socket_turn(socket, model="gpt-paid"))]

    assert names == ["free", "paid", "free"]
    assert asyncio.run(on_sockets()) == ["free", "paid"]
    assert [seen for seen in world.seen if seen.status == 400] == []
    world.check()


def test_a_client_gets_one_list_of_the_models_of_all(make: Make) -> None:
    free = pat("free", plan="free", models=("gpt-free",))
    paid = pat("paid", plan="plus", models=("gpt-paid",))
    world = make(free, paid)
    all_lists_known(world)

    with world.proxy.client() as client:
        lists = [listed(client) for _ in range(3)]
        again = listed(client, **{"if-none-match": lists[0].headers["etag"]})
        turns = [turn_with(world, client, model, model) for model in ("gpt-free", "gpt-paid")]

    assert all({model["slug"] for model in one.json()["models"]} == {"gpt-free", "gpt-paid"} for one in lists)
    assert len({one.headers["etag"] for one in lists}) == 1
    assert again.status_code == 304
    assert {turn.headers.get("x-models-etag") for turn in turns} == {lists[0].headers["etag"]}
