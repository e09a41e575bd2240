"""The endpoint that gives a new access token for a refresh token, which works once (openai/codex, manager.rs)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final

from codexpool import __version__
from codexpool.backend import REFRESH_URL
from codexpool.credentials import NoTokenAnyMoreError, NoTokenNowError
from codexpool.credentials.route import Route
from codexpool.redact import redacted
from codexpool.wire.errors import error_of

if TYPE_CHECKING:
    import httpx

CLIENT_ID: Final = "app_EMoamEEZ73f0CkXaXp7hrann"
"""Codex's own; ``CODEX_APP_SERVER_LOGIN_CLIENT_ID`` overrides it there and here."""

TIMEOUT: Final = 30.0
"""Seconds for a renewal. Longer than for other requests: one that was sent has spent the refresh token."""

REUSED: Final = "refresh_token_reused"

LONGEST: Final = 1 << 20
"""Bytes of an answer that are read; a login has some thousand."""

PERMANENT: Final[Mapping[str, str]] = {
    "refresh_token_expired": "its refresh token has expired",
    REUSED: "its refresh token was used already, by somebody else",
    "refresh_token_invalidated": "its refresh token was revoked",
    "invalid_grant": "its refresh token is not accepted",
}
"""The codes after which the same refresh token is never tried again, and what they mean."""


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
        self._client: httpx.Client | None = None

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
            response = self._posted(asked)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NoTokenNowError(f"the token endpoint cannot be reached ({type(error).__name__})") from error
        return _answer(response, refresh_token)

    def _posted(self, asked: Mapping[str, str]) -> httpx.Response:
        """The whole answer, in `TIMEOUT`: a slow one is not waited for piece by piece."""
        import httpx

        deadline = time.monotonic() + TIMEOUT
        with self._open().stream("POST", self._url, json=asked) as response:
            content = bytearray()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > LONGEST or time.monotonic() > deadline:
                    raise httpx.ReadTimeout("too long an answer")
            return httpx.Response(response.status_code, headers=_plain(response), content=bytes(content))

    def _open(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    verify=self._route.tls(),
                    proxy=self._route.proxy,
                    trust_env=False,  # HTTPS_PROXY may well be this very proxy.
                    timeout=TIMEOUT,
                    headers={"user-agent": f"codexpool/{__version__}", "accept": "application/json"},
                )
                self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            return self._client


def _plain(response: httpx.Response) -> dict[str, str]:
    """The headers of an answer whose body is decoded."""
    coded = ("content-encoding", "content-length", "transfer-encoding")
    return {name: value for name, value in response.headers.items() if name not in coded}


def _answer(response: httpx.Response, refresh_token: str) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        document = None
    if response.status_code == 200 and isinstance(document, dict) and isinstance(document.get("access_token"), str):
        return document
    code = redacted(error_of(response.headers, response.content)[0].replace(refresh_token, "…")).lower()
    said = f"the token endpoint answers {response.status_code}" + (f" {code}" if code else "")
    if isinstance(document, dict):  # A page of the content network is no word on a token.
        if meaning := PERMANENT.get(code) if response.status_code in (400, 401, 403) else None:
            raise NoTokenAnyMoreError(code, f"{meaning} ({said})")
        if response.status_code == 401:
            raise NoTokenAnyMoreError(code, f"its refresh token is refused ({said})")
    raise NoTokenNowError(said)
