"""A login that several proxies share: each has the tokens that any of them, or a person, got."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, shared_login
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.pool.identity import Evidence, Identity, IdentityKey, Status
from codexpool.state import State, UnavailableError, logins
from codexpool.state.location import Location, Postgres, SqliteFile
from codexpool.state.opening import open_state
from codexpool.tokens.bearer import fingerprint
from codexpool.tokens.state_keys import new_key, state_keys
from codexpool.upkeep import persistence, renewals
from codexpool.upkeep.keeper import Keeper
from tests.postgres import Server
from tests.standin.logins import access_token, auth_json
from tests.standin.tokens import Token
from tests.upkeep.keepers import keeper_of, until

KEY = IdentityKey("acc-spare", "user-spare")
OWNER = Token("", *KEY, name="spare")
DAY = 86_400.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "OPEN_PAUSES", (0.05, 0.05))
    monkeypatch.setattr(persistence, "PATIENCE", 0.1)
    monkeypatch.setattr(persistence, "POLL", 0.05)
    monkeypatch.setattr(shared_login, "LOOK", 0.02)


class Endpoint:
    """The token endpoint: a refresh token works once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.valid: set[str] = set()
        self.spent: list[str] = []
        self.is_failing = False
        self.answering = threading.Event()
        self.answering.set()
        self._lock = threading.Lock()
        monkeypatch.setattr(TokenEndpoint, "renew", lambda _, token, refused: self.renew(token))

    def login(self, lifetime: float = 10 * DAY) -> dict[str, Any]:
        refresh_token = f"rt_{secrets.token_hex(16)}"
        self.valid.add(refresh_token)
        return auth_json(replace(OWNER, token=access_token(OWNER, lifetime=lifetime)), refresh_token)

    def renew(self, refresh_token: str) -> dict[str, Any]:
        with self._lock:
            self.spent.append(refresh_token)
            if self.is_failing:
                raise NoTokenNowError("the token endpoint answers 503")
            if refresh_token not in self.valid:
                raise NoTokenAnyMoreError("refresh_token_reused", "it was used")
            self.valid.discard(refresh_token)
        time.sleep(0.1)
        assert self.answering.wait(30)
        tokens: dict[str, Any] = self.login()["tokens"]
        return tokens


class Fleet:
    """Proxies with a pool.toml each, and one state."""

    def __init__(self, folder: Path, at: Location, stack: ExitStack, endpoint: Endpoint) -> None:
        self.at = at
        self.endpoint = endpoint
        self.key = new_key()
        self.is_lost = False
        self._folder = folder
        self._stack = stack
        self._person = open_state(at)
        stack.callback(self._person.close)

    def log_in(self, lifetime: float = 10 * DAY) -> str:
        """Put a login into the state, as a person does. Return the fingerprint of its token."""
        login = self.endpoint.login(lifetime)
        sealed = state_keys({"CODEXPOOL_STATE_KEY": self.key}).seal(json.dumps(login), KEY)
        self._person.transact(lambda connection: logins.log_in(connection, KEY, sealed))
        return fingerprint(login["tokens"]["access_token"])

    def open(self) -> State:
        if self.is_lost:
            raise UnavailableError("the state is lost", "wait")
        return open_state(self.at)

    def proxy(self, name: str) -> Keeper:
        folder = self._folder / name
        folder.mkdir()
        path = folder / "pool.toml"
        path.touch(mode=0o600)
        path.write_text(
            f'[[identity]]\nname = "{name}"\nlogin = "state"\n'
            f'account_id = "{KEY.account_id}"\nuser_id = "{KEY.user_id}"\n'
        )
        return self._stack.enter_context(keeper_of(path, self.open))


@pytest.fixture(params=["sqlite", "postgres"])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "state.sqlite3")
    return Postgres(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def fleet(at: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    with ExitStack() as stack:
        fleet = Fleet(tmp_path, at, stack, Endpoint(monkeypatch))
        monkeypatch.setenv("CODEXPOOL_STATE_KEY", fleet.key)
        yield fleet


def identity(keeper: Keeper) -> Identity:
    (one,) = keeper.pool.identities.values()
    return one


async def have(token: str, *keepers: Keeper) -> None:
    """Wait until these proxies serve with the token of a fingerprint."""
    await until(lambda: {(identity(k).status, identity(k).fingerprint) for k in keepers} == {(Status.READY, token)})


def refuse(keeper: Keeper) -> None:
    """A request has been refused this proxy's token."""
    one, now = identity(keeper), time.time()
    evidence = Evidence(now, "POST", "codex/responses", 401, "token_revoked", fingerprint=one.fingerprint)
    keeper.pool.states.refused(one.name, evidence, now)


async def test_it_serves_under_any_name_on_any_machine(fleet: Fleet) -> None:
    token = fleet.log_in()
    await have(token, fleet.proxy("a"), fleet.proxy("b"))
    assert fleet.endpoint.spent == []


async def test_several_proxies_that_start_with_an_expired_login_renew_it_once(fleet: Fleet) -> None:
    stale = fleet.log_in(lifetime=-10)
    keepers = [fleet.proxy(name) for name in "abcd"]
    await until(lambda: {identity(k).status for k in keepers} == {Status.READY})
    assert len({identity(k).fingerprint for k in keepers} - {stale}) == 1
    assert len(fleet.endpoint.spent) == 1


async def test_a_token_refused_at_one_is_renewed_and_replaced_at_the_others_without_a_pause(fleet: Fleet) -> None:
    stale = fleet.log_in()
    a, b = fleet.proxy("a"), fleet.proxy("b")
    await have(stale, a, b)
    before = identity(b)

    refuse(a)

    await until(lambda: identity(a).status is Status.READY and identity(a).fingerprint != stale)
    await have(identity(a).fingerprint, a, b)
    assert len(fleet.endpoint.spent) == 1
    assert identity(b) is before  # With its sessions, and without having been verified from the beginning.


async def test_a_token_that_all_are_refused_is_renewed_once(fleet: Fleet) -> None:
    stale = fleet.log_in()
    keepers = [fleet.proxy(name) for name in "abc"]
    await have(stale, *keepers)
    for keeper in keepers:
        refuse(keeper)
    await until(lambda: all(identity(k).fingerprint != stale for k in keepers))
    await have(identity(keepers[0]).fingerprint, *keepers)
    assert len(fleet.endpoint.spent) == 1


async def test_a_login_that_is_over_serves_everywhere_once_a_person_logs_in_again(fleet: Fleet) -> None:
    stale = fleet.log_in()
    a, b = fleet.proxy("a"), fleet.proxy("b")
    await have(stale, a, b)
    fleet.endpoint.valid.clear()
    refuse(a)
    refuse(b)
    await until(lambda: {identity(k).status for k in (a, b)} == {Status.NEEDS_LOGIN})
    assert len(fleet.endpoint.spent) == 1

    await have(await asyncio.to_thread(fleet.log_in), a, b)


async def test_a_renewal_that_fails_does_not_wait_for_its_next_try_once_there_is_another_login(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "FIRST_PAUSE", 600.0)
    monkeypatch.setattr(renewals, "LONGEST_PAUSE", 600.0)
    stale = fleet.log_in()
    a = fleet.proxy("a")
    await have(stale, a)
    fleet.endpoint.is_failing = True
    refuse(a)
    await until(lambda: fleet.endpoint.spent)
    await have(await asyncio.to_thread(fleet.log_in), a)


async def test_a_login_that_is_put_there_later_serves_as_well(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    a = fleet.proxy("a")
    await until(lambda: "the state has no login of account acc-spare and user user-spare" in caplog.text)
    assert not a.pool.identities
    token = await asyncio.to_thread(fleet.log_in)
    await until(lambda: a.pool.identities)
    await have(token, a)


async def test_while_the_state_is_not_open_the_client_is_told_why_and_it_serves_later(fleet: Fleet) -> None:
    token, fleet.is_lost = fleet.log_in(), True
    a = fleet.proxy("a")
    await asyncio.sleep(0.3)
    assert identity(a).status is Status.UNVERIFIED
    assert "its login is in the state, which could not be opened yet" in str(identity(a).condition.evidence)
    fleet.is_lost = False
    await have(token, a)


async def test_a_wrong_key_is_told_and_changes_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    token = fleet.log_in()
    wrong = new_key()
    monkeypatch.setenv("CODEXPOOL_STATE_KEY", wrong)
    a = fleet.proxy("a")
    await until(lambda: "its login in the state is encrypted with the key sha256:" in caplog.text)
    assert not a.pool.identities
    assert wrong not in caplog.text
    # with the right one beside it, the login is encrypted with the first one, and all that have both can read it
    monkeypatch.setenv("CODEXPOOL_STATE_KEY", f"{wrong},{fleet.key}")
    b = fleet.proxy("b")
    await have(token, b)
    await until(lambda: "is encrypted with the first key of CODEXPOOL_STATE_KEY now" in caplog.text)
    monkeypatch.setenv("CODEXPOOL_STATE_KEY", wrong)
    await have(token, fleet.proxy("c"))
    assert fleet.endpoint.spent == []


async def test_connections_that_break_during_the_token_call_cost_no_login(
    postgres: Server, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test-{secrets.token_hex(4)}"
    with ExitStack() as stack:
        fleet = Fleet(tmp_path, Postgres(f"{postgres_url}&application_name={name}"), stack, Endpoint(monkeypatch))
        monkeypatch.setenv("CODEXPOOL_STATE_KEY", fleet.key)
        stale = fleet.log_in()
        a, b = fleet.proxy("a"), fleet.proxy("b")
        await have(stale, a, b)
        # given a renewal under way, for which another proxy waits
        fleet.endpoint.answering.clear()
        refuse(a)
        refuse(b)
        await until(lambda: fleet.endpoint.spent)
        # when all connections break
        kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'"
        assert await asyncio.to_thread(postgres.sql, kill)
        await asyncio.sleep(1)  # The other proxy connects again, and looks.
        fleet.endpoint.answering.set()
        # then the new tokens are written over another one, and no other proxy has asked for more
        await until(lambda: {identity(k).status for k in (a, b)} == {Status.READY})
        assert identity(a).fingerprint == identity(b).fingerprint != stale
        assert len(fleet.endpoint.spent) == 1
