"""The real client with a login of its own, in front of a proxy in observe mode."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.running import CLIENT, Codex, Proxy, answered, pat, pool_toml
from tests.standin import RESPONSES, StandIn

pytestmark = pytest.mark.real_client


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_observing_serves_the_client_as_itself(tmp_path: Path, transport: str) -> None:
    """The log says which identity would have served."""
    pool = [pat("work"), pat("spare")]
    with StandIn(pool, folder=tmp_path, websockets=transport == "websocket") as standin:
        standin.add(CLIENT, pool=True, client=True)
        pool_toml(tmp_path, *pool)
        with Proxy(standin, tmp_path, "--set", "codexpool_observe=true") as proxy:
            client = Codex(proxy, tmp_path)
            for number, word in enumerate(("banana", "apple")):
                how = ("resume", "--last") if number else ()
                assert answered(client.exec(*how, f"say hi echo:{word}"), word) == CLIENT.name

    # then the backend has seen the client's own credential only, on every path
    assert {seen.name for seen in standin.seen if seen.header("authorization")} == {CLIENT.name}
    assert standin.refusals == []
    assert standin.troubles == []
    calls = standin.requests(RESPONSES)
    assert {seen.transport for seen in calls} >= ({"message"} if transport == "websocket" else {"http/1.1"})
    # and each model request has a log line with the identity that would have served, the same one for a session
    turn = "a turn on the socket" if transport == "websocket" else f"POST {RESPONSES}"
    lines = re.findall(rf"observed: {turn}.*? would be sent as (\w+) \(", proxy.log)
    assert len(lines) >= 2
    assert set(lines) <= {"work", "spare"}
    sessions = re.findall(r"observed: .*?session ([0-9a-f-]{36})\)?: would be sent as (\w+)", proxy.log)
    assert len(dict(sessions)) == len(set(sessions))
    assert not any(token.token in proxy.log for token in (*pool, CLIENT))
    assert not proxy.state.exists()
