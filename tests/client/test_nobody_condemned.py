"""The real client while whoami or discovery is not itself: told in time, served as soon as anybody can serve."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace

import pytest

from tests.client.conftest import Make
from tests.running import answered, pat, trouble
from tests.standin import DISCOVERY, WHOAMI, Answer, Token, error_body

pytestmark = pytest.mark.real_client

CLOUDFLARE = {"cloudflare_error": True, "error_code": 1020, "title": "Error 1020: Access denied"}
IN_TIME = 20.0
"""Seconds from the start of a client to its end, on a machine that has much else to do. (On an idle one it is 7.)"""


def of(answer: Answer, *tokens: Token) -> tuple[Answer, ...]:
    """An answer for these tokens of the pool, and for no other: the client has a token of its own."""
    return tuple(replace(answer, token=token.token, times=None) for token in tokens)


def told(run: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of ours that the client shows, each once."""
    lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR: codexpool: ")]
    return list(dict.fromkeys(lines))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(path=WHOAMI, status=403, body=CLOUDFLARE),
        Answer(path=WHOAMI, status=401, body=error_body("proxy_unauthorized", "sign in to the proxy")),
    ],
    ids=["1020", "proxy"],
)
def test_a_whoami_that_is_not_itself_at_the_first_start_costs_no_pat(
    make: Make, transport: str, answer: Answer
) -> None:
    pool = pat("work"), pat("spare")
    world = make(*pool, transport=transport, wait=False, plan=of(answer, *pool))

    begun = time.monotonic()
    run = world.client.exec("say hi")

    assert (run.returncode, time.monotonic() - begun < IN_TIME) == (1, True), run.stderr
    [line] = told(run)
    assert "work: not verified yet (whoami answers 40" in line
    assert trouble(run) == []
    # when it is itself again, all serve, and nobody has a flag
    world.standin.unplan()
    for name in ("work", "spare"):
        world.proxy.says(f"{name} is ready", 35)
    answered(world.client.exec("say hi echo:banana"), "banana")
    assert "needs_replacement" not in world.pool
    world.nothing_amiss()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(path=WHOAMI, delay=60),
        Answer(path=WHOAMI, status=200, body=b" ", endless=0.2),
        Answer(path=DISCOVERY, delay=60),
    ],
    ids=["whoami is silent", "whoami drips", "discovery is silent"],
)
def test_trouble_at_the_first_start_is_told_and_passes(make: Make, transport: str, answer: Answer) -> None:
    """It is told in time, and ends without a person."""
    work = pat("work")
    world = make(work, transport=transport, wait=False, plan=of(answer, work))

    begun = time.monotonic()
    run = world.client.exec("say hi")

    assert (run.returncode, time.monotonic() - begun < IN_TIME) == (1, True), run.stderr
    [line] = told(run)
    assert "codexpool: no identity can serve. work: not verified yet" in line
    world.standin.unplan()
    world.proxy.says("work is ready", 35)
    assert answered(world.client.exec("say hi echo:banana"), "banana") == "work"
    assert "needs_replacement" not in world.pool


def test_one_that_whoami_vouches_for_serves_while_it_does_not_for_another(make: Make, transport: str) -> None:
    work = pat("work")
    refused = of(Answer(path=WHOAMI, status=403, body=CLOUDFLARE), work)
    world = make(work, pat("spare"), transport=transport, wait=False, plan=refused)

    assert answered(world.client.exec("say hi echo:banana"), "banana") == "spare"
    assert "needs_replacement" not in world.pool
