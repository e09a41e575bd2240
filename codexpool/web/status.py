"""The status document: what `/api/status`, the page and `codexpool status` show of a running proxy.

It is built for each request from what is in memory. With a thousand identities that takes a while, so it is built in
pieces (see `join`); of what grows with traffic, only the newest is included.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from mitmproxy import version

from codexpool import __version__
from codexpool.config.model import Access, IdentitySpec, PoolConfig
from codexpool.members.ledger import Ledger
from codexpool.members.register import key_status
from codexpool.members.turn_queue import TurnQueue
from codexpool.pool.exclusions import subjects_of
from codexpool.pool.identity import Condition, Identity, Metadata, Status
from codexpool.pool.needs import command, expiry, needs
from codexpool.pool.pool import Pool
from codexpool.pool.states import CONDEMNED
from codexpool.pool.usage import MAIN, NOTHING, Usage
from codexpool.protocol.headers import PROBE_VERSION
from codexpool.redaction import redact_text
from codexpool.state.fleet import Fleet
from codexpool.traces.history import History
from codexpool.upkeep.verification import UNKNOWN
from codexpool.upkeep.watching import PoolFile
from codexpool.views.limits import limited, limits, reset_credits, safe, share_left

VERSION: Final = 1
AT_ONCE: Final = 50  # identities in one piece of the document
SESSIONS_SHOWN: Final = 100
PINS_SHOWN: Final = 100
MODELS_SHOWN: Final = 50  # of one identity, by the backend's lists
PROXIES_SHOWN: Final = 100
IDENTITIES_CHARTED: Final = 6  # The page has so many colours that can be told apart.
NOT_FOR_SHOWN: Final = 20  # endpoints and models shown of those an identity is not used for now
PROGRAMS: Final = {
    "version": __version__,
    "mitmproxy": version.VERSION,
    "python": ".".join(map(str, sys.version_info[:3])),
}
UNVERIFIED: Final = Metadata("", "", "", origin="")  # stands for the metadata of an identity that has none yet


@dataclass(frozen=True, slots=True)
class View:
    """What the status document and the metrics are made from.

    Without a pool, ``closed`` is the reason; empty if none is configured. ``events_lost`` counts the events that
    could not be written to the events file.
    """

    history: History
    pool: Pool | None = None
    config: PoolConfig | None = None
    closed: str = ""
    events_lost: int = 0
    access: str = Access.ANYONE
    members: Sequence[Mapping[str, Any]] = ()
    clock_offset: float | None = None  # This machine's clock minus the backend's in seconds, once known.
    listens: Sequence[str] = ()  # Addresses such as ``127.0.0.1:8080``.
    started_at: float = 0.0
    observes: bool = False
    fleet: Fleet | None = None  # None without a pool, and in observe mode.
    ledger: Ledger | None = None  # As `fleet`.
    file: PoolFile | None = None  # None without a pool.
    installed: str = __version__  # The version in the files of the package, which an upgrade replaces.

    @property
    def why_closed(self) -> str:
        """Return why all requests are refused; empty if they are served or relayed."""
        return self.closed if self.pool is None else ""


def pieces(view: View, now: float) -> Iterator[bytes]:
    """Yield the status document as JSON, a few identities at a time; ``now`` is a unix second."""
    yield as_json(_without_identities(view, now)).removesuffix(b"}") + b', "identities": ['
    identities = _identities(view, now)
    requests: Counter[str] = Counter()
    separator = b""
    while some := list(islice(identities, AT_ONCE)):
        requests.update({row["name"]: row["requests"] for row in some})
        yield separator + as_json(some)[1:-1]
        separator = b", "
    busiest = [name for name, many in requests.most_common(IDENTITIES_CHARTED) if many]
    by_minute = [{"identity": name, "requests": view.history.requests_by_minute(name, now)} for name in busiest]
    yield b'], "hour_by_identity": ' + as_json(by_minute) + b"}"


async def join(pieces: Iterable[bytes]) -> bytes:
    """Join pieces, and let the event loop work after each: a client's request must not wait for a long answer."""
    made: list[bytes] = []
    for piece in pieces:
        made.append(piece)
        await asyncio.sleep(0)
    return b"".join(made)


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _without_identities(view: View, now: float) -> dict[str, Any]:
    history, tallies = view.history, view.history.tallies
    return {
        "version": VERSION,
        "at": now,
        "proxy": {
            "pid": os.getpid(),
            **PROGRAMS,
            "installed": view.installed,
            "listens": list(view.listens),
            "started_at": view.started_at,
            "observe": view.observes,
            "pool": safe(str(view.config.path)) if view.config is not None else None,
            "access": str(view.access),
            "probe": PROBE_VERSION,
            "closed": safe(view.why_closed),
        },
        "pool_file": _pool_file(view.file),
        "sessions": history.sessions(SESSIONS_SHOWN),
        "sessions_total": history.session_count,
        "pins": _pins(view.pool),
        "pins_total": len(view.pool.pins) if view.pool is not None else 0,
        "clock": {"offset": view.clock_offset},
        "state": _state(view.fleet),
        "fleet": fleet_rows(view.fleet),
        "members": list(view.members),
        "breaker": _breaker(view.pool),
        "hour": history.hour(now),
        "totals": {
            "requests": tallies.requests.total() + tallies.turns.total(),
            "refusals": tallies.refusals.total(),
            "failures": tallies.failures,
            "sent_again": tallies.sent_again,
            "moves": tallies.moves,
            "bytes_out": tallies.bytes_out,
            "bytes_in": tallies.bytes_in,
            "sockets_open": tallies.sockets_open,
            "under_way": history.under_way,
            "events_lost": view.events_lost,
        },
        "events_last": history.last,
    }


def _pool_file(file: PoolFile | None) -> dict[str, Any] | None:
    """Return the pool.toml in use; ``problem`` says why the file as it is now is not."""
    if file is None:
        return None
    return {
        "path": safe(str(file.path)),
        "read_at": file.read_at,
        "missing": file.is_missing,
        "problem": safe(redact_text(file.problem)),
    }


def _state(fleet: Fleet | None) -> dict[str, Any] | None:
    if fleet is None:
        return None
    return {
        "engine": fleet.engine,
        "where": safe(fleet.where),
        "connected": fleet.is_connected,
        "since": fleet.since,
        "waiting": fleet.waiting,
    }


def fleet_rows(fleet: Fleet | None) -> list[dict[str, Any]]:
    """Return the proxies that share the state, this one first. Times are by this machine's clock."""
    if fleet is None:
        return []
    own_first = sorted(fleet.proxies, key=lambda proxy: (proxy.writer != fleet.own, proxy.host, proxy.pid))
    read_at = fleet.read_at  # Not the present: while the engine is lost, no heartbeat of others can be seen.
    return [
        {
            "host": safe(proxy.host),
            "version": safe(proxy.version),
            "pid": proxy.pid,
            "started_at": read_at - proxy.up,
            "seen_at": read_at - proxy.silent,
            "alive": proxy.is_alive,
            "sessions": proxy.sessions,
            "self": proxy.writer == fleet.own,
        }
        for proxy in own_first[:PROXIES_SHOWN]
    ]


def _pins(pool: Pool | None) -> list[dict[str, Any]]:
    pins = pool.pins.newest(PINS_SHOWN) if pool is not None else ()
    return [{"session": safe(session), "identity": safe(pin.identity), "at": pin.at} for session, pin in pins]


def _breaker(pool: Pool | None) -> dict[str, Any]:
    if pool is None or pool.states.breaker.opened_at is None:
        return {"open": False, "until": None, "names": []}
    breaker = pool.states.breaker
    return {"open": True, "until": breaker.until, "names": [safe(name) for name in breaker.names]}


def _identities(view: View, now: float) -> Iterator[dict[str, Any]]:
    """Yield the identities of the pool, then those of pool.toml that have no readable token."""
    if view.pool is None:
        return
    sessions = view.history.sessions_by_identity()
    specs = {spec.name: spec for spec in view.config.identities} if view.config is not None else {}
    left_out = [spec for name, spec in specs.items() if name not in view.pool.identities]
    for identity in view.pool.identities.values():
        yield _identity(view, view.pool, identity, specs.get(identity.name), sessions, now)
    for spec in left_out:
        yield _left_out(view, view.pool, spec, sessions, now)


def _identity(
    view: View, pool: Pool, identity: Identity, spec: IdentitySpec | None, sessions: Counter[str], now: float
) -> dict[str, Any]:
    condition, metadata = condition_at(pool, identity, now), identity.metadata or UNVERIFIED
    usage, plan = usage_of(pool, identity), subjects_of(identity).plan
    requests, refusals, used_at = view.history.of_identity(identity.name, now)
    return {
        "name": safe(identity.name),
        "kind": identity.kind.value,
        "fingerprint": identity.fingerprint,
        "account_id": safe(metadata.account_id) or None,
        "user_id": None if metadata.user_id.startswith(UNKNOWN) else safe(metadata.user_id) or None,
        "email": metadata.email or None,
        "plan": safe(metadata.plan) or None,
        "fedramp": metadata.fedramp,
        "origin": safe(metadata.origin),
        "status": condition.status.value,
        "since": condition.since,
        "until": condition.until,
        "evidence": safe(str(condition.evidence or "")),
        "needs": safe(needs(identity, condition, _place(view.config, spec))),
        "command": safe(command(identity, condition)),
        "expires_at": identity.expires_at,
        "reminder": "" if condition.status in CONDEMNED else expiry(identity.expires_at, now),
        "sessions": sessions[identity.name],
        "headroom": share_left(usage, now),
        "limits": limits(usage, now),
        "limited": limited(usage, now),
        "reset_credits": reset_credits(usage),
        "models": [safe(model) for model in pool.entitlements.models(plan)[:MODELS_SHOWN]],
        "lacks": [safe(model) for model in sorted(pool.entitlements.lacked(plan))[:MODELS_SHOWN]],
        "not_for": [safe(entry.described(now)) for entry in pool.exclusions.of(identity, now)[:NOT_FOR_SHOWN]],
        "requests": requests,
        "refusals": refusals,
        "tokens_today": view.ledger.tokens_of_identity(identity.name, now)._asdict()
        if view.ledger is not None
        else None,
        "last_used_at": used_at,
    }


def _left_out(view: View, pool: Pool, spec: IdentitySpec, sessions: Counter[str], now: float) -> dict[str, Any]:
    """Return the row of an identity that has no readable token: the pool serves without it."""
    identity = Identity(spec.name, spec.kind, "", Condition(Status.UNVERIFIED, now), expires_at=spec.expires_at)
    return {
        **_identity(view, pool, identity, spec, sessions, now),
        "account_id": safe(spec.account_id) if spec.account_id else None,
        "user_id": safe(spec.user_id) if spec.user_id else None,
        "since": None,
        "evidence": "its token cannot be read",
        "needs": safe(f"Fix it at {_place(view.config, spec)}; see the proxy's log"),
    }


def condition_at(pool: Pool, identity: Identity, now: float) -> Condition:
    """Return an identity's condition at a time: a limit or rest ends on time, even if no request comes."""
    condition, returns_at = identity.condition, identity.returns_at
    if returns_at is None or condition.since <= now < returns_at:
        return condition
    until = limited(usage_of(pool, identity), now).get(MAIN)
    if until is not None:
        return Condition(Status.LIMITED, condition.since, until, condition.evidence)
    is_known = identity.metadata is not None
    return Condition(Status.READY if is_known else Status.UNVERIFIED, min(returns_at, now))


def usage_of(pool: Pool, identity: Identity) -> Usage:
    return pool.states.usage(identity.metadata.key) if identity.metadata is not None else NOTHING


def _place(config: PoolConfig | None, spec: IdentitySpec | None) -> str:
    """Return the place in pool.toml where the token of an identity is set."""
    if config is None:
        return "pool.toml"
    return f"{config.path}:{spec.line}" if spec is not None else str(config.path)


def member_rows(config: PoolConfig | None, queue: TurnQueue, ledger: Ledger, now: float) -> list[dict[str, Any]]:
    """Return the members in the order of pool.toml, without their keys and the hashes of those."""
    return [
        {
            "name": redact_text(spec.name),
            "key": key_status(spec, spec.key, now).value,
            "expires_at": spec.expires_at,
            "identities": [redact_text(pattern) for pattern in spec.identities],
            "turns_under_way": queue.under_way(spec.name),
            "turns_at_once": spec.turns_at_once,
            "turns_today": ledger.turns_today(spec.name, now),
            "turns_a_day": spec.turns_a_day,
            "tokens_today": ledger.tokens_of_member(spec.name, now)._asdict(),
        }
        for spec in (config.members if config is not None else ())
    ]
