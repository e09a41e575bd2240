"""Decides when an answer against a token is final: whoami, or a proxy on the way to it, can be wrong.

| the answer | it is final |
|---|---|
| whoami: dead, or of another account; a client's request with this token was refused, too | at once |
| the same, without such a request | when it is repeated `CONFIRMED_AFTER` s later |
| the same for several identities within a minute, and no request was refused | after `LASTS` s of the same |
| routing discovery: the account is not among those of this login | after `LASTS` s of the same |
| a token's own claims: it is of another account | at once |

A good answer in between ends it; no answer counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codexpool.common.recent import Recent
from codexpool.pool.identity import WHOAMI, Evidence

DISCOVERY: Final = "wham/accounts/check"  # The path of evidence that routing discovery gave.
CONFIRMED_AFTER: Final = 2.0  # Seconds after which the same answer confirms the first.
TOGETHER: Final = 60.0  # Seconds within which answers against several identities have one cause.
LASTS: Final = 600.0  # Seconds for which an answer must repeat if the way to whoami may be at fault.
KEPT: Final = 1_000  # Remembered tokens that a client's request was refused with.


@dataclass(slots=True)
class _Against:
    """Answers against an identity's token: since when, when last, and from where."""

    fingerprint: str
    since: float
    last: float
    path: str
    others_refused: bool = False  # Whether whoami refused others within the same minute.


class Confirmation:
    """Keeps the answers against tokens that are not final yet. Times are unix seconds."""

    def __init__(self) -> None:
        self._against: dict[str, _Against] = {}  # By the name of the identity.
        self._refused: Recent[str, None] = Recent(KEPT)  # The tokens that a client's request was refused with.
        self._confirmed_at = 0.0  # When whoami last confirmed a client's refusal.

    def request_refused(self, fingerprint: str) -> None:
        """Remember that a client's request was refused with this token."""
        self._refused[fingerprint] = None

    def vouched(self, name: str, fingerprint: str) -> None:
        """Forget all answers against a token: it is good."""
        self._against.pop(name, None)
        self._refused.pop(fingerprint, None)

    def is_final(self, name: str, evidence: Evidence) -> bool:
        """Return whether an answer against a token, with this evidence, is final."""
        fingerprint, at = evidence.fingerprint, evidence.at
        if evidence.path not in (WHOAMI, DISCOVERY):
            return True  # The token's own claims: nothing on the way can change them.
        if evidence.path == WHOAMI and fingerprint in self._refused:
            self._confirmed_at = at
            return True
        # Identities without a new answer have left the pool.
        self._against = {n: answer for n, answer in self._against.items() if abs(at - answer.last) < 2 * TOGETHER}
        answer = self._against.get(name)
        if answer is None or at < answer.since or (answer.fingerprint, answer.path) != (fingerprint, evidence.path):
            self._against[name] = _Against(fingerprint, at, at, evidence.path)
            return False
        answer.last = at
        answer.others_refused = answer.others_refused or self._others_refused(name, at)
        is_confirmed = abs(at - self._confirmed_at) < TOGETHER
        if evidence.path == DISCOVERY or (answer.others_refused and not is_confirmed):
            return at - answer.since >= LASTS
        return at - answer.since >= CONFIRMED_AFTER

    def _others_refused(self, name: str, at: float) -> bool:
        since = self._against[name].since
        others = (answer for other, answer in self._against.items() if other != name and answer.path == WHOAMI)
        return any(abs(other.since - since) < TOGETHER or at - other.last < TOGETHER for other in others)
