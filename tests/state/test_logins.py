"""A login in the state is whole at each moment, and one proxy at a time may renew it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from codexpool.credentials.shared_login import MARKED_FOR, Claim, StoredLogin
from codexpool.pool.identity import IdentityKey
from codexpool.state import State, logins
from codexpool.state.clock import now
from codexpool.state.schema import logins as table
from codexpool.state.sqlite import SqliteState
from codexpool.tokens.state_keys import Sealed, new_key, state_keys
from codexpool.upkeep.shared_logins import SharedLogins
from tests.state.engines import Engine

KEY, OTHER = IdentityKey("acc-1", "user-1"), IdentityKey("acc-1", "user-2")
OLD, NEW = new_key(), new_key()
FIRST, SECOND = Sealed("k1", b"first"), Sealed("k1", b"second")


@pytest.fixture
def state(engine: Engine) -> State:
    """The state of one proxy, with a login; ``engine.state()`` opens that of another one."""
    state = engine.state()
    state.transact(lambda connection: logins.log_in(connection, KEY, FIRST))
    return state


def read(state: State) -> dict[IdentityKey, StoredLogin]:
    return state.transact(lambda connection: logins.login_rows(connection, since=-1))


def claim(state: State, mark: str, over: str = "", wants: bool = True) -> Claim | None:
    return state.transact(lambda connection: logins.claim(connection, KEY, mark, lambda _: wants, over))


def put(state: State, sealed: Sealed, generation: int) -> StoredLogin | None:
    return state.transact(lambda connection: logins.put(connection, KEY, sealed, generation))


def pass_time(state: State, seconds: float) -> None:
    """Let the marks be so much older."""

    def age(connection: Connection) -> None:
        connection.execute(update(table).values(renewing_until=table.c.renewing_until - seconds))

    state.transact(age)


def test_a_login_is_found_by_its_account_and_user(state: State) -> None:
    state.transact(lambda connection: logins.log_in(connection, OTHER, SECOND))
    assert read(state) == {KEY: StoredLogin(FIRST, 1), OTHER: StoredLogin(SECOND, 1)}


def test_one_proxy_at_a_time_may_renew_it(state: State, engine: Engine) -> None:
    other = engine.state()
    assert claim(state, "a") == Claim(StoredLogin(FIRST, 1), is_ours=True)
    assert claim(other, "b") == Claim(StoredLogin(FIRST, 1))
    assert claim(state, "a") == Claim(StoredLogin(FIRST, 1), is_ours=True)  # Its answer was lost.

    assert put(state, SECOND, 1) == StoredLogin(SECOND, 2)

    assert claim(other, "b") == Claim(StoredLogin(SECOND, 2), is_ours=True)


def test_of_many_that_claim_at_once_one_may(state: State, engine: Engine) -> None:
    states = [engine.state() for _ in range(4)]
    won: list[str] = []

    def try_to(mark: str, one: State) -> None:
        if (found := claim(one, mark)) is not None and found.is_ours:
            won.append(mark)

    threads = [threading.Thread(target=try_to, args=(str(at), one)) for at, one in enumerate(states * 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(won)) == 1


def test_of_many_that_log_in_at_once_for_the_first_time_all_succeed(engine: Engine) -> None:
    states = [engine.state() for _ in range(4)]
    together = threading.Barrier(len(states))

    def logs_in(state: State) -> None:
        together.wait(30)
        state.transact(lambda connection: logins.log_in(connection, OTHER, SECOND))

    with ThreadPoolExecutor(len(states)) as threads:
        list(threads.map(logs_in, states))

    assert read(states[0])[OTHER] == StoredLogin(SECOND, len(states))


def test_a_login_that_is_not_wanted_is_not_marked(state: State) -> None:
    assert claim(state, "a", wants=False) == Claim(StoredLogin(FIRST, 1))
    assert claim(state, "b") == Claim(StoredLogin(FIRST, 1), is_ours=True)


def test_a_mark_is_replaced_only_when_its_time_is_over_and_by_who_has_watched_it(state: State) -> None:
    claim(state, "a")
    pass_time(state, MARKED_FOR - 5)
    assert claim(state, "b", over="a") == Claim(StoredLogin(FIRST, 1))
    pass_time(state, 6)
    assert claim(state, "b") == Claim(StoredLogin(FIRST, 1), over="a")
    assert claim(state, "b", over="c") == Claim(StoredLogin(FIRST, 1), over="a")
    assert claim(state, "b", over="a") == Claim(StoredLogin(FIRST, 1), is_ours=True)


def test_a_mark_of_before_the_clock_was_set_back_does_not_last_for_ever(state: State) -> None:
    claim(state, "a")
    pass_time(state, -1e6)
    assert claim(state, "b", over="a") == Claim(StoredLogin(FIRST, 1), is_ours=True)


def test_marks_have_the_time_of_the_database(state: State) -> None:
    claim(state, "a")
    left = state.transact(lambda connection: connection.scalar(select(table.c.renewing_until - now())))
    assert left is not None
    assert MARKED_FOR - 20 < left <= MARKED_FOR


def test_a_login_that_changed_meanwhile_is_not_overwritten(state: State) -> None:
    claim(state, "a")
    state.transact(lambda connection: logins.log_in(connection, KEY, SECOND))
    assert put(state, Sealed("k1", b"third"), 1) == StoredLogin(SECOND, 2)
    assert read(state) == {KEY: StoredLogin(SECOND, 2)}
    found = claim(state, "b")
    assert found is not None
    assert found.is_ours  # The person's login is nobody's to wait for.


def test_a_released_login_may_be_renewed_at_once(state: State) -> None:
    claim(state, "a")
    state.transact(lambda connection: logins.release(connection, KEY, "b"))
    assert claim(state, "b") == Claim(StoredLogin(FIRST, 1))
    state.transact(lambda connection: logins.release(connection, KEY, "a"))
    assert claim(state, "b") == Claim(StoredLogin(FIRST, 1), is_ours=True)


def test_a_final_refusal_is_of_one_generation(state: State) -> None:
    def refuse(generation: int) -> StoredLogin | None:
        return state.transact(lambda connection: logins.refuse(connection, KEY, generation, "invalid_grant"))

    claim(state, "a")
    assert refuse(1) == StoredLogin(FIRST, 1, "invalid_grant")
    assert read(state) == {KEY: StoredLogin(FIRST, 1, "invalid_grant")}
    assert put(state, SECOND, 1) == StoredLogin(SECOND, 2)
    assert refuse(1) == StoredLogin(SECOND, 2)
    assert read(state) == {KEY: StoredLogin(SECOND, 2)}


def test_what_fails_within_a_transaction_leaves_no_mark(state: State) -> None:
    def wrong_key(_: object) -> bool:
        raise RuntimeError("wrong key")

    with pytest.raises(RuntimeError):
        state.transact(lambda connection: logins.claim(connection, KEY, "a", wrong_key, ""))
    assert claim(state, "b") == Claim(StoredLogin(FIRST, 1), is_ours=True)


def test_all_proxies_hear_of_a_change(state: State, engine: Engine) -> None:
    other = engine.state()
    assert other.load().logins == state.load().logins == {KEY: StoredLogin(FIRST, 1)}
    put(state, SECOND, 1)
    for one in (state, other):
        assert one.changes(5).logins == {KEY: StoredLogin(SECOND, 2)}
        assert one.changes().logins == {}


def test_a_removed_login_is_not_renewed_or_written_and_all_hear_of_it(state: State, engine: Engine) -> None:
    other = engine.state()
    other.load()
    claim(state, "a")
    assert state.transact(lambda connection: logins.remove(connection, KEY))
    assert not state.transact(lambda connection: logins.remove(connection, KEY))
    assert other.changes(5).logins[KEY].is_empty
    assert claim(state, "b") is None
    present = put(state, SECOND, 1)
    assert present is not None
    assert present.is_empty
    # When a person logs in again, it is newer than what was removed.
    state.transact(lambda connection: logins.log_in(connection, KEY, SECOND))
    assert read(state)[KEY] == StoredLogin(SECOND, 3)


def sealed_with(key: str, text: str = "{}") -> Sealed:
    return state_keys({"CODEXPOOL_STATE_KEY": key}).seal(text, KEY)


def shared(state: State, *keys: str) -> SharedLogins:
    logins = SharedLogins(state.transact, {"CODEXPOOL_STATE_KEY": ",".join(keys)})
    logins.learn(state.load().logins)
    return logins


def test_a_changed_key_encrypts_what_is_there_and_a_renewal_under_way_goes_on(state: State) -> None:
    # given a login under the old key, which a proxy is renewing
    state.transact(lambda connection: logins.log_in(connection, KEY, sealed_with(OLD, "the login")))
    claim(state, "a")
    # when another proxy has the new key as its first
    shared(state, NEW, OLD).seal_again()
    # then only the new one is needed
    stored = read(state)[KEY]
    assert state_keys({"CODEXPOOL_STATE_KEY": NEW}).open(stored.sealed, KEY) == "the login"
    assert state.transact(logins.key_ids) == {stored.sealed.key_id: 1}
    assert claim(state, "b") == Claim(stored)
    assert put(state, sealed_with(NEW), stored.generation) is not None
    assert read(state)[KEY].generation == stored.generation + 1


@pytest.mark.parametrize("keys", [(NEW,), (OLD, NEW), ()], ids=["wrong", "old first", "none"])
def test_without_another_first_key_nothing_is_written(state: State, keys: tuple[str, ...]) -> None:
    state.transact(lambda connection: logins.log_in(connection, KEY, sealed_with(OLD)))
    before = read(state)
    shared(state, *keys).seal_again()
    assert read(state) == before


def test_a_renewal_is_not_undone_by_a_change_of_the_key(state: State) -> None:
    state.transact(lambda connection: logins.log_in(connection, KEY, sealed_with(OLD)))
    late = shared(state, NEW, OLD)
    renewed = put(state, sealed_with(OLD, "renewed"), 2)
    late.seal_again()
    assert read(state)[KEY] == renewed


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteState]:
    state = SqliteState(tmp_path / "state.sqlite3")
    state.transact(lambda connection: logins.log_in(connection, KEY, FIRST))
    yield state
    state.close()


def test_no_token_is_in_the_file_in_clear(tmp_path: Path, file: SqliteState) -> None:
    secret = "eyJ-a-very-secret-token"
    sealed = sealed_with(OLD, json.dumps({"tokens": {"refresh_token": secret}}))
    file.transact(lambda connection: logins.log_in(connection, KEY, sealed))
    file.close()
    contents = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert sealed.content in contents
    assert secret.encode() not in contents
    assert OLD.encode() not in contents


def test_a_renewed_login_is_on_the_disk_before_it_is_used(
    tmp_path: Path, file: SqliteState, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    claim(file, "a")
    assert synced == []
    put(file, SECOND, 1)
    assert (tmp_path / "state.sqlite3-wal").stat().st_ino in synced
    # What changes no tokens does not wait for the disk.
    synced.clear()
    claim(file, "b")
    assert synced == []
