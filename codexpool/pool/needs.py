"""What each identity needs before it serves again, in words for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from codexpool.pool.breaker import Opening
from codexpool.pool.exclusions import Kind as About
from codexpool.pool.identity import Asked, Condition, Identity, Kind, Status, clock
from codexpool.pool.pins import Wanted
from codexpool.pool.pool import Pool
from codexpool.pool.selection import Because
from codexpool.pool.states import CONDEMNED

NEED = {
    Status.UNVERIFIED: "not verified yet",
    Status.SUSPECT: "refused, and it is not known yet whether its token is dead",
    Status.NEEDS_REPLACEMENT: "replace its PAT",
    Status.NEEDS_LOGIN: "log it in again",
    Status.LIMITED: "limited",
    Status.RESTING: "resting",
    Status.PAUSED: "paused",
    Status.CONFLICT: "its token belongs to another account than before: check it in pool.toml",
}

NAMES = {  # One credential.
    Kind.PAT: "PAT",
    Kind.OAUTH: "OAuth login",
    Kind.COMMAND: "command token",
    Kind.AGENT: "agent identity",
}

NO_IDENTITIES = "no identities yet: codexpool add NAME"
NONE_FOR_CLIENTS = "codexpool: the pool has no identities. The operator of this proxy adds one: codexpool add NAME"

COMMANDS = {Status.NEEDS_REPLACEMENT: "replace", Status.NEEDS_LOGIN: "login"}

REMINDED_FROM = 14 * 86_400.0  # Seconds before the expected end of a token from which on its operator is reminded.


class NoIdentity(NamedTuple):
    """Why no identity can serve a request: what each one needs, in full and in short.

    ``returns_at`` is the unix second at which one serves again if that is a matter of time alone; ``is_limit`` says
    that a limit is among the reasons.
    """

    message: str
    summary: str = ""
    returns_at: float | None = None
    is_limit: bool = False


def no_identity(pool: Pool, asked: Asked, at: float) -> NoIdentity:
    """Tell why no identity serves a request, in a line that names each one and what it needs."""
    if not pool.identities:
        if not pool.lists_none:
            return NoIdentity("codexpool: no identity can serve: pool.toml has no usable one. See the proxy's log")
        return NoIdentity(NONE_FOR_CLIENTS)
    wanted = pool.wanted(asked)
    identities = [i for i in pool.identities.values() if pool.may_serve(i.name, asked)]
    if not identities and wanted is not None:
        # A member does not learn whether the pool has it for others.
        whose = "the pool has no usable identity" if asked.only is None else "this member may use no identity"
        return NoIdentity(f"{_chosen(wanted)}, but {whose} of that name")
    if not identities:
        return NoIdentity("codexpool: this member may use no identity of the pool. Ask the operator of the proxy")
    needs = "; ".join(_need(i, pool, asked, at) for i in identities)
    times = [returns for i in identities if (returns := _returns_at(i, pool, asked, at)) is not None]
    limited = [i for i in identities if pool.limited_until(i, asked, at) is not None]
    if wanted is not None:
        chosen = _chosen(wanted)
        message, summary = f"{chosen}, so no other identity serves it. {needs}", f"{chosen}, which is at its limit"
    else:
        message = f"codexpool: no identity can serve.{_breaker(pool, identities, at)} {needs}"
        summary = _summary(identities, limited, pool, asked, at)
    return NoIdentity(message, summary, min(times, default=None), bool(limited))


def _chosen(wanted: Wanted) -> str:
    if wanted.because is Because.PINNED:
        return f"codexpool: this session is pinned to {wanted.name} (codexpool unpin)"
    return f"codexpool: the client asks for {wanted.name} (codexpool env --identity)"


def _breaker(pool: Pool, identities: Sequence[Identity], at: float) -> str:
    if not any(i.status is Status.READY for i in identities):
        return ""  # The breaker keeps none from being tried.
    match pool.states.breaker.state(at):
        case Opening.OPEN:
            return f" Sessions are not moved until {clock(pool.states.breaker.until, at)} UTC (codexpool breaker)."
        case Opening.HALF_OPEN:
            return " Sessions are not moved until one request has found out whether that is over (codexpool breaker)."
        case Opening.CLOSED:
            return ""


def _summary(identities: Sequence[Identity], limited: Sequence[Identity], pool: Pool, asked: Asked, at: float) -> str:
    def unused(identity: Identity) -> str:
        lacks = any(e.kind is About.MODEL for e in pool.exclusions.against(identity, asked, at))
        return "does not have the model" if lacks else "not used for this"

    others = [f"{i.name} ({_need_of(i) or unused(i)})" for i in identities if i not in limited]
    number = len(identities)
    if others:
        return f"codexpool: {len(limited)} of {number} identities are at their limit; {', '.join(others)}"
    which = "the only identity is at its limit" if number == 1 else f"all {number} identities are at their limit"
    return f"codexpool: {which}"


def _returns_at(identity: Identity, pool: Pool, asked: Asked, at: float) -> float | None:
    known = pool.exclusions.against(identity, asked, at)
    if any(not e.passes for e in known):
        return None
    if identity.returns_at is not None:
        return identity.returns_at if is_a_matter_of_time(identity.condition) else None
    if identity.status is not Status.READY:
        return None
    ends = [e.until for e in known]
    if (until := pool.limited_until(identity, asked, at)) is not None:
        ends.append(until)
    breaker = pool.states.breaker
    if not ends and breaker.opened_at is not None and breaker.until > at:
        return breaker.until
    return max(ends, default=None)


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
    need = _need_of(identity)
    if condition.until is not None:
        need += f" until {clock(condition.until, at)} UTC"
    if condition.evidence is None:
        return f"{identity.name}: {need}"
    return f"{identity.name}: {need} ({condition.evidence}, {clock(condition.since, at)} UTC)"


def _need_of(identity: Identity) -> str:
    """Return what an identity needs by its status; empty if it is ready."""
    if identity.status is Status.NEEDS_REPLACEMENT and identity.kind is Kind.AGENT:
        return "replace its agent identity"
    return NEED.get(identity.status, "")


def is_a_matter_of_time(condition: Condition) -> bool:
    """Return whether it only takes waiting: a limit, or too many requests. (A refusal may come again.)"""
    evidence = condition.evidence
    return condition.status is Status.LIMITED or (evidence is not None and evidence.status == 429)


def is_of_the_account(condition: Condition | None) -> bool:
    """Return whether a condition is of an account, so that a good token of it does not end it."""
    return condition is not None and (condition.status is Status.LIMITED or is_of_workspace(condition))


def is_of_workspace(condition: Condition) -> bool:
    """Return whether an identity is paused because its workspace does not serve it, not by its operator."""
    evidence = condition.evidence
    return condition.status is Status.PAUSED and evidence is not None and evidence.status != 0


def reasons_of(pool: Pool, names: Sequence[str]) -> str:
    """Why these identities do not serve, each reason once: `` (401 token_revoked on codex/responses)``."""
    known = [pool.identities[name].condition.evidence for name in names if name in pool.identities]
    reasons = dict.fromkeys(str(evidence) for evidence in known if evidence is not None)
    return f" ({'; '.join(reasons)})" if reasons else ""


def expiry(expires_at: float | None, at: float) -> str:
    """Remind of the expected end of a token; empty while it is far away."""
    if expires_at is None or expires_at - at > REMINDED_FROM:
        return ""
    day = datetime.fromtimestamp(expires_at - 1, UTC).strftime("%Y-%m-%d")
    if expires_at <= at:
        return f"its token was expected to expire on {day}: it is tried after all others"
    days = math.ceil((expires_at - at) / 86_400)
    return f"its token is expected to expire on {day}, in {days} day{'s' if days > 1 else ''}"


def described(identity: Identity) -> str:
    """Describe an identity without a secret: ``PAT sha256:…, account …, business, https://…``."""
    metadata = identity.metadata
    words = [f"{NAMES[identity.kind]} sha256:{identity.fingerprint}"]
    if metadata is not None:
        words += [f"account {metadata.account_id}"] if metadata.account_id else []
        words += [metadata.plan] if metadata.plan else []
        words += ["FedRAMP"] if metadata.fedramp else []
        words.append(metadata.origin)
    return ", ".join(words)


def remedy(identity: Identity, where: str) -> str:
    """Tell a person what to do; ``where`` is the line of pool.toml."""
    match identity.status:
        case Status.NEEDS_REPLACEMENT:
            return f"Put a new token at {where}, or: codexpool replace {identity.name}"
        case Status.NEEDS_LOGIN:
            return f"Log in again: codexpool login {identity.name}"
        case _:
            return f"Give it a token of its previous account, or remove it and add it again: {where}"


def needs(identity: Identity, condition: Condition, where: str) -> str:
    """Return what an operator has to do before it serves again; empty if nothing."""
    if condition.status in CONDEMNED:
        return remedy(identity, where)
    if condition.status is not Status.PAUSED:
        return ""
    if identity.twin_of is not None and not identity.paused:
        return f"Give it a token of another user, or remove it: {where}"
    once = "Once its workspace is active again: " if is_of_workspace(condition) else "To let it serve again: "
    return f"{once}{command(identity, condition)}"


def command(identity: Identity, condition: Condition) -> str:
    """Return the command at the end of what an identity needs; empty if no command alone is enough."""
    if condition.status is not Status.PAUSED:
        verb = COMMANDS.get(condition.status, "")
    else:
        verb = "" if identity.twin_of is not None and not identity.paused else "resume"
    return f"codexpool {verb} {identity.name}" if verb else ""
