"""JSON that comes from outside: what a text may turn into is bounded. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

LONGEST: Final = 16 * 2**20  # Bytes of a text that is parsed.
PARTS: Final = 250_000  # Values in it, about: three bytes (``[],``) turn into a list of seventy.


def loads(text: bytes, most: int = PARTS) -> Any:
    """Parse a text. Raise ValueError if it is not JSON, or has more than about ``most`` values."""
    if len(text) > LONGEST:
        raise ValueError(f"more than {LONGEST} bytes of JSON")
    # A short text cannot have that many, and is not counted.
    if len(text) > 3 * PARTS // 8 and sum(map(text.count, (b",", b"[", b"{"))) > most:
        raise ValueError(f"JSON of more than {most} parts")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error
