"""`login --shared`, `add --shared` and what works on such identities: the login is in the state, and nowhere else."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codexpool.config.model import FromAuthJson, FromState
from codexpool.config.read import load
from codexpool.credentials.auth_json import Login
from codexpool.credentials.shared_login import opened
from codexpool.pool.identity import IdentityKey
from codexpool.state import logins
from codexpool.state.sqlite import SqliteState
from codexpool.tokens.state_keys import new_key, state_keys
from tests.cli.pools import Pool, fake_codex
from tests.e2e.logins import TOKEN_ENDPOINT, login_of, owner
from tests.standin import Answer, StandIn, Token, error_body

KEY = IdentityKey("acc-spare", "user-spare")
WORK = Token("at-test-work-0123456789abcdef0123456789ab", "acc-work", "user-work", name="work")


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        yield Pool(standin, tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def key(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> str:
    key = pool.secret(new_key())
    monkeypatch.setenv("CODEXPOOL_STATE_KEY", key)
    return key


def stored(pool: Pool, key: str) -> Login | None:
    """The login in the state, decrypted."""
    state = SqliteState(pool.folder / "state.sqlite3")
    try:
        login = state.transact(lambda connection: logins.login_rows(connection, -1)).get(KEY)
    finally:
        state.close()
    return None if login is None or login.is_empty else opened(KEY, login, state_keys({"CODEXPOOL_STATE_KEY": key}))


def document(pool: Pool, key: str) -> dict[str, Any]:
    login = stored(pool, key)
    assert login is not None
    return dict(login.document)


def test_a_key_is_printed_and_nothing_else(pool: Pool) -> None:
    printed = pool.run("state", "key")
    assert len(state_keys({"CODEXPOOL_STATE_KEY": printed.stdout}).keys) == 1
    assert printed.stderr == ""
    assert pool.run("state", "key").stdout != printed.stdout


def test_a_login_is_made_and_kept_in_the_state_only(pool: Pool, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = login_of(pool.standin, pool.folder / "made", owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{made.path}" "$CODEX_HOME/auth.json"')

    result = pool.run("login", "spare", "--shared")

    assert document(pool, key) == made.first
    (spec,) = load(pool.path).identities
    assert (spec.name, spec.source, spec.owner) == ("spare", FromState(), KEY)
    assert "Copy its table to the pool.toml of the other machines" in result.stdout
    assert not (pool.folder / "data" / "codexpool" / "logins").exists()
    (row,) = pool.list().values()
    assert (row["kind"], row["status"], row["account_id"]) == ("oauth", "ready", "acc-spare")


def test_an_auth_json_is_moved_to_the_state(pool: Pool, key: str) -> None:
    file = login_of(pool.standin, pool.folder, owner("spare"))
    result = pool.run("add", "spare", "--auth-json", str(file.path), "--shared")
    assert document(pool, key) == file.document
    assert "is not used any more" in result.stderr
    assert str(file.path.name) not in pool.text


@pytest.mark.parametrize("environ", [{}, {"CODEXPOOL_STATE_KEY": "codexpool-sk-short"}])
def test_without_a_valid_key_no_person_logs_in_for_nothing(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    monkeypatch.delenv("CODEXPOOL_STATE_KEY")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    fake_codex(pool, monkeypatch, 'cp "/nothing" "$CODEX_HOME/auth.json"')
    said = pool.run("login", "spare", "--shared", code=1).stderr
    assert "codexpool state key makes one" in said
    assert "Nothing was changed" in said
    assert not (pool.folder / "asked").exists()


@pytest.mark.parametrize("source", [["--token-stdin"], ["--env=TOKEN"], []])
def test_only_a_login_can_be_shared(pool: Pool, source: list[str]) -> None:
    said = pool.run("add", "work", *source, "--shared", stdin=WORK.token, code=2).stderr
    assert "--shared is for a login" in said
    assert not pool.path.exists()


def test_a_dry_run_writes_nothing(pool: Pool, key: str) -> None:
    file = login_of(pool.standin, pool.folder, owner("spare"))
    shown = pool.run("add", "spare", "--auth-json", str(file.path), "--shared", "--dry-run").stdout
    assert tomllib.loads(shown)["identity"][0]["login"] == "state"
    assert not pool.path.exists()
    assert stored(pool, key) is None


def shared(pool: Pool) -> dict[str, Any]:
    """A shared identity `spare`; return its login."""
    file = login_of(pool.standin, pool.folder / "first", owner("spare"))
    pool.run("add", "spare", "--auth-json", str(file.path), "--shared")
    file.path.unlink()
    return file.first


def test_a_new_login_replaces_the_one_in_the_state(pool: Pool, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared(pool)
    before = pool.text
    again = login_of(pool.standin, pool.folder / "again", owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{again.path}" "$CODEX_HOME/auth.json"')

    pool.run("login", "spare")

    assert document(pool, key) == again.first
    assert pool.text == before
    # that of another account does not
    stranger = login_of(pool.standin, pool.folder / "stranger", owner("stranger"))
    fake_codex(pool, monkeypatch, f'cp "{stranger.path}" "$CODEX_HOME/auth.json"')
    assert "the new token belongs to another account or user" in pool.run("login", "spare", code=1).stderr
    assert document(pool, key) == again.first


def test_replace_takes_another_auth_json_and_leaves_the_login_shared(pool: Pool, key: str) -> None:
    shared(pool)
    other = login_of(pool.standin, pool.folder / "other", owner("spare"))
    pool.run("replace", "spare", "--auth-json", str(other.path))
    assert document(pool, key) == other.first
    assert load(pool.path).identities[0].source == FromState()
    said = pool.run("replace", "spare", "--token-stdin", stdin=f"{pat_of(pool).token}\n", code=1).stderr
    assert "spare has its login in the state" in said
    assert document(pool, key) == other.first


def pat_of(pool: Pool) -> Token:
    """A token of the same account and user."""
    token = Token(pool.secret("at-test-spare-0123456789abcdef0123456789"), *KEY, name="spare")
    pool.standin.add(token)
    return token


def test_a_login_in_a_file_becomes_a_shared_one(pool: Pool, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = login_of(pool.standin, pool.folder / "first", owner("spare"))
    pool.run("add", "spare", "--auth-json", str(file.path))
    assert isinstance(load(pool.path).identities[0].source, FromAuthJson)
    again = login_of(pool.standin, pool.folder / "again", owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{again.path}" "$CODEX_HOME/auth.json"')

    result = pool.run("login", "spare", "--shared")

    assert document(pool, key) == again.first
    (spec,) = load(pool.path).identities
    assert (spec.source, spec.owner) == (FromState(), KEY)
    assert f"{file.path} is not used any more" in result.stdout
    assert file.document == file.first


def test_check_renews_it_in_the_state(pool: Pool, key: str) -> None:
    first = login_of(pool.standin, pool.folder / "first", owner("spare"))
    pool.run("add", "spare", "--auth-json", str(first.path), "--shared")
    pool.standin.kill(first.document["tokens"]["access_token"])

    pool.run("check")

    renewed = document(pool, key)["tokens"]
    assert renewed["refresh_token"] != first.document["tokens"]["refresh_token"]
    assert pool.list()["spare"]["status"] == "ready"
    assert len(pool.standin.requests(TOKEN_ENDPOINT)) == 1


def test_check_tells_a_login_that_is_over(pool: Pool, key: str) -> None:
    first = shared(pool)
    pool.standin.kill(first["tokens"]["access_token"])
    pool.standin.plan(Answer(path=TOKEN_ENDPOINT, times=None, status=400, body=error_body("invalid_grant", "no")))
    pool.run("check", code=1)
    pool.run("check", code=1)
    assert pool.list()["spare"]["status"] == "needs_login"
    assert len(pool.standin.requests(TOKEN_ENDPOINT)) == 1
    assert document(pool, key) == first


def test_with_a_wrong_key_commands_say_so_and_destroy_nothing(
    pool: Pool, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shared(pool)
    wrong = pool.secret(new_key())
    monkeypatch.setenv("CODEXPOOL_STATE_KEY", wrong)
    again = login_of(pool.standin, pool.folder / "again", owner("spare"))
    fake_codex(pool, monkeypatch, f'cp "{again.path}" "$CODEX_HOME/auth.json"')

    assert "is encrypted with the key sha256:" in (pool.list()["spare"]["evidence"] or "")
    pool.run("check", code=1)
    said = pool.run("login", "spare", code=1).stderr
    assert "If it is lost: codexpool remove NAME --with-login" in said

    assert document(pool, key) == first


def test_remove_keeps_the_login_for_other_proxies_unless_it_is_told_to_delete_it(pool: Pool, key: str) -> None:
    first = shared(pool)
    pool.add(WORK)
    before = pool.text
    assert "kept its login in the state, for other proxies" in pool.run("remove", "spare").stdout
    assert document(pool, key) == first
    pool.path.write_text(before)
    assert "deleted its login in the state" in pool.run("remove", "spare", "--with-login").stdout
    assert stored(pool, key) is None
    assert "--with-login: work has no login in the state" in pool.run("remove", "work", "--with-login", code=2).stderr


def test_state_tells_which_keys_are_still_needed(pool: Pool, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared(pool)
    key_id = state_keys({"CODEXPOOL_STATE_KEY": key}).first
    assert f"logins\t1 encrypted with sha256:{key_id} (the first key here)" in pool.run("state").stdout
    assert json.loads(pool.run("state", "--json").stdout)["keys"] == {f"sha256:{key_id}": 1}
    monkeypatch.setenv("CODEXPOOL_STATE_KEY", f"{new_key()},{key}")
    assert "(set here)" in pool.run("state").stdout
    monkeypatch.delenv("CODEXPOOL_STATE_KEY")
    assert "(not set here)" in pool.run("state").stdout
    monkeypatch.setenv("CODEXPOOL_STATE_KEY", key[:-4])
    said = " ".join(pool.run("state").stdout.split())  # It may be on two lines.
    assert "(CODEXPOOL_STATE_KEY: key 1 is not a complete key of the state)" in said


def test_codex_login_does_not_get_the_key(pool: Pool, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = pool.folder / "codex"
    program.write_text(f'#!/bin/sh\nenv > "{pool.folder}/environ"\nexit 1\n')
    program.chmod(0o700)
    monkeypatch.setenv("CODEXPOOL_CODEX", str(program))
    pool.run("login", "spare", "--shared", code=1)
    environ = (pool.folder / "environ").read_text()
    assert "CODEX_HOME=" in environ
    assert key not in environ
    assert "CODEXPOOL_STATE_KEY" not in environ
