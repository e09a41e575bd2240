"""What is found, in the words that terminal, JSON and documentation share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from codexpool.credentials.pat import PREFIX
from codexpool.redaction import redact_tokens
from codexpool.tokens.bearer import fingerprint
from codexpool.tokens.member_key import PREFIX as MEMBER_PREFIX
from codexpool.views.formatting import plain

VERSION: Final = 1
"""Of the JSON document."""


class Level(StrEnum):
    """How much a finding matters. Only what is wrong counts for the exit code."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


class Finding(NamedTuple):
    """One line. ``about`` is the area (``proxy``, ``probe``, …); ``remedy`` is what mends it, if anything has to.

    Text and remedy may repeat what others wrote; `safe` makes them fit to be shown.
    """

    level: Level
    about: str
    text: str
    remedy: str = ""

    def safe(self) -> Finding:
        """Without tokens, and without what a terminal would act upon."""
        return self._replace(text=redact_tokens(plain(self.text)), remedy=redact_tokens(plain(self.remedy)))


def ok(about: str, text: str) -> Finding:
    return Finding(Level.OK, about, text)


def note(about: str, text: str, remedy: str = "") -> Finding:
    return Finding(Level.NOTE, about, text, remedy)


def wrong(about: str, text: str, remedy: str) -> Finding:
    return Finding(Level.WRONG, about, text, remedy)


def count(findings: Iterable[Finding], level: Level) -> int:
    """How many are of this level."""
    return sum(finding.level is level for finding in findings)


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as JSON has them."""
    return {
        "version": VERSION,
        "findings": [{**finding._asdict(), "level": finding.level.value} for finding in findings],
        "wrong": count(findings, Level.WRONG),
    }


def token_in_words(token: str) -> str:
    """A token as it may be seen: what kind it looks like, and its fingerprint."""
    kinds = {MEMBER_PREFIX: "a member key", PREFIX: "a personal access token", "eyJ": "a JWT", "sk-": "an API key"}
    kind = next((kind for prefix, kind in kinds.items() if token.startswith(prefix)), "a token of no known kind")
    return f"{kind}, sha256:{fingerprint(token)}"
