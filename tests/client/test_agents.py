"""The real client with a pool of an agent identity: one task serves exec and the terminal, over both transports."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.client.screen import Screen, tmux
from tests.e2e.logins import write_private
from tests.running import CLIENT, Codex, Proxy, answered, pat, trouble
from tests.standin import RESPONSES, WHOAMI, StandIn

pytestmark = pytest.mark.real_client


@pytest.mark.skipif(tmux() is None and not os.environ.get("CI"), reason="needs tmux")
@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_an_agent_serves_and_an_expired_task_is_not_seen(tmp_path: Path, transport: str) -> None:
    with StandIn([], clients=[CLIENT], folder=tmp_path / "standin", websockets=transport == "websocket") as standin:
        agent = standin.agent(pat("bot"))
        write_private(tmp_path / "pool.toml", f'[[identity]]\nname = "bot"\ntoken = "{agent.jwt()}"\n')
        with Proxy(standin, tmp_path) as proxy:
            client = Codex(proxy, tmp_path)

            run = client.exec("say hi echo:banana")
            assert (answered(run, "banana"), trouble(run)) == ("bot", [])
            with Screen(client, tmp_path) as screen:
                screen.shows("GPT")
                screen.types("say hi echo:cherry")
                screen.shows(r"answer from bot, request \d+, cherry")
                assert agent.registered == 1
                agent.expire()
                screen.types("and now echo:damson")
                screen.shows(r"answer from bot, request \d+, damson")
                shown = screen.text

        assert agent.registered == 2
        assert not any(sign in shown for sign in ("■", "Reconnecting", "Falling back", "unexpected status"))
        turns = [seen for seen in standin.requests(RESPONSES) if seen.status in (101, 200)]
        assert {seen.name for seen in turns} == {"bot"}
        assert standin.requests(WHOAMI, "bot") == []
        assert [refusal for refusal in standin.refusals if not refusal.startswith("CONNECT ")] == []
        assert standin.leaks == []
        assert not re.search(r"AgentAssertion|eyJ", proxy.log)
