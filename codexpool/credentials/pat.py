"""Personal access tokens: opaque, valid until somebody revokes them, and never refreshed."""

from __future__ import annotations

from dataclasses import dataclass

from codexpool.credentials import Credential, Renewal
from codexpool.pool.identity import Kind
from codexpool.tokens.bearer import Bearer

PREFIX = "at-"
"""How Codex tells a PAT from every other token (personal_access_token.rs)."""


@dataclass(frozen=True, slots=True)
class Pat:
    """A PAT as pool.toml, an environment variable, a file, a keyring or an auth.json gives it."""

    token: Bearer
    kind: Kind = Kind.PAT

    def bearer(self) -> Bearer:
        """The token itself."""
        return self.token

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        """None: a PAT is validated again or replaced by a person, and never causes a refresh."""
        return None

    def due_at(self) -> float | None:
        """None: nobody but a person replaces it."""
        return None

    def is_over(self, at: float) -> bool:
        """False: whoami tells of no end."""
        return False

    def after(self, before: Credential | None) -> Credential:
        """This one: there is nothing to carry over."""
        return self
