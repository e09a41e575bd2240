"""The paths the stand-in answers, and which of them a pooled identity is spent on."""

from __future__ import annotations

import re
from typing import Any

from codexpool.protocol.endpoints import AUTHAPI
from codexpool.protocol.endpoints import WHOAMI as WHOAMI_PATH

AUTH_HOST = "auth.openai.com"
RESPONSES = "/backend-api/codex/responses"
COMPACT = f"{RESPONSES}/compact"
MCP = "/backend-api/ps/mcp"
WHOAMI = AUTHAPI.removeprefix(f"https://{AUTH_HOST}") + WHOAMI_PATH
TOKEN_ENDPOINT = "/oauth/token"
DEVICE = "/api/accounts/deviceauth"

SWAPPED = re.compile(
    r"/backend-api/(codex/(responses(/compact)?|models|(memories|images|realtime)/.*|alpha/search)|wham/accounts/check)"
)
"""The paths a pooled identity is spent on; on every other one the client speaks for itself.

Written down apart from the addon's own table, so that each of the two checks the other.
"""

LENT = re.compile(r"/backend-api/wham/(config/bundle|usage)")
"""The paths on which the client speaks for itself, or an identity of the pool for it."""

POOLS_OWN = re.compile(r"/backend-api/wham/rate-limit-reset-credits(/consume)?")
"""The paths that the pool asks for itself: never with a client's request."""

PLAIN: dict[str, Any] = {
    "/backend-api/wham/config/bundle": {},
    "/backend-api/wham/settings/user": {},
    "/backend-api/ps/plugins/installed": {"plugins": []},
    "/backend-api/ps/plugins/suggested/codex": {"plugins": []},
    "/backend-api/codex/analytics-events/events": {},
}
"""Paths with empty answers."""
