"""The real client at a proxy that is started before there is a pool, and after its last identity was removed."""

from __future__ import annotations

import subprocess
import time

import pytest

from codexpool.pool.needs import NONE_FOR_CLIENTS
from tests.cli.pools import Pool
from tests.client.conftest import Make
from tests.running import answered, pat, trouble, until
from tests.standin import RESPONSES


def told(run: subprocess.CompletedProcess[str]) -> set[str]:
    """What a run that failed, without another sign of trouble, shows to the person."""
    assert run.returncode == 1, run.stdout
    assert trouble(run) == [], run.stderr
    return {line for line in run.stderr.splitlines() if line.startswith("ERROR:")}  # It prints it twice.


@pytest.mark.real_client
def test_it_is_served_from_the_first_identity_to_the_last_and_told_in_one_line_before_and_after(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a proxy whose pool.toml does not exist yet
    world = make(has_pool=False)
    begun = time.monotonic()
    assert told(world.client.exec("say hi")) == {f"ERROR: {NONE_FOR_CLIENTS}"}
    assert time.monotonic() - begun < 15

    # when the first identity is added, then it serves, without a restart
    pool = Pool(world.standin, world.proxy.folder, monkeypatch)
    pool.add(pat("work"))
    world.proxy.says("work is ready")
    assert answered(world.client.exec("say hi echo:apple"), "apple") == "work"

    # when it is removed, then the session is told in one line, and nothing leaves
    calls = len(world.standin.requests(RESPONSES))
    pool.run("remove", "work")
    world.proxy.says("has no identities any more")
    assert told(world.client.exec("resume", "--last", "echo:pear")) == {f"ERROR: {NONE_FOR_CLIENTS}"}
    assert len(world.standin.requests(RESPONSES)) == calls

    # and when it is back, then it serves the session again
    pool.add(pat("work"))
    until(lambda: world.proxy.log.count("work is ready") == 2, 20, "the identity to be ready again")
    assert answered(world.client.exec("resume", "--last", "echo:cherry"), "cherry") == "work"
    world.check()
