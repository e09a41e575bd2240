"""pool.toml, while the proxy is running."""

from __future__ import annotations

import time

from codexpool.pool.needs import NONE_FOR_CLIENTS
from tests.e2e.conftest import Make
from tests.e2e.world import MODEL, World, served_by
from tests.running import pat, pool_toml, until
from tests.standin import RESPONSES, Answer

SOON = 2.0
"""Seconds within which a change is in force (a busy machine is given twice as many)."""


def serving(world: World, session: str) -> set[str]:
    """Who serves new sessions."""
    with world.proxy.client() as client:
        return {served_by(world.turn(client, f"{session}-{number}")) for number in range(6)}


def refused(world: World) -> str:
    """What a client is told that gets no answer."""
    with world.proxy.client() as client:
        answer = world.turn(client, "refused")
    assert answer.status_code == 400
    return answer.text


def in_force(world: World, times: int) -> None:
    begun = time.monotonic()
    until(lambda: world.proxy.log.count("was reloaded") == times, 10, "the change")
    assert time.monotonic() - begun < 2 * SOON


def test_pool_toml_is_reloaded_while_streams_go_on(make: Make) -> None:
    work, spare, new = pat("work"), pat("spare"), pat("new")
    world = make(work)
    world.standin.add(spare)
    world.standin.add(new)
    assert serving(world, "one") == {"work"}

    # One more identity, while a stream is under way
    world.standin.plan(Answer(path=RESPONSES, pace=0.5))
    with world.proxy.client() as client:
        body, headers = {"model": "m", "input": "echo:apple"}, {"thread-id": "streaming"}
        with client.stream("POST", MODEL, json=body, headers=headers) as answer:
            pieces = answer.iter_raw()
            text = next(pieces)
            pool_toml(world.proxy.folder, work, spare)
            in_force(world, 1)
            text += b"".join(pieces)
    assert b"apple" in text
    assert b"response.completed" in text
    world.proxy.says("spare is ready")
    assert "spare" in serving(world, "two")

    # A change that does not hold
    good = world.proxy.pool.read_text()
    world.proxy.pool.write_text(good + '[[identity]]\nname = "third"\ntokn = "x"\n')
    world.proxy.says("pool.toml:9: identity[3]")
    world.proxy.says("is invalid; keeping the previous configuration")
    assert serving(world, "three") <= {"work", "spare"}

    # A change that does, and permissions that do not
    world.proxy.pool.write_text('[pool]\nselection = "round-robin"\n' + good)
    in_force(world, 2)
    world.proxy.pool.chmod(0o640)
    world.proxy.says("chmod 600")
    assert serving(world, "four") == {"work", "spare"}
    world.proxy.pool.chmod(0o600)

    # Another token, and an identity that is gone; its sessions are served by those who are left
    pool_toml(world.proxy.folder, new)
    in_force(world, 3)
    world.proxy.says("new is ready")
    number = len(world.seen)
    assert serving(world, "four") == {"new"}
    assert {seen.name for seen in world.seen[number:]} == {"new"}

    # The file is gone for a while: nobody serves, and clients are told in one line
    number = len(world.seen)
    world.proxy.pool.rename(world.proxy.pool.with_name("aside"))
    world.proxy.says("is gone, so no identity serves")
    assert refused(world) == NONE_FOR_CLIENTS
    file = world.proxy.status()["pool_file"]
    assert (file["path"], file["missing"], file["problem"]) == (str(world.proxy.pool), True, "")
    assert len(world.seen) == number
    world.proxy.pool.with_name("aside").rename(world.proxy.pool)
    in_force(world, 4)
    until(lambda: world.proxy.log.count("new is ready") == 2, 10, "the identity to be ready again")
    assert serving(world, "five") == {"new"}
    assert world.standin.leaks == []
    assert "at-test-" not in world.proxy.log
