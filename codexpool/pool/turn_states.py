"""Which identity issued a turn state: it is of no use to any other one, and must not be sent there."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from codexpool.pool.identity import IdentityKey
from codexpool.protocol.headers import TURN_STATE, Fields

KEPT = 10_000
"""Turn states whose issuer is remembered; one is of use for the length of a turn."""


class TurnStates:
    """The issuers, by digest: a turn state is opaque, and long."""

    def __init__(self) -> None:
        self._issuers: OrderedDict[bytes, IdentityKey] = OrderedDict()

    def issued(self, value: bytes, key: IdentityKey) -> None:
        """An identity's answer carried this turn state."""
        self._issuers[_digest(value)] = key
        if len(self._issuers) > KEPT:
            self._issuers.popitem(last=False)

    def is_of(self, value: bytes, key: IdentityKey) -> bool:
        """Whether this identity has issued a turn state."""
        return self._issuers.get(_digest(value)) == key

    def fit(self, fields: Fields, key: IdentityKey) -> bool:
        """Whether the turn states among a request's headers are all of this identity."""
        return all(self.is_of(value, key) for name, value in fields if name.lower() == TURN_STATE)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()[:16]
