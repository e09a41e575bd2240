"""Is it the same time everywhere: here, at the proxy, at the backend. Ends of tokens and of limits go by it. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from codexpool.doctor.findings import Finding, ok, wrong
from codexpool.views.formatting import span

ABOUT: Final = "clock"

TOLERATED: Final = 60.0
"""Seconds that clocks may be apart."""

REMEDIES: Final = {
    "linux": "sudo timedatectl set-ntp true (then: timedatectl timesync-status)",
    "darwin": "sudo sntp -sS time.apple.com, and the automatic date and time in System Settings",
    "win32": "w32tm /resync (as administrator)",
}


def findings(document: Mapping[str, Any], before: float, after: float) -> Iterator[Finding]:
    """``before`` and ``after`` are the unix seconds here between which the status document was made."""
    at = document.get("at")
    apart = [*_of_proxy(at, before, after), *_of_backend(document.get("clock"))]
    yield from apart
    if not apart and isinstance(at, int | float):
        yield ok(ABOUT, f"right, as far as can be told{_by(document.get('clock'))}")


def remedy(platform: str = sys.platform) -> str:
    """How a machine is made to know the time."""
    return REMEDIES.get(platform, "have the machine keep its time by NTP")


def _of_proxy(at: object, before: float, after: float) -> Iterator[Finding]:
    if not isinstance(at, int | float):
        return
    ahead = before - at if at < before else after - at if at > after else 0.0
    if abs(ahead) > TOLERATED:
        yield wrong(ABOUT, f"this machine is {_apart(ahead)} the proxy's", f"on the one that is wrong: {remedy()}")


def _of_backend(clock: object) -> Iterator[Finding]:
    offset = _offset(clock)
    if offset is not None and abs(offset) > TOLERATED:
        yield wrong(
            ABOUT,
            f"the proxy's machine is {_apart(offset)} the backend's: ends of tokens and of limits are reckoned by it",
            f"there: {remedy()}",
        )


def _by(clock: object) -> str:
    return "" if _offset(clock) is not None else "; the backend has not been asked for anything yet"


def _offset(clock: object) -> float | None:
    match clock:
        case {"offset": int() | float() as offset}:
            return float(offset)
        case _:
            return None


def _apart(ahead: float) -> str:
    return f"{span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"
