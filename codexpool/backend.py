"""The backend's own addresses and words, as openai/codex has them."""

from __future__ import annotations

from typing import Final

HOST: Final = "chatgpt.com"
"""The host every client asks first."""

CHATGPT: Final = f"https://{HOST}"
"""The origin of every workspace that routing discovery names no other one for."""

ACCOUNTS_CHECK: Final = "/backend-api/wham/accounts/check"
"""Routing discovery: which workspaces a credential has, and where they are served."""

NO_CONSTRAINT: Final = "NO_CONSTRAINT"
"""What routing discovery says where a workspace has no origin or routing override of its own."""

AUTHAPI: Final = "https://auth.openai.com/api/accounts"
"""The base of whoami; Codex lets ``CODEX_AUTHAPI_BASE_URL`` override it (personal_access_token.rs)."""

WHOAMI: Final = "/v1/user-auth-credential/whoami"

REFRESH_URL: Final = "https://auth.openai.com/oauth/token"
"""Where a refresh token is spent; Codex lets ``CODEX_REFRESH_TOKEN_URL_OVERRIDE`` override it (manager.rs)."""

MAIN_LIMIT = "codex"
"""The limit that counts for every model without one of its own (rate_limits.rs of openai/codex)."""
