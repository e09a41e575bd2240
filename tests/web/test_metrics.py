"""``/metrics``: what Prometheus makes of it, named after its conventions, bounded, and without a secret."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families as parsed

from codexpool.pool.identity import Condition, Evidence, Metadata, Status
from codexpool.pool.pool import Pool
from codexpool.pool.usage import MAIN, Limit, ResetCredits, Window
from codexpool.state.fleet import DEAD_AFTER
from codexpool.traces.history import BOUNDS, History
from codexpool.traces.trace import TurnTrace
from codexpool.web.metrics import AT_ONCE, length, scrape
from codexpool.web.status import PROGRAMS, View
from tests.pool.pools import NOW, condemn, ready_pool, refuse, unverified
from tests.redaction.planting import pieces_in, recognised
from tests.running import ROOT
from tests.web.views import clock, config, fleet, many, member_of_fleet, request, served, view


def exposition(looked_at: View, now: float = NOW) -> str:
    return asyncio.run(scrape(looked_at, now)).decode()


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families(looked_at: View, now: float = NOW) -> list[Metric]:
    return list(parsed(exposition(looked_at, now)))


def samples(looked_at: View, now: float = NOW) -> Samples:
    """All samples by name and labels; none is there twice."""
    found: Samples = {}
    for family in families(looked_at, now):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def labelled(found: Samples, name: str) -> dict[frozenset[tuple[str, str]], float]:
    return {labels: number for (sample, labels), number in found.items() if sample == name}


def in_use() -> View:
    """A pool where something of everything has happened."""
    pool, history = ready_pool("work", "spare", "dead"), History()
    for window in (Window(MAIN, 300, 25.0, NOW + 600, NOW), Window("codex_other", 10_080, 50.0, None, NOW)):
        pool.states.usage(key(pool, "work")).see(window)
    pool.states.usage(key(pool, "work")).credits = ResetCredits(2, NOW + 3600, NOW, is_listed=True)
    pool.states.usage(key(pool, "spare")).credits = ResetCredits(0, None, NOW, is_listed=True)
    pool.states.limited("spare", key(pool, "spare"), Limit(MAIN, NOW + 60), Evidence(NOW, status=429))
    refuse(pool, "dead", NOW, NOW)
    condemn(pool, "dead", NOW)
    pool.identities["work"].expires_at = NOW + 86_400
    served(history, request("one", request_bytes=10, bytes_in=100), ["work"])
    served(history, request("two"), ["dead", "work"], status=200)
    served(history, request("three"), [], status=503)
    waiting = request("four")
    waiting.waited("another token of work", 0.25)
    served(history, waiting, ["work"], status=101)
    with clock(NOW + 1):
        history.socket_opened(waiting)
        history.turn_ended(waiting, TurnTrace(NOW), "completed", failed=False)
    specs, proxies = config("work", "spare", "dead", "missing"), (member_of_fleet("a"), member_of_fleet("b"))
    return view(pool, history, config=specs, events_lost=2, fleet=fleet(*proxies, waiting=3))


def key(pool: Pool, name: str) -> Any:
    metadata = pool.identities[name].metadata
    assert metadata is not None
    return metadata.key


def test_the_numbers_equal_those_of_history_and_pool() -> None:
    found = samples(in_use())

    assert labelled(found, "codexpool_requests_total") == {
        frozenset({("identity", "work"), ("status", "2xx")}): 2,
        frozenset({("identity", "work"), ("status", "101")}): 1,
        frozenset({("identity", ""), ("status", "5xx")}): 1,
    }
    assert value(found, "codexpool_turns_total", identity="work", outcome="completed") == 1
    assert value(found, "codexpool_refusals_total", identity="dead", row="7") == 1
    for name, number in {
        "codexpool_failures_total": 1,
        "codexpool_resends_total": 1,
        "codexpool_session_moves_total": 1,
        "codexpool_request_bytes_total": 10,
        "codexpool_response_bytes_total": 100,
        "codexpool_sockets_open": 1,
        "codexpool_requests_under_way": 1,
        "codexpool_sessions": 3,
        "codexpool_events_total": 7,
        "codexpool_events_lost_total": 2,
        "codexpool_breaker_open": 0,
        "codexpool_closed": 0,
        "codexpool_observing": 0,
        "codexpool_start_time_seconds": NOW - 60,
    }.items():
        assert value(found, name) == number, name
    assert value(found, "codexpool_build_info", **PROGRAMS) == 1
    assert value(found, "codexpool_identity_info", identity="work", kind="pat", plan="business") == 1
    assert value(found, "codexpool_identity_headroom_ratio", identity="work") == 0.75
    assert value(found, "codexpool_identity_headroom_ratio", identity="spare") == 0
    assert value(found, "codexpool_identity_headroom_ratio", identity="dead") is None  # nothing is known
    assert value(found, "codexpool_identity_sessions", identity="work") == 3
    assert value(found, "codexpool_identity_expiry_timestamp_seconds", identity="work") == NOW + 86_400
    assert labelled(found, "codexpool_identity_returns_timestamp_seconds") == {
        frozenset({("identity", "spare")}): NOW + 60
    }
    assert [
        value(found, "codexpool_identity_reset_credits", identity=name) for name in ("work", "spare", "dead")
    ] == [
        2,
        0,
        None,
    ]
    assert labelled(found, "codexpool_identity_reset_credit_expiry_timestamp_seconds") == {
        frozenset({("identity", "work")}): NOW + 3600
    }
    work = {"identity": "work", "family": "codex", "window": "5h"}
    assert value(found, "codexpool_limit_used_ratio", **work) == 0.25
    assert value(found, "codexpool_limit_resets_timestamp_seconds", **work) == NOW + 600
    other = {"identity": "work", "family": "codex_other", "window": "7d"}
    assert value(found, "codexpool_limit_used_ratio", **other) == 0.5
    assert value(found, "codexpool_limit_resets_timestamp_seconds", **other) is None


def test_the_fleet_is_counted_by_its_heartbeats() -> None:
    silent = member_of_fleet("c", DEAD_AFTER + 1)
    proxies = fleet(member_of_fleet("a"), member_of_fleet("b"), silent, is_connected=False, waiting=3)

    found = samples(view(fleet=proxies))

    assert value(found, "codexpool_fleet_proxies") == 2
    assert value(found, "codexpool_state_connected") == 0
    assert value(found, "codexpool_state_waiting_rows") == 3
    assert value(found, "codexpool_state_info", engine="postgresql") == 1
    labels = {"host": "host-b", "pid": "42"}
    assert value(found, "codexpool_fleet_proxy_info", **labels, version="1.0") == 1
    assert value(found, "codexpool_fleet_proxy_sessions", **labels) == 7
    assert value(found, "codexpool_fleet_proxy_start_time_seconds", **labels) == NOW - 101
    assert len(labelled(found, "codexpool_fleet_proxy_sessions")) == 2


def test_proxies_that_look_alike_make_one_sample() -> None:
    proxies = (member_of_fleet(writer, host="localhost") for writer in "abc")

    assert len(labelled(samples(view(fleet=fleet(*proxies))), "codexpool_fleet_proxy_sessions")) == 1


def test_exactly_one_status_of_each_identity_is_set() -> None:
    found = labelled(samples(in_use()), "codexpool_identity_status")
    is_in = {dict(labels)["identity"]: dict(labels)["status"] for labels, number in found.items() if number == 1}

    assert is_in == {"work": "ready", "spare": "limited", "dead": "needs_replacement", "missing": "unverified"}
    assert sorted(found.values()) == [0] * (4 * len(Status) - 4) + [1] * 4


def test_what_was_to_end_meanwhile_has_ended() -> None:
    looked_at = in_use()
    found = samples(looked_at, now=NOW + 600)

    assert value(found, "codexpool_identity_status", identity="spare", status="ready") == 1
    assert labelled(found, "codexpool_identity_returns_timestamp_seconds") == {}
    work = {"identity": "work", "family": "codex", "window": "5h"}
    assert value(found, "codexpool_limit_used_ratio", **work) == 0
    assert value(found, "codexpool_limit_resets_timestamp_seconds", **work) is None


def test_a_histogram_is_cumulative() -> None:
    history = History()
    for seconds in (0.01, 0.05, 0.3, 1000):
        history.tallies.answers.add(seconds)
    found = samples(view(ready_pool("work"), history))
    name = "codexpool_request_duration_seconds"

    ends = {float(dict(labels)["le"]): count for labels, count in labelled(found, f"{name}_bucket").items()}
    assert list(ends) == list(BOUNDS)
    assert (ends[0.05], ends[0.25], ends[0.5], ends[300.0], ends[float("inf")]) == (2, 2, 3, 3, 4)
    assert value(found, f"{name}_count") == 4
    assert value(found, f"{name}_sum") == pytest.approx(1000.36)


def test_a_proxy_without_a_pool_has_counts_but_no_identity() -> None:
    history = History()
    served(history, request(), [], status=503)
    found = samples(view(None, history, closed="pool.toml cannot be read"))

    assert value(found, "codexpool_closed") == 1
    assert value(found, "codexpool_requests_total", identity="", status="5xx") == 1
    assert not any(dict(labels).get("identity") for _, labels in found)


def test_a_removed_identity_disappears() -> None:
    history = History()
    served(history, request(), ["gone", "work"])
    found = samples(view(ready_pool("work"), history))
    assert {dict(labels).get("identity") for _, labels in found} == {None, "work"}


@pytest.mark.parametrize(
    ("minutes", "text"), [(300, "5h"), (10_080, "7d"), (1440, "1d"), (90, "90m"), (60, "1h"), (0, "0m")]
)
def test_a_window_is_named_by_its_length(minutes: int, text: str) -> None:
    assert length(minutes) == text


# -- names, after the conventions of Prometheus (what `promtool check metrics` looks at, and some more)

BASE_UNITS = ("seconds", "bytes", "ratio")
OTHER_UNITS = re.compile(
    r"(^|_)(ms|milliseconds?|microseconds?|ns|minutes?|hours?|days?|second|byte|kb|kilobytes?|mb|megabytes?|bits?"
    r"|percent|percentage|pct)(_|$)"
)
SUFFIXES = ("_total", "_count", "_sum", "_bucket", "_info")


def complaints(family: Metric, names: Counter[str]) -> Iterable[str]:
    name, counts = family.name, family.type == "counter"
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        yield "is not in snake case, or has a colon"
    if not name.startswith(("codexpool_", "process_")):
        yield "says not whose it is"
    if len(family.documentation) < 10 or not family.documentation.endswith("."):
        yield "has no help"
    if names[name] != 1:
        yield "is there more than once"
    if OTHER_UNITS.search(name):
        yield "has a unit that is no base unit"
    if any(word in name.split("_") for word in ("gauge", "counter", "histogram", "summary", "metric")):
        yield "says its type"
    if not counts and name.endswith(SUFFIXES) and not (family.type in ("gauge", "info") and name.endswith("_info")):
        yield "ends as something else does"
    for sample in family.samples:
        if counts and not sample.name.endswith("_total"):
            yield f"counts, and is not called a total: {sample.name}"
        if name.endswith("_ratio") and not 0 <= sample.value <= 1:
            yield "is no ratio"
        if name.endswith("timestamp_seconds") and sample.value < 1e9:
            yield "is no unix time"
        for label in sample.labels:
            if not re.fullmatch(r"[a-z][a-z_]*", label) or label in ("job", "instance", name):
                yield f"has a label that will not do: {label}"


def test_names_help_and_units_follow_prometheus() -> None:
    found = families(in_use())
    names = Counter(family.name for family in found)

    assert {family.name: list(complaints(family, names)) for family in found} == {family.name: [] for family in found}
    assert len(found) > 25


def test_the_documented_metrics_exist() -> None:
    text = (ROOT / "docs" / "events.md").read_text()
    spoken_of = set(re.findall(r"\bcodexpool_[a-z_]+", text)) - {"codexpool_events"}  # the option
    assert len(spoken_of) > 5
    assert spoken_of <= {name for name, _ in samples(in_use())}


def test_the_lint_finds_what_it_looks_for() -> None:
    bad = Metric("codexpool_counter_ms", "x", "gauge")
    bad.add_sample("codexpool_counter_ms", {"Bad": "1"}, 1.0)
    found = list(complaints(bad, Counter({"codexpool_counter_ms": 2})))
    assert len(found) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_process_metrics_have_the_usual_names() -> None:
    found = samples(view(None))
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"):
        assert value(found, name), name


# -- in pieces


@pytest.mark.parametrize("count", [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
def test_many_identities_still_make_one_family(count: int) -> None:
    looked_at = view(many(count))
    found = families(looked_at)
    names = Counter(family.name for family in found)
    (statuses,) = (family for family in found if family.name == "codexpool_identity_status")

    assert set(names.values()) == {1}
    assert len(statuses.samples) == count * len(Status)
    assert [s.labels["identity"] for s in statuses.samples[:: len(Status)]] == [f"i{n}" for n in range(count)]


async def test_a_scrape_in_pieces_yields_to_others() -> None:
    looked_at, turns = view(many(AT_ONCE)), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    meanwhile = asyncio.create_task(others())
    body = await scrape(looked_at, NOW)
    meanwhile.cancel()

    assert turns > len(Status)
    assert body.count(b"codexpool_identity_info{") == AT_ONCE


def test_the_library_is_not_imported_without_a_scrape() -> None:
    program = "import sys, codexpool.web.metrics; print('prometheus_client' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "False\n"


def test_the_first_scrape_imports_the_library() -> None:
    program = (
        "import asyncio, sys; from codexpool.web.metrics import scrape; from tests.web.views import view;"
        "assert 'prometheus_client' not in sys.modules;"
        "print(asyncio.run(scrape(view(None), 0.0)).decode())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.startswith("# HELP ")


# -- bounded, and without a secret


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=10, unique=True))
@settings(max_examples=50)
def test_no_label_is_made_of_what_clients_say(words: list[str]) -> None:
    def run(*said: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        history = History()
        for word in said:
            one = request(word, path=f"/{word}", model=word, parent=word)
            one.client = word
            served(history, one, ["work"])
        return set(samples(view(ready_pool("work"), history)))

    assert run(*words) == run("one")


@given(recognised, recognised)
@settings(max_examples=50)
def test_no_secret_is_in_the_metrics(secret: str, other: str) -> None:
    pool, history = ready_pool("work"), History()
    identity = pool.identities["work"]
    identity.metadata = Metadata(secret, secret, f"plan {secret}")
    pool.states.usage(identity.metadata.key).see(Window(f"family {other}", 300, 1.0, NOW + 60, NOW))
    evidence = Evidence(NOW, "POST", f"/x?access_token={secret}", 401, f"token {other} is invalid")
    pool.states.condition_learned("work", identity.fingerprint, Condition(Status.NEEDS_LOGIN, NOW, evidence=evidence))
    served(history, request(secret, path=f"/{other}", model=other), ["work"])
    body = exposition(view(pool, history, closed=secret))

    assert pieces_in(secret, body) == []
    assert pieces_in(other, body) == []


def test_an_unverified_identity_has_no_plan() -> None:
    pool = Pool()
    pool.replace_identities([unverified("work")], pool.selection, NOW)
    assert value(samples(view(pool)), "codexpool_identity_info", identity="work", kind="pat", plan="") == 1
