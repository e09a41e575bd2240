"""Fifty clients, twelve identities, and everything that can go wrong: some seconds here, longer with `just soak`."""

from __future__ import annotations

from pathlib import Path

from tests.soak.soak import a_soaked_world, seconds_wanted, seed_wanted, soak


async def test_fifty_clients_get_every_answer_despite_faults(tmp_path: Path) -> None:
    """They get no other answer, either."""
    with a_soaked_world(tmp_path) as world:
        await soak(world, seconds_wanted(), seed_wanted())
        print(f"\n{world.findings.report()}")

        assert world.findings.wrong == []
