"""The real client while whoami or discovery fails: told in time, and served as soon as an identity can serve."""

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
"""Seconds from the start of a client to its end on a busy machine. (About 7 on an idle one.)"""


def for_each(answer: Answer, *tokens: Token) -> tuple[Answer, ...]:
    """Plan an answer for these tokens only; the client has another one."""
    return tuple(replace(answer, token=token.token, times=None) for token in tokens)


def codexpool_lines(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Return codexpool's lines that the client shows, each once."""
    lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR: codexpool: ")]
    return list(dict.fromkeys(lines))


@pytest.mark.parametrize(
    ("transport", "answer"),
    [
        ("websocket", Answer(path=WHOAMI, status=403, body=CLOUDFLARE)),
        ("http", Answer(path=WHOAMI, status=401, body=error_body("proxy_unauthorized", "sign in to the proxy"))),
    ],
    ids=["1020", "proxy"],
)
def test_a_failing_whoami_at_the_first_start_flags_no_pat(make: Make, transport: str, answer: Answer) -> None:
    pool = pat("work"), pat("spare")
    world = make(*pool, transport=transport, wait=False, plan=for_each(answer, *pool))

    begun = time.monotonic()
    run = world.client.exec("say hi")

    assert (run.returncode, time.monotonic() - begun < IN_TIME) == (1, True), run.stderr
    [line] = codexpool_lines(run)
    assert "work: not verified yet (whoami answers 40" in line
    assert trouble(run) == []
    # when whoami works again, all serve, and none has a flag
    world.standin.unplan()
    for name in ("work", "spare"):
        world.proxy.says(f"{name} is ready", 35)
    answered(world.client.exec("say hi echo:banana"), "banana")
    assert "needs_replacement" not in world.pool
    world.check()


@pytest.mark.parametrize(
    ("transport", "answer"),
    [
        ("websocket", Answer(path=WHOAMI, delay=60)),
        ("http", Answer(path=DISCOVERY, delay=60)),
    ],
    ids=["whoami is silent", "discovery is silent"],
)
def test_a_failure_at_the_first_start_is_shown_and_passes(make: Make, transport: str, answer: Answer) -> None:
    """The client shows it in time. Nobody has to act."""
    work = pat("work")
    world = make(work, transport=transport, wait=False, plan=for_each(answer, work))

    begun = time.monotonic()
    run = world.client.exec("say hi")

    assert (run.returncode, time.monotonic() - begun < IN_TIME) == (1, True), run.stderr
    [line] = codexpool_lines(run)
    assert "codexpool: no identity can serve. work: not verified yet" in line
    world.standin.unplan()
    world.proxy.says("work is ready", 35)
    assert answered(world.client.exec("say hi echo:banana"), "banana") == "work"
    assert "needs_replacement" not in world.pool


def test_one_verified_identity_is_enough(make: Make, transport: str) -> None:
    work = pat("work")
    refused = for_each(Answer(path=WHOAMI, status=403, body=CLOUDFLARE), work)
    world = make(work, pat("spare"), transport=transport, wait=False, plan=refused)

    assert answered(world.client.exec("say hi echo:banana"), "banana") == "spare"
    assert "needs_replacement" not in world.pool
