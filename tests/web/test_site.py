"""Who gets an answer from `http://codex.pool/`, and which requests are for it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import taddons, tflow
from mitmproxy.test.tflow import tserver_conn

from codexpool.proxy.mitm import options as host
from codexpool.traces.events import Event, Kind
from codexpool.traces.history import History
from codexpool.web import site as sites
from codexpool.web.site import Site
from codexpool.web.status import View
from tests.web.views import view

LOCAL = ("127.0.0.1", 40_000)


class Proxy:
    """A proxy without a pool."""

    def __init__(self, history: History | None = None, reason: str = "") -> None:
        self.history = history or History()
        self.reason = reason

    def status_view(self, now: float) -> View:
        return view(None, self.history)

    def unready(self) -> str:
        return self.reason

    def own_use(self, flow: http.HTTPFlow, now: float) -> tuple[int, dict[str, Any]]:
        return 401, {"error": {"message": "send your member key"}}

    def authority(self) -> bytes:
        return b"-----BEGIN CERTIFICATE-----"

    def is_own_connection(self, peer: tuple[object, ...]) -> bool:
        return False


class Broken(Proxy):
    def status_view(self, now: float) -> View:
        raise RuntimeError("at-test-broken-0123456789abcdef")


def site_of(history: History | None = None) -> Site:
    return Site(Proxy(history))


def request(path: str = "/api/status", host: str = "codex.pool", peer: Any = LOCAL, **more: Any) -> http.HTTPFlow:
    flow = tflow.tflow()
    flow.request = http.Request.make(more.pop("method", "GET"), f"http://{host}{path}", **more)
    flow.client_conn.peername = peer
    return flow


async def answer(flow: http.HTTPFlow, site: Site | None = None) -> http.Response:
    await (site or site_of()).answer(flow)
    assert flow.response is not None
    return flow.response


@pytest.mark.parametrize(
    ("peer", "may"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.8.8", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("192.168.1.7", 1), False),
        (("::ffff:192.168.1.7", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 3), False),
        (("10.0.0.1", 1), False),
        (("not an address", 1), False),
        (None, False),
    ],
    ids=str,
)
async def test_only_this_machine_gets_an_answer(peer: Any, may: bool) -> None:
    for path in ("/", "/page.js", "/api/status", "/api/flows", "/api/events", "/metrics", "/nothing"):
        got = await answer(request(path, peer=peer))
        assert (got.status_code == 403) is not may
        if not may:
            assert b"the machine that the proxy runs on" in (got.content or b"")
            assert b"ssh -N -L" in (got.content or b""), "how it can be opened from there"


@pytest.mark.parametrize("peer", [LOCAL, ("192.168.1.7", 1)], ids=str)
async def test_the_certificate_is_for_all(peer: Any) -> None:
    got = await answer(request("/ca.pem", peer=peer))
    assert (got.status_code, got.content) == (200, Proxy().authority())


@pytest.mark.parametrize(
    ("url", "takes"),
    [
        ("http://codex.pool/", True),
        ("http://CODEX.POOL/api/status", True),
        ("http://codex.pool./", True),
        ("http://codex.pool:8080/", False),
        ("https://codex.pool/", True),
        ("https://codex.pool:80/", False),
        ("http://codex.pool.example/", False),
        ("http://chatgpt.com/", False),
    ],
)
def test_it_takes_what_is_addressed_to_it(url: str, takes: bool) -> None:
    flow = tflow.tflow()
    flow.request = http.Request.make("GET", url)
    site = site_of()

    assert site.has(flow) is takes


def test_a_forged_host_header_leads_nowhere() -> None:
    flow = tflow.tflow()
    flow.request = http.Request.make("GET", "https://chatgpt.com/backend-api/codex/models")
    flow.request.headers["host"] = "codex.pool"

    assert not site_of().has(flow)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT"])
async def test_nothing_can_be_changed(method: str) -> None:
    assert (await answer(request(method=method))).status_code == 405


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=1e3", "wait=%D9%A3", "after=" + "9" * 40])
async def test_an_invalid_number_is_refused(query: str) -> None:
    got = await answer(request(f"/api/events?{query}"))

    assert got.status_code == 400
    assert "whole number" in json.loads(got.content or b"")["error"]["message"]


async def test_a_failure_is_reported_without_its_message() -> None:
    got = await answer(request(), Site(Broken()))

    assert got.status_code == 500
    assert b"at-test" not in (got.content or b"")


async def test_a_list_of_flows_is_bounded_whatever_is_asked() -> None:
    got = await answer(request("/api/flows?limit=999999"))

    assert json.loads(got.content or b"") == {"flows": [], "total": 0}
    assert sites.MOST_FLOWS <= 500


async def test_too_many_waiting_clients_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "MOST_WAITERS", 2)
    history = History()
    site = site_of(history)
    waiting = [asyncio.create_task(answer(request("/api/events?after=0&wait=20"), site)) for _ in range(2)]
    await asyncio.sleep(0.01)

    async with asyncio.timeout(5):
        at_once = await answer(request("/api/events?after=0&wait=20"), site)
        history.record(Event(Kind.START, 1.0))
        told = [json.loads((await one).content or b"") for one in waiting]

    assert json.loads(at_once.content or b"")["events"] == []
    assert [len(one["events"]) for one in told] == [1, 1]


async def test_a_client_that_leaves_frees_its_place() -> None:
    site = site_of()
    waiting = asyncio.create_task(answer(request("/api/events?after=0&wait=20"), site))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert site._waiters == 0


@pytest.mark.parametrize("path", ["//[", "/%zz", "/api/flows/%00", "/?a=[", "/" + "x" * 100_000])
async def test_no_path_breaks_it(path: str) -> None:
    flow = request()
    flow.request.path = path

    assert (await answer(flow)).status_code in (400, 404, 200)


async def test_a_client_of_an_earlier_run_gets_everything() -> None:
    history = History()
    for _ in range(3):
        history.record(Event(Kind.START, 1.0))
    site = site_of(history)

    same = json.loads((await answer(request(f"/api/events?after=2&run={site.run}"), site)).content or b"")
    other = json.loads((await answer(request("/api/events?after=2&run=another"), site)).content or b"")

    assert (len(same["events"]), same["lost"], same["run"]) == (1, False, site.run)
    assert (len(other["events"]), other["lost"]) == (3, True)


@pytest.mark.parametrize("port", [40_000, 40_001])
async def test_the_proxys_own_connections_are_not_local_clients(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a connection of the proxy to itself, which somebody on another machine has asked it for
    server = tserver_conn()
    server.sockname = ("127.0.0.1", 40_000)
    handler = SimpleNamespace(transports={server: object()})
    with taddons.context(SimpleNamespace(name="proxyserver", connections={1: handler})):
        site = site_of()
        monkeypatch.setattr(Proxy, "is_own_connection", lambda _, peer: host.is_own_connection(peer))
        got = await answer(request(peer=("127.0.0.1", port)), site)

    assert (got.status_code == 403) is (port == 40_000)
