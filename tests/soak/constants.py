"""Numbers and patterns of the soak."""

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
"""Codex retries a request OUTER times, and in each of these a 5xx or lost connection INNER times."""

SLOW = 8.0
"""Answers that take longer than this many seconds are reported."""

SILENCE = 30.0
"""Seconds without a byte after which a request counts as hung. (Codex waits 300.)"""

QUIET = 10.0
"""Seconds of the total that remain for the time after the faults."""

SETTLES = 45.0
"""Seconds after the faults within which every valid identity must serve again."""

HELLO = re.compile(r"answer from (\S+), request (\d+), ([\w.-]+)")

OWN_CODES = {"codexpool_failed_closed", "codexpool_unservable"}
"""Codes of the addon's own answers, which are counted separately."""

BROKEN = re.compile(
    r"is paused: (?!paused in pool\.toml)|Traceback|Error in|chokes|[Uu]nhandled|could not be|needs_login|in conflict"
    r"| failed: "
)
"""Signs of a failure in the proxy's log..."""

HARMLESS = re.compile(r"Error in WebSocket connection to ")
"""... except mitmproxy's message about a cut socket."""

WATCHER = '''
import asyncio, json, threading
from pathlib import Path
from mitmproxy import http

class Watcher:
    """Answers http://soak.test/ with the tasks and threads of the proxy."""

    def requestheaders(self, flow):
        if flow.request.host == "soak.test":
            tasks = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())
            counts = {"tasks": tasks, "threads": threading.active_count()}
            flow.response = http.Response.make(200, json.dumps(counts))

addons = [Watcher()]
'''
