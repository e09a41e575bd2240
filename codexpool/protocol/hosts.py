"""Which host a connection is for, and which hosts are Codex's. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

CODEX: Final = ("chatgpt.com", "openai.com")
"""The domains of Codex's backend, subdomains included. (What identities are served from is added by discovery.)"""

PAGE: Final = "codex.pool"  # The host that the proxy answers itself.

LONGEST: Final = 253  # Characters of a name that is remembered: that of a host cannot be longer (RFC 1035).

_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def plain(host: str) -> str:
    """Return a host as hosts are compared: in lower case, without the root's dot."""
    return host.lower().rstrip(".")


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, in any form that a resolver takes for one.

    That includes "127.1" and "0x7f000001": no top-level domain is a number (RFC 3696, section 2).
    """
    return _is_address(host) if len(host) <= LONGEST else _is_address.__wrapped__(host)


@lru_cache(maxsize=256)
def _is_address(host: str) -> bool:
    host = host.strip("[]")
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None
    return True


def name_of(asked: str, sni: str | None) -> str:
    """Return the host that a tunnel is for: the name in its request, or the ``sni`` of TLS if that is an address.

    A name always wins over ``sni``, which the client can forge.
    """
    return plain(sni) if sni and is_address(asked) else plain(asked)


def is_codex(host: str) -> bool:
    name = plain(host)
    return any(name == domain or name.endswith(f".{domain}") for domain in CODEX)


def is_read(name: str, origins: frozenset[str]) -> bool:
    """Return whether the proxy reads what goes to a host; ``origins`` are the hosts that identities are served from.

    The tunnels of all other hosts are joined unread: the client gets the server's own certificate.
    """
    return name in origins or name == PAGE or is_codex(name)
