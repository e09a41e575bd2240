"""What one proxy learns of a token or an account counts for all that share a state, and is asked once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from codexpool.config.sources import resolve
from codexpool.credentials.authapi import Whoami
from codexpool.pool.identity import WHOAMI, Asked, Condition, Evidence, Status, Word
from codexpool.pool.usage import MAIN, Limit
from codexpool.state import State
from codexpool.state.location import Location, Postgres, SqliteFile
from codexpool.state.notes import RESUMED
from codexpool.state.opening import open_state
from codexpool.tokens.bearer import Bearer, fingerprint
from codexpool.upkeep import persistence, polling, vault, watching
from codexpool.upkeep.keeper import Keeper
from tests.pool.pools import RESPONSES
from tests.upkeep.keepers import (
    DEAD,
    Accounts,
    Backend,
    keeper_of,
    refuse,
    token_of,
    until,
    until_ready,
    write_pool,
)

DEAD_A = fingerprint(token_of("a"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for on purpose takes no time, and what a busy machine delays is waited for."""
    monkeypatch.setattr(persistence, "POLL", 0.05)
    monkeypatch.setattr(watching, "POLL", 0.05)
    monkeypatch.setattr(vault, "VERIFIED_FOR", 0.05)
    monkeypatch.setattr(persistence, "ASKED_WITHIN", 20.0)
    monkeypatch.setattr(persistence, "ANSWERED_WITHIN", 60.0)
    monkeypatch.setattr(vault, "ANOTHER_ANSWERS", 20.0)
    monkeypatch.setattr(polling, "ANOTHER_READS", 20.0)


class Fleet:
    """Proxies on machines of their own: each has a pool.toml. They share a state and a backend."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, state: Location) -> None:
        self.backend, self.accounts = Backend(), Accounts()
        self._folder, self._stack, self._state = folder, stack, state

    def open_state(self) -> State:
        return open_state(self._state)

    def proxy(self, machine: str, notify: str = "") -> Keeper:
        """Start a proxy, whose identities are not ready yet."""
        folder = self._folder / machine
        folder.mkdir()
        path = write_pool(folder, "a", "b")
        path.write_text(notify + path.read_text())
        fleet = partial(keeper_of, accounts=self.accounts, backend=self.backend, scope=lambda path: "pool")
        return self._stack.enter_context(fleet(path, self.open_state))

    async def two(self, notify: str = "") -> tuple[Keeper, Keeper]:
        """Start two proxies. What whoami was asked until they are ready does not count."""
        proxies = self.proxy("here", notify), self.proxy("there", notify)
        for proxy in proxies:
            await until_ready(proxy)
        self.backend.asked.clear()
        return proxies


on_each_engine = pytest.mark.parametrize("fleet", ["sqlite", "postgres"], indirect=True)
"""Where the engine matters: rows that cross, and what only one proxy may do."""


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    state: Location = SqliteFile(tmp_path / "s.sqlite3")
    if getattr(request, "param", "sqlite") == "postgres":
        state = Postgres(request.getfixturevalue("postgres_url"))
    with contextlib.ExitStack() as stack:
        yield Fleet(tmp_path, stack, state)


def status(keeper: Keeper, name: str = "a") -> Status:
    return keeper.pool.identities[name].status


def chosen(keeper: Keeper) -> str | None:
    """The identity for a new session, without waiting."""
    found = keeper.pool.choose(Asked(None, RESPONSES), time.time())
    return found.name if found is not None else None


@on_each_engine
async def test_a_token_that_dies_here_is_on_no_call_there_a_moment_later(fleet: Fleet) -> None:
    here, there = await fleet.two()
    DEAD.add(DEAD_A)

    refuse(here, "a")
    await until(lambda: status(there) is Status.NEEDS_REPLACEMENT, seconds=5)

    assert chosen(there) == "b"
    assert fleet.backend.asked == ["a"]


@on_each_engine
async def test_proxies_that_are_refused_at_once_ask_whoami_once(fleet: Fleet) -> None:
    here, there = await fleet.two()
    DEAD.add(DEAD_A)
    fleet.backend.seconds = 0.3

    refuse(here, "a")
    refuse(there, "a")
    await until(lambda: {status(here), status(there)} == {Status.NEEDS_REPLACEMENT})

    assert fleet.backend.asked == ["a"]


async def test_a_proxy_that_hears_nothing_from_the_one_that_asks_asks_itself(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one was killed, or cut off, before it could tell."""
    monkeypatch.setattr(vault, "ANOTHER_ANSWERS", 0.2)
    here, _ = await fleet.two()
    state = fleet.open_state()
    assert persistence._take(state, f"whoami:{DEAD_A}", time.time())
    state.close()
    DEAD.add(DEAD_A)

    refuse(here, "a")
    await until(lambda: status(here) is Status.NEEDS_REPLACEMENT)

    assert fleet.backend.asked == ["a"]


@on_each_engine
async def test_a_notice_is_sent_once(fleet: Fleet, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    here, there = await fleet.two(f'[pool]\nnotify = {{ command = ["sh", "-c", "cat >> {sent}"] }}\n\n')
    DEAD.add(DEAD_A)

    refuse(here, "a")
    await until(lambda: status(there) is Status.NEEDS_REPLACEMENT and sent.exists())
    refuse(here, "b")  # Its notice would come after a second one about a.
    DEAD.add(fingerprint(token_of("b")))
    await until(lambda: sent.read_text().count('"b"'))

    assert sent.read_text().count('"a"') == 1


async def test_a_new_token_serves_although_the_old_one_is_dead(fleet: Fleet) -> None:
    here, there = await fleet.two()
    DEAD.add(DEAD_A)
    refuse(here, "a")
    await until(lambda: status(there) is Status.NEEDS_REPLACEMENT)

    write_pool(there.config.path.parent, "a", "b", version=2)

    await until_ready(there)
    assert status(here) is Status.NEEDS_REPLACEMENT


async def test_a_token_that_has_served_since_outlives_old_news_of_its_death(fleet: Fleet) -> None:
    """The other proxy was cut off from the state. It learns that it was wrong, too."""
    here, there = await fleet.two()
    began = time.time()
    there.served("a", Asked("s", RESPONSES), began + 0.01)
    await asyncio.sleep(0.02)
    evidence = Evidence(began, status=401, code="token_revoked", fingerprint=DEAD_A, whoami=Word.REFUSED)
    here.pool.states.condition_learned("a", DEAD_A, Condition(Status.NEEDS_REPLACEMENT, began, evidence=evidence))

    await until(lambda: fleet.backend.asked)
    await until(lambda: status(here) is Status.READY)

    assert status(there) is Status.READY


@on_each_engine
async def test_a_person_who_checks_a_dead_token_has_it_verified_everywhere(fleet: Fleet) -> None:
    """Also a second time: accounts are closed and opened again."""
    here, there = await fleet.two()

    def is_flagged(keeper: Keeper) -> bool:
        return any(spec.flag is not None for spec in keeper.config.identities)

    for _ in range(2):
        DEAD.add(DEAD_A)
        refuse(here, "a")
        await until(lambda: is_flagged(here) and is_flagged(there))
        assert {status(here), status(there)} == {Status.NEEDS_REPLACEMENT}

        find_healthy(fleet)

        await until(lambda: not is_flagged(here) and not is_flagged(there))
        assert {status(here), status(there)} == {Status.READY}


def hold_whoami(fleet: Fleet) -> asyncio.Event:
    """Have whoami's answers arrive once the event is set: they are as old as the question by then."""
    whoami, arrives = fleet.backend.whoami, asyncio.Event()

    async def held(bearer: Bearer) -> Whoami:
        answer = await whoami(bearer)
        await arrives.wait()
        return answer

    fleet.backend.whoami = held  # type: ignore[method-assign]
    return arrives


def find_healthy(fleet: Fleet) -> None:
    """Store what `codexpool check` does: whoami was asked just now, and the token is good."""
    DEAD.clear()
    state = fleet.open_state()
    state.drop_condition(DEAD_A, time.time())
    assert state.close()


async def test_a_refusal_that_arrives_after_a_later_good_answer_condemns_nothing(fleet: Fleet) -> None:
    """A person checks the token while a proxy waits for whoami, whose answer is older then."""
    here, there = await fleet.two()
    arrives = hold_whoami(fleet)
    DEAD.add(DEAD_A)
    refuse(here, "a")
    await until(lambda: fleet.backend.asked)

    find_healthy(fleet)
    await until(lambda: here.pool.identities["a"].cleared_at)
    arrives.set()

    seen: set[Status] = set()
    await until(lambda: seen.add(status(here)) or status(here) in (Status.RESTING, Status.READY))  # type: ignore[func-returns-value]
    assert Status.NEEDS_REPLACEMENT not in seen
    assert (status(there), fleet.backend.asked) == (Status.READY, ["a", "a"])


async def test_a_good_answer_from_before_the_death_of_a_token_does_not_end_it(fleet: Fleet) -> None:
    """The other proxy had asked whoami before, and the answer takes long."""
    here, there = await fleet.two()
    arrives = hold_whoami(fleet)
    there.token_doubted(there.pool.identities["a"])
    await until(lambda: fleet.backend.asked)
    at = time.time()
    evidence = Evidence(at, status=401, code="token_revoked", fingerprint=DEAD_A, whoami=Word.REFUSED)
    here.pool.states.condition_learned("a", DEAD_A, Condition(Status.NEEDS_REPLACEMENT, at, evidence=evidence))
    await until(lambda: status(there) is Status.NEEDS_REPLACEMENT)

    arrives.set()
    await until(lambda: not there._vault._verifying)

    assert status(there) is Status.NEEDS_REPLACEMENT
    there._persistence.close()  # All is written.
    state = fleet.open_state()
    assert DEAD_A in state.load().conditions
    state.close()


async def test_a_reload_does_not_bring_back_the_flag_of_a_token_that_is_good_again(fleet: Fleet) -> None:
    """pool.toml has the flag until whoami has vouched for the token here, too."""
    here, _ = await fleet.two()
    DEAD.add(DEAD_A)
    refuse(here, "a")
    await until(lambda: any(spec.flag is not None for spec in here.config.identities))
    arrives = hold_whoami(fleet)
    find_healthy(fleet)
    await until(lambda: status(here) is Status.UNVERIFIED)

    here.follow(here.config, resolve(here.config, here._reloader._sources))

    assert status(here) is Status.UNVERIFIED
    arrives.set()
    await until(lambda: not any(spec.flag is not None for spec in here.config.identities))
    assert status(here) is Status.READY


async def test_a_limit_and_its_end_by_hand_count_everywhere(fleet: Fleet) -> None:
    here, there = await fleet.two()
    identity = here.pool.identities["a"]
    assert identity.metadata is not None
    evidence = Evidence(time.time(), status=429, code="usage_limit_reached", fingerprint=DEAD_A)

    here.pool.states.limited("a", identity.metadata.key, Limit(MAIN, time.time() + 3600), evidence)
    here.saw_usage(identity.metadata.key)
    await until(lambda: status(there) is Status.LIMITED)
    state = fleet.open_state()
    state.drop_condition(DEAD_A)
    state.put_note(RESUMED, DEAD_A, {"at": time.time()})
    state.close()

    await until(lambda: {status(here), status(there)} == {Status.READY})


@on_each_engine
async def test_the_breaker_opens_and_closes_for_all(fleet: Fleet) -> None:
    here, there = await fleet.two()
    for name in "ab":
        DEAD.add(fingerprint(token_of(name)))
        refuse(here, name)
    await until(lambda: there.pool.states.breaker.opened_at is not None)
    assert here.pool.states.breaker.opened_at is not None

    there.served("a", Asked("s", RESPONSES), time.time())  # Sent since it opened, on a connection of before.

    await until(lambda: here.pool.states.breaker.opened_at is None)


async def test_a_refused_endpoint_counts_everywhere(fleet: Fleet) -> None:
    here, there = await fleet.two()

    here.pool.not_for_endpoint("a", RESPONSES, Evidence(time.time(), status=401, fingerprint=DEAD_A))

    await until(lambda: chosen(there) == "b")


async def test_nothing_that_was_learned_is_written_back(fleet: Fleet) -> None:
    """Fifty proxies would answer each word with fifty."""
    here, there = await fleet.two()
    DEAD.add(DEAD_A)
    written: list[str] = []
    there._persistence.put = lambda row: written.append(row.table)  # type: ignore[method-assign]

    refuse(here, "a")
    await until(lambda: status(there) is Status.NEEDS_REPLACEMENT)
    await asyncio.sleep(0.2)

    assert "conditions" not in written


@on_each_engine
async def test_an_account_is_read_once_when_all_proxies_start(fleet: Fleet) -> None:
    for proxy in [fleet.proxy("here"), fleet.proxy("there"), fleet.proxy("elsewhere")]:
        await until_ready(proxy)
        usages = proxy.pool.states._usages.values()
        await until(lambda usages=usages: all(usage.read_at for usage in usages))  # type: ignore[misc]

    assert sorted(fleet.accounts.asked) == ["acc-a", "acc-b"]


async def test_a_state_that_hangs_holds_up_no_question(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "ASKED_WITHIN", 0.1)
    here, _ = await fleet.two()
    state = here._persistence._state
    assert state is not None
    answers = threading.Event()
    state.transact = lambda work: answers.wait(30)  # type: ignore[method-assign, assignment, return-value]

    is_ours = await here._persistence.is_to_ask(WHOAMI)

    assert is_ours
    assert not answers.is_set()
    answers.set()
