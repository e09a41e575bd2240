"""Undoes encodings of text: percent signs, escapes, entities, and invisible characters."""

from __future__ import annotations

import re
from typing import Final

DEPTH: Final = 5  # Layers of encoding that are undone

_ESCAPE: Final = re.compile(
    r"""%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[bfnrtv"'/\\]|&(?:amp|quot|apos|\#\d{1,6}|\#[xX][0-9A-Fa-f]{1,5});"""
    r"|(?P<unseen>\x1b\[[0-9;]{0,16}[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f])"
)
_CONTROLS: Final = {f"\\{letter}": control for letter, control in zip("bfnrtv", "\b\f\n\r\t\v", strict=True)}
_ESCAPED: Final = _CONTROLS | {"&amp;": "&", "&quot;": '"', "&apos;": "'"}


def decode(text: str) -> str:
    """Return a text with all of its encodings undone."""
    for _ in range(DEPTH):
        text = _ESCAPE.sub(_character, text)
    return text


def decode_once(view: str, places: list[int] | None) -> tuple[str, list[int]] | None:
    """Undo one layer of encoding; None if there is none.

    ``places`` are where each character of the view begins in the original text; None if the view is that text. Both
    are returned for the decoded view.
    """
    if "%" not in view and "\\" not in view and "&" not in view and view.isprintable():
        return None
    pieces: list[str] = []
    made: list[int] = []
    at = 0
    for match in _ESCAPE.finditer(view):
        character = _character(match)
        pieces += (view[at : match.start()], character)
        made += range(at, match.start() + len(character))
        at = match.end()
    if not at:
        return None
    pieces.append(view[at:])
    made += range(at, len(view) + 1)
    return "".join(pieces), made if places is None else [places[i] for i in made]


def _character(match: re.Match[str]) -> str:
    """Return what an escape stands for: one character, or nothing."""
    escape = match[0]
    if match["unseen"]:
        return ""
    if escape in _ESCAPED:
        return _ESCAPED[escape]
    if escape[0] == "&":
        digits = escape[2:-1]
        return chr(int(digits[1:], 16) if digits[0] in "xX" else int(digits))
    digits = escape[1:] if escape[0] == "%" else escape[2:]
    return chr(int(digits, 16)) if digits else escape[1:]
