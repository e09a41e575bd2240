"""Our own requests go the way of the proxy's connections, whatever is in the password of an upstream proxy."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy import exceptions
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.addons.upstream_auth import UpstreamAuth
from mitmproxy.test import taddons

from codexpool.common.clock_skew import Clock
from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, http_client
from codexpool.credentials.account_api import AccountApi, UnreadError
from codexpool.credentials.agent_api import AgentApi
from codexpool.credentials.authapi import AuthApi, Whoami
from codexpool.credentials.http_client import AT_ONCE, LazyClient, NoAnswerError, Route, answer, client
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.credentials.upstream_proxy import VARIABLE, UpstreamProxy
from codexpool.pool.identity import Metadata, Word
from codexpool.proxy.mitm import options
from codexpool.tokens.bearer import Bearer
from codexpool.upkeep.announcer import Announcer
from tests.company import CompanyProxy
from tests.running import pat
from tests.standin import StandIn
from tests.standin.agents import signed

PASSWORDS = ["plain", "a/b", "a#b", "a?b", "a@b", "a:b", "%2F", "a b", "\u00fc", "[::1]", "p@ss/w#rd?x:9@host", "\\"]


@given(
    st.text(st.characters(codec="utf-8", exclude_characters=":"), min_size=1), st.text(st.characters(codec="utf-8"))
)
@example("DOMAIN\\kim", "a/b#c?d@e:f")
def test_any_user_and_password_come_out_as_they_went_in(user: str, password: str) -> None:
    proxy = httpx.Proxy(UpstreamProxy("http", "corp", 3128, f"{user}:{password}").url)

    assert proxy.raw_auth == (user.encode(), password.encode())
    assert str(proxy.url) == "http://corp:3128"


def test_an_address_of_ipv6_is_one() -> None:
    assert httpx.URL(UpstreamProxy("https", "::1", 8080).url).host == "::1"


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn([pat("work")], folder=tmp_path) as standin:
        yield standin


async def whoami(route: Route) -> Whoami:
    return await AuthApi(route, {}).whoami(Bearer.of(pat("work").token))


async def test_what_the_proxy_asks_itself_goes_through_mitmproxys_upstream_proxy_with_any_password(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The company's authority is the one of SSL_CERT_FILE. No part of a password is logged."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SSL_CERT_FILE", str(standin.ca_file))
    for password in PASSWORDS:
        auth = f"kim:{password}-hunter2"
        with (
            CompanyProxy(standin, auth) as company,
            taddons.context(Proxyserver(), NextLayer(), UpstreamAuth()) as context,
        ):
            context.options.update(mode=[f"upstream:http://{company.place}"], upstream_auth=auth)
            route = options.own_route()
            answer = await whoami(route)

        assert answer.word is Word.HEALTHY, f"{answer} {password}"
        assert company.asked == ["auth.openai.com"]
        assert "hunter2" not in f"{answer} {route!r} {caplog.text}"


async def test_a_failure_says_whose_it_is_and_nothing_that_a_server_sent(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CompanyProxy(standin, "kim:right") as company:
        wrong = UpstreamProxy("http", *_place(company), "kim:hunter2").url
        right = UpstreamProxy("http", *_place(company), "kim:right").url
        refused = str((await whoami(Route(wrong))).evidence)
        untrusted = str((await whoami(Route(right))).evidence)
        monkeypatch.setenv("SSL_CERT_FILE", str(standin.ca_file))
        trusted = await whoami(Route(right, excluded="nothing.of.this"))
    gone = str((await whoami(Route(right))).evidence)

    assert f"the proxy {company.place} answers 407: check user and password in CODEXPOOL_UPSTREAM_PROXY" in refused
    assert "its certificate is not trusted" in untrusted
    assert "SSL_CERT_FILE" in untrusted
    assert trusted.word is Word.HEALTHY
    assert f"the proxy {company.place} cannot be reached" in gone
    assert not re.search("hunter2|Who are you", refused + untrusted + gone)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (b"", "the connection through the proxy {place} broke off"),
        (b"SSH-2.0-OpenSSH\r\n", "the connection through the proxy {place} broke off"),
        (b"HTTP/1.1 200 OK\r\nx: " + bytes(1 << 20), "the connection through the proxy {place} broke off"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "the proxy {place} breaks off TLS connections"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 Bad\r\n\r\n", "the proxy {place} breaks off TLS connections"),
        (b"HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n", "the proxy {place} answers 302"),
    ],
)
async def test_what_a_proxy_does_instead_of_connecting_is_said(answers: bytes, says: str) -> None:
    """It was reached, and is named."""
    async with answering(answers) as place:
        with pytest.raises(NoAnswerError) as raised:
            await answer(client(Route(f"http://{place}"), 10), "GET", "https://auth.openai.com/", 10)

    assert str(raised.value) == says.format(place=place)


async def test_a_connection_that_ends_before_tls_is_no_error_of_the_operating_system() -> None:
    """TLS numbers its errors otherwise: 8 would be "exec format error"."""
    async with answering(b"") as place:
        with pytest.raises(NoAnswerError, match=r"^the TLS handshake failed$"):
            await answer(client(Route(), 10), "GET", f"https://{place}/", 10)


@asynccontextmanager
async def answering(content: bytes) -> AsyncIterator[str]:
    """Answer what comes to an address with this, and close the connection."""

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(4096)
            writer.write(content)
            writer.write_eof()
            await writer.drain()
            await reader.read()  # until the client leaves: no reset on the way
        writer.close()

    async with await asyncio.start_server(answer_one, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


async def test_each_thing_that_codexpool_asks_takes_that_way(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(standin.ca_file))
    with CompanyProxy(standin, "kim:right") as company:
        route = Route(UpstreamProxy("http", *_place(company), "kim:right").url)
        bearer, metadata = Bearer.of(pat("work").token), Metadata("acc-work", "user-work", "business")
        agents = AgentApi(route, {}, Clock(), lambda: tmp_path)
        notice: Any = SimpleNamespace(route=route)
        things: dict[str, Callable[[], Awaitable[object]]] = {
            "auth.openai.com whoami": lambda: whoami(route),
            "chatgpt.com discovery": lambda: AuthApi(route, {}).routing(bearer, metadata),
            "chatgpt.com usage": lambda: AccountApi(route).usage(bearer, metadata),
            "chatgpt.com models": lambda: AccountApi(route).models(bearer, metadata, "0.171.0", ""),
            "chatgpt.com reset credits": lambda: AccountApi(route).reset_credits(bearer, metadata),
            "chatgpt.com keys": lambda: agents.is_signed(signed({"alg": "RS256", "kid": "other"}, {})),
            "auth.openai.com renewal": lambda: asyncio.to_thread(TokenEndpoint(route, {}).renew, "rt", False),
            "hooks.example webhook": lambda: Announcer._post(notice, "https://hooks.example/x", "{}"),
        }
        for thing, ask in things.items():
            company.asked.clear()
            with suppress(NoTokenNowError, NoTokenAnyMoreError, UnreadError, NoAnswerError):
                await ask()
            assert company.asked, thing
            assert company.asked[0] in thing


async def test_what_is_on_this_machine_is_reached_directly(standin: StandIn) -> None:
    """A webhook, for one. What NO_PROXY names is, too."""
    with CompanyProxy(standin, "kim:right") as company, socketserver.TCPServer(("127.0.0.1", 0), Answering) as here:
        threading.Thread(target=here.handle_request, daemon=True).start()
        route = Route(f"http://{company.place}")

        async with client(route, 10) as made:
            got = await answer(made, "GET", f"http://127.0.0.1:{here.server_address[1]}/", 10)

        assert got.status_code == 204
        assert (company.asked, company.refused) == ([], 0)


class Answering(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")


def _place(company: CompanyProxy) -> tuple[str, int]:
    host, _, port = company.place.partition(":")
    return host, int(port)


MODE = "upstream:http://127.0.0.1:3128"


@pytest.mark.parametrize(
    ("settings", "mode", "own", "clients", "warning"),
    [
        ({}, MODE, "kim:p@ss", "kim:p@ss", ""),
        ({"mode": [MODE]}, MODE, "kim:p@ss", "kim:p@ss", ""),
        ({"mode": [MODE], "upstream_auth": "ann:x"}, MODE, "ann:x", "ann:x", ""),
        (
            {"mode": ["upstream:http://other:1"]},
            "upstream:http://other:1",
            "",
            "",
            "only to what the proxy itself asks",
        ),
        ({"mode": ["regular"]}, "regular", "kim:p@ss", "", "only to what the proxy itself asks"),
        ({"mode": [MODE, "reverse:http://x@8081"]}, MODE, "kim:p@ss", "", "upstream_auth"),
    ],
)
async def test_the_variable_sets_mitmproxys_mode_unless_that_is_set(
    settings: dict[str, Any],
    mode: str,
    own: str,
    clients: str,
    warning: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It listens in that mode at the address where it has begun to listen, if it has."""
    monkeypatch.setenv(VARIABLE, "http://kim:p%40ss@127.0.0.1:3128")
    addon, server = UpstreamAuth(), Proxyserver()
    with taddons.context(server, NextLayer(), TlsConfig(), addon) as context:
        context.options.update(listen_host="127.0.0.1", listen_port=0, **settings)
        await server.setup_servers()
        before = server.listen_addrs()[0]
        options.set_defaults(os.environ)
        await asyncio.gather(*options._tasks._tasks)
        route, used, after = options.own_route(), context.options.mode[0], server.listen_addrs()[0]
        served = [instance.mode.full_spec for instance in server.servers]
        shown = str(dict(context.options.items()))
        await server.servers.update([])

    assert (used, served[0], after) == (mode, mode, before)
    assert httpx.Proxy(route.proxy or "").raw_auth == (tuple(own.encode().split(b":")) if own else None)
    assert addon.auth == (b"Basic " + base64.b64encode(clients.encode()) if clients else None)
    assert warning in caplog.text
    assert (VARIABLE in caplog.text) == bool(warning)
    assert "p@ss" not in shown + caplog.text


async def test_an_invalid_variable_is_refused_without_its_password() -> None:
    with taddons.context(), pytest.raises(exceptions.OptionsError, match=f"^{VARIABLE}: ") as raised:
        options.set_defaults({VARIABLE: "socks5://kim:hunter2@corp"})
    assert "hunter2" not in str(raised.value)


def test_a_route_does_not_show_its_password() -> None:
    assert "hunter2" not in repr(Route(UpstreamProxy("http", "corp", 3128, "kim:hunter2").url))


def test_a_client_does_without_what_only_a_command_line_needs() -> None:
    code = (
        "import sys; from codexpool.credentials.http_client import Route, client; client(Route(), 1);"
        "print(*sorted({'click', 'pygments', 'rich'} & sys.modules.keys()), 'httpx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


async def test_a_pool_of_thousands_does_not_send_all_its_requests_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx looks at all others for each request, so that 3000 blocked the event loop for a minute."""
    now = most = 0

    async def whoami(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return httpx.Response(200, stream=httpx.ByteStream(b""))

    def made(*_: object) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(whoami))

    monkeypatch.setattr(http_client, "client", made)
    one = LazyClient(Route(), 30)

    answers = await asyncio.gather(*(one.answer("GET", "https://backend.test/") for _ in range(3 * AT_ONCE)))

    assert {answer.status_code for answer in answers} == {200}
    assert most == AT_ONCE
