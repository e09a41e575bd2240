"""The endpoint that trades a refresh token, which works once, for a new access token (openai/codex, manager.rs)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError, http_client
from codexpool.credentials.http_client import NoAnswerError, Route
from codexpool.protocol.endpoints import REFRESH_URL
from codexpool.protocol.errors import document_of, error_in
from codexpool.redaction import redact_tokens

if TYPE_CHECKING:
    import httpx

CLIENT_ID: Final = "app_EMoamEEZ73f0CkXaXp7hrann"  # Codex's own.
TIMEOUT: Final = 25.0  # Seconds for a renewal. Generous: once sent, it has spent the refresh token.
REUSED: Final = "refresh_token_reused"

PERMANENT: Final[Mapping[str, str]] = {
    "refresh_token_expired": "its refresh token has expired",
    REUSED: "its refresh token was already used, by another program",
    "refresh_token_invalidated": "its refresh token was revoked",
    "invalid_grant": "its refresh token is not accepted",
    "invalid_refresh_token": "its refresh token is not accepted",
    "app_session_expired": "its session has expired",
    "app_session_terminated": "its session was ended",
    "token_expired": "its refresh token is not accepted",
}
"""The codes after which a refresh token is never tried again, and what they mean.

Sources: openai/codex pull requests 24830 and 27351 ("all six terminal AuthAPI refresh codes") and its manager.rs;
``token_expired`` from decolua/9router pull request 1821, where the endpoint says so of a refresh token.
"""

REFUSALS: Final = frozenset({400, 401, 403})  # The statuses with which these codes count.


class TokenEndpoint:
    """Spends refresh tokens. ``environ`` may set ``CODEX_REFRESH_TOKEN_URL_OVERRIDE`` and
    ``CODEX_APP_SERVER_LOGIN_CLIENT_ID``, as for Codex."""

    def __init__(self, route: Route, environ: Mapping[str, str]) -> None:
        self._url = environ.get("CODEX_REFRESH_TOKEN_URL_OVERRIDE", "").strip() or REFRESH_URL
        self._client_id = environ.get("CODEX_APP_SERVER_LOGIN_CLIENT_ID", "").strip() or CLIENT_ID
        self._route = route

    def renew(self, refresh_token: str, refused: bool) -> dict[str, Any]:
        """Return the new tokens. Blocks: call it in a thread. Raises what `tokens_of` raises."""
        form = {
            "client_id": self._client_id,
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "refresh_reason": "unauthorized_recovery" if refused else "proactive_expiry",
        }
        try:
            # An event loop of its own can bound the whole exchange; a blocking client bounds each read only.
            response = asyncio.run(self._post(form))
        except NoAnswerError as error:
            raise NoTokenNowError(f"the token endpoint cannot be reached ({error})") from error
        return tokens_of(response, refresh_token)

    async def _post(self, form: Mapping[str, str]) -> httpx.Response:
        async with http_client.client(self._route, TIMEOUT) as client:
            return await http_client.answer(client, "POST", self._url, TIMEOUT, json=form)


def tokens_of(response: httpx.Response, refresh_token: str) -> dict[str, Any]:
    """Return the tokens in an answer: a new access token, or at least a new refresh token.

    Raises NoTokenAnyMoreError for a refusal in JSON with a code of `PERMANENT`, else NoTokenNowError: proxies and
    content networks refuse in JSON too.
    """
    document = document_of(response.content)
    if response.status_code == 200 and isinstance(document, dict):
        if any(isinstance(document.get(key), str) and document[key] for key in ("access_token", "refresh_token")):
            return document
        raise NoTokenNowError("the token endpoint answers 200 without a token")
    code = redact_tokens(error_in(response.headers, document)[0].replace(refresh_token, "…")).lower()
    text = f"the token endpoint answers {response.status_code}" + (f" {code}" if code else "")
    is_final = response.status_code in REFUSALS and code in PERMANENT and "cf-mitigated" not in response.headers
    if is_final and isinstance(document, dict):
        raise NoTokenAnyMoreError(code, f"{PERMANENT[code]} ({text})")
    raise NoTokenNowError(text)
