"""A state that cannot be opened at the start: nobody waits for it, and nothing that is learned meanwhile is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import filelock
import pytest

from codexpool.common.tasks import Tasks
from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Asked, Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.state import Record, Snapshot, record_name
from codexpool.state.location import SqliteFile
from codexpool.state.opening import read_state
from codexpool.state.sqlite import SqliteState
from codexpool.tokens.bearer import fingerprint
from codexpool.upkeep import persistence
from codexpool.upkeep.persistence import Persistence
from tests.pool.pools import bound
from tests.standin.logins import access_token, auth_json
from tests.standin.tokens import Token
from tests.upkeep.keepers import condemn, keeper_of, said, token_of, until, until_ready, write_pool

ACCOUNT = Account("/p/pool.toml", "2026-11-25", "ann", "work", "m")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codexpool.state.sqlite_file.BUSY_TIMEOUT", 0.1)
    monkeypatch.setattr(persistence, "OPEN_PAUSES", (0.05, 0.2))
    monkeypatch.setattr(persistence, "PATIENCE", 0.2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


@contextlib.contextmanager
def another_opens_it(path: Path) -> Iterator[None]:
    with filelock.FileLock(path.with_name(f"{path.name}.lock")):
        yield


@contextlib.contextmanager
def another_writes_to_it(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def a_folder_is_in_its_place(path: Path) -> Iterator[None]:
    aside = path.with_name("aside")
    path.rename(aside)
    path.mkdir()
    yield
    path.rmdir()
    aside.rename(path)


@contextlib.contextmanager
def another_program_owns_it(path: Path) -> Iterator[None]:
    aside = path.with_name("aside")
    path.rename(aside)
    with contextlib.closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE theirs (a)")
    yield
    path.unlink()
    aside.rename(path)


TROUBLES = [another_opens_it, another_writes_to_it, a_folder_is_in_its_place, another_program_owns_it]
Trouble = Callable[[Path], AbstractContextManager[None]]


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_late_state_gets_all_that_was_learned(
    path: Path, caplog: pytest.LogCaptureFixture, trouble: Trouble
) -> None:
    caplog.set_level("INFO")
    pool = write_pool(path.parent, "a", "b", "c")
    SqliteState(path).close()
    with keeper_of(pool, lambda: SqliteState(path)) as keeper:
        with trouble(path):
            # then: identities are ready, although nobody knows what an earlier run has found out
            await until_ready(keeper)
            a = keeper.pool.identities["a"]
            assert a.metadata is not None
            keeper.pool.sessions.bind("s1", a.metadata.key)
            keeper.served("a", Asked("s1", "/backend-api/codex/responses"), time.time())
            keeper.ledger.count_begun("ann", time.time())
            condemn(keeper, "b")
            await asyncio.sleep(0.5)
            assert len(said(caplog.records, "Retrying; new data is kept in memory")) == 1

        # when: the state can be opened
        await until(lambda: said(caplog.records, "state: open"))

    # then: all of it is there for others, and after the next start
    known = read_state(SqliteFile(path))
    assert known is not None
    assert known.sessions == {"s1": a.metadata.key}
    assert known.metadata.keys() == {fingerprint(token_of(name)) for name in "abc"}
    assert known.conditions[fingerprint(token_of("b"))].status is Status.NEEDS_REPLACEMENT
    assert known.records.keys() == {record_name(str(pool), name) for name in "abc"}
    assert [spent.turns for spent in known.spent.values()] == [1]
    assert len(said(caplog.records, "Retrying")) == 1


async def test_what_an_earlier_run_knew_counts_although_it_comes_late(path: Path) -> None:
    # given: an earlier run that has met a limit, and has a session
    pool, now = write_pool(path.parent, "a", "b"), time.time()
    of_a = fingerprint(token_of("a"))
    first = SqliteState(path)
    first.put_condition(of_a, Condition(Status.LIMITED, now - 60, now + 3600, Evidence(now - 60, note="a limit")))
    first.put_session("mine", IdentityKey("acc-b", "user-b"), now - 60)
    assert first.close()

    with keeper_of(pool, lambda: SqliteState(path)) as keeper:
        with another_opens_it(path):
            await until_ready(keeper)
            keeper.pool.sessions.bind("mine", IdentityKey("acc-a", "user-a"))
            keeper.served("a", Asked("mine", "/backend-api/codex/responses"), now)
        await until(lambda: keeper.pool.identities["a"].status is Status.LIMITED)

        # then: a session that was given to another identity meanwhile goes on where it was
        await until(lambda: bound(keeper.pool, "mine") == IdentityKey("acc-b", "user-b"))

    known = read_state(SqliteFile(path))
    assert known is not None
    assert known.conditions[of_a].status is Status.LIMITED
    assert known.sessions == {"mine": IdentityKey("acc-b", "user-b")}


async def test_a_login_of_another_workspace_is_found_out_late(path: Path) -> None:
    # given: a login of one workspace where an earlier run knew it to be of another one
    token = access_token(Token("", "acc-other", "user-x"), lifetime=3600)
    login = path.parent / "auth.json"
    login.touch(mode=0o600)
    login.write_text(json.dumps(auth_json(Token(token, "acc-other", "user-x"), "rt_test-1")))
    pool = path.parent / "pool.toml"
    pool.touch(mode=0o600)
    pool.write_text('[[identity]]\nname = "login"\nauth_json = "auth.json"\n')
    record = Record("f0", IdentityKey("acc-login", "user-x"))
    first = SqliteState(path)
    first.put_record(record_name(str(pool), "login"), record)
    assert first.close()

    with keeper_of(pool, lambda: SqliteState(path)) as keeper:
        with another_opens_it(path):
            await until_ready(keeper)
        await until(lambda: keeper.pool.identities["login"].status is Status.CONFLICT)

    # then: the next start knows it, too
    known = read_state(SqliteFile(path))
    assert known is not None
    assert known.records[record_name(str(pool), "login")].key == record.key


async def test_a_case_is_claimed_once_with_a_locked_state(path: Path) -> None:
    """Before the state is open and after it."""
    tasks = Tasks()
    with another_opens_it(path):
        kept = Persistence(lambda: SqliteState(path), tasks, "pool")
        tasks.spawn(kept.run(lambda news: None))
        assert [await kept.claim("case"), await kept.claim("case")] == [True, False]
    await asyncio.wait_for(kept.earlier(), 20)
    assert [await kept.claim("case"), await kept.claim("other")] == [False, True]
    tasks.stop()
    kept.close()
    with contextlib.closing(SqliteState(path)) as state:
        assert not state.claim("case", time.time())


@pytest.mark.parametrize("is_locked_still", [False, True])
async def test_a_process_that_ends_early_writes_what_it_counted(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_locked_still: bool
) -> None:
    """Before the state is open; if it cannot be opened, the log says that the data is lost."""
    monkeypatch.setattr(persistence, "OPEN_PAUSES", (60.0, 60.0))
    tasks = Tasks()
    with contextlib.ExitStack() as stack:
        stack.enter_context(another_opens_it(path))
        kept = Persistence(lambda: SqliteState(path), tasks, "pool")
        sharing = tasks.spawn(kept.run(lambda news: None))
        kept.put_spent(ACCOUNT, Spent(2))
        await until(lambda: said(caplog.records, "Retrying"))
        tasks.stop()
        await asyncio.wait([sharing])
        if not is_locked_still:
            stack.close()
        kept.close()
    with contextlib.closing(SqliteState(path, lambda: 1_795_608_000.0)) as state:
        assert list(state.load().spent.values()) == ([] if is_locked_still else [Spent(2)])
    assert bool(said(caplog.records, "learned and counted is lost")) is is_locked_still


async def test_a_state_that_never_opens_delays_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> SqliteState:
        raise NotImplementedError("no locks on this file system")

    with keeper_of(write_pool(path.parent, "a"), broken) as keeper:
        await until_ready(keeper)
    assert len(said(caplog.records, "no locks on this file system. Retrying")) == 1


async def test_rows_that_wait_for_the_state_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go; a newer row of the same key takes the place of the older one."""
    monkeypatch.setattr(persistence, "MAX_UNWRITTEN", 3)
    tasks, work = Tasks(), Metadata("acc", "user", "plus")
    kept = Persistence(lambda: SqliteState(path), tasks, "pool")
    for number in range(10):
        kept.put_metadata(f"f{number}", work, time.time())
        kept.put_metadata("f0", work, time.time())
    kept.close()
    tasks.stop()
    known = read_state(SqliteFile(path))
    assert known is not None
    assert known.metadata.keys() == {"f0", "f8", "f9"}


async def test_what_is_dropped_before_the_state_is_open_is_gone(path: Path) -> None:
    key = IdentityKey("acc", "user")
    first = SqliteState(path)
    first.put_record("p#gone", Record("f0", key))
    first.put_condition("f0", Condition(Status.RESTING, time.time()))
    assert first.close()
    tasks = Tasks()
    kept = Persistence(lambda: SqliteState(path), tasks, "pool")
    kept.drop_condition("f0")
    kept.drop_record("p#gone")
    kept.close()
    tasks.stop()
    known = read_state(SqliteFile(path))
    assert known is not None
    assert (known.records, known.conditions) == ({}, {})


async def test_news_that_cannot_be_applied_end_no_others(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of before the start nor later ones: a bug of ours is in the log."""
    monkeypatch.setattr(persistence, "POLL", 0.05)
    tasks, seen = Tasks(), []

    def apply(news: Snapshot) -> None:
        seen.append(news)
        raise ZeroDivisionError

    kept = Persistence(lambda: SqliteState(path), tasks, "pool")
    tasks.spawn(kept.run(apply))
    await asyncio.wait_for(kept.earlier(), 20)
    with contextlib.closing(SqliteState(path)) as other:
        for number in range(2):
            other.put_condition(f"f{number}", Condition(Status.PAUSED, time.time()))
            await until(lambda number=number: len(seen) == number + 2)  # type: ignore[misc]
    tasks.stop()
    kept.close()

    assert len(said(caplog.records, "what others have stored cannot be applied")) == 3
