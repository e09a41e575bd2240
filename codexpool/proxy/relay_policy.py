"""Whom the proxy passes on for, and to where.

A proxy that others can reach, and that is for the members of its pool, is no proxy for everybody else: through it a
stranger gets to the hosts that a Codex client asks before anybody knows whose it is, and to no other. Whoever works
from an address that a key has come from lately gets everywhere (a client's tools use the same proxy), and so does
this machine, and whoever mitmproxy's own ``proxyauth`` has let in.
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
    """``is_own_connection`` tells that an address is the near end of a connection that the proxy itself has made."""

    def __init__(self, gate: Gate, is_own_connection: Callable[[tuple[object, ...]], bool]) -> None:
        self._gate = gate
        self._is_own_connection = is_own_connection

    def refusal(self, client: connection.Client, host: str, port: int, backends: frozenset[str]) -> str:
        """Why a client's connection is not made; empty where it is."""
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
        return "codexpool: this proxy is for the members of its pool, and none has come from your address yet"
