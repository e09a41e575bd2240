"""What each identity needs before it serves again, in words for the person in front of the client."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from codexpool.pool.identity import Identity, Kind, Status, clock
from codexpool.pool.pool import Pool

NEED = {
    Status.UNVERIFIED: "not verified yet",
    Status.SUSPECT: "refused, and it is not known yet whether its token is dead",
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


REMINDED_FROM = 14 * 86_400.0
"""Seconds before the expected end of a token from which on its operator is reminded."""


def expiry(expires_at: float | None, at: float) -> str:
    """What is to be said of the expected end of a token now, in words; nothing while it is far away."""
    if expires_at is None or expires_at - at > REMINDED_FROM:
        return ""
    day = datetime.fromtimestamp(expires_at - 1, UTC).strftime("%Y-%m-%d")
    if expires_at <= at:
        return f"its token was expected to expire on {day}: it is tried after all others"
    days = math.ceil((expires_at - at) / 86_400)
    return f"its token is expected to expire on {day}, in {days} day{'s' if days > 1 else ''}"


def described(identity: Identity) -> str:
    """Who an identity is, as far as anybody may see it: ``PAT sha256:…, account …, business, https://…``."""
    metadata = identity.metadata
    words = [f"{NAMES[identity.kind]} sha256:{identity.fingerprint}"]
    if metadata is not None:
        words += [f"account {metadata.account_id}"] if metadata.account_id else []
        words += [metadata.plan] if metadata.plan else []
        words += ["FedRAMP"] if metadata.fedramp else []
        words.append(metadata.origin)
    return ", ".join(words)


def remedy(identity: Identity, where: str) -> str:
    """What a person has to do, now; ``where`` is the line of pool.toml."""
    match identity.status:
        case Status.NEEDS_REPLACEMENT:
            return f"Put a new token at {where}, or: codexpool replace {identity.name}"
        case Status.NEEDS_LOGIN:
            return f"Log in anew: codexpool login {identity.name}"
        case _:
            return f"Give it a token of the account it had, or remove it and add it anew: {where}"


NAMES = {Kind.PAT: "PAT", Kind.OAUTH: "OAuth login", Kind.COMMAND: "command token"}
"""What one credential of a kind is called."""
