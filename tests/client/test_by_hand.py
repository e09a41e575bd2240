"""The real Codex CLI in a terminal that names its identity: what a person sees."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.client.conftest import Make
from tests.running import answered, pat, trouble
from tests.standin import RESPONSES

pytestmark = pytest.mark.real_client


def errors(run: subprocess.CompletedProcess[str]) -> set[str]:
    """Return what the client shows as errors. (It shows each twice.)"""
    return {line for line in run.stderr.splitlines() if line.startswith("ERROR:")}


def test_a_terminal_is_served_by_the_identity_it_names_only(make: Make, transport: str) -> None:
    """Once that is at its limit, the client is told so, and no other identity serves."""
    world = make(pat("work"), pat("spare"), transport=transport)
    for name, word in (("spare", "apple"), ("work", "plum"), ("spare", "fig")):
        world.client.environ["HTTPS_PROXY"] = world.proxy.url.replace("//", f"//{name}@")
        assert answered(world.client.exec(f"say echo:{word}"), word) == name
    served = len(world.standin.requests(RESPONSES, "work"))
    world.standin.limit(world.tokens[1].token, time.time() + 3600)

    run = world.client.exec("resume", "--last", "echo:pear")

    assert run.returncode == 1
    (line,) = errors(run)
    assert "the client asks for spare (codexpool env --identity), which is at its limit, or try again at" in line
    assert trouble(run) == []
    assert len(world.standin.requests(RESPONSES, "work")) == served
    world.check()


def test_an_identity_that_the_pool_has_not_is_told_in_one_line(make: Make) -> None:
    world = make(pat("work"))
    world.client.environ["HTTPS_PROXY"] = world.proxy.url.replace("//", "//wrok@")

    begun = time.monotonic()
    run = world.client.exec("say echo:apple")

    assert time.monotonic() - begun < 10
    assert run.returncode == 1
    (line,) = errors(run)
    assert "the client asks for wrok (codexpool env --identity), but the pool has no" in line
    assert world.standin.requests(RESPONSES) == []
