"""Which host a tunnel is for, and whether it is read, without a proxy around it. (`tests/e2e` has one around it.)"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Server
from mitmproxy.proxy import events, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons, tflow

from codexpool.proxy.flows import Closed, Serving
from codexpool.proxy.observe.handler import ObserveHandler
from codexpool.proxy.serving import SwapHandler
from codexpool.proxy.tunnels import LONGEST_GREETING, Tunnels, UndecidedError
from codexpool.traces.history import History
from tests.proxy.still_keeper import StillKeeper
from tests.proxy.test_gate import coming

ADDRESS = "104.18.32.47"


def through(asked: str, sni: str | None, path: str = "/backend-api/codex/responses") -> http.HTTPFlow:
    """A request on a tunnel that was asked for so; mitmproxy takes the address of the connection for its host."""
    flow = coming(None, asked, ("127.0.0.1", 1))
    flow.request.path = path
    flow.client_conn.sni = sni
    flow.server_conn = Server(address=(asked, 443))
    return flow


@pytest.fixture
def tunnels() -> Tunnels:
    return Tunnels(lambda: frozenset({"chatgpt.com", "origin.test"}))


@pytest.mark.parametrize(
    ("asked", "sni", "name"),
    [
        (ADDRESS, "chatgpt.com", "chatgpt.com"),
        (ADDRESS, "ChatGPT.com.", "chatgpt.com"),
        (ADDRESS, "origin.test", "origin.test"),
        ("::1", "gov.chatgpt.com", "gov.chatgpt.com"),
        ("CHATGPT.com.", "anything.test", "chatgpt.com"),
        ("auth.openai.com", "chatgpt.com", "auth.openai.com"),
        # what is none of ours stays as it came
        (ADDRESS, "elsewhere.test", ADDRESS),
        (ADDRESS, None, ADDRESS),
        ("elsewhere.test", "chatgpt.com", "elsewhere.test"),
        ("Elsewhere.test.", "chatgpt.com", "Elsewhere.test."),
    ],
)
def test_a_request_goes_by_the_name_of_its_tunnel(tunnels: Tunnels, asked: str, sni: str | None, name: str) -> None:
    flow = through(asked, sni)
    before = flow.request.headers.fields

    tunnels.name(flow)

    assert flow.request.host == name
    assert flow.request.headers.fields == before


def test_a_connects_name_stays_when_an_addon_pins_the_address(tunnels: Tunnels) -> None:
    flow = through(ADDRESS, "elsewhere.test")
    tunnels.asked(flow.server_conn, "chatgpt.com")

    tunnels.name(flow)

    assert flow.request.host == "chatgpt.com"
    assert tunnels.opens(flow.server_conn, ADDRESS) == "chatgpt.com"


def test_a_connections_name_stays_when_an_addon_pins_it_later(tunnels: Tunnels) -> None:
    flow = through(ADDRESS, None)
    assert tunnels.opens(flow.server_conn, "chatgpt.com") == "chatgpt.com"

    tunnels.name(flow)

    assert flow.request.host == "chatgpt.com"


@pytest.mark.parametrize("then", [ADDRESS, "elsewhere.test"])
def test_a_failed_connect_gives_the_next_one_no_name(tunnels: Tunnels, then: str) -> None:
    flow = through(then, None)
    tunnels.asked(flow.server_conn, "chatgpt.com")
    tunnels.asked(flow.server_conn, then)

    tunnels.name(flow)

    assert flow.request.host == then
    assert tunnels.opens(flow.server_conn, then) == then


def test_another_addon_may_redirect_a_request(tunnels: Tunnels) -> None:
    flow = through("chatgpt.com", "chatgpt.com")
    flow.request.host = "127.0.0.1"

    tunnels.name(flow)

    assert flow.request.host == "127.0.0.1"


def test_a_reverse_proxys_name_in_tls_does_not_count(tunnels: Tunnels) -> None:
    flow = through(ADDRESS, "chatgpt.com")
    flow.client_conn.proxy_mode = ProxyMode.parse(f"reverse:https://{ADDRESS}@8081")

    tunnels.name(flow)

    assert flow.request.host == ADDRESS


# -- the guard behind the hooks


@pytest.mark.parametrize("why", ["the addon is gone", "the hook was skipped"])
def test_nothing_leaves_undressed_for_the_backends_address(why: str) -> None:
    exchanges = SwapHandler(history=History())
    if why == "the addon is gone":
        exchanges.flows.mode = Closed(why)
    else:
        exchanges.flows.mode = Serving(StillKeeper("first"))

    answer = exchanges.outbound(through(ADDRESS, "chatgpt.com"))

    assert isinstance(answer, http.Response)
    assert answer.status_code == 503
    assert exchanges.outbound(through(ADDRESS, "chatgpt.com", "/backend-api/wham/tasks")) is None
    assert exchanges.outbound(through(ADDRESS, "elsewhere.test")) is None


def test_observe_mode_uses_the_same_name() -> None:
    observing = ObserveHandler(History())
    flow = through(ADDRESS, "chatgpt.com")

    observing.tunnels.name(flow)

    assert observing.policy(flow.request).swaps


# -- passing through


@pytest.fixture
def options() -> Iterator[Any]:
    with taddons.context(Proxyserver()) as context:
        yield context.options


def begun(options: Any, host: str, data: bytes = b"", mode: str = "regular") -> NextLayer:
    """A tunnel of which mitmproxy asks what is in it."""
    client = tflow.tclient_conn()
    client.proxy_mode = ProxyMode.parse(mode)
    client.sni = None
    context = Context(client, options)
    context.server = Server(address=(host, 443))
    outermost = modes.ReverseProxy(context) if mode.startswith("reverse") else modes.HttpProxy(context)
    assert context.layers == [outermost]
    layers.HttpLayer(context, layers.http.HTTPMode.regular)
    asked = NextLayer(context)
    if data:
        asked.events.append(events.DataReceived(client, data))
    return asked


def greeting(name: str | None) -> bytes:
    """The greeting of a TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


PASSED = [
    ("elsewhere.test", b""),
    ("elsewhere.test", greeting("chatgpt.com")),
    ("chatgpt.com.evil.test", greeting("chatgpt.com")),
    (ADDRESS, greeting("elsewhere.test")),
    (ADDRESS, greeting(None)),
    (ADDRESS, b"SSH-2.0-OpenSSH_9.2\r\n"),
    (ADDRESS, b"GET / HTTP/1.1\r\nHost: chatgpt.com\r\n\r\n"),
    (ADDRESS, b""),  # the server has spoken first
]
READ = [
    ("chatgpt.com", b""),
    ("chatgpt.com", greeting("elsewhere.test")),
    ("gov.chatgpt.com", greeting("gov.chatgpt.com")),
    ("auth.openai.com.", greeting("auth.openai.com")),
    ("origin.test", greeting("origin.test")),
    (ADDRESS, greeting("chatgpt.com")),
    ("127.1", greeting("CHATGPT.com")),
]


@pytest.mark.parametrize(("host", "data"), PASSED)
def test_other_hosts_are_passed_through(tunnels: Tunnels, options: Any, host: str, data: bytes) -> None:
    asked = begun(options, host, data)

    tunnels.pass_through(asked, reads_all=False)

    assert isinstance(asked.layer, layers.TCPLayer)
    assert asked.layer.flow is None  # in no flow list


@pytest.mark.parametrize(("host", "data"), [*READ, *PASSED])
def test_codexs_hosts_are_left_to_mitmproxy(tunnels: Tunnels, options: Any, host: str, data: bytes) -> None:
    """So is everything if all is read."""
    asked = begun(options, host, data)

    tunnels.pass_through(asked, reads_all=(host, data) in PASSED)

    assert asked.layer is None


@pytest.mark.parametrize("length", [1, 2, 5, 60, -1])
def test_an_address_waits_for_the_complete_client_hello(tunnels: Tunnels, options: Any, length: int) -> None:
    with pytest.raises(UndecidedError):
        tunnels.pass_through(begun(options, ADDRESS, greeting("chatgpt.com")[:length]), reads_all=False)


def test_an_endless_client_hello_is_not_waited_for(tunnels: Tunnels, options: Any) -> None:
    endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"\x00" * LONGEST_GREETING
    asked = begun(options, ADDRESS, endless)

    tunnels.pass_through(asked, reads_all=False)

    assert asked.layer is None


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01" * 9]
)
def test_bytes_that_are_no_client_hello_do_no_harm(tunnels: Tunnels, options: Any, data: bytes) -> None:
    asked = begun(options, ADDRESS, data)
    try:
        tunnels.pass_through(asked, reads_all=False)
    except UndecidedError:
        return
    assert asked.layer is None or isinstance(asked.layer, layers.TCPLayer)


def test_an_origin_that_is_learned_later_is_read_from_then_on(options: Any) -> None:
    hosts = {"chatgpt.com"}
    tunnels = Tunnels(lambda: frozenset(hosts))
    before, after = (begun(options, "late.test", greeting("late.test")) for _ in range(2))

    tunnels.pass_through(before, reads_all=False)
    hosts.add("late.test")
    tunnels.pass_through(after, reads_all=False)

    assert (before.layer is None, after.layer is None) == (False, True)


def test_a_reverse_proxy_reads_what_it_is_for(tunnels: Tunnels, options: Any) -> None:
    asked = begun(options, "elsewhere.test", greeting("localhost"), "reverse:https://elsewhere.test@8081")

    tunnels.pass_through(asked, reads_all=False)

    assert asked.layer is None


def test_the_backends_own_certificate_is_requested(tunnels: Tunnels, options: Any) -> None:
    """Whatever name a client sends in TLS."""
    asked = begun(options, "chatgpt.com", greeting("evil.test"))

    tunnels.pass_through(asked, reads_all=False)

    assert asked.context.server.sni == "chatgpt.com"


def test_another_addons_choice_stays(tunnels: Tunnels, options: Any) -> None:
    asked = begun(options, "elsewhere.test")
    asked.layer = chosen = layers.TCPLayer(asked.context)

    tunnels.pass_through(asked, reads_all=False)

    assert asked.layer is chosen
