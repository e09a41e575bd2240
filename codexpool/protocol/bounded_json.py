"""JSON that comes from outside: what a text may turn into is bounded. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

LONGEST: Final = 16 * 2**20  # Bytes of a text that is parsed.

PARTS: Final = 250_000
"""Values in it, about: three bytes (``[],``) turn into a list of seventy, and to make one takes its time."""

_SHORT: Final = 3 * PARTS // 8  # Bytes up to which nobody counts.


def parts_of(text: bytes) -> int:
    """The values in a text of JSON, or more."""
    return sum(map(text.count, (b",", b"[", b"{")))


def loads(text: bytes) -> Any:
    """What a text says. Raises ValueError where it is no JSON, and where it is too much of it."""
    if len(text) > LONGEST:
        raise ValueError(f"more than {LONGEST} bytes of JSON")
    if len(text) > _SHORT and parts_of(text) > PARTS:
        raise ValueError(f"JSON of more than {PARTS} parts")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error
