"""When a word against a token is final: whoami, and whatever stands between it and us, can be wrong.

What makes a word final depends on who has said it, and on what others say:

| the word | it is final |
|---|---|
| whoami: dead, or of another account; a client's request with this token was refused, too | at once |
| the same, without such a request | when it is said again `CONFIRMED_AFTER` s later |
| the same for several identities within a minute, and no request bears it out | when it has held for `HOLDS` s |
| routing discovery: the account is not among those of this login | when it has held for `HOLDS` s |
| a token's own claims: it is of another account | at once |

"Held" means that every word since the first one has said so: a good one ends it, and no answer is no word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codexpool.pool.identity import WHOAMI, Evidence

DISCOVERY: Final = "wham/accounts/check"
"""The path of evidence that routing discovery gave."""

CONFIRMED_AFTER: Final = 2.0
"""Seconds after which the same word again confirms the first one; until then others of the same minute are heard."""

TOGETHER: Final = 60.0
"""Seconds within which words against several identities have one cause."""

HOLDS: Final = 600.0
"""Seconds for which a word has to hold that may well be the answer's fault, and not the token's."""


KEPT: Final = 1_000
"""Tokens of which it is remembered that a client's request was refused."""


@dataclass(slots=True)
class _Against:
    """What is said against an identity's token: since when, when last, and by whom."""

    fingerprint: str
    since: float
    last: float
    path: str
    in_company: bool = False
    """Others were refused by whoami within the same minute."""


class Confirmation:
    """The words against tokens that are not final yet. Times are unix seconds."""

    def __init__(self) -> None:
        self._against: dict[str, _Against] = {}
        """By the name of the identity: an older token of it is no company."""
        self._refused: dict[str, None] = {}
        """The tokens that a client's request was refused with, the latest one last."""
        self._borne_out_at = 0.0
        """When whoami last said of a token what a client's request had met with."""

    def request_refused(self, fingerprint: str) -> None:
        """A client's request was refused with this token: whoami's word on it is asked for."""
        self._refused.pop(fingerprint, None)
        self._refused[fingerprint] = None
        if len(self._refused) > KEPT:
            del self._refused[next(iter(self._refused))]

    def vouched(self, name: str, fingerprint: str) -> None:
        """An identity's token is good."""
        self._against.pop(name, None)
        self._refused.pop(fingerprint, None)

    def is_final(self, name: str, evidence: Evidence) -> bool:
        """Whether a word against an identity's token, said at the time of this evidence, is final now."""
        fingerprint, at = evidence.fingerprint, evidence.at
        if evidence.path not in (WHOAMI, DISCOVERY):
            return True  # Nobody on the way has said it.
        if evidence.path == WHOAMI and fingerprint in self._refused:
            self._borne_out_at = at
            return True
        self._forget(at)
        word = self._against.get(name)
        if word is None or at < word.since or (word.fingerprint, word.path) != (fingerprint, evidence.path):
            self._against[name] = _Against(fingerprint, at, at, evidence.path)
            return False
        word.last = at
        word.in_company = word.in_company or self._has_company(name, at)
        is_borne_out = abs(at - self._borne_out_at) < TOGETHER
        if evidence.path == DISCOVERY or (word.in_company and not is_borne_out):
            return at - word.since >= HOLDS
        return at - word.since >= CONFIRMED_AFTER

    def _has_company(self, name: str, at: float) -> bool:
        """Whether whoami says so of several identities at once."""
        since = self._against[name].since
        others = (word for other, word in self._against.items() if other != name and word.path == WHOAMI)
        return any(abs(other.since - since) < TOGETHER or at - other.last < TOGETHER for other in others)

    def _forget(self, at: float) -> None:
        """Words that were not said again for so long that their identities must have gone."""
        self._against = {n: word for n, word in self._against.items() if abs(at - word.last) < 2 * TOGETHER}
