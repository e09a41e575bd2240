"""The promise: a recording contains nothing private, and its pseudonyms are still useful."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.proxy import mode_specs

from codexpool.traces.trace import METADATA
from tests.recording.flows import a_flow, is_in, read, readable, recorded
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
def test_what_is_private_by_name_is_nowhere_in_the_file(name: str, as_har: bool, data: st.DataObject) -> None:
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
def test_one_value_has_one_pseudonym_of_its_own(values: list[str]) -> None:
    flows = [a_flow(headers=[("x-one", value)]) for value in values]
    flows += [a_flow(answer_headers=[("x-other", value)]) for value in values]

    made = read(recorded(*flows))

    pseudonyms = [flow.request.headers["x-one"] for flow in made[: len(values)]]
    assert len(set(pseudonyms)) == len(values)
    answers = [flow.response.headers["x-other"] for flow in made[len(values) :] if flow.response is not None]
    assert answers == pseudonyms


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
        flow.request.raw_content or b"",
        None
        if response is None or not response.status_code
        else (list(response.headers.items(multi=True)), response.raw_content or b""),
        messages,
    )


@FORMATS
@given(st.lists(st.tuples(anything, st.sampled_from(list(ANYWHERE.values()))), min_size=1, max_size=5))
@settings(max_examples=30)
def test_no_body_is_recorded(as_har: bool, planted: list[tuple[str, object]]) -> None:
    flows = [place(value) for value, place in planted]  # type: ignore[operator]

    made = read(recorded(*flows, as_har=as_har))

    for flow in made:
        assert not flow.request.raw_content
        assert flow.response is None or not flow.response.raw_content
        assert flow.websocket is None or flow.websocket.messages == []


@FORMATS
def test_sizes_of_bodies_are_kept(as_har: bool) -> None:
    made = read(recorded(a_flow(body="0123456789", answer="0123"), as_har=as_har))

    notes = [flow.metadata["codexpool_recording"] for flow in made]
    assert (notes[0]["request_bytes"], notes[0]["response_bytes"]) == (10, 4)


@given(emails, uuids, bearers, cookies, accounts)
def test_pseudonyms_keep_the_shape(email: str, uuid: str, bearer: str, cookie: str, account: str) -> None:
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

    assert re.fullmatch(r"Bearer pseudonym-\d+", headers["authorization"])
    first, second = headers["cookie"].split("; ")
    assert first.removeprefix("a=") == second.removeprefix("b=")
    assert [len(part) for part in headers["thread-id"].split("-")] == [8, 4, 4, 4, 12]
    assert headers["thread-id"][14] == uuid[14]
    assert headers["x-mail"] == "person1@example.com"
    assert headers["chatgpt-account-id"].count("-") == (4 if len(account) == 36 else 2)


def test_harmless_values_stay() -> None:
    headers = [
        ("user-agent", "codex_exec/0.169.0 (Debian 12.0.0; x86_64) dumb (codex_exec; 0.169.0)"),
        ("x-codex-beta-features", "remote_compaction_v2"),
        ("x-codex-routing-hint", "model=gpt-5.1-codex-max;tier=fast"),
        ("openai-beta", "responses_websockets=2026-02-06"),
        ("accept", "text/event-stream"),
        ("content-type", "application/json"),
        ("version", "0.169.0"),
        ("originator", "codex_exec"),
        ("x-codex-primary-reset-at", "1764000000"),
    ]
    flow = a_flow("/backend-api/codex/responses?client_version=0.169.0&limit=200", headers=headers)

    made = read(recorded(flow))[0].request

    assert list(made.headers.items(multi=True))[: len(headers)] == headers
    assert made.path == flow.request.path


VERSIONS = ("0.169.0", "0.171.0", "0.172.0-alpha.3")


@pytest.mark.parametrize("version", VERSIONS)
def test_which_client_and_model_it_was_stays_whatever_else_repeats_it(version: str) -> None:
    """In the request, in the trace, and in headers and parameters that are private otherwise."""
    agent = f"codex_vscode/{version} (Mac OS 26.1.0; arm64) WezTerm/20240203-110809-5046fc22 (work; 0.4.51)"
    model = "gpt-6.2-codex-spark-20261101"
    turn = json.dumps({"model_slug": model, "client_version": version}, separators=(",", ":"))
    headers = [
        ("user-agent", agent),
        ("originator", "Codex Desktop"),
        ("version", version),
        ("x-codex-routing-hint", f"model={model}"),
        ("x-codex-turn-metadata", turn),
        ("x-client-agent", agent),
        ("x-app", "Codex Desktop"),
        ("x-app-version", version),
    ]
    trace = {
        "session": {"user_agent": agent, "model": model},
        "request_headers": [list(pair) for pair in headers],
        "attempts": [{"identity": "work"}],
    }
    flow = a_flow(f"/backend-api/codex/models?client_version={version}", headers=headers, metadata={METADATA: trace})

    (made,) = read(recorded(flow))

    assert list(made.request.headers.items(multi=True))[: len(headers)] == headers
    assert made.request.path == flow.request.path
    assert made.metadata[METADATA] == {**trace, "attempts": [{"identity": "identity-1"}]}


@pytest.mark.parametrize(
    ("within", "private"),
    [
        ("/home/aurelia/bin", "aurelia"),
        ("C:\\\\Users\\\\aurelia", "aurelia"),
        ("device 123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-42d3-a456-426614174000"),
        ("10.20.30.40", "10.20.30.40"),
    ],
)
def test_what_is_private_in_a_user_agent_stays_nowhere_that_repeats_it(within: str, private: str) -> None:
    agent = f"codex_cli_rs/0.171.0 (Ubuntu 24.4.0; x86_64) {within}"
    flow = a_flow(headers=[("user-agent", agent), ("x-client-agent", agent)])

    assert private not in readable(recorded(flow))


def test_a_recording_of_what_observe_mode_has_masked_can_be_recorded_again() -> None:
    mask = "<client's own: PAT 41 chars sha256:c11e47d0a1b2>"
    trace = {"request_headers": [["authorization", f"Bearer {mask[1:-1]}"]]}
    flow = a_flow(headers=[("authorization", f"Bearer {mask}")], metadata={METADATA: trace})

    once = recorded(flow)

    assert b"c11e47d0a1b2" not in once
    assert recorded(*read(once)) == once


def test_addresses_and_other_metadata_are_left_out() -> None:
    flow = a_flow(client="10.11.12.13", metadata={"proxyauth": ("somebody", "hunter2"), "other": {"a": "secret"}})
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse("upstream:http://proxy.corp.example:3128")
    other = a_flow(headers=[("x-forwarded-for", "10.11.12.13")], status=None, error="lost 10.11.12.13:443")

    text = readable(recorded(flow, other))

    words = ("10.11.12.13", "192.168.1.23", "104.18.32.47", "hunter2", "corp.example")
    assert [word for word in words if word in text] == []


def test_names_of_identities_are_replaced() -> None:
    """Also one that is a word, where codexpool has written the text."""
    flow = a_flow(
        headers=[("authorization", "Bearer <codexpool:work>"), ("chatgpt-account-id", "<codexpool:work>")],
        comment="codexpool: work, attempt 2 (spare: 401 token_revoked on codex/responses)",
        metadata={
            "codexpool": {
                "attempts": [
                    {
                        "identity": "spare",
                        "candidates": [{"name": "work", "chosen": False}, {"name": "alice-private", "chosen": True}],
                    }
                ],
                "answer": {"message": "codexpool: no identity can serve. work: replace its PAT; spare: limited"},
                "time": [["attempt 1 (spare), until its answer began", 3.0]],
            }
        },
    )

    (made,) = read(recorded(flow))

    numbers = dict.fromkeys(re.findall(r"identity-\d", str(made.get_state())))
    work = made.request.headers["chatgpt-account-id"].removeprefix("<codexpool:").rstrip(">")
    trace = made.metadata["codexpool"]
    spare = trace["attempts"][0]["identity"]
    assert len(numbers) == 3
    assert made.request.headers["authorization"] == f"Bearer <codexpool:{work}>"
    assert made.comment == f"codexpool: {work}, attempt 2 ({spare}: 401 token_revoked on codex/responses)"
    assert trace["attempts"][0]["candidates"][0]["name"] == work
    assert trace["time"][0][0] == f"attempt 1 ({spare}), until its answer began"
    message = f"codexpool: no identity can serve. {work}: replace its PAT; {spare}: limited"
    assert trace["answer"]["message"] == message


@pytest.mark.parametrize("said", ["this session is pinned to", "the client asks for"])
def test_names_that_a_person_chose_are_replaced(said: str) -> None:
    message = f"codexpool: {said} %s (codexpool env --identity), but the pool has no usable identity of that name"
    flow = a_flow(metadata={"codexpool": {"answer": {"message": message % "alice"}}}, comment=message % "alice")

    (made,) = read(recorded(flow))

    assert made.metadata["codexpool"]["answer"]["message"] == made.comment == message % "identity-1"


def test_placeholders_without_an_identity_stay() -> None:
    flow = a_flow(
        headers=[("authorization", "Bearer <codexpool:waiting>"), ("x-oai-attestation", "<codexpool:removed>")]
    )

    headers = read(recorded(flow))[0].request.headers

    assert headers["authorization"] == "Bearer <codexpool:waiting>"
    assert headers["x-oai-attestation"] == "<codexpool:removed>"


def test_a_repository_and_a_project_are_replaced() -> None:
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

    text = readable(recorded(flow))

    words = ("alice", "secret-project", "github.example", "private.git", "0a1b2c3d", "7c9e6679")
    assert [word for word in words if word in text] == []


def test_one_value_has_one_pseudonym_in_any_order() -> None:
    token = "at-0123456789abcdefABCDEFghij"
    flows = [
        a_flow(headers=[("user-agent", f"before {token} it is named")]),
        a_flow(headers=[("authorization", f"Bearer {token}")]),
        a_flow(f"/backend-api/tokens/{token}/revoke"),
        a_flow(status=None, error=f"bad token: Bearer {token}"),
    ]
    random.Random(3).shuffle(flows)

    text = readable(recorded(*flows))

    assert text.count("at-pseudonym-1") >= 4
    assert "at-pseudonym-2" not in text
