"""What a recorded request becomes when it is played."""

from __future__ import annotations

import json

import pytest
import zstandard
from mitmproxy import http

from codexpool.recording.script import HELLO, TURN, Part, fitted, parts
from codexpool.recording.taking import taken
from tests.recording.flows import a_flow, a_socket
from tests.standin import RESPONSES
from tests.standin.paths import MCP

TOKEN, ACCOUNT = "at-of-the-replay", "acc-of-the-replay"


def played(*flows: http.HTTPFlow, bodies: bool = True) -> list[Part]:
    return parts([taken(flow, bodies) for flow in flows], TOKEN, ACCOUNT)


def test_a_request_is_sent_as_it_was_with_the_login_of_the_replay() -> None:
    headers = [
        ("Authorization", "Bearer <codexpool:identity-1>"),
        ("X-Odd", "one"),
        ("chatgpt-account-id", "acc-standin-1"),
        ("x-odd", "two"),
        ("connection", "keep-alive"),
        ("cookie", "a=standin-cookie-1"),
    ]

    part = played(a_flow("/backend-api/codex/models?a=1", method="GET", headers=headers))[0]

    assert (part.sent.method, part.sent.host, part.sent.path) == (
        "GET",
        "chatgpt.com",
        "/backend-api/codex/models?a=1",
    )
    assert part.sent.headers == [
        ("host", "chatgpt.com"),
        ("Authorization", f"Bearer {TOKEN}"),
        ("X-Odd", "one"),
        ("chatgpt-account-id", ACCOUNT),
        ("x-odd", "two"),
        ("cookie", "a=standin-cookie-1"),
    ]


def test_no_login_is_added_where_there_was_none() -> None:
    part = played(a_flow("/otlp/v1/metrics", host="ab.chatgpt.com", headers=[("statsig-api-key", "standin-1")]))[0]

    assert part.sent.headers[1:] == [("statsig-api-key", "standin-1")]


def test_a_body_is_sent_as_it_was() -> None:
    flow = a_flow(RESPONSES, headers=[("content-encoding", "zstd")], body='{"model": "m"}')

    part = played(flow)[0]

    assert part.sent.body == flow.request.raw_content
    assert part.sent.headers[-1] == ("content-length", str(len(part.sent.body)))
    assert part.notes == []


@pytest.mark.parametrize(("path", "least"), [(RESPONSES, TURN), (MCP, HELLO), ("/backend-api/x", {})])
def test_a_body_that_was_not_recorded_is_the_least_that_is_valid(path: str, least: object) -> None:
    flow = a_flow(path, headers=[("content-encoding", "zstd")], body="something")

    part = played(flow, bodies=False)[0]

    assert json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(part.sent.body)) == least
    assert part.notes == ["its body was not recorded; it is sent with the least that is valid"]


def test_no_body_is_added_where_there_was_none() -> None:
    get, empty = played(a_flow(method="GET"), a_flow(method="POST"), bodies=False)

    assert (get.sent.body, empty.sent.body) == (b"", b"")
    assert get.notes == empty.notes == []


@pytest.mark.parametrize(
    ("flow", "why"),
    [
        (a_flow(host="git.corp.example"), "the stand-in does not play git.corp.example"),
        (a_flow("/oauth/token", host="auth.openai.com"), "it logs somebody in, or renews a login"),
        (a_flow(method="CONNECT"), "it is no request for a resource"),
    ],
)
def test_what_cannot_be_played_is_left_out_and_says_why(flow: http.HTTPFlow, why: str) -> None:
    assert [part.why for part in played(flow)] == [why]


def test_what_was_sent_to_another_origin_goes_to_the_usual_one() -> None:
    part = played(a_flow(host="gov.chatgpt.com", headers=[("host", "gov.chatgpt.com")]))[0]

    assert part.sent.host == "chatgpt.com"
    assert ("host", "chatgpt.com") in part.sent.headers
    assert part.notes == ["it is sent to chatgpt.com: the pool of a replay has nobody elsewhere"]


def test_attempts_of_one_request_are_played_once() -> None:
    refused, served = a_flow(status=401), a_flow(status=200)
    served.id = refused.id

    made = played(refused, a_flow("/other"), served)

    assert [(part.number, part.recorded) for part in made] == [(2, 200), (3, 200)]


def test_a_socket_has_its_messages_and_its_handshake() -> None:
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "N4kwaorYcXS3H3HpPr2lsA==")]
    flow = a_socket(['{"type":"response.create"}'], ['{"type":"response.completed"}'], headers=upgrade)

    whole, bare = played(flow)[0], played(flow, bodies=False)[0]

    assert whole.is_upgrade
    assert whole.messages == ['{"type":"response.create"}']
    assert ("Connection", "Upgrade") in whole.sent.headers
    assert bare.messages == []
    assert bare.notes == ["its 1 messages were not recorded; only the handshake is played"]


def message(*items: dict[str, str], **more: object) -> str:
    return json.dumps({"type": "response.create", "input": list(items), **more})


def test_a_message_builds_upon_the_answer_of_now() -> None:
    made = json.loads(fitted(message(previous_response_id="resp_standin-7"), "resp_1", set()))

    assert made["previous_response_id"] == "resp_1"


def test_a_message_that_builds_upon_nothing_goes_on_doing_so() -> None:
    assert "previous_response_id" not in json.loads(fitted(message(), "resp_1", set()))


@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call"])
def test_the_output_of_a_call_that_was_never_made_gets_its_call(kind: str) -> None:
    output = {"type": f"{kind}_output", "call_id": "call_1", "output": "x"}

    made = json.loads(fitted(message(output), "", set()))["input"]
    there = json.loads(fitted(message(output), "", {"call_1"}))["input"]
    own = json.loads(fitted(message({"type": kind, "call_id": "call_1"}, output), "", set()))["input"]

    assert [item["type"] for item in made] == [kind, f"{kind}_output"]
    assert made[0]["call_id"] == "call_1"
    assert there == [output]
    assert [item["type"] for item in own] == [kind, f"{kind}_output"]


def test_other_messages_stay_as_they_are() -> None:
    assert fitted("no JSON", "resp_1", set()) == "no JSON"
    assert fitted('{"type": "response.cancel"}', "resp_1", set()) == '{"type": "response.cancel"}'
