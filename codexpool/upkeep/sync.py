"""What an earlier run, other proxies of this machine, and people with `codexpool` have written: for the pool."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codexpool.pool.identity import Condition, Identity, IdentityKey, Status
from codexpool.pool.needs import is_of_workspace
from codexpool.pool.pool import Pool
from codexpool.state import Snapshot
from codexpool.upkeep.persistence import BREAKER, FAMILIES, NOT_FOR, RESUMED, USAGE

logger = logging.getLogger("codexpool")

SHARED = frozenset({Status.LIMITED, Status.PAUSED})
"""Conditions that hold for an account whichever proxy has found them out."""


def take(pool: Pool, news: Snapshot, pool_toml: Path | None) -> None:
    """Take over what is new."""
    pool.sessions.restore({s: (key, news.moves.get(s, 0)) for s, key in news.sessions.items()})
    for (kind, name), note in news.notes.items():
        try:
            if kind == USAGE:
                _take_usage(pool, IdentityKey(*json.loads(name)), note)
            elif kind == BREAKER and pool_toml is not None and name == str(pool_toml):
                _take_breaker(pool, note)
            elif kind == FAMILIES:
                for model, family in note.items():
                    pool.learn_family(str(model), str(family))
            elif kind == NOT_FOR:
                pool.exclusions.take(note, time.time())
            elif kind == RESUMED:
                _resume(pool, name)
        except (TypeError, ValueError, AttributeError):
            logger.warning("state: a note (%s) that cannot be read is passed over", kind)
    for identity in pool.identities.values():
        if (condition := news.conditions.get(identity.fingerprint)) is not None and _is_news(identity, condition):
            pool.states.condition_learned(identity.name, identity.fingerprint, condition)


def _take_breaker(pool: Pool, note: Mapping[str, Any]) -> None:
    """What another proxy or a person says of the breaker."""
    if note.get("opened_at") is None:
        pool.states.breaker.close()
        return
    if pool.states.breaker.opened_at is None and float(note["opened_at"]) <= time.time() < float(note["until"]):
        pool.states.breaker.take(note)


def _resume(pool: Pool, fingerprint: str) -> None:
    """A person has said that nothing is the matter with the identity of this token."""
    for identity in pool.identities.values():
        if identity.fingerprint == fingerprint:
            pool.resumed(identity.name, fingerprint, time.time())


def _take_usage(pool: Pool, key: IdentityKey, note: Mapping[str, Any]) -> None:
    pool.states.usage(key).take(note, time.time())
    pool.saw_usage(key)


def _is_news(identity: Identity, condition: Condition) -> bool:
    if identity.status is not Status.READY or condition.status not in SHARED:
        return False
    if condition.status is Status.PAUSED:
        return is_of_workspace(condition)
    # One that began in time to come was noted while a clock was ahead: it says nothing of now.
    return condition.until is not None and condition.since <= time.time() < condition.until
