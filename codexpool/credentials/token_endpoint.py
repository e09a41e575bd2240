"""The endpoint that gives a new access token for a refresh token, which works once (openai/codex, manager.rs)."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, bounded
from codexpool.credentials.route import Route
from codexpool.protocol.endpoints import REFRESH_URL
from codexpool.protocol.errors import error_of
from codexpool.redaction import redact_tokens

if TYPE_CHECKING:
    import httpx

CLIENT_ID: Final = "app_EMoamEEZ73f0CkXaXp7hrann"
"""Codex's own; ``CODEX_APP_SERVER_LOGIN_CLIENT_ID`` overrides it there and here."""

TIMEOUT: Final = 25.0
"""Seconds for a renewal, from connecting to the last byte. Longer than for other requests: one that was sent has
spent the refresh token."""

REUSED: Final = "refresh_token_reused"

PERMANENT: Final[Mapping[str, str]] = {
    "refresh_token_expired": "its refresh token has expired",
    REUSED: "its refresh token was used already, by somebody else",
    "refresh_token_invalidated": "its refresh token was revoked",
    "invalid_grant": "its refresh token is not accepted",
    "invalid_refresh_token": "its refresh token is not accepted",
    "app_session_expired": "its session has expired",
    "app_session_terminated": "its session was ended",
    "token_expired": "its refresh token is not accepted",
}
"""The codes after which the same refresh token is never tried again, and what they mean.

Sources: openai/codex pull requests 24830 and 27351 ("all six terminal AuthAPI refresh codes") and its manager.rs;
``token_expired`` from decolua/9router pull request 1821, where the endpoint says so of a refresh token.
"""

REFUSALS: Final = frozenset({400, 401, 403})
"""The statuses with which one of those codes counts."""


class TokenEndpoint:
    """Spends refresh tokens. Its one method blocks: it is for threads.

    ``environ`` is looked at for ``CODEX_REFRESH_TOKEN_URL_OVERRIDE`` and ``CODEX_APP_SERVER_LOGIN_CLIENT_ID``, as
    Codex does.
    """

    def __init__(self, route: Route, environ: Mapping[str, str]) -> None:
        self._url = environ.get("CODEX_REFRESH_TOKEN_URL_OVERRIDE", "").strip() or REFRESH_URL
        self._client_id = environ.get("CODEX_APP_SERVER_LOGIN_CLIENT_ID", "").strip() or CLIENT_ID
        self._route = route
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    def renew(self, refresh_token: str, refused: bool) -> dict[str, Any]:
        """The new tokens. Raises NoTokenNowError, and NoTokenAnyMoreError where a person has to log in."""
        import httpx  # Not at start-up: it takes its time, and only OAuth logins need it.

        asked = {
            "client_id": self._client_id,
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "refresh_reason": "unauthorized_recovery" if refused else "proactive_expiry",
        }
        try:
            # A loop of its own, which bounds the whole of it: a blocking client bounds each read apart.
            response = asyncio.run(self._posted(asked))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NoTokenNowError(f"the token endpoint cannot be reached ({type(error).__name__})") from error
        return tokens_of(response, refresh_token)

    async def _posted(self, asked: Mapping[str, str]) -> httpx.Response:
        from codexpool.credentials import own_client

        async with own_client.client(self._trusted(), self._route.proxy, TIMEOUT, bounded.PLAIN) as client:
            return await bounded.answer(client, "POST", self._url, TIMEOUT, json=asked)

    def _trusted(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = self._route.tls()
            return self._tls


def tokens_of(response: httpx.Response, refresh_token: str) -> dict[str, Any]:
    """What an answer of the token endpoint gives: a new access token, or a new refresh token at least.

    Raises NoTokenAnyMoreError where it says, in JSON and with a code of `PERMANENT`, that the refresh token is worth
    nothing, and NoTokenNowError for everything else: proxies and content networks refuse in JSON too.
    """
    try:
        document = response.json()
    except (ValueError, RecursionError):
        document = None
    if response.status_code == 200 and isinstance(document, dict):
        if any(isinstance(document.get(key), str) and document[key] for key in ("access_token", "refresh_token")):
            return document
        raise NoTokenNowError("the token endpoint answers 200, and gives no token")
    code = redact_tokens(error_of(response.headers, response.content)[0].replace(refresh_token, "…")).lower()
    said = f"the token endpoint answers {response.status_code}" + (f" {code}" if code else "")
    is_final = response.status_code in REFUSALS and code in PERMANENT and "cf-mitigated" not in response.headers
    if is_final and isinstance(document, dict):
        raise NoTokenAnyMoreError(code, f"{PERMANENT[code]} ({said})")
    raise NoTokenNowError(said)
