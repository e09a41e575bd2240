"""Refuse a member's message that two parsers could read differently. Pure.

Its ``type`` and ``generate`` decide what it counts as for the member's bounds. Parsers differ on two keys of one name
(the first counts, or the last), on the case of a key, and on what is JSON at all.

Only the keys of the outermost object are read. The values are skipped without being built: a message may be megabytes
long.
"""

from __future__ import annotations

import json
import re
from typing import Final

from codexpool.protocol import frames

DECISIVE: Final = frozenset({"type", "generate"})  # The keys that say what a message counts as.
MOST_KEYS: Final = 256  # Keys of a message; a client's has twenty.
DEEPEST: Final = 512  # Nested brackets.
MOST_BRACKETS: Final = 400_000  # Brackets in a value: a client's whole history has some ten thousand.
AT_ONCE: Final = 256 * 1024  # Bytes of a message that is read on the event loop; a longer one is read in a thread.

CLOSING: Final = {b"{": b"}", b"[": b"]"}

# What may be between two brackets: strings, and the rest of JSON. Other quotes and comments are not JSON, and could
# hide a bracket from a parser that accepts them.
_STRING: Final = rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*+"'
_PLAIN: Final = rb"[\s\w+\-.,:]"
_KEY: Final = re.compile(rb"\s*+(" + _STRING + rb")\s*+:\s*+")
_SCALAR: Final = re.compile(_STRING + rb"|true|false|null|-?[0-9][0-9.eE+\-]{0,400}+")
_TO_BRACKET: Final = re.compile(rb"(?:" + _PLAIN + rb"{1,4096}+|" + _STRING + rb"){0,1024}+([{}\[\]]?)")
_NEXT: Final = re.compile(rb"\s*+([,}])")
_OPEN: Final = re.compile(rb"\s*+\{")
_END: Final = re.compile(rb"\s*+\Z")

NO_JSON: Final = "it is not one JSON object"


def ambiguity(message: bytes) -> str:
    """Return why a message could be read in two ways; empty if it cannot."""
    try:
        said = _decisive(message)
    except RecursionError:
        return NO_JSON
    except ValueError as error:
        return str(error)
    if str(said.get("type") or "") != frames.kind(message):
        return NO_JSON
    return ""


def _decisive(message: bytes) -> dict[str, object]:
    """The decisive keys of a message, with their values. Raises ValueError where two parsers could differ."""
    found = _OPEN.match(message)
    if found is None:
        raise ValueError(NO_JSON)
    at, seen, said = found.end(), set[str](), dict[str, object]()
    while True:
        key = _KEY.match(message, at)
        if key is None:
            if not seen and (end := _NEXT.match(message, at)) and end[1] == b"}":
                at = end.end()
                break
            raise ValueError(NO_JSON)
        name = str(_value(key[1]))
        plain = name.casefold()
        if plain in seen or (plain in DECISIVE and name != plain):
            raise ValueError(f'it has the key "{plain[:32]}" twice, or in another case')
        if len(seen) == MOST_KEYS:
            raise ValueError(f"it has more than {MOST_KEYS} keys")
        seen.add(plain)
        at, start = _end_of_value(message, key.end()), key.end()
        if plain in DECISIVE:
            said[plain] = _value(message[start:at])
        then = _NEXT.match(message, at)
        if then is None:
            raise ValueError(NO_JSON)
        at = then.end()
        if then[1] == b"}":
            break
    if _END.match(message, at) is None:
        raise ValueError(NO_JSON)
    return said


def _end_of_value(message: bytes, at: int) -> int:
    if message[at : at + 1] not in (b"{", b"["):
        scalar = _SCALAR.match(message, at)
        if scalar is None:
            raise ValueError(NO_JSON)
        return scalar.end()
    closing = bytearray()  # The brackets that must follow, the innermost last.
    for _ in range(MOST_BRACKETS):
        run = _TO_BRACKET.match(message, at)
        if run is None or run.end() == at or len(closing) > DEEPEST:
            raise ValueError(NO_JSON)
        at = run.end()
        if run[1] in CLOSING:
            closing += CLOSING[run[1]]
        elif run[1] and closing.pop() != run[1][0]:
            raise ValueError(NO_JSON)
        if not closing:
            return at
    raise ValueError(f"it has more than {MOST_BRACKETS} brackets")


def _value(raw: bytes) -> object:
    """A key, or the value of a decisive one: a short string or a word."""
    if len(raw) > 1024:
        raise ValueError(NO_JSON)
    try:
        return json.loads(raw)
    except ValueError:
        raise ValueError(NO_JSON) from None
