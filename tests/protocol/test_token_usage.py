"""The tokens of a turn are those that the backend says, wherever its last event is cut, whatever a model writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol import frames
from codexpool.protocol.bounded_json import loads
from codexpool.protocol.token_usage import HELD, KEPT, MOST, Meter, Tokens, tokens_of

USAGE = {
    "input_tokens": 1200,
    "input_tokens_details": {"cached_tokens": 1000},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 30},
    "total_tokens": 1250,
}
TOKENS = Tokens(1200, 1000, 50, 30)
FALSE = {"input_tokens": 1, "output_tokens": 1}
LIE = 'done"},"usage":{"input_tokens":1,"output_tokens":1},"x":{"y":"' + json.dumps({"usage": FALSE})
"""What a model may write."""


def completed(usage: Any = USAGE, text: str = "hello", kind: str = "response.completed", **more: Any) -> bytes:
    """The frame at the end of a turn, in the order in which the backend writes it."""
    response = {
        "id": "resp_1",
        "status": kind.partition(".")[2],
        "instructions": text,
        "output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}],
        "tools": [{"name": "t", "parameters": {"properties": {"usage": FALSE}}}],
        "usage": usage,
        "user": None,
        "metadata": {},
    }
    return json.dumps({"type": kind, "sequence_number": 9, "response": {**response, **more}}).encode()


def stream(*frames: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(
        b"event: " + json.loads(frame)["type"].encode() + end + b"data: " + frame + end + end for frame in frames
    )


DELTA = json.dumps({"type": "response.output_text.delta", "delta": LIE}).encode()
LIMITS = json.dumps({"type": "codex.rate_limits", "rate_limits": {}, "usage": FALSE}).encode()


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
def test_a_stream_has_its_tokens_in_its_last_event(kind: str, end: bytes) -> None:
    assert tokens_of(stream(DELTA, completed(kind=kind), end=end)) == TOKENS


def test_a_frame_has_them_as_well_however_it_is_laid_out() -> None:
    assert tokens_of(completed()) == TOKENS
    assert tokens_of(json.dumps(json.loads(completed()), indent=2).encode()) == TOKENS


@pytest.mark.parametrize("after", [stream(LIMITS), b"data: [DONE]\n\n", b": still there\n\n", b"\n", b"event: x"])
def test_they_are_found_before_what_comes_after(after: bytes) -> None:
    assert tokens_of(stream(DELTA, completed()) + after) == TOKENS


@pytest.mark.parametrize("text", [LIE * 400, "\\" * 40_000, '"' * 40_000, "ü" * 20_000, '\\"usage\\":{' * 4000])
def test_an_event_larger_than_what_is_kept_has_them_at_its_end(text: str) -> None:
    frame = completed(text=text)
    assert len(frame) > 2 * KEPT
    assert tokens_of(frame) == tokens_of(stream(DELTA, frame)) == TOKENS


def test_they_are_found_wherever_the_event_is_cut_before_them() -> None:
    whole = stream(DELTA, completed(text=LIE)) + stream(LIMITS)
    for at in range(whole.index(b'"usage"') + 1):  # up to the tool that has a parameter of that name
        assert tokens_of(whole[at:]) == TOKENS, whole[at:]
    for at in range(whole.rindex(b'"usage": {"input_tokens": 1200') + 1, len(whole)):
        assert tokens_of(whole[at:]) is None


@given(text=st.text() | st.sampled_from([LIE, LIE * 200]), data=st.data())
def test_a_meter_finds_the_tokens_however_a_stream_is_cut(text: str, data: st.DataObject) -> None:
    """It returns every piece."""
    whole = stream(DELTA, completed(text=text), end=data.draw(st.sampled_from([b"\n", b"\r\n"])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    meter = Meter()

    passed = [meter.passed(whole[at:to]) for at, to in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    assert b"".join(passed) == whole
    assert meter.tokens == TOKENS


def test_a_meter_finds_them_in_a_stream_of_single_bytes() -> None:
    meter = Meter()
    for byte in stream(DELTA, completed(text=LIE * 100)):
        meter.passed(bytes([byte]))
    assert meter.tokens == TOKENS


def test_the_answer_before_them_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(text: bytes) -> Any:
        sizes.append(len(text))
        return loads(text)

    monkeypatch.setattr(frames, "loads", counted)
    frame = completed(text="x" * 5_000)
    assert tokens_of(frame) == tokens_of(stream(DELTA, frame)) == TOKENS
    assert len(sizes) == 2
    assert max(sizes) < 500


def test_a_meter_holds_the_end_of_a_stream_and_no_copy_of_it() -> None:
    meter, piece = Meter(), b"x" * 1000
    for _ in range(10_000):
        assert meter.passed(piece) is piece
    assert KEPT <= sum(map(len, meter._pieces)) <= HELD
    assert all(kept is piece for kept in meter._pieces)
    meter.passed(b"y" * HELD * 10)
    assert len(meter._pieces) == 1


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"\xff\x00" * 20_000,
        stream(DELTA),
        stream(completed())[:-20],
        completed(usage=None),
        completed(kind="response.created"),
        completed(kind="response.failed"),
        json.dumps({"type": "response.completed", "response": {"metadata": {"usage": USAGE}}}).encode(),
        json.dumps({"type": "response.completed", "usage": USAGE}).encode(),
        json.dumps(["usage", USAGE]).encode(),
        b'"usage":' * 5000,
        b'{"usage":[' * 50_000,
        stream(DELTA, completed(metadata={"long": "x" * KEPT})),
    ],
    ids=lambda end: repr(end[:20]),
)
def test_what_says_no_tokens_has_none(end: bytes) -> None:
    assert tokens_of(end) is None


@pytest.mark.parametrize("number", [None, -1, MOST + 1, 1.5, "7", True, [], {}, 10**400])
def test_a_number_that_cannot_be_meant_is_none(number: Any) -> None:
    assert tokens_of(completed(usage={**USAGE, "input_tokens": number})) is None
    assert tokens_of(completed(usage={**USAGE, "output_tokens": number})) is None
    for details in ({"cached_tokens": number}, number):
        assert tokens_of(completed(usage={**USAGE, "input_tokens_details": details})) == Tokens(1200, 0, 50, 30)


def test_cached_and_reasoning_tokens_are_bounded() -> None:
    """By what was read, and by what was written."""
    more = {"input_tokens_details": {"cached_tokens": 9999}, "output_tokens_details": {"reasoning_tokens": 9999}}
    assert tokens_of(completed(usage={**USAGE, **more})) == Tokens(1200, 1200, 50, 50)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_nothing_is_raised_whatever_comes(before: bytes, after: bytes) -> None:
    tokens_of(before + b'"usage":' + after)
    tokens_of(before + completed() + after)
