"""`codexpool state`: what is where, and a copy that says what it did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from codexpool.cli.commands import state as command
from codexpool.pool.identity import IdentityKey
from codexpool.state import State, UnavailableError
from codexpool.state.fleet import Proxy
from codexpool.state.location import Location, Postgres
from codexpool.state.opening import open_state
from codexpool.state.presence import beat
from codexpool.state.schema import logins
from codexpool.state.sqlite import SqliteState
from tests.cli.pools import Pool
from tests.running import pat
from tests.standin import StandIn

URL = "postgresql://me:hunter2@db.example/pool?password=hunter3"
SHOWN = "postgresql://db.example/pool"


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        made = Pool(standin, tmp_path, monkeypatch)
        made.secret("hunter2")
        made.secret("hunter3")
        made.add(pat("work"))
        yield made


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What opens in place of PostgreSQL: another file."""
    path = tmp_path / "database.sqlite3"

    def opened(at: Location) -> State:
        return SqliteState(path) if isinstance(at, Postgres) else open_state(at)

    monkeypatch.setattr(command, "open_state", opened)
    return path


def heartbeat(path: Path) -> None:
    with closing(SqliteState(path)) as state:
        state.transact(lambda connection: beat(connection, Proxy("p", "pool-a", "1.0", 4711, 7200.0, 0.0, 5)))


def document(pool: Pool) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pool.run("state", "--json").stdout)
    return found


def test_it_says_where_the_state_is_and_who_uses_it(pool: Pool) -> None:
    heartbeat(pool.folder / "state.sqlite3")

    text = pool.run("state").stdout

    assert f"state\t{pool.folder}/state.sqlite3\n" in text
    assert "engine\tSQLite, schema 5, " in text
    assert "records 1" in text
    assert "proxies\t1 connected; " in text
    assert "pool-a codexpool 1.0, process 4711, up 2 h, 5 sessions" in text


def test_the_document_has_the_same_for_programs(pool: Pool) -> None:
    heartbeat(pool.folder / "state.sqlite3")

    found = document(pool)

    assert (found["engine"], found["where"]) == ("sqlite", f"{pool.folder}/state.sqlite3")
    assert (found["exists"], found["schema"], found["rows"]["records"]) == (True, 5, 1)
    assert found["bytes"] > 10_000
    [proxy] = found["proxies"]
    assert proxy["host"] == "pool-a"
    assert proxy["alive"]


def test_a_state_that_does_not_exist_is_not_created(pool: Pool) -> None:
    path = pool.folder / "state.sqlite3"
    path.unlink()

    assert "does not exist yet" in pool.run("state").stderr
    assert document(pool) == {"version": 1, "engine": "sqlite", "where": str(path), "exists": False}
    assert not path.exists()


def test_a_copy_says_what_it_did_and_what_to_do_next(pool: Pool, database: Path) -> None:
    before = (pool.folder / "state.sqlite3").read_bytes()

    text = pool.run("state", "copy", "--to", URL).output

    assert f"copied to {SHOWN}: metadata 1, conditions 1, records 1" in text
    assert "set CODEXPOOL_STATE to that URL for proxies and commands" in text
    assert (pool.folder / "state.sqlite3").read_bytes() == before
    with closing(SqliteState(database)) as copied:
        assert list(copied.load().records) == [f"{pool.path}#work"]


def test_a_copied_login_must_not_be_used_from_the_file_any_more(pool: Pool, database: Path) -> None:
    values = {"account_id": "a", "user_id": "u", "key_id": "k", "sealed": b"x", "generation": 1, "refusal": ""}
    with closing(SqliteState(pool.folder / "state.sqlite3")) as state:
        state.transact(lambda c: c.execute(insert(logins).values(**values, at=1.0, revision=1, writer="")))

    text = pool.run("state", "copy", "--to", URL).output

    assert "a login is in both now. Start no proxy with the file again" in text


def test_a_second_copy_is_refused(pool: Pool, database: Path) -> None:
    pool.run("state", "copy", "--to", URL)

    assert f"nothing was copied to {SHOWN}: it is not empty" in pool.run("state", "copy", "--to", URL, code=1).output


def test_a_copy_while_a_proxy_runs_is_refused(pool: Pool, database: Path) -> None:
    heartbeat(pool.folder / "state.sqlite3")

    assert "end it first" in pool.run("state", "copy", "--to", URL, code=1).output


def test_a_database_out_of_reach_is_told_without_its_password(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(at: Location) -> State:
        if isinstance(at, Postgres):
            raise UnavailableError(f"{at} cannot be reached", "start it")
        return open_state(at)

    monkeypatch.setattr(command, "open_state", unreachable)

    text = pool.run("state", "copy", "--to", URL, code=1).output

    assert f"nothing was copied to {SHOWN}: {SHOWN} cannot be reached; start it" in text


@pytest.mark.parametrize("url", ["/tmp/state.sqlite3", "mysql://me:hunter2@db/x", "hunter2", ""])
def test_only_a_postgresql_database_can_be_copied_to(pool: Pool, url: str) -> None:
    assert "--to: not the URL of a PostgreSQL database" in pool.run("state", "copy", "--to", url, code=2).output


def test_a_state_that_is_in_a_database_already_cannot_be_copied(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEXPOOL_STATE", URL)

    text = pool.run("state", "copy", "--to", URL, code=2).output

    assert f"the state is in {SHOWN} already" in " ".join(text.split())


def test_more_sessions_than_one_statement_takes_are_copied(pool: Pool, database: Path) -> None:
    with closing(SqliteState(pool.folder / "state.sqlite3")) as state:
        for number in range(2100):
            state.put_session(f"s{number}", IdentityKey("a", "u"), 1_800_000_000.0)

    assert "sessions 2,100" in pool.run("state", "copy", "--to", URL).output
