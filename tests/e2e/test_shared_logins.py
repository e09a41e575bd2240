"""Two proxies with one login in the state: all is served, one renews it, and no secret is anywhere."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, closing
from pathlib import Path

from codexpool.pool.identity import IdentityKey
from codexpool.state import logins
from codexpool.state.sqlite import SqliteState
from codexpool.tokens.state_keys import new_key, state_keys
from tests.e2e.logins import TOKEN_ENDPOINT, owner, write_private
from tests.e2e.test_secrets import LOUDEST, forms
from tests.e2e.world import MODEL, E2EProxy, served_by
from tests.running import CLIENT, until
from tests.standin import RESPONSES, StandIn

KEY = IdentityKey("acc-spare", "user-spare")
TABLE = f"""
[[identity]]
name = "spare"
login = "state"
account_id = "{KEY.account_id}"
user_id = "{KEY.user_id}"
"""


def put_login(state_file: Path, login: dict[str, object], key: str) -> None:
    sealed = state_keys({"CODEXPOOL_STATE_KEY": key}).seal(json.dumps(login), KEY)
    with closing(SqliteState(state_file)) as state:
        state.transact(lambda connection: logins.log_in(connection, KEY, sealed))


def tokens_in(state_file: Path, key: str) -> dict[str, str]:
    """The tokens of the login in the state."""
    with closing(SqliteState(state_file)) as state:
        stored = state.transact(lambda connection: logins.login_rows(connection, -1))[KEY]
    tokens = json.loads(state_keys({"CODEXPOOL_STATE_KEY": key}).open(stored.sealed, KEY))["tokens"]
    return {name: value for name, value in tokens.items() if name.endswith("token")}


async def turns(proxy: E2EProxy, number: int) -> list[str]:
    async with proxy.async_client() as client:

        async def one(session: int) -> str:
            headers = {"thread-id": f"{proxy.port}-{session}"}
            return served_by(await client.post(MODEL, json={"model": "m", "input": "x"}, headers=headers))

        return await asyncio.gather(*(one(session) for session in range(number)))


def test_clients_of_two_proxies_are_served_with_an_expired_login_that_is_renewed_once(tmp_path: Path) -> None:
    key, state_file = new_key(), tmp_path / "state.sqlite3"
    environ = {"CODEXPOOL_STATE": str(state_file), "CODEXPOOL_STATE_KEY": key}
    # given an expired login in the state, and a command that writes down its environment
    dump = tmp_path / "dump"
    write_private(dump, f'#!/bin/sh\nenv > "{tmp_path}/environ.$$"\necho command-token-0123456789abcdef\n').chmod(
        0o700
    )
    command = f'\n[[identity]]\nname = "sso"\ntoken = {{ command = ["{dump}"] }}\npriority = -1\n'
    with ExitStack() as stack:
        standin = stack.enter_context(StandIn([], clients=[CLIENT], folder=tmp_path))
        login = standin.login(owner("spare"), lifetime=-60.0)
        put_login(state_file, login, key)
        proxies = []
        for name in "ab":
            write_private(tmp_path / name / "pool.toml", TABLE + command)
            proxy = E2EProxy(standin, tmp_path / name, *LOUDEST, environ=environ, ready=1)
            stack.callback(proxy.end)
            proxies.append(proxy)
        for proxy in proxies:
            proxy.start(wait=False)
        for proxy in proxies:
            proxy.listens()

        # when six clients ask at both
        async def ask() -> list[list[str]]:
            return await asyncio.gather(*(turns(proxy, 3) for proxy in proxies))

        # then all of them are served, after one renewal
        assert asyncio.run(ask()) == [["spare"] * 3] * 2
        assert len(standin.requests(TOKEN_ENDPOINT)) == 1
        assert [seen.status for seen in standin.requests(RESPONSES)] == [200] * 6

        # and when the token that they have is refused, again
        standin.kill(tokens_in(state_file, key)["access_token"])
        assert asyncio.run(ask()) == [["spare"] * 3] * 2
        assert len(standin.requests(TOKEN_ENDPOINT)) == 2
        assert standin.leaks == []
        until(lambda: list(tmp_path.glob("environ.*")), 20, "the command to be run")

    secrets = {key, *tokens_in(state_file, key).values()}
    secrets |= {value for name, value in login["tokens"].items() if name.endswith("token")}
    found = [
        path.relative_to(tmp_path)
        for path in tmp_path.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for secret in secrets for form in forms(secret))
    ]
    assert found == []
