"""Of all proxies that share a login one renews it, and none uses what the state does not have."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codexpool.common.private_files import UnusableError
from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, UnusableTokenError, shared_login
from codexpool.credentials.auth_json import Login
from codexpool.credentials.http_client import Route
from codexpool.credentials.shared_login import MARKED_FOR, SharedLogin, opened
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.pool.identity import IdentityKey
from codexpool.tokens.state_keys import new_key, state_keys
from tests.credentials.shared import KEYS, MemoryLogins, MemoryState
from tests.e2e.logins import FOREIGN, TOKEN_ENDPOINT, owner
from tests.running import ROOT, until
from tests.standin import Answer, StandIn, error_body

KEY = IdentityKey("acc-spare", "user-spare")
OTHER_KEYS = state_keys({"CODEXPOOL_STATE_KEY": new_key()})


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        yield standin


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_login, "LOOK", 0.01)
    monkeypatch.setattr(shared_login, "WATCHED", 0.2)
    monkeypatch.setattr(shared_login, "WRITE_PAUSES", (0.01, 0.05))


def auth_json(standin: StandIn, lifetime: float = 864_000.0) -> dict[str, Any]:
    return {**standin.login(owner("spare"), lifetime=lifetime), **FOREIGN}


@pytest.fixture
def state(standin: StandIn) -> MemoryState:
    state = MemoryState()
    state.log_in(KEY, json.dumps(auth_json(standin)))
    return state


def stored(state: MemoryState) -> Login:
    return opened(KEY, state.rows[KEY].stored, KEYS)


def proxy(standin: StandIn, state: MemoryState, **more: Any) -> SharedLogin:
    """The credential of one more proxy, which has just read the state."""
    logins = MemoryLogins(state, **more)
    route = Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file))
    present = state.rows[KEY].stored
    return SharedLogin(KEY, present, opened(KEY, present, KEYS), logins, TokenEndpoint(route, {}))


def spent(standin: StandIn) -> list[str]:
    """The refresh tokens that the token endpoint was sent."""
    return [json.loads(seen.body)["refresh_token"] for seen in standin.requests(TOKEN_ENDPOINT) if seen.body]


async def test_a_renewal_is_in_the_state_before_it_is_used(standin: StandIn, state: MemoryState) -> None:
    before, one = stored(state), proxy(standin, state)

    renewal = await one.renewed(before.access, refused=True)

    assert renewal is not None
    assert renewal.issued
    assert renewal.bearer == one.bearer() == stored(state).access != before.access
    assert stored(state).refresh_token != before.refresh_token
    assert {key: stored(state).document[key] for key in FOREIGN} == FOREIGN
    assert state.rows[KEY].mark == ""
    assert spent(standin) == [before.refresh_token]


async def test_of_many_proxies_one_asks(standin: StandIn, state: MemoryState) -> None:
    standin.plan(Answer(path=TOKEN_ENDPOINT, times=None, delay=0.2))
    several = [proxy(standin, state) for _ in range(12)]

    renewals = await asyncio.gather(*(one.renewed(one.bearer(), refused=True) for one in several))

    assert standin.refreshes == 1
    assert {renewal.bearer for renewal in renewals if renewal} == {stored(state).access}
    assert [renewal.issued for renewal in renewals if renewal].count(True) == 1
    assert {one.bearer() for one in several} == {stored(state).access}


async def test_what_another_proxy_renewed_is_taken_without_asking_the_state(
    standin: StandIn, state: MemoryState
) -> None:
    one, other = proxy(standin, state), proxy(standin, state, hears=True)
    await one.renewed(one.bearer(), refused=False)
    state.is_down = True

    renewal = await other.renewed(other.bearer(), refused=False)

    assert renewal is not None
    assert (renewal.bearer, renewal.issued) == (one.bearer(), False)
    assert standin.refreshes == 1


async def test_short_lived_tokens_are_renewed_by_one_proxy_and_not_at_once_by_the_next(
    standin: StandIn, state: MemoryState
) -> None:
    one, other = proxy(standin, state), proxy(standin, state, hears=True)
    standin.plan(Answer(path=TOKEN_ENDPOINT, status=200, body=standin.login(owner("spare"), lifetime=400)["tokens"]))
    await one.renewed(one.bearer(), refused=False)
    await other.renewed(other.bearer(), refused=False)
    for credential in (one, other):
        due_at = credential.due_at()
        assert due_at is not None
        assert due_at > time.time() + 30


async def test_without_the_state_nothing_is_spent(standin: StandIn, state: MemoryState) -> None:
    one = proxy(standin, state)
    state.is_down = True
    with pytest.raises(NoTokenNowError, match="the state cannot be reached"):
        await one.renewed(one.bearer(), refused=True)
    assert standin.refreshes == 0


async def test_a_lost_connection_during_the_token_call_lets_no_other_proxy_spend_the_same_token(
    standin: StandIn, state: MemoryState
) -> None:
    # given a renewal that is under way when the state is lost, for this proxy and all others
    standin.plan(Answer(path=TOKEN_ENDPOINT, delay=0.5))
    one, other = proxy(standin, state), proxy(standin, state)
    before = stored(state)
    renewing = asyncio.create_task(one.renewed(before.access, refused=True))
    await asyncio.to_thread(until, lambda: spent(standin), 10, "the token endpoint to be asked")
    state.is_down = True

    # when the answer has come, it serves although it cannot be written yet
    renewal = await renewing
    assert renewal is not None
    assert renewal.bearer != before.access
    state.is_down = False

    # then the other proxy gets it, and has not asked
    theirs = await other.renewed(before.access, refused=True)
    assert theirs is not None
    assert theirs.bearer == renewal.bearer == stored(state).access
    assert spent(standin) == [before.refresh_token]


async def test_an_unwritten_login_is_written_before_a_mark_that_is_over_is_replaced(
    standin: StandIn, state: MemoryState
) -> None:
    """The state may have been away for longer than a mark counts."""
    now = [time.time()]
    state.now = lambda: now[0]
    one, other = proxy(standin, state), proxy(standin, state)
    before = stored(state)
    standin.plan(Answer(path=TOKEN_ENDPOINT, delay=0.3))
    renewing = asyncio.create_task(one.renewed(before.access, refused=True))
    await asyncio.to_thread(until, lambda: spent(standin), 10, "the token endpoint to be asked")
    state.is_down = True
    await renewing
    now[0] += MARKED_FOR + 60
    state.is_down = False

    renewal = await other.renewed(before.access, refused=True)

    assert renewal is not None
    assert renewal.bearer == one.bearer() == stored(state).access
    assert standin.refreshes == 1


async def test_a_login_that_cannot_be_written_yet_is_not_renewed_again(standin: StandIn, state: MemoryState) -> None:
    standin.plan(Answer(path=TOKEN_ENDPOINT, delay=0.3))
    one = proxy(standin, state)
    renewing = asyncio.create_task(one.renewed(one.bearer(), refused=True))
    await asyncio.to_thread(until, lambda: spent(standin), 10, "the token endpoint to be asked")
    state.is_down = True
    await renewing
    with pytest.raises(NoTokenNowError, match="cannot be written to the state yet"):
        await one.renewed(one.bearer(), refused=True)
    assert standin.refreshes == 1
    state.is_down = False
    await asyncio.to_thread(until, lambda: stored(state).access == one.bearer(), 10, "the login to be written")


async def test_a_killed_proxy_holds_the_others_up_no_longer_than_its_mark(
    standin: StandIn, state: MemoryState
) -> None:
    # given the mark of a proxy that was killed before it asked
    now = [time.time()]
    state.now = lambda: now[0]
    state.rows[KEY].mark, state.rows[KEY].until = "killed", now[0] + MARKED_FOR
    one = proxy(standin, state)
    renewing = asyncio.create_task(one.renewed(one.bearer(), refused=True))
    await asyncio.sleep(0.3)
    assert standin.refreshes == 0
    # when its time is over
    now[0] += MARKED_FOR
    renewal = await renewing
    assert renewal is not None
    assert renewal.bearer == stored(state).access
    assert standin.refreshes == 1


WAITING = """
import threading, time
from codexpool.credentials.shared_login import SharedLogin, opened
from codexpool.pool.identity import IdentityKey
from tests.credentials.shared import KEYS, MemoryLogins, MemoryState
from tests.standin.logins import access_token, auth_json
from tests.standin.tokens import Token
import json

key, state = IdentityKey("acc-spare", "user-spare"), MemoryState()
state.log_in(key, json.dumps(auth_json(Token(access_token(Token("", *key)), *key), "rt_test")))
row = state.rows[key]
row.mark, row.until = "of another proxy", time.time() + 1e6
login = SharedLogin(key, row.stored, opened(key, row.stored, KEYS), MemoryLogins(state), None)
threading.Thread(target=login._renew, args=(login.bearer(), True)).start()
print("ends")
"""


def test_a_proxy_that_waits_for_another_one_ends_all_the_same() -> None:
    # It would wait for 45 s.
    ended = subprocess.run([sys.executable, "-c", WAITING], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert ended.stdout == "ends\n"
    assert "another proxy is renewing its login" in ended.stderr


async def test_a_commit_whose_outcome_is_unknown_is_not_taken_for_anothers_login(
    standin: StandIn, state: MemoryState
) -> None:
    one = proxy(standin, state, loses_commits=1)
    renewal = await one.renewed(one.bearer(), refused=True)
    assert renewal is not None
    assert renewal.issued
    assert renewal.bearer == one.bearer() == stored(state).access
    again = await one.renewed(one.bearer(), refused=True)
    assert again is not None
    assert again.bearer == stored(state).access
    assert standin.refreshes == 2


async def test_a_login_made_by_a_person_during_a_renewal_counts(standin: StandIn, state: MemoryState) -> None:
    standin.plan(Answer(path=TOKEN_ENDPOINT, delay=0.3))
    one = proxy(standin, state)
    renewing = asyncio.create_task(one.renewed(one.bearer(), refused=True))
    await asyncio.to_thread(until, lambda: spent(standin), 10, "the token endpoint to be asked")
    theirs = auth_json(standin)
    state.log_in(KEY, json.dumps(theirs))

    renewal = await renewing

    assert renewal is not None
    assert (renewal.bearer.token, renewal.issued) == (theirs["tokens"]["access_token"], False)
    assert stored(state).document == theirs


async def test_a_final_refusal_is_asked_for_once_in_the_fleet(standin: StandIn, state: MemoryState) -> None:
    standin.plan(
        Answer(path=TOKEN_ENDPOINT, times=None, delay=0.2, status=400, body=error_body("invalid_grant", "no"))
    )
    several = [proxy(standin, state) for _ in range(6)]
    before = stored(state)

    errors = await asyncio.gather(
        *(one.renewed(one.bearer(), refused=True) for one in several), return_exceptions=True
    )

    assert len(spent(standin)) == 1
    assert {(type(e), getattr(e, "code", "")) for e in errors} == {(NoTokenAnyMoreError, "invalid_grant")}
    assert stored(state) == before
    # when a person logs in again, all of them have that login
    state.log_in(KEY, json.dumps(auth_json(standin)))
    for one in several:
        renewal = await one.renewed(before.access, refused=False)
        assert renewal is not None
        assert renewal.bearer == stored(state).access


async def test_a_login_written_late_counts_more_than_the_refusal_of_the_one_before(
    standin: StandIn, state: MemoryState
) -> None:
    """The proxy that renewed it was cut off for long, and another one has spent the refresh token again."""
    standin.plan(Answer(path=TOKEN_ENDPOINT, delay=0.3, status=400, body=error_body("refresh_token_reused", "no")))
    one = proxy(standin, state)
    renewing = asyncio.create_task(one.renewed(one.bearer(), refused=True))
    await asyncio.to_thread(until, lambda: spent(standin), 10, "the token endpoint to be asked")
    late = auth_json(standin)
    MemoryLogins(state).put(KEY, KEYS.seal(json.dumps(late), KEY), state.rows[KEY].stored.generation)
    renewal = await renewing
    assert renewal is not None
    assert renewal.bearer.token == late["tokens"]["access_token"]


async def test_a_failed_renewal_lets_the_next_one_begin_at_once(standin: StandIn, state: MemoryState) -> None:
    standin.plan(Answer(path=TOKEN_ENDPOINT, status=503, body=b"no"))
    one, other = proxy(standin, state), proxy(standin, state)
    with pytest.raises(NoTokenNowError, match="answers 503"):
        await one.renewed(one.bearer(), refused=True)
    assert state.rows[KEY].mark == ""
    renewal = await other.renewed(other.bearer(), refused=True)
    assert renewal is not None
    assert renewal.bearer == stored(state).access


async def test_the_refresh_token_of_an_unusable_answer_is_kept_for_all(standin: StandIn, state: MemoryState) -> None:
    fresh = standin.login(owner("spare"))["tokens"]["refresh_token"]
    standin.plan(Answer(path=TOKEN_ENDPOINT, status=200, body={"access_token": "\x00", "refresh_token": fresh}))
    one, other = proxy(standin, state), proxy(standin, state)
    before = stored(state)
    with pytest.raises(UnusableTokenError, match="its new refresh token is kept for the next try"):
        await one.renewed(before.access, refused=True)
    assert one.bearer() == stored(state).access == before.access

    renewal = await other.renewed(before.access, refused=True)

    assert renewal is not None
    assert renewal.bearer == stored(state).access != before.access
    assert spent(standin) == [before.refresh_token, fresh]


async def test_tokens_of_another_account_are_told(standin: StandIn, state: MemoryState) -> None:
    standin.backend.refresh_tokens.hand_over(stored(state).refresh_token, owner("stranger"))
    one = proxy(standin, state)
    renewal = await one.renewed(one.bearer(), refused=True)
    assert renewal is not None
    assert renewal.previous_owner == KEY
    assert stored(state).key == ("acc-stranger", "user-stranger")


@pytest.mark.parametrize("keys", [OTHER_KEYS, state_keys({})], ids=["wrong key", "no key"])
async def test_with_a_wrong_key_nothing_is_spent_or_changed(standin: StandIn, state: MemoryState, keys: Any) -> None:
    one = proxy(standin, state, own_keys=keys)
    before = state.rows[KEY].stored
    with pytest.raises(NoTokenNowError, match="its login in the state is encrypted"):
        await one.renewed(one.bearer(), refused=True)
    assert state.rows[KEY].stored == before
    assert state.rows[KEY].mark == ""
    assert standin.refreshes == 0


async def test_a_removed_login_is_told(standin: StandIn, state: MemoryState) -> None:
    one = proxy(standin, state)
    del state.rows[KEY]
    with pytest.raises(NoTokenNowError, match="the state has no login of account acc-spare and user user-spare"):
        await one.renewed(one.bearer(), refused=True)
    assert standin.refreshes == 0


def test_what_was_read_before_a_renewal_does_not_undo_it(standin: StandIn, state: MemoryState) -> None:
    in_use, read_before = proxy(standin, state), proxy(standin, state)
    renewal = asyncio.run(in_use.renewed(in_use.bearer(), refused=True))
    assert renewal is not None
    assert read_before.after(in_use) is in_use
    assert in_use.bearer() == renewal.bearer
    # what a person puts there afterwards counts
    state.log_in(KEY, json.dumps(auth_json(standin)))
    assert proxy(standin, state).after(in_use) is in_use
    assert in_use.bearer() == stored(state).access


def test_a_login_of_another_identity_is_not_taken(standin: StandIn, state: MemoryState) -> None:
    """Not even if its row is copied."""
    other = IdentityKey("acc-other", "user-other")
    state.rows[other] = state.rows[KEY]
    with pytest.raises(UnusableError, match="damaged, or another identity's"):
        opened(other, state.rows[other].stored, KEYS)
