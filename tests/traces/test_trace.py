"""The trace of a request, and the document that is the only way out of it."""

from __future__ import annotations

import copy
import io
import json

from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import io as flow_io
from mitmproxy.test import tflow

from codexpool.pool.reasons import Candidacy
from codexpool.pool.selection import Because
from codexpool.pool.verdict import Answer, classify
from codexpool.traces.trace import (
    FIELDS_KEPT,
    HEADERS_KEPT,
    LONGEST_NAME,
    TURNS_KEPT,
    WAITS_KEPT,
    AttemptTrace,
    Fields,
    Trace,
    TurnTrace,
    bounded,
)

NOW = 1_800_000_000.0
WORK, SPARE, OWN = (f"at-test-{name}-0123456789abcdef" for name in ("work", "spare", "own"))
PATH = "/backend-api/codex/responses"


def fields(token: str, account: str) -> Fields:
    return (
        (b"Authorization", f"Bearer {token}".encode()),
        (b"chatgpt-account-id", account.encode()),
        (b"user-agent", b"codex_exec/0.169.0 (Linux; x86_64)"),
        (b"cookie", f"session={token}".encode()),
    )


def sent_again() -> Trace:
    """Refused under work, served under spare."""
    trace = Trace(
        "flow-1",
        NOW,
        "127.0.0.1",
        "POST",
        "https",
        "chatgpt.com",
        PATH,
        "swap",
        PATH,
        fields(OWN, "acc-own"),
        session="01a1fc00-0000-4000-8000-000000000001",
        source="thread-id",
        model="gpt-5",
    )
    trace.whole_at = NOW + 0.001
    refused = AttemptTrace("work", "pat", "a" * 12, "acc-work", "https://chatgpt.com", Because.OWN)
    refused.sent(fields(WORK, "acc-work"), NOW + 0.002)
    refused.answered(401, ((b"x-request-id", b"req-1"), (b"content-type", b"application/json")), NOW + 0.012)
    refused.verdict, refused.evidence = classify(Answer(401, code="token_revoked")), f"401 revoked Bearer {WORK}"
    trace.waited("a pause before another attempt", 0.25)
    candidates = [
        Candidacy("work", False, (), ("this request was refused under it",)),
        Candidacy("spare", True, ("ready",), ()),
    ]
    served = AttemptTrace("spare", "pat", "b" * 12, "acc-spare", "https://chatgpt.com", Because.MOVED, candidates)
    served.sent(fields(SPARE, "acc-spare"), NOW + 0.3)
    served.answered(200, ((b"content-type", b"text/event-stream"),), NOW + 0.4)
    served.verdict = classify(Answer(200))
    trace.attempts = [refused, served]
    trace.count_bytes(b"data: {}\n\n")
    trace.count_bytes(b"")
    trace.status, trace.answered_by, trace.ended_at = 200, "backend", NOW + 1.4
    return trace


def test_the_document_tells_the_whole_way_and_no_secret() -> None:
    document = sent_again().document()

    text = json.dumps(document)
    assert "0123456789abcdef" not in text
    assert [a["identity"] for a in document["attempts"]] == ["work", "spare"]
    assert document["attempts"][0]["verdict"] == {"row": "7", "finding": "refused", "next": "next identity"}
    assert document["attempts"][0]["request_id"] == "req-1"
    assert document["attempts"][1]["candidates"][0]["against"] == ["this request was refused under it"]
    assert document["answer"]["bytes"] == 10
    assert dict(document["attempts"][1]["request_headers"])["chatgpt-account-id"] == "acc-spare"
    assert dict(document["request_headers"])["user-agent"].startswith("codex_exec/0.169.0")


def test_the_time_adds_up_to_what_the_request_took() -> None:
    trace = sent_again()

    times = dict(trace.document()["time"])

    assert times == {
        "reading the request": 1.0,
        "waiting": 250.0,
        "attempt 1 (work), until its answer began": 10.0,
        "attempt 2 (spare), until its answer began": 100.0,
        "passing the answer on": 1000.0,
    }
    assert trace.document()["attempts"][0]["milliseconds"] == 10.0


def test_a_written_or_copied_flow_has_the_document() -> None:
    flow, trace = tflow.tflow(resp=True), sent_again()
    flow.metadata["codexpool"] = trace

    written = io.BytesIO()
    flow_io.FlowWriter(written).add(flow)
    written.seek(0)
    read = next(iter(flow_io.FlowReader(written).stream()))

    assert read.metadata["codexpool"] == trace.document() == flow.copy().metadata["codexpool"]
    assert b"0123456789abcdef" not in written.getvalue()


def test_a_trace_that_is_printed_shows_no_header() -> None:
    trace = sent_again()

    assert "at-test" not in f"{trace!r} {trace} {trace.attempts!r} {[trace]} { ({'x': trace}) }"


def test_a_request_that_is_under_way_has_a_document_too() -> None:
    trace = Trace("flow-1", NOW, "", "GET", "https", "chatgpt.com", PATH, "swap", PATH, (), is_upgrade=True)

    document = trace.document()

    assert document["transport"] == "websocket"
    assert document["answer"]["status"] is document["ended_at"] is document["answer"]["by"] is None
    assert document["time"] == [["reading the request", 0.0]]


def test_turns_and_waits_are_bounded() -> None:
    trace = sent_again()
    for number in range(100):
        trace.waited("more", 1.0)
        trace.begin_turn(NOW + number)

    assert len(trace.waits) == WAITS_KEPT
    assert [turn.at for turn in trace.turns] == [NOW + number for number in range(100 - TURNS_KEPT, 100)]


SECRETS = st.one_of(
    st.from_regex(r"at-[A-Za-z0-9_-]{24,60}", fullmatch=True),
    st.from_regex(r"eyJ[A-Za-z0-9_-]{20,40}\.eyJ[A-Za-z0-9_-]{20,80}\.[A-Za-z0-9_-]{20,60}", fullmatch=True),
    st.from_regex(r"sk-(?:proj-)?[A-Za-z0-9]{32,48}", fullmatch=True),
    st.from_regex(r"rt_[A-Za-z0-9]{24,40}", fullmatch=True),
    st.from_regex(r"[a-f0-9]{40,64}", fullmatch=True).filter(lambda text: any(c.isalpha() for c in text)),
)
PLACES = (
    "header",
    "cookie",
    "query",
    "session",
    "model",
    "evidence",
    "message",
    "error",
    "turn",
    "identity",
    "answer",
)


@given(SECRETS, st.sampled_from(PLACES))
def test_no_planted_secret_is_in_the_document(secret: str, place: str) -> None:
    trace, before = sent_again(), json.dumps(sent_again().document())
    planted = secret.encode()
    match place:
        case "header":
            trace.fields += ((b"x-made-up", planted),)
        case "cookie":
            trace.fields += ((b"cookie", b"a=b; c=" + planted),)
        case "query":
            trace.path += f"?a=1&thing={secret}"
        case "session":
            trace.session = secret
        case "model":
            trace.model = secret
        case "evidence":
            trace.attempts[0].evidence = f"401 {secret} on codex/responses"
        case "message":
            trace.message = f"no identity can serve: {secret}"
        case "error":
            trace.error = f"connection to {secret} failed"
        case "turn":
            trace.turns.append(TurnTrace(NOW, outcome=f"failed: 401 {secret}"))
        case "identity":
            trace.attempts[0].identity = secret
        case "answer":
            cookie = (b"set-cookie", b"auth=" + planted + b"; Path=/")
            trace.attempts[1].answer_fields += (cookie, (b"x-e", planted))

    text = json.dumps(copy.deepcopy(trace))

    pieces = {secret[at : at + 12] for at in range(3, len(secret) - 12)}
    assert [piece for piece in pieces if piece in text and piece not in before] == []


# -- what is kept is bounded


LONG_TOKEN = "at-test-long-" + "0123456789abcdef" * 40_000

long_fields = st.lists(
    st.tuples(
        st.sampled_from([b"x-a", b"Authorization", b"cookie", b"x-" + b"n" * 4000]),
        st.sampled_from([b"", b"short", LONG_TOKEN.encode(), b"y" * 5_000]),
    ),
    max_size=40,
).map(tuple)


@given(long_fields, st.integers(1, 60))
def test_kept_headers_are_bounded_by_dropping_whole_values(some: Fields, times: int) -> None:
    fields = some * times

    kept = bounded(fields)

    assert sum(len(name) + len(value) for name, value in kept) <= HEADERS_KEPT + FIELDS_KEPT * LONGEST_NAME
    assert len(kept) <= FIELDS_KEPT
    if sum(len(name) + len(value) for name, value in fields) <= HEADERS_KEPT and len(fields) <= FIELDS_KEPT:
        assert kept is fields
    assert b"0123456789abcdef" not in b"".join(value for _, value in kept)
    for (_, was), (_, value) in zip(fields, kept, strict=False):
        assert value in (was, b"(%d bytes, not kept)" % len(was))


def test_a_trace_keeps_no_headers_or_paths_of_a_megabyte() -> None:
    huge = ((b"x-huge", b"y" * (1 << 20)), (b"user-agent", b"me"))
    trace = Trace("f", NOW, "", "POST", "https", "chatgpt.com", f"{PATH}?q={'z' * (1 << 20)}", "swap", PATH, huge)
    attempt = AttemptTrace("work", "pat", "a" * 12, "acc-work", "https://chatgpt.com", Because.OWN)
    attempt.sent(huge, NOW)
    attempt.answered(200, huge, NOW)
    trace.attempts.append(attempt)

    assert len(json.dumps(trace.document())) < 10_000
    assert trace.path == PATH
    for fields in (trace.fields, attempt.fields, attempt.answer_fields):
        assert fields == ((b"x-huge", b"(1048576 bytes, not kept)"), (b"user-agent", b"me"))
