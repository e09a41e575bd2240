"""When a word against a token is final: whoami, and what stands between it and us, can be wrong.

| the word | it is final |
|---|---|
| whoami: dead, or of another account; a client's request with this token was refused, too | at once |
| the same, without such a request | when it is repeated `CONFIRMED_AFTER` s later |
| the same for several identities within a minute, and no request was refused | after `LASTS` s of the same |
| routing discovery: the account is not among those of this login | after `LASTS` s of the same |
| a token's own claims: it is of another account | at once |

A good word in between ends it; no answer counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codexpool.common.recent import Recent
from codexpool.pool.identity import WHOAMI, Evidence

DISCOVERY: Final = "wham/accounts/check"  # The path of evidence that routing discovery gave.
CONFIRMED_AFTER: Final = 2.0  # Seconds after which the same word confirms the first; others are heard until then.
TOGETHER: Final = 60.0  # Seconds within which words against several identities have one cause.
LASTS: Final = 600.0  # Seconds for which a word is repeated if it may be the answer's fault, not the token's.
KEPT: Final = 1_000  # Tokens that are remembered because a client's request was refused with them.


@dataclass(slots=True)
class _Against:
    """A word against an identity's token: since when, when last, and from where."""

    fingerprint: str
    since: float
    last: float
    path: str
    in_company: bool = False  # Whether whoami refused others within the same minute.


class Confirmation:
    """The words against tokens that are not final yet. Times are unix seconds."""

    def __init__(self) -> None:
        self._against: dict[str, _Against] = {}  # By the name of the identity: an older token of it is no company.
        self._refused: Recent[str, None] = Recent(KEPT)  # The tokens that a client's request was refused with.
        self._borne_out_at = 0.0  # When whoami last confirmed a client's refusal.

    def request_refused(self, fingerprint: str) -> None:
        """Remember that a client's request was refused with this token."""
        self._refused[fingerprint] = None

    def vouched(self, name: str, fingerprint: str) -> None:
        """Forget what was said against a token: it is good."""
        self._against.pop(name, None)
        self._refused.pop(fingerprint, None)

    def is_final(self, name: str, evidence: Evidence) -> bool:
        """Whether a word against an identity's token is final, said at the time of this evidence."""
        fingerprint, at = evidence.fingerprint, evidence.at
        if evidence.path not in (WHOAMI, DISCOVERY):
            return True  # The token's own claims: nothing on the way can change them.
        if evidence.path == WHOAMI and fingerprint in self._refused:
            self._borne_out_at = at
            return True
        # Identities whose words were not repeated have left the pool.
        self._against = {n: word for n, word in self._against.items() if abs(at - word.last) < 2 * TOGETHER}
        word = self._against.get(name)
        if word is None or at < word.since or (word.fingerprint, word.path) != (fingerprint, evidence.path):
            self._against[name] = _Against(fingerprint, at, at, evidence.path)
            return False
        word.last = at
        word.in_company = word.in_company or self._has_company(name, at)
        is_borne_out = abs(at - self._borne_out_at) < TOGETHER
        if evidence.path == DISCOVERY or (word.in_company and not is_borne_out):
            return at - word.since >= LASTS
        return at - word.since >= CONFIRMED_AFTER

    def _has_company(self, name: str, at: float) -> bool:
        since = self._against[name].since
        others = (word for other, word in self._against.items() if other != name and word.path == WHOAMI)
        return any(abs(other.since - since) < TOGETHER or at - other.last < TOGETHER for other in others)
