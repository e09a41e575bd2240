"""A person spends a reset credit while the proxy runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from codexpool.cli import common
from codexpool.cli.main import main
from codexpool.credentials.http_client import Route
from tests.e2e.conftest import Make
from tests.e2e.world import World, served_by
from tests.running import pat, until
from tests.standin import CONSUME, RESET_CREDITS

HOUR = 3600


def shown(world: World) -> dict[str, Any]:
    """Return what `codexpool list` shows of the only identity."""
    result = CliRunner().invoke(main, ["list", "--json", "--config", str(world.proxy.pool)])
    [row] = json.loads(result.stdout)["identities"]
    return dict(row)


@pytest.fixture
def world(make: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A proxy whose only identity has two credits, and the commands on its machine."""
    world = make(pat("work"), started=False)
    standin = world.standin
    standin.grant(pat("work").token, 2)
    route = Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file))
    monkeypatch.setattr(common, "route", lambda: route)
    monkeypatch.setenv("CODEXPOOL_STATE", str(world.proxy.state))
    world.proxy.start()
    try:
        yield world
    finally:
        world.proxy.stop()


def test_after_a_reset_the_running_proxy_serves_with_the_identity(world: World) -> None:
    """The proxy has seen what is left, and the credits, before the first request. It spends none itself."""
    until(lambda: (shown(world)["reset_credits"] or {}).get("expires_at"), 5, "the credits")
    row = shown(world)
    assert [(limit["minutes"], limit["used_percent"]) for limit in row["limits"]] == [(300, 12.0), (10_080, 3.0)]
    assert (row["reset_credits"]["available"], row["last_used"]) == (2, None)
    world.standin.limit(pat("work").token, time.time() + HOUR)
    with world.proxy.client() as client:
        assert world.turn(client).status_code == 429
        assert len(world.standin.requests(RESET_CREDITS)) == 1
        assert world.standin.requests(CONSUME) == []

        result = CliRunner().invoke(main, ["reset", "work", "--yes", "--config", str(world.proxy.pool)])

        assert result.stdout == "work was reset, and can be used again; 1 reset credit left\n"
        until(lambda: world.turn(client).status_code == 200, 5, "the proxy to hear of it")
        assert served_by(world.turn(client)) == "work"
    assert len(world.standin.requests(CONSUME)) == 1
    world.check()
