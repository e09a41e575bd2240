"""Refuse a member's message that two parsers could read differently. Pure.

Its ``type`` and ``generate`` decide what it counts as for the member's bounds. Parsers differ on two keys of one name
(the first counts, or the last), on the case of a key, and on what is JSON at all. Only the keys of the outermost
object matter. Objects within it are not kept: a message may be megabytes long.
"""

from __future__ import annotations

import json
from typing import Any, Final

from codexpool.protocol import frames

DECISIVE: Final = frozenset({"type", "generate"})  # The keys that say what a message counts as.
MOST_KEYS: Final = 256  # Keys of a message; a client's has twenty.
MOST_BRACKETS: Final = 1_000_000  # A client's whole history has some ten thousand, and those in its texts.
MOST_COMMAS: Final = 4_000_000
AT_ONCE: Final = 256 * 1024  # Bytes of a message that is read on the event loop; a longer one is read in a thread.

NO_JSON: Final = "it is not one JSON object"


def ambiguity(message: bytes) -> str:
    """Return why a message could be read in two ways; empty if it cannot."""
    if message.count(b"[") + message.count(b"{") > MOST_BRACKETS or message.count(b",") > MOST_COMMAS:
        return f"it has more than {MOST_BRACKETS} brackets, or {MOST_COMMAS} commas"
    keys: list[tuple[str, Any]] = []
    outermost = object()

    def forget(pairs: list[tuple[str, Any]]) -> object:
        nonlocal keys, outermost
        keys, outermost = pairs, object()
        return outermost

    try:
        text = message.decode("utf-8", "surrogatepass")
        document = json.loads(text, object_pairs_hook=forget, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NO_JSON
    if document is not outermost:
        return NO_JSON
    if len(keys) > MOST_KEYS:
        return f"it has more than {MOST_KEYS} keys"
    seen: set[str] = set()
    for name, _ in keys:
        plain = name.casefold()
        if plain in seen or (plain in DECISIVE and name != plain):
            return f'it has the key "{plain[:32]}" twice, or in another case'
        seen.add(plain)
    return "" if str(dict(keys).get("type") or "") == frames.kind(message) else NO_JSON


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and the infinities are not JSON.
