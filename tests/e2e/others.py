"""What addons of other people do to flows. `door.py` says which of it."""

from __future__ import annotations

from mitmproxy import http

HOST = "chatgpt.com"


class Others:
    def __init__(self) -> None:
        self.deed = ""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if flow.request.host == HOST and self.deed == "stream":
            flow.request.stream = True

    def request(self, flow: http.HTTPFlow) -> None:
        if flow.request.host != HOST:
            return
        match self.deed:
            case "kill":
                flow.kill()
            case "answer":
                flow.response = http.Response.make(418, b"from another addon")
            case "elsewhere":
                flow.request.host = "ab.chatgpt.com"
            case "credential":
                flow.request.headers["authorization"] = "Bearer at-test-put-there-by-another-addon-0123456789"
            case "path":
                flow.request.path = "/backend-api/wham/settings/user"

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if self.deed == "kill-answer" and flow.request.host == HOST:
            flow.kill()

    def response(self, flow: http.HTTPFlow) -> None:
        if self.deed == "break-response" and flow.request.host == HOST:
            raise RuntimeError("another addon")


addons = [Others()]
