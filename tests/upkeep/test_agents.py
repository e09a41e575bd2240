"""The life of an agent identity in a pool: from the registration of a task to the next one, and to its end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from codexpool.config.files import Watcher
from codexpool.config.read import load
from codexpool.credentials import agent_api
from codexpool.credentials.http_client import Route
from codexpool.pool import confirmation
from codexpool.pool.identity import Evidence, Identity, Metadata, Status
from codexpool.state.sqlite import SqliteState
from codexpool.upkeep.keeper import Keeper
from tests.running import pat
from tests.standin import DISCOVERY, WHOAMI, Answer, StandIn
from tests.standin.agents import Agent
from tests.upkeep.keepers import Unheard, flags, until

TURN = "/backend-api/codex/responses"


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        yield standin
    assert standin.refusals == []
    assert standin.leaks == []
    assert standin.requests(WHOAMI) == standin.requests(DISCOVERY) == []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agent_api, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("CODEXPOOL_STATE", str(tmp_path / "state.sqlite3"))


def pool_toml(folder: Path, agent: Agent) -> Path:
    path = folder / "pool.toml"
    path.touch(mode=0o600)
    path.write_text(f'[[identity]]\nname = "bot"\ntoken = "{agent.jwt()}"\n')
    return path


@contextmanager
def a_keeper(standin: StandIn, path: Path) -> Iterator[Keeper]:
    route = Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file))
    state = partial(SqliteState, path.parent / "state.sqlite3")
    keeper = Keeper(load(path), state, os.environ, route, Unheard())
    keeper.start(Watcher([path]))
    try:
        yield keeper
    finally:
        keeper.stop()


def bot(keeper: Keeper) -> Identity:
    return keeper.pool.identities["bot"]


async def ready(keeper: Keeper) -> str:
    """Wait until it is ready; return its fingerprint."""
    await until(lambda: bot(keeper).status is Status.READY)
    return bot(keeper).fingerprint


def refuse(keeper: Keeper) -> None:
    """A request is refused with a 401 that does not say why."""
    now = time.time()
    evidence = Evidence(now, "POST", TURN, 401, fingerprint=bot(keeper).fingerprint)
    keeper.pool.states.refused("bot", evidence, now)


async def test_it_serves_once_its_task_is_registered_and_at_once_after_a_restart(
    standin: StandIn, tmp_path: Path
) -> None:
    agent = standin.agent(pat("bot"))
    path = pool_toml(tmp_path, agent)

    with a_keeper(standin, path) as keeper:
        fingerprint = await ready(keeper)
        assert bot(keeper).metadata == Metadata("acc-bot", "user-bot", "business")
        assert keeper.bearer("bot").fingerprint == fingerprint
    standin.plan(Answer(host="auth.openai.com", times=None, status=500))
    with a_keeper(standin, path) as keeper:
        assert await ready(keeper) == fingerprint

    assert agent.registered == 1


async def test_a_refusal_costs_one_task_however_often_it_is_repeated(standin: StandIn, tmp_path: Path) -> None:
    agent = standin.agent(pat("bot"))
    with a_keeper(standin, pool_toml(tmp_path, agent)) as keeper:
        first = await ready(keeper)

        refuse(keeper)
        assert bot(keeper).is_in_renewal
        second = await ready(keeper)
        refuse(keeper)

        assert first != second
        assert bot(keeper).status is Status.RESTING
        assert agent.registered == 2


async def test_a_dead_agent_needs_replacement_and_another_one_takes_its_place(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmation, "CONFIRMED_AFTER", 0.2)
    agent, other = standin.agent(pat("bot")), standin.agent(pat("bot"))
    path = pool_toml(tmp_path, agent)
    with a_keeper(standin, path) as keeper:
        await ready(keeper)
        standin.kill(agent.token.token)

        refuse(keeper)
        await until(lambda: bot(keeper).status is Status.NEEDS_REPLACEMENT)
        assert "answers 401 token_revoked" in str(bot(keeper).condition.evidence)
        assert flags(path) == {}
        pool_toml(tmp_path, other)
        await ready(keeper)

    assert (agent.registered, other.registered) == (1, 1)


async def test_an_agent_that_is_dead_at_the_start_can_be_replaced(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmation, "CONFIRMED_AFTER", 0.2)
    agent, other = standin.agent(pat("bot")), standin.agent(pat("bot"))
    path = pool_toml(tmp_path, agent)
    standin.kill(agent.token.token)
    with a_keeper(standin, path) as keeper:
        await until(lambda: bot(keeper).status is Status.NEEDS_REPLACEMENT)
        assert "answers 401 token_revoked" in str(bot(keeper).condition.evidence)
        pool_toml(tmp_path, other)
        await ready(keeper)


async def test_trouble_of_the_registration_ends_by_itself(standin: StandIn, tmp_path: Path) -> None:
    agent = standin.agent(pat("bot"))
    standin.plan(Answer(host="auth.openai.com", status=403, body={"error": {"code": "nobody_knows"}}))
    with a_keeper(standin, pool_toml(tmp_path, agent)) as keeper:
        await until(lambda: bot(keeper).status is Status.RESTING)
        assert bot(keeper).unsendable
        assert "answers 403 nobody_knows" in str(bot(keeper).condition.evidence)
        await ready(keeper)
    assert agent.registered == 1
