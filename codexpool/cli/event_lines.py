"""Formats an event as a line, and below it the attempts that were refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.text import Text

from codexpool.cli.status_view import short, style_of
from codexpool.protocol.endpoints import CHATGPT
from codexpool.views.formatting import plain_document, size, took

Event = Mapping[str, Any]

LONGEST: Final = 24
"""The widest a column grows to fit a name."""

PREFIX: Final = "/backend-api/"
"""Left out: all paths of the backend begin with it."""


class EventLines:
    """Formats events in columns that grow with their content; ``width`` is that of the terminal."""

    def __init__(self, width: int) -> None:
        self._longest_path = max(30, width - 60)
        self._widths = {"client": 9, "session": 14, "identity": 4}

    def of(self, event: Event) -> list[Text]:
        event = plain_document(event)
        line = Text.assemble(
            (event["time"][11:19], "dim"),
            " ",
            (self._column("client", event.get("member") or event["client"]), "dim"),
            " ",
            self._column("session", short(event["session"]) if event["session"] else None),
            " ",
            (self._column("identity", event["identity"]), "bold"),
            " ",
            *self._what(event),
        )
        line.no_wrap = False
        refusals = [Text(f"         {refusal}", "yellow") for refusal in event["refusals"]]
        return [line, *refusals]

    def _column(self, name: str, text: str | None) -> str:
        shown = "-" if text is None else text
        width = self._widths[name] = max(self._widths[name], min(LONGEST, len(shown)))
        return shown.ljust(width)

    def _what(self, event: Event) -> Iterator[str | tuple[str, str]]:
        match event["event"]:
            case "request":
                yield f"{event['method']} {self._target(event)} "
                status = event["status"]
                yield ("no answer", "red") if status is None else (str(status), _style(status))
                yield from self._numbers(event)
            case "turn":
                failed = "failed" in event["text"]
                yield event["text"], "red" if failed else "green"
                yield from self._numbers(event)
            case "socket":
                yield event["text"], "dim"
                yield from self._numbers(event)
            case "identity":
                yield event["text"].removeprefix(f"{event['identity']}: "), style_of(event["becomes"] or "")
            case "move" if event["becomes"]:
                yield f"the session moves: {event['was'] or '?'} -> {event['becomes']}", "cyan"
            case "breaker":
                yield event["text"], "bold red"
            case _:
                yield event["text"], "dim"

    def _target(self, event: Event) -> str:
        host, path = event["host"] or "", event["path"] or ""
        target = path.removeprefix(PREFIX) if f"https://{host}" == CHATGPT else f"{host}{path}"
        return target if len(target) <= self._longest_path else f"{target[: self._longest_path - 1]}…"

    @staticmethod
    def _numbers(event: Event) -> Iterator[str | tuple[str, str]]:
        words = []
        if event["milliseconds"] is not None:
            words.append(took(event["milliseconds"]))
        if event["bytes_in"] is not None:
            words.append(size(event["bytes_in"]))
        if words:
            yield f" {' '.join(words)}", "dim"
        if (attempts := event["attempts"] or 0) > 1:
            yield f" {attempts} attempts", "yellow"
        if event["event"] == "request" and event["flow"]:
            yield f" {event['flow'][:8]}", "dim"


def _style(status: int) -> str:
    return "green" if 0 < status < 300 else "yellow" if 300 <= status < 400 else "red"
