"""PostgreSQL: its tables, made once; its errors, with what to do; and no password in any of them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import Connection, text

from codexpool.pool.identity import Condition, IdentityKey, Status
from codexpool.state import Snapshot, StateError, UnavailableError, store
from codexpool.state.location import Postgres, location
from codexpool.state.news import next_revision
from codexpool.state.opening import open_state, read_spent, read_state
from codexpool.state.postgres import PostgresState
from codexpool.state.postgres_server import connect, parameters, remedy_of
from codexpool.state.schema import VERSION, schema
from tests.postgres import PASSWORD, Server
from tests.state.flushed import flushed, stored_sessions

WORK = IdentityKey("acct-work", "user-1")
NOW = 1_800_000_000.0
LIMITED = Condition(Status.LIMITED, NOW, NOW + 60)


@pytest.fixture
def state(postgres_url: str) -> Iterator[PostgresState]:
    with closing(PostgresState(Postgres(postgres_url))) as made:
        yield made


def schema_of(url: str) -> str:
    return url.rpartition("%3D")[2]


def test_what_was_put_outlives_the_process(postgres_url: str) -> None:
    with closing(PostgresState(Postgres(postgres_url))) as state:
        state.put_condition("f1", LIMITED)
        state.put_session("s1", WORK, time.time())
    with closing(open_state(location({"CODEXPOOL_STATE": postgres_url}))) as again:
        assert again.load().conditions.keys() == {"f1"}
        assert stored_sessions(again) == {"s1": WORK}


def test_several_that_start_at_once_make_the_tables_once(postgres: Server, postgres_url: str) -> None:
    def start(number: int) -> int:
        with closing(PostgresState(Postgres(postgres_url))) as state:
            state.put_note("usage", str(number), {"n": number})
            return number

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(start, range(6))) == list(range(6))

    with closing(PostgresState(Postgres(postgres_url))) as state:
        assert len(state.load().notes) == 6
    assert postgres.sql(f"SELECT version FROM {schema_of(postgres_url)}.codexpool_schema") == [(VERSION,)]


def test_news_arrives_without_waiting_for_the_poll(state: PostgresState, postgres_url: str) -> None:
    with closing(PostgresState(Postgres(postgres_url))) as other, ThreadPoolExecutor(1) as threads:
        state.load()
        for number in range(3):
            news = threads.submit(state.changes, 60)
            other.put_condition(f"f{number}", LIMITED)
            assert news.result(30).conditions.keys() == {f"f{number}"}


def test_without_notifications_news_is_found_by_asking(
    state: PostgresState, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(*_: object) -> None:
        raise psycopg.OperationalError("a pooler does not listen")

    monkeypatch.setattr(state._database, "_listen", deaf)
    with closing(PostgresState(Postgres(postgres_url))) as other:
        state.load()
        other.put_condition("f1", LIMITED)
        assert flushed(other, 10)
        assert state.changes(0.2).conditions.keys() == {"f1"}


@pytest.mark.parametrize("ahead", [300.0, -300.0])
def test_times_are_by_the_clock_of_the_database(postgres_url: str, ahead: float) -> None:
    """A proxy whose clock is ahead writes them as those of the others, and reads them as its own."""
    there = PostgresState(Postgres(postgres_url), lambda: time.time() + ahead)
    with closing(there), closing(PostgresState(Postgres(postgres_url))) as here:
        assert there.offset == pytest.approx(-ahead, abs=20)
        now = time.time()
        there.put_condition("f1", Condition(Status.LIMITED, now + ahead, now + ahead + 60))
        assert flushed(there, 10)

        assert here.load().conditions["f1"].until == pytest.approx(now + 60, abs=20)
        assert there.load().conditions["f1"].until == pytest.approx(now + ahead + 60, abs=1)


def test_a_small_difference_of_clocks_is_noise(state: PostgresState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MEASURE_EVERY", 0)
    before = state.offset
    state._measure_at = 0
    monkeypatch.setattr(store, "database_time", lambda connection: time.time() + before + 0.02)
    state.load()
    assert state.offset == before
    monkeypatch.setattr(store, "database_time", lambda connection: time.time() + 7)
    state.load()
    assert state.offset == pytest.approx(7, abs=1)


def test_the_time_that_a_comparison_of_clocks_takes_is_no_difference(
    state: PostgresState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine may have slept before the question, or after it."""
    times = iter([100.0, 103.0])
    before, state._measure_at = state.offset, 0
    monkeypatch.setattr(state, "_clock", lambda: next(times, 103.0))
    monkeypatch.setattr(store, "database_time", lambda connection: 102.9 + before)

    state.load()

    assert state.offset == before


def test_a_state_is_read_whole_by_those_who_only_look_on(state: PostgresState, postgres_url: str) -> None:
    state.put_session("s1", WORK, time.time())
    state.put_condition("f1", LIMITED)
    assert flushed(state, 10)

    known = read_state(Postgres(postgres_url))
    assert known is not None
    assert known.conditions == state.load().conditions
    assert known.sessions == {"s1": WORK}
    assert read_spent(Postgres(postgres_url), ["member"], "2027-01-01") == {}


def test_those_who_only_look_on_make_no_tables(
    postgres: Server, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_state(Postgres(postgres_url)) is None
    with pytest.raises(UnavailableError, match="has no state of this version of codexpool; start a proxy"):
        read_spent(Postgres(postgres_url), ["member"], "2027-01-01")
    assert "has no state" in caplog.text
    made = f"SELECT count(*) FROM information_schema.tables WHERE table_schema = '{schema_of(postgres_url)}'"
    assert postgres.sql(made) == [(0,)]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE codexpool_schema SET version = version + 1", r"newer codexpool \(schema 6; .* supports 5\); update"),
        ("ALTER TABLE spent DROP COLUMN cached", "lacks spent.cached; restore a backup"),
        ("DROP TABLE codexpool_schema", r"has tables of another program \(.*name another database or schema"),
    ],
)
def test_tables_that_are_not_of_this_version_are_left_alone(
    postgres: Server, postgres_url: str, damage: str, says: str
) -> None:
    PostgresState(Postgres(postgres_url)).close()
    postgres.sql(f"SET search_path = {schema_of(postgres_url)}; {damage}")

    with pytest.raises(StateError, match=says):
        PostgresState(Postgres(postgres_url))


def test_a_table_lost_at_run_time_is_an_error_and_no_end(
    postgres: Server, state: PostgresState, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.sql(f"DROP TABLE {schema_of(postgres_url)}.notes")

    assert state.load() == Snapshot()
    assert not state.is_connected
    assert state.load() == Snapshot()
    assert len(caplog.messages) == 1, caplog.messages
    postgres.sql(f"CREATE TABLE {schema_of(postgres_url)}.notes ()")  # Not what it was.
    with pytest.raises(StateError, match="notes"):
        state.look_up(["s"])


WRONG = {
    "password": (
        "{user}:wr0ng-s3cret@{at}",
        "password authentication failed.*; correct the user or the password: in",
    ),
    "no password": ("codexpool@{at}", "no password supplied.*; give the password: in CODEXPOOL_STATE, PGPASSWORD or"),
    "port": (
        "{user}:{password}@127.0.0.1:1/codexpool",
        "refused.*; check that the server runs and that this machine",
    ),
    "host": ("{user}:{password}@nowhere.invalid/codexpool", "nowhere.invalid.*; check that the server runs"),
    "schema": ("{user}:{password}@{at}?options=-csearch_path%3Dnowhere", "; create the schema that CODEXPOOL_STATE"),
    "rights": (
        "{user}:{password}@{at}?options=-csearch_path%3Dpg_catalog",
        "permission denied.*; let the user create",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_error_says_what_and_where_and_how_to_fix_it(
    postgres: Server, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGPASSFILE", f"{tmp_path}/none")
    url, says = WRONG[what]
    at = f"{postgres.host}:{postgres.port}/codexpool"
    named = Postgres("postgresql://" + url.format(user="codexpool", password=PASSWORD, at=at))

    with pytest.raises(StateError, match=says) as caught:
        open_state(named)

    assert f"{named} cannot be used" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert "s3cret" not in repr((caught.value, named, str(named)))


def test_a_database_that_is_missing_is_named(postgres: Server) -> None:
    with pytest.raises(UnavailableError, match=r'"nowhere" does not exist.*; create the database') as caught:
        open_state(Postgres(postgres.url().replace("/codexpool", "/nowhere").replace("//nowhere", "//codexpool")))
    assert PASSWORD not in str(caught.value)


def test_passwords_come_from_where_libpq_looks(
    postgres: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = Postgres(postgres_url.replace(f":{PASSWORD}", ""))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    open_state(plain).close()
    monkeypatch.delenv("PGPASSWORD")

    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:*:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    open_state(plain).close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://pool:s3cr%t@db.example/codexpool",
        "postgresql://pool:s3cret@[db.example/codexpool",
        "postgresql://pool:s3cret@db.example:port/codexpool",
        "postgresql://pool:s3/cret@db.example/codexpool",
        "postgresql://pool:s3c@ret@db.example/codexpool",
        "postgresql://pool:s3cret@db.example/codexpool?nosuch=1",
        "postgresql://pool@db.example/codexpool?password=s3cret",
        "postgresql://pool:s3c#ret@db.example/codexpool",
        "postgresql://pool:s3cret@db..example/codexpool",
        "postgresql://pool@127.0.0.1:1/codexpool?scram_client_key=s3cret",
        "postgresql://pool@127.0.0.1:1/codexpool?oauth_client_secret=s3cret",
        f"postgresql://pool:{quote('s3c@ret')}@127.0.0.1:1/codexpool",
    ],
)
def test_a_strange_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(StateError) as caught:
        open_state(Postgres(url))
    shown = f"{caught.value} {Postgres(url)} {Postgres(url)!r}"
    assert not re.search("s3c|cret@|/cret|ret@", shown), shown


def test_without_the_driver_it_is_said_what_to_install(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "codexpool.state.postgres")
    monkeypatch.delitem(sys.modules, "codexpool.state.postgres_server", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StateError, match=r"psycopg is missing; install codexpool .*\.\[postgres\]"):
        open_state(Postgres(postgres_url))


@pytest.mark.parametrize(
    ("said", "to_do"),
    [
        ('root certificate file "/home/ann/.postgresql/root.crt" does not exist', "sslrootcert=PATH"),
        ("SSL error: certificate verify failed", "sslrootcert=PATH"),
        ("server does not support SSL, but SSL was required", "switch TLS on"),
        ('FATAL:  database "codexpool" does not exist', "create the database"),
    ],
)
def test_a_connection_that_fails_says_what_to_do(said: str, to_do: str) -> None:
    assert to_do in remedy_of(psycopg.OperationalError(f"connection failed: {said}"))


def test_a_read_only_server_is_told_apart(state: PostgresState, postgres_url: str) -> None:
    standby = Postgres(f"{postgres_url}%20-cdefault_transaction_read_only%3Don")
    with closing(PostgresState(standby)) as reader:
        assert reader.load() == Snapshot()
        with pytest.raises(UnavailableError, match=r"read-only transaction.*; name the primary server"):
            reader.transact(lambda connection: next_revision(connection, "w"))


def test_a_connection_that_failed_has_no_others_made_again_and_again(
    state: PostgresState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the pool that nothing needs afterwards stays closed."""
    made: list[Mapping[str, str]] = []

    def counted(how: Mapping[str, str], autocommit: bool = False) -> object:
        made.append(how)
        return connect(how, autocommit)

    state.load()
    state.changes(0.01)
    monkeypatch.setattr("codexpool.state.postgres.connect", counted)

    with state._database.reading(), pytest.raises(UnavailableError):
        state.transact(fail)
    for _ in range(50):
        state.changes(0.01)

    assert len(made) <= 2


def fail(connection: Connection) -> None:
    connection.execute(text("SET TRANSACTION READ ONLY"))
    next_revision(connection, "w")


def test_waits_of_the_server_are_bounded_without_options_that_poolers_refuse(
    state: PostgresState, postgres_url: str
) -> None:
    """Also after a transaction that failed; and what the URL says counts."""
    with pytest.raises(UnavailableError):
        state.transact(fail)
    shown = text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")

    assert state.transact(lambda connection: tuple(connection.execute(shown).one())) == ("8s", "5s")
    with closing(PostgresState(Postgres(f"{postgres_url}%20-clock_timeout%3D2s"))) as own:
        assert own.transact(lambda connection: tuple(connection.execute(shown).one())) == ("8s", "2s")
    assert "options" not in parameters(Postgres("postgresql://db.example/codexpool"))


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_texts_are_the_same_whatever_encoding_is_asked_for(
    postgres_url: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    for url in (postgres_url, f"{postgres_url}&client_encoding={encoding}"):
        with closing(PostgresState(Postgres(url))) as state:
            state.put_session("é €", WORK, time.time())
            assert flushed(state, 10)
            assert state.look_up(["é €"]) == {"é €": (WORK, 0)}


def test_connections_are_given_back(postgres: Server, postgres_url: str) -> None:
    """A proxy keeps three at most: two, and the one that listens."""
    name = f"test-{schema_of(postgres_url)}"
    with closing(PostgresState(Postgres(f"{postgres_url}&application_name={name}"))) as state:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: state.look_up([str(number)]), range(100)))
            state.changes(0.1)
        used = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'"
        assert 1 <= postgres.sql(used)[0][0] <= 3
    for _ in range(200):
        if postgres.sql(used) == [(0,)]:
            break
        time.sleep(0.02)
    assert postgres.sql(used) == [(0,)]


def test_all_tables_are_in_the_schema_of_the_url(postgres: Server, state: PostgresState, postgres_url: str) -> None:
    found = postgres.sql(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema_of(postgres_url)}'")
    assert {name for (name,) in found} == {*schema.tables, "codexpool_schema"}
