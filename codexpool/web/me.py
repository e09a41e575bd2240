"""``/me``: what the holder of a member key may use, and has used. It has nothing about other members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from codexpool.members.ledger import DAY, Ledger
from codexpool.members.register import Member, may_use
from codexpool.members.turn_queue import TurnQueue
from codexpool.pool.identity import Status, clock
from codexpool.pool.pool import Pool
from codexpool.redaction import redact_text
from codexpool.views.formatting import span
from codexpool.web.status import condition_at

VERSION: Final = 1


def wants_json(accept: str) -> bool:
    """Return whether a program asks: a person gets text."""
    return "application/json" in accept.lower()


def document(member: Member, pool: Pool, queue: TurnQueue, ledger: Ledger, now: float) -> dict[str, Any]:
    """Return what a member may use, and has used. Times are unix seconds."""
    spec, tokens = member.spec, ledger.tokens_of_member(member.name, now)
    replaced_at = spec.previous.until if spec.previous is not None and member.key != spec.key else None
    ends = [at for at in (spec.expires_at, replaced_at) if at is not None]
    identities = []
    for identity in pool.identities.values():
        if may_use(spec, identity.name):
            condition = condition_at(pool, identity, now)
            name = redact_text(identity.name)
            identities.append({"name": name, "status": condition.status.value, "until": condition.until})
    return {
        "version": VERSION,
        "at": now,
        "name": redact_text(spec.name),
        "key_valid_until": min(ends, default=None),
        "key_is_replaced": replaced_at is not None,
        "turns_today": ledger.turns_today(spec.name, now),
        "turns_a_day": spec.turns_a_day,
        "day_ends_at": (now // DAY + 1) * DAY,
        "turns_under_way": queue.under_way(spec.name),
        "turns_at_once": spec.turns_at_once,
        "tokens_today": {"input": tokens.input, "cached": tokens.cached, "output": tokens.output},
        "identities": identities,
    }


def text(document: Mapping[str, Any]) -> str:
    """Return the same for a person."""
    return "".join(f"{line}\n" for line in _lines(document))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    now, until, tokens = document["at"], document["key_valid_until"], document["tokens_today"]
    ends = "does not expire" if until is None else f"is valid until {clock(until, now)} UTC"
    yield f"{document['name']}: this key {ends}"
    if document["key_is_replaced"]:
        yield "There is a new key: ask the operator for it"
    left = f"the next day begins in {span(document['day_ends_at'] - now)}"
    yield f"turns today     {_of(document['turns_today'], document['turns_a_day'])}; {left} (UTC)"
    yield f"turns at once   {_of(document['turns_under_way'], document['turns_at_once'])}"
    yield f"tokens today    {tokens['input']} in ({tokens['cached']} cached), {tokens['output']} out, at this proxy"
    identities = document["identities"]
    ready = sum(identity["status"] == Status.READY for identity in identities)
    yield f"identities      {ready} of {len(identities)} ready"
    for identity in identities:
        until = f" until {clock(identity['until'], now)} UTC" if identity["until"] is not None else ""
        yield f"                {identity['name']}: {identity['status']}{until}"


def _of(used: int, bound: int | None) -> str:
    return f"{used} of {bound}" if bound is not None else f"{used}, without a limit"
