"""The codes with which the backend says that a token is dead, each with a source.

A 401 without one of these is no word on a token, whatever else it says: proxies, firewalls and content networks on
the way answer 401 and 403 in JSON too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DEAD_TOKEN_CODES: Final[Mapping[str, str]] = {
    "token_revoked": "openai/codex pull request 23563, issue 13118",
    "token_invalidated": "openai/codex pull request 23563; router-for-me/CLIProxyAPI issue 3654",
    "token_expired": "ztjhz/BetterChatGPT issue 419; Kohaku-Lab/KohakuTerrarium pull request 304",
    "account_deactivated": "cnlimiter/codex-manager issue 118",
}
"""Codes of a 401, in lower case, and where they were seen: whoami, routing discovery and the model share them."""


def says_dead(status: int, code: str, is_json: bool, from_edge: bool) -> bool:
    """Whether an answer says that the token it was asked with is dead.

    ``from_edge``: a page, or an answer of the content network in front of the backend (``cf-mitigated``).
    """
    return status == 401 and is_json and not from_edge and code.lower() in DEAD_TOKEN_CODES
