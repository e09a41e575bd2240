"""Observe mode without a proxy around it: what leaves, what is shown, and what is said that would have been done."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from mitmproxy import exceptions, http
from mitmproxy.flow import Error
from mitmproxy.test import taddons

from codexpool.pool.identity import Metadata, Status
from codexpool.pool.selection import Because
from codexpool.protocol.endpoints import USAGE
from codexpool.proxy.mitm import options as host
from codexpool.proxy.observe.handler import ObserveHandler
from codexpool.proxy.observe.observation import KEPT
from codexpool.tokens.bearer import fingerprint
from codexpool.traces.trace import METADATA
from tests.client.logins import oauth_login
from tests.proxy.observe.flows import (
    HEADERS,
    LIMIT,
    OWN,
    RESPONSES,
    REVOKED,
    answered,
    observing,
    passed_on,
    request,
    said,
    sent,
    state_in,
    trace_of,
)
from tests.running import CLIENT, pat

# -- what leaves, and what is shown


@pytest.mark.parametrize("stored", [True, False], ids=["with a pool", "without one"])
async def test_the_clients_request_leaves_and_its_flow_is_masked(tmp_path: Path, stored: bool) -> None:
    observed = observing(tmp_path, *(("work",) if stored else ()))
    flow = request()
    wire = await sent(observed, flow)

    assert wire.headers.fields == HEADERS
    assert wire.raw_content == b'{"model": "m"}'
    assert (wire.host, wire.port, wire.method, wire.path) == ("chatgpt.com", 443, "POST", RESPONSES)
    shown = dict(flow.request.headers.fields)
    print_ = fingerprint(CLIENT.token)
    assert shown[b"AUTHORIZATION"].decode() == f"Bearer <client's own: PAT {len(CLIENT.token)} chars sha256:{print_}>"
    assert shown[b"x-oai-attestation"].startswith(b"<client's own: secret 24 chars")
    assert shown.keys() == dict(HEADERS).keys()
    await answered(observed, flow, 200)
    assert CLIENT.token.encode() not in repr(flow.get_state()).encode()


async def test_headers_leave_as_another_addon_has_changed_them(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    kept, changed = request(), request()
    for flow in (kept, changed):
        observed.open(flow)
        flow.request.headers["x-added"] = "yes"
        del flow.request.headers["x-odd"]
    changed.request.headers["authorization"] = "Bearer at-test-of-another-addon-0123456789"
    wires = [observed.outbound(flow) for flow in (kept, changed)]

    for wire, authorization in zip(wires, (OWN.decode(), "Bearer at-test-of-another-addon-0123456789"), strict=True):
        assert wire is not None
        assert wire.headers["authorization"] == authorization
        assert wire.headers["x-oai-attestation"] == "attests-0123456789abcdef"
        assert wire.headers["x-added"] == "yes"
        assert "x-odd" not in wire.headers


async def test_a_streamed_body_leaves_with_the_flows_own_headers(
    tmp_path: Path,
) -> None:
    """They are masked again afterwards."""
    observed = observing(tmp_path, "work")
    flow = request()
    observed.open(flow)
    covered = flow.request.headers.fields
    flow.request.stream = True  # another addon's doing
    # when the connection is made, which is before the request is whole
    assert observed.outbound(flow) is None
    assert flow.request.headers.fields == HEADERS
    await observed.assign(flow)
    await answered(observed, flow, 200)

    assert flow.request.headers.fields == covered
    assert trace_of(flow).attempts[0].sent_at is not None


@pytest.mark.parametrize("by", ["the rest of it", "an error"])
async def test_a_flow_that_leaves_itself_is_masked_afterwards(tmp_path: Path, by: str) -> None:
    observed = observing(tmp_path, "work")
    flow = request()
    observed.open(flow)
    flow.request.stream = True
    observed.outbound(flow)
    assert flow.request.headers.fields == HEADERS, "for the connection may not be there yet"
    if by == "an error":
        flow.error = Error("the connection was lost")
        await observed.judge_loss(flow)
    else:
        await observed.assign(flow)

    assert OWN not in [value for _, value in flow.request.headers.fields]


async def asked_what_is_left(observed: ObserveHandler) -> http.HTTPFlow:
    """As the TUI asks: without a session."""
    flow = request(USAGE, (b"thread-id", b""), method="GET", body=b"")
    wire = await sent(observed, flow)
    assert wire.headers["authorization"] == OWN.decode()
    return flow


async def test_what_is_left_would_be_asked_of_the_identity_that_served_the_client_last(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work", "spare", head='[pool]\nselection = "round-robin"\n')
    turns = [request(RESPONSES, (b"thread-id", b""), (b"session-id", name)) for name in (b"one", b"two")]
    for turn in turns:
        await sent(observed, turn)
        await answered(observed, turn, 200)
    asked = await asked_what_is_left(observed)

    (last,) = trace_of(turns[-1]).attempts
    (would,) = trace_of(asked).attempts
    assert (would.identity, would.because) == (last.identity, Because.CLIENT)


async def test_what_pool_toml_makes_own_would_not_be_changed(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work", head=f'[pool.routes]\n"{USAGE}" = "own"\n')
    asked = await asked_what_is_left(observed)

    assert METADATA not in asked.metadata


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/backend-api/wham/settings/user", "chatgpt.com"),
        (RESPONSES, "ab.chatgpt.com"),
        ("/backend-api/codex/../x", "chatgpt.com"),
    ],
)
async def test_other_requests_are_not_touched(tmp_path: Path, path: str, host: str) -> None:
    observed = observing(tmp_path, "work")
    flow = request(path)
    flow.request.host = host
    fields = flow.request.headers.fields
    wire = await sent(observed, flow)
    assert wire is flow.request
    assert wire.headers.fields == fields

    flow.response = http.Response.make(200, b"x")
    observed.headers_came(flow)
    await observed.judge(flow)
    assert flow.response.stream is False
    assert (flow.comment, flow.metadata) == ("", {})


async def test_a_request_from_before_a_reload_is_not_masked(tmp_path: Path) -> None:
    """Its old sender would not unmask it."""
    flow = request()
    flow.request.timestamp_start -= 1
    observed = observing(tmp_path, "work")

    assert await sent(observed, flow) is flow.request
    assert flow.request.headers.fields == HEADERS
    flow.response = http.Response.make(200, b"x")
    observed.headers_came(flow)
    assert flow.response.stream is True


@pytest.mark.parametrize("is_copy", [False, True])
async def test_a_replayed_flow_leaves_with_the_clients_credential(tmp_path: Path, is_copy: bool) -> None:
    observed = observing(tmp_path, "work")
    flow = request()
    await sent(observed, flow)
    again = flow.copy() if is_copy else flow
    again.is_replay = "request"
    again.request.headers["x-odd"] = "changed by a person"
    wire = await sent(observed, again)

    assert wire.headers["authorization"] == OWN.decode()
    assert wire.headers["x-odd"] == "changed by a person"
    assert "<client's own" not in str(wire.headers)
    assert again.request.headers["authorization"].startswith("Bearer <client's own: PAT")


async def test_a_replay_without_its_credential_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = observing(tmp_path, "work")
    flow = request()
    await sent(first, flow)
    flow.is_replay = "request"
    wire = await sent(observing(tmp_path, "work"), flow)

    assert wire.headers["authorization"].startswith("Bearer <client's own: PAT")
    assert "without its credential: it is no longer known" in caplog.text


async def test_a_copy_of_a_flow_gets_no_secret_of_another(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    flows = [request(RESPONSES, (b"authorization", b""), (b"Authorization", b"Bearer %b" % s)) for s in (b"a", b"b")]
    for flow in flows:
        await sent(observed, flow)
    assert flows[0].request.headers["authorization"] == flows[1].request.headers["authorization"]
    copy = flows[1].copy()
    copy.is_replay = "request"
    wire = await sent(observed, copy)

    assert wire.headers["authorization"] == flows[1].request.headers["authorization"]


async def test_a_placeholder_is_not_exchanged_for_another_credential(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    flow = request()
    await sent(observed, flow)
    shown = flow.request.headers["authorization"].encode()
    thief = request(RESPONSES, (b"authorization", b""), (b"Authorization", shown))

    assert (await sent(observed, thief)).headers["authorization"].encode() == shown


# -- errors of ours


BREAKABLE = [
    *(
        "codexpool.proxy.observe.handler.tracer.begun",
        "codexpool.proxy.requests.asked_of",
        "codexpool.proxy.observe.handler.Observation",
    ),
    *("codexpool.proxy.observe.masks.describe_secret", "codexpool.proxy.observe.masks.unmasked"),
    *("codexpool.proxy.observe.masks.with_headers", "codexpool.proxy.observe.masks.masked"),
    *("codexpool.proxy.observe.masks.masks_of", "codexpool.proxy.requests.prompt_cache_key"),
    *("codexpool.pool.recovery.attempts", "codexpool.proxy.tracer.candidacies"),
    *("codexpool.proxy.judge.classify", "codexpool.proxy.observe.handler.first_values"),
    *("codexpool.proxy.observe.handler.History.began", "codexpool.proxy.observe.handler.History.assigned"),
    *(
        "codexpool.proxy.observe.handler.History.ended",
        "codexpool.proxy.observe.handler.scrub",
        "codexpool.proxy.observe.handler.redact_text",
    ),
    *("codexpool.proxy.observe.handler.headers.is_event_stream", "codexpool.protocol.routes.Routes.route"),
    *("codexpool.proxy.observe.handler.judging.of_response", "codexpool.proxy.observe.pool.Consulted.fields"),
    *("codexpool.pool.pool.Pool.choose", "codexpool.traces.trace.Trace.count_bytes"),
]


@pytest.mark.parametrize("what", BREAKABLE)
async def test_request_and_answer_pass_unchanged_whatever_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The addon's hooks give an error to `fail`, and go on."""
    observed = observing(tmp_path, "work", "spare")
    flow = request(RESPONSES, (b"thread-id", b""))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(what, broken)

    def hook(function: Callable[..., Any]) -> None:
        try:
            function(flow)
        except Exception as error:
            observed.fail(flow, error, "a hook")

    async def async_hook(function: Callable[..., Any]) -> None:
        try:
            await function(flow)
        except Exception as error:
            observed.fail(flow, error, "a hook")

    hook(observed.open)
    await async_hook(observed.assign)
    wire = observed.outbound(flow) or flow.request
    assert wire.headers.fields == tuple(field for field in HEADERS if field[0] != b"thread-id")
    assert flow.response is None
    flow.response = http.Response.make(401, b"", {"content-type": "application/json"})
    flow.response.data.content = None
    fields = flow.response.headers.fields
    hook(observed.headers_came)
    passed = passed_on(flow.response, b"a", b"b")
    assert (passed, flow.response.status_code, flow.response.headers.fields) == (b"ab", 401, fields)
    await async_hook(observed.judge)
    assert not observed.should_resend(flow)
    assert flow.response.status_code == 401


async def test_a_pool_that_cannot_be_read_leaves_the_requests_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("codexpool.proxy.observe.handler.consult", broken)
    observed = observing(tmp_path, "work")

    assert (await sent(observed, request())).headers.fields == HEADERS
    assert "reading the pool failed; the request was not changed" in caplog.text


# -- what is said


ANSWERS = {
    "good": (200, b"{}", "answered 200"),
    "refused": (
        *(401, REVOKED),
        "answered 401 token_revoked on codex/responses (row 7: would be sent again as spare)",
    ),
    "limit": (
        *(429, LIMIT),
        "answered 429 usage_limit_reached on codex/responses (row 10: would be sent again as spare)",
    ),
    "throttled": (429, b"", "answered 429 on codex/responses (row 11: would be sent again as spare)"),
    "page": (
        *(403, b"<html>"),
        "answered 403 on codex/responses (row 3: would be passed on to the client)",
    ),
    "its own": (
        *(400, {"error": {"code": "context_length_exceeded"}}),
        "answered 400 context_length_exceeded on codex/responses (row 14: would be passed on to the client)",
    ),
    "trouble": (502, b"", "answered 502 on codex/responses (row 13: would be sent again as work)"),
}


@pytest.mark.parametrize(("status", "body", "words"), ANSWERS.values(), ids=ANSWERS)
async def test_each_answer_is_judged_and_relayed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, body: Any, words: str
) -> None:
    caplog.set_level(logging.INFO)
    observed = observing(tmp_path, "work", "spare")
    flow = request()
    await sent(observed, flow)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    assert await answered(observed, flow, status, body) == content
    assert said(caplog) == [f"POST {RESPONSES} (session s): would be sent as work; {words}"]
    assert "would be sent as work (PAT sha256:" in flow.comment
    trace = trace_of(flow)
    assert (trace.observed, trace.status, trace.answered_by) == (True, status, "backend")
    first, *others = trace.attempts
    assert first.verdict is not None
    assert first.verdict.row in words or status == 200
    assert first.status == status
    assert [(attempt.sent_at, attempt.status) for attempt in others] == [(None, None)] * ("again" in words)


async def test_foreign_encrypted_reasoning_would_be_dropped(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    body = {"input": [{"type": "reasoning", "encrypted_content": "x"}]}
    for content, encoding in (
        (json.dumps(body).encode(), b""),
        (zstandard.compress(json.dumps(body).encode()), b"zstd"),
    ):
        flow = request(RESPONSES, (b"content-encoding", encoding), body=content)
        await sent(observed, flow)
        await answered(observed, flow, 400, {"error": {"code": "invalid_encrypted_content"}})

        assert [attempt.lighter for attempt in trace_of(flow).attempts] == [False, True]


async def test_a_stream_that_fails_at_once_is_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    observed = observing(tmp_path, "work", "spare")
    flow = request()
    await sent(observed, flow)
    events = [{"type": "response.created"}, {"type": "response.failed", "response": LIMIT}]
    stream = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)

    assert await answered(observed, flow, 200, stream, content_type="text/event-stream") == stream
    assert said(caplog) == [
        f"POST {RESPONSES} (session s): would be sent as work; answered 429 usage_limit_reached on codex/responses"
        " (row 10: would be sent again as spare)"
    ]


async def test_a_lost_connection_is_judged_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    observed = observing(tmp_path, "work", "spare")
    flow = request("/backend-api/codex/images/x")
    await sent(observed, flow)
    observed.connection_lost(flow)
    flow.error = Error("server disconnected")
    await observed.judge_loss(flow)

    assert flow.response is None
    assert not observed.should_resend(flow)
    assert said(caplog) == [
        "POST /backend-api/codex/images/x (session s): would be sent as work; server disconnected"
        " (row 13b: would be passed on to the client)"
    ]
    assert trace_of(flow).error == "server disconnected"


async def test_a_client_that_left_is_no_evidence(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    flow = request()
    await sent(observed, flow)
    flow.error = Error("Client disconnected.")
    await observed.judge_loss(flow)

    (attempt,) = trace_of(flow).attempts
    assert attempt.verdict is None


async def test_another_addons_answer_is_no_evidence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    observed = observing(tmp_path, "work")
    flow = request()
    observed.open(flow)
    await observed.assign(flow)
    assert await answered(observed, flow, 401, REVOKED) == json.dumps(REVOKED).encode()

    trace = trace_of(flow)
    assert (trace.answered_by, trace.attempts[0].verdict) == ("another addon", None)
    assert said(caplog) == [f"POST {RESPONSES} (session s): would be sent as work; answered 401"]


@pytest.mark.parametrize(
    ("names", "closed", "head", "would"),
    [
        ((), "", "", "there is no pool: would be passed on"),
        (("work",), "not loaded", "", "would be refused: not loaded"),
        (
            *((), ""),
            f'[[identity]]\nname = "work"\ntoken = "{pat("work").token}"\npaused = true\n',
            "no identity would serve: no identity can serve. work: paused (paused in pool.toml",
        ),
    ],
    ids=["no pool", "closed", "nobody"],
)
async def test_a_request_no_identity_could_serve_is_traced_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...], closed: str, head: str, would: str
) -> None:
    caplog.set_level(logging.INFO)
    observed = observing(tmp_path, *names, head=head)
    observed.closed = closed
    flow = request()

    assert (await sent(observed, flow)).headers.fields == HEADERS
    await answered(observed, flow, 401, REVOKED)
    assert trace_of(flow).attempts == []
    (line,) = said(caplog)
    assert line.startswith(f"POST {RESPONSES} (session s): {would}")
    assert line.endswith("; answered 401")


async def test_an_expired_login_would_be_renewed_and_a_refused_one_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    token = oauth_login(tmp_path, "acc-login", -60)
    before = (tmp_path / "auth.json").read_bytes()
    observed = observing(tmp_path, "work", head='[[identity]]\nname = "spare"\nauth_json = "auth.json"\n')
    flow = request()
    await sent(observed, flow)
    await answered(observed, flow, 401, REVOKED)

    print_ = fingerprint(token)
    assert f"spare is assumed to be ready (its login has to be renewed): OAuth login sha256:{print_}" in caplog.text
    assert "row 6: would be sent again as spare, once that has another token" in caplog.text
    assert [attempt.identity for attempt in trace_of(flow).attempts] == ["spare", "spare"]
    assert (tmp_path / "auth.json").read_bytes() == before
    assert token not in caplog.text


async def test_the_trace_has_what_would_have_been_sent_and_no_token(tmp_path: Path) -> None:
    work = pat("work")
    with state_in(tmp_path) as state:
        state.put_metadata(
            fingerprint(work.token),
            Metadata("acc-work", "user-work", "business", True, "https://gov.chatgpt.com", "us_cr"),
            time.time(),
        )
    observed = observing(tmp_path, "work")
    flow = request()
    await sent(observed, flow)
    await answered(observed, flow, 200)
    document = trace_of(flow).document()

    (attempt,) = document["attempts"]
    headers = dict(attempt["request_headers"])
    about = f"PAT {len(work.token)} chars sha256:{fingerprint(work.token)}"
    assert headers["AUTHORIZATION"] == f"Bearer {about}"
    assert headers["ChatGPT-Account-Id"] == "acc-work"
    assert headers["Host"] == "gov.chatgpt.com"
    assert headers["x-openai-fedramp"] == "true"
    assert headers["x-openai-account-routing-override"] == "us_cr"
    assert "x-oai-attestation" not in headers
    assert (attempt["identity"], attempt["kind"], attempt["fingerprint"]) == ("work", "pat", fingerprint(work.token))
    text = json.dumps(document)
    assert document["observed"] is True
    assert CLIENT.token not in text
    assert work.token not in text


async def test_answers_to_the_client_say_nothing_about_the_pool(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work", "spare")
    assert observed.consulted is not None
    pool = observed.consulted.pool
    for status, body in (
        (401, REVOKED),
        (429, LIMIT),
        (402, b""),
        (503, b""),
        (503, b""),
        (503, b""),
        (403, b"<html>"),
    ):
        flow = request()
        await sent(observed, flow)
        await answered(observed, flow, status, body, x_codex_primary_used_percent="100")

    assert {identity.status for identity in pool.identities.values()} == {Status.READY}
    assert all(identity.troubles == 0 for identity in pool.identities.values())
    assert all(
        pool.left(i, observed._observed[flow].exchange.asked, time.time()) == 1 for i in pool.identities.values()
    )
    assert pool.states.breaker.opened_at is None
    assert trace_of(flow).attempts[0].identity == "work"  # The session would have stayed where it is.


async def test_a_turn_state_goes_back_to_its_simulated_issuer(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work", "spare")
    first = request()
    await sent(observed, first)
    await answered(observed, first, 200, x_codex_turn_state="state")
    same = request(RESPONSES, (b"x-codex-turn-state", b"state"))
    other = request(RESPONSES, (b"thread-id", b""), (b"x-codex-turn-state", b"state"), (b"Thread-Id", b"t"))
    for flow in (same, other):
        assert (await sent(observed, flow)).headers["x-codex-turn-state"] == "state"

    attempts = [trace_of(flow).attempts[0] for flow in (same, other)]
    assert [attempt.identity for attempt in attempts] == ["work", "spare"]
    assert [b"x-codex-turn-state" in dict(attempt.fields) for attempt in attempts] == [True, False]


async def test_a_session_is_read_from_the_body_without_a_header(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work", "spare")
    flow = request(RESPONSES, (b"thread-id", b""), body=b'{"prompt_cache_key": "k"}')
    await sent(observed, flow)

    trace = trace_of(flow)
    assert (trace.session, trace.source) == ("k", "prompt_cache_key")


@pytest.mark.parametrize(
    ("option", "observes"), [("true", True), ("True", True), ("false", False), ("", False), ("yes", None)]
)
def test_the_option_is_a_switch(option: str, observes: bool | None) -> None:
    with taddons.context() as context:
        context.options.add_option("codexpool_observe", str, option, "")
        if observes is None:
            with pytest.raises(exceptions.OptionsError, match="codexpool_observe is 'yes'"):
                host.is_on("codexpool_observe")
        else:
            assert host.is_on("codexpool_observe") is observes


# -- what a flow shows of an answer


async def test_a_flow_shows_its_streamed_answer_redacted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    observed = observing(tmp_path, "work")
    flow = request()
    await sent(observed, flow)
    body = {"error": {"code": CLIENT.token, "message": f"bad: {CLIENT.token}"}}
    packed = base64.b64encode(json.dumps(body).encode()).decode()
    raw = json.dumps(body).encode()

    assert await answered(observed, flow, 401, body, x_echo=CLIENT.token, x_error_json=packed) == raw
    assert flow.response is not None
    assert b"bad: <codexpool:client>" in (flow.response.content or b"")
    assert flow.response.headers["x-echo"] == "<codexpool:client>"
    state = repr(flow.get_state())
    assert CLIENT.token not in state
    assert packed not in state
    assert CLIENT.token not in caplog.text + flow.comment


@pytest.mark.parametrize(("size", "is_shown"), [(KEPT, True), (KEPT + 1, False)])
async def test_a_flow_shows_an_answer_up_to_a_size(tmp_path: Path, size: int, is_shown: bool) -> None:
    observed = observing(tmp_path, "work")
    flow = request()
    await sent(observed, flow)
    await answered(observed, flow, 200, b"x" * size)

    assert flow.response is not None
    assert flow.response.raw_content == (b"x" * size if is_shown else None)
    assert trace_of(flow).bytes_in == size
    assert observed._observed[flow].passing is None, "it is kept once, in the flow"


async def test_an_answer_held_by_another_addon_leaves_unchanged(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work", "spare")
    flow = request()
    await sent(observed, flow)
    flow.response = http.Response.make(401, json.dumps(REVOKED), {"x-echo": CLIENT.token})
    observed.headers_came(flow)
    flow.response.stream = False
    fields, content = flow.response.headers.fields, flow.response.raw_content
    await observed.judge(flow)

    assert (flow.response.headers.fields, flow.response.raw_content) == (fields, content)
    assert [attempt.identity for attempt in trace_of(flow).attempts] == ["work", "spare"]


async def test_another_addons_answer_is_not_touched(tmp_path: Path) -> None:
    observed = observing(tmp_path, "work")
    flow = request()
    await sent(observed, flow)

    def theirs(piece: bytes) -> bytes:
        return piece.upper()

    flow.response = http.Response.make(401, b"", {"x-echo": CLIENT.token})
    flow.response.stream = theirs
    observed.headers_came(flow)
    assert flow.response.stream is theirs
    # and an answer that has no body yet has still to leave when it is judged
    fields = flow.response.headers.fields
    await observed.judge(flow)
    assert flow.response.headers.fields == fields
