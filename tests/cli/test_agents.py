"""An operator's day with an agent identity: it is added, checked and replaced, and neither key nor JWT is shown."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from codexpool.credentials import agent_api
from codexpool.proxy.observe.pool import consult
from codexpool.state.location import SqliteFile
from tests.cli.pools import Pool
from tests.e2e.logins import write_private
from tests.running import pat
from tests.standin import CONSUME, DISCOVERY, WHOAMI, Answer, StandIn
from tests.standin.agents import Agent


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(agent_api, "PAUSES", (0.0, 0.0))
    with StandIn([], folder=tmp_path / "standin") as standin:
        yield Pool(standin, tmp_path, monkeypatch)
        assert standin.refusals == []
        assert standin.requests(WHOAMI) == standin.requests(DISCOVERY) == []


def known(pool: Pool, name: str = "bot", **more: Any) -> Agent:
    agent = pool.standin.agent(pat(name), **more)
    pool.secret(agent.token.token)
    return agent


def entry(pool: Pool) -> dict[str, Any]:
    [table] = tomllib.loads(pool.text)["identity"]
    return dict(table)


def test_an_agent_is_added_by_its_jwt_listed_and_checked(pool: Pool) -> None:
    agent = known(pool)
    jwt = pool.secret(agent.jwt(lifetime=86_400))

    added = pool.run("add", "bot", "--token-stdin", stdin=f"{jwt}\n")
    pool.run("check")

    assert "agent identity sha256:" in added.output
    assert "account acc-bot, user user-bot, business" in added.output
    table = entry(pool)
    assert (table["token"], table["account_id"], table["user_id"]) == (jwt, "acc-bot", "user-bot")
    assert abs(table["expires"] - (datetime.now(UTC) + timedelta(days=1))) < timedelta(minutes=1)
    row = pool.list()["bot"]
    assert (row["kind"], row["status"], row["account_id"], row["plan"]) == ("agent", "ready", "acc-bot", "business")
    assert agent.registered == 2  # The check's task is not used.
    assert row["fingerprint"] in added.output


@pytest.mark.parametrize("as_jwt", [True, False])
def test_an_agent_is_added_from_an_auth_json(pool: Pool, as_jwt: bool) -> None:
    agent = known(pool, sealed=True)
    path = write_private(pool.folder / "agent" / "auth.json", json.dumps(agent.auth_json(as_jwt=as_jwt)))
    before = path.read_bytes()

    pool.run("add", "bot", "--auth-json", str(path))

    pool.run("login", "bot", code=1)  # It would overwrite the key.
    assert entry(pool)["auth_json"] == "~/agent/auth.json"
    assert ("expires" in entry(pool)) is as_jwt
    assert pool.list()["bot"]["status"] == "ready"
    assert path.read_bytes() == before


def test_a_dead_agent_is_told_by_the_check_and_replaced(pool: Pool) -> None:
    old, new, other = known(pool), known(pool), known(pool, "other")
    pool.run("add", "bot", "--token-stdin", stdin=pool.secret(old.jwt()))
    pool.standin.kill(old.token.token)

    checked = pool.run("check", code=1)
    refused = pool.run("replace", "bot", "--token-stdin", stdin=pool.secret(other.jwt()), code=1)
    pool.run("replace", "bot", "--token-stdin", stdin=pool.secret(new.jwt()))

    assert "needs_replacement" in checked.output
    assert "answers 401 token_revoked" in checked.output
    assert "belongs to another account or user" in refused.stderr
    assert (pool.run("check").exit_code, pool.list()["bot"]["status"]) == (0, "ready")
    assert {"needs_replacement"}.isdisjoint(entry(pool))


def test_an_odd_answer_to_a_check_changes_nothing(pool: Pool) -> None:
    agent = known(pool)
    pool.run("add", "bot", "--token-stdin", stdin=pool.secret(agent.jwt()))
    pool.standin.plan(Answer(host="auth.openai.com", times=None, status=401, body={"error": {"code": "who_knows"}}))

    checked = pool.run("check", code=1)

    assert "answers 401 who_knows" in checked.output
    assert pool.list()["bot"]["status"] == "ready"


def test_a_damaged_jwt_is_refused_before_anything_is_asked(pool: Pool) -> None:
    jwt = pool.secret(known(pool).jwt(iss="https://elsewhere"))

    result = pool.run("add", "bot", "--token-stdin", stdin=jwt, code=1)

    assert "the token is not the JWT of an agent identity: its issuer or audience is another one" in result.stderr
    assert not pool.path.exists()
    assert pool.standin.seen == []


def test_one_agent_is_one_identity(pool: Pool) -> None:
    agent = known(pool)
    entries = [f'[[identity]]\nname = "{name}"\ntoken = "{pool.secret(agent.jwt())}"\n' for name in ("bot", "twin")]
    write_private(pool.path, "\n".join(entries))

    result = pool.run("check", code=1)

    assert 'is also the token of "bot"' in result.output
    assert pool.list()["bot"]["status"] == "ready"


def test_observing_registers_no_task(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    from codexpool.config.read import load

    agent = known(pool)
    write_private(pool.path, f'[[identity]]\nname = "bot"\ntoken = "{agent.jwt()}"\n')

    consulted = consult(
        load(pool.path), {"CODEXPOOL_STATE": str(pool.folder / "state.sqlite3")}, SqliteFile(pool.folder / "none")
    )

    assert consulted.notes == {"bot": "a task has to be registered for it"}
    sent = dict(consulted.fields("bot", (), False))
    assert sent[b"authorization"] == b"AgentAssertion <codexpool:bot>"
    assert sent[b"chatgpt-account-id"] == b"acc-bot"
    assert (agent.registered, pool.standin.seen) == (0, [])


def test_an_agent_spends_a_reset_credit_of_its_account(pool: Pool) -> None:
    agent = known(pool)
    pool.run("add", "bot", "--token-stdin", stdin=pool.secret(agent.jwt()))
    pool.standin.grant(agent.token.token)
    pool.standin.limit(agent.token.token, time.time() + 600)

    assert "bot was reset" in pool.run("reset", "bot", "--yes").stdout

    assert len(pool.standin.requests(CONSUME)) == 1
