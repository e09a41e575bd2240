"""Whose an address is: this machine's, or one household's. Pure."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant by a host."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_from_here(address: str) -> bool:
    """Whether a client's address is this machine's own, or none of a network: mitmproxy itself sends a flow again."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return True


def household(text: str) -> str:
    """An address, or of IPv6 its first 64 bits: whoever has one has all of them."""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    return f"{IPv6Address(int(address) >> 64 << 64)}/64" if address.version == 6 else text


def address_of(peername: tuple[Any, ...] | None) -> str:
    """Return the address of a connection's other end, as a socket names it; empty where there is none."""
    return plain_address(peername[0]) if peername else ""


@lru_cache(maxsize=256)
def plain_address(text: str) -> str:
    """An address without its zone, and as IPv4 if it is one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)
