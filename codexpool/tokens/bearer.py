"""A token that can be put on the wire but not into a log."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

FINGERPRINT_DIGITS = 12


def fingerprint(token: str) -> str:
    """Return the public name of a token: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()[:FINGERPRINT_DIGITS]


class Proof(NamedTuple):
    """What one request proves its identity with.

    ``authorization`` is the value of that header, ``secrets`` are its parts that no flow and no answer may show.
    """

    authorization: str
    secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token to put on the wire. Its ``repr`` and ``str`` show the fingerprint only."""

    token: str = field(repr=False)
    fingerprint: str

    @classmethod
    def of(cls, token: str) -> Bearer:
        return cls(token, fingerprint(token))

    def proof(self) -> Proof:
        """Return what the next request is to prove its identity with; each request gets its own."""
        return Proof(f"Bearer {self.token}", (self.token,))

    def __str__(self) -> str:
        return f"sha256:{self.fingerprint}"
