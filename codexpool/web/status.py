"""The status document: what the page, `codexpool status` and `/api/status` show of a proxy that runs.

Made anew for each who asks, from what is in memory: nothing is waited for. A thousand identities take their time, so
it comes in pieces (see `codexpool.web.pieces`); of what grows with the traffic only the newest is looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from codexpool.config import Access, IdentitySpec, PoolConfig
from codexpool.pool.identity import Condition, Identity, Status
from codexpool.pool.needs import expiry, is_of_workspace, remedy
from codexpool.pool.pool import Pool
from codexpool.pool.states import CONDEMNED
from codexpool.pool.usage import LONGEST_LIMIT, MAIN, NOTHING, Usage, Window
from codexpool.protocol.headers import PROBE_VERSION
from codexpool.redaction import redact_text
from codexpool.traces.history import History
from codexpool.upkeep.verification import UNKNOWN

VERSION: Final = 1

SESSIONS_SHOWN: Final = 100

AT_ONCE: Final = 50
"""Identities in one piece of the document."""

WINDOWS_SHOWN: Final = 20
"""Windows of one identity that are shown: families of models are named by the backend, and could be many."""

NOT_FOR_SHOWN: Final = 20
"""Endpoints and models that an identity is not used for now, of those that are shown."""

safe = lru_cache(maxsize=8192)(redact_text)
"""A text that may be seen. Names and reasons are the same from one look to the next, and to look costs some time."""


@dataclass(frozen=True, slots=True)
class ProxyFacts:
    """What does not change while a proxy runs. ``listens`` are addresses (``127.0.0.1:8080``)."""

    pid: int
    version: str
    mitmproxy: str
    python: str
    listens: tuple[str, ...]
    started_at: float
    observe: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at. Where there is no pool ``closed`` says why; it is empty if none was configured.

    ``events_lost`` counts those for which the file of events had no room.
    """

    proxy: ProxyFacts
    history: History
    pool: Pool | None = None
    config: PoolConfig | None = None
    closed: str = ""
    events_lost: int = 0
    access: str = Access.ANYONE
    members: Sequence[Mapping[str, Any]] = ()
    clock_offset: float | None = None
    """This machine's clock minus the backend's, in seconds, once that is known."""

    @property
    def why_closed(self) -> str:
        """Why nothing is served; empty where something is, or nothing was meant to be."""
        return self.closed if self.pool is None else ""


def document(view: View, now: float) -> dict[str, Any]:
    """The status document; ``now`` is a unix second."""
    return {**_without_identities(view, now), "identities": list(_identities(view, now))}


def pieces(view: View, now: float) -> Iterator[bytes]:
    """The status document as JSON, a few identities at a time."""
    yield _json(_without_identities(view, now)).removesuffix(b"}") + b', "identities": ['
    identities = _identities(view, now)
    between = b""
    while some := list(islice(identities, AT_ONCE)):
        yield between + _json(some)[1:-1]
        between = b", "
    yield b"]}"


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _without_identities(view: View, now: float) -> dict[str, Any]:
    history, tallies = view.history, view.history.tallies
    return {
        "version": VERSION,
        "at": now,
        "proxy": _proxy(view),
        "sessions": history.sessions(SESSIONS_SHOWN),
        "sessions_total": history.session_count,
        "clock": {"offset": view.clock_offset},
        "members": list(view.members),
        "breaker": _breaker(view.pool),
        "hour": history.hour(now),
        "totals": {
            "requests": tallies.requests.total() + tallies.turns.total(),
            "refusals": tallies.refusals.total(),
            "failures": tallies.failures,
            "sent_again": tallies.sent_again,
            "bytes_out": tallies.bytes_out,
            "bytes_in": tallies.bytes_in,
            "sockets_open": tallies.sockets_open,
            "under_way": history.under_way,
            "events_lost": view.events_lost,
        },
        "events_last": history.last,
    }


def _proxy(view: View) -> dict[str, Any]:
    proxy = view.proxy
    return {
        "pid": proxy.pid,
        "version": proxy.version,
        "mitmproxy": proxy.mitmproxy,
        "python": proxy.python,
        "listens": list(proxy.listens),
        "started_at": proxy.started_at,
        "pool": safe(str(view.config.path)) if view.config is not None else None,
        "observe": proxy.observe,
        "access": str(view.access),
        "probe": PROBE_VERSION,
        "closed": safe(view.why_closed),
    }


def _breaker(pool: Pool | None) -> dict[str, Any]:
    if pool is None or pool.states.breaker.opened_at is None:
        return {"open": False, "until": None, "names": []}
    return {
        "open": True,
        "until": pool.states.breaker.until,
        "names": [safe(name) for name in pool.states.breaker.names],
    }


def _identities(view: View, now: float) -> Iterator[dict[str, Any]]:
    """Those of the pool, and those of pool.toml that are not in it: in the order of the file."""
    if view.pool is None:
        return
    sessions = view.history.sessions_by_identity()
    specs = {spec.name: spec for spec in view.config.identities} if view.config is not None else {}
    left_out = [spec for name, spec in specs.items() if name not in view.pool.identities]
    for identity in view.pool.identities.values():
        yield _identity(view, view.pool, identity, specs.get(identity.name), sessions, now)
    for spec in left_out:
        yield _left_out(view, spec, now)


def _identity(
    view: View, pool: Pool, identity: Identity, spec: IdentitySpec | None, sessions: Counter[str], now: float
) -> dict[str, Any]:
    condition, metadata = standing(pool, identity, now), identity.metadata
    usage = usage_of(pool, identity)
    requests, refusals, used_at = view.history.of_identity(identity.name, now)
    user_id = metadata.user_id if metadata is not None else ""
    return {
        "name": safe(identity.name),
        "kind": identity.kind.value,
        "fingerprint": identity.fingerprint,
        "account_id": safe(metadata.account_id) or None if metadata is not None else None,
        "user_id": None if user_id.startswith(UNKNOWN) else safe(user_id) or None,
        "plan": safe(metadata.plan) or None if metadata is not None else None,
        "fedramp": metadata is not None and metadata.fedramp,
        "origin": safe(metadata.origin) if metadata is not None else "",
        "status": condition.status.value,
        "since": condition.since,
        "until": condition.until,
        "evidence": safe(str(condition.evidence or "")),
        "needs": safe(_needs(identity, condition, _place(view.config, spec))),
        "expires_at": identity.expires_at,
        "reminder": expiry(identity.expires_at, now),
        "sessions": sessions[identity.name],
        "headroom": left(usage, now),
        "limits": [_limit(window, now) for window in windows(usage)],
        "limited": limited(usage, now),
        "not_for": [safe(entry.described(now)) for entry in pool.exclusions.of(identity, now)[:NOT_FOR_SHOWN]],
        "requests": requests,
        "refusals": refusals,
        "last_used_at": used_at,
    }


def _left_out(view: View, spec: IdentitySpec, now: float) -> dict[str, Any]:
    """One whose token cannot be had: the proxy goes on without it."""
    return {
        "name": safe(spec.name),
        "kind": spec.kind.value,
        "fingerprint": "",
        "account_id": safe(spec.account_id) if spec.account_id else None,
        "user_id": safe(spec.user_id) if spec.user_id else None,
        "plan": None,
        "fedramp": False,
        "origin": "",
        "status": Status.UNVERIFIED.value,
        "since": None,
        "until": None,
        "evidence": "its token cannot be had",
        "needs": safe(f"Mend it at {_place(view.config, spec)}; the proxy's log says what is wrong"),
        "expires_at": spec.expires_at,
        "reminder": expiry(spec.expires_at, now),
        "sessions": 0,
        "headroom": None,
        "limits": [],
        "limited": {},
        "not_for": [],
        "requests": 0,
        "refusals": 0,
        "last_used_at": None,
    }


def standing(pool: Pool, identity: Identity, now: float) -> Condition:
    """How an identity stands. What ends by itself has ended at its time, though nobody has asked for it since."""
    condition, returns_at = identity.condition, identity.returns_at
    if returns_at is None or condition.since <= now < returns_at:
        return condition
    until = limited(usage_of(pool, identity), now).get(MAIN)
    if until is not None:
        return Condition(Status.LIMITED, condition.since, until, condition.evidence)
    is_known = identity.metadata is not None
    return Condition(Status.READY if is_known else Status.UNVERIFIED, min(returns_at, now))


def usage_of(pool: Pool, identity: Identity) -> Usage:
    """What is known of its limits."""
    return pool.states.usage(identity.metadata.key) if identity.metadata is not None else NOTHING


def left(usage: Usage, now: float) -> float | None:
    """The share, from 0 to 1, that is left of the window of the main limit with the least; None if none is known.

    (New sessions are given by another number, in which the time to its reset counts: `Usage.headroom`.)
    """
    if MAIN in limited(usage, now):
        return 0.0
    shares = [window.left(now) for window in usage.windows.values() if window.family == MAIN]
    return round(min(shares), 3) if shares else None


def windows(usage: Usage) -> list[Window]:
    """The windows of an identity: the main limit's first, the short ones before the long ones."""
    ordered = sorted(usage.windows.values(), key=lambda w: (w.family != MAIN, w.family, w.minutes))
    return ordered[:WINDOWS_SHOWN]


def limited(usage: Usage, now: float) -> dict[str, float]:
    """Until when which families of models are limited."""
    ends = sorted(usage.limited.items())[:WINDOWS_SHOWN] if usage.limited else ()
    return {safe(family): until for family, until in ends if now < until <= now + LONGEST_LIMIT}


def _limit(window: Window, now: float) -> dict[str, Any]:
    has_passed = window.has_passed(now)
    return {
        "family": safe(window.family),
        "minutes": window.minutes,
        "used_percent": 0.0 if has_passed else window.used_percent,
        "resets_at": None if has_passed or window.resets_at is None else window.ends,
    }


def _needs(identity: Identity, condition: Condition, where: str) -> str:
    """What a person has to do before it serves again; empty where that is nothing."""
    if condition.status in CONDEMNED:
        return remedy(identity, where)
    if condition.status is not Status.PAUSED:
        return ""
    if identity.twin_of is not None and not identity.paused:
        return f"Give it a token of another user, or take it out: {where}"
    once = "Once its workspace serves it again: " if is_of_workspace(condition) else "To have it serve again: "
    return f"{once}codexpool resume {identity.name}"


def _place(config: PoolConfig | None, spec: IdentitySpec | None) -> str:
    """Where the token of an identity stands."""
    if config is None:
        return "pool.toml"
    return f"{config.path}:{spec.line}" if spec is not None else str(config.path)
