"""Conversations with tool calls: ``tools:<n>`` in a prompt makes the model call n tools.

With ``printenv:<NAME>`` in it they also print a variable of the client's environment.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.standin.answers import Event, MalformedError, prompt_in

_TOOLS = re.compile(r"\btools:(\d+)")
_VARIABLE = re.compile(r"\bprintenv:(\w+)")

_CALLS = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}
"""The kind of call that each kind of output answers."""

Tool = Literal["exec_command", "exec"]
"""What Codex 0.169.0 offers for running a command, which depends on the model.

``exec_command`` is a function; ``exec`` is a custom tool that takes JavaScript, in which ``exec_command`` is one of
``tools``. It is offered within an ``additional_tools`` item of the input, so only once on a socket.
"""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The part of a conversation on which the next answer depends.

    Attributes:
        prompt: the text of the last user message.
        outputs: how many outputs of tool calls there were since.
        calls: the kind and id of each tool call that was made.
        tool: what the client offered for running a command.
        response_id: of the last answer; a request on the same socket can continue it.
    """

    prompt: str = ""
    outputs: int = 0
    calls: frozenset[tuple[str, str]] = frozenset()
    tool: Tool = "exec_command"
    response_id: str = ""

    def continued(self, data: dict[str, Any]) -> Conversation:
        """It with the items of one more request.

        Raises MalformedError for the output of a call that was never made.
        """
        prompt, outputs, calls = self.prompt, self.outputs, set(self.calls)
        tool = _tool_in(data.get("tools")) or self.tool
        for item in _dicts(data["input"]):
            kind = item.get("type")
            if item.get("role") == "user":
                prompt, outputs = prompt_in(item), 0
            elif kind in _CALLS:
                if (_CALLS[kind], str(item.get("call_id"))) not in calls:
                    raise MalformedError(f"No tool call found for {kind} with call_id {item.get('call_id')!r}.")
                outputs += 1
            elif kind in _CALLS.values():
                calls.add((str(kind), str(item.get("call_id"))))
            elif kind == "additional_tools":
                tool = _tool_in(item.get("tools")) or tool
        return Conversation(prompt, outputs, frozenset(calls), tool)

    def answered(self, event: Event) -> Conversation:
        """Return the conversation after one event of the answer. A failed answer cannot be continued."""
        match event:
            case {"type": "response.created", "response": {"id": str(response_id)}}:
                return replace(self, response_id=response_id)
            case {"type": "response.output_item.done", "item": {"type": str(kind), "call_id": str(call_id)}}:
                return replace(self, calls=self.calls | {(kind, call_id)})
            case {"type": "response.failed"}:
                return Conversation()
        return self

    def next_call(self, response_id: str, text: str) -> Event | None:
        """The tool call that is due before the answer itself: it prints ``text``."""
        wanted = _TOOLS.search(self.prompt)
        if wanted is None or self.outputs >= int(wanted[1]):
            return None
        variable = _VARIABLE.search(self.prompt)
        command = f"echo {shlex.quote(text)}" + (f"; printenv {variable[1]}" if variable else "")
        arguments = json.dumps({"cmd": command, "login": False})
        call = {"call_id": f"call_{response_id}", "name": self.tool, "status": "completed"}
        if self.tool == "exec":
            script = f"text((await tools.exec_command({arguments})).output)"
            return {"type": "custom_tool_call", "id": f"ctc_{response_id}", **call, "input": script}
        return {"type": "function_call", "id": f"fc_{response_id}", **call, "arguments": arguments}


def _tool_in(offered: object) -> Tool | None:
    for tool in _dicts(offered):
        match tool.get("type"), tool.get("name"):
            case "function", "exec_command":
                return "exec_command"
            case "custom", "exec":
                return "exec"
            case "namespace", _:
                if found := _tool_in(tool.get("tools")):
                    return found
    return None


def _dicts(items: object) -> list[Event]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
