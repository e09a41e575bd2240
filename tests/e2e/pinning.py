"""Another script that has the backend's connections go to an address of its choice. (`addressed.py` loads it.)"""

from __future__ import annotations

from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from tests.e2e.outside import HERE


class Pinning:
    def server_connect(self, data: ServerConnectionHookData) -> None:
        if data.server.address is not None and data.server.address[0] == "chatgpt.com":
            data.server.address = (HERE, data.server.address[1])


addons = [Pinning()]
