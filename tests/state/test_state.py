"""What every state promises, on both engines."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, insert

from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.state import Record, Snapshot, StateError, UnavailableError
from codexpool.state.location import SqliteFile, location
from codexpool.state.news import next_revision
from codexpool.state.schema import claims
from codexpool.state.sqlite import SqliteState
from codexpool.state.store import Store
from tests.state.engines import Engine
from tests.state.flushed import flushed, stored_sessions

WORK = IdentityKey("acct-work", "user-1")
SPARE = IdentityKey("acct-spare", "user-1")
META = Metadata("acct-work", "user-1", "business", True, "https://eu.example", "us_cr", "ann@example.invalid")
EVIDENCE = Evidence(
    1.5, "POST", "/backend-api/codex/responses", 401, "token_revoked", "req-1", "1a2b", "refused", "é"
)

DEAD = Condition(Status.NEEDS_REPLACEMENT, 1.5, None, EVIDENCE)
READY = Condition(Status.READY, 3.5)
LIMITED = Condition(Status.LIMITED, 2.5, 9.75)
NOW = 1_800_000_000.0
"""2027-01-15, 08:00 UTC."""
SPENT = Spent(1, 0, 100, 60, 20, 5, NOW, NOW + 1)
ACCOUNT = Account("/p/pool.toml", "2027-01-15", "ann", "work", "gpt-5")
BEGUN = Account("/p/pool.toml", "2027-01-15", "ann", "", "")


@pytest.fixture
def state(engine: Engine) -> Store:
    return engine.state(lambda: NOW)


@pytest.fixture
def other(engine: Engine) -> Store:
    """Another proxy's."""
    return engine.state(lambda: NOW)


def settled(state: Store) -> Snapshot:
    """What there is once all that was put is written."""
    assert flushed(state, 10)
    return state.load()


def changed(mine: Store, *others: Store) -> Snapshot:
    """The next news of a proxy, once others have written what was put."""
    for state in (mine, *others):
        assert flushed(state, 10)
    return mine.changes()


def test_a_new_state_is_empty(state: Store) -> None:
    assert state.load() == state.changes() == Snapshot()


def test_what_is_put_is_loaded_as_it_was(state: Store) -> None:
    state.put_metadata("f1", META, NOW)
    state.put_metadata("f2", Metadata("a", "b", "plus"), NOW)
    state.put_condition("f1", DEAD)
    state.put_condition("f2", LIMITED)
    state.put_note("usage", '["acct", "user"]', {"windows": [], "limited": {"codex": NOW}})
    state.put_note("usage", '["acct", "user"]', {"windows": [["codex", 300, 1.5, None, NOW]], "limited": {}})
    state.put_note("breaker", "pool", {"opened_at": None})

    loaded = settled(state)

    assert loaded.metadata == {"f1": META, "f2": Metadata("a", "b", "plus")}
    assert [loaded.metadata[name].email for name in ("f1", "f2")] == ["ann@example.invalid", ""]
    assert loaded.conditions == {"f1": DEAD, "f2": LIMITED}
    assert loaded.notes == {
        ("usage", '["acct", "user"]'): {"windows": [["codex", 300, 1.5, None, NOW]], "limited": {}},
        ("breaker", "pool"): {"opened_at": None},
        ("email", "f1"): {"email": "ann@example.invalid"},
    }


def test_what_an_identity_last_was_is_loaded_as_it_was(state: Store) -> None:
    state.put_record("/p/pool.toml#work", Record("f1", WORK))
    state.put_record("/p/pool.toml#work", Record("f2", WORK, NOW))
    state.put_record("/q/pool.toml#work", Record("f3", SPARE))

    assert settled(state).records == {
        "/p/pool.toml#work": Record("f2", WORK, NOW),
        "/q/pool.toml#work": Record("f3", SPARE),
    }


def test_when_an_identity_last_served_is_not_lost_to_a_proxy_that_does_not_know_it(
    state: Store, other: Store
) -> None:
    state.put_record("pool#work", Record("f1", WORK, NOW))
    assert flushed(state, 5)
    for used_at in (None, NOW - 5):
        other.put_record("pool#work", Record("f2", WORK, used_at))
        assert flushed(other, 5)
        assert state.load().records == {"pool#work": Record("f2", WORK, NOW)}

    other.put_record("pool#work", Record("f3", SPARE))  # Another account has served nothing yet.
    assert flushed(other, 5)
    assert state.load().records == {"pool#work": Record("f3", SPARE)}


def test_a_removed_identity_has_no_record(state: Store) -> None:
    state.put_record("p#work", Record("f1", WORK))
    state.drop_record("p#work")
    assert settled(state).records == {}
    state.put_record("p#work", Record("f2", SPARE))
    assert settled(state).records == {"p#work": Record("f2", SPARE)}


def test_what_was_spent_is_loaded_as_it_was_last_put(state: Store) -> None:
    state.put_spent(ACCOUNT, Spent(1, 0, 100, 60, 20, 5, NOW, NOW))
    state.put_spent(BEGUN, Spent(1, 0, 0, 0, 0, 0, NOW, NOW))
    state.put_spent(ACCOUNT, Spent(2, 1, 100, 60, 20, 5, NOW, NOW + 1))

    loaded = {account: spent for (account, _), spent in settled(state).spent.items()}

    assert loaded == {ACCOUNT: Spent(2, 1, 100, 60, 20, 5, NOW, NOW + 1), BEGUN: Spent(1, 0, 0, 0, 0, 0, NOW, NOW)}


def test_of_several_processes_one_claims_a_case(state: Store, other: Store) -> None:
    assert [state.claim(case, NOW) for case in ("a", "b", "a", "a", "b")] == [True, True, False, False, False]
    assert [other.claim(case, NOW) for case in ("a", "c")] == [False, True]


def test_a_session_is_looked_up_by_those_who_do_not_know_it(state: Store, other: Store) -> None:
    """It is neither loaded nor news."""
    state.put_session("s1", WORK, NOW)
    state.put_session("s2", SPARE, NOW, 3)
    assert flushed(state, 10)

    assert other.look_up(["s1", "s2", "never seen"]) == {"s1": (WORK, 0), "s2": (SPARE, 3)}
    assert other.look_up([]) == {}
    assert other.load().sessions == {}


def test_a_session_that_moved_is_news_and_one_that_did_not_is_none(state: Store, other: Store) -> None:
    other.load()
    state.put_session("s1", WORK, NOW)
    state.put_session("s2", SPARE, NOW, 1)

    assert changed(other, state) == Snapshot(sessions={"s2": SPARE}, moves={"s2": 1})
    assert other.changes() == Snapshot()


def test_of_two_proxies_that_bind_a_session_the_first_one_counts(state: Store, other: Store) -> None:
    """The other one learns of it, once."""
    other.load()
    state.put_session("s1", WORK, NOW)
    assert flushed(state, 10)
    other.put_session("s1", SPARE, NOW + 1)

    assert changed(other) == Snapshot(sessions={"s1": WORK})
    assert other.changes() == Snapshot()
    assert state.changes() == Snapshot()
    assert state.look_up(["s1"]) == {"s1": (WORK, 0)}


def test_the_last_move_of_a_session_counts_whoever_writes_last(state: Store, other: Store) -> None:
    other.load()
    state.put_session("s1", WORK, NOW, 2)
    assert flushed(state, 10)
    other.put_session("s1", SPARE, NOW + 1, 1)

    assert changed(other) == Snapshot(sessions={"s1": WORK}, moves={"s1": 2})

    other.put_session("s1", SPARE, NOW + 2, 3)
    assert changed(state, other) == Snapshot(sessions={"s1": SPARE}, moves={"s1": 3})


def test_the_state_arbitrates_as_proxies_expect(state: Store, other: Store) -> None:
    """As in tests/pool/test_sessions.py: more moves count, else the first, and the other proxy hears of it."""
    bindings = [(key, moves) for key in (WORK, SPARE) for moves in range(3)]
    pairs = {f"s{n}": pair for n, pair in enumerate(itertools.product(bindings, bindings))}
    state.load()
    other.load()
    for session, ((key, moves), _) in pairs.items():
        state.put_session(session, key, NOW, moves)
    assert flushed(state, 10)
    for session, (_, (key, moves)) in pairs.items():
        other.put_session(session, key, NOW + 1, moves)
    assert flushed(other, 10)

    stored = other.look_up(pairs)
    assert stored == {session: two if two[1] > one[1] else one for session, (one, two) in pairs.items()}
    differs = {session for session, (one, two) in pairs.items() if one[0] != two[0]}
    lost = {session for session in differs if stored[session] == pairs[session][0]}
    behind = {session for session, (one, two) in pairs.items() if one[0] == two[0] and one[1] > two[1]}
    reported = changed(other).sessions.keys()
    assert differs & reported == lost
    assert behind <= reported
    assert differs & changed(state).sessions.keys() == differs - lost


def test_a_session_that_was_lost_ends_the_wait_for_news(state: Store, other: Store) -> None:
    other.load()
    state.put_session("s1", WORK, NOW)
    assert flushed(state, 10)
    with ThreadPoolExecutor(1) as threads:
        news = threads.submit(other.changes, 60)
        other.put_session("s1", SPARE, NOW)
        assert news.result(30).sessions == {"s1": WORK}


def test_each_process_learns_of_the_others_once(state: Store, other: Store) -> None:
    state.load()
    state.put_condition("mine", LIMITED)
    other.put_condition("f1", DEAD)
    other.put_note("usage", "a", {"n": 1})
    other.drop_condition("f2")

    news = changed(state, other)

    assert news == Snapshot(conditions={"f1": DEAD}, notes={("usage", "a"): {"n": 1}}, dropped={"f2": NOW})
    assert state.changes() == Snapshot()
    assert changed(other).conditions == {"mine": LIMITED}

    other.drop_condition("f1")
    assert changed(state, other) == Snapshot(dropped={"f1": NOW})
    assert state.load().conditions == {"mine": LIMITED}


def test_what_was_there_at_load_is_no_change(state: Store, other: Store) -> None:
    other.put_condition("f1", DEAD)
    assert flushed(other, 10)
    assert state.load().conditions == {"f1": DEAD}
    assert state.changes() == Snapshot()


def test_what_one_wrote_itself_is_no_change(state: Store) -> None:
    state.load()
    state.put_session("s1", WORK, NOW, 1)
    state.drop_condition("f1")
    state.put_note("usage", "a", {"n": 1})
    assert changed(state) == Snapshot()


def test_each_process_has_its_own_totals(state: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees those of the others."""
    monkeypatch.setattr("codexpool.state.store.SPENT_EVERY", 0)
    state.load()
    other.put_spent(ACCOUNT, SPENT)
    state.put_spent(ACCOUNT, SPENT._replace(turns=5))

    assert changed(state, other).spent == {(ACCOUNT, other.name): SPENT}
    assert changed(other).spent == {(ACCOUNT, state.name): SPENT._replace(turns=5)}
    assert set(other.load().spent) == {(ACCOUNT, state.name), (ACCOUNT, other.name)}


@pytest.mark.parametrize(
    ("before", "after", "stays"),
    [
        (LIMITED, DEAD, DEAD),
        (DEAD, LIMITED, DEAD),
        (DEAD, READY, DEAD),
        (DEAD, None, None),
        (LIMITED, READY, READY),
        (None, DEAD, DEAD),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_what_is_known_of_a_token_is_not_undone_by_who_does_not_know_it(
    engine: Engine, before: Condition | None, after: Condition | None, stays: Condition | None, is_late: bool
) -> None:
    """A death counts until it is dropped; of all else the newer word, also if it was written first."""
    first, then = engine.state(lambda: NOW), engine.state(lambda: NOW + (-5 if is_late else 5))
    for state, condition in ((first, before), (then, after)):
        if condition is None:
            state.drop_condition("f1")
        else:
            state.put_condition("f1", replace(condition, since=state._clock()))
        assert flushed(state, 10)

    expected, found = stays if not is_late or (before, after) == (LIMITED, DEAD) else before, first.load().conditions
    assert [one.status for one in found.values()] == ([expected.status] if expected is not None else [])


@pytest.mark.parametrize("is_asked_later", [False, True])
def test_a_refusal_and_a_good_answer_count_by_when_whoami_was_asked(state: Store, is_asked_later: bool) -> None:
    """Not by when they are written: the other answer was on its way."""
    refused = replace(DEAD, since=NOW - 10)
    state.put_condition("f1", refused)
    state.drop_condition("f2", NOW - 10)
    assert flushed(state, 10)

    asked_at = NOW - (5 if is_asked_later else 15)
    state.drop_condition("f1", asked_at)
    state.put_condition("f2", replace(DEAD, since=asked_at))

    assert set(settled(state).conditions) == ({"f2"} if is_asked_later else {"f1"})


@pytest.mark.parametrize("is_late", [False, True])
def test_a_late_write_does_not_undo_a_newer_one(engine: Engine, is_late: bool) -> None:
    first, then = engine.state(lambda: NOW), engine.state(lambda: NOW + (-5 if is_late else 5))
    for state, plan in ((first, "plus"), (then, "business")):
        state.put_note("usage", "a", {"plan": plan})
        state.put_metadata("f1", Metadata("a", "u", plan), state._clock())
        assert flushed(state, 10)

    loaded, plan = first.load(), "plus" if is_late else "business"
    assert loaded.notes == {("usage", "a"): {"plan": plan}}
    assert loaded.metadata == {"f1": Metadata("a", "u", plan)}


def test_an_unstorable_row_does_not_stop_the_others(state: Store) -> None:
    state.put_session("half \udc80 a pair", WORK, NOW)
    state.put_session("a \0 in it", WORK, NOW)
    state.put_session("not a number", WORK, float("nan"))
    state.put_session("x" * 100_000, WORK, NOW)
    state.put_session("a count without end", WORK, NOW, 2**70)
    state.put_session("good", WORK, NOW)
    state.put_condition("\udc80", DEAD)
    state.put_condition("f1", DEAD)

    assert settled(state).conditions == {"f1": DEAD}
    assert state.look_up(["good"]) == {"good": (WORK, 0)}
    assert state.is_connected


@pytest.mark.parametrize("odd", ["half \udc80 a pair", "a \0 in it", "x" * 100_000])
def test_a_name_that_cannot_be_stored_does_not_hide_the_other_sessions(state: Store, odd: str) -> None:
    for name in ("s1", "s2"):
        state.put_session(name, WORK, NOW)
    assert flushed(state, 10)

    assert state.look_up(["s1", odd, "s2"]) == {"s1": (WORK, 0), "s2": (WORK, 0)}
    assert state.claim(f"a case of {odd}", NOW)
    assert state.is_connected


def test_work_in_one_transaction_is_done_whole_or_not_at_all(state: Store) -> None:
    def fails(connection: Connection) -> None:
        connection.execute(insert(claims).values(case="a", at=NOW))
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        state.transact(fails)
    assert state.claim("a", NOW)
    assert state.is_connected


def test_transactions_of_several_threads_do_not_lose_each_others_work(state: Store, other: Store) -> None:
    def count(of: Store) -> int:
        return of.transact(lambda connection: next_revision(connection, of.name))

    with ThreadPoolExecutor(4) as threads:
        counted = list(threads.map(count, [state, other] * 20))
    assert sorted(counted) == list(range(1, 41))


def test_an_idle_proxy_asks_one_question_per_poll(state: Store) -> None:
    state.load()
    state.changes(0.02)  # Begins to listen.
    asked: list[str] = []
    event.listen(state._database._asking, "before_cursor_execute", lambda *args: asked.append(args[2]))

    for _ in range(5):
        assert state.changes(0.02) == Snapshot()

    assert len([statement for statement in asked if "SELECT" in statement]) == 5, asked


def test_nothing_is_raised_after_close(state: Store) -> None:
    state.close()
    state.put_session("s1", WORK, NOW)
    state.drop_condition("f1")
    assert state.changes() == state.load() == Snapshot()
    state.close()


def test_closing_ends_the_wait_for_news(engine: Engine) -> None:
    state = engine.state()
    state.load()
    with ThreadPoolExecutor(1) as threads:
        news = threads.submit(state.changes, 60)
        time.sleep(0.05)
        state.close()
        assert news.result(30) == Snapshot()


def test_of_too_many_sessions_the_least_recently_used_go(state: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codexpool.state.store.MAX_SESSIONS", 3)
    monkeypatch.setattr("codexpool.state.writer.PRUNE_EVERY", 0)
    for at, session in enumerate(["a", "b", "c", "a", "d"]):
        state.put_session(session, WORK, NOW + at)
        assert flushed(state, 10)
    assert stored_sessions(state).keys() == {"c", "a", "d"}


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


@pytest.mark.parametrize(
    "text",
    [
        "host=db.example user=codexpool password=s3cret",
        "codexpool:s3cret@db.example/codexpool",
        '"postgresql://codexpool:s3cret@db.example/codexpool"',
        "postgresql:codexpool:s3cret@db.example/codexpool",
    ],
)
def test_what_may_have_a_password_is_not_taken_for_a_file(text: str) -> None:
    with pytest.raises(StateError, match="is neither a file nor the URL of a database") as caught:
        location({"CODEXPOOL_STATE": text})
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
