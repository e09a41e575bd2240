"""The state read by somebody who only looks on: all of it is seen, and nothing of the folder is other than before."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from codexpool.pool.identity import Condition, IdentityKey, Metadata, Status
from codexpool.state import Record, Snapshot, SqliteState, read_state

KEY = IdentityKey("acc-a", "user-a")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


@contextlib.contextmanager
def written(path: Path) -> Iterator[SqliteState]:
    """A state with something of everything in it, on the disk."""
    state = SqliteState(path, clock=lambda: 2_000_000_000.0)
    try:
        state.put_session("s", KEY, 2_000_000_000.0, moves=2)
        state.put_metadata("0" * 12, Metadata("acc-a", "user-a", "business"), 1.0)
        state.put_condition("1" * 12, Condition(Status.LIMITED, 1.0, 2.0))
        state.put_record("pool.toml#work", Record("0" * 12, KEY, 3.0))
        state.put_note("families", "", {"m": "f"})
        assert state.flush(10)
        yield state
    finally:
        state.close()


def listing(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def test_a_state_is_read_whole_and_its_folder_stays_as_it_was(path: Path) -> None:
    with written(path) as state:
        whole = state.load()
    before = listing(path)

    assert read_state(path) == whole
    assert whole.sessions
    assert whole.notes
    assert listing(path) == before


def test_what_a_running_proxy_has_only_just_written_is_seen(path: Path) -> None:
    with written(path) as state:
        names = set(listing(path))
        assert {path.name, f"{path.name}-wal"} <= names

        assert read_state(path) == state.load()
        assert set(listing(path)) == names


def test_where_there_is_no_state_none_is_made(path: Path) -> None:
    assert read_state(path) is None
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
        assert read_state(path) is None

    assert says in caplog.text
    assert listing(path) == before


def test_an_empty_state_is_one_in_which_nothing_is(path: Path) -> None:
    SqliteState(path).close()

    assert read_state(path) == Snapshot()
