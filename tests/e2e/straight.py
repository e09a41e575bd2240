"""Has mitmproxy connect to ``STANDIN_PORT`` of this machine for the backend, in regular mode. (`test_entry.py`.)"""

from __future__ import annotations

import os

from mitmproxy.proxy.server_hooks import ServerConnectionHookData


class Straight:
    def server_connect(self, data: ServerConnectionHookData) -> None:
        if data.server.address is not None and data.server.address[0] == "chatgpt.com":
            data.server.address = ("127.0.0.1", int(os.environ["STANDIN_PORT"]))


addons = [Straight()]
