"""Probes: requests of `codexpool doctor` that ask what would be sent.

A probe is handled like any other request up to the moment it would leave; then the proxy answers it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mitmproxy import http

from codexpool.protocol.headers import PROBE, PROBE_VERSION, Fields, first_values
from codexpool.proxy import replies
from codexpool.proxy.exchange import Exchange

_NUMBER: Final = re.compile(rb"[\w-]{8,64}")


def probe_of(values: Mapping[bytes, bytes]) -> str:
    """Return the number of a probe; empty for other requests."""
    number = values.get(PROBE, b"")
    return number.decode() if _NUMBER.fullmatch(number) else ""


def answer(exchange: Exchange, wire: http.Request) -> http.Response:
    """Answer a probe with what was about to leave."""
    came, leaves = first_values(exchange.trace.fields), first_values(wire.headers.fields)
    document = {
        **_head(exchange.probe, exchange.upgrade),
        "identity": exchange.attempt.name,
        "member": exchange.member.name if exchange.member is not None else None,
        "observing": False,
        "replaced": sorted(_name(n) for n in came.keys() & leaves.keys() if came[n] != leaves[n]),
        "added": sorted(_name(n) for n in leaves.keys() - came.keys()),
        "removed": sorted(_name(n) for n in came.keys() - leaves.keys()),
    }
    return replies.document(document, {PROBE.decode(): exchange.probe})


def observed(fields: Fields) -> http.Response | None:
    """Answer a probe in observe mode; None if the request is not one."""
    values = first_values(fields)
    number = probe_of(values)
    if not number:
        return None
    head = _head(number, values.get(b"upgrade", b"").lower() == b"websocket")
    nothing: dict[str, Any] = {"replaced": [], "added": [], "removed": []}
    document = {**head, "identity": None, "member": None, "observing": True, **nothing}
    return replies.document(document, {PROBE.decode(): number})


def _head(number: str, is_upgrade: bool) -> dict[str, Any]:
    return {"probe": number, "version": PROBE_VERSION, "transport": "websocket" if is_upgrade else "http"}


def _name(name: bytes) -> str:
    return name.decode("latin-1")
