"""`/metrics`: the counts of this run and the state of each identity, for Prometheus.

The numbers are read from `codexpool.traces.history` and from the pool at each scrape. No label has a value that a
client, a session or a path could make up, so the number of samples is bounded by pool.toml and the fleet.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import accumulate, islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from codexpool.common.tasks import in_thread
from codexpool.pool.identity import Identity, Status
from codexpool.pool.pool import Pool
from codexpool.pool.usage import Window
from codexpool.state.fleet import Fleet
from codexpool.traces.history import BOUNDS, Buckets
from codexpool.views.limits import safe, share_left, windows
from codexpool.web.status import PROGRAMS, UNVERIFIED, View, condition_at, fleet_rows, join, usage_of

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LIBRARY: Final = "prometheus_client"
AT_ONCE: Final = 100  # samples in one piece of a family, so that encoding a piece takes a millisecond or two
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Row = tuple[Sequence[str], Any]  # The label values of a sample, and its number (or {} for an info metric).
BY_NAME = ("identity",)
BY_WINDOW = ("identity", "family", "window")


async def scrape(view: View, now: float) -> bytes:
    """Return all metrics as text; ``now`` is a unix second. The event loop gets its turn between pieces."""
    # It is slow to import, and most proxies are never scraped.
    if LIBRARY not in sys.modules:
        await in_thread(import_module, LIBRARY)
    return await join(_encoded(families(view, now)))


def families(view: View, now: float) -> Iterator[Metric]:
    from prometheus_client import ProcessCollector

    yield from ProcessCollector(registry=None).collect()  # Time, memory, open files; found on Linux only.
    yield from _of_the_proxy(view)
    if view.fleet is not None:
        yield from _of_the_fleet(view.fleet)
    yield from _of_requests(view)
    yield from _statuses(view, now)
    if view.pool is not None:
        yield from _of_identities(view, view.pool, now)
        yield from _of_limits(view.pool, now)


def _of_the_proxy(view: View) -> Iterator[Metric]:
    pool = view.pool
    text = "Versions of codexpool, mitmproxy and Python."
    yield from metric("codexpool_build_info", text, [((*PROGRAMS.values(),), {})], (*PROGRAMS,))
    yield from metric("codexpool_start_time_seconds", "Unix time at which the proxy was started.", view.started_at)
    yield from metric("codexpool_observing", "1 in observe mode, where no request is changed.", view.observes)
    yield from metric("codexpool_closed", "1 while all requests are refused; see the log.", bool(view.why_closed))
    is_open = pool is not None and pool.states.breaker.opened_at is not None
    text = "1 while sessions are not moved because several identities died at once."
    yield from metric("codexpool_breaker_open", text, is_open)


def _of_the_fleet(fleet: Fleet) -> Iterator[Metric]:
    yield from metric("codexpool_state_info", "The engine of the state.", [((fleet.engine,), {})], ("engine",))
    yield from metric("codexpool_state_connected", "1 while the state can be used.", fleet.is_connected)
    text = "Rows in memory that are not yet written to the state."
    yield from metric("codexpool_state_waiting_rows", text, fleet.waiting)
    proxies = fleet_rows(fleet)
    text = "Proxies that share the state and have sent a heartbeat within the last seconds."
    yield from metric("codexpool_fleet_proxies", text, sum(proxy["alive"] for proxy in proxies))
    labels = "host", "pid"
    # A dictionary: containers may share host and process id, and one sample given twice would spoil the scrape.
    by_proxy = {(proxy["host"], str(proxy["pid"])): proxy for proxy in proxies if proxy["alive"]}.items()
    text = "The version of each of these proxies."
    versions: list[Row] = [((*key, proxy["version"]), {}) for key, proxy in by_proxy]
    yield from metric("codexpool_fleet_proxy_info", text, versions, (*labels, "version"))
    text, starts = "Unix time at which it was started.", [(key, proxy["started_at"]) for key, proxy in by_proxy]
    yield from metric("codexpool_fleet_proxy_start_time_seconds", text, starts, labels)
    text, sessions = "Sessions it has served in its run.", [(key, proxy["sessions"]) for key, proxy in by_proxy]
    yield from metric("codexpool_fleet_proxy_sessions", text, sessions, labels)


def _of_requests(view: View) -> Iterator[Metric]:
    history, tallies = view.history, view.history.tallies
    known = _names(view)

    def counted(counts: Iterable[tuple[tuple[str, str], int]]) -> Iterator[Row]:
        return (((safe(name), safe(what)), n) for (name, what), n in sorted(counts) if not name or name in known)

    text = (
        "Requests and WebSocket handshakes, by the class of the answer's status (lost: no answer). "
        "Without an identity: codexpool answered itself."
    )
    rows = counted(tallies.requests.items())
    yield from metric("codexpool_requests_total", text, rows, ("identity", "status"))
    text, rows = "Turns on open WebSockets, by outcome.", counted(tallies.turns.items())
    yield from metric("codexpool_turns_total", text, rows, ("identity", "outcome"))
    text = "Answers that refused an identity or its token, by row of the verdict table."
    yield from metric("codexpool_refusals_total", text, counted(tallies.refusals.items()), ("identity", "row"))
    text = "Requests that were answered with a status of 400 or more, or not at all."
    yield from metric("codexpool_failures_total", text, tallies.failures)
    yield from metric("codexpool_resends_total", "Second and further attempts of requests.", tallies.sent_again)
    yield from metric("codexpool_session_moves_total", "Moves of a session to another identity.", tallies.moves)
    text = "Bytes of clients' request bodies and WebSocket messages."
    yield from metric("codexpool_request_bytes_total", text, tallies.bytes_out)
    text = "Bytes of answers and WebSocket messages for clients."
    yield from metric("codexpool_response_bytes_total", text, tallies.bytes_in)
    text = "Time from a request's headers to those of its answer, including all attempts and waits."
    yield histogram("codexpool_request_duration_seconds", text, tallies.answers)
    text = "Time that requests waited for an identity or for another attempt."
    yield histogram("codexpool_request_wait_seconds", text, tallies.waits)
    text = "Remembered requests without a complete answer, and open WebSockets."
    yield from metric("codexpool_requests_under_way", text, history.under_way)
    yield from metric("codexpool_sockets_open", "Open WebSockets.", tallies.sockets_open)
    yield from metric("codexpool_sessions", "Remembered sessions of this run.", history.session_count)
    yield from metric("codexpool_events_total", "Events on the page and in the events file.", history.last)
    text = "Events missing from the events file because it could not be written."
    yield from metric("codexpool_events_lost_total", text, view.events_lost)


def _statuses(view: View, now: float) -> Iterator[Metric]:
    pool = view.pool

    def rows() -> Iterator[Row]:
        for name in _names(view):
            identity = pool.identities.get(name) if pool is not None else None
            is_in = condition_at(pool, identity, now).status if pool and identity else Status.UNVERIFIED
            yield from (((safe(name), status.value), status is is_in) for status in Status)

    text = "The status of an identity: 1 for the one it has, 0 for all others."
    yield from metric("codexpool_identity_status", text, rows(), ("identity", "status"))


def _of_identities(view: View, pool: Pool, now: float) -> Iterator[Metric]:
    identities = tuple(pool.identities.values())

    def by_name(values: Iterable[tuple[Identity, float | None]]) -> Iterator[Row]:
        return (((safe(identity.name),), value) for identity, value in values if value is not None)

    text = "Kind and plan of an identity."
    facts: Iterator[Row] = (
        ((safe(i.name), i.kind.value, safe((i.metadata or UNVERIFIED).plan)), {}) for i in identities
    )
    yield from metric("codexpool_identity_info", text, facts, ("identity", "kind", "plan"))
    text = "Unix time at which a limited or resting identity serves again."
    ends = by_name((i, condition_at(pool, i, now).until) for i in identities)
    yield from metric("codexpool_identity_returns_timestamp_seconds", text, ends, BY_NAME)
    text = "Unix time at which a token expires, as set in pool.toml."
    expected = by_name((i, i.expires_at) for i in identities)
    yield from metric("codexpool_identity_expiry_timestamp_seconds", text, expected, BY_NAME)
    text = "What is left of the most used window of the main limit, from 0 to 1."
    shares = by_name((i, share_left(usage_of(pool, i), now)) for i in identities)
    yield from metric("codexpool_identity_headroom_ratio", text, shares, BY_NAME)
    text, name = "Reset credits of an identity's account.", "codexpool_identity_reset_credits"
    credits = [(i, credits) for i in identities if (credits := usage_of(pool, i).credits) is not None]
    yield from metric(name, text, by_name((i, credit.available) for i, credit in credits), BY_NAME)
    text, name = (
        "Unix time at which the first of them expires.",
        "codexpool_identity_reset_credit_expiry_timestamp_seconds",
    )
    yield from metric(name, text, by_name((i, credit.expires_at) for i, credit in credits), BY_NAME)
    text, counts = "Sessions of this run that an identity serves.", view.history.sessions_by_identity()
    yield from metric("codexpool_identity_sessions", text, by_name((i, counts[i.name]) for i in identities), BY_NAME)


def _of_limits(pool: Pool, now: float) -> Iterator[Metric]:
    def seen() -> Iterator[tuple[tuple[str, str, str], Window]]:
        for identity in tuple(pool.identities.values()):
            for window in windows(usage_of(pool, identity)):
                yield (safe(identity.name), safe(window.family), length(window.minutes)), window

    text = "The used part of a limit's window, from 0 to 1, as the last answer reported it."
    used = ((labels, 1.0 - window.left(now)) for labels, window in seen())
    yield from metric("codexpool_limit_used_ratio", text, used, BY_WINDOW)
    text = "Unix time at which a limit's window resets."
    ends = ((labels, w.ends) for labels, w in seen() if w.resets_at is not None and not w.has_passed(now))
    yield from metric("codexpool_limit_resets_timestamp_seconds", text, ends, BY_WINDOW)


def length(minutes: int) -> str:
    """Return the length of a window in its largest unit: ``5h``, ``7d``."""
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes and minutes % size == 0:
            return f"{minutes // size}{unit}"
    return f"{minutes}m"


def _names(view: View) -> dict[str, None]:
    """Return the identities of pool.toml in its order, including those without a readable token."""
    if view.pool is None:
        return {}
    names = dict.fromkeys(view.pool.identities)
    return names | dict.fromkeys(spec.name for spec in view.config.identities) if view.config is not None else names


def metric(name: str, text: str, value: float | Iterable[Row], labels: Sequence[str] = ()) -> Iterator[Metric]:
    """Yield a metric, in pieces of ``AT_ONCE`` samples. Its name tells whether it is a counter, an info or a gauge.

    With ``labels``, ``value`` has a row for each sample.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    remaining = iter([((), float(value))] if isinstance(value, int | float) else value)
    base = name.removesuffix("_total").removesuffix("_info")
    some = list(islice(remaining, AT_ONCE))
    while True:
        family: CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily
        if name.endswith("_info"):
            family = InfoMetricFamily(base, text, labels=labels)
        else:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(base, text, labels=labels)
        for values, number in some:
            family.add_metric(values, number)
        yield family
        if not (some := list(islice(remaining, AT_ONCE))):
            return


def histogram(name: str, text: str, buckets: Buckets) -> Metric:
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    counts = list(zip(map(floatToGoString, BOUNDS), accumulate(buckets.counts), strict=True))
    return HistogramMetricFamily(name, text, counts, buckets.sum)


def _encoded(families: Iterable[Metric]) -> Iterator[bytes]:
    """Yield the text of metrics; consecutive families of one name are pieces of one family."""
    from prometheus_client import generate_latest

    last = ""
    for family in families:
        registry: Any = SimpleNamespace(collect=lambda family=family: [family])
        text = generate_latest(registry)
        if family.name == last:  # a further piece: without HELP and TYPE
            text = b"\n".join(line for line in text.split(b"\n") if not line.startswith(b"#"))
        yield text
        last = family.name
