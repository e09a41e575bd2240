"""OAuth logins: an access token that is renewed with a refresh token, which works once.

Where a login is kept, and how only one program spends its refresh token: `codexpool.credentials.file_login`, and
`codexpool.credentials.shared_login` for one that several proxies share.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from codexpool.common import tasks
from codexpool.common.private_files import UnusableError
from codexpool.credentials import Credential, NoTokenNowError, Renewal, auth_json
from codexpool.credentials.auth_json import Login
from codexpool.pool.identity import Kind
from codexpool.tokens.bearer import Bearer

EARLY: Final = 300.0  # Seconds before its expiry at which an access token is renewed, as in Codex.
JITTER: Final = 60.0  # Seconds earlier, at random: several proxies must not all ask in the same second.
FLOOR: Final = 60.0  # Seconds between two renewals without a refusal: tokens may be short-lived, and clocks wrong.


class OAuth(Credential):
    """A login, wherever it is kept: ``login`` is the newest one that is known here."""

    kind = Kind.OAUTH

    def __init__(self, login: Login) -> None:
        self.login = login
        self._renewed_at = 0.0
        self._early = EARLY + random.uniform(0, JITTER)

    def bearer(self) -> Bearer:
        return self.login.access

    def due_at(self) -> float | None:
        if self.login.expires_at is None:
            return None
        return max(self.login.expires_at - self._early, self._renewed_at + FLOOR)

    def is_over(self, at: float) -> bool:
        # A token that was just made has not expired, whatever our clock says.
        return self.login.expires_within(0, at) and not self._renewed_at <= at < self._renewed_at + FLOOR

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        # Shielded, in a thread of its own: a renewal that has begun must be written.
        login, renewal = await asyncio.shield(tasks.in_thread(self._renew, stale, refused))
        self.login = login
        return renewal

    @abstractmethod
    def _renew(self, stale: Bearer | None, refused: bool) -> tuple[Login, Renewal]:
        """Return another login than the one with the token ``stale``, written where it is kept. May take a while."""

    @staticmethod
    def _serves_instead(login: Login, stale: Bearer | None) -> bool:
        """Return whether a login that was found needs no renewal."""
        return login.access != stale and not login.expires_within(EARLY, time.time())


class Rotated(NamedTuple):
    """The login to keep after a renewal; ``unusable`` says why its access token is still the old one."""

    login: Login
    unusable: str = ""


def rotated(login: Login, answer: Mapping[str, Any], at: float) -> Rotated:
    """Return what the token endpoint's answer makes of a login. Raises NoTokenNowError if it has nothing to keep."""
    try:
        fresh = auth_json.renewed(login, answer, at)
        if fresh.access == login.access:
            raise UnusableError("has no new access token", auth_json.LOG_IN)
    except UnusableError as error:
        # The refresh token of this answer is the only valid one now.
        partial = auth_json.with_refresh_token(login, answer)
        if partial is None:
            raise NoTokenNowError(f"the renewed login {error.what}") from None
        return Rotated(partial, f"the renewed login {error.what}; its new refresh token is kept for the next try")
    return Rotated(fresh)
