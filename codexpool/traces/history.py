"""The history of this run of the proxy: recent traces, recent events, and counts.

Everything is bounded, belongs to the event loop's thread, and does no I/O: a request pays for some appending and
counting.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from codexpool.common.recent import Recent
from codexpool.common.tasks import harmless
from codexpool.pool.selection import Because
from codexpool.pool.verdict import Finding, Verdict
from codexpool.redaction import redact_text
from codexpool.traces.events import Event, Kind
from codexpool.traces.trace import Trace, TurnTrace

TRACES_KEPT = 500
EVENTS_KEPT = 1_000
SESSIONS_KEPT = 1_000
IDENTITIES_KEPT = 1_000

NO_REFUSALS = frozenset({Finding.OK, Finding.NOT_PORTABLE, Finding.OVERLOADED, Finding.UPSTREAM, Finding.OWN})
REFUSALS = frozenset(Finding) - NO_REFUSALS
"""The findings that count as a refusal of the identity, its token, or the proxy's address."""

MINUTES = 60
COUNTED = ("requests", "refusals", "failures", "moves")  # What is counted by minute, in the order of a row.
NO_COUNTS = (0, 0, 0, 0)

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, float("inf"))
"""The upper ends of the buckets for durations, in seconds."""


@dataclass(slots=True)
class Buckets:
    """A histogram of durations in seconds; ``counts`` go with `BOUNDS`."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))
    sum: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


@dataclass(slots=True)
class Tallies:
    """Counts since the proxy was started.

    ``requests`` are by identity and class of the answer's status (``2xx``, ``101``, ``lost``; identity ``""`` if
    codexpool answered), ``refusals`` by identity and row of the verdict table, ``turns`` by identity and outcome.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
    turns: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: int = 0
    sent_again: int = 0
    moves: int = 0
    sockets_open: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    answers: Buckets = field(default_factory=Buckets)
    """From a request's headers to those of its answer, including all attempts and waits."""
    waits: Buckets = field(default_factory=Buckets)
    """Waits for an identity, or before another attempt."""


class Hour:
    """Requests, refusals, failures and moves by minute, for the last hour."""

    def __init__(self) -> None:
        self._minutes: Recent[int, list[int]] = Recent(MINUTES)

    def add(self, at: float, requests: int = 0, refusals: int = 0, failures: int = 0, moves: int = 0) -> None:
        minute = int(at // 60)
        row = self._minutes.get(minute)
        if row is None:
            row = self._minutes[minute] = [0, 0, 0, 0]
        row[0] += requests
        row[1] += refusals
        row[2] += failures
        row[3] += moves

    def by_minute(self, now: float) -> list[dict[str, int]]:
        """Return all sixty minutes, the oldest first; ``at`` is the unix second at which a minute begins."""
        last = int(now // 60)
        made = []
        for minute in range(last - MINUTES + 1, last + 1):
            counts = dict(zip(COUNTED, self._minutes.get(minute, NO_COUNTS), strict=True))
            made.append({"at": minute * 60, **counts})
        return made

    def sums(self, now: float) -> tuple[int, int]:
        since = int(now // 60) - MINUTES
        rows = [row for minute, row in self._minutes.items() if minute > since]
        return sum(row[0] for row in rows), sum(row[1] for row in rows)


@dataclass(slots=True)
class SessionSeen:
    """A session, and its current identity."""

    identity: str
    last_at: float
    client: str = ""
    model: str = ""
    member: str = ""
    requests: int = 0
    moves: int = 0


class History:
    """The traces, events and counts of one run.

    ``listeners`` are called with each event, on the path of a request: they must only queue it.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[Event], None]] = []
        self.tallies = Tallies()
        self.last = 0
        """The number of the last event."""
        self._traces: Recent[str, Trace] = Recent(TRACES_KEPT)
        self._numbers = 0
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._sessions: Recent[str, SessionSeen] = Recent(SESSIONS_KEPT)
        self._hour = Hour()
        self._hours: Recent[str, Hour] = Recent(IDENTITIES_KEPT)
        self._used_at: Recent[str, float] = Recent(IDENTITIES_KEPT)
        self._news: asyncio.Event | None = None

    # -- recording

    @harmless
    def began(self, trace: Trace) -> None:
        self._numbers += 1
        trace.number = self._numbers
        self._traces[trace.id] = trace

    @harmless
    def assigned(self, trace: Trace) -> None:
        """Record the identity of a request's newest attempt."""
        attempt = trace.attempts[-1]
        if trace.session is None:
            return
        by_hand = attempt.because in (Because.PINNED, Because.NAMED)
        seen = self._sessions.get(trace.session)
        if seen is None:
            seen = self._sessions[trace.session] = SessionSeen(attempt.identity, trace.at)
        elif attempt.because is Because.MOVED or (by_hand and attempt.identity != seen.identity):
            now = time.time()
            seen.moves += 1
            self.tallies.moves += 1
            self._hour.add(now, moves=1)
            self.record(Event(Kind.MOVE, now, trace.summary(), was=seen.identity, becomes=attempt.identity))
        if attempt.because is not Because.ASIDE:
            seen.identity = attempt.identity

    @harmless
    def judged(self, identity: str, verdict: Verdict) -> None:
        """Count the verdict on an answer to an identity."""
        if verdict.finding in REFUSALS:
            self.tallies.refusals[(identity, verdict.row)] += 1
            now = time.time()
            self._hour.add(now, refusals=1)
            self._hour_of(identity).add(now, refusals=1)

    @harmless
    def ended(self, trace: Trace, status: int | None, error: str | None = None, *, stays_open: bool = False) -> None:
        """Record the end of a request, with or without an answer; later calls for it are ignored.

        ``stays_open``: the answer is a WebSocket, which `socket_closed` will end.
        """
        if trace.ended_at is not None or trace.status is not None:
            return
        now = time.time()
        tallies, attempt = self.tallies, trace.attempt
        trace.status, trace.error = status, error
        if not stays_open:
            trace.ended_at = now
        if not trace.answered_by and status is not None:
            trace.answered_by = "backend"
        # The pool did not serve what it only observed, or never sent.
        is_ours = attempt is not None and attempt.sent_at is not None and not trace.observed
        name = attempt.identity if attempt is not None and is_ours and trace.answered_by in ("", "backend") else ""
        failed = error is not None or status is None or status >= 400
        tallies.requests[(name, _class(None if error is not None else status))] += 1
        if not trace.observed:
            tallies.sent_again += max(0, sum(attempt.sent_at is not None for attempt in trace.attempts) - 1)
        tallies.bytes_out += trace.request_bytes
        tallies.bytes_in += trace.bytes_in
        answered_at = attempt.answered_at if attempt is not None and attempt.answered_at is not None else now
        tallies.answers.add(answered_at - trace.at)
        if trace.waits:
            tallies.waits.add(sum(seconds for _, seconds in trace.waits))
        self._count(trace, name, failed, now)
        self.record(Event(Kind.REQUEST, now, trace.summary(), identity=name or None, status=status))

    @harmless
    def socket_opened(self, trace: Trace) -> None:
        self.tallies.sockets_open += 1
        trace.is_open, trace.ended_at = True, None
        self.record(Event(Kind.SOCKET, time.time(), trace.summary(), identity=_served_by(trace), becomes="open"))

    def sent(self, trace: Trace, turn: TurnTrace | None, size: int) -> None:
        """Count a client's message on an open WebSocket, by its bytes."""
        trace.request_bytes += size
        self.tallies.bytes_out += size
        if turn is not None:
            turn.bytes_out += size

    def received(self, trace: Trace, turn: TurnTrace | None, size: int) -> None:
        """Count a message of the backend on an open WebSocket, by its bytes."""
        trace.bytes_in += size
        self.tallies.bytes_in += size
        if turn is not None:
            turn.bytes_in += size

    @harmless
    def socket_closed(self, trace: Trace, why: str) -> None:
        if trace.ended_at is not None:
            return
        now = trace.ended_at = time.time()
        self.tallies.sockets_open -= trace.is_open
        trace.is_open = False
        self.record(Event(Kind.SOCKET, now, trace.summary(), identity=_served_by(trace), becomes="closed", text=why))

    @harmless
    def renamed(self, names: Mapping[str, str]) -> None:
        """Go on with other names for identities, by their old ones. Traces, events and tallies keep the old ones."""
        for seen in self._sessions.values():
            seen.identity = names.get(seen.identity, seen.identity)
        for before, name in names.items():
            if (hour := self._hours.pop(before, None)) is not None:
                self._hours[name] = hour
            if (used_at := self._used_at.pop(before, None)) is not None:
                self._used_at[name] = used_at

    @harmless
    def turn_ended(self, trace: Trace, turn: TurnTrace, outcome: str, failed: bool) -> None:
        """Record the end of a turn on an open WebSocket."""
        now = turn.ended_at = time.time()
        turn.outcome = outcome
        name = _served_by(trace)
        self.tallies.turns[(name or "", "failed" if failed else "completed")] += 1
        self._count(trace, name or "", failed, now)
        self.record(Event(Kind.TURN, now, trace.summary(), turn, identity=name))

    def record(self, event: Event) -> None:
        """Number and keep an event, and notify the listeners."""
        self.last += 1
        event.number = self.last
        self._events.append(event)
        for listener in self.listeners:
            listener(event)
        if self._news is not None:
            self._news.set()
            self._news = None

    def _count(self, trace: Trace, identity: str, failed: bool, now: float) -> None:
        """Count a request, or a turn on a WebSocket, that was served by an identity; "" is none."""
        self.tallies.failures += failed
        self._hour.add(now, requests=1, failures=int(failed))
        if identity:
            self._hour_of(identity).add(now, requests=1)
            if trace.policy != "lent":  # Its clients ask all the time what is left.
                self._used_at[identity] = now
        if trace.session is not None and (seen := self._sessions.get(trace.session)) is not None:
            seen.last_at, seen.client, seen.requests = now, trace.client, seen.requests + 1
            seen.model, seen.member = trace.model or seen.model, trace.member
            self._sessions.move_to_end(trace.session)

    def _hour_of(self, identity: str) -> Hour:
        hour = self._hours.get(identity)
        if hour is None:
            hour = self._hours[identity] = Hour()
        return hour

    # -- reading

    def traces(self) -> Iterator[Trace]:
        return reversed(self._traces.values())

    def trace(self, wanted: str) -> Trace | None:
        """Return a trace by its id or a unique beginning; ``last``: the newest that has ended, else the newest."""
        if wanted == "last":
            return next((t for t in self.traces() if t.ended_at is not None), next(self.traces(), None))
        if (exact := self._traces.get(wanted)) is not None:
            return exact
        found = [trace for trace in self.traces() if trace.id.startswith(wanted)]
        return found[0] if len(found) == 1 else None

    def events(self, after: int, limit: int) -> list[Event]:
        """Return the first ``limit`` events after that number."""
        missing = max(0, len(self._events) - (self.last - after))
        return list(islice(self._events, missing, missing + limit))

    def has_lost(self, after: int) -> bool:
        """Return whether events after that number were dropped, or the number is not of this run."""
        return after > self.last or self.last - after > len(self._events)

    async def news(self, after: int, seconds: float) -> None:
        """Wait for an event after that number, ``seconds`` at most."""
        if self.last != after:
            return
        if self._news is None:
            self._news = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    def hour(self, now: float) -> list[dict[str, int]]:
        """Return requests, refusals, failures and moves of the last sixty minutes."""
        return self._hour.by_minute(now)

    def requests_by_minute(self, identity: str, now: float) -> list[int]:
        """Return an identity's requests in each of the last sixty minutes."""
        return [minute["requests"] for minute in self._hours.get(identity, Hour()).by_minute(now)]

    def of_identity(self, name: str, now: float) -> tuple[int, int, float | None]:
        """Return an identity's requests and refusals in the last hour, and when it was last used in this run."""
        hour = self._hours.get(name)
        return (*(hour.sums(now) if hour is not None else (0, 0)), self._used_at.get(name))

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    def sessions(self, limit: int) -> list[dict[str, Any]]:
        return [
            {
                "key": redact_text(key),
                "identity": redact_text(seen.identity),
                "moves": seen.moves,
                "last_at": seen.last_at,
                "requests": seen.requests,
                "client": seen.client,
                "model": redact_text(seen.model),
                "member": redact_text(seen.member) or None,
            }
            for key, seen in islice(reversed(self._sessions.items()), limit)
        ]

    def sessions_by_identity(self) -> Counter[str]:
        """Return how many of the kept sessions each identity serves."""
        return Counter(seen.identity for seen in self._sessions.values())

    @property
    def under_way(self) -> int:
        """Return how many kept requests have no answer yet, or an open WebSocket."""
        return sum(trace.ended_at is None for trace in self._traces.values())


def _served_by(trace: Trace) -> str | None:
    return trace.attempts[-1].identity if trace.attempts else None


def _class(status: int | None) -> str:
    if status is None:
        return "lost"
    return "101" if status == 101 else f"{status // 100}xx"
