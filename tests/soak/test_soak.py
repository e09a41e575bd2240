"""Fifty clients, twelve identities and injected faults, for some seconds. `just soak` runs longer."""

from __future__ import annotations

from pathlib import Path

from tests.soak.soak import duration, seed, soak, soak_world


async def test_fifty_clients_get_every_answer_despite_faults(tmp_path: Path) -> None:
    """They get no wrong answer, either."""
    with soak_world(tmp_path) as world:
        await soak(world, duration(), seed())
        print(f"\n{world.findings.report()}")

        assert world.findings.wrong == []
