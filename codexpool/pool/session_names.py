"""Names for the sessions of clients that name none.

Codex names its session in a header. Another client may send an id with each request that stays the same throughout a
conversation; whether it does, only its second request can tell. Until then, and for a client without such an id, all
that comes from one client belongs together. A client that mostly repeats its ids is believed from their first use on.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from codexpool.common.recent import Recent

LASTS: Final = 600.0  # Seconds without a turn after which a client begins another session.
CLIENTS_KEPT: Final = 10_000
IDS_KEPT: Final = 10_000

OF_CLIENT: Final = "address and user agent"


class Named(NamedTuple):
    """A session, what named it, and the one that it continues."""

    session: str
    source: str
    parent: str | None = None


class SessionNames:
    """What has been seen of clients that name no session."""

    def __init__(self) -> None:
        self._clients: Recent[str, tuple[str, float]] = Recent(CLIENTS_KEPT)
        self._ids: Recent[tuple[str, str, str], None] = Recent(IDS_KEPT)
        self._habits: Recent[tuple[str, str], tuple[int, int]] = Recent(CLIENTS_KEPT)
        """How many ids of a client, by their header, were repeated and how many were new."""

    def name(self, client: str, ids: Sequence[tuple[str, str]], at: float) -> Named:
        """Name the session of a turn.

        ``client`` tells clients apart (see `codexpool.pool.identity.Asked`), ``ids`` are headers that may name it,
        the better one first, and their values.
        """
        of_client = self._of_client(client, at)
        named = Named(of_client, OF_CLIENT)
        for header, value in reversed(ids):
            repeated, new = self._habits.get((client, header), (0, 0))
            if (client, header, value) in self._ids:
                named = Named(value, header, of_client)  # Its first turn was named after the client.
                repeated += 1
            else:
                if repeated > new and named.source == OF_CLIENT:
                    named = Named(value, header)
                new += 1
            self._ids[(client, header, value)] = None
            self._habits[(client, header)] = (repeated, new)
        return named

    def _of_client(self, client: str, at: float) -> str:
        name, last_at = self._clients.get(client, ("", 0.0))
        if not name or not last_at <= at < last_at + LASTS:
            name = f"~{blake2b(f'{client} {at}'.encode(errors='surrogatepass'), digest_size=8).hexdigest()}"
        self._clients[client] = (name, at)
        return name
