"""The identity that a client names as its user to the proxy, beside mitmproxy's `proxyauth`."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.addons.proxyauth import ProxyAuth
from mitmproxy.proxy.layers.modes import Socks5AuthData
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons, tflow, tutils

from codexpool.proxy.proxy_user import INVALID, asks, connects, identity_named, signs_in
from tests.running import key_of

HTPASSWD = "ann:{SHA}+QhhOYj8ZquFmdIjIx1m31YkpeE=\n"  # ann, knocks
HEADER = "proxy-authorization"


def basic(user: str, password: str = "") -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@contextmanager
def proxyauth(spec: str = "") -> Iterator[ProxyAuth]:
    addon = ProxyAuth()
    with taddons.context(addon) as context:
        if spec:
            context.configure(addon, proxyauth=spec)
        yield addon


def arriving(credentials: str | None, method: str = "CONNECT", mode: str = "regular") -> http.HTTPFlow:
    flow = tflow.tflow(req=tutils.treq(method=method.encode(), host="chatgpt.com"))
    flow.live = True
    flow.client_conn.proxy_mode = ProxyMode.parse(mode)
    if credentials is not None:
        flow.request.headers[HEADER] = credentials
    return flow


def connect(addon: ProxyAuth, credentials: str | None, earlier: http.HTTPFlow | None = None) -> http.HTTPFlow:
    flow = arriving(credentials)
    if earlier is not None:
        flow.client_conn = earlier.client_conn
    addon.http_connect(flow)
    connects(flow)
    return flow


def passes(flow: http.HTTPFlow) -> bool:
    return flow.response is None


@pytest.mark.parametrize(
    ("spec", "user", "password", "named", "is_let_in"),
    [
        ("", "work", "", "work", True),
        ("", "ann", "knocks", "", True),  # of a proxy that does not ask for it
        ("", "ann+work", "knocks", "work", True),
        ("", "", "", "", True),
        ("", key_of("ann"), "", INVALID, True),
        ("", "my work", "", INVALID, True),
        ("any", "work", "", "work", True),
        ("any", "ann", "knocks", "", True),
        ("any", "ann+work", "knocks", "work", True),
        ("ann:knocks", "ann", "knocks", "", True),
        ("ann:knocks", "ann+work", "knocks", "work", True),
        ("ann:knocks", "ann+work", "wrong", "", False),
        ("ann:knocks", "bob+work", "knocks", "", False),
        ("ann:knocks", "ann+", "knocks", "", False),
        ("ann:knocks", "work", "", "", False),
        ("a+b:knocks", "a+b", "knocks", "", True),
        ("a+b:knocks", "a+b+work", "knocks", "work", True),
        ("@", "ann", "knocks", "", True),
        ("@", "ann+work", "knocks", "work", True),
        ("@", "bob+work", "knocks", "", False),
    ],
)
def test_user_names_an_identity_beside_proxyauth(
    spec: str, user: str, password: str, named: str, is_let_in: bool, tmp_path: Path
) -> None:
    if spec == "@":
        file = tmp_path / "htpasswd"
        file.write_text(HTPASSWD)
        spec = f"@{file}"
    with proxyauth(spec) as addon:
        flow = connect(addon, basic(user, password))

        assert identity_named(flow.client_conn) == named
        assert passes(flow) is is_let_in
        assert HEADER not in flow.request.headers


def test_proxyauth_that_cannot_answer_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(user: str, password: str) -> bool:
        raise OSError("the server does not answer")

    with proxyauth("ann:knocks") as addon:
        monkeypatch.setattr(addon, "validator", broken)
        flow = connect(addon, basic("ann+work", "knocks"))

        assert not passes(flow)
        assert identity_named(flow.client_conn) == ""
        assert HEADER not in flow.request.headers


@pytest.mark.parametrize("spec", ["any", "ann:knocks"])
def test_requests_of_a_tunnel_need_no_other_password(spec: str) -> None:
    with proxyauth(spec) as addon:
        tunnel = connect(addon, basic("ann+work", "knocks"))
        for _ in range(2):
            inner = arriving(None, "POST")
            inner.client_conn = tunnel.client_conn
            addon.requestheaders(inner)
            asks(inner)

            assert passes(inner)
            assert identity_named(inner.client_conn) == "work"


def test_last_connect_of_a_connection_counts() -> None:
    with proxyauth() as addon:
        first = connect(addon, basic("work"))
        second = connect(addon, basic("home"), first)
        assert identity_named(second.client_conn) == "home"
        assert identity_named(connect(addon, None, first).client_conn) == ""


@pytest.mark.parametrize("spec", ["", "any", "ann:knocks"])
def test_plain_request_names_an_identity_and_sends_nothing_on(spec: str) -> None:
    with proxyauth(spec) as addon:
        flow = arriving(basic("ann+work", "knocks"), "GET")
        addon.requestheaders(flow)
        asks(flow)

        assert passes(flow)
        assert identity_named(flow.client_conn) == "work"
        assert HEADER not in flow.request.headers


def test_header_of_a_reverse_proxys_client_is_left_alone() -> None:
    with proxyauth():
        flow = arriving(basic("work"), "GET", "reverse:https://chatgpt.com")
        asks(flow)

        assert identity_named(flow.client_conn) == ""
        assert HEADER in flow.request.headers


def test_member_key_in_a_password_is_left_to_the_gate() -> None:
    with proxyauth():
        flow = arriving(basic("ann", key_of("ann")), "GET")
        asks(flow)

        assert HEADER in flow.request.headers


@pytest.mark.parametrize(
    ("user", "password", "named", "is_let_in"),
    [
        ("ann", "knocks", "", True),
        ("ann+work", "knocks", "work", True),
        ("ann+work", "wrong", "", False),
    ],
)
def test_socks_client_names_an_identity_beside_its_password(
    user: str, password: str, named: str, is_let_in: bool
) -> None:
    with proxyauth("ann:knocks") as addon:
        data = Socks5AuthData(tflow.tclient_conn(), user, password)
        addon.socks5_auth(data)
        signs_in(data)

        assert data.valid is is_let_in
        assert identity_named(data.client_conn) == named
        assert (data.client_conn in addon.authenticated) is is_let_in


@given(st.text() | st.binary().map(lambda raw: f"Basic {base64.b64encode(raw).decode()}"))
def test_whatever_a_client_sends_is_a_valid_name_or_none(credentials: str) -> None:
    with proxyauth() as addon:
        flow = arriving(None)
        flow.request.headers.fields = ((b"Proxy-Authorization", credentials.encode("utf8", "surrogateescape")),)
        addon.http_connect(flow)
        connects(flow)

        name = identity_named(flow.client_conn)
        assert name in ("", INVALID) or (name.isascii() and name.isprintable() and len(name) <= 64)
        assert HEADER not in flow.request.headers
