"""Personal access tokens: opaque, valid until revoked, and replaced by a person only."""

from __future__ import annotations

from dataclasses import dataclass

from codexpool.credentials import Credential, Renewal
from codexpool.pool.identity import Kind
from codexpool.tokens.bearer import Bearer

PREFIX = "at-"  # How Codex tells a PAT from other tokens (personal_access_token.rs).


@dataclass(frozen=True, slots=True)
class Pat(Credential):
    """A PAT, from any source that pool.toml can name."""

    kind = Kind.PAT
    token: Bearer

    def bearer(self) -> Bearer:
        return self.token

    async def renewed(self, stale: Bearer | None, refused: bool) -> Renewal | None:
        return None
