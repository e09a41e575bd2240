"""`codexpool.proxy.quicker` gives the results, and the errors, of mitmproxy's own functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib import reload
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http, optmanager
from mitmproxy.net.http import http1
from mitmproxy.proxy import context, layer
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook
from mitmproxy.proxy.server_hooks import ServerConnectHook, ServerConnectionHookData
from mitmproxy.test import tflow, tutils

from codexpool.proxy import quicker
from tests.proxy.playbook import proxy_options

NAMES = st.sampled_from([b"Host", b"host", b"HOST", b"x-\xff", b"X-\xc3\xa9", b"x-\xc3\x89", b""])
ASKED = st.one_of(
    NAMES, st.sampled_from(["host", "Host", "x-\udcff", "X-É", "x-é", "K", 7, None, bytearray(b"host")])
)


def outcome(function: Callable[..., Any], *arguments: object) -> object:
    try:
        return function(*arguments)
    except Exception as error:
        return type(error), str(error)


@given(fields=st.lists(st.tuples(NAMES, st.binary(max_size=3))), name=ASKED)
def test_headers(fields: list[tuple[bytes, bytes]], name: Any) -> None:
    headers = http.Headers(fields)
    assert outcome(quicker.get_all, headers, name) == outcome(quicker._get_all, headers, name)


VALUES: list[Any] = [
    b"x",
    "x",
    None,
    1,
    1.5,
    True,
    bytearray(b"x"),
    http.Headers(),
    type("Ours", (http.Headers,), {})(),
]


@pytest.mark.parametrize("data", [tutils.treq().data, tutils.tresp().data], ids=["request", "response"])
def test_types_of_the_parts_of_a_message(data: Any) -> None:
    assert outcome(quicker.check, data) is None
    for field in fields(data):
        was = getattr(data, field.name)
        for value in VALUES:
            setattr(data, field.name, value)
            assert outcome(quicker.check, data) == outcome(quicker._check, data), (field.name, value)
        setattr(data, field.name, was)


def test_arguments_of_hooks() -> None:
    flow = tflow.tflow()
    data = ServerConnectionHookData(server=flow.server_conn, client=flow.client_conn)
    for hook in (HttpRequestHook(flow), ServerConnectHook(data)):
        assert quicker.args(hook) == quicker._args(hook)


@pytest.mark.parametrize("value", [True, 7, 1.5, "x", None, ["x"], ("x",)])
def test_options(value: Any) -> None:
    option = optmanager._Option("ours", Any, value, "", None)
    for _ in range(2):
        assert (quicker.current(option), type(quicker.current(option))) == (value, type(value))
        if isinstance(value, list):  # It returns a copy of what can be changed.
            quicker.current(option).append("y")
            assert quicker.current(option) == value
        option.set(value)


@pytest.mark.parametrize("more", [{}, {"ours": 1}])
def test_contexts(more: dict[str, Any]) -> None:
    one = context.Context(tflow.tclient_conn(), proxy_options())
    one.layers.append(layer.NextLayer(one))
    vars(one).update(more)
    forked, expected = vars(quicker.fork(one)), vars(quicker._fork(one))

    assert forked == expected
    assert forked["layers"] is not one.layers
    assert forked["server"] is one.server


def test_mitmproxy_uses_them_and_a_reload_does_not_stack_them() -> None:
    for _ in range(2):
        reload(quicker).install()
    head = http1.read_request_head([b"GET / HTTP/1.1", b"Host: a", b"host: b"])

    assert http.Headers.get_all is quicker.get_all
    assert http.RequestData.__post_init__ is quicker.check
    assert quicker._check.__module__ == http.__name__
    assert head.headers["HOST"] == "a, b"
    with pytest.raises(TypeError, match="for path"):
        http.RequestData(**{**vars(head.data), "path": "/"})
