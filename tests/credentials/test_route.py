"""Our own requests go the way of the proxy's connections, whatever is in the password of an upstream proxy."""

from __future__ import annotations

import base64
import logging
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.upstream_auth import UpstreamAuth
from mitmproxy.test import taddons

from codexpool.credentials.authapi import AuthApi
from codexpool.credentials.http_client import Route, proxy_url
from codexpool.pool.identity import Word
from codexpool.proxy.mitm import options
from codexpool.tokens.bearer import Bearer

PASSWORDS = ["plain", "a/b", "a#b", "a?b", "a@b", "a:b", "%2F", "a b", "\u00fc", "[::1]", "p@ss/w#rd?x:9@host", "\\"]


@given(
    st.text(st.characters(codec="utf-8", exclude_characters=":"), min_size=1), st.text(st.characters(codec="utf-8"))
)
@example("DOMAIN\\kim", "a/b#c?d@e:f")
def test_any_user_and_password_come_out_as_they_went_in(user: str, password: str) -> None:
    proxy = httpx.Proxy(proxy_url("http", "corp", 3128, f"{user}:{password}"))

    assert proxy.raw_auth == (user.encode(), password.encode())
    assert str(proxy.url) == "http://corp:3128"


def test_an_address_of_ipv6_is_one() -> None:
    assert httpx.URL(proxy_url("https", "::1", 8080, "")).host == "::1"


class Corporate(socketserver.StreamRequestHandler):
    """A company's proxy that notes who comes, and lets nobody pass."""

    seen: list[str]

    def handle(self) -> None:
        head = b""
        while line := self.rfile.readline().strip():
            head += line + b"\n"
        found = re.search(rb"(?i)^proxy-authorization: basic (.*)$", head, re.MULTILINE)
        self.seen.append(base64.b64decode(found[1]).decode() if found else "")
        self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture
def corporate() -> Iterator[tuple[int, list[str]]]:
    seen: list[str] = []
    handler: Any = type("Handler", (Corporate,), {"seen": seen})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], seen
        server.shutdown()


@pytest.mark.parametrize("password", PASSWORDS)
async def test_whoami_uses_an_upstream_proxy_with_any_password(
    password: str, corporate: tuple[int, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """No part of the password is logged."""
    caplog.set_level(logging.DEBUG)
    port, seen = corporate
    secret = f"{password}-hunter2"
    with taddons.context(Proxyserver(), UpstreamAuth()) as context:
        context.options.update(mode=[f"upstream:http://127.0.0.1:{port}"], upstream_auth=f"kim:{secret}")
        route = options.own_route()

    api = AuthApi(route, {})
    answer = await api.whoami(Bearer.of("at-test-0123456789abcdef"))

    assert answer.word is Word.UNREACHABLE
    assert seen == [f"kim:{secret}"]
    assert "hunter2" not in f"{answer} {route!r} {caplog.text}"


def test_a_route_does_not_show_its_password() -> None:
    assert "hunter2" not in repr(Route(proxy_url("http", "corp", 3128, "kim:hunter2")))


def test_a_client_does_without_what_only_a_command_line_needs() -> None:
    code = (
        "import sys; from codexpool.credentials.http_client import Route, client; client(Route(), 1);"
        "print(*sorted({'click', 'pygments', 'rich'} & sys.modules.keys()), 'httpx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
