"""A keeper knows what its identities have left before one of them serves, and tells other proxies."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from codexpool.credentials.account_api import UnreadError
from codexpool.pool.identity import Asked, Condition, Identity, Status
from codexpool.pool.usage import MAIN
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from codexpool.state.sqlite import SqliteState
from codexpool.upkeep.keeper import Keeper
from tests.pool.pools import RESPONSES
from tests.upkeep.keepers import Accounts, keeper_of, until, write_pool

OPEN = UsageReport((FamilyReport(MAIN, (), True),))


def drained() -> UsageReport:
    gauge = Gauge(MAIN, 300, 100.0, time.time() + 3600)
    return UsageReport((FamilyReport(MAIN, (gauge,), False),))


def statuses(keeper: Keeper) -> dict[str, Status]:
    return {identity.name: identity.status for identity in keeper.pool.identities.values()}


async def settled(keeper: Keeper) -> None:
    await until(lambda: Status.UNVERIFIED not in statuses(keeper).values())


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path, "drained", "good")


async def test_a_drained_identity_is_never_ready_at_the_first_start(pool: Path, tmp_path: Path) -> None:
    accounts = Accounts()
    accounts.told["acc-drained"] = drained()
    with keeper_of(pool, lambda: SqliteState(tmp_path / "state.sqlite3"), accounts) as keeper:
        was: list[tuple[str, Status]] = []
        follow = keeper._poller.follow

        def noted(identity: Identity, before: Condition) -> None:
            was.append((identity.name, identity.status))
            follow(identity, before)

        keeper._poller.follow = noted  # type: ignore[method-assign]
        await settled(keeper)

        assert sorted(was) == [("drained", Status.LIMITED), ("good", Status.READY)]
        assert sorted(accounts.asked) == ["acc-drained", "acc-good"]


async def test_a_drained_identity_gets_no_turn_after_a_restart(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was used up elsewhere while no proxy ran, for longer than a minute."""
    state = tmp_path / "state.sqlite3"
    accounts = Accounts()
    with keeper_of(pool, lambda: SqliteState(state), accounts) as keeper:
        await settled(keeper)
    accounts.told["acc-drained"] = drained()
    monkeypatch.setattr("codexpool.pool.usage.ASKED_EVERY", 0.0)
    monkeypatch.setattr("codexpool.upkeep.persistence.ANSWERED_WITHIN", 0.0)
    with keeper_of(pool, lambda: SqliteState(state), accounts) as keeper:
        asked = Asked("s", RESPONSES)
        await settled(keeper)
        while (seconds := keeper.pool.unread_pause(asked, time.time())) > 0:
            await keeper.change(seconds)

        chosen = keeper.pool.choose(asked, time.time())

        assert chosen is not None
        assert chosen.name == "good"


async def test_a_reading_that_fails_leaves_all_ready(pool: Path, tmp_path: Path) -> None:
    accounts = Accounts()
    accounts.told = dict.fromkeys(["acc-drained", "acc-good"], UnreadError("wham/usage answers 403"))
    with keeper_of(pool, lambda: SqliteState(tmp_path / "state.sqlite3"), accounts) as keeper:
        await settled(keeper)

        assert statuses(keeper) == {"drained": Status.READY, "good": Status.READY}


async def test_a_lift_that_one_proxy_reads_counts_for_the_others(pool: Path, tmp_path: Path) -> None:
    state, here, there = tmp_path / "state.sqlite3", Accounts(), Accounts()
    here.told["acc-drained"] = there.told["acc-drained"] = drained()
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(keeper_of(pool, lambda: SqliteState(state), here))
        await settled(one)
        other = stack.enter_context(keeper_of(pool, lambda: SqliteState(state), there))
        await settled(other)
        assert statuses(one)["drained"] == statuses(other)["drained"] == Status.LIMITED

        here.told["acc-drained"] = OPEN
        await one.look([one.pool.identities["drained"]], Asked("s", RESPONSES, only=frozenset({"drained"})), 3.0)

        await until(lambda: statuses(other)["drained"] is Status.READY)
        assert statuses(one)["drained"] == Status.READY
