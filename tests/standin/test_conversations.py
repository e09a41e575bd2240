"""Answers depend on the conversation: tool calls and encrypted reasoning, over HTTP and on a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.standin import StandIn
from tests.standin.clients import answer_in, ask, events_in, http, post, prompt, say, spare, text_in, websocket, work

EXEC = {"type": "additional_tools", "tools": [{"type": "namespace", "tools": [{"type": "custom", "name": "exec"}]}]}


def call_in(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The one tool call of an answer that has no text."""
    assert text_in(events) == ""
    [item] = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert isinstance(item, dict)
    assert events[-1]["response"]["output"] == [item]
    return item


def output_of(call: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"{call['type']}_output", "call_id": call["call_id"], "output": "done"}


def test_a_prompt_may_ask_for_tool_calls_before_the_answer(standin: StandIn) -> None:
    body = prompt("say hi tools:2 echo:banana")
    with http(standin) as client:
        for number in (1, 2):
            call = call_in(events_in(post(client, work(), body)))
            # then: the call has its author, and the number of its request
            command = json.loads(call["arguments"])["cmd"]
            assert (call["type"], call["name"]) == ("function_call", "exec_command")
            assert command == f"echo 'answer from work, request {number}, banana'"
            # when: it is carried out
            body["input"] += [call, output_of(call)]
        assert answer_in(post(client, work(), body)) == "answer from work, request 3, banana"
        # and: the next turn starts from the beginning
        body["input"] += [*prompt("once more")["input"]]
        assert answer_in(post(client, work(), body)) == "answer from work, request 4"


def test_on_a_socket_the_conversation_is_remembered(standin: StandIn) -> None:
    with websocket(standin, work()) as connection:
        frames = say(connection, "tools:2 echo:banana")
        for _ in (1, 2):
            previous = frames[-1]["response"]["id"]
            frames = say(connection, input=[output_of(call_in(frames))], previous_response_id=previous)
        assert text_in(frames).endswith(", banana")
        # and: a reconnect carries the whole history, to another identity maybe
    with websocket(standin, spare()) as connection:
        call = {"type": "function_call", "call_id": "call_resp_1", "name": "exec_command", "arguments": "{}"}
        history = [*prompt("tools:1")["input"], call, output_of(call)]
        assert text_in(say(connection, input=history)).startswith("answer from spare")


def test_the_tool_called_is_the_one_that_was_offered(standin: StandIn) -> None:
    with websocket(standin, work()) as connection:
        # given: it is offered once, with the first request
        prewarmed = say(connection, input=[EXEC], generate=False)
        call = call_in(say(connection, "tools:2", previous_response_id=prewarmed[-1]["response"]["id"]))
        assert (call["type"], call["name"]) == ("custom_tool_call", "exec")
        assert "tools.exec_command(" in call["input"]
        assert "answer from work, request 3" in call["input"]
        # when
        again = say(connection, input=[output_of(call)], previous_response_id=call["call_id"].removeprefix("call_"))
        assert call_in(again)["type"] == "custom_tool_call"


def test_the_output_of_a_call_that_was_never_made_is_refused(standin: StandIn) -> None:
    stranger = {"type": "function_call_output", "call_id": "call_x", "output": "done"}
    with http(standin) as client, websocket(standin, work()) as connection:
        posted = post(client, work(), prompt("hi", input=[*prompt("tools:1")["input"], stranger]))
        frames = say(connection, "tools:1")
        call, previous = call_in(frames), frames[-1]["response"]["id"]
        [of_another_kind] = say(
            connection, input=[{**output_of(call), "type": "custom_tool_call_output"}], previous_response_id=previous
        )
        [forgotten] = say(connection, input=[output_of(call)])
        served = say(connection)
    assert (posted.status_code, of_another_kind["status"], forgotten["status"]) == (400, 400, 400)
    assert "call_x" in posted.json()["error"]["message"]
    assert text_in(served)
    assert len(standin.refusals) == 3


def reasoning(**more: Any) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], **more}


def test_foreign_reasoning_on_a_socket_is_only_an_error(standin: StandIn) -> None:
    standin.backend.encrypted = "bound"
    with websocket(standin, work()) as mine, websocket(standin, spare()) as other:
        # given: two turns of one account
        first = say(mine, "one")
        second = say(mine, "two", previous_response_id=first[-1]["response"]["id"])
        issued = [item for frames in (first, second) for item in frames[-1]["response"]["output"]]
        assert [item["type"] for item in issued] == ["reasoning", "message"] * 2
        history = [*issued, *prompt("three")["input"]]
        # when: their history goes to both
        taken, [error] = say(mine, input=history), say(other, input=history)
        bare = [reasoning(), reasoning(encrypted_content=None), *prompt("three")["input"]]
        without = say(other, input=bare)
    assert text_in(taken).startswith("answer from work")
    assert (error["status"], error["error"]["code"]) == (400, "invalid_encrypted_content")
    assert text_in(without).startswith("answer from spare")


def test_portable_encrypted_reasoning_is_taken_on_any_socket(standin: StandIn) -> None:
    standin.backend.encrypted = "portable"
    with websocket(standin, work()) as mine, websocket(standin, spare()) as other:
        [thought, _] = say(mine)[-1]["response"]["output"]
        frames = say(other, input=[thought, *prompt("go on")["input"]])
    assert thought["encrypted_content"].startswith("enc:acc-work:")
    assert text_in(frames).startswith("answer from spare")


@pytest.mark.parametrize("kind", ["bound", "portable", "none"])
def test_reasoning_without_its_encrypted_content_is_accepted(standin: StandIn, kind: str) -> None:
    standin.backend.encrypted = "bound" if kind == "bound" else "portable" if kind == "portable" else "none"
    with http(standin) as client:
        assert "enc:" in ask(client, work()).text or kind == "none"
        body = prompt("hi", input=[reasoning(), *prompt("hi")["input"]])
        assert answer_in(post(client, spare(), body)).startswith("answer from spare")
