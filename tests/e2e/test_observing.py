"""Observe mode with a real mitmdump: nothing is changed, nothing is written, and all of it is said."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from mitmproxy import http
from mitmproxy.io import FlowReader
from websockets.asyncio.client import connect

from tests.e2e import tunnels
from tests.e2e.conftest import Make
from tests.e2e.logins import TOKEN_ENDPOINT, auth_entry, login_of, owner
from tests.e2e.test_secrets import LOUDEST, traces
from tests.e2e.world import MODEL, OWN, E2EProxy, World, a_world, copied_entry, own_headers, served_by, socket_turn
from tests.running import CLIENT, pat, pool_toml, until
from tests.standin import CLOUDFLARE_PAGE, DISCOVERY, RESPONSES, WHOAMI, Answer, StandIn, Token

OBSERVE = ("--set", "codexpool_observe=true")
REVOKED = {"error": {"code": "token_revoked", "message": "revoked"}}


def at_home(standin: StandIn) -> None:
    """The client's own login is good for everything, as in the real world."""
    standin.add(CLIENT, pool=True, client=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("observed")
    with a_world(folder, pat("work"), pat("spare"), arguments=OBSERVE, ready=0) as world:
        at_home(world.standin)
        yield world


@pytest.fixture(autouse=True)
def _anew(request: pytest.FixtureRequest) -> None:
    if "world" in request.fixturenames:
        request.getfixturevalue("world").reset()


def nothing_of_the_pool(world: World) -> None:
    """Whatever was asked was asked by the client itself."""
    assert {seen.name for seen in world.seen} <= {CLIENT.name, ""}
    assert world.standin.requests(WHOAMI) == []
    assert world.standin.requests(TOKEN_ENDPOINT) == []
    assert not any("<client's own" in (seen.header("authorization") or "") for seen in world.seen)


# -- what leaves


HEAD = [
    *(("Host", "chatgpt.com"), ("AUTHORIZATION", f"Bearer {CLIENT.token}"), ("x-Odd", "a  b")),
    *(("ChatGPT-Account-Id", CLIENT.account_id), ("Thread-Id", "s"), ("x-odd", "again"), ("X-empty", "")),
]

BODY = json.dumps({"model": "m", "input": "é" * 40_000}, ensure_ascii=False).encode()

REQUESTS: dict[str, tuple[str, list[tuple[str, str]], bytes]] = {
    "model": (f"POST {RESPONSES}?a=%41&b", HEAD, BODY),
    "discovery": (f"GET {DISCOVERY}", HEAD, b""),
    "vouched for": (f"POST {RESPONSES}", [*HEAD, ("x-oai-attestation", "attests-0123456789abcdef")], BODY),
    "without a credential": (f"POST {RESPONSES}", [HEAD[0], HEAD[2]], BODY),
    "with two": (f"POST {RESPONSES}", [*HEAD, ("authorization", "Basic Y2xpZW50OnNlY3JldA==")], BODY),
    "of another kind": (f"POST {RESPONSES}", [HEAD[0], ("authorization", "AgentAssertion eyJ-an-assertion")], BODY),
    "named like a placeholder": (
        *(f"POST {RESPONSES}", [*HEAD, ("x-odd", "<client's own: PAT 48 chars sha256:000000000000>")], BODY),
    ),
}


def raw(start: str, head: list[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"{start} HTTP/1.1", *(f"{name}: {value}" for name, value in head)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def exchanged(port: int, trust: ssl.SSLContext, request: bytes, host: str = "chatgpt.com") -> bytes:
    """Send these bytes on a tunnel; all that comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), 15) as plain:
        assert b" 200 " in tunnels.asked(plain, f"{host}:443")
        with trust.wrap_socket(plain, server_hostname=host) as tunnel:
            tunnel.sendall(request)
            came = b""
            with suppress(ssl.SSLError, ConnectionError):
                while piece := tunnel.recv(65536):
                    came += piece
            return came


@pytest.mark.parametrize(("start", "head", "body"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_leaves_byte_for_byte(world: World, start: str, head: list[tuple[str, str]], body: bytes) -> None:
    head = [*head, ("Connection", "close"), *([("Content-Length", str(len(body)))] if body else [])]
    exchanged(world.proxy.port, world.proxy.trust, raw(start, head, body))

    (seen,) = world.seen
    assert seen.headers == head
    assert (seen.method, f"{seen.path}?{seen.query}".rstrip("?")) == tuple(start.split(" "))
    assert (seen.body_length, seen.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())
    nothing_of_the_pool(world)


async def test_a_chunked_body_leaves_whole(world: World) -> None:
    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 30_000):
            yield BODY[start : start + 30_000]

    async with world.proxy.async_client() as client:
        assert served_by(await client.post(MODEL, content=body())) == CLIENT.name

    assert world.seen[0].body_sha256 == hashlib.sha256(BODY).hexdigest()
    world.check()


def test_http2_requests_leave_with_the_clients_headers(make: Make) -> None:
    world = make(pat("work"), arguments=(*OBSERVE, "--set", "http2=true"), ready=0)
    at_home(world.standin)
    with world.proxy.client_of_http2() as client:
        answer = world.turn(client)

    assert (answer.http_version, served_by(answer)) == ("HTTP/2", CLIENT.name)
    assert world.seen[0].header("authorization") == f"Bearer {CLIENT.token}"
    world.check()


DEEDS = {"stream": 200, "answer": 418, "credential": 401, "path": 200, "break-response": 200}
"""What other addons do to flows (see door.py), and what the client gets then, as it would without us."""


@pytest.mark.parametrize("deed", DEEDS)
def test_no_placeholder_leaves_beside_another_addon(world: World, deed: str) -> None:
    world.proxy.door("flow", deed)
    with world.proxy.client() as client:
        answers = [world.turn(client, text=text) for text in ("x", "x" * 200_000)]

    assert {answer.status_code for answer in answers} == {DEEDS[deed]}, answers[0].text
    sent = {(seen.path, seen.header("authorization")) for seen in world.seen}
    own, others = f"Bearer {CLIENT.token}", "Bearer at-test-put-there-by-another-addon-0123456789"
    expected = {
        "answer": set(),
        "credential": {(RESPONSES, others)},
        "path": {("/backend-api/wham/settings/user", own)},
    }
    assert sent == expected.get(deed, {(RESPONSES, own)})


# -- what comes back


ANSWERS = {
    "good": Answer(status=200, headers={"x-b": "1", "X-A": "2"}, body={"hello": "there"}),
    "none": Answer(status=204),
    "large": Answer(status=200, body=BODY),
    "refused": Answer(
        status=401,
        headers={"x-openai-authorization-error": "token_revoked", "x-echo": CLIENT.token},
        body={"error": {"code": "token_revoked", "message": f"bad token {CLIENT.token}"}},
    ),
    "limit": Answer(status=429, body={"error": {"type": "usage_limit_reached", "resets_in_seconds": 60}}),
    "page": Answer(status=403, body=CLOUDFLARE_PAGE),
    "packed": Answer(status=400, headers={"content-encoding": "gzip"}, body=gzip.compress(b'{"error": "x"}')),
    "damaged": Answer(status=400, headers={"content-encoding": "gzip"}, body=b"not gzip at all"),
    "trouble": Answer(status=503, headers={"retry-after": "1"}, body=b""),
    "stream": Answer(
        status=200,
        headers={"content-type": "text/event-stream"},
        body=b'data: {"type": "response.failed", "response": {"error": {"code": "usage_limit_reached"}}}\n\n',
    ),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_relayed_unchanged_after_one_request(world: World, answer: Answer) -> None:
    request = raw(f"POST {RESPONSES}", [*HEAD, ("Connection", "close"), ("Content-Length", "2")], b"{}")
    trust = ssl.create_default_context(cafile=str(world.standin.ca_file))
    world.standin.plan(answer)
    plain = exchanged(world.standin.proxy_port, trust, request)
    world.standin.plan(answer)
    observed = exchanged(world.proxy.port, world.proxy.trust, request)

    assert plain.startswith(b"HTTP/1.1 %d " % answer.status)
    assert observed == plain
    assert len(world.seen) == 2
    nothing_of_the_pool(world)


def test_an_answer_streams_from_its_first_byte(world: World) -> None:
    world.standin.plan(Answer(path=RESPONSES, pace=0.25))
    arrivals = []
    with world.proxy.client() as client, client.stream("POST", MODEL, json={"model": "m", "input": "x"}) as answer:
        for _ in answer.iter_raw():
            arrivals.append(time.monotonic())

    assert arrivals[-1] - arrivals[0] > 1  # seven events, a quarter of a second apart


def test_a_connection_that_is_lost_is_lost(world: World) -> None:
    world.standin.plan(Answer(path=RESPONSES, cut="head"))
    with world.proxy.client() as client:
        assert world.turn(client, "lost").status_code == 502

    assert len(world.seen) == 1
    world.proxy.says("(session lost): would be sent as ")
    line = r"\(session lost\): would be sent as (\w+) \(.*; .* \(row 13: would be sent again as (\w+) \("
    assert (said := re.search(line, world.proxy.log))
    assert said[1] == said[2]


async def test_a_websocket_passes_as_it_is(world: World) -> None:
    texts = ["hello", "é" * 100_000]

    async def events(**how: Any) -> list[str]:
        headers = [("Thread-ID", "over-websocket"), *own_headers().items()]
        async with connect(MODEL.replace("https", "wss"), additional_headers=headers, max_size=None, **how) as socket:
            return [re.sub(r"\d+", "N", json.dumps(await socket_turn(socket, text))) for text in texts]

    observed = await events(proxy=world.proxy.url, ssl=world.proxy.trust)
    trust = ssl.create_default_context(cafile=str(world.standin.ca_file))
    plain = await events(proxy=f"http://127.0.0.1:{world.standin.proxy_port}", ssl=trust)

    assert observed == plain
    first, second = world.seen[:3], world.seen[3:]
    assert [seen.transport for seen in first] == ["websocket", "message", "message"]
    for ours, theirs in zip(first, second, strict=True):
        nonce = ("sec-websocket-key",)
        assert [h for h in ours.headers if h[0].lower() not in nonce] == [
            h for h in theirs.headers if h[0].lower() not in nonce
        ]
        assert ours.body == theirs.body
    world.proxy.says("a turn on the socket of session over-websocket: would be sent as ")
    nothing_of_the_pool(world)


async def test_a_refusal_on_a_socket_reaches_the_client(world: World) -> None:
    world.standin.plan(Answer(path=RESPONSES, transport="message", status=401, body=REVOKED))
    async with world.socket("refused-socket") as socket:
        (event,) = await socket_turn(socket)
        assert (event["status"], event["error"]["code"]) == (401, "token_revoked")
        assert served_by(await socket_turn(socket)) == CLIENT.name

    world.proxy.says("failed: 401 token_revoked, would be told to connect again")
    assert [seen.transport for seen in world.seen] == ["websocket", "message", "message"]


# -- what breaks


OURS = [
    *(
        ("codexpool.proxy.observe.handler", f"ObserveHandler.{name}")
        for name in ("open", "assign", "route", "headers_came", "judge")
    ),
    *(("codexpool.proxy.observe.handler", f"ObserveHandler.{name}") for name in ("_received", "_judge", "_log")),
    *(
        ("codexpool.proxy.observe.masks", name)
        for name in ("masks_of", "masked", "unmasked", "with_headers", "describe_secret")
    ),
    ("codexpool.proxy.requests", "exchange_of"),
    ("codexpool.pool.recovery", "attempts"),
    ("codexpool.proxy.judge", "classify"),
    *(("codexpool.proxy.tracer", name) for name in ("AttemptTrace", "candidacies")),
    ("codexpool.proxy.observe.observation", "Passing._look"),
    ("codexpool.proxy.observe.sockets", "ObservedSockets.message"),
    ("codexpool.proxy.observe.sockets", "ObservedSockets.opened"),
    ("codexpool.traces.history", "History.began"),
    ("codexpool.traces.history", "History.ended"),
    ("codexpool.proxy.tracer", "begun"),
    ("codexpool.pool.pool", "Pool.choose"),
    ("codexpool.protocol.headers", "swapped"),
    ("codexpool.protocol.routes", "Routes.route"),
]
"""What may break; each is broken while a good request, a refused one, a discovery and a socket go by."""


@pytest.mark.parametrize(("module", "name"), OURS, ids=[name for _, name in OURS])
async def test_the_client_gets_the_backends_answer_whatever_breaks(world: World, module: str, name: str) -> None:
    head = [*HEAD, ("Connection", "close"), ("Content-Length", str(len(BODY)))]
    with world.proxy.broken(module, name), world.proxy.client() as client:
        assert b" 200 " in exchanged(world.proxy.port, world.proxy.trust, raw(f"POST {RESPONSES}", head, BODY))
        world.standin.plan(Answer(path=RESPONSES, status=401, body=REVOKED))
        refused = world.turn(client)
        discovered = client.get(f"https://chatgpt.com{DISCOVERY}")
        async with world.socket() as socket:
            assert served_by(await socket_turn(socket)) == CLIENT.name

    assert (refused.status_code, refused.json()) == (401, REVOKED)
    assert discovered.json()["default_account_id"] == CLIENT.account_id
    assert world.seen[0].headers == head
    assert {seen.header("authorization") for seen in world.seen} == {f"Bearer {CLIENT.token}"}
    assert CLIENT.token not in world.proxy.log
    world.reset()
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == CLIENT.name


def test_a_reload_changes_nothing(make: Make, tmp_path: Path) -> None:
    entry = copied_entry(tmp_path)
    world = make(pat("work"), script=entry, arguments=OBSERVE, ready=0)
    at_home(world.standin)

    def reload(package: str, started: int) -> None:
        (tmp_path / "codexpool" / "proxy/requests.py").write_text(package)
        os.utime(entry)
        until(lambda: world.proxy.log.count(f"Loading script {entry}") == started, 10, "the reload")

    good = (tmp_path / "codexpool" / "proxy/requests.py").read_text()
    with world.proxy.client() as client:
        world.standin.plan(Answer(path=RESPONSES, pace=0.6))
        with client.stream("POST", MODEL, json={"model": "m", "input": "x"}) as answer:
            pieces = answer.iter_bytes()
            text = next(pieces)
            reload(good, 2)
            text += b"".join(pieces)
        assert b"response.completed" in text
        until(lambda: world.proxy.log.count("observe mode: no request is changed") == 2, 10, "the addon to be back")
        assert served_by(world.turn(client, "after")) == CLIENT.name
        world.proxy.says("(session after): would be sent as work")
        # and without the addon the proxy goes on, for it has never changed anything
        reload(good + "\nthis is no Python\n", 3)
        world.proxy.says("SyntaxError")
        assert served_by(world.turn(client, "without")) == CLIENT.name

    assert {seen.header("authorization") for seen in world.seen} == {f"Bearer {CLIENT.token}"}


# -- what is written, and what is said


def test_observing_sends_runs_and_writes_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with StandIn([pat("work")], folder=tmp_path / "standin") as standin:
        at_home(standin)
        login = login_of(standin, tmp_path, owner("login"), -60.0)
        notify = f'[pool]\nnotify = {{ command = ["touch", "{ran}"] }}\n'
        command = f'\n[[identity]]\nname = "sso"\ntoken = {{ command = ["touch", "{ran}"] }}\n'
        pool = pool_toml(tmp_path, pat("work"), head=notify + auth_entry("login", login.path) + command)
        before = (pool.read_bytes(), pool.stat().st_mtime_ns, login.path.read_bytes())
        proxy = E2EProxy(standin, tmp_path, *OBSERVE)
        proxy.start()
        with proxy.client() as client:
            for status in (200, 401, 402, 429):
                standin.plan(Answer(path=RESPONSES, status=status, body=REVOKED))
                for session in ("a", "b", "c"):
                    client.post(MODEL, json={"model": "m"}, headers={"thread-id": session})
            client.get(OWN)
        time.sleep(1.5)  # longer than the keeper's own second, if there were one
        proxy.stop()

        assert {seen.name for seen in standin.seen} == {CLIENT.name}
        assert standin.leaks == []
        assert {seen.host for seen in standin.seen} == {"chatgpt.com"}
        assert (pool.read_bytes(), pool.stat().st_mtime_ns, login.path.read_bytes()) == before
        assert not ran.exists()
        assert list(tmp_path.rglob("*.sqlite3*")) == []
        for words in ("work is assumed to be ready (not verified yet)", "(its login has to be renewed)"):
            assert words in proxy.log
        assert "sso is assumed to be ready (its command was not run)" in proxy.log


def test_traffic_is_traced_without_a_pool_toml(make: Make, tmp_path: Path) -> None:
    dump = tmp_path / "flows"
    arguments = (*OBSERVE, "-w", str(dump))
    world = make(pat("work"), arguments=arguments, ready=0, configured=False, script=copied_entry(tmp_path))
    at_home(world.standin)
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == CLIENT.name
    world.proxy.stop()

    assert "there is no pool.toml, so no identity to send requests as" in world.proxy.log
    assert "(session s): there is no pool: would be passed on; answered 200" in world.proxy.log
    (flow,) = recorded(dump)
    assert flow.request.headers["authorization"].startswith("Bearer <client's own: PAT")
    assert flow.response is not None
    assert b"response.completed" in (flow.response.content or b"")


def recorded(dump: Path) -> list[http.HTTPFlow]:
    with dump.open("rb") as file:
        return [flow for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]


def test_a_session_keeps_the_identity_of_an_earlier_run(tmp_path: Path) -> None:
    tokens = (pat("work"), pat("spare"))
    with a_world(tmp_path, *tokens) as world:
        pool_toml(tmp_path, *tokens, head='[pool]\nselection = "round-robin"\n')
        world.proxy.says("was reloaded")
        with world.proxy.client() as client:
            served = {session: served_by(world.turn(client, session)) for session in ("one", "two")}
        world.proxy.stop()
        state = world.proxy.state.read_bytes()
        at_home(world.standin)
        number = len(world.standin.seen)
        proxy = E2EProxy(world.standin, tmp_path, *OBSERVE)
        proxy.start()
        with proxy.client() as client:
            for session in served:
                world.turn(client, session)
        proxy.stop()

    assert {seen.name for seen in world.standin.seen[number:]} == {CLIENT.name}
    assert set(served.values()) == {"work", "spare"}
    for session, name in served.items():
        words = (
            rf"\(session {session}\): would be sent as {name} \(PAT sha256:\w+, the session is with it\); answered"
        )
        assert re.search(words, proxy.log), proxy.log
    assert world.proxy.state.read_bytes() == state
    assert not list(tmp_path.glob("state.sqlite3-*"))


async def test_nothing_written_about_requests_has_a_secret(make: Make, tmp_path: Path) -> None:
    recording = ("-w", str(tmp_path / "flows"), "--set", f"hardump={tmp_path / 'flows.har'}", *LOUDEST)
    tokens = (pat("work"), pat("spare"))
    world = make(*tokens, folder=tmp_path, arguments=(*OBSERVE, *recording), ready=0)
    at_home(world.standin)
    attestation = "at-test-attestation-of-the-client-0123456789"
    with world.proxy.client() as client:
        assert world.turn(client, "vouched", headers={"x-oai-attestation": attestation}).status_code == 400
        for status in (400, 401, 429):
            echo = {"error": {"code": CLIENT.token, "message": f"bad token: Bearer {CLIENT.token}"}}
            world.standin.plan(Answer(path=RESPONSES, status=status, headers={"x-echo": CLIENT.token}, body=echo))
            assert CLIENT.token in world.turn(client, f"echo-{status}").text
        squeezed = gzip.compress(json.dumps({"error": {"message": [CLIENT.token]}}).encode())
        gzipped = {"content-encoding": "gzip"}
        world.standin.plan(Answer(path=RESPONSES, status=400, headers=gzipped, body=squeezed))
        assert CLIENT.token in world.turn(client, "squeezed").text
        with world.proxy.broken("codexpool.proxy.observe.masks", "with_headers"):
            world.turn(client, "broken")
        world.proxy.door("flow", "stream")
        world.turn(client, "streamed")
        world.proxy.door("flow", "nothing")
    echo_frame = Answer(path=RESPONSES, transport="message", status=401, body={"error": {"message": CLIENT.token}})
    world.standin.plan(echo_frame)
    async with world.socket("socket") as socket:
        (event,) = await socket_turn(socket)
        assert event["error"]["message"] == CLIENT.token
    until(lambda: "server disconnect" in world.proxy.log, 10, "the end of the socket")
    world.proxy.stop()

    everybody = [*tokens, CLIENT, Token(attestation, "", "", name="attestation")]
    assert len(recorded(tmp_path / "flows")) >= 7
    assert (tmp_path / "flows.har").stat().st_size > 5_000
    assert traces(tmp_path, everybody) == []


def test_a_dump_has_what_would_have_been_done(make: Make, tmp_path: Path) -> None:
    dump = tmp_path / "flows"
    world = make(pat("work"), pat("spare"), arguments=(*OBSERVE, "-w", str(dump)), ready=0)
    at_home(world.standin)
    world.standin.plan(Answer(path=RESPONSES, status=401, body=REVOKED))
    with world.proxy.client() as client:
        assert world.turn(client).status_code == 401
    world.proxy.stop()

    (flow,) = recorded(dump)
    document = flow.metadata["codexpool"]
    assert document["observed"] is True
    first, second = document["attempts"]
    assert (first["identity"], first["status"], first["verdict"]["row"]) == ("work", 401, "7")
    assert (second["identity"], second["sent_at"], second["status"]) == ("spare", None, None)
    assert [c["name"] for c in second["candidates"]] == ["work", "spare"]
    assert "would be sent again as spare" in flow.comment


@pytest.mark.parametrize("setting", ["yes", "1"])
def test_an_invalid_switch_is_refused_at_the_start(make: Make, setting: str) -> None:
    arguments = ("--set", f"codexpool_observe={setting}")
    world = make(pat("work"), arguments=arguments, started=False)
    world.proxy.start(wait=False)

    assert world.proxy.ends() == 1
    assert f"codexpool: codexpool_observe is '{setting}'" in world.proxy.log


def test_nothing_is_traced_on_other_paths(world: World) -> None:
    with world.proxy.client() as client:
        answer = client.get(OWN)
        with suppress(httpx.TransportError):
            client.get("https://ab.chatgpt.com/x")

    assert answer.status_code == 200
    assert not re.search(r"observed: GET /(backend-api/wham/settings/user|x)", world.proxy.log)
