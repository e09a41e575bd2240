"""The pool that is consulted: made of what files say, and nobody is asked for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from codexpool.config.read import load, parse
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.pool.identity import Asked, Condition, Evidence, IdentityKey, Kind, Metadata, Status
from codexpool.pool.needs import NONE_FOR_CLIENTS, no_identity
from codexpool.proxy.observe.pool import Consulted, consult
from codexpool.state import Record, logins
from codexpool.state.location import SqliteFile
from codexpool.state.sqlite import SqliteState
from codexpool.tokens.bearer import fingerprint
from codexpool.tokens.state_keys import new_key, state_keys
from tests.proxy.observe.flows import HEADERS, observing, request, sent, state_in, trace_of
from tests.running import pat, pool_toml
from tests.standin import Token
from tests.standin.logins import access_token, auth_json

WORK = fingerprint(pat("work").token)
NOW = time.time()
KNOWN = Metadata("acc-work", "user-work", "business")


def known(state: SqliteState, condition: Condition | None = None) -> None:
    state.put_metadata(WORK, KNOWN, NOW)
    if condition is not None:
        state.put_condition(WORK, condition)


STANDINGS: dict[str, tuple[str, Callable[[SqliteState], None], Status, str]] = {
    "nothing is known": ("", lambda state: None, Status.READY, "not verified yet"),
    "verified": ("", lambda state: known(state), Status.READY, ""),
    "limited": ("", lambda s: known(s, Condition(Status.LIMITED, NOW, NOW + 900)), Status.LIMITED, ""),
    "limited once": ("", lambda s: known(s, Condition(Status.LIMITED, 1, 2)), Status.READY, ""),
    "resting": ("", lambda s: known(s, Condition(Status.RESTING, NOW, NOW + 900)), Status.RESTING, ""),
    "dead": ("", lambda s: known(s, Condition(Status.NEEDS_REPLACEMENT, NOW)), Status.NEEDS_REPLACEMENT, ""),
    "in doubt": ("", lambda s: known(s, Condition(Status.SUSPECT, NOW)), Status.READY, ""),
    "paused": ("paused = true", lambda state: known(state), Status.PAUSED, ""),
    "paused and never verified": ("paused = true", lambda state: None, Status.PAUSED, ""),
    "paused once": ("", lambda s: known(s, Condition(Status.PAUSED, NOW)), Status.READY, ""),
    "workspace": (
        "",
        lambda s: known(s, Condition(Status.PAUSED, NOW, evidence=Evidence(NOW, status=402))),
        *(Status.PAUSED, ""),
    ),
    "flagged": (
        f'needs_replacement = {{ since = 2026-11-20T14:02:11Z, reason = "dead", token = "sha256:{WORK}" }}',
        lambda state: known(state),
        *(Status.NEEDS_REPLACEMENT, ""),
    ),
    "flag of another token": (
        f'needs_replacement = {{ since = 2026-11-20T14:02:11Z, reason = "dead", token = "sha256:{"0" * 12}" }}',
        lambda state: known(state),
        *(Status.READY, ""),
    ),
    "of another account": ('account_id = "acc-other"', lambda state: known(state), Status.CONFLICT, ""),
    "of the same account": ('account_id = "acc-work"', lambda state: known(state), Status.READY, ""),
}


@pytest.mark.parametrize(("head", "write", "status", "note"), STANDINGS.values(), ids=STANDINGS)
def test_identities_have_the_status_that_files_give(
    tmp_path: Path, head: str, write: Callable[[SqliteState], None], status: Status, note: str
) -> None:
    with state_in(tmp_path) as state:
        write(state)
    consulted = consulted_of(tmp_path, f'[[identity]]\nname = "work"\ntoken = "{pat("work").token}"\n{head}\n')

    (identity,) = consulted.pool.identities.values()
    assert identity.status is status
    assert consulted.notes.get("work", "") == note
    assert ("is assumed to be ready" in consulted.lines()[0]) == bool(note)


def consulted_of(folder: Path, text: str, **environ: str) -> Consulted:
    pool_toml(folder, head=text)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    consulted = consult(load(folder / "pool.toml"), environ, SqliteFile(folder / "state.sqlite3"))
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before, "nothing is written"
    return consulted


async def test_no_command_or_keyring_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the keyring was asked")

    monkeypatch.setattr("codexpool.config.sources.read_keyring", asked)
    ran = tmp_path / "ran"
    text = (
        f'[[identity]]\nname = "sso"\ntoken = {{ command = ["touch", "{ran}"] }}\n'
        '[[identity]]\nname = "locked"\ntoken = { keyring = "codexpool" }\n'
        '[[identity]]\nname = "unset"\ntoken = { env = "NOT_SET" }\n'
    )
    consulted = consulted_of(tmp_path, text)

    assert not ran.exists()
    identities = consulted.pool.identities
    assert {name: i.status for name, i in identities.items()} == {"sso": Status.READY, "locked": Status.READY}
    assert [i.kind for i in identities.values()] == [Kind.COMMAND, Kind.PAT]
    assert consulted.lines() == [
        "sso is assumed to be ready (its command was not run)",
        "locked is assumed to be ready (its token was not read from the keyring)",
    ]
    sso, locked = (dict(consulted.fields(name, HEADERS, False)) for name in identities)
    assert sso[b"AUTHORIZATION"] == b"Bearer <codexpool:sso>"
    assert b"ChatGPT-Account-Id" not in sso
    assert locked[b"ChatGPT-Account-Id"] == b"<codexpool:locked>"


def test_the_owner_of_a_commands_last_token_is_known(tmp_path: Path) -> None:
    with state_in(tmp_path) as state:
        key = IdentityKey("acc-sso", "user-sso")
        state.put_record(f"{tmp_path / 'pool.toml'}#sso", Record("0" * 12, key))
        state.put_session("s", key, NOW)
    consulted = consulted_of(tmp_path, '[[identity]]\nname = "sso"\ntoken = { command = ["false"] }\n')

    identity = consulted.pool.identities["sso"]
    assert identity.metadata is not None
    assert identity.metadata.key == key
    assert consulted.lines()[0].startswith(
        "sso is assumed to be ready (its command was not run): command token sha256:0"
    )


async def test_sessions_keep_the_identities_of_earlier_runs(tmp_path: Path) -> None:
    with state_in(tmp_path) as state:
        for name in ("work", "spare"):
            metadata = Metadata(f"acc-{name}", f"user-{name}", "business")
            state.put_metadata(fingerprint(pat(name).token), metadata, NOW)
        state.put_session("s", IdentityKey("acc-spare", "user-spare"), NOW)
    observed = observing(tmp_path, "work", "spare")
    flow = request()
    await sent(observed, flow)

    (attempt,) = trace_of(flow).attempts
    assert (attempt.identity, str(attempt.because)) == ("spare", "the session is with it")


def test_origins_of_identities_are_observed(tmp_path: Path) -> None:
    with state_in(tmp_path) as state:
        state.put_metadata(WORK, Metadata("acc-work", "user-work", "business", origin="https://gov.chatgpt.com"), NOW)
    observed = observing(tmp_path, "work")
    flow = request()
    flow.request.host = "gov.chatgpt.com"

    assert observed.policy(flow.request).swaps


@pytest.mark.parametrize("lifetime", [3600.0, -60.0])
def test_a_login_in_the_state_is_read_and_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lifetime: float
) -> None:
    key, owner = new_key(), IdentityKey("acc-spare", "user-spare")
    token = access_token(Token("", *owner), lifetime=lifetime)
    text = json.dumps(auth_json(Token(token, *owner), "rt_test"))
    monkeypatch.setattr(TokenEndpoint, "renew", lambda *_: pytest.fail("the token endpoint was asked"))
    state = SqliteState(tmp_path / "state.sqlite3")
    sealed = state_keys({"CODEXPOOL_STATE_KEY": key}).seal(text, owner)
    state.transact(lambda connection: logins.log_in(connection, owner, sealed))
    before = state.load()
    table = '[[identity]]\nname = "spare"\nlogin = "state"\naccount_id = "acc-spare"\nuser_id = "user-spare"\n'

    config = parse(table, tmp_path / "pool.toml")
    consulted = consult(config, {"CODEXPOOL_STATE_KEY": key}, SqliteFile(tmp_path / "state.sqlite3"))

    identity = consulted.pool.identities["spare"]
    assert (identity.kind, identity.status, identity.fingerprint) == (Kind.OAUTH, Status.READY, fingerprint(token))
    assert consulted.notes == {"spare": "not verified yet" if lifetime > 0 else "its login has to be renewed"}
    assert state.load() == before
    state.close()


def test_a_pool_without_identities_is_consulted_like_any_other(tmp_path: Path) -> None:
    consulted = consult(parse("", tmp_path / "pool.toml"), {}, SqliteFile(tmp_path / "state.sqlite3"))
    assert no_identity(consulted.pool, Asked("", "/backend-api/codex/responses"), NOW).message == NONE_FOR_CLIENTS
