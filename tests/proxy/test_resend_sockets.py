"""`codexpool.proxy.resend` in a real `mitmdump`, between real clients and servers over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request as Handshake
from websockets.http11 import Response as HandshakeAnswer

from tests.proxy.servers import PATIENCE, ZSTD, Mitmdump, Upstream, make_ca, server_tls
from tests.proxy.test_resend_bounds import bomb

pytestmark = pytest.mark.asyncio(loop_scope="module")

numbers = itertools.count()

ROUTES = ["h1-h1", "h1-h2", "h2-h1", "h2-h2", "h2-h2 eager", "http2=false"]
"""Client and upstream; `eager` has the proxy dial at CONNECT, and ``http2=false`` is the default of codexpool."""


@dataclass
class Route:
    client: httpx.AsyncClient
    version: str
    upstream: Upstream
    proxy: Mitmdump

    def url(self, **query: object) -> tuple[str, str]:
        """A path of its own for each request, and the URL it is asked for by."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        path = f"/claimed?n={next(numbers)}&{words}"
        return path, self.upstream.url + path

    async def ask(self, body: bytes = b"question", **query: object) -> tuple[str, httpx.Response]:
        path, url = self.url(**query)
        return path, await self.client.post(url, content=body)

    def events(self, url: str, body: bytes = b"question") -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        return self.client.stream("POST", url, content=body)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstreams(certificates: tuple[Path, Path]) -> AsyncIterator[dict[str, Upstream]]:
    async with Upstream("h1").running(certificates[1]) as h1, Upstream("h2").running(certificates[1]) as h2:
        yield {"h1": h1, "h2": h2}


@pytest.fixture(scope="module")
def mitmdump(
    tmp_path_factory: pytest.TempPathFactory, certificates: tuple[Path, Path], upstreams: dict[str, Upstream]
) -> Iterator[Callable[[str], Mitmdump]]:
    settings = {
        "lazy": ["--set", "connection_strategy=lazy"],
        "eager": ["--set", "connection_strategy=eager"],
        "http1": ["--set", "http2=false"],
        "bombed": ["--set", "http2=false"],  # apart: what else it has had to do would count for its memory
    }
    started: dict[str, Mitmdump] = {}

    def get(name: str) -> Mitmdump:
        if name not in started:
            folder = tmp_path_factory.mktemp("mitmdump") / name
            started[name] = Mitmdump(folder, certificates[0], upstreams["h1"].url, *settings[name])
        return started[name]

    yield get
    for proxy in started.values():
        proxy.stop()


@pytest_asyncio.fixture(params=ROUTES, loop_scope="module")
async def route(
    request: pytest.FixtureRequest, mitmdump: Callable[[str], Mitmdump], upstreams: dict[str, Upstream]
) -> AsyncIterator[Route]:
    name: str = request.param
    proxy = mitmdump("http1" if name == "http2=false" else "eager" if "eager" in name else "lazy")
    client, upstream = ("h1", "h1") if name == "http2=false" else (name[:2], name[3:5])
    # mitmproxy takes what a client offers first, and offers the server what the client has offered.
    offers = {"h1": ["http/1.1", "h2"], "h2": ["h2", "http/1.1"]}[client]
    before = len(proxy.log)
    async with httpx.AsyncClient(
        http2=True,
        proxy=proxy.url,
        verify=proxy.trust(offers),
        timeout=PATIENCE,
        trust_env=False,
        limits=httpx.Limits(max_connections=1 if client == "h2" else 20),
    ) as http:
        yield Route(http, {"h1": "HTTP/1.1", "h2": "HTTP/2"}[client], upstreams[upstream], proxy)
    assert_calm(proxy, before)


def assert_calm(proxy: Mitmdump, before: int = 0) -> None:
    log = proxy.log[before:]
    for word in ("crashed", "Traceback", "Unhandled", "exception"):
        assert word not in log, log
    assert proxy.process.poll() is None


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 1 << 20], ids=["0", "1B", "1MiB"])
async def test_second_attempt_carries_the_same_bytes(route: Route, size: int) -> None:
    body = random.Random(size).randbytes(size)
    path, response = await route.ask(body)
    assert (response.status_code, response.text) == (200, f"{path} {size} {digest(body)}")
    assert route.upstream.attempts(path) == [1, 2]
    assert response.http_version == route.version


@pytest.mark.parametrize("route", ["h1-h1", "h1-h2", "h2-h1", "h2-h2"], indirect=True)
async def test_second_attempt_carries_thirty_mebibytes(route: Route) -> None:
    body = random.Random(30).randbytes(1 << 20) * 30
    path, response = await route.ask(body)
    assert (response.status_code, response.text) == (200, f"{path} {len(body)} {digest(body)}")
    assert route.upstream.attempts(path) == [1, 2]


@pytest.mark.parametrize("how", ["plain", "early", "slow", "close"])
async def test_refusals_of_every_kind_are_followed_by_the_answer(route: Route, how: str) -> None:
    body = random.Random(how).randbytes(1 << 20)
    # Over HTTP/2 there is no `connection: close`; a server would send GOAWAY, which mitmproxy takes for a cut.
    if how == "close" and route.upstream.alpn == "h2":
        how = "plain"
    path, response = await route.ask(body, how=how, refusals=3)
    assert (response.status_code, response.text) == (200, f"{path} {len(body)} {digest(body)}")
    assert route.upstream.attempts(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("route", ["h1-h1", "h2-h1", "http2=false"], indirect=True)
async def test_a_refusal_is_read_although_the_server_has_closed(route: Route) -> None:
    body = random.Random(5).randbytes(5 << 20)
    for _ in range(5):
        path, response = await route.ask(body, how="rude", refusals=3)
        assert (response.status_code, response.text) == (200, f"{path} {len(body)} {digest(body)}")
        assert route.upstream.attempts(path) == [1, 2, 3, 4]


async def test_the_fifth_refusal_is_relayed(route: Route) -> None:
    path, response = await route.ask(refusals=9)
    assert (response.status_code, response.content) == (401, b"refused 5")
    assert route.upstream.attempts(path) == [1, 2, 3, 4, 5]
    _, response = await route.ask()
    assert response.status_code == 200


async def test_an_event_stream_arrives_complete_after_a_refusal(route: Route) -> None:
    path, url = route.url(answer="sse")
    async with route.events(url) as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b"data: one\n\n"
        # Only now does the upstream send the second: whoever waits for the end waits for ever.
        route.upstream.go_on[path].set()
        assert b"".join([part async for part in parts]) == b"data: two\n\n"
    assert route.upstream.attempts(path) == [1, 2]


async def test_encoded_bodies_are_left_as_they_are(route: Route) -> None:
    path, url = route.url(answer="zstd")
    headers = {"content-encoding": "zstd"}
    async with route.client.stream("POST", url, content=ZSTD, headers=headers) as response:
        received = b"".join([part async for part in response.aiter_raw()])
    assert (received, response.headers["content-encoding"]) == (ZSTD, "zstd")
    for request in route.upstream.requests[path]:
        assert (request.digest.hexdigest(), request.headers["content-encoding"]) == (digest(ZSTD), "zstd")


async def test_server_that_cuts_the_first_attempt_is_one_error(route: Route) -> None:
    path, response = await route.ask(how="cut")
    assert response.status_code == 502
    assert route.upstream.attempts(path) == [1]


async def test_a_second_answer_that_is_cut_is_cut_for_the_client(route: Route) -> None:
    path, url = route.url(answer="cut")
    async with route.events(url) as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b"data: one\n\n"
        route.upstream.go_on[path].set()
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(parts)
    assert route.upstream.attempts(path) == [1, 2]


async def test_client_that_leaves_the_second_answer_ends_it_upstream(route: Route) -> None:
    path, url = route.url(answer="sse")
    async with route.events(url) as response:
        assert await anext(response.aiter_raw()) == b"data: one\n\n"
        await route.client.aclose()
    first, second = route.upstream.requests[path]
    await asyncio.wait_for(second.gone.wait(), PATIENCE)
    assert first.attempt == 1


async def test_client_that_leaves_the_second_attempt_ends_it_upstream(route: Route) -> None:
    path, url = route.url(answer="hang")
    asking = asyncio.create_task(route.client.post(url, content=b"question"))
    await until(lambda: route.upstream.attempts(path) == [1, 2])
    await leave(route, asking)
    await asyncio.wait_for(route.upstream.requests[path][1].gone.wait(), PATIENCE)


async def test_nothing_is_sent_again_once_the_client_has_left(route: Route) -> None:
    path, url = route.url(judge=0.5)
    asking = asyncio.create_task(route.client.post(url, content=b"question"))
    await asyncio.wait_for(route.upstream.refused[path].wait(), PATIENCE)
    await leave(route, asking)
    await asyncio.sleep(1)
    assert route.upstream.attempts(path) == [1]


@pytest.mark.parametrize(("route", "flows"), [("h2-h1", 50), ("h2-h2", 200)], indirect=["route"])
async def test_parallel_flows_on_one_connection_get_their_answers(route: Route, flows: int) -> None:
    at_once = asyncio.Semaphore(95)  # mitmproxy allows a client a hundred streams at once.

    async def one(number: int) -> None:
        body = random.Random(number).randbytes(number * 100)
        async with at_once:
            path, response = await route.ask(body, refusals=number % 4, how=["plain", "early"][number % 2])
        assert (response.status_code, response.text) == (200, f"{path} {len(body)} {digest(body)}")
        assert response.headers["x-attempt"] == str(number % 4 + 1)

    async with asyncio.TaskGroup() as group:
        for number in range(flows):
            group.create_task(one(number))


async def test_unclaimed_requests_pass_as_they_are(route: Route) -> None:
    path = f"/other?n={next(numbers)}"
    response = await route.client.post(route.upstream.url + path, content=b"question")
    assert (response.status_code, response.text) == (200, f"{path} 8 {digest(b'question')}")
    (request,) = route.upstream.requests[path]
    assert "authorization" not in request.headers


async def test_reverse_mode_sends_again_too(
    mitmdump: Callable[[str], Mitmdump], upstreams: dict[str, Upstream]
) -> None:
    proxy = mitmdump("http1")
    path = f"/claimed?n={next(numbers)}"
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        response = await client.post(proxy.reverse_url + path, content=b"question")
    assert (response.status_code, response.text) == (200, f"{path} 8 {digest(b'question')}")
    assert upstreams["h1"].attempts(path) == [1, 2]
    assert_calm(proxy)


@pytest.mark.parametrize("name", ["lazy", "http1"])
async def test_a_handshake_is_sent_again_and_messages_are_relayed(
    name: str, mitmdump: Callable[[str], Mitmdump], certificates: tuple[Path, Path]
) -> None:
    handshakes: list[str] = []

    def refuse_twice(line: ServerConnection, request: Handshake) -> HandshakeAnswer | None:
        handshakes.append(request.headers["authorization"])
        return line.respond(401, "refused") if len(handshakes) < 3 else None

    async def echo(line: ServerConnection) -> None:
        async for message in line:
            await line.send(message)

    proxy = mitmdump(name)
    tls = server_tls(certificates[1], "http/1.1")
    async with serve(echo, "127.0.0.1", 0, ssl=tls, process_request=refuse_twice) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"wss://localhost:{port}/claimed"
        async with connect(url, ssl=proxy.trust(), proxy=proxy.url, open_timeout=PATIENCE) as line:
            for message in ("hello", "x" * 300_000, b"\x00\xff" * 1000):
                await line.send(message)
                assert await asyncio.wait_for(line.recv(), PATIENCE) == message
        assert line.protocol.state is websockets.State.CLOSED
    assert handshakes == [f"Bearer at-test-{number}" for number in (1, 2, 3)]
    assert_calm(proxy)


@pytest.mark.parametrize("from_client", [True, False], ids=["from the client", "from the server"])
async def test_an_endlessly_inflating_message_costs_no_memory(
    from_client: bool, mitmdump: Callable[[str], Mitmdump], certificates: tuple[Path, Path]
) -> None:
    explosive, codes = bomb(400 << 20, from_client=from_client), []

    async def serves(line: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosedError):
            async for message in line:
                await line.send(message)
                if not from_client:
                    line.transport.write(explosive)
        codes.append(line.close_code)

    async def explodes(url: str) -> int:
        async with connect(url, ssl=proxy.trust(), proxy=proxy.url, open_timeout=PATIENCE, close_timeout=1) as line:
            await line.send("hello")
            assert await asyncio.wait_for(line.recv(), PATIENCE) == "hello"
            before = proxy.memory
            if from_client:
                line.transport.write(explosive)
            with pytest.raises(websockets.ConnectionClosedError):
                await asyncio.wait_for(line.recv(), PATIENCE)
        assert line.close_code == 1009
        return before

    proxy = mitmdump("bombed")
    tls = server_tls(certificates[1], "http/1.1")
    async with serve(serves, "127.0.0.1", 0, ssl=tls, close_timeout=1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        before, *_ = [await explodes(f"wss://localhost:{port}/claimed") for _ in range(3)]
        await until(lambda: codes == [1009] * 3)
    assert proxy.most_memory - before < 64 << 20
    assert_calm(proxy)


async def leave(route: Route, asking: asyncio.Task[httpx.Response]) -> None:
    asking.cancel()
    await asyncio.wait({asking})
    await route.client.aclose()  # Over HTTP/2 httpx gives up a stream without a word.


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
