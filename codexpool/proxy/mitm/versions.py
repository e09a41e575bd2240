"""Which mitmproxy runs underneath, and what that means."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

try:
    from codexpool.proxy import resend as _resend
except (ImportError, AttributeError, StopIteration) as error:
    resend: ModuleType | None = None
    _missing = [str(error)]
else:
    resend = _resend
    """What puts a request on the wire again; None on a mitmproxy that lacks what it imports."""
    _missing = _resend.missing_names()


class Support(NamedTuple):
    """What is known of a version of mitmproxy.

    ``resends`` says whether `codexpool.proxy.resend` fits it, ``loopback_only`` whether its known holes confine it
    to loopback clients and to tools without a web interface, ``notice`` what is said at start.
    """

    resends: bool
    loopback_only: bool
    notice: str | None


OLDEST_SAFE = (12, 2)
NEXT_UNKNOWN = (13,)


def support(version: str) -> Support:
    """What is known of ``version``, a string such as ``12.2.3``."""
    number = _number(version)
    if _missing:
        return Support(
            False,
            number < OLDEST_SAFE,
            f"mitmproxy {version} has no {', '.join(_missing)}: a refused request cannot be sent again unseen. "
            "It is answered with a 503, which Codex tries again. While a request is in flight its flow holds the "
            "token: keep other addons, map_remote and mitmweb away. Versions 12.2 to 12.x are known to work",
        )
    if number < OLDEST_SAFE:
        return Support(
            True,
            True,
            f"mitmproxy {version} has known holes that were fixed later (CVE-2025-23217, GHSA-847f-9342-265h): "
            "loopback clients only, and no mitmweb. A newer one needs a newer Python: uv python install 3.13",
        )
    if number >= NEXT_UNKNOWN:
        return Support(
            True, False, f"mitmproxy {version} is newer than what codexpool was tested with (12.2 to 12.x)"
        )
    return Support(True, False, None)


def _number(version: str) -> tuple[int, ...]:
    digits: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        digits.append(int(part))
    return tuple(digits)
