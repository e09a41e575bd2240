"""Code and message of a refusal, in whichever shape the backend sent it. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from codexpool.protocol.bounded_json import loads

LONGEST = 500  # Characters of a code or message: it goes into a log, a flag and the state.


def error_in(headers: Mapping[str, str], body: Any) -> tuple[str, str]:
    """Return code and message of a refusal with a parsed body; empty if it has none.

    They are in the base64 of ``x-error-json``, the most specific; else in the body: ``{"error": {"code", "type",
    "message"}}``, ``{"detail": …}``, ``{"code", "message"}``; else there is a code in
    ``x-openai-authorization-error``.
    """
    for document in (document_of(unpacked(headers.get("x-error-json", ""))), body):
        code, message = code_and_message(document)
        if code or message:
            return code, message
    return _text(headers.get("x-openai-authorization-error", "")), ""


def details_in(headers: Mapping[str, str], body: Any) -> Mapping[str, Any]:
    """Return the error object of a refusal whose body is parsed already; an empty one if it has none."""
    for document in (body, document_of(unpacked(headers.get("x-error-json", "")))):
        for name in ("error", "detail") if isinstance(document, dict) else ():
            if isinstance(error := document.get(name), dict):
                return error
    return {}


def code_and_message(document: Any) -> tuple[str, str]:
    if not isinstance(document, dict):
        return "", ""
    for inner in (document.get("error"), document.get("detail"), document):
        if isinstance(inner, dict):
            code, message = _text(inner.get("code")) or _text(inner.get("type")), _text(inner.get("message"))
        else:
            text = _text(inner)
            code, message = ("", text) if " " in text else (text, "")
        if code or message:
            return code, message
    return "", ""


def _text(value: Any) -> str:
    """Return a text or number in one printable line; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return "".join(character for character in str(value)[:LONGEST] if character.isprintable())


def document_of(text: bytes) -> Any:
    if not text:
        return None  # As nearly every ``x-error-json``: an exception takes longer.
    try:
        return loads(text)
    except ValueError:
        return None


def unpacked(text: str | bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
