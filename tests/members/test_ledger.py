"""Who has used what is counted once: over days, proxies and restarts, and however many names a client thinks of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.common.tasks import Tasks
from codexpool.config.files import Watcher
from codexpool.config.read import load
from codexpool.credentials.http_client import Route
from codexpool.members.ledger import (
    DAYS_KEPT,
    LONGEST_MODEL,
    MODELS_KEPT,
    NONE,
    OTHER,
    Account,
    Ledger,
    Spent,
    day_of,
)
from codexpool.protocol.token_usage import Tokens
from codexpool.state import store
from codexpool.state.sqlite import SqliteState
from codexpool.upkeep import persistence
from codexpool.upkeep.keeper import Keeper
from tests.upkeep.keepers import Unheard

POOL = "/p/pool.toml"
MIDNIGHT = 1_795_564_800.0
"""2026-11-25 00:00 UTC."""
NOW = MIDNIGHT + 3600
DAY = 86_400.0
TOKENS = Tokens(100, 60, 20, 5)


class Book(dict[Account, Spent]):
    """What a ledger has said last of each account, as a state would keep it."""

    def ledger(self, pool: str = POOL) -> Ledger:
        ledger = Ledger(self.__setitem__)
        ledger.pool = pool
        return ledger

    def news(self, writer: str = "w") -> dict[tuple[Account, str], Spent]:
        return {(account, writer): spent for account, spent in self.items()}

    @property
    def served(self) -> dict[Account, Spent]:
        return {account: spent for account, spent in self.items() if not account.is_of_begun}


@pytest.fixture
def book() -> Book:
    return Book()


def test_usage_is_counted_by_day_member_identity_and_model(book: Book) -> None:
    ledger = book.ledger()

    ledger.count_served("ann", "work", "gpt-5", TOKENS, NOW)
    ledger.count_served("ann", "work", "gpt-5", Tokens(1, 0, 2, 0), NOW + 5)
    ledger.count_served("ann", "spare", "gpt-5", TOKENS, NOW + 6)
    ledger.count_served("", "work", "gpt-5", TOKENS, NOW + DAY)

    assert book == {
        Account(POOL, "2026-11-25", "ann", "work", "gpt-5"): Spent(2, 0, 101, 60, 22, 5, NOW, NOW + 5),
        Account(POOL, "2026-11-25", "ann", "spare", "gpt-5"): Spent(1, 0, *TOKENS, NOW + 6, NOW + 6),
        Account(POOL, "2026-11-26", "", "work", "gpt-5"): Spent(1, 0, *TOKENS, NOW + DAY, NOW + DAY),
    }


def test_a_turn_with_unknown_tokens_is_unmetered(book: Book) -> None:
    ledger = book.ledger()
    ledger.count_served("ann", "work", "m", None, NOW)
    ledger.count_served("ann", "work", "m", TOKENS, NOW)
    assert list(book.values()) == [Spent(2, 1, *TOKENS, NOW, NOW)]
    assert ledger.tokens_of_member("ann", NOW) == ledger.tokens_of_identity("work", NOW) == TOKENS
    assert ledger.tokens_of_member("bob", NOW) == ledger.tokens_of_identity("work", NOW + DAY) == NONE

    ledger.identities_renamed({"work": "office", "unknown": "other"})

    assert (ledger.tokens_of_identity("office", NOW), ledger.tokens_of_identity("work", NOW)) == (TOKENS, NONE)


def test_a_turn_counts_once_from_its_beginning(book: Book) -> None:
    ledger = book.ledger()
    ledger.count_begun("ann", NOW)
    assert ledger.turns_today("ann", NOW) == 1
    ledger.count_served("ann", "work", "m", TOKENS, NOW)
    assert ledger.turns_today("ann", NOW) == 1
    assert ledger.turns_today("bob", NOW) == 0
    assert sum(spent.turns for spent in book.served.values()) == 1


def test_a_turn_over_midnight_counts_on_two_days(book: Book) -> None:
    ledger = book.ledger()
    ledger.count_begun("ann", MIDNIGHT - 1)

    assert (ledger.turns_today("ann", MIDNIGHT - 0.1), ledger.turns_today("ann", MIDNIGHT)) == (1, 0)

    ledger.count_served("ann", "work", "m", TOKENS, MIDNIGHT + 1)
    assert {(account.day, account.is_of_begun) for account in book} == {("2026-11-24", True), ("2026-11-25", False)}


def test_a_clock_set_back_continues_the_day_before(book: Book) -> None:
    ledger = book.ledger()
    ledger.count_begun("ann", MIDNIGHT - 1)
    ledger.count_begun("ann", MIDNIGHT + 1)

    ledger.count_begun("ann", MIDNIGHT - 2)
    ledger.count_served("ann", "work", "m", TOKENS, MIDNIGHT + 3)
    ledger.count_served("ann", "work", "m", TOKENS, MIDNIGHT + 2)

    assert (ledger.turns_today("ann", MIDNIGHT - 1), ledger.turns_today("ann", MIDNIGHT)) == (2, 1)
    (spent,) = book.served.values()
    assert (spent.first_at, spent.last_at) == (MIDNIGHT + 2, MIDNIGHT + 3)


@given(st.floats(0, 4e9))
def test_a_day_is_one_of_utc(at: float) -> None:
    from datetime import UTC, datetime

    assert day_of(at) == datetime.fromtimestamp(at, UTC).date().isoformat()


def test_days_that_are_over_are_let_go_of(book: Book) -> None:
    ledger = book.ledger()
    for day in range(400):
        ledger.count_begun("ann", NOW + day * DAY)
        ledger.count_served("ann", "work", f"m{day}", TOKENS, NOW + day * DAY)
    assert len(ledger._days) == DAYS_KEPT
    assert ledger.turns_today("ann", NOW + 399 * DAY) == ledger.turns_today("ann", NOW + 398 * DAY) == 1


def test_models_beyond_the_limit_are_counted_as_other(book: Book) -> None:
    ledger = book.ledger()
    for number in range(5000):
        ledger.count_served("greedy", "work", f"made-up-{number}", TOKENS, NOW)
    ledger.count_served("greedy", "work", "made-up-0", TOKENS, NOW)
    ledger.count_served("ann", "work", "gpt-5", TOKENS, NOW)

    of_greedy = {account.model: spent.turns for account, spent in book.items() if account.member == "greedy"}
    assert len(of_greedy) == MODELS_KEPT + 1
    assert (of_greedy[OTHER], of_greedy["made-up-0"]) == (5000 - MODELS_KEPT, 2)
    assert Account(POOL, "2026-11-25", "ann", "work", "gpt-5") in book


@pytest.mark.parametrize("model", ["x" * 5000, "\udc80", "a\x1b[2Jb\r\nc", "\x00", "\u202e", ""])
def test_any_model_name_is_made_printable_and_short(book: Book, tmp_path: Path, model: str) -> None:
    book.ledger().count_served("ann", "work", model, TOKENS, NOW)

    (account,) = book
    assert account.model.isprintable()
    assert len(account.model) <= LONGEST_MODEL
    assert account.model.encode().decode() == account.model


def test_the_counts_of_other_proxies_count_once(book: Book) -> None:
    mine, (a, b) = book.ledger(), (Book(), Book())
    of_a, of_b = a.ledger(), b.ledger()
    mine.count_begun("ann", NOW)
    for ledger in (of_a, of_a, of_b):
        ledger.count_begun("ann", NOW)
        ledger.count_served("ann", "work", "m", TOKENS, NOW)

    for news in (a.news("a"), b.news("b"), a.news("a")):
        mine.merge(news)
    assert mine.turns_today("ann", NOW) == 4

    of_a.count_begun("ann", NOW)
    mine.merge(a.news("a"))
    assert mine.turns_today("ann", NOW) == 5
    assert book.keys() == {Account(POOL, "2026-11-25", "ann", "", "")}  # what they counted is theirs to write
    assert book[Account(POOL, "2026-11-25", "ann", "", "")].turns == 1


def test_members_of_another_pool_are_counted_apart(book: Book) -> None:
    ledger, other = book.ledger(), Book()
    other.ledger("/q/pool.toml").count_begun("ann", NOW)
    ledger.merge(other.news())
    assert ledger.turns_today("ann", NOW) == 0


Steps = list[tuple[int, str, str, int]]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["ann", "bob", ""]), st.sampled_from("bst"), st.integers(0, 2)),
        max_size=60,
    )
)
def test_proxies_agree_on_the_sum_of_what_they_counted(steps: Steps) -> None:
    books = [Book(), Book(), Book()]
    ledgers = [book.ledger() for book in books]
    begun: dict[tuple[str, int], int] = {}
    served = 0
    for proxy, member, what, day in steps:
        at = NOW + day * DAY
        if what == "b":
            ledgers[proxy].count_begun(member, at)
            begun[(member, day)] = begun.get((member, day), 0) + 1
        elif what == "s":
            ledgers[proxy].count_served(member, "work", "m", TOKENS, at)
            served += 1
        else:
            ledgers[proxy].merge(books[(proxy + 1) % 3].news(str((proxy + 1) % 3)))
    for number, ledger in enumerate(ledgers):
        for other in {0, 1, 2} - {number}:
            ledger.merge(books[other].news(str(other)))

    for ledger in ledgers:
        for member, day in ((member, day) for member in ("ann", "bob", "") for day in range(3)):
            assert ledger.turns_today(member, NOW + day * DAY) == begun.get((member, day), 0)
    assert sum(spent.turns for book in books for spent in book.served.values()) == served


# -- with the state, through the keeper


POOL_TOML = '[[identity]]\nname = "work"\ntoken = { env = "CODEXPOOL_NOT_SET" }\n'
"""A pool that sends nothing: its one identity has no token."""


@pytest.fixture
def pool_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(persistence, "POLL", 0.01)
    monkeypatch.setattr(store, "SPENT_EVERY", 0)
    path = tmp_path / "pool.toml"
    path.write_text(POOL_TOML)
    path.chmod(0o600)
    return path


def started(pool_toml: Path) -> Keeper:
    path = pool_toml.with_name("state.sqlite3")
    keeper = Keeper(load(pool_toml), lambda: SqliteState(path, lambda: NOW), {}, Route(), Unheard())
    keeper.start(Watcher([pool_toml]))
    return keeper


async def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_daily_limit_holds_across_proxies_and_restarts(pool_toml: Path) -> None:
    # given: turns that have begun before the state was open, and have not ended
    one, other = started(pool_toml), started(pool_toml)
    for _ in range(3):
        one.ledger.count_begun("ann", NOW)
    other.ledger.count_begun("ann", NOW)

    # then: either proxy counts those of both
    await until(lambda: one.ledger.turns_today("ann", NOW) == other.ledger.turns_today("ann", NOW) == 4)

    # when: one counts more and is stopped at once, and both are started again
    one.ledger.count_begun("ann", NOW)
    one.stop()
    other.stop()
    again = started(pool_toml)

    await until(lambda: again.ledger.turns_today("ann", NOW) == 5)
    again.stop()


async def test_usage_before_the_state_is_open_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    tasks = Tasks()
    kept = persistence.Persistence(lambda: SqliteState(path, lambda: NOW), tasks, "pool")
    tasks.spawn(kept.run(lambda news: None))
    account = Account(POOL, "2026-11-25", "ann", "work", "m")

    kept.put_spent(account, Spent(1, 0, *TOKENS, NOW, NOW))
    kept.put_spent(account, Spent(2, 0, *TOKENS, NOW, NOW))
    await kept.earlier()
    tasks.stop()
    kept.close()

    state = SqliteState(path, lambda: NOW)
    assert list(state.load().spent.values()) == [Spent(2, 0, *TOKENS, NOW, NOW)]
    state.close()
