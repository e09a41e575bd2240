"""Which accounts are asked for their models, and when."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from unittest.mock import patch

import pytest

from codexpool.common.tasks import Tasks
from codexpool.credentials.account_api import UnreadError
from codexpool.pool.entitlements import AGAIN, FRESH, OUTDATED, VERSIONS_KEPT
from codexpool.pool.identity import Asked, Metadata, Status
from codexpool.pool.usage import MAIN
from codexpool.protocol.models import TESTED, Entry, entries_of
from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep import model_lists
from codexpool.upkeep.model_lists import AT_ONCE, SOON, ModelLists
from tests.pool.pools import NOW, condemn, ready_pool, statuses
from tests.state.memory import MemoryState
from tests.upkeep.keepers import Accounts, keeper_of, until, write_pool

SAME = Metadata("account-shared", "", "business")
Read = tuple[tuple[Entry, ...], str] | None


class Backend:
    """Says which models each account has, and remembers who asked for which version, with which etag."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[str, ...]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.trouble: Exception | None = None
        self.at_once = self.most_at_once = 0

    async def models_of(self, bearer: Bearer, metadata: Metadata, version: str, etag: str) -> Read:
        self.asked.append((metadata.account_id, version, etag))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.trouble is not None:
            raise self.trouble
        models = self.models.get(metadata.account_id, ("gpt-small",))
        if etag == f'"{models}"':
            return None
        documents = [{"slug": slug, "priority": number} for number, slug in enumerate(models)]
        return entries_of(json.dumps({"models": documents}).encode()), f'"{models}"'


class World:
    """A pool, its backend and a clock."""

    def __init__(self, *names: str) -> None:
        self.pool = ready_pool(*names)
        self.backend = Backend()
        self.now = NOW
        self.tasks = Tasks()
        api = type("Api", (), {"models": staticmethod(self.backend.models_of)})()
        self.lists = ModelLists(self.pool, api, self.tasks, lambda name: Bearer.of(f"at-test-{name}"))

    async def reads(self, name: str) -> None:
        with patch("time.time", lambda: self.now):
            await self.lists.read(self.pool.identities[name])

    async def client_asks(self, version: str) -> None:
        with patch("time.time", lambda: self.now):
            is_answered = self.pool.catalogue(Asked(None, ""), version) is not None
            self.lists.client_asks(version, is_answered=is_answered)
            await self.settles()

    async def answer_names(self, name: str, etag: str) -> None:
        with patch("time.time", lambda: self.now):
            self.lists.answer_names(name, TESTED, etag)
            await self.settles()

    async def settles(self) -> None:
        """Let what was begun end."""
        while self.tasks._tasks:
            await asyncio.wait(self.tasks._tasks)

    def lacked(self, name: str) -> frozenset[str]:
        return self.pool.entitlements.lacked(model_lists._plan(self.pool.identities[name]))


async def test_a_list_is_read_and_compared_with_the_others() -> None:
    world = World("free", "paid")
    world.backend.models["account-paid"] = ("gpt-small", "gpt-large")

    await world.reads("free")
    await world.reads("paid")

    assert world.lacked("free") == {"gpt-large"}
    assert world.lacked("paid") == set()


async def test_identities_of_one_account_and_plan_share_a_list() -> None:
    world = World("one", "two")
    for identity in world.pool.identities.values():
        identity.metadata = SAME

    await asyncio.gather(world.reads("one"), world.reads("two"), world.reads("one"))

    assert world.backend.asked == [("account-shared", TESTED, "")]


async def test_a_fresh_list_is_not_read_again_and_an_old_one_with_its_etag() -> None:
    world = World("one")
    await world.reads("one")
    world.now += FRESH - 1
    await world.reads("one")
    assert len(world.backend.asked) == 1

    world.now += 1
    await world.reads("one")

    assert world.backend.asked[1:] == [("account-one", TESTED, "\"('gpt-small',)\"")]
    world.now += AGAIN
    await world.reads("one")
    assert len(world.backend.asked) == 2


@pytest.mark.parametrize("trouble", [UnreadError("401"), RuntimeError("a bug")])
async def test_a_read_that_fails_changes_nothing(trouble: Exception) -> None:
    world = World("free", "paid")
    world.backend.models["account-paid"] = ("gpt-small", "gpt-large")
    await world.client_asks(TESTED)
    before = statuses(world.pool)
    world.now, world.backend.trouble = NOW + FRESH, trouble

    await world.client_asks(TESTED)

    assert len(world.backend.asked) == 4
    assert world.lacked("free") == {"gpt-large"}
    assert statuses(world.pool) == before == {"free": Status.READY, "paid": Status.READY}


async def test_a_client_of_another_version_has_all_accounts_asked() -> None:
    world = World("one", "two", "three")
    await world.client_asks(TESTED)

    await world.client_asks("0.180.0")

    assert {(account, version) for account, version, _ in world.backend.asked[3:]} == {
        (f"account-{name}", "0.180.0") for name in ("one", "two", "three")
    }
    await world.client_asks("0.180.0")
    assert len(world.backend.asked) == 6


async def test_a_version_that_comes_while_lists_are_read_is_read_as_well() -> None:
    world = World("one", "two")
    with patch("time.time", lambda: NOW):
        for version in ("0.180.0", "0.181.0"):
            world.lists.client_asks(version, is_answered=False)
            await asyncio.sleep(0)
        await world.settles()

    versions = sorted((account, version) for account, version, _ in world.backend.asked)
    assert versions == [(f"account-{name}", f"0.{n}.0") for name in ("one", "two") for n in (171, 180, 181)]


async def test_identities_that_become_ready_have_their_lists_read_a_few_at_once() -> None:
    names = [f"i{number}" for number in range(20)]
    world = World(*names)
    with patch("time.time", lambda: NOW):
        for identity in world.pool.identities.values():
            world.lists.can_be_asked(identity)
            await asyncio.sleep(0)
        await world.settles()
        assert sorted(account for account, _, _ in world.backend.asked) == sorted(f"account-{name}" for name in names)
        assert world.backend.most_at_once <= AT_ONCE

        world.now += FRESH  # One that is ready again after a rest is read with its usage.
        world.lists.can_be_asked(world.pool.identities["i1"])

    assert not world.tasks._tasks


async def test_a_token_is_not_sent_with_the_account_of_another_one() -> None:
    world = World("one")
    world.lists._bearer = lambda name: Bearer.of("at-test-another")

    await world.reads("one")

    assert world.backend.asked == []


async def test_a_client_has_the_lists_read_that_are_old_or_not_known() -> None:
    world = World("one")
    await world.client_asks(TESTED)
    world.now += FRESH - 1
    await world.client_asks(TESTED)
    assert len(world.backend.asked) == 1
    world.now += 1
    await world.client_asks(TESTED)
    assert len(world.backend.asked) == 2

    world.pool.identities["one"].metadata = SAME  # Its account is another one, as whoami says.
    world.pool.states.revision += 1
    await world.client_asks(TESTED)
    assert len(world.backend.asked) == 2
    world.now += SOON
    await world.client_asks(TESTED)

    assert world.backend.asked[2:] == [("account-shared", TESTED, "")]


async def test_an_answer_that_names_another_list_has_it_read_once_in_a_while() -> None:
    world = World("one")
    await world.reads("one")

    await world.answer_names("one", '"other"')
    assert len(world.backend.asked) == 1
    world.now += OUTDATED
    for _ in range(3):
        await world.answer_names("one", '"other"')
        await world.answer_names("gone", '"other"')

    assert len(world.backend.asked) == 2


async def test_a_list_for_a_version_that_is_no_longer_kept_is_dropped() -> None:
    world = World("one")
    known = world.pool.entitlements

    reading = asyncio.ensure_future(world.reads("one"))
    await asyncio.sleep(0)
    for number in range(VERSIONS_KEPT):
        known.asked_for(f"0.{number}.0", NOW)
    await reading

    assert TESTED not in known.versions
    assert not known.was_asked(model_lists._plan(world.pool.identities["one"]), TESTED)


async def test_lists_of_identities_that_have_left_are_forgotten() -> None:
    for reads in (World.reads, lambda world, _: world.client_asks("0.180.0")):
        world = World("free", "paid")
        world.backend.models["account-paid"] = ("gpt-small", "gpt-large")
        await world.client_asks(TESTED)
        assert world.pool.entitlements.differ
        world.pool.replace_identities([world.pool.identities["free"]], world.pool.selection, NOW)

        await reads(world, "free")

        assert world.lacked("free") == set()


async def test_an_identity_that_does_not_serve_is_not_asked() -> None:
    world = World("one", "two")
    condemn(world.pool, "one", NOW)

    await world.client_asks(TESTED)

    assert [account for account, _, _ in world.backend.asked] == ["account-two"]


class Listing(Accounts):
    """Lists a model for each account."""

    async def models(self, bearer: Bearer, metadata: Metadata, version: str, etag: str) -> Read:  # type: ignore[override]
        return entries_of(json.dumps({"models": [{"slug": metadata.account_id, "priority": 1}]}).encode()), ""


async def test_a_client_gets_the_models_of_an_identity_that_is_limited_from_the_start(tmp_path: Path) -> None:
    accounts = Listing()
    accounts.told["acc-drained"] = UsageReport((FamilyReport(MAIN, (Gauge(MAIN, 300, 100, None),), False),))

    with keeper_of(write_pool(tmp_path, "drained"), MemoryState, accounts) as keeper:
        await until(lambda: statuses(keeper.pool) == {"drained": Status.LIMITED})
        await until(lambda: keeper.pool.catalogue(Asked(None, ""), TESTED) is not None)
