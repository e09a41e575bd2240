"""The end of a proxy that lets turns finish: what is waited for, for how long, and what ends it at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import ctx, http
from mitmproxy.test import tflow

from codexpool.proxy.mitm import shutdown
from codexpool.proxy.mitm.shutdown import Shutdown

CLIENT = object()


class DumpMaster:
    """What mitmdump is to the addon: a list of servers, connections, and an end."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.should_exit = asyncio.Event()
        self.ended = asyncio.Event()
        self.connections: dict[str, Any] = {}
        self.addons = {"proxyserver": SimpleNamespace(servers=self, connections=self.connections)}

    async def update(self, modes: list[object]) -> None:
        assert modes == []
        self.did.append("listens no more")

    def tell(self) -> None:
        self.did.append("tells")

    def shutdown(self) -> None:
        self.did.append("ends")
        self.ended.set()

    async def waits(self) -> bool:
        """Whether it goes on after some looks at what is under way."""
        await asyncio.sleep(5 * shutdown.LOOK)
        return not self.ended.is_set()


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> DumpMaster:
    made = DumpMaster()
    monkeypatch.setattr(ctx, "master", made, raising=False)
    monkeypatch.setattr(shutdown, "LOOK", 0.001)
    return made


def of(master: DumpMaster, open_sockets: Callable[[], int] = lambda: 0) -> Shutdown:
    return Shutdown(master.tell, open_sockets)


def request(live: bool = True) -> http.HTTPFlow:
    flow = tflow.tflow(resp=True)
    flow.live = live
    return flow


async def end(master: DumpMaster) -> None:
    async with asyncio.timeout(5):
        await master.ended.wait()


async def test_with_nothing_under_way_it_ends(master: DumpMaster) -> None:
    ends = of(master)
    over = request(live=False)
    ends.track(over)

    ends.begin()
    await end(master)

    assert master.did == ["listens no more", "tells", "ends"]


async def test_requests_run_to_their_end(master: DumpMaster) -> None:
    ends, flow = of(master), request()
    ends.track(flow)

    ends.begin()

    assert await master.waits()
    flow.live = False
    await end(master)


async def test_only_sockets_that_were_told_are_waited_for(master: DumpMaster) -> None:
    told = [1]
    ends, others = of(master, lambda: sum(told)), tflow.twebsocketflow()
    others.live = True
    ends.track(others)

    ends.begin()

    assert await master.waits()
    told.clear()
    await end(master)


async def test_bytes_a_slow_client_has_not_read_are_waited_for(master: DumpMaster) -> None:
    left = [65_536]
    transport = SimpleNamespace(get_write_buffer_size=lambda: sum(left), is_closing=lambda: False)
    writer = asyncio.StreamWriter(transport, None, None, asyncio.get_running_loop())  # type: ignore[arg-type]
    master.connections["c"] = SimpleNamespace(client=CLIENT, transports={CLIENT: SimpleNamespace(writer=writer)})
    master.connections["gone"] = SimpleNamespace(client=CLIENT, transports={})
    ends = of(master)

    ends.begin()

    assert await master.waits()
    left.clear()
    await end(master)


async def test_requests_that_hang_are_cut_after_the_bound(
    master: DumpMaster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutdown, "BOUND", 0.02)
    ends, flow = of(master), request()
    ends.track(flow)

    ends.begin()
    await end(master)

    assert flow.live
    assert "cut what was under way: 1" in caplog.text


async def test_a_second_sigterm_ends_it_at_once(master: DumpMaster) -> None:
    ends, flow = of(master), request()
    ends.track(flow)
    ends.begin()
    assert await master.waits()

    ends.begin()

    assert master.did[-1] == "ends"


async def test_an_error_does_not_keep_it_from_ending(master: DumpMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no note")

    Shutdown(broken, lambda: 0).begin()

    await end(master)


async def test_a_reload_does_not_keep_it_from_ending(master: DumpMaster) -> None:
    ends, flow = of(master), request()
    ends.track(flow)
    ends.begin()
    assert await master.waits()

    ends.done()

    assert master.did[-1] == "ends"


async def test_a_clients_next_request_uses_a_new_connection(master: DumpMaster) -> None:
    ends = of(master)
    before, after, http2, switched = (request() for _ in range(4))
    http2.request.http_version = "HTTP/2.0"
    assert switched.response is not None
    switched.response.status_code = 101

    ends.close_after(before)
    ends.has_begun = True
    for flow in (after, http2, switched):
        ends.close_after(flow)

    flows = (before, after, http2, switched)
    said = [flow.response.headers.get("connection") for flow in flows if flow.response is not None]
    assert said == [None, "close", None, None]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
async def test_sigterm_is_handled_and_given_back(master: DumpMaster) -> None:
    ends, flow = of(master), request()
    ends.track(flow)
    try:
        ends.running()
        ends.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await end(master)
        assert master.did == ["ends"]
        master.ended.clear()

        anew = of(master)
        anew.track(flow)
        anew.running()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await master.waits()
        assert master.did == ["ends", "listens no more", "tells"]
        anew.done()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def test_tools_with_a_window_keep_mitmproxys_handler(
    master: DumpMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctx, "master", SimpleNamespace(), raising=False)

    of(master).running()

    assert not asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
