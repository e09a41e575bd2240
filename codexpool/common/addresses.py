"""IP addresses: this machine's, and those of one household."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any


def is_loopback(host: str) -> bool:
    """Return whether a host can only be this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_from_here(address: str) -> bool:
    """Return whether a client is on this machine; a flow that mitmproxy replays has no address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return True


@lru_cache(maxsize=256)
def household(text: str) -> str:
    """Return an address; of IPv6 the /64 network, which belongs to one household."""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    return f"{IPv6Address(int(address) >> 64 << 64)}/64" if address.version == 6 else text


def address_of(peername: tuple[Any, ...] | None) -> str:
    """Return the address of a peer; empty if there is none."""
    return plain_address(peername[0]) if peername else ""


@lru_cache(maxsize=256)
def plain_address(text: str) -> str:
    """Return an address without its zone, and as IPv4 if it is a mapped one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)
