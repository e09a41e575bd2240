"""The history of requests: bounded, counted, and readers can wait for news."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.selection import Because
from codexpool.pool.verdict import Answer, Finding, classify
from codexpool.traces import history as histories
from codexpool.traces.events import Event, Kind
from codexpool.traces.history import MINUTES, Buckets, History, Hour
from codexpool.traces.trace import AttemptTrace, Trace

REVOKED = classify(Answer(401, code="token_revoked"))
NOW = 1_800_000_000.0


def trace(number: int = 1, session: str | None = "one", at: float = NOW) -> Trace:
    fields = ((b"authorization", b"Bearer at-test-own-0123456789abcdef"),)
    path = "/backend-api/codex/responses"
    return Trace(
        f"flow-{number}",
        at,
        "127.0.0.1",
        "POST",
        "https",
        "chatgpt.com",
        path,
        "swap",
        path,
        fields,
        session=session,
        source="thread-id" if session else None,
    )


def attempt(identity: str, because: Because = Because.OWN) -> AttemptTrace:
    return AttemptTrace(identity, "pat", "0123456789ab", f"acc-{identity}", "https://chatgpt.com", because)


def served(history: History, one: Trace, *identities: str, status: int = 200) -> Trace:
    """A request that was served by the last of these, and refused under those before."""
    history.began(one)
    for position, name in enumerate(identities):
        one.attempts.append(attempt(name, Because.MOVED if position else Because.NEW))
        one.attempts[-1].sent((), NOW)
        history.assigned(one)
        if position < len(identities) - 1:
            one.attempts[-1].verdict, one.attempts[-1].evidence = REVOKED, "401 token_revoked on codex/responses"
            history.judged(name, REVOKED)
    history.ended(one, status, stays_open=status == 101)
    return one


def test_a_resent_request_is_one_request_refusal_and_move() -> None:
    history = History()

    served(history, trace(), "work", "spare")

    events = [event.document() for event in history.events(0, 10)]
    assert [event["event"] for event in events] == ["move", "request"]
    assert (events[0]["was"], events[0]["becomes"]) == ("work", "spare")
    assert events[1]["identity"] == "spare"
    assert events[1]["attempts"] == 2
    assert events[1]["refusals"] == ["work: 401 token_revoked on codex/responses"]
    assert history.tallies.requests == Counter({("spare", "2xx"): 1})
    assert history.tallies.refusals == Counter({("work", "7"): 1})
    assert (history.tallies.sent_again, history.tallies.moves) == (1, 1)
    assert history.of_identity("work", time.time())[:2] == (0, 1)
    assert history.of_identity("spare", time.time())[:2] == (1, 0)


@pytest.mark.parametrize("because", [Because.PINNED, Because.NAMED])
def test_session_that_a_person_moves_is_moved_once(because: Because) -> None:
    history = History()
    for number, name in enumerate(("work", "spare", "spare")):
        one = trace(number)
        history.began(one)
        one.attempts.append(attempt(name, because if number else Because.NEW))
        history.assigned(one)

    assert [(event.was, event.becomes) for event in history.events(0, 10)] == [("work", "spare")]
    assert history.sessions(1)[0]["moves"] == history.tallies.moves == 1
    assert history.sessions(1)[0]["identity"] == "spare"


def test_the_end_of_a_request_counts_once() -> None:
    history = History()
    one = served(history, trace(), "work")

    history.ended(one, 502, "and once more")

    assert sum(history.tallies.requests.values()) == 1
    assert one.status == 200


def test_a_socket_is_a_request_then_turns_then_closed() -> None:
    history = History()
    one = served(history, trace(), "work", status=101)
    history.socket_opened(one)
    turn = one.begin_turn(NOW)
    history.sent(one, turn, 5)
    history.received(one, turn, 17)
    history.turn_ended(one, turn, "completed", failed=False)
    history.received(one, None, 100)
    assert history.tallies.sockets_open == 1
    assert (history.tallies.bytes_out, history.tallies.bytes_in) == (5, 117), "also while the socket is open"

    history.socket_closed(one, "by the client (1000)")
    history.socket_closed(one, "told twice")

    events = [event.document() for event in history.events(0, 10)]
    assert [(e["event"], e["becomes"]) for e in events] == [
        ("request", None),
        ("socket", "open"),
        ("turn", None),
        ("socket", "closed"),
    ]
    assert [(e["bytes_out"], e["bytes_in"]) for e in events] == [(0, None), (None, None), (5, 17), (5, 117)]
    assert (history.tallies.bytes_out, history.tallies.bytes_in) == (5, 117), "once"
    assert (one.document()["request_bytes"], one.document()["answer"]["bytes"]) == (5, 117)
    assert history.tallies.sockets_open == 0
    assert history.under_way == 0


def test_nothing_grows_beyond_its_bound() -> None:
    history = History()
    for number in range(histories.SESSIONS_KEPT + 200):
        served(history, trace(number, f"session-{number}"), f"identity-{number}")

    assert len(list(history.traces())) == histories.TRACES_KEPT
    assert len(history.events(0, 10**6)) == histories.EVENTS_KEPT
    assert history.session_count == histories.SESSIONS_KEPT
    assert len(history._hours) == len(history._used_at) == histories.IDENTITIES_KEPT
    assert history.sessions(1)[0]["key"] == f"session-{histories.SESSIONS_KEPT + 199}"
    assert history.has_lost(0)
    assert not history.has_lost(history.last)


@given(st.integers(0, 3 * histories.EVENTS_KEPT), st.integers(0, 4 * histories.EVENTS_KEPT), st.integers(1, 500))
def test_reading_on_returns_each_kept_event_once(count: int, after: int, limit: int) -> None:
    history = History()
    for _ in range(count):
        history.record(Event(Kind.START, NOW))

    read = [event.number for event in history.events(min(after, history.last), limit)]

    kept = range(max(1, count - histories.EVENTS_KEPT + 1), count + 1)
    assert read == [number for number in kept if number > min(after, history.last)][:limit]
    first = min(after, history.last) + 1
    assert history.has_lost(after) == (after > count or (first <= count and first not in kept))


async def test_who_waits_for_news_has_them_at_once() -> None:
    history = History()
    waiting = [asyncio.create_task(history.news(0, 30)) for _ in range(3)]
    await asyncio.sleep(0)

    history.record(Event(Kind.START, NOW))

    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
        await history.news(0, 30)  # there is one already


async def test_waiting_for_news_ends_by_itself() -> None:
    async with asyncio.timeout(5):
        await History().news(0, 0.01)


def test_a_flow_is_found_by_its_id_a_prefix_or_last() -> None:
    history = History()
    first, second = served(history, trace(1), "work"), served(history, trace(2), "work")
    under_way = trace(3)
    history.began(under_way)

    assert history.trace("flow-1") is first
    assert history.trace("last") is second  # it is over; the newest is not
    assert history.trace("flow-") is None  # three of them
    assert history.trace("nothing") is None
    assert History().trace("last") is None


@given(st.lists(st.tuples(st.integers(0, 4 * 60 * 60), st.integers(0, 3), st.integers(0, 3)), max_size=50))
def test_the_hour_counts_what_happened_in_its_sixty_minutes(happened: list[tuple[int, int, int]]) -> None:
    hour = Hour()
    happened.sort()
    for second, requests, refusals in happened:
        hour.add(NOW + second, requests, refusals)
    now = NOW + (happened[-1][0] if happened else 0)

    minutes = hour.by_minute(now)

    assert [row["at"] for row in minutes] == [int(now // 60 - back) * 60 for back in range(MINUTES - 1, -1, -1)]
    within = [row for row in happened if (NOW + row[0]) // 60 > now // 60 - MINUTES]
    expected = (sum(row[1] for row in within), sum(row[2] for row in within))
    assert (sum(row["requests"] for row in minutes), sum(row["refusals"] for row in minutes)) == expected
    assert hour.sums(now) == expected


@given(st.lists(st.floats(0, 1e6)))
def test_every_duration_is_in_one_bucket(durations: list[float]) -> None:
    buckets = Buckets()
    for seconds in durations:
        buckets.add(seconds)

    assert sum(buckets.counts) == len(durations)


def test_a_404_is_not_a_refusal_of_the_identity() -> None:
    history = History()

    history.judged("work", classify(Answer(404)))

    assert classify(Answer(404)).finding is Finding.OWN
    assert not history.tallies.refusals


def test_every_event_has_the_same_keys_and_nothing_secret() -> None:
    history = History()
    one = trace(session="at-test-session-0123456789abcdef")
    one.path += "?token=at-test-query-0123456789abcdef"
    served(history, one, "work", "spare")
    history.record(Event(Kind.IDENTITY, NOW, identity="work", was="ready", becomes="suspect", text="401"))
    history.record(Event(Kind.BREAKER, NOW, becomes="open", text="Bearer at-test-text-0123456789abcdef"))
    history.record(Event(Kind.STOP, NOW, text="ends"))

    documents = [event.document() for event in history.events(0, 100)]

    assert len({tuple(document) for document in documents}) == 1
    assert {document["event"] for document in documents} == {"move", "request", "identity", "breaker", "stop"}
    assert "0123456789abcdef" not in repr(documents)


def test_a_failed_handshake_leaves_no_socket_open() -> None:
    history = History()
    one = served(history, trace(), "work", status=101)

    history.socket_closed(one, "Connection killed.")

    assert history.tallies.sockets_open == 0
    assert history.under_way == 0


def test_a_flow_that_is_replayed_is_the_newest_again() -> None:
    history = History()
    for number in (1, 2, 3):
        served(history, trace(number), "work")

    served(history, trace(1), "work")

    assert [one.id for one in history.traces()] == ["flow-1", "flow-3", "flow-2"]
    assert history.trace("last") is next(history.traces())


def test_a_request_that_never_left_counts_for_no_identity() -> None:
    history = History()
    one = trace()
    history.began(one)
    one.attempts.append(attempt("work"))
    history.assigned(one)

    history.ended(one, None, "Client disconnected.")

    assert history.tallies.requests == Counter({("", "lost"): 1})
    assert history.tallies.sent_again == 0


def test_events_outlive_the_headers_of_their_requests() -> None:
    history = History()
    first = weakref.ref(served(history, trace(0), "work"))
    for number in range(1, histories.TRACES_KEPT + 1):
        served(history, trace(number), "work")
    gc.collect()

    assert first() is None
    assert history.events(0, 1)[0].document()["flow"] == "flow-0"


def test_a_bug_in_tracing_costs_no_request_its_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    history = History()

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Hour, "add", broken)
    monkeypatch.setattr(History, "record", broken)

    served(history, trace(), "work", "spare")
    history.socket_opened(trace())

    assert "failed; the request goes on" in caplog.text


def test_a_renamed_identity_goes_on_with_its_sessions_and_its_hour() -> None:
    history = History()
    served(history, trace(), "work")
    served(history, trace(2, "two"), "spare")
    hour, used_at = history.of_identity("work", time.time())[:2], history.of_identity("work", time.time())[2]

    history.renamed({"work": "office", "unknown": "other"})

    assert history.sessions_by_identity() == Counter({"office": 1, "spare": 1})
    assert history.of_identity("office", time.time()) == (*hour, used_at)
    assert [sum(history.requests_by_minute(name, time.time())) for name in ("work", "office")] == [0, 1]
