"""``/metrics``: the counts of this run and how the identities stand, as Prometheus reads it.

Nothing is kept for it: the numbers are those of `codexpool.traces.history` and of the pool, read when they are asked
for. No label has a value that a client, a session or a path could make up: there is a sample for each identity and
window at most, and of identities only those that pool.toml has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from codexpool.common.tasks import in_thread
from codexpool.pool.identity import Identity, Status
from codexpool.pool.pool import Pool
from codexpool.pool.usage import Window
from codexpool.web import families
from codexpool.web.families import Row, counter, counters, gauge, gauges, histogram, infos
from codexpool.web.pieces import joined
from codexpool.web.status import View, left, safe, standing, usage_of, windows

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

BY_NAME = ("identity",)
BY_WINDOW = ("identity", "family", "window")


async def scraped(view: View, accept: str, now: float) -> tuple[bytes, str]:
    """What `exposition` gives, without keeping the event loop from its work."""
    if families.LIBRARY not in sys.modules:
        await in_thread(import_module, families.LIBRARY)
    pieces, content_type = families.exposed(_families(view, now), accept)
    return await joined(pieces), content_type


def exposition(view: View, accept: str, now: float) -> tuple[bytes, str]:
    """All metrics as an ``Accept`` header asks for them, and their content type. ``now`` is a unix second."""
    pieces, content_type = families.exposed(_families(view, now), accept)
    return b"".join(pieces), content_type


def _families(view: View, now: float) -> Iterator[Metric]:
    yield from _process_collector().collect()
    yield from _of_the_proxy(view)
    yield from _of_requests(view)
    yield from _statuses(view, now)
    if view.pool is not None:
        yield from _of_identities(view, view.pool, now)
        yield from _of_limits(view.pool, now)


@lru_cache(maxsize=1)
def _process_collector() -> Collector:
    """Processor time, memory and open files of the process, where it runs on Linux."""
    from prometheus_client import ProcessCollector

    return ProcessCollector(registry=None)


def _of_the_proxy(view: View) -> Iterator[Metric]:
    proxy, pool = view.proxy, view.pool
    labels, versions = ("version", "mitmproxy", "python"), (proxy.version, proxy.mitmproxy, proxy.python)
    yield from infos("codexpool_build_info", "The versions of what runs.", labels, [versions])
    yield gauge("codexpool_start_time_seconds", "Unix time at which the proxy was started.", proxy.started_at)
    yield gauge("codexpool_observing", "1 if nothing is changed, and it is only said what would be.", proxy.observe)
    yield gauge("codexpool_closed", "1 if nothing is served: the log says why.", bool(view.why_closed))
    is_open = pool is not None and pool.states.breaker.opened_at is not None
    text = "1 while sessions are not moved, because several identities were refused for good at once."
    yield gauge("codexpool_breaker_open", text, is_open)


def _of_requests(view: View) -> Iterator[Metric]:
    history, tallies = view.history, view.history.tallies
    known = _names(view)

    def counted(counts: Iterable[tuple[tuple[str, str], int]]) -> Iterator[Row]:
        return (((safe(name), safe(what)), n) for (name, what), n in sorted(counts) if not name or name in known)

    yield from counters(
        "codexpool_requests_total",
        "Requests and WebSocket handshakes, by the class of the answer's status (lost: there was none). "
        "Without an identity: codexpool has answered.",
        ("identity", "status"),
        counted(tallies.requests.items()),
    )
    yield from counters(
        "codexpool_turns_total",
        "Requests for the model on open WebSockets, by what became of them.",
        ("identity", "outcome"),
        counted(tallies.turns.items()),
    )
    yield from counters(
        "codexpool_refusals_total",
        "Answers that turned an identity or its token down, by the row of the table of verdicts.",
        ("identity", "row"),
        counted(tallies.refusals.items()),
    )
    yield counter("codexpool_failures_total", "Requests with a status of 400 or more, or none.", tallies.failures)
    yield counter("codexpool_resends_total", "Attempts beyond the first one of their request.", tallies.sent_again)
    yield counter("codexpool_session_moves_total", "Moves of a session to another identity.", tallies.moves)
    yield counter("codexpool_request_bytes_total", "Bytes of the bodies of requests.", tallies.bytes_out)
    yield counter("codexpool_response_bytes_total", "Bytes of answers that went to clients.", tallies.bytes_in)
    text = "From a request's headers to those of its answer, with all attempts and waits."
    yield histogram("codexpool_request_duration_seconds", text, tallies.answers)
    text = "How long requests that had to wait for an identity, or for another attempt, were kept."
    yield histogram("codexpool_request_wait_seconds", text, tallies.waits)
    text = "Requests whose answer is not whole, and open WebSockets, among those that are remembered."
    yield gauge("codexpool_requests_under_way", text, history.under_way)
    yield gauge("codexpool_sockets_open", "Open WebSockets.", tallies.sockets_open)
    yield gauge("codexpool_sessions", "Sessions of this run that are remembered.", history.session_count)
    yield counter("codexpool_events_total", "Events, as the page and the file of events have them.", history.last)
    text = "Events that are not in the file of events, because it could not be written."
    yield counter("codexpool_events_lost_total", text, view.events_lost)


def _statuses(view: View, now: float) -> Iterator[Metric]:
    pool = view.pool

    def rows() -> Iterator[Row]:
        for name in _names(view):
            identity = pool.identities.get(name) if pool is not None else None
            is_in = Status.UNVERIFIED if pool is None or identity is None else standing(pool, identity, now).status
            yield from (((safe(name), status.value), status is is_in) for status in Status)

    text = "How an identity stands: 1 for the status it has, 0 for all others."
    yield from gauges("codexpool_identity_status", text, ("identity", "status"), rows())


def _of_identities(view: View, pool: Pool, now: float) -> Iterator[Metric]:
    identities = tuple(pool.identities.values())

    def by_name(values: Iterable[tuple[Identity, float | None]]) -> Iterator[Row]:
        return (((safe(identity.name),), value) for identity, value in values if value is not None)

    yield from infos(
        "codexpool_identity_info", "What an identity is.", ("identity", "kind", "plan"), map(_who, identities)
    )
    text = "Unix time at which an identity that is limited, or rests, serves again."
    ends = by_name((i, standing(pool, i, now).until) for i in identities)
    yield from gauges("codexpool_identity_returns_timestamp_seconds", text, BY_NAME, ends)
    text = "Unix time from which a token is expected to be worth nothing, as pool.toml says it."
    expected = by_name((i, i.expires_at) for i in identities)
    yield from gauges("codexpool_identity_expiry_timestamp_seconds", text, BY_NAME, expected)
    text = "The share that is left of the window of the main limit with the least, from 0 to 1."
    shares = by_name((i, left(usage_of(pool, i), now)) for i in identities)
    yield from gauges("codexpool_identity_headroom_ratio", text, BY_NAME, shares)
    counts = view.history.sessions_by_identity()
    sessions = by_name((i, counts[i.name]) for i in identities)
    yield from gauges("codexpool_identity_sessions", "Sessions of this run with an identity.", BY_NAME, sessions)


def _of_limits(pool: Pool, now: float) -> Iterator[Metric]:
    def seen() -> Iterator[tuple[tuple[str, str, str], Window]]:
        for identity in tuple(pool.identities.values()):
            for window in windows(usage_of(pool, identity)):
                yield (safe(identity.name), safe(window.family), length(window.minutes)), window

    text = "How much of a window is used, from 0 to 1, as far as an answer has said so."
    used = ((labels, 1.0 - window.left(now)) for labels, window in seen())
    yield from gauges("codexpool_limit_used_ratio", text, BY_WINDOW, used)
    text = "Unix time at which a window begins anew."
    ends = ((labels, w.ends) for labels, w in seen() if w.resets_at is not None and not w.has_passed(now))
    yield from gauges("codexpool_limit_resets_timestamp_seconds", text, BY_WINDOW, ends)


def length(minutes: int) -> str:
    """The length of a window, as short as it can be said: ``5h``, ``7d``."""
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes and minutes % size == 0:
            return f"{minutes // size}{unit}"
    return f"{minutes}m"


def _names(view: View) -> dict[str, None]:
    """The identities that pool.toml has, in its order, those whose token cannot be had among them."""
    if view.pool is None:
        return {}
    names = dict.fromkeys(view.pool.identities)
    return names | dict.fromkeys(spec.name for spec in view.config.identities) if view.config is not None else names


def _who(identity: Identity) -> tuple[str, str, str]:
    plan = identity.metadata.plan if identity.metadata is not None else ""
    return safe(identity.name), identity.kind.value, safe(plan)
