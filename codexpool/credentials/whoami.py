"""What can be said of a token: whose it is, and what keeps one from knowing."""

from __future__ import annotations

from typing import NamedTuple

from codexpool.pool.identity import Evidence, Metadata, Word


class Whoami(NamedTuple):
    """The word on a token, the evidence, and with `Word.HEALTHY` whose token it is."""

    word: Word
    evidence: Evidence
    metadata: Metadata | None = None


class UndiscoveredError(Exception):
    """Routing discovery gave no answer; the text says why. Worth another try later."""


class RefusedError(Exception):
    """Routing discovery refused the token itself, or so it seems (401)."""
