"""Where requests come from, as admission goes by it."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from mitmproxy import http

from codexpool.tracing import address_of_client


def source_of(flow: http.HTTPFlow) -> str:
    """Where a request comes from, as refusals are counted: of IPv6 the network of one household."""
    return household(address_of_client(flow))


def household(text: str) -> str:
    """An address, or of IPv6 its first 64 bits: whoever has one has all of them."""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    return f"{IPv6Address(int(address) >> 64 << 64)}/64" if address.version == 6 else text


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own, or none of a network: mitmproxy itself sends a flow again."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return True
