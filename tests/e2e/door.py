"""A door into the proxy's process, for tests: ``mitmdump -s door.py -s addon -s others.py``.

It answers requests for ``http://door.test/…``: ``state`` returns counts of objects, ``break/…`` makes a function of
codexpool raise, ``set/…`` sets an option of mitmproxy, ``flow/…`` makes the addon of ``others.py`` change every flow,
``raise/…`` makes a hook of this script raise for Codex's flows, and ``restore`` undoes all of it. It is loaded
first: if a hook of a script raises, mitmproxy skips the later scripts.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mitmproxy import ctx, http
from mitmproxy.proxy.layers import http as layers
from mitmproxy.proxy.layers import websocket

HOST = "door.test"

CODEX_HOST = "chatgpt.com"

SECRET = "at-test-quoted-by-an-exception-0123456789"
"""Exceptions often quote values, so the one raised here quotes a token."""

SEQUENCES = ("map_remote", "modify_headers", "modify_body", "block_list")
"""mitmproxy's options with several values."""

_PAGE = 4096


class BreakageError(Exception):
    """An exception that a bug might raise."""


class Door:
    def __init__(self) -> None:
        self.repairs: list[Callable[[], None]] = []
        self.raises = ""
        self.longest = 0.0
        self.ticker: asyncio.Task[None] | None = None

    def request(self, flow: http.HTTPFlow) -> None:
        self._raise_in("request", flow)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        self._raise_in("responseheaders", flow)

    def response(self, flow: http.HTTPFlow) -> None:
        self._raise_in("response", flow)

    def error(self, flow: http.HTTPFlow) -> None:
        self._raise_in("error", flow)

    def _raise_in(self, hook: str, flow: http.HTTPFlow) -> None:
        if self.raises == hook and flow.request.host == CODEX_HOST:
            raise BreakageError("another script")

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        self._raise_in("requestheaders", flow)
        if flow.request.host == HOST:
            words = [unquote(word) for word in flow.request.path.strip("/").split("/")]
            result = getattr(self, f"do_{words[0]}")(*words[1:])
            flow.response = http.Response.make(200, json.dumps(result), {"content-type": "application/json"})

    def do_break(self, module: str, name: str) -> str:
        """Let ``module``'s ``name`` (``Class.method`` or a function) raise."""
        owner: Any = importlib.import_module(module)
        *classes, last = name.split(".")
        for part in classes:
            owner = getattr(owner, part)
        good = getattr(owner, last)

        @functools.wraps(good)
        def bad(*_: Any, **__: Any) -> Any:
            raise BreakageError(f"{name} chokes on {SECRET}")

        self._replace(owner, last, bad)
        # The handler keeps the hooks of its parts as bound methods.
        addon: Any = ctx.master.addons.get("codexpool")
        for hook, bound in list(vars(addon.handler).items()) if addon is not None else ():
            if getattr(bound, "__func__", None) is good:
                self._replace(addon.handler, hook, bad)
        return "broken"

    def _replace(self, owner: Any, name: str, bad: Any) -> None:
        good = getattr(owner, name)
        setattr(owner, name, bad)
        self.repairs.append(lambda: setattr(owner, name, good))

    def do_raise(self, hook: str) -> str:
        """Let this hook of this script raise."""
        self.raises = hook
        return hook

    def do_restore(self) -> str:
        self.raises = ""
        for repair in reversed(self.repairs):
            repair()
        ctx.options.update(**{name: [] for name in SEQUENCES}, proxyauth=None)
        self.repairs = []
        self.do_flow("")
        return "restored"

    def do_set(self, option: str, value: str) -> str:
        """Set one of mitmproxy's own options, until `restore`."""
        ctx.options.update(**{option: [value] if option in SEQUENCES else value})
        return value

    def do_close(self, reason: str) -> str:
        """Stop serving."""
        addon: Any = ctx.master.addons.get("codexpool")
        addon.handler.stop(reason)
        return "closed"

    def do_rested(self) -> list[str]:
        """Make every resting identity ready. Return the names of those that wait for whoami."""
        addon: Any = ctx.master.addons.get("codexpool")
        identity: Any
        if addon is None or addon.handler.pool is None:
            return []
        pool = addon.handler.pool
        identities = pool.identities.values()
        pool.states.breaker.close()
        pool.families.clear()
        pool.edges.let_pass("https://chatgpt.com")
        for identity in identities:
            identity.rests = identity.troubles = 0
            identity.avoided_until = 0.0
            if identity.metadata is not None:
                pool.states.usage(identity.metadata.key).limited.clear()
            if identity.status in ("resting", "limited") or (identity.status == "paused" and not identity.paused):
                pool.resumed(identity.name, identity.fingerprint, time.time())
            elif identity.status == "suspect":
                addon.handler.flows.keeper._vault.look_after(identity)  # in case asking was broken
        return [identity.name for identity in identities if identity.status == "suspect"]

    def do_later(self, seconds: str) -> str:
        """Have all that was read of accounts be read so much longer ago."""
        addon: Any = ctx.master.addons.get("codexpool")
        for identity in addon.handler.pool.identities.values():
            usage = addon.handler.pool.states.usage_of(identity)
            usage.asked_at, usage.answered_at, usage.read_at = (
                at - float(seconds) for at in (usage.asked_at, usage.answered_at, usage.read_at)
            )
        return seconds

    def do_flow(self, deed: str) -> str:
        """Set what `others.py` does to flows."""
        others: Any = ctx.master.addons.get("others")
        if others is not None:
            others.deed = deed
        return deed

    def do_ticks(self) -> float:
        """Return the longest block of the loop since the last call, in seconds of processor time."""
        longest, self.longest = self.longest, 0.0
        if self.ticker is None:
            self.ticker = asyncio.get_running_loop().create_task(self._tick())
        return longest

    async def _tick(self) -> None:
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, time.thread_time() - begun)

    def do_peak(self) -> int:
        """Return the peak memory since the last call, in bytes."""
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def do_modules(self) -> list[str]:
        return list(sys.modules)

    def do_state(self) -> dict[str, Any]:
        gc.unfreeze()  # Count the objects that the addon has exempted at its start, too.
        gc.collect()
        things = gc.get_objects()
        names = [type(thing).__name__ for thing in things]
        return {
            "rss": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
            "exchanges": names.count("Exchange"),
            "flows": names.count("HTTPFlow"),
            "keepers": names.count("Keeper"),
            "stream_classes": len(layers.HttpStream.__mro__) + len(websocket.WebsocketLayer.__mro__),
            "paths": len(sys.path),
            "package": getattr(sys.modules.get("codexpool"), "__file__", None),
            "messages": [
                len(thing.websocket.messages)
                for thing in things
                if type(thing) is http.HTTPFlow and thing.websocket is not None
            ],
        }


addons = [Door()]
