"""The SQLite state: shared by processes, private, pruned, and patient with the disk."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codexpool.members.ledger import Account, Spent, day_of
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.state import Record, Row, Snapshot, StateError, UnavailableError, migrations
from codexpool.state import writer as writing
from codexpool.state.location import SqliteFile
from codexpool.state.opening import read_spent
from codexpool.state.schema import VERSION
from codexpool.state.sqlite import SqliteDatabase, SqliteState
from codexpool.state.sqlite_file import APPLICATION_ID
from tests.state.flushed import flushed, stored_sessions

ACCOUNT = Account("/p/pool.toml", "2027-01-15", "ann", "work", "gpt-5")
SPENT = Spent(1, 0, 100, 60, 20, 5, 1_800_000_000.0, 1_800_000_001.0)
WORK = IdentityKey("acct-work", "user-1")
SPARE = IdentityKey("acct-spare", "user-1")
DEAD = Condition(Status.NEEDS_REPLACEMENT, 1.5, None, Evidence(1.5, status=401))
META = Metadata("a", "u", "plus")
NOW = 1_800_000_000.0
DAY = 24 * 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "codexpool" / "state.sqlite3"


@contextlib.contextmanager
def opened(path: Path, now: float = NOW) -> Iterator[SqliteState]:
    with contextlib.closing(SqliteState(path, lambda: now)) as state:
        yield state


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
        yield connection


def totals(snapshot: Snapshot) -> list[tuple[Account, Spent]]:
    return [(account, spent) for (account, _), spent in snapshot.spent.items()]


def test_what_was_put_outlives_the_process(path: Path) -> None:
    with opened(path) as state:
        state.put_session("s1", WORK, NOW)
        state.put_condition("f1", DEAD)
    with opened(path) as state:
        assert state.load() == Snapshot(conditions={"f1": DEAD})
        assert stored_sessions(state) == {"s1": WORK}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_folder_and_files_are_the_users_alone(path: Path) -> None:
    with opened(path) as state:
        state.put_session("s1", WORK, NOW)
        assert flushed(state, 10)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert set(modes) >= {"state.sqlite3", "state.sqlite3-wal"}
        assert {mode & 0o077 for mode in modes.values()} == {0}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_file_that_became_open_to_others_is_closed_again(path: Path) -> None:
    with opened(path):
        pass
    path.chmod(0o644)
    with opened(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_sessions_not_served_for_30_days_are_forgotten(path: Path) -> None:
    # given: what was written on one day, and a proxy that is started on each day after it
    with opened(path) as state:
        state.put_session("old", WORK, NOW - 29 * DAY)
        state.put_session("new", WORK, NOW)
        state.drop_condition("f1")
        state.put_condition("f2", DEAD)
        assert flushed(state, 10)
        assert set(stored_sessions(state)) == {"old", "new"}

    def used_on(day: int) -> set[str]:
        with opened(path, NOW + day * DAY) as state:
            state.put_session("daily", WORK, NOW + day * DAY)
            assert flushed(state, 10)
            return set(stored_sessions(state))

    assert used_on(1) == {"old", "new", "daily"}
    assert used_on(2) == {"new", "daily"}
    for day in range(3, 33):
        used_on(day)
    with raw(path) as connection:
        assert connection.execute("SELECT session FROM sessions").fetchall() == [("daily",)]
        assert connection.execute("SELECT fingerprint FROM conditions").fetchall() == [("f2",)]


def test_pins_outlive_other_notes_and_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy writes them again: that would undo an unpin that it does not know of yet."""

    def kept_on(day: int, *pins: str) -> set[str]:
        with opened(path, NOW + day * DAY) as state:
            state.put_session("daily", WORK, NOW + day * DAY)
            for name in pins:
                state.put_note("pinned", name, {"identity": "work", "at": NOW})
            assert flushed(state, 10)
            return {name for _, name in state.load().notes}

    with opened(path) as state:
        state.put_note("usage", "u", {"windows": []})
        state.put_note("pinned", "ended", {})
    assert kept_on(0, "p0") == {"u", "ended", "p0"}
    with raw(path) as connection:  # as if proxies had run all the time
        connection.execute("UPDATE claims SET at = ? WHERE \"case\" = 'pruned'", (NOW + 39 * DAY,))

    assert kept_on(40, "p1", "p2") == {"p0", "p1", "p2"}
    monkeypatch.setattr("codexpool.state.store.PINS_KEPT", 2)
    assert kept_on(41) == {"p1", "p2"}


def test_starts_with_a_clock_years_ahead_delete_next_to_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PRUNE_EVERY", 0)
    # given: what is a week old, and who has used what for a year
    with opened(path) as state:
        for day in range(7):
            state.put_session(f"s{day}", WORK, NOW - day * DAY)
            state.put_metadata(f"f{day}", META, NOW - day * DAY)
        for day in range(365):
            state.put_spent(ACCOUNT._replace(day=day_of(NOW - day * DAY)), SPENT)
        state.put_note("usage", "a", {"n": 1})
        assert state.claim("case", NOW)
        assert flushed(state, 10)
        before = state.load()

    # when: three starts, 500 days ahead, each with more than one pruning
    for start in range(3):
        with opened(path, NOW + 500 * DAY) as state:
            assert set(stored_sessions(state)) >= {f"s{day}" for day in range(7)}
            for number in range(3):
                state.put_session(f"ahead-{start}-{number}", WORK, NOW + 500 * DAY)
                assert flushed(state, 10)

    # then: nothing is missed with the clock as it should be
    with opened(path, NOW + 60) as state:
        state.put_session("after", WORK, NOW + 60)
        assert flushed(state, 10)
        after = state.load()
        assert stored_sessions(state).keys() >= {f"s{day}" for day in range(7)}
        assert after.metadata == before.metadata
        assert after.notes == before.notes
        assert not state.claim("case", NOW)
    assert len(read_spent(SqliteFile(path), ["day"], "2000-01-01")) == 365


def test_a_clock_ahead_does_not_empty_an_unpruned_state(path: Path) -> None:
    with opened(path) as state:
        state.put_session("s1", WORK, NOW)
    with raw(path) as connection:
        connection.execute("DELETE FROM claims")
    with opened(path, NOW + 500 * DAY) as state:
        state.put_session("ahead", WORK, NOW + 500 * DAY)
        assert flushed(state, 10)
        assert set(stored_sessions(state)) == {"s1", "ahead"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP TABLE claims", "it lacks claims.at"),
        ("DROP TABLE sessions", "it lacks sessions.account_id"),
        ("ALTER TABLE spent DROP COLUMN cached", "it lacks spent.cached"),
        ("DELETE FROM revision", "it lacks its revision"),
        ("PRAGMA user_version = 2; DROP TABLE records", "it lacks records.account_id"),
        ("PRAGMA user_version = 0", "it lacks its version"),
    ],
)
@pytest.mark.parametrize("name", ["state.sqlite3", "by another name"])
def test_an_incomplete_state_is_set_aside_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, said: str, name: str
) -> None:
    path = tmp_path / name
    with opened(path) as state:
        state.put_session("s1", WORK, NOW)
    with raw(path) as connection:
        connection.executescript(damage)

    with contextlib.closing(SqliteState(path)) as made:
        made.put_record("p#work", Record("f1", WORK))
        made.put_session("s2", WORK, time.time())
        assert made.claim("case", NOW)
        assert isinstance(made, SqliteState)
        assert flushed(made, 10)
        assert stored_sessions(made) == {"s2": WORK}

    (line,) = caplog.messages
    assert said in line
    (aside,) = tmp_path.glob("*.corrupt-*")
    assert str(aside) in line


def test_a_table_lost_at_run_time_costs_one_line(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put afterwards is written."""
    monkeypatch.setattr(writing, "RETRY", (0.02, 0.02))
    with opened(path) as state:
        state.put_session("s1", WORK, NOW)
        assert flushed(state, 10)
        with raw(path) as connection:
            connection.execute("DROP TABLE sessions")
        state.put_session("s2", WORK, NOW)
        assert flushed(state, 10)
        assert stored_sessions(state) == {"s2": WORK}
    assert sum("it lacks sessions.account_id" in line for line in caplog.messages) == 1


def test_an_unwritable_claim_is_granted_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written later."""
    monkeypatch.setattr("codexpool.state.sqlite_file.BUSY_TIMEOUT", 0.05)
    monkeypatch.setattr(writing, "RETRY", (0.05, 0.1))
    with opened(path) as mine, opened(path) as other, raw(path) as lock:
        lock.execute("BEGIN IMMEDIATE")
        assert mine.claim("case", NOW)
        assert not mine.claim("case", NOW)

        lock.execute("ROLLBACK")

        assert flushed(mine, 10)
        assert not other.claim("case", NOW)


def test_closing_says_whether_all_was_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codexpool.state.sqlite_file.BUSY_TIMEOUT", 0.05)
    monkeypatch.setattr("codexpool.state.store.CLOSE_TIMEOUT", 0.5)
    state = SqliteState(path)
    state.put_session("s1", WORK, NOW)
    assert state.close()
    state = SqliteState(path)
    with raw(path) as lock:
        lock.execute("BEGIN IMMEDIATE")
        state.put_session("s1", WORK, NOW)
        assert not state.close()


def test_a_put_returns_at_once_while_the_database_is_locked(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codexpool.state.sqlite_file.BUSY_TIMEOUT", 0.05)
    monkeypatch.setattr(writing, "RETRY", (0.05, 0.1))
    caplog.set_level("INFO")
    with opened(path) as state, raw(path) as lock:
        lock.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        for n in range(500):
            state.put_session(f"s{n}", WORK, NOW)
        assert time.monotonic() - begun < 2
        assert not flushed(state, 0.6)  # several tries
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "locked" in caplog.text

        lock.execute("ROLLBACK")

        assert flushed(state, 10)
        assert len(stored_sessions(state)) == 500
        assert caplog.messages[-1].endswith("is written again")


def test_writes_that_wait_are_bounded_and_the_oldest_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_WAITING", 10)
    monkeypatch.setattr(SqliteDatabase, "linger", 1)
    with opened(path) as state:
        for n in range(25):
            state.put_session(f"s{n}", WORK, NOW)
        assert flushed(state, 10)
        assert set(stored_sessions(state)) == {f"s{n}" for n in range(15, 25)}


def test_many_totals_of_one_account_wake_the_thread_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteDatabase, "linger", 5)
    woken = 0

    def notify() -> None:
        nonlocal woken
        woken += 1

    with opened(path) as state:
        monkeypatch.setattr(state._writer._wake, "notify_all", notify)
        for turn in range(100):
            state.put_spent(ACCOUNT, SPENT._replace(turns=turn))
        assert woken == 1
        monkeypatch.undo()
    with opened(path) as state:
        assert totals(state.load()) == [(ACCOUNT, SPENT._replace(turns=99))]


def test_close_writes_what_is_left_and_the_thread_ends(path: Path) -> None:
    before = threading.active_count()
    with opened(path) as state:
        for n in range(3000):
            state.put_session(f"s{n}", WORK, NOW)
    assert threading.active_count() == before
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (3000,)


def test_close_is_bounded_while_the_database_is_locked(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codexpool.state.sqlite_file.BUSY_TIMEOUT", 0.05)
    state = SqliteState(path)
    with raw(path) as lock:
        lock.execute("BEGIN IMMEDIATE")
        state.put_session("s1", WORK, NOW)
        begun = time.monotonic()
        state.close()
        assert time.monotonic() - begun < 10
    assert "not all data could be written" in caplog.text


def test_a_database_of_the_first_schema_is_upgraded(path: Path) -> None:
    # given: what the first version made and wrote
    path.parent.mkdir(parents=True, exist_ok=True)
    with raw(path) as connection:
        connection.executescript(
            f"{migrations.FIRST} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;"
            "INSERT INTO sessions VALUES ('s1', 'acct-work', 'user-1', 1799999999.0, 1, 'w')"
        )

    with opened(path) as state:
        assert stored_sessions(state) == {"s1": WORK}
        state.put_record("p#work", Record("f1", WORK, NOW))
        assert flushed(state, 10)

    with opened(path) as state:
        assert state.load().records == {"p#work": Record("f1", WORK, NOW)}
        assert state.claim("case", NOW)
    with raw(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_a_database_of_the_third_schema_is_upgraded(path: Path) -> None:
    # given: what the version before has made and written
    path.parent.mkdir(parents=True, exist_ok=True)
    with raw(path) as connection:
        connection.executescript(
            f"{migrations.FIRST}{migrations.SINCE_2}{migrations.SINCE_3}"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 3;"
            "INSERT INTO sessions VALUES ('s1', 'acct-work', 'user-1', 1799999999.0, 1, 'w', 2);"
            """INSERT INTO notes VALUES ('usage', 'a', '{"n": 1}', 1799999999.0, 1, 'w')"""
        )

    with opened(path) as state:
        before = state.load()
        assert state.look_up(["s1"]) == {"s1": (WORK, 2)}
        assert before.notes == {("usage", "a"): {"n": 1}}
        state.put_spent(ACCOUNT, SPENT)

    with opened(path) as state:
        assert list(state.load().spent.values()) == [SPENT]
    assert read_spent(SqliteFile(path), ["member"], "2027-01-01") == {("ann",): SPENT}
    with raw(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_usage_is_kept_for_400_days(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` returns that of the days around today only."""
    monkeypatch.setattr(writing, "PRUNE_EVERY", 0)
    days = {day_of(NOW + days * DAY) for days in (-401, -400, -2, -1, 0, 1, 2)}
    with opened(path) as state:
        for day in days:
            state.put_spent(ACCOUNT._replace(day=day), SPENT)
        assert flushed(state, 10)
        assert {account.day for account, _ in state.load().spent} == {day_of(NOW + n * DAY) for n in (-1, 0, 1)}

    kept = {day for (day,) in read_spent(SqliteFile(path), ["day"], "2000-01-01")}
    assert days - kept == {day_of(NOW - 401 * DAY)}


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_older_database_becomes_what_a_new_one_is(path: Path, version: int) -> None:
    def tables(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
        columns = (
            "SELECT t.name, c.name, c.pk FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
        )
        indices = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index'"
        return {*connection.execute(columns), *connection.execute(indices)}

    with opened(path), raw(path) as connection:
        new = tables(connection)
    path.unlink()
    with raw(path) as connection:
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};"
        connection.executescript("".join(migrations.OLD[:version]) + marks)

    with opened(path) as state:
        state.put_spent(ACCOUNT, SPENT)
        assert flushed(state, 10)
    with raw(path) as connection:
        assert tables(connection) == new
        assert len(connection.execute("SELECT epoch FROM revision").fetchone()[0]) == 32


def test_several_that_start_at_once_take_an_older_database_along(path: Path) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    with raw(path) as connection:
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 4;"
        connection.executescript("".join(migrations.OLD[:4]) + marks)
        connection.execute("INSERT INTO sessions VALUES ('s1', 'acc-work', 'user-work', ?, 1, 'w', 2)", (NOW,))

    def start(_: int) -> dict[str, tuple[IdentityKey, int]]:
        with opened(path) as state:
            return state.look_up(["s1"])

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(start, range(6))) == [{"s1": (IdentityKey("acc-work", "user-work"), 2)}] * 6


def test_totals_that_are_written_twice_are_counted_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given: a disk that fails after it has written, so that nobody knows whether it has
    monkeypatch.setattr(writing, "RETRY", (0.02, 0.02))
    with opened(path) as state:
        write, tries = state._writer._write, []

        def write_and_fail(batch: dict[writing.Key, Row]) -> None:
            write(batch)
            tries.append(batch)
            if len(tries) == 1:
                raise UnavailableError("disk I/O error", "")

        monkeypatch.setattr(state._writer, "_write", write_and_fail)
        state.put_spent(ACCOUNT, SPENT)
        assert flushed(state, 10)
        assert len(tries) == 2
        state.put_spent(ACCOUNT, SPENT._replace(turns=2))

    assert read_spent(SqliteFile(path), ["member"], "2027-01-01") == {("ann",): SPENT._replace(turns=2)}


def test_a_note_that_was_damaged_by_hand_is_passed_over(path: Path) -> None:
    with opened(path) as state:
        state.put_note("usage", "a", {"n": 1})
        state.put_note("usage", "b", {"n": 1})
        assert flushed(state, 10)
    with raw(path) as connection:
        connection.execute("UPDATE notes SET note = '{' WHERE name = 'a'")

    with opened(path) as state:
        assert state.load().notes == {("usage", "b"): {"n": 1}}


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    with opened(path):
        pass
    with raw(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")

    with pytest.raises(
        StateError, match=r"newer codexpool \(schema 6; this version supports 5\); update codexpool, or"
    ):
        SqliteState(path)

    with raw(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)


@pytest.mark.parametrize("setup", ["CREATE TABLE theirs (x)", "PRAGMA application_id = 7"])
def test_the_database_of_another_program_is_refused(tmp_path: Path, setup: str) -> None:
    """It is left as it is."""
    path = tmp_path / "theirs.db"
    with raw(path) as connection:
        connection.execute(setup)
    path.chmod(0o644)
    before = path.read_bytes(), path.stat().st_mode

    with pytest.raises(StateError, match="is the database of another program"):
        SqliteState(path)

    assert (path.read_bytes(), path.stat().st_mode) == before


def test_a_file_that_is_no_state_by_its_name_is_not_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    path.write_text("# my pool" * 100)
    with pytest.raises(StateError, match=r"pool\.toml is not a database .*; correct CODEXPOOL_STATE"):
        SqliteState(path)
    assert path.read_text() == "# my pool" * 100


def test_a_condition_of_an_unknown_word_is_passed_over(path: Path) -> None:
    with opened(path) as state:
        state.put_condition("f1", DEAD)
        state.put_condition("f2", DEAD)
        state.put_condition("f3", DEAD)
        assert flushed(state, 10)
        with raw(path) as connection:
            connection.execute("UPDATE conditions SET status = 'exalted' WHERE fingerprint = 'f1'")
            connection.execute("UPDATE conditions SET evidence = '[' WHERE fingerprint = 'f2'")
        assert state.load().conditions == {"f3": DEAD}


def test_evidence_with_a_field_of_a_later_version_is_read(path: Path) -> None:
    with opened(path) as state:
        state.put_condition("f1", DEAD)
        assert flushed(state, 10)
        with raw(path) as connection:
            connection.execute("""UPDATE conditions SET evidence = '{"at": 1.5, "status": 401, "mood": "low"}'""")
        assert state.load().conditions == {"f1": DEAD}
