"""Which connections the proxy makes for whom.

If other machines can reach a proxy for members, it is not an open proxy for them: an unknown address gets to the
hosts that a Codex client asks before it sends its key, and to no others. An address a member's key came from lately
gets everywhere (the tools of a client use the same proxy). So does this machine, and a client that mitmproxy's own
``proxyauth`` has authenticated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mitmproxy import connection

from codexpool.common.addresses import household, is_from_here, plain_address
from codexpool.config.model import Access
from codexpool.protocol import endpoints
from codexpool.protocol.hosts import plain
from codexpool.proxy.gate import Gate

FOR_CLIENTS: Final = frozenset({endpoints.AUTH_HOST, endpoints.API_HOST, "ab.chatgpt.com"})
"""Hosts that a Codex client asks besides those of the backend (docs/protocol.md, sections 1 and 4)."""


class Relay:
    """``is_own_connection`` returns whether an address is the near end of a connection made by this proxy."""

    def __init__(self, gate: Gate, is_own_connection: Callable[[tuple[object, ...]], bool]) -> None:
        self._gate = gate
        self._is_own_connection = is_own_connection

    def refusal(self, client: connection.Client, host: str, port: int, backends: frozenset[str]) -> str:
        """Return why a client's connection is not made; empty if it is."""
        gate, peer = self._gate, client.peername
        if gate.access is Access.ANYONE or gate.lets_all or peer is None:
            return ""
        name = plain(host)
        if port == 443 and (name in FOR_CLIENTS or name in backends):
            return ""
        address = plain_address(peer[0])
        if gate.works_from(household(address)):
            return ""
        if is_from_here(address) and not self._is_own_connection(peer):
            return ""
        return "codexpool: this proxy is for the members of its pool, and no member has used it from your address yet"
