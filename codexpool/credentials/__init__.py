"""What proves an identity."""

from __future__ import annotations

from typing import Protocol

from codexpool.credentials.secret import Bearer
from codexpool.pool.identity import Kind


class Credential(Protocol):
    """One kind of credential, as the rest of the project sees it.

    Both methods are safe under concurrency: one renewal is in flight per identity, the others wait for it.
    """

    @property
    def kind(self) -> Kind: ...

    def bearer(self) -> Bearer:
        """The token to be put on the wire now. No I/O: this is on the path of a request."""
        ...

    async def renewed(self, stale: Bearer) -> Bearer | None:
        """Another token after ``stale`` was refused; None where this kind has none to give."""
        ...
