"""A person spends a reset credit while the proxy runs."""

from __future__ import annotations

import time

import pytest
from click.testing import CliRunner

from codexpool.cli import common
from codexpool.cli.main import main
from codexpool.credentials.http_client import Route
from tests.e2e.conftest import Make
from tests.e2e.world import served_by
from tests.running import pat, until
from tests.standin import CONSUME, RESET_CREDITS

HOUR = 3600


def test_after_a_reset_the_running_proxy_serves_with_the_identity(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy itself knows of the credits, and spends none."""
    work = pat("work")
    world = make(work, started=False)
    world.standin.grant(work.token, 2)
    world.proxy.start()
    world.standin.limit(work.token, time.time() + HOUR)
    with world.proxy.client() as client:
        assert world.turn(client).status_code == 429
        until(lambda: len(world.standin.requests(RESET_CREDITS, "work")) == 1, 5, "the list of credits")
        assert world.standin.requests(CONSUME) == []
        standin = world.standin
        route = Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file))
        monkeypatch.setattr(common, "route", lambda: route)
        monkeypatch.setenv("CODEXPOOL_STATE", str(world.proxy.state))

        result = CliRunner().invoke(main, ["reset", "work", "--yes", "--config", str(world.proxy.pool)])

        assert result.stdout == "work was reset, and can be used again; 1 reset credit left\n"
        until(lambda: world.turn(client).status_code == 200, 5, "the proxy to hear of it")
        assert served_by(world.turn(client)) == "work"
    assert len(world.standin.requests(CONSUME)) == 1
    world.check()
    world.proxy.stop()
