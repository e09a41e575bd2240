"""Reset credits: each one lifts its account's limits, once (docs/protocol.md, section 7a)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.standin.answers import MalformedError
from tests.standin.exchange import Reply, Request
from tests.standin.limits import Limits, account_of
from tests.standin.tokens import Token

LIFETIME = 30 * 86400
"""Seconds that a credit lasts."""


@dataclass(slots=True)
class Credit:
    """One credit; times are unix seconds, ``redeemed_at`` 0 until then."""

    number: int
    granted_at: float
    expires_at: float
    redeemed_at: float = 0.0

    @property
    def id(self) -> str:
        return f"RateLimitResetCredit_{self.number}"

    @property
    def status(self) -> str:
        if self.redeemed_at:
            return "redeemed"
        return "available" if self.expires_at > time.time() else "expired"

    def document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "reset_type": "codex_rate_limits",
            "status": self.status,
            "granted_at": _date(self.granted_at),
            "expires_at": _date(self.expires_at),
            "redeem_started_at": _date(self.redeemed_at),
            "redeemed_at": _date(self.redeemed_at),
            "title": "Full reset (Weekly + 5 hr)",
            "description": "Resets the limits of this account.",
        }


class Credits:
    """The credits of all accounts.

    Args:
        limits: which a spent credit lifts.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._credits: dict[tuple[str, str], list[Credit]] = {}
        self._redeemed: set[tuple[tuple[str, str], str]] = set()

    def grant(self, token: Token, count: int, lifetime: float) -> None:
        """Give an account so many credits that last ``lifetime`` seconds."""
        kept, now = self._credits.setdefault(account_of(token), []), time.time()
        kept += [Credit(len(kept) + number, now, now + lifetime) for number in range(1, count + 1)]

    def available(self, token: Token) -> list[Credit]:
        """Return the credits that can be spent, the first to expire first."""
        of_account = self._credits.get(account_of(token), [])
        return sorted((c for c in of_account if c.status == "available"), key=lambda credit: credit.expires_at)

    def listing(self, token: Token) -> Reply:
        """Answer ``GET wham/rate-limit-reset-credits``."""
        documents = [credit.document() for credit in self._credits.get(account_of(token), [])]
        return Reply.of_json({"credits": documents, "available_count": len(self.available(token))})

    def consume(self, request: Request, token: Token, known: Iterable[Token]) -> Reply:
        """Answer ``POST …/consume``; a credit that is spent resets the windows of ``known`` tokens of the account.

        Raises MalformedError.
        """
        key, wanted = _redemption(request.body)
        if (account_of(token), key) in self._redeemed:
            return Reply.of_json({"code": "already_redeemed", "windows_reset": 0})
        used = self._limits.used_windows(token)
        if not used:
            return Reply.of_json({"code": "nothing_to_reset", "windows_reset": 0})
        credit = next((c for c in self.available(token) if wanted in (None, c.id)), None)
        if credit is None:
            return Reply.of_json({"code": "no_credit", "windows_reset": 0})
        self._redeemed.add((account_of(token), key))
        credit.redeemed_at = time.time()
        for each in (one for one in known if account_of(one) == account_of(token)):
            self._limits.reset(each)
        return Reply.of_json({"code": "reset", "windows_reset": used, "credit": credit.document()})


def _redemption(body: bytes) -> tuple[str, str | None]:
    """Return the idempotency key and the credit's id. Raises MalformedError."""
    try:
        data = json.loads(body)
    except ValueError as error:
        raise MalformedError(f"the body is no JSON: {error}") from error
    key = data.get("redeem_request_id") if isinstance(data, dict) else None
    if not isinstance(key, str) or not key:
        raise MalformedError("redeem_request_id is missing")
    if not isinstance(wanted := data.get("credit_id"), str | None):
        raise MalformedError("credit_id is no string")
    return key, wanted


def _date(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z") if seconds else None
