"""What the wire sees of a request that is swapped, and of one that is not."""

from __future__ import annotations

import gzip
import hashlib
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import httpx
import pytest
import zstandard

from tests.e2e import tunnels
from tests.e2e.world import (
    BACKEND,
    MODEL,
    OWN,
    World,
    a_world,
    raw_exchange,
    served_by,
    socket_turn,
)
from tests.running import CLIENT, pat
from tests.standin import DISCOVERY, RESPONSES, Answer, Token

GOV = "https://gov.chatgpt.com"

NAMES = ("work", "gov")


def gov() -> Token:
    return pat("gov", fedramp=True, origin=GOV, routing_override="us-gov-1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two identities that have nothing in common: host, FedRAMP and routing differ."""
    with a_world(tmp_path_factory.mktemp("swap"), pat("work"), gov()) as world:
        yield world


@pytest.fixture(autouse=True)
def _anew(world: World) -> None:
    world.reset()


def session_of(world: World, client: httpx.Client, name: str) -> str:
    """A session that this identity serves."""
    for number in range(10):
        session = f"of-{name}-{number}-{secrets.token_hex(4)}"
        if served_by(world.turn(client, session)) == name:
            return session
    raise AssertionError(f"{name} never served")


@pytest.mark.parametrize("name", NAMES)
def test_headers_fit_the_identity_and_all_others_are_unchanged(world: World, name: str) -> None:
    with world.proxy.client() as client:
        session = session_of(world, client, name)
        odd = {
            "X-Odd-Case": "kept  as it is",
            "user-agent": "codex_cli_rs/0.169.0",
            "X-OpenAI-Fedramp": "false",
            "X-OpenAI-Account-Routing-Override": "eu-1",
            "x-openai-internal-codex-residency": "eu",
            "OpenAI-Organization": "org-of-the-client",
            "OpenAI-Project": "project-of-the-client",
            "x-oai-attestation": "attests-the-clients-device",
            "x-openai-actor-authorization": "acts-for-the-client",
            "x-openai-agent-assertion": "vouches-for-the-clients-agent",
            "x-codex-turn-state": "forged",
            "x-codex-installation-id": "installation",
        }
        world.turn(client, session, headers=odd)

    world.check()
    seen = world.seen[-1]
    assert seen.name == name
    kept = {"X-Odd-Case", "user-agent", "x-codex-installation-id"}
    assert {(key, value) for key, value in seen.headers if key in kept} == {(key, odd[key]) for key in kept}
    assert seen.header("x-codex-turn-state") is None
    assert seen.header("host") == ("chatgpt.com" if name == "work" else "gov.chatgpt.com")


def test_any_number_of_credentials_is_replaced_by_one(world: World) -> None:
    credentials = [
        b"Authorization: AgentAssertion eyJ-an-assertion-of-the-client",
        b"AUTHORIZATION: Bearer " + CLIENT.token.encode(),
        b"authorization: Basic Y2xpZW50OnNlY3JldA==",
    ]
    body = json.dumps({"model": "m", "input": "x"}).encode()
    lines = [b"POST " + RESPONSES.encode() + b" HTTP/1.1", b"host: chatgpt.com", *credentials]
    lines += [b"ChatGPT-Account-ID: one", b"chatgpt-account-id: two", b"content-length: %d" % len(body)]
    status, _ = raw_exchange(world, b"\r\n".join(lines) + b"\r\n\r\n" + body)

    assert status == 200
    world.check()
    names = [key.lower() for key, _ in world.seen[-1].headers]
    assert (names.count("authorization"), names.count("chatgpt-account-id")) == (1, 1)


def test_a_request_without_credential_gets_one(world: World) -> None:
    body = b'{"model": "m", "input": "x"}'
    head = f"POST {RESPONSES} HTTP/1.1\r\nhost: chatgpt.com\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    assert raw_exchange(world, head + body)[0] == 200
    world.check()
    world.nothing_of_the_client_left()


def test_a_turn_state_goes_back_only_to_its_issuer(world: World) -> None:
    with world.proxy.client() as client:
        sessions = {name: session_of(world, client, name) for name in NAMES}
        token = world.tokens[0].token
        state = Answer(path=RESPONSES, token=token, status=200, headers={"x-codex-turn-state": "state-of-work"})
        world.standin.plan(state)
        assert world.turn(client, sessions["work"]).headers["x-codex-turn-state"] == "state-of-work"

        for session in sessions.values():
            world.turn(client, session, headers={"x-codex-turn-state": "state-of-work"})

    assert [seen.header("x-codex-turn-state") for seen in world.seen[-2:]] == ["state-of-work", None]


def test_a_compressed_body_leaves_byte_for_byte(world: World) -> None:
    document = json.dumps({"model": "m", "input": secrets.token_hex(400_000)}).encode()
    body = zstandard.ZstdCompressor().compress(document)
    with world.proxy.client() as client:
        answer = client.post(MODEL, content=body, headers={"content-encoding": "zstd", "thread-id": "zstd"})

    assert answer.status_code == 200
    assert world.seen[-1].body_sha256 == hashlib.sha256(body).hexdigest()
    assert world.seen[-1].header("content-encoding") == "zstd"


async def test_a_chunked_body_leaves_whole(world: World) -> None:
    pieces = [json.dumps({"model": "m", "input": "x" * 50_000}).encode(), b" " * 70_000, b"\n"]

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async with world.proxy.async_client() as client:
        assert (await client.post(MODEL, content=body())).status_code == 200

    assert world.seen[-1].body_sha256 == hashlib.sha256(b"".join(pieces)).hexdigest()
    world.check()


def test_an_answer_streams_from_its_first_byte(world: World) -> None:
    world.standin.plan(Answer(path=RESPONSES, pace=0.25))
    with world.proxy.client() as client:
        body, headers = {"model": "m", "input": "x"}, {"thread-id": "streams"}
        arrivals = []
        with client.stream("POST", MODEL, json=body, headers=headers) as answer:
            for _ in answer.iter_raw():
                arrivals.append(time.monotonic())

    assert arrivals[-1] - arrivals[0] > 1  # seven events, a quarter of a second apart


async def test_a_websocket_is_opened_and_answered_under_the_identity(world: World) -> None:
    async with world.socket("over-websocket") as socket:
        first = served_by(await socket_turn(socket))
        assert served_by(await socket_turn(socket, "x" * 300_000)) == first

    assert {seen.name for seen in world.seen} == {first}
    world.check()
    world.nothing_of_the_client_left()


@pytest.mark.parametrize(
    "path", ["/backend-api/wham/settings/user", "/backend-api/ps/plugins/installed", "/backend-api/x/%2e%2e/y"]
)
def test_an_own_path_leaves_byte_for_byte(world: World, path: str) -> None:
    head = [("Host", "chatgpt.com"), ("AUTHORIZATION", f"Bearer {CLIENT.token}"), ("x-Odd", "a  b")]
    head += [("ChatGPT-Account-Id", CLIENT.account_id), ("x-oai-attestation", "attests"), ("x-odd", "again")]
    lines = [f"POST {path}?a=%41&b HTTP/1.1", *(f"{name}: {value}" for name, value in head), "Content-Length: 3"]
    raw_exchange(world, ("\r\n".join(lines) + "\r\n\r\n").encode() + b"\x00\xffz")

    seen = world.seen[-1]
    assert (seen.path, seen.query, seen.body) == (path, "a=%41&b", b"\x00\xffz")
    assert seen.headers == [*head, ("Content-Length", "3")]
    assert world.standin.leaks == []


@pytest.mark.parametrize("host", ["ab.chatgpt.com", "api.openai.com"])
def test_another_host_never_gets_a_pooled_token(world: World, host: str) -> None:
    with world.proxy.client() as client:
        client.post(f"https://{host}{RESPONSES}", json={"model": "m", "input": "x"})

    assert [(seen.host, seen.header("authorization")) for seen in world.seen] == [(host, f"Bearer {CLIENT.token}")]
    assert world.standin.leaks == []


@pytest.mark.parametrize(
    ("connected_to", "says"),
    [("chatgpt.com", "ab.chatgpt.com"), ("chatgpt.com", "chatgpt.com:443"), ("chatgpt.com", "evil.test")],
)
def test_a_forged_host_header_leads_no_pooled_token_elsewhere(world: World, connected_to: str, says: str) -> None:
    body = b'{"model": "m", "input": "x"}'
    lines = [f"POST {RESPONSES} HTTP/1.1", f"Host: {says}", f"Authorization: Bearer {CLIENT.token}"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n"
    status, _ = raw_exchange(world, head.encode() + body, connected_to)

    assert status == 200
    assert world.seen[-1].header("host") in ("chatgpt.com", "gov.chatgpt.com")
    world.check()
    world.nothing_of_the_client_left()


def test_a_fake_backend_gets_no_pooled_token(world: World) -> None:
    lines = [f"GET {DISCOVERY} HTTP/1.1", "Host: chatgpt.com", f"Authorization: Bearer {CLIENT.token}"]
    raw_exchange(world, ("\r\n".join(lines) + "\r\n\r\n").encode(), "ab.chatgpt.com")

    assert world.seen[-1].header("authorization") == f"Bearer {CLIENT.token}"


@pytest.mark.parametrize(
    "path",
    [
        "/backend-api/codex/../codex/responses",
        "/backend-api/wham/%2e%2e/codex/responses",
        "/backend-api/codex%2fresponses",
        "/backend-api//codex/responses",
        "/backend-api/codex/responses;x=1",
        "/backend-api/codex/resp%256fnses",
        "/backend-api/codex/models/../../wham/reset-credits",
    ],
)
def test_an_ambiguous_path_gets_no_pooled_token(world: World, path: str) -> None:
    lines = [f"GET {path} HTTP/1.1", "Host: chatgpt.com", f"Authorization: Bearer {CLIENT.token}"]
    lines.append(f"ChatGPT-Account-Id: {CLIENT.account_id}")
    raw_exchange(world, ("\r\n".join(lines) + "\r\n\r\n").encode())

    assert [seen.header("authorization") for seen in world.seen] == [f"Bearer {CLIENT.token}"]
    assert world.standin.leaks == []


@pytest.mark.parametrize("url", [f"http://chatgpt.com{RESPONSES}", f"https://chatgpt.com:8443{RESPONSES}"])
def test_plain_http_and_another_port_get_no_pooled_token(world: World, url: str) -> None:
    with world.proxy.client() as client, suppress(httpx.TransportError):  # the stand-in opens no tunnel to there
        client.post(url, json={"model": "m", "input": "x"})

    assert world.seen, "it went on its way, untouched"
    assert not any(token.token in str(seen.headers) for seen in world.seen for token in world.tokens)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_routing_discovery_names_the_clients_own_account(world: World, name: str, encoding: str) -> None:
    with world.proxy.client() as client:
        session = session_of(world, client, name)
        token = next(token for token in world.tokens if token.name == name)
        entry = {"id": token.account_id, "workspace_backend_origin": token.origin, "account_routing_override": "r1"}
        document = {
            "accounts": [entry],
            "default_account_id": token.account_id,
            "account_ordering": [token.account_id],
        }
        text = json.dumps(document).encode()
        body = gzip.compress(text) if encoding == "gzip" else text
        headers = {"content-type": "application/json"} | ({"content-encoding": "gzip"} if encoding == "gzip" else {})
        world.standin.plan(Answer(path=DISCOVERY, status=200, headers=headers, body=body))
        answer = client.get(BACKEND + DISCOVERY, headers={"thread-id": session})

    own = CLIENT.account_id
    assert answer.json() == {"accounts": [{**entry, "id": own}], "default_account_id": own, "account_ordering": [own]}
    assert answer.headers.get("content-encoding", "identity") == encoding
    assert world.seen[-1].name == name
    world.check()


def test_a_client_is_served_at_its_discovered_origin(world: World) -> None:
    with world.proxy.client() as client:
        session = session_of(world, client, "gov")
        answer = client.post(GOV + RESPONSES, json={"model": "m", "input": "x"}, headers={"thread-id": session})
        assert served_by(answer) == "gov"
        other = session_of(world, client, "work")
        answer = client.post(GOV + RESPONSES, json={"model": "m", "input": "x"}, headers={"thread-id": other})
        assert served_by(answer) == "work"

    assert world.seen[-1].host == "chatgpt.com"
    world.check()


def test_an_answer_about_the_request_itself_is_relayed(world: World) -> None:
    body = {"error": {"message": "a word of the backend", "code": "context_length_exceeded", "type": "x"}}
    world.standin.plan(Answer(path=RESPONSES, status=400, headers={"x-request-id": "req-1"}, body=body))
    with world.proxy.client() as client:
        answer = world.turn(client)

    assert (answer.status_code, answer.json(), answer.headers["x-request-id"]) == (400, body, "req-1")


def test_own_path_answers_come_as_the_backend_gave_them(world: World) -> None:
    page = {"error": {"code": "token_expired", "message": "the client's own affair"}}
    world.standin.plan(Answer(path="/backend-api/wham/settings/user", status=401, headers={"x-own": "1"}, body=page))
    with world.proxy.client() as client:
        answer = client.get(OWN)

    assert (answer.status_code, answer.json(), answer.headers["x-own"]) == (401, page, "1")
    assert len(world.seen) == 1


def test_http2_is_spoken_with_clients_where_the_user_set_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("h2")
    with a_world(folder, pat("work"), pat("spare"), arguments=("--set", "http2=true")) as world:
        body = zstandard.ZstdCompressor().compress(
            json.dumps({"model": "m", "input": secrets.token_hex(90_000)}).encode()
        )
        with world.proxy.client_of_http2() as client:
            dead = served_by(world.turn(client, "one"))
            assert client.get(OWN).http_version == "HTTP/2"
            world.standin.kill(next(token.token for token in world.tokens if token.name == dead))
            answer = client.post(MODEL, content=body, headers={"content-encoding": "zstd", "thread-id": "one"})
            assert answer.http_version == "HTTP/2"
            assert served_by(answer) != dead

        bodies = {seen.body_sha256 for seen in world.seen if seen.path == RESPONSES and seen.body_length > 50_000}
        assert bodies == {hashlib.sha256(body).hexdigest()}
        world.check()
        world.nothing_of_the_client_left()


def test_a_client_that_offers_http2_is_given_http1_by_default(world: World) -> None:
    trust = world.proxy.trust
    trust.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", world.proxy.port), 15) as plain:
        assert b" 200 " in tunnels.asked(plain, "chatgpt.com:443")
        with trust.wrap_socket(plain, server_hostname="chatgpt.com") as tunnel:
            assert tunnel.selected_alpn_protocol() == "http/1.1"


def test_an_own_path_after_a_swap_keeps_its_credential(world: World) -> None:
    """On one connection."""
    with world.proxy.client() as client:
        for number in range(5):
            world.turn(client, f"mixed-{number}")
            assert client.get(OWN).status_code == 200

    assert [seen.name for seen in world.seen if seen.path.endswith("settings/user")] == ["client"] * 5
    world.check()


def test_a_path_that_is_merely_encoded_is_swapped_too(world: World) -> None:
    # The last one of this module: the stand-in does not decode, so it refuses, and the identities have to rest.
    lines = [
        "POST /backend-api/codex/%72esponses HTTP/1.1",
        "Host: chatgpt.com",
        f"Authorization: Bearer {CLIENT.token}",
    ]
    raw_exchange(world, ("\r\n".join([*lines, "Content-Length: 2"]) + "\r\n\r\n{}").encode())

    assert world.seen
    world.nothing_of_the_client_left()
