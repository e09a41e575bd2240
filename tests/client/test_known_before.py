"""The real Codex CLI with a pool whose identities differ in what they have left and may use."""

from __future__ import annotations

import pytest

from tests.client.conftest import Make, World
from tests.running import answered, pat
from tests.standin import RESPONSES

pytestmark = pytest.mark.real_client

DRAIN_FIRST = '[pool]\nselection = "drain-first"\n'


def restart(world: World) -> None:
    world.proxy.stop()
    world.proxy.start()
    world.client.environ["HTTPS_PROXY"] = world.proxy.url


def test_an_identity_drained_before_the_start_gets_no_model_request(make: Make, transport: str) -> None:
    world = make(pat("drained"), pat("other"), transport=transport, head=DRAIN_FIRST, drained=("drained",))

    names = [answered(world.client.exec("say echo:apple"), "apple")]
    restart(world)
    names += [answered(world.client.exec("say echo:plum"), "plum")]

    assert names == ["other", "other"]
    assert world.standin.requests(RESPONSES, "drained") == []
    world.check()


def test_a_paid_model_is_served_as_first_and_as_second_turn(make: Make, transport: str) -> None:
    """No identity is asked for a model it has not."""
    free = pat("free", plan="free", models=("gpt-free",))
    paid = pat("paid", plan="plus", models=("gpt-paid", "gpt-free"))
    world = make(free, paid, transport=transport, head=DRAIN_FIRST)

    runs = [
        world.client.exec("-m", "gpt-free", "say echo:turn"),
        world.client.exec("resume", "--last", "-m", "gpt-paid", "echo:turn"),
        world.client.exec("resume", "--last", "-m", "gpt-free", "echo:turn"),
        world.client.exec("-m", "gpt-paid", "say echo:turn"),
    ]

    assert [answered(run, "turn") for run in runs] == ["free", "paid", "free", "paid"]
    # and the client has found each model in the list that it got
    assert [run.stderr for run in runs if "Model metadata for" in run.stderr] == []
    assert [seen for seen in world.standin.seen if seen.status == 400] == []
    world.check()
