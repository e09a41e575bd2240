"""A probe of `codexpool doctor`: the proxy says what would become of it, and nothing happens."""

from __future__ import annotations

import json
import logging
import pickle
import time
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.exceptions import AddonHalt
from mitmproxy.test import tflow

from codexpool.addon import Codexpool
from codexpool.config.model import Access, PoolConfig
from codexpool.pool.identity import Condition, Evidence, Status
from codexpool.pool.selection import Selection
from codexpool.proxy import probe
from codexpool.proxy.flows import Closed, Passthrough, Serving
from codexpool.proxy.observe.handler import ObserveHandler
from codexpool.proxy.serving import SwapHandler
from codexpool.traces.history import History
from tests.proxy.still_keeper import StillKeeper
from tests.proxy.test_gate import KEY, coming, config
from tests.running import key_of

NUMBER = "0123-456789ab"
OPEN = PoolConfig(config().path, Selection.DRAIN_FIRST, (), access=Access.ANYONE)


def handler_of(keeper: StillKeeper, of: PoolConfig = OPEN) -> SwapHandler:
    keeper.config = of
    handler = SwapHandler(history=History())
    handler.flows.mode = Serving(keeper)
    handler.gate.on_loopback = of.access is Access.ANYONE
    handler.changed(keeper)
    return handler


def probed(handler: SwapHandler | ObserveHandler, key: str | None = None, upgrade: bool = False) -> dict[str, Any]:
    asked = coming(key)
    asked.request.headers["x-codexpool-probe"] = NUMBER
    if upgrade:
        asked.request.method, asked.request.headers["upgrade"] = "GET", "websocket"
    answer = probe.answer(asked.request, handler.dry_run(asked))
    assert answer.headers["x-codexpool-probe"] == NUMBER
    document: dict[str, Any] = json.loads(answer.content or b"")
    assert (document["probe"], document["transport"]) == (NUMBER, "websocket" if upgrade else "http")
    return document


@pytest.mark.parametrize("upgrade", [False, True])
def test_it_is_told_which_identity_would_serve_and_which_headers_would_change(upgrade: bool) -> None:
    document = probed(handler_of(StillKeeper("first", "second")), upgrade=upgrade)

    assert (document["pool"], document["identity"], document["member"]) == (True, "first", None)
    assert document["replaced"] == ["chatgpt-account-id"]
    assert document["added"] == ["authorization"]
    assert document["refused"] is None


def limited(keeper: StillKeeper) -> None:
    for name, identity in keeper.pool.identities.items():
        until = time.time() + 3600
        keeper.pool.states.condition_learned(name, identity.fingerprint, Condition(Status.LIMITED, 1, until))


def dead(keeper: StillKeeper) -> None:
    for name, identity in keeper.pool.identities.items():
        evidence = Evidence(1, status=401, code="token_revoked")
        condition = Condition(Status.NEEDS_REPLACEMENT, 1, evidence=evidence)
        keeper.pool.states.condition_learned(name, identity.fingerprint, condition)


@pytest.mark.parametrize(
    ("change", "of", "key", "status", "reason"),
    [
        (limited, OPEN, None, 429, "limited until"),
        (dead, OPEN, None, 503, "first: replace its PAT"),
        (None, config(), None, 401, "no member key"),
        (None, config(), key_of("stranger"), 401, "not the key of a member"),
        (dead, config(), KEY, 503, "first: replace its PAT"),
    ],
)
def test_a_refusal_has_its_reason(change: Any, of: PoolConfig, key: str | None, status: int, reason: str) -> None:
    keeper = StillKeeper("first", "second")
    if change is not None:
        change(keeper)

    document = probed(handler_of(keeper, of), key)

    assert document["identity"] is None
    assert document["refused"]["status"] == status
    assert reason in document["refused"]["reason"]
    assert (document["member"] == "ann") is (key == KEY)


def test_a_member_is_told_its_name_and_its_key_goes_nowhere() -> None:
    document = probed(handler_of(StillKeeper("first"), config()), KEY)

    assert (document["identity"], document["member"], document["refused"]) == ("first", "ann", None)
    assert KEY not in json.dumps(document)


def test_without_a_pool_it_is_told_so() -> None:
    handler = SwapHandler(history=History())
    handler.flows.mode = Passthrough()
    assert probed(handler)["pool"] is False

    handler.flows.mode = Closed("pool.toml is gone")
    assert probed(handler)["refused"] == {"status": 503, "reason": "pool.toml is gone"}

    assert probed(ObserveHandler(History(), {}))["observing"] is True


@pytest.mark.parametrize("key", [None, KEY, key_of("stranger")])
@pytest.mark.parametrize("change", [None, dead, limited])
@pytest.mark.parametrize("of", [OPEN, config()])
def test_nothing_happens(of: PoolConfig, change: Any, key: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """No session, trace, event or count, no slot of a member, no mark against an address, no line in the log."""
    keeper = StillKeeper("first", "second")
    if change is not None:
        change(keeper)
    handler = handler_of(keeper, of)
    caplog.set_level(logging.DEBUG)
    caplog.clear()

    def seen() -> bytes:
        pool, history, gate = keeper.pool, handler.history, handler.gate
        kept = [dict(pool.sessions._sessions), pool._picks, history.tallies, list(history.traces()), history.last]
        kept += [vars(gate.addresses), keeper.queue._total, len(handler.flows), keeper.lists.asked]
        kept += [[(i.name, i.condition, i.load, i.last_picked) for i in pool.identities.values()]]
        return pickle.dumps(kept)

    before = seen()
    for upgrade in (False, True):
        probed(handler, key, upgrade)

    assert seen() == before
    assert caplog.text == ""


def connect(number: str | None) -> http.HTTPFlow:
    flow = tflow.tflow()
    flow.request.method = "CONNECT"
    if number is not None:
        flow.request.headers["x-codexpool-probe"] = number
    return flow


@pytest.mark.parametrize(
    ("number", "is_one"), [(NUMBER, True), (None, False), ("short", False), ("0123456789 x", False)]
)
def test_only_a_connect_with_a_number_marks_its_connection(number: str | None, is_one: bool) -> None:
    flow = connect(number)

    probe.connects(flow)

    assert probe.is_marked(flow.client_conn) is is_one
    assert (flow.response is not None) is is_one, "answered, so that mitmproxy connects to no server"
    assert "x-codexpool-probe" not in flow.request.headers


def test_a_connect_that_is_refused_stays_so() -> None:
    flow = connect(NUMBER)
    flow.response = http.Response.make(403)

    probe.connects(flow)

    assert flow.response.status_code == 403
    assert not probe.is_marked(flow.client_conn)


@pytest.mark.parametrize(
    ("headers", "readable"),
    [
        ({}, True),
        ({"content-length": "100"}, True),
        ({"content-length": str(probe.LONGEST + 1)}, False),
        ({"content-length": "9" * 5000}, False),
        ({"content-length": "-1"}, False),
        ({"transfer-encoding": "chunked"}, False),
    ],
)
def test_a_body_is_bounded(headers: dict[str, str], readable: bool) -> None:
    request = http.Request.make("POST", "https://chatgpt.com/")
    request.headers.pop("content-length", None)
    request.headers.update(headers)

    assert probe.is_readable(request) is readable
    request.http_version = "HTTP/2.0"
    assert not probe.is_readable(request)


@pytest.mark.parametrize("is_probe", [True, False])
def test_a_body_that_is_too_long_is_not_read_by_the_page_either(is_probe: bool) -> None:
    """A stranger may ask for some of its paths."""
    addon = Codexpool(None, reloaded=False)
    flow = connect(NUMBER) if is_probe else tflow.tflow()
    probe.connects(flow)
    flow.response, flow.live = None, True
    url = "https://chatgpt.com/" if is_probe else "http://codex.pool/ca.pem"
    flow.request = http.Request.make("POST", url)
    flow.request.headers["transfer-encoding"] = "chunked"

    with pytest.raises(AddonHalt):
        addon.requestheaders(flow)

    assert flow.error is not None
