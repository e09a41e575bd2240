"""Probes: `codexpool doctor` asks what would become of a client's request.

A probe comes over a connection of its own, which its CONNECT marks. Nothing leaves from there: no server is
connected, no session begins, no state is asked or changed, and no request is noted, shown or logged. The proxy
decides as for a client, as things are now, and answers with the decision.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from mitmproxy import http
from mitmproxy.connection import Client

from codexpool.protocol.headers import PROBE, PROBE_VERSION, Fields, first_values
from codexpool.proxy import replies

LONGEST: Final = 65_536  # bytes of the body of a probe, or of a request for the page
REACHES_NOTHING: Final = "codexpool: a probe reaches no server"

_NUMBER: Final = re.compile(r"[\w-]{8,64}", re.ASCII)
_MARK: Final = "codexpool_probe"  # the attribute of a connection


class Outlook(NamedTuple):
    """What would become of a request now.

    ``pool`` is False if there is none. ``identity`` and ``member`` are names; ``leaves`` are the headers that would
    be sent. If it would be refused, ``status`` and ``reason`` say how and why.
    """

    pool: bool = True
    observing: bool = False
    identity: str = ""
    member: str = ""
    leaves: Fields | None = None
    status: int = 0
    reason: str = ""


def connects(flow: http.HTTPFlow) -> None:
    """Mark the connection of a CONNECT that is a probe's, and have it connect to no server."""
    number = flow.request.headers.pop(PROBE.decode(), "")
    if not _NUMBER.fullmatch(number) or flow.response is not None:
        return
    setattr(flow.client_conn, _MARK, True)
    # As mitmproxy answers, which connects to the server first if there is no answer yet.
    now = time.time()
    version, fields = flow.request.data.http_version, http.Headers()
    flow.response = http.Response(version, 200, b"Connection established", fields, b"", None, now, now)


def is_marked(client: Client) -> bool:
    """Return whether only probes come over a connection."""
    return bool(getattr(client, _MARK, False))


def is_readable(request: http.Request) -> bool:
    """Return whether a request is short enough to be read to its end, which is when it is answered."""
    if request.is_http2 or "transfer-encoding" in request.headers:  # Its length need not be declared.
        return False
    length = request.headers.get("content-length", "0")
    return length.isdigit() and int(length[:20]) <= LONGEST


def answer(request: http.Request, outlook: Outlook) -> http.Response:
    """Answer a probe with what would become of it."""
    values = first_values(request.headers.fields)
    number = values.get(PROBE, b"").decode("latin-1")
    is_upgrade = values.get(b"upgrade", b"").lower() == b"websocket"
    document = {
        "probe": number,
        "version": PROBE_VERSION,
        "transport": "websocket" if is_upgrade else "http",
        "pool": outlook.pool,
        "observing": outlook.observing,
        "identity": outlook.identity or None,
        "member": outlook.member or None,
        **_changes(values, first_values(outlook.leaves) if outlook.leaves is not None else values),
        "refused": {"status": outlook.status, "reason": outlook.reason} if outlook.status else None,
    }
    return replies.document(document, {PROBE.decode(): number} if _NUMBER.fullmatch(number) else {})


def _changes(came: Mapping[bytes, bytes], leaves: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {
        "replaced": sorted(_name(n) for n in came.keys() & leaves.keys() if came[n] != leaves[n]),
        "added": sorted(_name(n) for n in leaves.keys() - came.keys()),
        "removed": sorted(_name(n) for n in came.keys() - leaves.keys()),
    }


def _name(name: bytes) -> str:
    return name.decode("latin-1")
