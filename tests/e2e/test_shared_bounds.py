"""Two proxies with one state in PostgreSQL: a member has its turns at once, and a day, through both together."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from codexpool.state.location import Postgres
from codexpool.state.opening import read_spent
from codexpool.upkeep.leasing import ALONE, SHARED
from tests.e2e.world import MODEL, E2EProxy
from tests.running import CLIENT, key_of, member, pat, pool_toml, until
from tests.standin import RESPONSES, StandIn

AT_ONCE, A_DAY, ASKED = 2, 8, 10
MEMBERS = ("ann", "ben", "cat", "dan", "eve", "fay")  # One for each attempt: on a busy machine the state may be slow.


async def turn(proxy: E2EProxy, name: str, session: int) -> int:
    async with proxy.async_client() as client:
        headers = {"authorization": f"Bearer {key_of(name)}", "thread-id": f"{name}-{proxy.port}-{session}"}
        return (await client.post(MODEL, json={"model": "m", "input": "x"}, headers=headers)).status_code


async def most_at_once(standin: StandIn) -> int:
    """The most turns under way at the backend, until it is cancelled."""
    most = 0
    try:
        while True:
            most = max(most, sum(not seen.complete for seen in standin.requests(RESPONSES)))
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        return most


def is_sharing(proxy: E2EProxy) -> bool:
    with proxy.client() as client:
        has_sent_a_heartbeat = client.get("http://codex.pool/api/status").json()["fleet"]
    return has_sent_a_heartbeat and proxy.log.count(SHARED) >= proxy.log.count(ALONE)


def test_the_bounds_of_a_member_hold_for_two_proxies_with_one_database(tmp_path: Path, postgres_url: str) -> None:
    tokens = [pat("work"), pat("spare")]
    members = "".join(member(name, turns_at_once=AT_ONCE, turns_a_day=A_DAY) for name in MEMBERS)
    with ExitStack() as stack:
        standin = stack.enter_context(StandIn(tokens, clients=[CLIENT], folder=tmp_path, pace=0.05, deltas=4))
        proxies = []
        for name in "ab":
            (tmp_path / name).mkdir()
            pool_toml(tmp_path / name, *tokens, head='[pool]\naccess = "members"\n', tail=members)
            proxy = E2EProxy(standin, tmp_path / name, environ={"CODEXPOOL_STATE": postgres_url}, ready=2)
            stack.callback(proxy.end)
            proxies.append(proxy)
            proxy.start(wait=False)
        for proxy in proxies:
            proxy.listens()

        async def ask(name: str) -> tuple[list[int], int]:
            watching = asyncio.create_task(most_at_once(standin))
            statuses = await asyncio.gather(*(turn(proxies[number % 2], name, number) for number in range(ASKED)))
            watching.cancel()
            return statuses, await watching

        for name in MEMBERS:
            until(lambda: all(map(is_sharing, proxies)), 30, "both proxies to share bounds")
            known = sum(proxy.log.count(ALONE) for proxy in proxies)
            statuses, most = asyncio.run(ask(name))
            if sum(proxy.log.count(ALONE) for proxy in proxies) == known:
                break

        assert Counter(statuses) == {200: A_DAY, 429: ASKED - A_DAY}
        assert most == AT_ONCE

    # and one ledger has them all
    spent = read_spent(Postgres(postgres_url), ["member"], "2000-01-01")[(name,)]
    assert spent.turns == A_DAY
