"""Scripts beside the addon that hear WebSocket messages: all of them, from the first after the script was loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Make
from tests.e2e.world import World, socket_turn
from tests.running import pat, until

SILENT = "def load(loader): pass\n"
HEARING = """
import json

def websocket_message(flow):
    message = flow.websocket.messages[-1]
    kind = json.loads(message.content)["type"]
    with open({heard!r}, "a") as file:
        file.write(kind + "\\n")
    if kind == "response.output_item.added":
        message.drop()
    message.content = message.content.replace(b"request", b"REQUEST, which is now longer,")
"""


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event.get("delta", "") for event in events)


def a_world(make: Make, script: Path) -> World:
    return make(pat("work"), arguments=("-s", str(script), "--set", "flow_detail=0"))


async def test_a_script_hears_every_message_and_may_change_or_drop_it(make: Make, tmp_path: Path) -> None:
    heard, script = tmp_path / "heard", tmp_path / "hearing.py"
    script.write_text(HEARING.format(heard=str(heard)))
    world = a_world(make, script)
    async with world.socket() as socket:
        events = await socket_turn(socket)
    kinds = heard.read_text().splitlines()
    assert kinds[0] == "response.create"
    assert [kind for kind in kinds[1:] if kind != "response.output_item.added"] == types(events)
    assert len(kinds) == len(events) + 2
    assert text(events).startswith("answer from work, REQUEST, which is now longer, ")
    assert "Traceback" not in world.proxy.log


async def test_a_script_that_is_loaded_later_hears_the_next_message(make: Make, tmp_path: Path) -> None:
    heard, script = tmp_path / "heard", tmp_path / "hearing.py"
    script.write_text(SILENT)
    world = a_world(make, script)
    async with world.socket() as socket:
        for hears in (False, True, False):
            if hears:
                await asyncio.to_thread(load, world, script, HEARING.format(heard=str(heard)), 2)
            elif heard.exists():
                heard.unlink()
                await asyncio.to_thread(load, world, script, SILENT, 3)
            events = await socket_turn(socket)
            assert heard.exists() is hears
            assert ("response.output_item.added" in types(events)) is not hears
            assert ("REQUEST" in text(events)) is hears
    assert "Traceback" not in world.proxy.log


def load(world: World, script: Path, text: str, times: int) -> None:
    """Have mitmproxy load a script again, and wait until it was loaded so many times in all."""
    script.write_text(text)
    loaded = f"Loading script {script}"
    until(lambda: world.proxy.log.count(loaded) == times, 10, "the script")
