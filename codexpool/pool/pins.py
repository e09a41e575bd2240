"""Sessions that a person has pinned to an identity: no other one serves them."""

from __future__ import annotations

from collections.abc import Mapping
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
    """The name of an identity, and when its session was pinned to it (unix seconds).

    ``was`` is the name of the identity before, for a pool that does not know the new one yet; empty if it had none.
    """

    identity: str
    at: float
    was: str = ""


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

    def of(self, session: str | None, parent: str | None = None) -> Pin | None:
        """Return the pin of a session, or else that of the session that started it."""
        if not self._pins:
            return None
        return self._pins.get(session or "") or self._pins.get(parent or "")

    def rename(self, names: Mapping[str, str]) -> None:
        """Follow identities to other names, by their old ones."""
        for session, pin in list(self._pins.items()):
            if pin.identity in names:
                self._pins[session] = Pin(names[pin.identity], pin.at, was=pin.identity)

    def newest(self, most: int) -> list[tuple[str, Pin]]:
        """Return the newest pins with their sessions, the newest first."""
        return nlargest(most, self._pins.items(), key=lambda item: item[1].at)
