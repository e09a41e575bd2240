"""Twenty members at once, one of them greedy, and a pool with few places: through a real proxy."""

from __future__ import annotations

import asyncio

from tests.e2e.conftest import Make
from tests.e2e.world import MODEL, World, served_by
from tests.running import key_of, member, pat

OTHERS = [f"m{number}" for number in range(19)]
PLACES, GREED = 2, 60


async def test_a_greedy_member_does_not_starve_the_others(make: Make) -> None:
    # given a pool with two places, and a member that wants sixty turns at once
    head = f'[pool]\naccess = "members"\nturns_at_once = {PLACES}\n'
    tail = "".join(map(member, ["greedy", *OTHERS]))
    world = make(pat("work"), pat("spare"), head=head, tail=tail, pace=0.01, deltas=3)
    ended: list[str] = []

    # when each of the others wants one turn, once the greedy one has taken all places and waits for more
    async with world.proxy.async_client() as client:
        greedy = [asyncio.create_task(turn(world, client, "greedy", ended)) for _ in range(GREED)]
        await asyncio.wait(greedy, return_when=asyncio.FIRST_COMPLETED)
        before = len(ended)
        await asyncio.gather(*(turn(world, client, name, ended) for name in OTHERS))
        between = ended[before:].count("greedy")
        await asyncio.gather(*greedy)

    # then between two of the others at most one of the greedy member's turns is served, besides those under way
    assert sorted(set(ended)) == sorted(["greedy", *OTHERS])
    assert between <= len(OTHERS) / 2 + 2 * PLACES + 3
    world.check()


async def turn(world: World, client: object, name: str, ended: list[str]) -> None:
    headers = {"authorization": f"Bearer {key_of(name)}", "thread-id": f"of-{name}-{len(ended)}"}
    answer = await client.post(MODEL, json={"model": "m", "input": "hello"}, headers=headers)  # type: ignore[attr-defined]
    assert served_by(answer) in ("work", "spare")
    ended.append(name)
