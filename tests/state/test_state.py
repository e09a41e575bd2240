"""What every state promises, wherever it keeps things."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.state import Record, Snapshot, StateError, UnavailableError
from codexpool.state.location import SqliteFile, location
from codexpool.state.sqlite import SqliteState
from tests.state.flushed import flushed

WORK = IdentityKey("acct-work", "user-1")
SPARE = IdentityKey("acct-spare", "user-1")
META = Metadata("acct-work", "user-1", "business", True, "https://eu.example", "us_cr")
EVIDENCE = Evidence(
    1.5, "POST", "/backend-api/codex/responses", 401, "token_revoked", "req-1", "1a2b", "refused", "é"
)

DEAD = Condition(Status.NEEDS_REPLACEMENT, 1.5, None, EVIDENCE)
LIMITED = Condition(Status.LIMITED, 2.5, 9.75)
NOW = 1_800_000_000.0
"""2027-01-15, 08:00 UTC."""
ACCOUNT = Account("/p/pool.toml", "2027-01-15", "ann", "work", "gpt-5")
BEGUN = Account("/p/pool.toml", "2027-01-15", "ann", "", "")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SqliteState]:
    kept = SqliteState(tmp_path / "s.sqlite3", lambda: NOW)
    yield kept
    kept.close()


def settled(state: SqliteState) -> Snapshot:
    if isinstance(state, SqliteState):
        assert flushed(state, 10)
    return state.load()


def test_a_new_state_is_empty(state: SqliteState) -> None:
    assert state.load() == state.changes() == Snapshot()


def test_what_is_put_is_loaded_as_it_was(state: SqliteState) -> None:
    state.put_session("s1", WORK, NOW)
    state.put_session("s2", SPARE, NOW)
    state.put_metadata("f1", META, NOW)
    state.put_metadata("f2", Metadata("a", "b", "plus"), NOW)
    state.put_condition("f1", DEAD)
    state.put_condition("f2", LIMITED)

    loaded = settled(state)

    assert loaded.sessions == {"s1": WORK, "s2": SPARE}
    assert loaded.metadata == {"f1": META, "f2": Metadata("a", "b", "plus")}
    assert loaded.conditions == {"f1": DEAD, "f2": LIMITED}


def test_moves_and_notes_are_loaded_as_they_were(state: SqliteState) -> None:
    state.put_session("s1", WORK, NOW)
    state.put_session("s2", SPARE, NOW, 3)
    state.put_note("usage", '["acct", "user"]', {"windows": [], "limited": {"codex": NOW}})
    state.put_note("usage", '["acct", "user"]', {"windows": [["codex", 300, 1.5, None, NOW]], "limited": {}})
    state.put_note("breaker", "/p/pool.toml", {"opened_at": None})

    loaded = settled(state)

    assert (loaded.sessions, loaded.moves) == ({"s1": WORK, "s2": SPARE}, {"s2": 3})
    assert loaded.notes == {
        ("usage", '["acct", "user"]'): {"windows": [["codex", 300, 1.5, None, NOW]], "limited": {}},
        ("breaker", "/p/pool.toml"): {"opened_at": None},
    }


def test_what_an_identity_last_was_is_loaded_as_it_was(state: SqliteState) -> None:
    state.put_record("/p/pool.toml#work", Record("f1", WORK))
    state.put_record("/p/pool.toml#work", Record("f2", WORK, NOW))
    state.put_record("/q/pool.toml#work", Record("f3", SPARE))

    assert settled(state).records == {
        "/p/pool.toml#work": Record("f2", WORK, NOW),
        "/q/pool.toml#work": Record("f3", SPARE),
    }


def test_a_removed_identity_has_no_record(state: SqliteState) -> None:
    state.put_record("p#work", Record("f1", WORK))
    state.drop_record("p#work")
    assert settled(state).records == {}
    state.put_record("p#work", Record("f2", SPARE))
    assert settled(state).records == {"p#work": Record("f2", SPARE)}


def test_what_was_spent_is_loaded_as_it_was_last_put(state: SqliteState) -> None:
    state.put_spent(ACCOUNT, Spent(1, 0, 100, 60, 20, 5, NOW, NOW))
    state.put_spent(BEGUN, Spent(1, 0, 0, 0, 0, 0, NOW, NOW))
    state.put_spent(ACCOUNT, Spent(2, 1, 100, 60, 20, 5, NOW, NOW + 1))

    loaded = {account: spent for (account, _), spent in settled(state).spent.items()}

    assert loaded == {ACCOUNT: Spent(2, 1, 100, 60, 20, 5, NOW, NOW + 1), BEGUN: Spent(1, 0, 0, 0, 0, 0, NOW, NOW)}


def test_a_case_is_claimed_once(state: SqliteState) -> None:
    assert [state.claim(case, NOW) for case in ("a", "b", "a", "a", "b")] == [True, True, False, False, False]


def test_the_last_word_on_a_key_counts(state: SqliteState) -> None:
    for key in (WORK, SPARE, WORK, SPARE):
        state.put_session("s1", key, NOW)
        settled(state)
    state.put_session("s1", WORK, NOW - 5)
    state.put_condition("f1", DEAD)
    state.drop_condition("f1")
    state.drop_condition("never put")
    state.drop_condition("f2")
    state.put_condition("f2", LIMITED)

    loaded = settled(state)

    assert loaded.sessions == {"s1": WORK}
    assert loaded.conditions == {"f2": LIMITED}


def test_what_one_wrote_itself_is_no_change(state: SqliteState) -> None:
    state.put_session("s1", WORK, NOW)
    state.drop_condition("f1")
    settled(state)
    assert state.changes() == Snapshot()


def test_a_loaded_snapshot_is_the_callers_own(state: SqliteState) -> None:
    state.put_session("s1", WORK, NOW)
    settled(state).sessions.clear()
    assert state.load().sessions == {"s1": WORK}


def test_nothing_is_raised_after_close(state: SqliteState) -> None:
    state.close()
    state.put_session("s1", WORK, NOW)
    state.drop_condition("f1")
    state.changes()
    state.load()
    state.close()


def test_of_too_many_sessions_the_least_recently_used_go(state: SqliteState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codexpool.state.store.MAX_SESSIONS", 3)
    monkeypatch.setattr("codexpool.state.writer.PRUNE_EVERY", 0)
    for at, session in enumerate(["a", "b", "c", "a", "d"]):
        state.put_session(session, WORK, NOW + at)
        settled(state)
    assert set(settled(state).sessions) == {"c", "a", "d"}


def test_the_path_is_the_users_own_or_the_one_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert location({"CODEXPOOL_STATE": "~/here.db"}) == SqliteFile(tmp_path / "here.db")
    for environ in ({}, {"CODEXPOOL_STATE": ""}):
        default = location(environ).folder / "state.sqlite3"
        assert location(environ) == SqliteFile(default)
        assert default.name == "state.sqlite3"
        assert default.parent.name == "codexpool"
        assert tmp_path in default.parents


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:s3cret@db.example/codexpool",
        "sqlite:////var/lib/state.sqlite3",
        "file:///var/lib/state.sqlite3",
        "file:/var/lib/state.sqlite3",
        " redis://localhost/0",
        "mongodb+srv://example/x",
    ],
)
def test_a_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(
        StateError, match=r"CODEXPOOL_STATE is a URL \(\S+:…\) that codexpool does not know; name a file"
    ) as caught:
        location({"CODEXPOOL_STATE": url})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a:b.sqlite3", "C:/state.sqlite3", "state", "./http:/x"])
def test_a_name_with_a_colon_is_no_url(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert location({"CODEXPOOL_STATE": name}) == SqliteFile(tmp_path / name)


def test_an_unusable_disk_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for unusable in (tmp_path / "file" / "s.sqlite3", tmp_path):
        with pytest.raises(UnavailableError, match=r"cannot be used .*; let the user .* CODEXPOOL_STATE") as caught:
            SqliteState(unusable)
        assert str(unusable) in str(caught.value)
