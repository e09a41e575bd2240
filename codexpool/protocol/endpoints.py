"""The backend's addresses and words, as openai/codex has them."""

from __future__ import annotations

from typing import Final

HOST: Final = "chatgpt.com"  # The host every client asks first.
CHATGPT: Final = f"https://{HOST}"  # The origin of every workspace for which routing discovery names no other.
API_PATHS: Final = "/backend-api/"  # All paths that clients ask; the host's other paths are pages for a browser.
API_HOST: Final = "api.openai.com"  # Where clients go without a login, or with an API key.
API_RESPONSES: Final = "/v1/responses"  # The model there.
RESPONSES: Final = "/backend-api/codex/responses"  # The model, over HTTP and WebSocket.
TURN_PATHS: Final = frozenset({RESPONSES, f"{RESPONSES}/compact"})  # Sessions need them; all others are "side".
ACCOUNTS_CHECK: Final = "/backend-api/wham/accounts/check"  # Routing discovery: the workspaces of a login.
CONFIG_BUNDLE: Final = "/backend-api/wham/config/bundle"  # A workspace's policy (docs/protocol.md, section 4b).
USAGE: Final = "/backend-api/wham/usage"  # How much of its limits an account has used.
RESET_CREDITS: Final = "/backend-api/wham/rate-limit-reset-credits"  # What an account can reset its limits with.
SPEND_CREDIT: Final = f"{RESET_CREDITS}/consume"
MCP: Final = "/backend-api/ps/mcp"  # The tools of the account that is logged in.
NO_CONSTRAINT: Final = "NO_CONSTRAINT"  # Routing discovery: a workspace has no origin or routing override of its own.
MAIN_LIMIT: Final = "codex"  # The limit of every model without one of its own (rate_limits.rs of openai/codex).
AUTH_HOST: Final = "auth.openai.com"  # The host of whoami and of logins.
AUTHAPI: Final = f"https://{AUTH_HOST}/api/accounts"
"""The base of whoami; Codex lets ``CODEX_AUTHAPI_BASE_URL`` override it (personal_access_token.rs)."""
WHOAMI: Final = "/v1/user-auth-credential/whoami"
WHOAMI_PATH: Final = f"/api/accounts{WHOAMI}"  # Where a client asks about its personal access token.
AGENT_TASK: Final = "/v1/agent/{}/task/register"
"""Where a task of an agent is registered, below `AUTHAPI` or what ``CODEX_AGENT_IDENTITY_AUTHAPI_BASE_URL`` says
(openai/codex pull request 37356)."""
AGENT_KEYS: Final = "/wham/agent-identities/jwks"
"""The keys that sign the JWTs of agent identities, below ``/backend-api`` or what
``CODEX_AGENT_IDENTITY_JWKS_BASE_URL`` says (the same)."""
REFRESH_URL: Final = f"https://{AUTH_HOST}/oauth/token"
"""Where a refresh token is spent; Codex lets ``CODEX_REFRESH_TOKEN_URL_OVERRIDE`` override it (manager.rs)."""
