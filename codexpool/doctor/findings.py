"""What a check finds, for the terminal and as JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from codexpool.redaction import redact_tokens
from codexpool.views.formatting import plain


class Level(StrEnum):
    """How much a finding matters. Only ``WRONG`` affects the exit code."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


class Finding(NamedTuple):
    """One line: ``about`` is the area (``proxy``, ``probe``, …), ``remedy`` how to fix it, empty if nothing is wrong.

    Text and remedy may quote a proxy or a file; `safe` makes them fit to be shown.
    """

    level: Level
    about: str
    text: str
    remedy: str = ""

    def safe(self) -> Finding:
        """Return it without tokens and control characters."""
        return self._replace(text=redact_tokens(plain(self.text)), remedy=redact_tokens(plain(self.remedy)))


def ok(about: str, text: str) -> Finding:
    return Finding(Level.OK, about, text)


def note(about: str, text: str, remedy: str = "") -> Finding:
    return Finding(Level.NOTE, about, text, remedy)


def wrong(about: str, text: str, remedy: str) -> Finding:
    return Finding(Level.WRONG, about, text, remedy)
