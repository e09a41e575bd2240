"""Compares the clocks of this machine, the proxy and the backend: expiry and limits depend on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from codexpool.doctor.findings import Finding, ok, wrong
from codexpool.views.formatting import span

ABOUT: Final = "clock"

TOLERATED: Final = 60.0
"""Seconds that clocks may differ."""

REMEDIES: Final = {
    "linux": "sudo timedatectl set-ntp true (then: timedatectl timesync-status)",
    "darwin": "sudo sntp -sS time.apple.com, and the automatic date and time in System Settings",
    "win32": "w32tm /resync (as administrator)",
}


def findings(document: Mapping[str, Any], before: float, after: float) -> Iterator[Finding]:
    """Check a status document that was requested at ``before`` and received at ``after``, in unix seconds."""
    at, offset = _number(document.get("at")), _number((document.get("clock") or {}).get("offset"))
    if at is None:
        return
    remedy = REMEDIES.get(sys.platform, "synchronize the machine's clock with NTP")
    ahead = before - at if at < before else min(0.0, after - at)
    if abs(ahead) > TOLERATED:
        yield wrong(ABOUT, f"this machine's clock is {_difference(ahead)} the proxy's", f"on the wrong one: {remedy}")
    if offset is not None and abs(offset) > TOLERATED:
        text = (
            f"the clock of the proxy's machine is {_difference(offset)} the backend's, which sets expiry and limits"
        )
        yield wrong(ABOUT, text, f"on the proxy's machine: {remedy}")
    elif abs(ahead) <= TOLERATED:
        yield ok(ABOUT, "correct" if offset is not None else "agrees with the proxy's; no answer of the backend yet")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _difference(ahead: float) -> str:
    return f"{span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"
