"""What each identity needs before it serves again, in words for the person in front of the client."""

from __future__ import annotations

from codexpool.pool.identity import Kind, Status, clock
from codexpool.pool.pool import Identity, Pool

NEED = {
    Status.UNVERIFIED: "not verified yet",
    Status.SUSPECT: "refused, and whoami has not said yet whether its token is dead",
    Status.NEEDS_REPLACEMENT: "replace its PAT",
    Status.NEEDS_LOGIN: "log it in again",
    Status.LIMITED: "limited",
    Status.RESTING: "resting",
    Status.PAUSED: "paused",
    Status.CONFLICT: "its token belongs to another account than it did: check it in pool.toml",
}
"""What a status asks of a person; ``READY`` asks nothing."""

KIND = {Kind.PAT: "PATs", Kind.OAUTH: "OAuth tokens", Kind.COMMAND: "command tokens"}


def nobody(pool: Pool, path: str, at: float) -> str:
    """One line that names each identity and what it needs, as the answer to a request that nobody could serve."""
    if not pool.identities:
        return "codexpool: no identity can serve, pool.toml has none that is usable. The proxy's log says why"
    return "codexpool: no identity can serve. " + "; ".join(
        _need(i, pool, path, at) for i in pool.identities.values()
    )


def _need(identity: Identity, pool: Pool, path: str, at: float) -> str:
    condition = identity.condition
    if condition.status is Status.READY:
        if not pool.is_for(identity.kind, path, at):
            return f"{identity.name}: this endpoint is not for {KIND[identity.kind]}"
        return f"{identity.name}: refused this request"
    need = NEED[condition.status]
    if condition.until is not None:
        need += f" until {clock(condition.until)} UTC"
    if condition.evidence is None:
        return f"{identity.name}: {need}"
    return f"{identity.name}: {need} ({condition.evidence}, {clock(condition.since)} UTC)"
