"""What a model says in pieces (``…delta`` events), looked at as a whole: a secret may be cut in two anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

Clean = Callable[[str], str]

_SAME = ("type", "item_id", "call_id", "output_index", "content_index", "summary_index")
"""What the pieces of one text have in common."""


def gathered(messages: Sequence[str], clean: Clean, clean_other: Clean) -> list[str]:
    """The messages with stand-ins.

    Where a text that comes in pieces has something in it that is replaced, the first piece has all of it, and the
    others are empty. A piece that has nothing is left as it is, also where it would look like something alone.
    """
    documents = [_piece(message) for message in messages]
    texts: dict[tuple[Any, ...], list[int]] = {}
    for number, document in enumerate(documents):
        if document is not None:
            key = tuple(json.dumps(document.get(name)) for name in _SAME)
            texts.setdefault(key, []).append(number)
    deltas: dict[int, str] = {}
    for numbers in texts.values():
        pieces = [str((documents[number] or {})["delta"]) for number in numbers]
        whole = "".join(pieces)
        made = clean(whole)
        deltas |= dict(zip(numbers, pieces if made == whole else [made, *[""] * (len(pieces) - 1)], strict=True))
    return [
        _with_piece(message, document, deltas[number], clean_other) if document is not None else clean_other(message)
        for number, (message, document) in enumerate(zip(messages, documents, strict=True))
    ]


def _piece(message: str) -> dict[str, Any] | None:
    """An event with a piece of a text."""
    if '"delta"' not in message:
        return None
    try:
        document = json.loads(message)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("delta"), str) else None


def _with_piece(message: str, document: dict[str, Any], delta: str, clean: Clean) -> str:
    rest = json.dumps({**document, "delta": ""})
    made = json.loads(clean(rest))
    if made == {**document, "delta": ""} and delta == document["delta"]:
        return message
    spaced = '": ' in message[:4096]
    return json.dumps(
        {**made, "delta": delta}, ensure_ascii=message.isascii(), separators=None if spaced else (",", ":")
    )
