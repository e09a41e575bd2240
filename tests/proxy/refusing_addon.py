"""The smallest addon on `codexpool.proxy.resend`, for ``mitmdump -s``.

Requests to ``/claimed…`` go out as ``Bearer at-test-<number of the attempt>``, and again after a 401, five times at
most. ``?judge=seconds`` lets the response hook take its time.
"""

from __future__ import annotations

import asyncio

from mitmproxy import ctx, http
from mitmproxy.connection import Client
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from codexpool.proxy import connections, resend

ATTEMPTS = 5


class Refusing:
    def __init__(self) -> None:
        self.tries: dict[str, int] = {}
        self.lost_flows: set[str] = set()

    def load(self, loader: object) -> None:
        resend.install(self)

    def client_connected(self, client: Client) -> None:
        connections.close_well(ctx.master.addons.get("proxyserver"), client)

    def server_connected(self, data: ServerConnectionHookData) -> None:
        connections.hear(ctx.master.addons.get("proxyserver"), data)

    def outbound(self, flow: http.HTTPFlow) -> http.Request | None:
        if not flow.request.path.startswith("/claimed"):
            return None
        number = self.tries[flow.id] = self.tries.get(flow.id, 0) + 1
        dressed = flow.request.copy()
        dressed.headers["authorization"] = f"Bearer at-test-{number}"
        return dressed

    def is_outdated(self, flow: http.HTTPFlow) -> bool:
        return False

    def should_resend(self, flow: http.HTTPFlow) -> bool:
        if flow.id in self.lost_flows:
            self.lost_flows.discard(flow.id)
            return "again" in flow.request.query and self.tries[flow.id] < ATTEMPTS
        return flow.response is not None and flow.response.status_code == 401 and self.tries[flow.id] < ATTEMPTS

    def head_seen(self, flow: http.HTTPFlow) -> None: ...

    def response_complete(self, flow: http.HTTPFlow) -> None: ...

    def judge_incomplete(self, flow: http.HTTPFlow, why: str, is_lost: bool) -> http.Response | None:
        assert flow.response is not None
        return http.Response.make(401, b"cut") if flow.response.status_code == 401 else None

    def connection_lost(self, flow: http.HTTPFlow) -> None:
        self.lost_flows.add(flow.id)

    def should_hold(self, flow: http.HTTPFlow) -> bool:
        return "hold" in flow.request.query

    def message_reader(self, flow: http.HTTPFlow) -> None: ...

    def judge_beginning(self, flow: http.HTTPFlow, piece: bytes) -> http.Response | bool:
        if b"failed" in piece:
            return http.Response.make(401, b"failed")
        return b"created" not in piece

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = flow.response.status_code not in (401, 101)

    async def response(self, flow: http.HTTPFlow) -> None:
        await asyncio.sleep(float(flow.request.query.get("judge", "0")))


addons = [Refusing()]
