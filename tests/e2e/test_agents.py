"""An agent identity serves over both transports, signs each request, and shows neither its key nor what it signs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.e2e.logins import write_private
from tests.e2e.test_secrets import recording, traces
from tests.e2e.world import E2EProxy, World, served_by, socket_turn
from tests.running import CLIENT, pat
from tests.standin import DISCOVERY, MODELS, RESPONSES, WHOAMI, StandIn, Token
from tests.standin.agents import Agent


def asserted(world: World) -> list[dict[str, str]]:
    """Return what the agent has signed, as far as it arrived; ``whole`` is an assertion as it is sent."""
    values = [seen.header("authorization") or "" for seen in world.standin.seen]
    whole = {value.removeprefix("AgentAssertion ") for value in values if value.startswith("AgentAssertion ")}
    return [{"whole": text, **json.loads(base64.urlsafe_b64decode(text + "=="))} for text in whole]


async def test_an_agent_serves_and_one_expired_task_is_not_noticed(tmp_path: Path) -> None:
    with StandIn([], clients=[CLIENT], folder=tmp_path / "standin") as standin:
        agent = standin.agent(pat("bot"), sealed=True)
        write_private(tmp_path / "pool.toml", f'[[identity]]\nname = "bot"\ntoken = "{agent.jwt()}"\n')
        proxy = E2EProxy(standin, tmp_path, *recording(tmp_path), ready=1)
        world = World(standin, proxy, ())
        proxy.start()
        try:
            await _served(world, agent)
        finally:
            proxy.stop()
        world.check()
        assert standin.requests(WHOAMI) == []
        signed = asserted(world)
        assert {one["task_id"] for one in signed} == {f"task-{agent.runtime_id}-{number}" for number in (1, 2)}
        secrets = [secret for one in signed for secret in (one["whole"], one["signature"])]
        assert traces(tmp_path, [agent.token, *(Token(secret, "", "", name="signed") for secret in secrets)]) == []
        assert "bot has a new task" in proxy.log


async def _served(world: World, agent: Agent) -> None:
    with world.proxy.client() as client:
        assert served_by(world.turn(client, "http")) == "bot"
        async with world.socket("ws") as socket:
            assert served_by(await socket_turn(socket)) == "bot"
            assert agent.registered == 1

            agent.expire()
            assert served_by(world.turn(client, "http")) == "bot"

            [frame] = await socket_turn(socket)  # The task that the handshake was signed for is over.
            assert frame["error"]["code"] == "websocket_connection_limit_reached"
        async with world.socket("ws") as socket:
            assert served_by(await socket_turn(socket)) == "bot"
        assert agent.registered == 2
        assert client.get(f"https://chatgpt.com{MODELS}?client_version=1").status_code == 200
        assert client.get(f"https://chatgpt.com{DISCOVERY}").json()["accounts"][0]["id"] == CLIENT.account_id
        assert [seen.status for seen in world.standin.requests(RESPONSES) if seen.status >= 400] == [401, 401]
