"""Sessions that a person has pinned to an identity: no other one serves them."""

from __future__ import annotations

from heapq import nlargest
from typing import Final, NamedTuple

from codexpool.common.recent import Recent
from codexpool.pool.selection import Because

KEPT: Final = 10_000  # Pins; beyond that the oldest is forgotten.


class Wanted(NamedTuple):
    """The only identity that may serve a request, by a person's word, and whose word that is.

    ``because`` is ``PINNED`` for a pin, ``NAMED`` for a client that names the identity to the proxy.
    """

    name: str
    because: Because


class Pin(NamedTuple):
    """The name of an identity, and when its session was pinned to it (unix seconds)."""

    identity: str
    at: float


class Pins:
    """Pins by session. They name identities as pool.toml does: a replaced token changes nothing."""

    def __init__(self) -> None:
        self._pins: Recent[str, Pin] = Recent(KEPT)

    def __len__(self) -> int:
        return len(self._pins)

    def set(self, session: str, pin: Pin) -> None:
        self._pins[session] = pin

    def remove(self, session: str) -> None:
        self._pins.pop(session, None)

    def of(self, session: str | None, parent: str | None = None) -> str | None:
        """Return the identity a session is pinned to, or else the one that the session that started it is."""
        if not self._pins:
            return None
        pin = self._pins.get(session or "") or self._pins.get(parent or "")
        return pin.identity if pin is not None else None

    def newest(self, most: int) -> list[tuple[str, Pin]]:
        """Return the newest pins with their sessions, the newest first."""
        return nlargest(most, self._pins.items(), key=lambda item: item[1].at)
