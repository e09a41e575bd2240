"""The members in the status document: how each one's key stands, and what it does now."""

from __future__ import annotations

from typing import Any

from codexpool.config import MemberSpec, PoolConfig
from codexpool.members.ledger import Ledger
from codexpool.members.register import standing
from codexpool.members.turn_queue import TurnQueue
from codexpool.redaction import redact_text


def members(config: PoolConfig | None, queue: TurnQueue, ledger: Ledger, now: float) -> list[dict[str, Any]]:
    """The members in the order of the file. No key and no hash of one is in there."""
    specs = config.members if config is not None else ()
    return [_member(spec, queue, ledger, now) for spec in specs]


def _member(spec: MemberSpec, queue: TurnQueue, ledger: Ledger, now: float) -> dict[str, Any]:
    return {
        "name": redact_text(spec.name),
        "key": standing(spec, spec.key, now).value,
        "expires_at": spec.expires_at,
        "identities": [redact_text(pattern) for pattern in spec.identities],
        "turns_under_way": queue.under_way(spec.name),
        "turns_at_once": spec.turns_at_once,
        "turns_today": ledger.turns_today(spec.name, now),
        "turns_a_day": spec.turns_a_day,
    }
