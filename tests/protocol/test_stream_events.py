"""What a stream says is read wherever it is cut, however it is compressed, and however late it says so."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http

from codexpool.protocol import frames
from codexpool.protocol.stream_events import MOST, TELLING, Beginning, Events, Reading
from codexpool.protocol.token_usage import Tokens
from codexpool.proxy import judge
from tests.protocol.codings import CODINGS, COMPRESSED, bomb
from tests.protocol.test_errors import SHAPES

CREATED = {"type": "response.created", "response": {"id": "resp_1", "error": None}}
DELTA = {"type": "response.output_text.delta", "delta": 'he said "response.failed", "error"\n\n'}
LIMITED = {"type": "usage_limit_reached", "code": "usage_limit_reached", "message": "no more", "resets_at": 4e9}
FAILED = {"type": "response.failed", "response": {"error": LIMITED}}
ERROR = {"type": "error", "status": 429, "error": LIMITED}
LIMITS = {"type": "codex.rate_limits", "rate_limits": {"primary": {"used_percent": 40}}}
USAGE = {"input_tokens": 7, "output_tokens": 5}
COMPLETED = {"type": "response.completed", "response": {"id": "resp_1", "usage": USAGE}}
EVENTS = [CREATED, DELTA, FAILED, ERROR, LIMITS, COMPLETED]


def sent(*events: dict[str, Any], end: str = "\n") -> bytes:
    return "".join(f"event: {e['type']}{end}data: {json.dumps(e)}{end}{end}" for e in events).encode()


def cut(whole: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def reading(encoding: str = "") -> Reading:
    return Reading(encoding, is_metered=True, has_events=True)


def test_events_without_interest_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(frames, "parsed", parsed.append)
    beginning, read = Beginning(), reading()
    answer: list[dict[str, Any]] = [CREATED, *[DELTA] * 30, COMPLETED]
    for event in answer:
        beginning.take(sent(event))
        assert read.take(sent(event)) == []
    assert read.take(sent(*answer)) == []
    assert parsed == []


@pytest.mark.parametrize("name", CODINGS)
@given(events=st.lists(st.sampled_from(EVENTS), max_size=6), end=st.sampled_from(["\n", "\r\n"]), data=st.data())
def test_telling_events_are_found_in_any_cut_and_coding(
    name: str, events: list[dict[str, Any]], end: str, data: st.DataObject
) -> None:
    encoding, encode = CODINGS[name]
    read = reading(encoding)

    found = [event for piece in cut(encode(sent(*events, end=end)), data) for event in read.take(piece)]

    failures = [at for at, event in enumerate(events) if event in (FAILED, ERROR)]
    until_then = events[: failures[0] + 1] if failures else events
    assert [event for event in found if event != LIMITS] == [events[at] for at in failures[:1]]
    assert (LIMITS in found) == (LIMITS in until_then)
    assert read.has_failed == bool(failures)
    if events and events[-1] is COMPLETED:
        assert read.tokens == Tokens(7, 0, 5, 0)


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("failure", [FAILED, ERROR], ids=["response.failed", "error"])
@given(data=st.data())
def test_a_failure_in_the_first_events_is_found_in_any_encoding(
    name: str, failure: dict[str, Any], data: st.DataObject
) -> None:
    encoding, encode = CODINGS[name]
    beginning = Beginning(encoding)

    found = [beginning.take(piece) for piece in cut(encode(sent(CREATED, failure, DELTA)), data)]

    assert next(one for one in found if one is not False) == failure


@pytest.mark.parametrize("error", [LIMITED, {"code": "rate_limit_exceeded", "message": "slow"}])
def test_a_frame_and_an_event_are_judged_by_one_rule(error: dict[str, Any]) -> None:
    for event in ({"type": "response.failed", "response": {"error": error}}, {**ERROR, "error": error}):
        said = judge.of_event(event)
        assert said is not None
        assert (said.status, said.code) == (429, error["code"])
    frame = {"type": "error", "status": 401, "error": {"code": "token_revoked"}, "headers": {"X-Id": "1"}}
    assert judge.of_event(frame) == judge.of_frame(frame)
    # what is the client's to see is so in an event as well
    assert judge.of_event({"type": "response.failed", "response": {"error": {"code": "invalid_prompt"}}}) is None
    assert judge.of_event({"type": "error", "error": {"code": "token_revoked"}}) is None


@pytest.mark.parametrize("document", [shape for shape, _ in SHAPES if isinstance(shape, dict)])
@pytest.mark.parametrize("headers", [{}, {"x-error-json": "eyJjb2RlIjogInBhY2tlZCJ9"}], ids=["plain", "x-error-json"])
def test_a_frame_says_what_an_answer_with_its_body_says(document: dict[str, Any], headers: dict[str, str]) -> None:
    answer = http.Response.make(401, json.dumps(document), headers)
    assert answer.raw_content is not None

    said = judge.of_frame({"type": "error", "status": 401, **document, "headers": headers})

    expected = judge.of_response(answer, answer.raw_content)
    assert said == expected._replace(values={name.encode(): value.encode() for name, value in headers.items()})


def test_after_an_event_that_is_too_long_the_next_is_read() -> None:
    events = Events()
    long = b"data: " + b"x" * (MOST + 10)

    assert events.take(long) == []
    assert len(events._pending) <= 2
    assert events.take(b"xx\n") == []
    assert events.take(b"\ndata: next\n\n") == [b"data: next"]


@pytest.mark.parametrize("name", COMPRESSED)
def test_an_endless_stream_is_read_in_pieces_and_not_kept(name: str) -> None:
    encoding, body = bomb(name, 64 << 20)
    read = reading(encoding)

    assert read.take(body) == []

    assert read._events is not None
    assert len(read._events._pending) <= MOST
    assert Beginning(encoding).take(body) is True  # That much without an event is an answer.


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "deflate", "compress"])
def test_what_cannot_be_inflated_is_passed_on_unread(encoding: str) -> None:
    read = reading(encoding)

    assert read.take(b"\xff" * 100) == []
    assert read.take(sent(FAILED)) == []
    assert read.tokens is None
    assert not read.has_failed


def test_a_stream_of_gauges_and_failures_is_soon_read() -> None:
    read = reading()

    assert read.take(sent(*[LIMITS] * 5_000, FAILED, *[FAILED] * 5_000)) == [LIMITS, FAILED]
    assert read.take(sent(FAILED)) == []


def test_what_a_model_writes_is_no_failure() -> None:
    read = reading()
    said = json.dumps({"type": "response.failed", "response": {"error": LIMITED}})

    assert read.take(sent({"type": "response.output_text.delta", "delta": f"data: {said}\n\ndata: {said}\n\n"})) == []
    assert not read.has_failed


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_no_stream_is_too_strange(some: list[bytes]) -> None:
    read, beginning = reading(), Beginning()
    for piece in some:
        assert all(frames.kind(json.dumps(event).encode()) in TELLING for event in read.take(piece))
        beginning.take(piece)


@pytest.mark.parametrize("event", [b"\n\n", b'data:"error"\n\n', b'data: {"type":"response.created"}\n\n'])
def test_kilobytes_of_very_many_events_are_soon_read(event: bytes) -> None:
    bomb = gzip.compress(event * (7 * 2**20 // len(event)))
    begun = time.process_time()

    reading = Reading("gzip", is_metered=True, has_events=True)
    assert reading.take(bomb) == []
    assert Beginning("gzip").take(bomb) is True

    assert time.process_time() - begun < 0.25
    assert reading.tokens is None
