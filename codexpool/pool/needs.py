"""What each identity needs before it serves again, in words for the person in front of the client."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from codexpool.pool.breaker import Opening
from codexpool.pool.identity import Asked, Condition, Identity, Kind, Status, clock
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


class Nobody(NamedTuple):
    """That nobody can serve a request: what each identity needs, in full and in short.

    ``returns_at`` is the unix second at which one serves again if that is a matter of time alone; ``is_limit`` says
    that it is a limit which keeps the pool from it.
    """

    message: str
    summary: str = ""
    returns_at: float | None = None
    is_limit: bool = False


def nobody(pool: Pool, asked: Asked, at: float) -> Nobody:
    """Why nobody serves a request; the message is one line that names each identity and what it needs."""
    if not pool.identities:
        return Nobody("codexpool: no identity can serve, pool.toml has none that is usable. The proxy's log says why")
    identities = [i for i in pool.identities.values() if asked.is_served_by(i.name)]
    if not identities:
        return Nobody("codexpool: no identity of the pool is for this member. Whoever runs the proxy can change that")
    needs = "; ".join(_need(i, pool, asked, at) for i in identities)
    times = [returns for i in identities if (returns := _returns_at(i, pool, asked, at)) is not None]
    limited = [i for i in identities if pool.limited_until(i, asked, at) is not None]
    message = f"codexpool: no identity can serve.{_stopped(pool, identities, at)} {needs}"
    return Nobody(message, _summary(identities, limited), min(times, default=None), bool(limited))


def _stopped(pool: Pool, identities: Sequence[Identity], at: float) -> str:
    if not any(i.status is Status.READY for i in identities):
        return ""  # There is nobody that would be tried.
    match pool.states.breaker.state(at):
        case Opening.OPEN:
            return f" Sessions are not moved until {clock(pool.states.breaker.until, at)} UTC (codexpool breaker)."
        case Opening.HALF_OPEN:
            return " Sessions are not moved until one request has found out whether that is over (codexpool breaker)."
        case Opening.CLOSED:
            return ""


def _summary(identities: Sequence[Identity], limited: Sequence[Identity]) -> str:
    """How many are limited, and what the others need: for the little room that a client has for it."""
    others = [f"{i.name} ({NEED.get(i.status, 'not used for this')})" for i in identities if i not in limited]
    number = len(identities)
    if others:
        return f"codexpool: {len(limited)} of {number} identities are at their limit; {', '.join(others)}"
    who = "the only identity is at its limit" if number == 1 else f"all {number} identities are at their limit"
    return f"codexpool: {who}"


def _returns_at(identity: Identity, pool: Pool, asked: Asked, at: float) -> float | None:
    """When an identity serves this request again without anybody's doing."""
    known = pool.exclusions.against(identity, asked, at)
    if any(not e.passes for e in known) or pool.away.keeps(asked.session, identity.fingerprint, at):
        return None
    if identity.returns_at is not None:
        return identity.returns_at if is_a_matter_of_time(identity.condition) else None
    if identity.status is not Status.READY:
        return None
    ends = [e.until for e in known]
    if (until := pool.limited_until(identity, asked, at)) is not None:
        ends.append(until)
    if ends:
        return max(ends)
    return (
        pool.states.breaker.until
        if pool.states.breaker.opened_at is not None and pool.states.breaker.until > at
        else None
    )


def _need(identity: Identity, pool: Pool, asked: Asked, at: float) -> str:
    condition = identity.condition
    if condition.status is Status.READY:
        if known := pool.exclusions.against(identity, asked, at):
            return f"{identity.name}: {'; '.join(e.described(at) for e in known)}"
        if (until := pool.limited_until(identity, asked, at)) is not None:
            return f"{identity.name}: limited for {pool.family_of(asked)} until {clock(until, at)} UTC"
        if pool.states.breaker.opened_at is not None:
            return f"{identity.name}: not tried"
        return f"{identity.name}: refused this request"
    need = NEED[condition.status]
    if condition.until is not None:
        need += f" until {clock(condition.until, at)} UTC"
    if condition.evidence is None:
        return f"{identity.name}: {need}"
    return f"{identity.name}: {need} ({condition.evidence}, {clock(condition.since, at)} UTC)"


def is_a_matter_of_time(condition: Condition) -> bool:
    """Whether it only takes waiting: a limit, too many requests. (What rests for a refusal may be refused again.)"""
    evidence = condition.evidence
    return condition.status is Status.LIMITED or (evidence is not None and evidence.status == 429)


def is_of_the_account(condition: Condition | None) -> bool:
    """Whether a condition is of an account, so that it says nothing against it that a token of it is good."""
    return condition is not None and (condition.status is Status.LIMITED or is_of_workspace(condition))


def is_of_workspace(condition: Condition) -> bool:
    """Whether an identity is paused because its workspace does not serve it, and not by its operator."""
    evidence = condition.evidence
    return condition.status is Status.PAUSED and evidence is not None and evidence.status != 0


def reasons_of(pool: Pool, names: Sequence[str]) -> str:
    """Why these identities do not serve, each reason once: `` (401 token_revoked on codex/responses)``."""
    known = [pool.identities[name].condition.evidence for name in names if name in pool.identities]
    reasons = dict.fromkeys(str(evidence) for evidence in known if evidence is not None)
    return f" ({'; '.join(reasons)})" if reasons else ""


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
