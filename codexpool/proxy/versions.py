"""Which versions of mitmproxy codexpool works with."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Support", "connections", "resend", "support", "tls_sessions"]

try:
    from codexpool.proxy import connections, resend, tls_sessions
except (ImportError, AttributeError, StopIteration) as error:
    connections = resend = tls_sessions = None  # type: ignore[assignment]  # The addon refuses to load (see `support`).
    MISSING = [str(error)]
else:
    MISSING = resend.missing_names()

OLDEST_SAFE = (12, 2)
NEXT_UNKNOWN = (13,)


class Support(NamedTuple):
    """What a version of mitmproxy means for the addon."""

    refusal: str = ""  # why the addon cannot load; empty if it can
    loopback_only: bool = False  # vulnerabilities limit it to loopback clients, and to tools without a web interface
    notice: str = ""  # a warning for the log, or empty


def support(version: str) -> Support:
    """Return what is known about ``version``, a string such as ``12.2.3``."""
    if MISSING:
        return Support(
            refusal=f"mitmproxy {version} lacks {', '.join(MISSING)}, which codexpool needs to send a request again. "
            "Install mitmproxy 12.2 to 12.x (Python 3.12 or newer), or 11.0.2 (Python 3.11)"
        )
    number = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if number < OLDEST_SAFE:
        return Support(
            loopback_only=True,
            notice=f"mitmproxy {version} has vulnerabilities that later versions fix (CVE-2025-23217, "
            "GHSA-847f-9342-265h): codexpool accepts loopback clients only, and no mitmweb. A newer mitmproxy needs "
            "a newer Python: uv python install 3.13",
        )
    if number >= NEXT_UNKNOWN:
        return Support(notice=f"mitmproxy {version} is newer than what codexpool is tested with (12.2 to 12.x)")
    return Support()
