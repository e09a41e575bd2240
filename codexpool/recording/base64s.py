"""Texts in base64, read and written again as they were. Pure."""

from __future__ import annotations

import base64
import binascii
import json


def decoded(run: str) -> str | None:
    """What is in base64 of either alphabet, each byte as a character."""
    if not run or len(run) % 4 == 1:
        return None
    plain = run.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode("latin-1")
    except binascii.Error:
        return None


def encoded_like(run: str, inner: str, padded: bool) -> str:
    made = base64.b64encode(inner.encode("latin-1")).decode()
    if "-" in run or "_" in run:
        made = made.replace("+", "-").replace("/", "_")
    return made if padded else made.rstrip("=")


def json_text(inner: str) -> str:
    """The text, if it is an object or an array of JSON; else nothing."""
    if inner.lstrip()[:1] not in ("{", "["):
        return ""
    try:
        text = inner.encode("latin-1").decode()
        return text if isinstance(json.loads(text), dict | list) else ""
    except (ValueError, RecursionError):
        return ""
