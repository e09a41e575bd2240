"""Answers that break the rules, are endless or are cut off: another identity serves, and the memory stays flat."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import Make
from tests.e2e.world import World, a_world, served_by, socket_turn
from tests.running import pat, until
from tests.standin import RESPONSES, Answer

REVOKED = {"error": {"code": "token_revoked", "message": "revoked"}}
MIB = 1 << 20


@pytest.fixture(scope="module", params=["http2=false", "http2=true"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bounds")
    arguments = ("--set", request.param)
    with a_world(folder, pat("work"), pat("spare"), arguments=arguments) as world:
        yield world


@pytest.fixture(autouse=True)
def _anew(world: World) -> None:
    world.reset()


REFUSALS = {
    "cut off": Answer(path=RESPONSES, status=401, body=REVOKED, cut="body"),
    "without end": Answer(path=RESPONSES, status=401, body=bytes(60_000), endless=0.0),
    "dripping": Answer(path=RESPONSES, status=401, body=b"{", endless=0.2),
    "after a 103": Answer(path=RESPONSES, status=401, body=REVOKED, interim=(103, 100)),
    "with trailers": Answer(path=RESPONSES, status=401, body=REVOKED, trailers={"x-sum": "1"}),
}
"""A 401, however it comes."""


@pytest.mark.parametrize("how", REFUSALS)
def test_any_401_moves_to_another_identity(world: World, how: str) -> None:
    world.standin.plan(REFUSALS[how])

    with world.proxy.client() as client:
        answer = world.turn(client, f"refused {how}")

    served_by(answer)
    assert len({seen.name for seen in world.seen}) == 2
    world.nothing_of_the_client_left()
    world.check()


@pytest.mark.parametrize("how", REFUSALS)
async def test_any_401_to_an_upgrade_moves_to_another_identity(world: World, how: str) -> None:
    refusal = REFUSALS[how]
    fields = {name: getattr(refusal, name) for name in ("status", "body", "cut", "endless", "interim", "trailers")}
    world.standin.plan(Answer(path=RESPONSES, transport="websocket", **fields))

    async with world.socket(f"refused {how}") as socket:
        served_by(await socket_turn(socket))

    assert len({seen.name for seen in world.seen}) == 2


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_refusal_cut_before_its_reason_is_a_lost_connection(world: World, status: int) -> None:
    body = {"error": {"code": "invalid_encrypted_content", "message": "It cannot be read. " * 9}}
    world.standin.plan(Answer(path=RESPONSES, status=status, body=body, cut="body"))

    with world.proxy.client() as client:
        answer = world.turn(client, f"cut {status}")

    served_by(answer)
    assert [seen.status for seen in world.seen if seen.path == RESPONSES] == [status, 200]
    world.check()


def test_a_401_before_the_body_was_read_costs_nothing(world: World) -> None:
    world.standin.plan(Answer(path=RESPONSES, status=401, body=REVOKED, early=True))
    with world.proxy.client() as client:
        answer = world.turn(client, "early", text="x" * (5 * MIB))

    served_by(answer)
    assert [seen.status for seen in world.seen if seen.path == RESPONSES] == [401, 200]
    world.check()


@pytest.mark.parametrize("status", [403, 429, 500, 400])
def test_a_last_answer_without_an_end_is_relayed_by_its_head(world: World, status: int) -> None:
    world.standin.plan(Answer(path=RESPONSES, status=status, body=bytes(60_000), endless=0.0, times=None))
    with world.proxy.client() as client:
        answer = world.turn(client, f"endless {status}")

    assert answer.status_code == status
    if status in (400, 500):
        assert answer.text == "codexpool: the answer has more than 1024 KiB"
    assert len(answer.content) < 1000


@pytest.mark.parametrize("interim", [(103,), (100, 103, 103)])
@pytest.mark.parametrize("trailers", [{}, {"x-sum": "1"}])
def test_interim_answers_and_trailers_do_no_harm(
    world: World, interim: tuple[int, ...], trailers: dict[str, str]
) -> None:
    world.standin.plan(Answer(path=RESPONSES, interim=interim, trailers=trailers, times=2))
    with world.proxy.client() as client:
        answers = [world.turn(client, "interim") for _ in range(3)]

    assert len({served_by(answer) for answer in answers}) == 1
    assert len(world.seen) == 3


def test_parallel_endless_answers_leave_the_memory_flat(world: World) -> None:
    with world.proxy.client() as client:
        served_by(world.turn(client, "before"))
    before, most, slowest = world.proxy.door("state")["rss"], 0, 0.0
    world.standin.plan(Answer(path=RESPONSES, status=500, body=bytes(60_000), endless=0.0, times=20))
    world.standin.plan(Answer(path=RESPONSES, status=500, body=b"x", endless=0.01, times=20))

    with ThreadPoolExecutor(40) as pool, world.proxy.client() as client:
        asked = [pool.submit(world.turn, client, f"endless {number}") for number in range(40)]
        while not all(one.done() for one in asked):
            begun = time.monotonic()
            most = max(most, world.proxy.door("state")["rss"])
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.05)
        statuses = {one.result().status_code for one in asked}

    assert statuses == {500}
    assert most - before < 64 * MIB
    assert slowest < 3  # The loop goes on all the while; it stands for much longer where it does not.


def test_a_flag_needs_more_than_a_401_without_a_body(make: Make) -> None:
    world = make(pat("work"), pat("spare"))
    world.standin.plan(REFUSALS["dripping"])
    with world.proxy.client() as client:
        served_by(world.turn(client, "s"))

    until(lambda: world.whoamis("work") or world.whoamis("spare"), 10, "whoami to be asked")
    assert "needs_replacement" not in world.proxy.pool.read_text()
