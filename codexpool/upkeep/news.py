"""Applies to a pool what others stored: earlier runs, other proxies, and people with `codexpool`.

All of it may come late, twice, or in any order, and another version may have written it. So what counts is decided by
the times at which it was found out, never by those at which it arrives.

| news | what follows here | if it comes late or twice |
|---|---|---|
| a condition | the table of `codexpool.pool.news` | the same table |
| that nothing is wrong with a token | a dead one is verified; no earlier refusal counts | nothing, if it died since |
| usage | the newest word on each window and family counts, and may limit or lift | nothing |
| a reset credit was spent | limits from before that end; usage is read, if it was just now | nothing |
| a person resumed an identity | its limits, rests, pauses and exclusions from before that end | nothing |
| the breaker opened | it is open here until the same time | nothing, if that has passed |
| the breaker closed | it closes, unless it has opened since | nothing |
| not for an endpoint or a model | the same, unless a person has resumed the identity since | nothing, if it is over |
| pins, families of models | the same | the same |
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from codexpool.pool.breaker import WITHIN
from codexpool.pool.exclusions import subjects_of
from codexpool.pool.identity import Identity, IdentityKey
from codexpool.pool.news import Effect, effect, may_be_good
from codexpool.pool.pins import Pin
from codexpool.pool.pool import Pool
from codexpool.pool.states import REFUSED_FOR_GOOD
from codexpool.state import Note, Snapshot
from codexpool.state.notes import (
    BREAKER,
    FAMILIES,
    NOT_FOR,
    PINNED,
    RESET,
    RESUMED,
    USAGE,
    pinned_session,
)
from codexpool.state.times import not_ahead

logger = logging.getLogger("codexpool")


class Applied(NamedTuple):
    """What others should learn, and what this proxy should find out.

    Of the accounts ``read``, others have stored the usage; of those ``ahead``, the pool knows more than that. The
    tokens of the ``doubted`` are to be verified.
    """

    read: list[IdentityKey]
    ahead: list[IdentityKey]
    doubted: list[Identity]


def apply(pool: Pool, news: Snapshot, scope: str) -> Applied:
    """Apply news to a pool; ``scope`` is the name of the pool in the state."""
    now = time.time()
    news = not_ahead(news, now)
    read: list[IdentityKey] = []
    ahead: list[IdentityKey] = []
    for (kind, name), note in news.notes.items():
        try:
            if (follow := _NOTES.get(kind)) is not None:
                follow(pool, name, note, scope, now)
            if kind == USAGE:
                is_ahead = pool.states.usage(key := _key(name)).is_ahead_of(note)
                (ahead if is_ahead else read).append(key)
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
            logger.warning("state: ignoring a note (%s) that cannot be read", kind)
    identities = list(pool.identities.values())
    return Applied(read, ahead, [identity for identity in identities if _is_doubted(pool, identity, news, now)])


def _is_doubted(pool: Pool, identity: Identity, news: Snapshot, now: float) -> bool:
    """Apply to an identity what others say about its token. Return whether that is to be verified."""
    dropped_at = news.dropped.get(identity.fingerprint)
    if dropped_at is not None and dropped_at <= now:
        identity.cleared_at = max(identity.cleared_at, dropped_at)
        if may_be_good(identity, dropped_at):
            return True
    condition = news.conditions.get(identity.fingerprint)
    if condition is None:
        return False
    follows = effect(identity, condition, now)
    if follows is Effect.SAME:
        is_refusal = condition.status in REFUSED_FOR_GOOD and now - condition.since < WITHIN
        pool.states.condition_learned(identity.name, identity.fingerprint, condition, is_refusal)
    return follows is Effect.VERIFIED


def _usage(pool: Pool, name: str, note: Note, scope: str, now: float) -> None:
    pool.usage_noted(_key(name), note, now)


def _reset(pool: Pool, name: str, note: Note, scope: str, now: float) -> None:
    if note.get("at") is not None and float(note["at"]) <= now:
        pool.was_reset(_key(name), float(note["at"]), now)


def _breaker(pool: Pool, name: str, note: Note, scope: str, now: float) -> None:
    if name != scope:
        return
    breaker, opened_at = pool.states.breaker, note.get("opened_at")
    if opened_at is None:
        if breaker.opened_at is not None and breaker.opened_at <= float(note.get("at", now)):
            breaker.close()
    elif breaker.opened_at is None and float(opened_at) <= now < float(note["until"]):
        breaker.take(note)


def _families(pool: Pool, name: str, note: Note, scope: str, now: float) -> None:
    for model, family in note.items():
        pool.learn_family(str(model), str(family))


def _not_for(pool: Pool, name: str, note: Note, scope: str, now: float) -> None:
    mine = (i.resumed_at for i in pool.identities.values() if name in subjects_of(i))
    pool.exclusions.take(note, now, since=max(mine, default=0.0))


def _pinned(pool: Pool, name: str, note: Note, scope: str, now: float) -> None:
    if not (session := pinned_session(scope, name)):
        return
    if pinned_to := str(note.get("identity", "")):
        pool.pin(session, Pin(pinned_to, float(note.get("at", 0.0)), str(note.get("was", ""))))
    else:
        pool.pins.remove(session)


def _resumed(pool: Pool, name: str, note: Note, scope: str, now: float) -> None:
    at = float(note.get("at", 0.0))
    for identity in pool.identities.values():
        if identity.fingerprint == name and at <= now:
            pool.resumed(identity.name, name, at)


def _key(name: str) -> IdentityKey:
    return IdentityKey(*json.loads(name))


_NOTES: Final[Mapping[str, Callable[[Pool, str, Note, str, float], Any]]] = {
    USAGE: _usage,
    RESET: _reset,
    BREAKER: _breaker,
    FAMILIES: _families,
    NOT_FOR: _not_for,
    PINNED: _pinned,
    RESUMED: _resumed,
}
