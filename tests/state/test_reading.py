"""The state read by somebody who only looks on: all of it is seen, and nothing of the folder is other than before."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codexpool.members.ledger import Account, Spent, day_of
from codexpool.pool.identity import Condition, IdentityKey, Metadata, Status
from codexpool.state import Record, Snapshot, StateError
from codexpool.state.location import SqliteFile
from codexpool.state.opening import read_spent, read_state
from codexpool.state.sqlite import SqliteState
from tests.state.flushed import flushed, stored_sessions

SPENT = Spent(2, 1, 100, 60, 20, 5, 10.0, 20.0)
KEY = IdentityKey("acc-a", "user-a")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


def account(day: str, member: str, identity: str = "work", model: str = "m", pool: str = "/p/pool.toml") -> Account:
    return Account(pool, day, member, identity, model)


@contextlib.contextmanager
def written(path: Path) -> Iterator[SqliteState]:
    """A state with something of everything in it, on the disk."""
    state = SqliteState(path)
    try:
        state.put_session("s", KEY, 2_000_000_000.0, moves=2)
        state.put_metadata("0" * 12, Metadata("acc-a", "user-a", "business"), 1.0)
        state.put_condition("1" * 12, Condition(Status.LIMITED, 1.0, 2.0))
        state.put_record("pool.toml#work", Record("0" * 12, KEY, 3.0))
        state.put_note("families", "", {"m": "f"})
        state.put_spent(account(day_of(time.time()), "ann"), SPENT)
        assert flushed(state, 10)
        yield state
    finally:
        state.close()


def listing(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def test_a_state_is_read_whole_and_its_folder_stays_as_it_was(path: Path) -> None:
    with written(path) as state:
        whole = replace(state.load(), sessions=stored_sessions(state), moves={"s": 2})
    before = listing(path)

    assert read_state(SqliteFile(path)) == whole
    assert whole.sessions
    assert whole.notes
    assert whole.spent
    assert listing(path) == before


def test_what_a_running_proxy_has_only_just_written_is_seen(path: Path) -> None:
    with written(path) as state:
        names = set(listing(path))
        assert {path.name, f"{path.name}-wal"} <= names

        assert read_state(SqliteFile(path)) == replace(state.load(), sessions=stored_sessions(state), moves={"s": 2})
        assert set(listing(path)) == names


def test_where_there_is_no_state_none_is_made(path: Path) -> None:
    assert read_state(SqliteFile(path)) is None
    assert list(path.parent.iterdir()) == []


def older(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA application_id = 1668244592; PRAGMA user_version = 2;")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b"no database at all, but long enough to be one" * 30), "not a database"),
        (lambda path: path.write_bytes(b""), "not of this version"),
        (older, "not of this version"),
    ],
    ids=["broken", "empty", "older"],
)
def test_what_cannot_be_read_is_left_alone(
    path: Path, make: object, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(make)
    make(path)
    before = listing(path)

    with caplog.at_level(logging.WARNING):
        assert read_state(SqliteFile(path)) is None

    assert says in caplog.text
    assert listing(path) == before


def test_what_was_spent_is_summed_and_its_folder_stays_as_it_was(path: Path) -> None:
    # given: two proxies, two pools
    with written(path) as state, written(path) as other:
        for of in (state, other):
            of.put_spent(account("2033-05-18", "ann"), SPENT)
            of.put_spent(account("2033-05-19", "ann"), SPENT._replace(first_at=30.0, last_at=40.0))
        other.put_spent(account("2033-05-18", "bob", "spare"), SPENT)
        other.put_spent(account("2033-05-18", "bob", pool="/q/pool.toml"), SPENT)
        other.put_spent(account("2033-05-18", "bob", identity="", model=""), SPENT)  # begun, which is no use of it
    before = listing(path)

    assert read_spent(SqliteFile(path), ["member"], "2033-05-18") == {
        ("ann",): Spent(8, 4, 400, 240, 80, 20, 10.0, 40.0),
        ("bob",): Spent(4, 2, 200, 120, 40, 10, 10.0, 20.0),
    }
    assert {
        key: spent.turns for key, spent in read_spent(SqliteFile(path), ["day", "identity"], "2033-05-18").items()
    } == {
        ("2033-05-18", "spare"): 2,
        ("2033-05-18", "work"): 6,
        ("2033-05-19", "work"): 4,
    }
    assert {
        key: spent.turns for key, spent in read_spent(SqliteFile(path), ["pool", "member"], "2033-05-19").items()
    } == {("/p/pool.toml", "ann"): 4}
    assert read_spent(SqliteFile(path), ["model"], "2033-05-20") == {}
    assert listing(path) == before


def test_without_a_state_there_is_no_usage(path: Path) -> None:
    """A state that cannot be read is an error."""
    assert read_spent(SqliteFile(path), ["member"], "2033-05-18") == {}
    assert list(path.parent.iterdir()) == []

    older(path)
    with pytest.raises(StateError, match="not of this version"):
        read_spent(SqliteFile(path), ["member"], "2033-05-18")
    with pytest.raises(ValueError, match="not in"):
        read_spent(SqliteFile(path), ["member; DROP TABLE spent"], "2033-05-18")
    path.write_bytes(b"no database at all, but long enough to be one" * 30)
    with pytest.raises(StateError, match="cannot be read"):
        read_spent(SqliteFile(path), ["member"], "2033-05-18")


def test_an_empty_state_is_one_in_which_nothing_is(path: Path) -> None:
    SqliteState(path).close()

    assert read_state(SqliteFile(path)) == Snapshot()
