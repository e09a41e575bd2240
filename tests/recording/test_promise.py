"""The promise: nothing that is anybody's is in a recording, and what is there instead is good for something."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.proxy import mode_specs

from codexpool.recording import tokens
from tests.recording.flows import a_flow, a_socket, is_in, read, readable, recorded
from tests.recording.secrets import (
    ANYWHERE,
    NAMED,
    REPEATED,
    accounts,
    anything,
    bearers,
    cookies,
    emails,
    inside,
    jwts,
    uuids,
)

FORMATS = pytest.mark.parametrize("as_har", [False, True], ids=["flows", "har"])


@FORMATS
@pytest.mark.parametrize("place", ANYWHERE)
@given(value=anything)
@settings(max_examples=20)
def test_what_looks_private_is_nowhere_in_the_file(place: str, as_har: bool, value: str) -> None:
    content = recorded(ANYWHERE[place](value), as_har=as_har)

    assert not is_in(value, readable(content))
    assert content.count(b"chatgpt.com") > 0


@FORMATS
@pytest.mark.parametrize("name", NAMED)
@given(data=st.data())
@settings(max_examples=15)
def test_what_is_private_by_its_name_is_nowhere_in_the_file(name: str, as_har: bool, data: st.DataObject) -> None:
    values, place = NAMED[name]
    value = data.draw(values)
    again = data.draw(st.lists(st.sampled_from(REPEATED), min_size=1, max_size=3))
    flows = [place(value), *(repeat(value) for repeat in again)]
    data.draw(st.randoms(use_true_random=False)).shuffle(flows)

    content = recorded(*flows, as_har=as_har)

    assert not is_in(value, readable(content))


@given(jwts())
def test_nothing_that_a_token_says_of_its_bearer_is_left(token: str) -> None:
    flows = [
        a_flow(headers=[("authorization", f"Bearer {token}")]),
        a_flow(answer=" and ".join(inside(token))),
    ]

    text = readable(recorded(*flows))

    assert [value for value in inside(token) if is_in(value, text)] == []


@given(st.lists(anything, min_size=2, max_size=8, unique_by=str.lower))
def test_the_same_value_has_the_same_stand_in_and_others_have_others(values: list[str]) -> None:
    names = list(ANYWHERE)
    flows = [a_flow(headers=[("x-one", f"see {value}")]) for value in values]
    flows += [a_flow(answer=f"[{value}] {name}") for value, name in zip(values, names, strict=False)]

    made = read(recorded(*flows))

    standins = [flow.request.headers["x-one"].removeprefix("see ") for flow in made[: len(values)]]
    assert len(set(standins)) == len(values)
    answers = [flow.response.text or "" for flow in made[len(values) :] if flow.response is not None]
    assert [answer.split("] ")[0] for answer in answers] == [f"[{standin}" for standin in standins]


@FORMATS
@given(data=st.data())
@settings(max_examples=40)
def test_recording_a_recording_changes_nothing(as_har: bool, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.sampled_from([*ANYWHERE.values()]), min_size=1, max_size=4))
    flows = [place(data.draw(anything)) for place in places]
    for values, place in data.draw(st.lists(st.sampled_from([*NAMED.values()]), max_size=3)):
        flows.append(place(data.draw(values)))

    once = recorded(*flows)
    twice = recorded(*read(once), as_har=as_har)

    again = read(twice)
    assert [_said(flow) for flow in again] == [_said(flow) for flow in read(once)]


def _said(flow: http.HTTPFlow) -> object:
    """All of a flow that goes into both kinds of file."""
    messages = [message.content for message in flow.websocket.messages] if flow.websocket is not None else []
    response = flow.response
    return (
        flow.request.path,
        list(flow.request.headers.items(multi=True)),
        flow.request.get_content(strict=False),
        None
        if response is None or not response.status_code
        else (list(response.headers.items(multi=True)), response.get_content(strict=False)),
        messages,
    )


@given(st.lists(st.tuples(anything, st.sampled_from(list(ANYWHERE.values()))), min_size=1, max_size=5))
@settings(max_examples=30)
def test_bodies_are_left_out_unless_they_are_wanted(planted: list[tuple[str, object]]) -> None:
    flows = [place(value) for value, place in planted]  # type: ignore[operator]

    made = read(recorded(*flows, bodies=False))

    for flow in made:
        assert not flow.request.raw_content
        assert flow.response is None or not flow.response.raw_content
        assert flow.websocket is None or flow.websocket.messages == []


def test_sizes_are_kept_of_what_was_left_out() -> None:
    socket = a_socket(["x" * 10, "y" * 20], ["z" * 5])

    made = read(recorded(a_flow(body="0123456789", answer="0123"), socket, bodies=False))

    notes = [flow.metadata["codexpool_recording"] for flow in made]
    assert (notes[0]["request_bytes"], notes[0]["response_bytes"]) == (10, 4)
    assert (notes[1]["messages_sent"], notes[1]["bytes_sent"], notes[1]["messages_received"]) == (2, 30, 1)


@given(jwts())
def test_a_token_is_still_one_that_clients_can_read(token: str) -> None:
    made = read(recorded(a_flow(headers=[("authorization", f"Bearer {token}")])))[0]

    standin = tokens.payload_of(made.request.headers["authorization"].removeprefix("Bearer "))
    before = tokens.payload_of(token)
    assert standin is not None
    assert before is not None
    assert standin.keys() == before.keys()
    assert (standin["exp"], standin["iss"]) == (before["exp"], before["iss"])
    auth = standin["https://api.openai.com/auth"]
    assert auth.keys() == before["https://api.openai.com/auth"].keys()
    assert auth["chatgpt_plan_type"] == "business"
    assert standin["email"] == "person1@example.com"
    assert auth["chatgpt_account_id"].endswith("-000000000001") or auth["chatgpt_account_id"].endswith(
        "-000000000004"
    )


@given(emails, uuids, bearers, cookies, accounts)
def test_stand_ins_keep_the_shape(email: str, uuid: str, bearer: str, cookie: str, account: str) -> None:
    flow = a_flow(
        headers=[
            ("authorization", f"Bearer {bearer}"),
            ("cookie", f"a={cookie}; b={cookie}"),
            ("thread-id", uuid),
            ("chatgpt-account-id", account),
            ("x-mail", email),
        ]
    )

    headers = read(recorded(flow))[0].request.headers

    assert headers["authorization"].startswith("Bearer standin-")
    first, second = headers["cookie"].split("; ")
    assert first.removeprefix("a=") == second.removeprefix("b=")
    assert [len(part) for part in headers["thread-id"].split("-")] == [8, 4, 4, 4, 12]
    assert headers["thread-id"][14] == uuid[14]
    assert "@" in headers["x-mail"]
    assert headers["chatgpt-account-id"].count("-") == (4 if len(account) == 36 else 2)


def test_what_is_nobodys_stays_as_it_is() -> None:
    headers = [
        ("user-agent", "codex_exec/0.169.0 (Debian 12.0.0; x86_64) dumb (codex_exec; 0.169.0)"),
        ("x-codex-beta-features", "remote_compaction_v2"),
        ("x-codex-routing-hint", "model=gpt-5.1-codex-max;tier=fast"),
        ("openai-beta", "responses_websockets=2026-02-06"),
        ("accept", "text/event-stream"),
        ("content-type", "application/json"),
        ("version", "0.169.0"),
        ("originator", "codex_exec"),
        ("sec-websocket-key", "N4kwaorYcXS3H3HpPr2lsA=="),
        ("x-codex-primary-reset-at", "1764000000"),
    ]
    body = json.dumps(
        {
            "model": "gpt-5.1-codex-max",
            "instructions": "You are a coding agent. Use `apply_patch`, and never guess: key points first.",
            "max_output_tokens": 100,
            "tools": [{"type": "function", "name": "exec_command", "parameters": {"required": ["cmd"]}}],
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "fix main.rs, line 12 at 14:02"}]}],
            "error": {"code": "token_revoked", "type": "invalid_request_error"},
        },
        separators=(",", ":"),
    )
    flow = a_flow("/backend-api/codex/responses?client_version=0.169.0&limit=200", headers=headers, body=body)

    made = read(recorded(flow))[0].request

    assert list(made.headers.items(multi=True))[: len(headers)] == headers
    assert made.text == body
    assert made.path == flow.request.path


def test_a_body_that_nobody_can_look_into_is_left_out() -> None:
    closed = a_flow(body="x")
    closed.request.headers["content-encoding"] = "made-up"
    hidden = a_flow(answer=b"\x1f\x8b\x08 not what it says")
    binary = a_flow(body=b"\xff\xfe\x00 at-0123456789abcdefABCDEF \xff")
    harmless = a_flow(body=b"\xff\xfe\x01 nothing \xff")

    made = read(recorded(closed, hidden, binary, harmless))

    assert made[0].request.raw_content is None
    assert made[1].response is not None
    assert made[1].response.raw_content is None
    assert made[2].request.raw_content is None
    assert made[3].request.raw_content == b"\xff\xfe\x01 nothing \xff"
    assert [sorted(flow.metadata["codexpool_recording"].get("left_out", {})) for flow in made] == [
        ["request"],
        ["response"],
        ["request"],
        [],
    ]


def test_where_somebody_is_and_what_a_proxy_knows_besides_is_not_told() -> None:
    flow = a_flow(client="10.11.12.13", metadata={"proxyauth": ("somebody", "hunter2"), "other": {"a": "secret"}})
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse("upstream:http://proxy.corp.example:3128")

    content = recorded(flow, a_flow(answer="client 10.11.12.13 is known"))

    text = readable(content)
    assert [word for word in ("10.11.12.13", "192.168.1.23", "hunter2", "corp.example") if word in text] == []
    made = read(content)
    assert made[0].client_conn.peername[0] != made[0].server_conn.peername[0]  # type: ignore[index]
    assert made[1].response is not None
    assert made[0].client_conn.peername[0] in (made[1].response.text or "")


def test_names_of_identities_are_replaced_where_codexpool_speaks_and_left_where_they_are_words() -> None:
    served = a_flow(
        headers=[("authorization", "Bearer <codexpool:work>"), ("chatgpt-account-id", "<codexpool:work>")],
        answer="does it work? networking is spare time",
        comment="codexpool: work, attempt 2 (spare: 401 token_revoked on codex/responses)",
        metadata={
            "codexpool": {
                "attempts": [
                    {
                        "identity": "spare",
                        "candidates": [{"name": "work", "chosen": False}, {"name": "alice-private", "chosen": True}],
                    }
                ],
                "time": [["attempt 1 (spare), until its answer began", 3.0]],
            }
        },
    )
    refused = a_flow(
        status=400, answer="codexpool: no identity can serve. work: replace its PAT; spare: limited until 14:02 UTC"
    )

    first, second = read(recorded(served, refused))

    assert first.request.headers["authorization"] == "Bearer <codexpool:identity-1>"
    assert first.comment == "codexpool: identity-1, attempt 2 (identity-2: 401 token_revoked on codex/responses)"
    assert first.response is not None
    assert first.response.text == "does it work? networking is spare time"
    trace = first.metadata["codexpool"]
    assert trace["attempts"][0]["identity"] == "identity-2"
    assert [one["name"] for one in trace["attempts"][0]["candidates"]] == ["identity-1", "identity-3"]
    assert trace["time"][0][0] == "attempt 1 (identity-2), until its answer began"
    assert second.response is not None
    assert "identity-1: replace its PAT; identity-2: limited" in (second.response.text or "")


def test_placeholders_that_name_nobody_stay() -> None:
    flow = a_flow(
        headers=[("authorization", "Bearer <codexpool:waiting>"), ("x-oai-attestation", "<codexpool:removed>")]
    )

    headers = read(recorded(flow))[0].request.headers

    assert headers["authorization"] == "Bearer <codexpool:waiting>"
    assert headers["x-oai-attestation"] == "<codexpool:removed>"


def test_a_repository_and_a_project_are_not_told() -> None:
    metadata = {
        "installation_id": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "workspaces": {
            "/home/alice/secret-project": {
                "associated_remote_urls": {"origin": "git@github.example:alice/private.git"},
                "latest_git_commit_hash": "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567",
            }
        },
    }
    flow = a_flow(headers=[("x-codex-turn-metadata", json.dumps(metadata))])

    text = readable(recorded(flow, bodies=False))

    words = ("alice", "secret-project", "github.example", "private.git", "0a1b2c3d", "7c9e6679")
    assert [word for word in words if word in text] == []


def test_many_flows_in_any_order_have_one_stand_in_for_one_value() -> None:
    token = "at-0123456789abcdefABCDEFghij"
    flows = [
        a_flow(headers=[("x-odd", f"before {token} it is named")]),
        a_flow(headers=[("authorization", f"Bearer {token}")]),
        a_flow(f"/backend-api/tokens/{token}/revoke"),
        a_flow(answer=json.dumps({"error": {"message": f"bad token: Bearer {token}"}})),
    ]
    random.Random(3).shuffle(flows)

    text = readable(recorded(*flows))

    assert text.count("at-standin-1-") >= 4
    assert "at-standin-2-" not in text
