"""Generate the events of an answer from its request."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

Event = dict[str, Any]

_ECHO = re.compile(r"echo:([\w.-]+)")


class MalformedError(ValueError):
    """A request body that the backend cannot use. The text has the reason."""


def parse_generation(body: bytes | str) -> dict[str, Any]:
    """Return the JSON object of a model request, with all required fields.

    An ``input`` that is a plain string means one user message, as in the public Responses API.

    Raises:
        MalformedError: no JSON object, or a field is missing or of the wrong kind.
    """
    try:
        data = json.loads(body)
    except ValueError as error:
        raise MalformedError(f"the body is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise MalformedError("the body is no JSON object")
    if not isinstance(data.get("model"), str):
        raise MalformedError("model is missing")
    if isinstance(text := data.get("input"), str):
        data["input"] = [{"type": "message", "role": "user", "content": text}]
    if not isinstance(data.get("input"), list):
        raise MalformedError("input is neither a list nor a string")
    return data


def prompt_in(message: dict[str, Any]) -> str:
    """Return the text of a message."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or [] if isinstance(part, dict))


def answer_text(name: str, number: int, prompt: str) -> str:
    """Return ``answer from <name>, request <n>``, with the word of an ``echo:<word>`` in the prompt."""
    echo = _ECHO.search(prompt)
    return f"answer from {name}, request {number}" + (f", {echo[1]}" if echo else "")


def encrypted_owners(data: dict[str, Any]) -> set[str]:
    """Return the accounts that issued the encrypted reasoning in ``input``."""
    contents = (item.get("encrypted_content") for item in data["input"] if isinstance(item, dict))
    return {text.split(":")[1] for text in contents if isinstance(text, str) and text.startswith("enc:")}


def generation(
    response_id: str,
    model: str,
    text: str,
    deltas: int,
    *,
    encrypted: str | None = None,
    call: Event | None = None,
) -> Iterator[Event]:
    """Return a complete answer: created, the text in ``deltas`` pieces, completed with usage.

    ``encrypted`` puts a reasoning item with that content before the message. A tool ``call`` comes instead of one.
    """
    created = int(time.time())
    output: list[Event] = []

    def response(status: str, **more: Any) -> Event:
        return {
            "id": response_id,
            "object": "response",
            "created_at": created,
            "model": model,
            "status": status,
            "output": output,
            **more,
        }

    yield {"type": "response.created", "response": response("in_progress")}
    if encrypted:
        reasoning = {
            "type": "reasoning",
            "id": f"rs_{response_id}",
            "summary": [],
            "encrypted_content": encrypted,
        }
        yield {"type": "response.output_item.added", "output_index": 0, "item": reasoning}
        yield {"type": "response.output_item.done", "output_index": 0, "item": reasoning}
        output.append(reasoning)
    index = len(output)
    for event in _calling(call, index) if call else _saying(response_id, text, deltas, index):
        yield event
        if event["type"] == "response.output_item.done":
            output.append(event["item"])
    yield {"type": "response.completed", "response": response("completed", usage=_usage(len(text)))}


def failing(events: Iterable[Event], error: Event, after: int) -> Iterator[Event]:
    """Return an answer that fails with ``error`` (code, message) after some deltas, at the latest at its end."""
    response: Event = {}
    for event in events:
        if event["type"] == "response.completed" or (response and after <= 0):
            break
        yield event
        response = event.get("response", response)
        after -= event["type"].endswith(".delta")
    yield {"type": "response.failed", "response": {**response, "status": "failed", "error": error}}


def prewarmed(response_id: str, model: str) -> Iterator[Event]:
    """Return the answer to ``generate: false``: an id, and no text."""
    response = {"id": response_id, "object": "response", "model": model, "output": []}
    yield {"type": "response.created", "response": {**response, "status": "in_progress"}}
    yield {"type": "response.completed", "response": {**response, "status": "completed", "usage": _usage(0)}}


def _saying(response_id: str, text: str, deltas: int, index: int) -> Iterator[Event]:
    message: Event = {"type": "message", "id": f"msg_{response_id}", "role": "assistant", "content": []}
    yield {"type": "response.output_item.added", "output_index": index, "item": message}
    for piece in _pieces(text, deltas):
        yield {
            "type": "response.output_text.delta",
            "item_id": message["id"],
            "output_index": index,
            "content_index": 0,
            "delta": piece,
        }
    message = {**message, "content": [{"type": "output_text", "text": text, "annotations": []}]}
    yield {"type": "response.output_item.done", "output_index": index, "item": message}


def _calling(call: Event, index: int) -> Iterator[Event]:
    name = "input" if "input" in call else "arguments"
    yield {
        "type": "response.output_item.added",
        "output_index": index,
        "item": {**call, name: "", "status": "in_progress"},
    }
    yield {
        "type": "response.custom_tool_call_input.delta"
        if name == "input"
        else "response.function_call_arguments.delta",
        "item_id": call["id"],
        "call_id": call["call_id"],
        "output_index": index,
        "delta": call[name],
    }
    yield {"type": "response.output_item.done", "output_index": index, "item": call}


def _pieces(text: str, count: int) -> list[str]:
    size = max(1, -(-len(text) // max(1, count)))
    return [text[at : at + size] for at in range(0, len(text), size)]


def _usage(length: int) -> Event:
    return {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": length,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 100 + length,
    }
