from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol import frames
from codexpool.protocol.stream_events import MOST, Beginning
from tests.standin.answers import generation

CREATED = {"type": "response.created", "response": {"id": "resp_1"}}
PROGRESS = {"type": "response.in_progress", "response": {"id": "resp_1"}}
DELTA = {"type": "response.output_text.delta", "delta": "a"}
FAILED = {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "slow down"}}}


def sent(*events: dict[str, Any], comment: bool = False, end: str = "\n") -> bytes:
    lines = [f"event: {event['type']}{end}data: {json.dumps(event)}{end}{end}" for event in events]
    return ((f": hello{end}{end}" if comment else "") + "".join(lines)).encode()


# -- frames


@pytest.mark.parametrize(
    "message",
    [
        b'{"type":"response.created","x":1}',
        b'{ "type" : "response.created" }',
        b'{"x": {"type": "other"}, "type": "response.created"}',
    ],
)
def test_type_is_found_wherever_it_stands(message: bytes) -> None:
    assert frames.kind(message) == "response.created"


@given(st.binary(max_size=60))
def test_no_message_is_too_strange(message: bytes) -> None:
    assert isinstance(frames.kind(message), str)
    assert frames.turn_state(message) is None


@pytest.mark.parametrize(
    ("frame", "status"),
    [({"status": 429}, 429), ({"status_code": 401}, 401), ({}, 0), ({"status": "429"}, 0), ({"status": True}, 0)],
)
def test_status_of_an_error_frame(frame: dict[str, Any], status: int) -> None:
    assert frames.status_of(frame) == status


def test_a_turn_state_is_taken_out_and_nothing_else_changes() -> None:
    message = {
        "type": "response.create",
        "input": [{"content": "grün"}],
        "client_metadata": {"x-codex-turn-state": "ts", "session_id": "s"},
    }
    data = json.dumps(message).encode()

    assert frames.turn_state(data) == "ts"
    without = json.loads(frames.without_turn_state(data))
    assert without == {**message, "client_metadata": {"session_id": "s"}}
    # what only speaks of one has none
    assert frames.turn_state(b'{"input": "what is x-codex-turn-state?"}') is None
    assert frames.turn_state(b'{"client_metadata": {"x-codex-turn-state": 3}}') is None


def test_a_changed_message_is_ascii() -> None:
    """So mitmproxy can cut it anywhere."""
    message = {"input": "日本語 \ud83d", "client_metadata": {"x-codex-turn-state": "ts"}}

    without = frames.without_turn_state(json.dumps(message).encode())

    assert without.isascii()
    assert json.loads(without) == {"input": "日本語 \ud83d", "client_metadata": {}}


def test_a_scrubbed_frame_repeats_no_token() -> None:
    token = "at-test-work-0123456789abcdef"
    packed = base64.b64encode(json.dumps({"error": {"code": token}}).encode()).decode()
    frame = {"type": "error", "error": {"message": f"bad {token}"}, "headers": {"x-error-json": packed, "x-id": "1"}}

    scrubbed = frames.scrubbed(json.dumps(frame).encode(), [token], "work")

    assert json.loads(scrubbed) == {
        "type": "error",
        "error": {"message": "bad <codexpool:work>"},
        "headers": {"x-id": "1"},
    }


# -- the beginning of a stream


def test_a_stream_answers_with_its_first_event_of_substance() -> None:
    beginning = Beginning()

    assert beginning.take(sent(CREATED)) is False
    assert beginning.take(sent(PROGRESS)) is False
    assert beginning.take(sent(DELTA)) is True


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_stream_that_has_failed_says_why(end: str) -> None:
    assert Beginning().take(sent(CREATED, FAILED, end=end)) == FAILED


def test_a_failure_within_an_answer_is_passed_on() -> None:
    assert Beginning().take(sent(CREATED, DELTA, FAILED)) is True


@given(st.lists(st.sampled_from([CREATED, PROGRESS, DELTA, FAILED]), max_size=5), st.data())
def test_it_does_not_matter_how_a_stream_is_cut_into_pieces(
    events: list[dict[str, Any]], data: st.DataObject
) -> None:
    whole = sent(*events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    in_one = Beginning().take(whole)

    beginning = Beginning()
    found = next((found for piece in pieces if (found := beginning.take(piece)) is not False), False)

    assert found == in_one


def test_a_comment_or_a_queue_counts_as_an_answer() -> None:
    """The client should see that there is something to wait for."""
    assert Beginning().take(sent(CREATED, comment=True)) is True
    assert Beginning().take(sent(CREATED, {"type": "response.queued"})) is True


def test_what_goes_on_without_an_event_is_passed_on() -> None:
    beginning = Beginning()

    assert beginning.take(b"x" * MOST) is False
    assert beginning.take(b"x") is True


def test_an_answer_of_the_stand_in_is_an_answer() -> None:
    assert Beginning().take(sent(*generation("resp_1", "m", "text", 2))) is True


def test_a_header_of_a_frame_that_would_become_two_is_left_out() -> None:
    headers = {"Retry-After": "1\r\nx-more: 2", "x-a\r\nx-b": "c", "x-nul": "\0", "x-good": 3}

    assert frames.headers_of({"headers": headers}) == {b"x-good": b"3"}
