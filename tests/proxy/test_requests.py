"""What becomes of a flow, without a proxy around it: on the real pool, with a keeper that stands still."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import zstandard
from mitmproxy import http
from mitmproxy.utils.emoji import emoji

from codexpool.config.model import MemberSpec
from codexpool.pool.identity import Condition, Identity, Kind, Metadata, Status
from codexpool.pool.selection import Selection
from codexpool.protocol.inflate import Inflater
from codexpool.proxy.attempts import Attempts
from codexpool.proxy.flows import Closed, Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.tokens.bearer import Bearer
from codexpool.tokens.member_key import hashed
from codexpool.traces.history import History
from tests.protocol.codings import CODINGS
from tests.proxy.still_keeper import StillKeeper, flow
from tests.running import key_of

REVOKED = b'{"error":{"code":"token_revoked","message":"revoked"}}'


def with_keeper(*names: str) -> tuple[SwapHandler, StillKeeper]:
    exchanges, keeper = SwapHandler(history=History()), StillKeeper(*names)
    exchanges.flows.mode = Serving(keeper)
    return exchanges, keeper


async def assigned(exchanges: SwapHandler, number: int = 1) -> http.HTTPFlow:
    """A request that has an identity, and has not left yet."""
    request = flow(number)
    exchanges.open(request)
    await exchanges.assign(request)
    return request


def answer(status: int, body: bytes = REVOKED) -> http.Response:
    return http.Response.make(status, body, {"content-type": "application/json"})


@pytest.mark.parametrize("session", [True, False], ids=["with a session", "without one"])
async def test_placeholder_names_the_identity_of_every_request(session: bool) -> None:
    exchanges, _ = with_keeper("first", "second")
    request = flow(1)
    if not session:
        for name in ("session-id", "thread-id"):
            del request.request.headers[name]

    exchanges.open(request)
    await exchanges.assign(request)

    assert request.request.headers["authorization"] == "Bearer <codexpool:first>"
    assert request.request.headers["chatgpt-account-id"] == "<codexpool:first>"


NAMES = ["session_id", "conversation_id", "x-session-affinity", "x-session-id", "agent-session-id"]


async def of_another_client(exchanges: SwapHandler, headers: dict[str, str], agent: str = "another/1.0") -> str:
    """Send a turn as a client other than Codex does, and return its identity."""
    request = flow(1)
    for name in ("session-id", "thread-id", "x-client-request-id"):
        del request.request.headers[name]
    request.request.headers.update({"user-agent": agent, **headers})
    exchanges.open(request)
    await exchanges.assign(request)
    return exchanges.flows[request].attempt.name


@pytest.mark.parametrize("name", [*NAMES, "x-client-request-id", "x-codex-window-id"])
async def test_conversations_of_other_clients_stay_on_one_identity_each(name: str) -> None:
    exchanges, keeper = with_keeper("first", "second", "third")
    keeper.pool.selection = Selection.ROUND_ROBIN
    one = [await of_another_client(exchanges, {name: "0199a213-1"}) for _ in range(4)]
    ids = ("0199a213-1", "0199a213-2")
    both = [[await of_another_client(exchanges, {name: which}) for which in ids] for _ in range(3)]

    assert len({*one, *(first for first, _ in both)}) == 1
    assert len({second for _, second in both}) == 1
    assert both[0][0] != both[0][1]


async def test_a_client_that_names_nothing_stays_on_one_identity() -> None:
    exchanges, keeper = with_keeper("first", "second", "third")
    keeper.pool.selection = Selection.ROUND_ROBIN
    turns = [
        [
            await of_another_client(exchanges, {"x-client-request-id": f"{agent}-{number}"}, agent)
            for number in range(4)
        ]
        for agent in ("a/1.0", "b/1.0")
    ]

    assert [len(set(served)) for served in turns] == [1, 1]
    assert turns[0][0] != turns[1][0]


async def test_clients_that_count_their_requests_alike_share_no_session() -> None:
    exchanges, keeper = with_keeper("first", "second")
    keeper.pool.selection = Selection.ROUND_ROBIN
    served = [
        {await of_another_client(exchanges, {"x-client-request-id": "1"}, agent) for _ in range(3)}
        for agent in ("a/1.0", "b/1.0")
    ]

    assert served in ([{"first"}, {"second"}], [{"second"}, {"first"}])


@pytest.mark.parametrize("encoding", ["", "zstd"])
@pytest.mark.parametrize("member", [False, True], ids=["without a key", "of a member"])
async def test_a_large_body_is_inflated_once_for_a_key_and_never_copied(
    member: bool, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges, keeper = with_keeper("first")
    request = flow(1)
    if member:
        keeper.config = dataclasses.replace(keeper.config, members=(MemberSpec("ann", hashed(key_of("ann")), 1),))
        request.request.headers["authorization"] = f"Bearer {key_of('ann')}"
    body = b"x" * 3_000_000
    if encoding:
        body = zstandard.ZstdCompressor().compress(body)
        request.request.headers["content-encoding"] = encoding
    request.request.data.content = body
    inflated = []
    init = Inflater.__init__

    def counted(self: Inflater, encoding: str) -> None:
        inflated.append(encoding)
        init(self, encoding)

    monkeypatch.setattr(Inflater, "__init__", counted)

    exchanges.open(request)
    await exchanges.assign(request)
    wire = exchanges.outbound(request)

    assert isinstance(wire, http.Request)
    assert wire.data.content is body
    assert inflated == ["zstd"] * (member and encoding == "zstd")


async def test_a_new_token_of_another_account_is_not_mixed_up() -> None:
    """It never leaves with the old account's id."""
    exchanges, keeper = with_keeper("first")
    request = await assigned(exchanges)
    # when: pool.toml gets another account's token under the same name, before the request leaves
    other = Bearer.of("at-test-second-0123456789abcdef")
    keeper._bearers["first"] = other
    identity = Identity("first", Kind.PAT, other.fingerprint, Condition(Status.UNVERIFIED, 1))
    keeper.pool.replace_identities([identity], keeper.pool.selection, 1)

    wire = exchanges.outbound(request)

    assert isinstance(wire, http.Response)
    assert wire.status_code == 503


@pytest.mark.parametrize("what", ["removed", "paused", "condemned"])
async def test_no_request_leaves_under_an_identity_that_ended(what: str) -> None:
    exchanges, keeper = with_keeper("first")
    request = await assigned(exchanges)
    identity = keeper.pool.identities["first"]
    if what == "condemned":
        keeper.pool.states.condition_learned("first", identity.fingerprint, Condition(Status.NEEDS_REPLACEMENT, 1))
    else:
        new = dataclasses.replace(identity, paused=True)
        keeper.pool.replace_identities([new] if what == "paused" else [], keeper.pool.selection, 1)

    assert exchanges.is_outdated(request)
    wire = exchanges.outbound(request)

    assert isinstance(wire, http.Response)
    assert wire.status_code == 503


async def test_a_request_of_a_removed_identity_gets_another() -> None:
    exchanges, keeper = with_keeper("first", "second")
    request = await assigned(exchanges)
    keeper.pool.replace_identities([keeper.pool.identities["second"]], keeper.pool.selection, 1)

    wire = exchanges.outbound(request)

    assert isinstance(wire, http.Request)
    assert wire.headers["chatgpt-account-id"] == "acc-second"
    assert request.request.headers["authorization"] == "Bearer <codexpool:second>"


async def test_a_former_origin_stays_closed_to_client_credentials() -> None:
    exchanges, keeper = with_keeper("first")
    keeper.hosts = frozenset({"chatgpt.com", "gov.chatgpt.com"})
    request = flow(1)
    request.request.host = "gov.chatgpt.com"
    assert exchanges.flows.policy(request.request).swaps
    # when the addon goes away
    exchanges.flows.mode = Closed("not loaded")

    refusal = exchanges.outbound(request)

    assert isinstance(refusal, http.Response)
    assert refusal.status_code == 503


async def test_another_addons_answer_says_nothing_about_an_identity() -> None:
    exchanges, keeper = with_keeper("first", "second")
    request = await assigned(exchanges)
    request.response = answer(401)  # and nothing was sent

    exchanges.headers_came(request)
    await exchanges.judge(request)

    assert not exchanges.should_resend(request)
    assert request.response.status_code == 401
    assert keeper.pool.identities["first"].status is Status.READY


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
async def test_a_token_repeated_by_a_refusal_is_hidden(status: int) -> None:
    exchanges, keeper = with_keeper("first")
    request = await assigned(exchanges)
    exchanges.outbound(request)
    token = keeper.bearer("first").token
    request.response = answer(status, f'{{"detail": "no {token} here"}}'.encode())

    exchanges.headers_came(request)
    assert not request.response.stream
    exchanges.response_complete(request)
    await exchanges.judge(request)

    assert token.encode() not in (request.response.content or b"")
    assert b"<codexpool:first>" in (request.response.content or b"")


async def test_a_late_error_of_ours_lets_no_refusal_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchanges, _ = with_keeper("first", "second")
    request = await assigned(exchanges)
    exchanges.outbound(request)
    request.response = answer(401)
    exchanges.headers_came(request)
    await exchanges.judge(request)

    def broken(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("codexpool.proxy.answers.label", broken)
    assert not exchanges.should_resend(request)
    assert request.response is not None
    assert request.response.status_code == 503
    monkeypatch.setattr(Attempts, "is_outdated", broken)
    assert exchanges.is_outdated(request)


async def test_flow_list_and_log_name_identities_and_attempts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    exchanges, _ = with_keeper("first", "second")
    request = await assigned(exchanges)
    exchanges.outbound(request)
    request.response = answer(401)
    exchanges.headers_came(request)
    await exchanges.judge(request)
    assert exchanges.should_resend(request)
    session = request.request.headers["thread-id"]
    assert f"session {session}: sent again, first -> second (401 token_revoked on codex/responses)" in caplog.text
    exchanges.outbound(request)
    request.response = answer(200, b"{}")
    exchanges.headers_came(request)

    assert request.comment == "codexpool: second, attempt 2 (first: 401 token_revoked on codex/responses)"
    assert emoji[request.marked] == "↩"


async def test_an_exhausted_pool_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    exchanges, keeper = with_keeper("first")
    fingerprint = keeper.pool.identities["first"].fingerprint
    keeper.pool.states.condition_learned("first", fingerprint, Condition(Status.NEEDS_REPLACEMENT, 1))
    for number in range(3):
        request = await assigned(exchanges, number)
        assert request.response is not None
        assert request.response.status_code == 400
        assert emoji[request.marked] == "✖"
    assert caplog.text.count("no identity can serve. first: replace its PAT") == 1


async def test_an_identity_without_an_account_sends_none(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges, keeper = with_keeper("first")
    keeper.pool.identities["first"].metadata = Metadata("", "command:first", "")
    request = await assigned(exchanges)
    wire = exchanges.outbound(request)
    assert isinstance(wire, http.Request)
    assert "chatgpt-account-id" not in wire.headers


async def test_trailers_carry_nothing_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges, _ = with_keeper("first")
    request = await assigned(exchanges)
    request.request.trailers = http.Headers(((b"authorization", b"Bearer at-test-own-0123456789"), (b"x-sum", b"1")))
    wire = exchanges.outbound(request)
    assert isinstance(wire, http.Request)
    assert wire.trailers is not None
    assert wire.trailers.fields == ((b"x-sum", b"1"),)


@pytest.mark.parametrize(
    ("encoding", "looked_at"),
    [("gzip", True), ("zstd", True), ("br", True), ("identity", True), ("", True), ("compress", False)],
)
async def test_a_stream_that_cannot_be_read_is_passed_on_at_once(encoding: str, looked_at: bool) -> None:
    exchanges, _ = with_keeper("first")
    request = await assigned(exchanges)

    stream = streaming(exchanges, request, encoding)

    assert stream(b"a piece") == b"a piece"
    assert exchanges.should_hold(request) == looked_at


def streaming(exchanges: SwapHandler, request: http.HTTPFlow, encoding: str = "") -> Callable[[bytes], bytes]:
    """The request leaves, and an answer begins that is a stream of events; what passes its pieces on."""
    assert isinstance(exchanges.outbound(request), http.Request)
    request.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    if encoding:
        request.response.headers["content-encoding"] = encoding
    del request.response.headers["content-length"]
    exchanges.headers_came(request)
    stream = request.response.stream
    assert callable(stream)
    return cast(Callable[[bytes], bytes], stream)


LIMIT = {"type": "usage_limit_reached", "code": "usage_limit_reached", "message": "no more", "resets_in_seconds": 900}
CREATED = {"type": "response.created", "response": {"id": "resp_1"}}
DELTA = {"type": "response.output_text.delta", "delta": "hello"}


def events(*documents: dict[str, Any]) -> bytes:
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in documents).encode()


@pytest.mark.parametrize("name", ["plain", "zstd", "gzip", "br", "deflate"])
@pytest.mark.parametrize(
    "failure",
    [
        {"type": "response.failed", "response": {"error": LIMIT}},
        {"type": "error", "status": 429, "error": LIMIT},
    ],
    ids=["response.failed", "error"],
)
async def test_a_limit_late_in_a_stream_moves_the_next_request(failure: dict[str, Any], name: str) -> None:
    exchanges, keeper = with_keeper("first", "second")
    request = await assigned(exchanges)
    encoding, encode = CODINGS[name]
    stream = streaming(exchanges, request, encoding)
    whole = encode(events(CREATED, DELTA, failure))
    # when the answer has begun, and fails then
    assert exchanges.judge_beginning(request, encode(events(CREATED, DELTA))) is True
    passed = b"".join(stream(whole[at : at + 7]) for at in range(0, len(whole), 7)) + stream(b"")
    await exchanges.judge(request)

    assert passed == whole  # as it came
    assert exchanges.finish(request)
    assert keeper.pool.identities["first"].status is Status.LIMITED
    retry = await assigned(exchanges)
    assert retry.request.headers["authorization"] == "Bearer <codexpool:second>"


async def test_a_late_failure_of_the_request_itself_changes_nothing() -> None:
    exchanges, keeper = with_keeper("first", "second")
    request = await assigned(exchanges)
    stream = streaming(exchanges, request)
    failure = {"type": "response.failed", "response": {"error": {"code": "context_length_exceeded"}}}

    stream(events(CREATED, DELTA, failure))

    assert keeper.pool.identities["first"].status is Status.READY


async def test_a_silent_stream_that_was_passed_on_counts_as_served() -> None:
    exchanges, _ = with_keeper("first")
    request = await assigned(exchanges)
    exchanges.outbound(request)
    request.response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    del request.response.headers["content-length"]
    exchanges.headers_came(request)
    comments = [request.comment]
    # when the layer has held it for as long as it may, and the stream has ended
    await exchanges.judge(request)
    comments.append(request.comment)

    assert comments == ["", "codexpool: first, attempt 1"]
    assert not exchanges.should_hold(request)
