"""How many, how long, how often."""

from __future__ import annotations

import re
from typing import Any

from tests.e2e.world import BACKEND

Event = dict[str, Any]

CLIENTS = 50
PATS = 10
LOGINS = 2
DISCOVERY = BACKEND + "/backend-api/wham/accounts/check"
MODELS = BACKEND + "/backend-api/codex/models?client_version=0.169.0"
SEARCH = BACKEND + "/backend-api/codex/alpha/search"

OUTER, INNER = 5, 4
"""Retries of a request, and within each of them those of a 5xx or of a connection that was lost before an answer."""

SLOW = 8.0
"""Seconds from which on it is told what an answer has waited for."""

SILENCE = 30.0
"""Seconds without a byte after which a request counts as hung. (Codex waits for 300.)"""

QUIET = 10.0
"""Seconds of the whole that are for what comes after the chaos."""

SETTLES = 45.0
"""Seconds within which everything has to be well again once the chaos has ended."""

HELLO = re.compile(r"answer from (\S+), request (\d+), ([\w.-]+)")

TOLD_OFF = {"codexpool_failed_closed", "codexpool_unservable"}
"""Codes of the addon's own answers: they are counted apart."""

BROKEN = re.compile(
    r"is paused: (?!paused in pool\.toml)|Traceback|Error in|chokes|[Uu]nhandled|could not be|needs_login|in conflict"
    r"| failed: "
)
"""What the log of a proxy that works has no line with..."""

MITMPROXYS = re.compile(r"Error in WebSocket connection to ")
"""... but for what mitmproxy says of a socket that was cut."""

WATCHER = '''
import asyncio, json, threading
from pathlib import Path
from mitmproxy import http

class Watcher:
    """Answers http://soak.test/ with what only the proxy's process knows."""

    def requestheaders(self, flow):
        if flow.request.host == "soak.test":
            tasks = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())
            said = {"tasks": tasks, "threads": threading.active_count()}
            flow.response = http.Response.make(200, json.dumps(said))

addons = [Watcher()]
'''
