"""HTTP/1.1, HTTP/2 and WebSockets carry the same answers; deviations come as planned on each."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.standin import (
    CLOUDFLARE_PAGE,
    MODELS,
    RESPONSES,
    Answer,
    Seen,
    StandIn,
    error_body,
    usage_limit_body,
)
from tests.standin.clients import (
    WORK,
    answer_in,
    ask,
    dressed,
    http,
    prompt,
    say,
    settings,
    spare,
    text_in,
    tls,
    websocket,
    work,
)
from tests.standin.logins import CLIENT_ID

BOTH = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])


def last(standin: StandIn) -> Seen:
    return standin.seen[-1]


@BOTH
async def test_each_of_many_concurrent_answers_belongs_to_its_request(standin: StandIn, http2: bool) -> None:
    standin.backend.style.pace = 0.01

    async def one(client: httpx.AsyncClient, number: int) -> None:
        token = work() if number % 2 else spare()
        response = await client.post(
            f"https://chatgpt.com{RESPONSES}", json=prompt(f"echo:w{number}"), headers=dressed(token)
        )
        text = answer_in(response)
        assert text.startswith(f"answer from {token.name}, request ")
        assert text.endswith(f" w{number}")

    async with httpx.AsyncClient(**settings(standin, http2=http2)) as client:
        await asyncio.gather(*(one(client, number) for number in range(200)))
    assert {seen.transport for seen in standin.seen} == {"h2" if http2 else "http/1.1"}
    standin.wait(lambda: all(seen.complete for seen in list(standin.seen)))
    assert sorted(seen.number for seen in standin.seen) == list(range(1, 201))


@BOTH
def test_a_body_larger_than_the_windows_passes_both_ways(standin: StandIn, http2: bool) -> None:
    # An HTTP/2 client of httpx opens windows of 16 MiB.
    big = "x" * 20_000_000
    standin.plan(Answer(path=RESPONSES, after=1, status=200, body=big))
    with http(standin, http2=http2) as client:
        sent = client.post(f"https://chatgpt.com{RESPONSES}", json=prompt(big), headers=dressed(work()))
        got = ask(client, work())
    assert sent.status_code == 200
    assert standin.seen[0].body is not None
    assert len(standin.seen[0].body) > 20_000_000
    assert got.text == big


@BOTH
def test_a_planned_answer_comes_after_so_many_and_so_often(standin: StandIn, http2: bool) -> None:
    standin.plan(Answer(path=RESPONSES, token=WORK, after=1, times=2, status=429, body=usage_limit_body(time.time())))
    with http(standin, http2=http2) as client:
        others = ask(client, spare()).status_code
        statuses = [ask(client, work()).status_code for _ in range(4)]
        limited = standin.seen[2]
    assert (others, statuses) == (200, [200, 429, 429, 200])
    assert (limited.status, limited.refusal) == (429, "")


@BOTH
def test_a_planned_page_has_its_headers_and_no_json(standin: StandIn, http2: bool) -> None:
    standin.plan(Answer(status=403, headers={"cf-mitigated": "challenge"}, body=CLOUDFLARE_PAGE))
    with http(standin, http2=http2) as client:
        response = ask(client, work())
    assert (response.status_code, response.headers["cf-mitigated"]) == (403, "challenge")
    assert response.headers["content-type"].startswith("text/html")


@BOTH
@pytest.mark.parametrize("cut", ["head", "body"])
def test_a_cut_answer_ends_in_an_error_and_is_on_record_as_cut(standin: StandIn, http2: bool, cut: str) -> None:
    standin.plan(Answer(path=RESPONSES, cut="head" if cut == "head" else "body"))
    with http(standin, http2=http2) as client:
        with pytest.raises(httpx.TransportError):
            ask(client, work())
        assert ask(client, work()).status_code == 200
    first = standin.seen[0]
    assert (first.cut, first.complete, first.aborted) == (True, False, False)


@BOTH
def test_a_client_that_leaves_early_is_noticed(standin: StandIn, http2: bool) -> None:
    standin.plan(Answer(path=RESPONSES, delay=30))
    with http(standin, http2=http2) as client:
        client.timeout = httpx.Timeout(0.5)
        with pytest.raises(httpx.ReadTimeout):
            ask(client, work())
    standin.wait(lambda: last(standin).aborted)
    assert not last(standin).complete


def test_turns_on_a_socket_continue_one_another(standin: StandIn) -> None:
    with websocket(standin, work()) as connection:
        prewarm = say(connection, generate=False)
        first = say(connection, "echo:one", previous_response_id=prewarm[-1]["response"]["id"])
        second = say(connection, "echo:two", previous_response_id=first[-1]["response"]["id"])
    assert connection.response is not None
    assert "permessage-deflate" in connection.response.headers["sec-websocket-extensions"]
    assert text_in(prewarm) == ""
    assert text_in(first).endswith(" one")
    assert text_in(second) == f"answer from work, request {last(standin).number}, two"
    assert [seen.transport for seen in standin.seen] == ["websocket", "message", "message", "message"]
    assert len({seen.connection for seen in standin.seen}) == 1


def test_a_previous_response_is_known_on_its_own_socket_only(standin: StandIn) -> None:
    with websocket(standin, work()) as one, websocket(standin, work()) as other:
        previous = say(one)[-1]["response"]["id"]
        [error] = say(other, previous_response_id=previous)
        again = say(other)
    assert (error["status"], error["error"]["code"]) == (400, "previous_response_not_found")
    assert text_in(again).startswith("answer from work")


def test_a_token_that_dies_on_a_socket_gets_an_error_frame(standin: StandIn) -> None:
    with websocket(standin, work()) as connection:
        say(connection)
        standin.kill(WORK)
        [error] = say(connection)
    assert (error["status"], error["error"]["code"]) == (401, "token_revoked")
    assert error["headers"]["x-openai-authorization-error"] == "token_revoked"


def test_messages_and_upgrades_are_planned_for_apart(standin: StandIn) -> None:
    standin.plan(Answer(transport="message", after=1, status=429, body=usage_limit_body(time.time() + 60)))
    standin.plan(Answer(path=RESPONSES, transport="websocket", status=401, body=error_body("token_expired", "no")))
    with pytest.raises(InvalidStatus) as refused, websocket(standin, work()):
        pass
    with websocket(standin, work()) as connection:
        fine, limited = say(connection), say(connection)
    assert refused.value.response.status_code == 401
    assert text_in(fine)
    assert (limited[0]["status"], limited[0]["error"]["type"]) == (429, "usage_limit_reached")


@pytest.mark.parametrize("cut", ["head", "body"])
def test_a_turn_can_be_cut(standin: StandIn, cut: str) -> None:
    standin.plan(Answer(transport="message", cut="head" if cut == "head" else "body"))
    with pytest.raises(ConnectionClosed), websocket(standin, work()) as connection:
        say(connection)
    standin.wait(lambda: last(standin).cut)


def test_a_client_that_leaves_in_the_middle_of_a_turn_is_noticed(standin: StandIn) -> None:
    standin.plan(Answer(transport="message", pace=30))
    with websocket(standin, work()) as connection:
        connection.send(json.dumps({"type": "response.create", **prompt("hi")}))
        standin.wait(lambda: last(standin).status == 200)
    standin.wait(lambda: last(standin).aborted)
    assert not last(standin).complete


def test_a_foreign_turn_state_is_refused_on_a_socket(standin: StandIn) -> None:
    with websocket(standin, work()) as connection:
        [error] = say(connection, client_metadata={"x-codex-turn-state": "turn-acc-spare-7"})
    assert error["error"]["code"] == "foreign_turn_state"


def test_upgrades_get_a_426_where_there_are_no_websockets(tmp_path: Path) -> None:
    with (
        StandIn([work()], folder=tmp_path, websockets=False) as standin,
        pytest.raises(InvalidStatus) as refused,
        websocket(standin, work()),
    ):
        pass
    assert refused.value.response.status_code == 426


def test_sockets_can_be_dropped_from_outside(standin: StandIn) -> None:
    with websocket(standin, work()) as connection:
        say(connection)
        standin.drop("websocket")
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)


def test_a_client_without_the_proxy_reaches_the_tls_listener(standin: StandIn) -> None:
    with httpx.Client(verify=tls(standin), trust_env=False) as client:
        response = client.get(
            f"https://127.0.0.1:{standin.port}{MODELS}",
            headers={**dressed(work()), "host": "chatgpt.com"},
            extensions={"sni_hostname": "chatgpt.com"},
        )
    assert response.status_code == 200


@pytest.mark.parametrize(
    "framing",
    [
        "content-length: 2\r\ncontent-length: 2",
        "content-length: 2\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip, chunked",
        "content-length: +2",
        "content-length : 2",
        "x-folded: a\r\n b",
    ],
)
def test_ambiguous_framing_is_refused(tmp_path: Path, framing: str) -> None:
    head = f"POST {RESPONSES} HTTP/1.1\r\nhost: chatgpt.com\r\n{framing}\r\n\r\n{{}}"
    with StandIn([work()], folder=tmp_path) as standin:
        with (
            socket.create_connection(("127.0.0.1", standin.port), timeout=10) as raw,
            tls(standin).wrap_socket(raw, server_hostname="chatgpt.com") as secured,
        ):
            secured.sendall(head.encode())
            answer = b""
            while data := _read(secured):
                answer += data
        assert not answer.startswith(b"HTTP/1.1 200")
        assert len(standin.troubles) == 1


def _read(secured: ssl.SSLSocket) -> bytes:
    try:
        return secured.recv(65536)
    except (ssl.SSLEOFError, ConnectionResetError):
        return b""


def test_refresh_tokens_work_once(standin: StandIn) -> None:
    tokens = standin.login(work())["tokens"]
    body = {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    with http(standin) as client:
        first = client.post("https://auth.openai.com/oauth/token", json=body)
        second = client.post("https://auth.openai.com/oauth/token", json=body)
        unknown = client.post("https://auth.openai.com/oauth/token", json={**body, "refresh_token": "rt-test-x"})
        renewed = work()
        renewed.token = first.json()["access_token"]
        answer = answer_in(ask(client, renewed))
    assert first.json()["refresh_token"] != tokens["refresh_token"]
    assert answer.startswith("answer from work, ")
    assert [second.status_code, second.json()["error"]["code"]] == [401, "refresh_token_reused"]
    assert unknown.json()["error"]["code"] == "refresh_token_invalidated"
    assert standin.refreshes == 3
    assert (standin.refusals, standin.leaks) == ([], [])


def test_the_limits_of_an_account_come_with_its_answers(standin: StandIn) -> None:
    standin.backend.pool[WORK].used_percent = 87.5
    with http(standin) as client, websocket(standin, work()) as connection:
        headers = ask(client, work()).headers
        frames = say(connection)
    [limits] = [frame for frame in frames if frame["type"] == "codex.rate_limits"]
    assert float(headers["x-codex-primary-used-percent"]) == 87.5
    assert limits["rate_limits"]["primary"]["used_percent"] == 87.5


def test_json_frames_are_sent_as_text(standin: StandIn) -> None:
    with websocket(standin, work()) as connection:
        connection.send(json.dumps({"type": "response.create"}))
        assert json.loads(connection.recv(timeout=10, decode=True))["status"] == 400
    assert last(standin).refusal == "model is missing"


def test_it_tells_by_their_addresses_who_asks(tmp_path: Path) -> None:
    # given a backend at an address of its own, as proxies on several machines see it
    with StandIn([work()], folder=tmp_path, address="127.0.0.2") as standin:
        for source in ("127.0.0.3", "127.0.0.4"):
            plain = socket.create_connection(("127.0.0.2", standin.port), 10, (source, 0))
            with plain, tls(standin).wrap_socket(plain, server_hostname="chatgpt.com") as secured:
                secured.sendall(b"GET /nothing HTTP/1.1\r\nHost: chatgpt.com\r\nConnection: close\r\n\r\n")
                assert secured.recv(100).startswith(b"HTTP/1.1 404")

        assert [seen.peer for seen in standin.seen] == ["127.0.0.3", "127.0.0.4"]
