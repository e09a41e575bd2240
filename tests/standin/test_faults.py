"""Answers that fail in the middle, closed sockets, unrequested frames, and random cuts."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.standin import MODELS, RESPONSES, Answer, StandIn
from tests.standin.clients import answer_in, ask, dressed, events_in, http, prompt, say, text_in, websocket, work


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
@pytest.mark.parametrize("deltas", [0, 2, 9])
def test_an_answer_can_fail_in_the_middle_of_its_stream(standin: StandIn, http2: bool, deltas: int) -> None:
    failure = {"code": "rate_limit_exceeded", "message": "Please try again in 1.2s."}
    standin.plan(Answer(path=RESPONSES, fail=failure["code"], fail_message=failure["message"], fail_after=deltas))
    with http(standin, http2=http2) as client:
        response = ask(client, work())
        served = ask(client, work())
    events = events_in(response)
    kinds = [event["type"] for event in events]
    assert (response.status_code, kinds[0], kinds[-1]) == (200, "response.created", "response.failed")
    assert kinds.count("response.output_text.delta") == min(deltas, 3)
    assert len(events) == 2 or deltas
    failed, created = events[-1]["response"], events[0]["response"]
    assert (failed["id"], failed["status"], failed["error"]) == (created["id"], "failed", failure)
    assert answer_in(served)


def test_a_turn_that_fails_in_the_middle_cannot_be_continued(standin: StandIn) -> None:
    standin.plan(Answer(transport="message", fail="rate_limit_exceeded", fail_after=1))
    with websocket(standin, work()) as connection:
        frames = say(connection)
        [error] = say(connection, previous_response_id=frames[-1]["response"]["id"])
        again = say(connection)
    assert [frame["type"] for frame in frames].count("response.output_text.delta") == 1
    assert frames[-1]["response"]["error"]["code"] == "rate_limit_exceeded"
    assert error["error"]["code"] == "previous_response_not_found"
    assert text_in(again)


def frames_until_closed(connection: ClientConnection) -> tuple[list[str], int | None]:
    """The kinds of all frames up to the close frame, and its code."""
    kinds: list[str] = []
    with contextlib.suppress(ConnectionClosed):
        kinds.extend(json.loads(text)["type"] for text in connection)
    return kinds, connection.close_code


@pytest.mark.parametrize("code", [1000, 1001, 1011])
@pytest.mark.parametrize("deltas", [0, 2, 9])
def test_a_turn_can_end_in_a_close_frame(standin: StandIn, code: int, deltas: int) -> None:
    standin.plan(Answer(transport="message", after=1, close=code, close_after=deltas))
    with websocket(standin, work()) as connection:
        assert text_in(say(connection))
        connection.send(json.dumps({"type": "response.create", **prompt("hi")}))
        kinds, received = frames_until_closed(connection)
    assert received == code
    assert kinds.count("response.output_text.delta") == min(deltas, 3)
    assert "response.completed" not in kinds
    assert deltas or kinds == []
    standin.wait(lambda: standin.seen[-1].closed)
    seen = standin.seen[-1]
    assert (seen.closed, seen.complete, seen.cut, seen.aborted) == (code, False, False, False)


@pytest.mark.parametrize(
    "answer",
    [{"transport": "message", "close": 1006}, {"transport": "message", "close": 200}, {"close": 1001}],
)
def test_a_close_frame_that_cannot_be_is_a_mistake_of_the_test(answer: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="close frame"):
        Answer(**answer)  # type: ignore[arg-type]


def test_sockets_can_be_closed_between_and_within_turns(standin: StandIn) -> None:
    standin.plan(Answer(transport="message", after=1, pace=0.2))
    with websocket(standin, work()) as idle, websocket(standin, work()) as busy:
        assert text_in(say(idle))
        busy.send(json.dumps({"type": "response.create", **prompt("hi")}))
        standin.wait(lambda: standin.seen[-1].status == 200)
        # when
        standin.close(code=1001)
        # then
        assert frames_until_closed(idle) == ([], 1001)
        assert frames_until_closed(busy)[1] == 1001
    first, second = (seen for seen in standin.seen if seen.transport == "message")
    standin.wait(lambda: second.closed)
    assert (first.complete, first.closed) == (True, 0)
    assert (second.complete, second.closed, second.aborted) == (False, 1001, False)
    with websocket(standin, work()) as connection:
        assert text_in(say(connection))


def test_a_frame_can_be_pushed_on_all_sockets(standin: StandIn) -> None:
    frame = {"type": "error", "status": 400, "error": {"code": "websocket_connection_limit_reached"}}
    with websocket(standin, work()) as one, websocket(standin, work()) as other:
        say(one)
        say(other)
        standin.push(frame)
        assert [json.loads(connection.recv(timeout=20)) for connection in (one, other)] == [frame, frame]
        assert text_in(say(one))


def cuts(folder: Path, *, http2: bool) -> list[bool]:
    """Which of a hundred requests over HTTP are cut at random."""
    fates = []
    with StandIn([work()], folder=folder, alpn=("h2", "http/1.1")) as standin:
        standin.cut_share = 0.2
        with http(standin, http2=http2) as client:
            for _ in range(100):
                try:
                    fates.append(not answer_in(ask(client, work())))
                except httpx.TransportError:
                    fates.append(True)
        assert [seen.cut for seen in standin.requests(RESPONSES)] == fates
        # and: what is no model call is never cut
        with http(standin) as client:
            url = f"https://chatgpt.com{MODELS}"
            assert {client.get(url, headers=dressed(work())).status_code for _ in range(50)} == {200}
        assert standin.troubles == []
    return fates


def test_a_share_of_requests_is_cut_always_the_same_ones(tmp_path: Path) -> None:
    first, second = cuts(tmp_path / "1", http2=False), cuts(tmp_path / "2", http2=False)
    assert first == second
    assert 10 <= sum(first) <= 30


def test_a_share_of_requests_is_cut_over_http2_too(tmp_path: Path) -> None:
    assert 10 <= sum(cuts(tmp_path, http2=True)) <= 30


def test_a_share_of_messages_is_cut(standin: StandIn) -> None:
    standin.cut_share = 0.3
    served = cut = 0
    for _ in range(20):
        with websocket(standin, work()) as connection:
            try:
                for _ in range(3):
                    served += bool(text_in(say(connection)))
                    assert say(connection, generate=False)
            except ConnectionClosed:
                cut += 1
    messages = [seen for seen in standin.seen if seen.transport == "message"]
    standin.wait(lambda: all(seen.complete or seen.cut for seen in messages))
    assert cut == sum(seen.cut for seen in messages) > 5
    assert served > 5
    assert {seen.status for seen in messages if seen.cut} == {0, 200}
    standin.cut_share = 0.0
    with websocket(standin, work()) as connection:
        assert all(text_in(say(connection)) for _ in range(20))


def test_a_share_is_one(standin: StandIn) -> None:
    with pytest.raises(ValueError, match="no share"):
        standin.cut_share = 2
