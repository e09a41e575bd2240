"""Playing requests: what went wrong with them is told, and what was meant to be is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy import http

from codexpool.protocol.frames import CREATE
from codexpool.recording.player import Player, PlayError, Sent
from codexpool.recording.replay import Played, Replay
from codexpool.recording.script import Part, parts
from codexpool.recording.taking import taken
from tests.recording.flows import a_flow, a_socket
from tests.standin import RESPONSES, Answer, StandIn, Token

CLIENT = Token("at-test-client-0123456789abcdef", "acc-client", "user-client", name="client")
AUTH = [("authorization", "Bearer standin-credential-1"), ("chatgpt-account-id", "acc-standin-1")]
UPGRADE = [
    *AUTH,
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "N4kwaorYcXS3H3HpPr2lsA=="),
    ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
]
TURN = json.dumps({"model": "m", "input": "hello"})


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A stand-in without a proxy before it: its one token is the pool's and the client's."""
    with StandIn([CLIENT], clients=[CLIENT], folder=tmp_path_factory.mktemp("standin")) as made:
        yield made


@pytest.fixture
def replay(standin: StandIn) -> Replay:
    standin.unplan()
    return Replay(standin, Player(standin.proxy_port, standin.ca_file))


def part_of(flow: http.HTTPFlow, bodies: bool = True) -> Part:
    return parts([taken(flow, bodies)], CLIENT.token, CLIENT.account_id)[0]


def played(replay: Replay, flow: http.HTTPFlow, bodies: bool = True) -> Played:
    return replay.play(part_of(flow, bodies))


def test_a_request_that_is_answered_as_before_has_no_problem(replay: Replay) -> None:
    models = played(replay, a_flow("/backend-api/codex/models?a=1", method="GET", headers=AUTH))
    turn = played(replay, a_flow(RESPONSES, headers=[*AUTH, ("content-encoding", "zstd")], body=TURN))

    assert (models.problems, turn.problems) == ([], [])
    assert (models.status, turn.status) == (200, 200)


@pytest.mark.parametrize("bodies", [True, False])
def test_a_socket_goes_through_its_turns(replay: Replay, standin: StandIn, bodies: bool) -> None:
    first = {"type": CREATE, "model": "m", "input": [{"type": "message", "role": "user", "content": "tools:1"}]}
    output = {"type": "function_call_output", "call_id": "call_recorded", "output": "x"}
    second = {"type": CREATE, "model": "m", "previous_response_id": "resp_recorded", "input": [output]}
    flow = a_socket([json.dumps(first), json.dumps(second)], ['{"type":"response.completed"}'] * 2, headers=UPGRADE)
    before = len(standin.seen)

    made = played(replay, flow, bodies)

    assert (made.status, made.problems) == (101, [])
    turns = [seen for seen in standin.seen[before:] if seen.transport == "message"]
    assert [seen.status for seen in turns] == ([200, 200] if bodies else [])


def test_an_answer_that_is_worse_than_it_was_is_a_problem(replay: Replay, standin: StandIn) -> None:
    standin.plan(Answer(path=RESPONSES, status=500, body={"error": {"code": "broken", "message": "out of order"}}))

    made = played(replay, a_flow(RESPONSES, headers=AUTH, body=TURN))

    assert made.problems == ["recorded was 200, and now it is 500: out of order"]


def test_an_endpoint_that_the_stand_in_does_not_know_is_a_problem(replay: Replay) -> None:
    made = played(replay, a_flow("/backend-api/brand-new", method="GET", headers=AUTH))

    assert made.problems == ["recorded was 200, and now it is 404 (the stand-in has no such endpoint)"]


def test_a_failure_that_was_recorded_need_not_come_again(replay: Replay) -> None:
    limited = played(replay, a_flow(RESPONSES, headers=AUTH, body=TURN, status=429))
    lost = played(replay, a_flow(RESPONSES, headers=AUTH, body=TURN, status=None, error="lost"))

    assert (limited.problems, lost.problems) == ([], [])
    assert limited.notes == ["the recording has a 429, and the stand-in no cause for it"]
    assert lost.notes == ["the recording has no answer, and the stand-in no cause for it"]


def test_what_the_stand_in_refuses_is_a_problem_and_says_why(replay: Replay) -> None:
    made = played(replay, a_flow(RESPONSES, headers=[*AUTH, ("openai-organization", "org-standin-1")], body=TURN))

    assert "the stand-in refused it: openai-organization must not be sent" in made.problems


def test_a_turn_that_ends_badly_is_a_problem(replay: Replay, standin: StandIn) -> None:
    standin.plan(Answer(path=RESPONSES, transport="message", fail="server_error", fail_message="no more"))
    flow = a_socket(
        [json.dumps({"type": CREATE, "model": "m", "input": "x"})],
        ['{"type":"response.completed"}'],
        headers=UPGRADE,
    )

    made = played(replay, flow)

    assert [text.partition(" with ")[0] for text in made.problems] == ["message 1: the turn ended"]


def test_a_connection_that_is_cut_is_a_problem(replay: Replay, standin: StandIn) -> None:
    standin.plan(Answer(path=RESPONSES, cut="head"))

    made = played(replay, a_flow(RESPONSES, headers=AUTH, body=TURN))

    assert made.status is None
    assert made.problems


def test_a_handshake_that_is_refused_is_told(tmp_path: Path) -> None:
    with StandIn([CLIENT], clients=[CLIENT], folder=tmp_path, websockets=False) as standin:
        replay = Replay(standin, Player(standin.proxy_port, standin.ca_file))
        made = played(replay, a_socket([], [], headers=UPGRADE))

    assert made.status == 426
    assert made.problems == ["recorded was 101, and now it is 426: no WebSocket here"]


def test_a_request_that_cannot_be_sent_is_told(replay: Replay) -> None:
    part = part_of(a_flow("/backend-api/codex/models", method="GET", headers=AUTH))
    broken = part.sent._replace(path="/with a blank")

    with pytest.raises(PlayError, match="blank"):
        replay._player.request(broken)


class Meddling(Player):
    """A way to the stand-in on which headers change."""

    def __init__(self, standin: StandIn, change: dict[str, str | None]) -> None:
        super().__init__(standin.proxy_port, standin.ca_file)
        self._change = change

    def request(self, sent: Sent) -> object:  # type: ignore[override]
        headers = [(name, self._change.get(name, value)) for name, value in sent.headers]
        kept = [(name, value) for name, value in headers if value is not None]
        added = [(name, value) for name, value in self._change.items() if value and name not in dict(sent.headers)]
        return super().request(sent._replace(headers=[*kept, *added]))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"originator": None}, "originator did not arrive"),
        ({"originator": "another"}, "originator arrived with another value"),
        ({"x-new": "1"}, "x-new was added on the way"),
    ],
)
def test_a_header_that_changes_on_the_way_is_a_problem(
    standin: StandIn, change: dict[str, str | None], problem: str
) -> None:
    standin.unplan()
    flow = a_flow(RESPONSES, headers=[*AUTH, ("originator", "codex_exec")], body=TURN)

    made = Replay(standin, Meddling(standin, change)).play(part_of(flow))

    assert made.problems == [problem]


def test_what_is_the_pools_to_change_may_change(standin: StandIn) -> None:
    standin.unplan()
    flow = a_flow(RESPONSES, headers=[*AUTH, ("x-codex-turn-state", "turn-standin-1")], body=TURN)

    made = Replay(standin, Meddling(standin, {"x-codex-turn-state": None})).play(part_of(flow))

    assert made.problems == []


def test_on_other_paths_nothing_may_change(standin: StandIn) -> None:
    flow = a_flow("/backend-api/wham/usage", method="GET", headers=[*AUTH, ("x-codex-turn-state", "turn-standin-1")])

    made = Replay(standin, Meddling(standin, {"x-codex-turn-state": None})).play(part_of(flow))

    assert made.problems == ["x-codex-turn-state did not arrive"]
