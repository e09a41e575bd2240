"""Failed writes: clients notice nothing, and the write is repeated."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from codexpool.cli.entry import CODEXPOOL
from codexpool.config.read import load
from codexpool.state.location import SqliteFile
from codexpool.state.opening import read_state
from tests.e2e.conftest import Make
from tests.e2e.world import World, served_by, socket_turn
from tests.running import ROOT, pat, pool_toml, until
from tests.standin import USAGE

HEALTHY = 4
DYING = 26


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program edits pool.toml."""
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        yield


def command(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "CODEXPOOL_STATE": str(world.proxy.state), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*CODEXPOOL, *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def listed(world: World) -> dict[str, str]:
    """What `codexpool list` says of each identity."""
    done = command(world, "list", "--json", "--config", str(world.proxy.pool))
    assert done.returncode == 0, done.stderr
    return {row["name"]: row["status"] for row in json.loads(done.stdout)["identities"]}


def flags(world: World) -> set[str]:
    return {spec.name for spec in load(world.proxy.pool).identities if spec.flag is not None}


async def test_no_request_waits_for_a_locked_pool_toml(make: Make) -> None:
    """Most of the pool dies meanwhile."""
    # given: a backend that is reached by a name, which is resolved for each connection
    names = [f"i{number}" for number in range(HEALTHY + DYING)]
    head = '[pool]\nselection = "round-robin"\nbreaker = 100\n'
    world = make(*map(pat, names), head=head, started=False)
    at = world.proxy._command.index("--mode") + 1
    world.proxy._command[at] = world.proxy._command[at].replace("127.0.0.1", "localhost")
    world.proxy.ready = len(names)
    world.proxy.start()
    try:
        longest = 0.0
        until(lambda: {seen.name for seen in world.standin.requests(USAGE)} == set(names), 30, "all to be read")
        with locked(world.proxy.pool):
            dying = set(names[:DYING])
            for token in world.tokens[:DYING]:
                world.standin.kill(token.token)
            for number in range(2 * len(names)):
                begun = time.monotonic()
                with world.proxy.client() as client:
                    assert served_by(world.turn(client, f"http-{number}")) not in dying
                if number % 6 == 0:
                    async with world.socket(f"socket-{number}") as socket:
                        assert served_by(await socket_turn(socket)) not in dying
                longest = max(longest, time.monotonic() - begun)
            until(lambda: set(flagged_in(world)) == dying, 30, "all to be found out")
            assert flags(world) == set()
        assert longest < 10  # one that waits for the lock takes as long as that is held

        until(lambda: flags(world) == dying, 30, "the flags to be written")
        assert world.proxy.log.count("Retrying; flags not written yet") <= 1
        world.check()
    finally:
        world.proxy.stop()


def flagged_in(world: World) -> list[str]:
    return [name for name, status in listed(world).items() if status == "needs_replacement"]


async def test_a_locked_state_is_written_later(make: Make) -> None:
    world = make(pat("work"), pat("spare"))
    with world.proxy.client() as client:
        served_by(world.turn(client, "before"))
    world.proxy.stop()

    with filelock.FileLock(world.proxy.state.with_name("state.sqlite3.lock")):
        world.proxy.start()
        with world.proxy.client() as client:
            name = served_by(world.turn(client, "meanwhile"))
        async with world.socket("on a socket") as socket:
            served_by(await socket_turn(socket))
        world.proxy.says("Retrying; new data is kept in memory")
    world.proxy.says("state: open", 40)

    until(lambda: {"before", "meanwhile", "on a socket"} <= sessions(world).keys(), 20, "the sessions")
    assert sessions(world)["meanwhile"] == f"acc-{name}"
    assert listed(world) == {"work": "ready", "spare": "ready"}


def sessions(world: World) -> dict[str, str]:
    known = read_state(SqliteFile(world.proxy.state))
    return {session: key.account_id for session, key in known.sessions.items()} if known is not None else {}


URL = "mysql://pool:s3cret@db.example/codexpool"


def test_a_url_of_another_database_is_refused(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    world = make(pat("work"), environ={"CODEXPOOL_STATE": URL}, started=False, cwd=folder)
    pool_toml(world.proxy.folder, pat("work"))
    world.proxy.start(wait=False)

    assert world.proxy.ends() == 1
    (line,) = [line for line in world.proxy.log.splitlines() if "CODEXPOOL_STATE" in line]
    assert "is a URL (mysql:…) that codexpool does not know; name a file" in line
    assert "s3cret" not in world.proxy.log
    assert list(folder.iterdir()) == []

    for arguments in (["list", "--config", str(world.proxy.pool)], ["usage"], ["state"]):
        environ: dict[str, Any] = {**os.environ, "CODEXPOOL_STATE": URL, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*CODEXPOOL, *arguments], env=environ, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1, (arguments, done)
        assert "that codexpool does not know" in done.stderr
        assert "s3cret" not in done.stderr
    assert list(folder.iterdir()) == []


def test_a_command_that_cannot_write_says_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is still shown."""
    world = make(pat("work"))
    arguments = ("--config", str(world.proxy.pool))
    world.proxy.stop()
    with contextlib.closing(sqlite3.connect(world.proxy.state, isolation_level=None)) as lock:
        lock.execute("PRAGMA locking_mode = EXCLUSIVE")
        lock.execute("BEGIN EXCLUSIVE")
        done = command(world, "breaker", "--close", *arguments)
        assert (done.returncode, "cannot be used" in done.stderr) == (1, True), done
        done = command(world, "list", *arguments)
        assert done.returncode == 0
        assert "work" in done.stdout
        assert "Showing what pool.toml alone says" in done.stderr


def test_a_proxy_registers_as_soon_as_it_can(make: Make) -> None:
    world = make(pat("work"), started=False)
    in_the_way = world.proxy.folder / "proxies"
    in_the_way.touch()
    world.proxy.ready = 1
    world.proxy.start()
    try:
        world.proxy.says("the note for commands cannot be written yet")
        in_the_way.unlink()
        world.proxy.says("the note for commands is written")
        assert [note.suffix for note in in_the_way.iterdir() if note.suffix == ".json"] == [".json"]
    finally:
        world.proxy.stop()
