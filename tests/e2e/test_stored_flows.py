"""Flows from a file: mitmproxy runs all hooks for them, but the addon ignores them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mitmproxy import http
from mitmproxy.io import FlowReader

from tests.e2e.conftest import Make
from tests.e2e.world import OWN, served_by, socket_turn
from tests.running import pat
from tests.standin import RESPONSES, Answer


def states(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return [flow.get_state() for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]


async def test_stored_flows_are_written_unchanged(make: Make, tmp_path: Path) -> None:
    # given a dump with streams, a refusal, a path of the client's own and a busy socket in it
    dump, out = tmp_path / "dump", tmp_path / "out"
    world = make(pat("work"), pat("spare"), arguments=("-w", str(dump)))
    world.standin.plan(Answer(path=RESPONSES, status=401, body={"error": {"code": "token_revoked"}}))
    with world.proxy.client() as client:
        served_by(world.turn(client, "s"))
        client.get(OWN)
        client.get("http://codex.pool/api/status")
    async with world.socket("socket") as socket:
        for _ in range(12):
            served_by(await socket_turn(socket))
    world.proxy.stop()

    # when they are read with the addon and its pool
    environ = {**world.proxy._environ, "CODEXPOOL_STATE": str(tmp_path / "another.sqlite3")}
    command = [*world.proxy._command, "-n", "-r", str(dump), "-w", str(out)]
    del command[command.index(str(dump)) - 1 : command.index(str(dump)) + 1]
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)

    # then nothing of them has changed
    assert process.returncode == 0, said
    assert b"Traceback" not in said
    assert states(dump)
    assert [state for state in states(dump) if state["websocket"]]
    assert states(out) == states(dump)
