"""What proves an identity: one small protocol, three kinds."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from codexpool.pool.identity import IdentityKey, Kind
from codexpool.tokens.bearer import Bearer


class NoTokenNowError(Exception):
    """There is no other token at the moment; trying again later may help. The text says why."""


class UnusableTokenError(NoTokenNowError):
    """A token was issued that cannot be used, with a refresh token that can: the next try spends that one."""


class NoTokenAnyMoreError(Exception):
    """There will be no other token until a person acts.

    ``code`` is the backend's word; the text says what it means.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Renewal(NamedTuple):
    """Another token. ``issued``: it was made just now, because the one before was refused.

    One that was only found where somebody else had put it, or was made because its time had come, is none. ``was`` is
    whose login the token endpoint was asked with, where it gave the tokens of somebody else, and ``kept`` says where
    the file is as it was before; both are empty for all other tokens.
    """

    bearer: Bearer
    issued: bool
    was: IdentityKey = IdentityKey("", "")
    kept: str = ""


class Credential(Protocol):
    """One kind of credential, as the rest of the project sees it.

    Both methods are safe under concurrency. ``renewed`` is asked for by one task at a time
    (`codexpool.upkeep.renewals` sees to it, the others wait for it), but perhaps by other processes too.
    """

    @property
    def kind(self) -> Kind: ...

    def bearer(self) -> Bearer | None:
        """The token to be put on the wire now; None while there is none yet. No I/O: this is on a request's path."""
        ...

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        """Another token than ``stale``; None where this kind has none to give.

        ``refused`` says that the backend refused the stale one, and not only the clock. Raises NoTokenNowError and
        NoTokenAnyMoreError.
        """
        ...

    def due_at(self) -> float | None:
        """The unix second at which the token wants to be renewed without having been refused; None for never."""
        ...

    def is_over(self, at: float) -> bool:
        """Whether the token is known to be worth nothing at this unix second."""
        ...

    def after(self, before: Credential | None) -> Credential:
        """The credential to go on with, where the configuration was read again and ``before`` is in use."""
        ...
