"""A state is copied to another one whole or not at all, and the copied file stays as it is."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, update

from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.state import Record, Snapshot, State, StateError
from codexpool.state.copying import Copied, Target, copy, copy_file, rescoped
from codexpool.state.fleet import DEAD_AFTER, Proxy
from codexpool.state.notes import BREAKER, PINNED, USAGE
from codexpool.state.presence import beat
from codexpool.state.schema import logins, notes, proxies, sessions, spent
from codexpool.state.sqlite import SqliteState, read_only
from tests.state.engines import Engine

WORK = IdentityKey("acct-work", "user-1")
POOL, OTHER = "/etc/codexpool/pool.toml", "/etc/codexpool/pool.toml.old"
SCOPES = (POOL, "pool")
DEAD = Condition(Status.NEEDS_REPLACEMENT, 1.5, None, Evidence(1.5, "POST", "/x", 401, "token_revoked"))


def account(pool: str) -> Account:
    return Account(pool, "2027-01-15", "ann", "work", "gpt-5")


def fill(state: State, sessions: int = 2500) -> None:
    """Something of everything, of two pools."""
    for number in range(sessions):
        state.put_session(f"s{number}", WORK, 1_800_000_000.0 + number, moves=number % 2)
    state.put_metadata("f1", Metadata("acct-work", "user-1", "business", True, "https://eu.example", "us_cr"), 1.0)
    state.put_condition("f1", DEAD)
    state.put_claim("webhook:/etc/codexpool:work:needs_replacement:f1", 2.0)
    state.put_note(USAGE, '["acct-work", "user-1"]', {"read_at": 5.0})
    for pool in (POOL, OTHER):
        state.put_record(f"{pool}#work", Record("f1", WORK, 9.0))
        state.put_note(BREAKER, pool, {"opened_at": None})
        state.put_note(PINNED, f"{pool}#s1", {"identity": "work", "at": 3})
        state.put_spent(account(pool), Spent(turns=7, first_at=1.0, last_at=2.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "state.sqlite3"
    with closing(SqliteState(found)) as state:
        fill(state)
    return found


@pytest.fixture
def target(engine: Engine) -> State:
    return engine.state()


def ignore(table: str, done: int, total: int) -> None:
    """Show no progress."""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(state: State, of: object = sessions) -> int:
    def counted(connection: Connection) -> int:
        return connection.scalar(select(func.count()).select_from(of)) or 0  # type: ignore[arg-type]

    return state.transact(counted)


def test_everything_of_the_pool_is_copied_under_its_scope(path: Path, target: State) -> None:
    copied = copy_file(path, target, SCOPES, ignore)

    found = target.load()
    assert rows(target) == copied.rows["sessions"] == 2500
    assert target.look_up(["s7"]) == {"s7": (WORK, 1)}
    assert found.metadata["f1"].routing_override == "us_cr"
    assert found.conditions == {"f1": DEAD}
    assert found.records == {"pool#work": Record("f1", WORK, 9.0)}
    assert set(found.notes) == {(USAGE, '["acct-work", "user-1"]'), (BREAKER, "pool"), (PINNED, "pool#s1")}
    assert not target.claim("webhook:pool:work:needs_replacement:f1", 3.0)


def test_usage_is_copied_with_the_processes_that_counted_it(path: Path, target: State) -> None:
    with closing(SqliteState(path)) as state:
        state.put_spent(account(POOL), Spent(turns=2, first_at=3.0, last_at=4.0))

    copy_file(path, target, SCOPES, ignore)

    def turns(connection: Connection) -> list[tuple[str, int]]:
        return [(row.pool, row.turns) for row in connection.execute(select(spent.c.pool, spent.c.turns))]

    assert sorted(target.transact(turns)) == [("pool", 2), ("pool", 7)]


def test_a_login_is_copied_as_it_is_sealed_and_free_to_be_renewed(path: Path, target: State) -> None:
    sealed = {**WORK._asdict(), "key_id": "k1", "sealed": b"\0\xff", "generation": 7, "refusal": "", "at": 5.0}
    mark = {"renewing_by": "a proxy that has died", "renewing_until": 6.0}

    def put(connection: Connection) -> None:
        connection.execute(insert(logins).values(**sealed, **mark, revision=1, writer=""))

    def copied(connection: Connection) -> dict[str, object]:
        return dict(connection.execute(select(logins)).mappings().one())

    with closing(SqliteState(path)) as state:
        state.transact(put)

    copy_file(path, target, SCOPES, ignore)

    found = target.transact(copied)
    assert {name: found[name] for name in sealed} == sealed
    assert {name: found[name] for name in mark} == dict.fromkeys(mark)


def test_rows_of_other_pools_are_left_out_and_counted(path: Path, target: State) -> None:
    assert copy_file(path, target, SCOPES, ignore).of_other_pools == 4


def test_the_file_is_not_changed(path: Path, target: State) -> None:
    before = digest(path)

    copy_file(path, target, SCOPES, ignore)

    assert digest(path) == before


def test_progress_reaches_the_number_of_rows_of_each_table(path: Path, target: State) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    copy_file(path, target, SCOPES, lambda table, done, total: seen.setdefault(table, []).append((done, total)))

    assert seen["sessions"] == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert seen["records"] == [(2, 2)]


def test_a_target_with_something_in_it_is_refused_and_keeps_it(path: Path, target: State) -> None:
    copy_file(path, target, SCOPES, ignore)
    before = target.load()

    with pytest.raises(StateError, match=r"not empty: it has metadata, .*sessions; copy to a new database"):
        copy_file(path, target, SCOPES, ignore)

    assert target.load() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interrupted_copy_leaves_the_target_empty(path: Path, target: State, error: type[BaseException]) -> None:
    def interrupted(table: str, done: int, total: int) -> None:
        if table == "sessions" and done == 2000:
            raise error

    with pytest.raises((error, StateError)):
        copy_file(path, target, SCOPES, interrupted)

    assert target.load() == Snapshot()
    assert rows(target) == rows(target, notes) == 0
    # and: the next attempt succeeds
    assert copy_file(path, target, SCOPES, ignore).rows["sessions"] == 2500


def test_a_file_that_a_proxy_writes_to_is_refused(path: Path, target: State) -> None:
    def silent_for(seconds: float) -> None:
        def work(connection: Connection) -> None:
            beat(connection, Proxy("p", "here", "1.0", 4711, 0.0, 0.0, 0))
            connection.execute(update(proxies).values(at=proxies.c.at - seconds))

        with closing(SqliteState(path)) as state:
            state.transact(work)

    silent_for(0)
    with pytest.raises(StateError, match=r"a proxy still writes to .* \(here, process 4711\); end it first"):
        copy_file(path, target, SCOPES, ignore)

    silent_for(DEAD_AFTER + 1)  # It was killed.
    assert copy_file(path, target, SCOPES, ignore).rows["sessions"] == 2500
    assert rows(target, proxies) == 0


def test_a_row_that_cannot_be_stored_is_left_out_and_counted(path: Path, target: State) -> None:
    with closing(SqliteState(path)) as state:
        state.put_session("with a \0 in it", WORK, 1_800_000_000.0)

    copied = copy_file(path, target, SCOPES, ignore)

    assert (copied.unstorable, copied.rows["sessions"]) == (1, 2500)


def test_times_are_converted_to_the_clock_of_the_target(path: Path, target: State) -> None:
    def work(connection: Connection) -> Copied:
        return copy(source, Target(connection, "me", SCOPES, ahead=300.0), ignore)

    with ExitStack() as stack:
        source = stack.enter_context(read_only(path))
        target.transact(work)

    found = target.load()
    assert found.conditions["f1"].since == 301.5
    assert found.records["pool#work"].used_at == 309.0
    assert found.notes[(PINNED, "pool#s1")]["at"] == 303


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (POOL, "pool"),
        (f"{POOL}#work", "pool#work"),
        (f"{POOL}#a#b", "pool#a#b"),
        (f"{POOL}2", None),
        (f"{POOL}2#work", None),
        (f"/srv{POOL}#work", None),
        ("", None),
    ],
)
def test_a_row_belongs_to_the_pool_whose_path_begins_it(name: str, expected: str | None) -> None:
    assert rescoped(name, *SCOPES) == expected
