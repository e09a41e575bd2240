"""The backend's own addresses and words, as openai/codex has them."""

from __future__ import annotations

from typing import Final

HOST: Final = "chatgpt.com"  # The host every client asks first.
API_HOST: Final = "api.openai.com"  # Where clients go that have no login, or an API key.
API_RESPONSES: Final = "/v1/responses"  # The model there.
CHATGPT: Final = f"https://{HOST}"  # The origin of every workspace that routing discovery names no other one for.

API_PATHS: Final = "/backend-api/"
"""How all paths begin that clients ask; the rest of the host are pages for a browser."""

RESPONSES: Final = "/backend-api/codex/responses"  # The model, over HTTP and WebSocket.

TURN_PATHS: Final = frozenset({RESPONSES, f"{RESPONSES}/compact"})
"""The endpoints that a session depends on; all others are side endpoints."""

ACCOUNTS_CHECK: Final = "/backend-api/wham/accounts/check"
"""Routing discovery: which workspaces a credential has, and where they are served."""

CONFIG_BUNDLE: Final = "/backend-api/wham/config/bundle"
"""The policy of a workspace, which its administrators write (docs/protocol.md, section 4b)."""

USAGE: Final = "/backend-api/wham/usage"  # How much of its limits an account has used.
MCP: Final = "/backend-api/ps/mcp"  # The tools of whoever is logged in.

NO_CONSTRAINT: Final = "NO_CONSTRAINT"
"""What routing discovery says where a workspace has no origin or routing override of its own."""

AUTH_HOST: Final = "auth.openai.com"  # The host of whoami and of logins.

AUTHAPI: Final = f"https://{AUTH_HOST}/api/accounts"
"""The base of whoami; Codex lets ``CODEX_AUTHAPI_BASE_URL`` override it (personal_access_token.rs)."""

WHOAMI: Final = "/v1/user-auth-credential/whoami"

WHOAMI_PATH: Final = f"/api/accounts{WHOAMI}"  # Whom a client asks whose its personal access token is.

REFRESH_URL: Final = "https://auth.openai.com/oauth/token"
"""Where a refresh token is spent; Codex lets ``CODEX_REFRESH_TOKEN_URL_OVERRIDE`` override it (manager.rs)."""

MAIN_LIMIT = "codex"  # The limit that counts for every model without one of its own (rate_limits.rs of openai/codex).
