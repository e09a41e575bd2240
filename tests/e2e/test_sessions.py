"""A session keeps its identity."""

from __future__ import annotations

from collections import Counter

from tests.e2e.world import World, served_by


def test_sessions_keep_their_identity_and_new_ones_spread(shared: World) -> None:
    """Over turns and restarts."""
    world = shared
    with world.proxy.client() as client:
        before = {f"stay-{n}": served_by(world.turn(client, f"stay-{n}")) for n in range(8)}
        assert all(served_by(world.turn(client, session)) == name for session, name in before.items())
    assert set(before.values()) == {"work", "spare"}
    assert min(Counter(before.values()).values()) >= 2

    world.proxy.stop()
    world.proxy.start()
    with world.proxy.client() as client:
        assert {session: served_by(world.turn(client, session)) for session in before} == before
