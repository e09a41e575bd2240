"""A token that can be put on the wire but not into a log."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

FINGERPRINT_DIGITS = 12


def fingerprint(token: str) -> str:
    """Return the public name of a token: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()[:FINGERPRINT_DIGITS]


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token to put on the wire. Its ``repr`` and ``str`` show the fingerprint only."""

    token: str = field(repr=False)
    fingerprint: str

    @classmethod
    def of(cls, token: str) -> Bearer:
        return cls(token, fingerprint(token))

    def __str__(self) -> str:
        return f"sha256:{self.fingerprint}"
