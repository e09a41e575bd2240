"""What each identity has left and may use is known before a client's turn needs it."""

from __future__ import annotations

import asyncio

import httpx

from tests.e2e.conftest import Make
from tests.e2e.world import BACKEND, MODEL, World, served_by, socket_turn
from tests.running import pat, until
from tests.standin import MODELS

DRAIN_FIRST = '[pool]\nselection = "drain-first"\n'


def listed(client: httpx.Client, **headers: str) -> httpx.Response:
    """Ask for the models, as the Codex CLI does."""
    return client.get(f"{BACKEND}{MODELS}", params={"client_version": "0.171.0"}, headers=headers)


def all_lists_known(world: World) -> None:
    names = {token.name for token in world.tokens}
    with world.proxy.client() as client:
        listed(client)
    until(lambda: {seen.name for seen in world.standin.requests(MODELS)} == names, 10, "all lists")


def turn_with(world: World, client: httpx.Client, model: str, session: str = "s") -> httpx.Response:
    headers = {"thread-id": session, "x-codex-routing-hint": f"model={model}"}
    return client.post(MODEL, json={"model": model, "input": "hello"}, headers=headers)


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
    assert {turn.headers.get("x-models-etag") for turn in turns} <= {lists[0].headers["etag"], None}
