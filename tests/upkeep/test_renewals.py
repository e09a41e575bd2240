"""One renewal at a time for each identity, and none that is asked for is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from codexpool.common.tasks import Tasks
from codexpool.credentials import Renewal, command
from codexpool.credentials.command import Command, CommandLine
from codexpool.pool.identity import Identity, Kind, Status
from codexpool.pool.pool import Pool
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.renewals import Renewals, Waiting
from tests.pool.pools import NOW, pool_of, refuse, unverified, vouch

TOKEN = Bearer.of("at-test-login")


class Printing(Command):
    """A command that notes what it is run for."""

    def __init__(self) -> None:
        super().__init__(CommandLine(("print-token",), Path()))
        self.asked: list[bool] = []

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        self.asked.append(refused)
        return await super().renewed(stale, refused)


async def the_same_token(*_: object) -> str:
    await asyncio.sleep(0)
    return TOKEN.token


async def test_a_refusal_as_a_renewal_ends_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "output", the_same_token)
    # given a login whose time has come, so that it is renewed without having been refused
    pool = pool_of(unverified("login", TOKEN.token, kind=Kind.COMMAND))
    vouch(pool, "login", NOW - 1)
    identity, credential = pool.identities["login"], Printing()

    def refused() -> None:
        refuse(pool, "login", NOW, NOW)
        renewals.begin(identity, refused=True)  # as the keeper does, whose listener hears of it

    async def came(identity: Identity, renewal: Renewal) -> None:
        # when it is refused after the last step of that, and before anybody has heard that it is over
        if not credential.asked[-1]:
            asyncio.get_running_loop().call_soon(refused)

    renewals = Renewals(pool, Tasks(), Waiting(), lambda _: (credential, TOKEN), came)
    renewals.begin(identity, refused=False)

    async with asyncio.timeout(5):
        while _status(pool) is not Status.RESTING:  # noqa: ASYNC110 - what is looked for has no event
            await asyncio.sleep(0.01)
    assert credential.asked == [False, True]


def _status(pool: Pool) -> Status:
    return pool.identities["login"].status
