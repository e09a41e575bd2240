"""What proves an identity. A kind of credential implements `Credential`; `codexpool.config.sources` constructs it.

`Pat`, the simplest kind, is here; the others are in `oauth`, `command` and `agent`.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from codexpool.pool.identity import Evidence, IdentityKey, Kind
from codexpool.tokens.bearer import Bearer


class NoTokenNowError(Exception):
    """There is no other token at the moment; a later attempt may get one. The text says why."""


class UnusableTokenError(NoTokenNowError):
    """An unusable token was issued, with a new refresh token: the next attempt spends that one."""


class NoTokenAnyMoreError(Exception):
    """There is no other token until a person acts. ``code`` is the backend's; the text says what it means.

    ``path`` is that of evidence (see `codexpool.pool.confirmation`).
    """

    def __init__(self, code: str, text: str, path: str = "") -> None:
        super().__init__(text)
        self.code = code
        self._path = path

    def evidence(self, fingerprint: str) -> Evidence:
        return Evidence(time.time(), path=self._path, code=self.code, fingerprint=fingerprint, note=str(self))


class Renewal(NamedTuple):
    """Another token. ``issued``: it was made just now because the backend refused the one before.

    If the token endpoint gave the tokens of another account or user, ``previous_owner`` is the login's before, and
    ``backup`` says where its file is kept. Both are empty for all other tokens.
    """

    bearer: Bearer
    issued: bool
    previous_owner: IdentityKey = IdentityKey("", "")
    backup: str = ""


class Credential(Protocol):
    """One kind of credential.

    A kind must set ``kind`` and implement ``bearer`` and ``renewed``; the other methods have defaults. All are called
    in the thread of the event loop. ``renewed`` runs once at a time in this process (see
    `codexpool.upkeep.renewals`), but perhaps in other processes too.
    """

    kind: ClassVar[Kind]

    @abstractmethod
    def bearer(self) -> Bearer | None:
        """Return the token to send now, or None if there is none yet. No I/O: this is on the path of requests."""

    @property
    def mark(self) -> str:
        """The fingerprint of its identity as long as that has no token; empty if nothing tells it apart."""
        return ""

    @abstractmethod
    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        """Return another token than ``stale``, or None if this kind cannot have one.

        ``refused``: the backend refused the stale token; otherwise it is only due. Raises NoTokenNowError and
        NoTokenAnyMoreError.
        """

    def due_at(self) -> float | None:
        """Return the unix second at which to renew the token without a refusal; None for never."""
        return None

    def is_over(self, at: float) -> bool:
        """Return whether the token is known to have expired by a unix second."""
        return False

    def after(self, before: Credential | None) -> Credential:
        """Return the credential to use after a reload: this one, or ``before`` (in use until now) updated by it."""
        return self


PREFIX = "at-"  # How Codex tells a PAT from other tokens (personal_access_token.rs).


@dataclass(frozen=True, slots=True)
class Pat(Credential):
    """A personal access token, from any source that pool.toml can name: only a person can replace it."""

    kind = Kind.PAT
    token: Bearer

    def bearer(self) -> Bearer:
        return self.token

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        return None
