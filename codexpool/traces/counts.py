"""Counts: since the proxy was started, and by minute for the last hour. Plain numbers, no lock."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from codexpool.common.recent import Recent

MINUTES = 60

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
    """Requests, refusals and failures by minute, for the last hour."""

    def __init__(self) -> None:
        self._minutes: Recent[int, tuple[int, int, int]] = Recent(MINUTES)

    def add(self, at: float, requests: int = 0, refusals: int = 0, failures: int = 0) -> None:
        minute = int(at // 60)
        before = self._minutes.get(minute, (0, 0, 0))
        self._minutes[minute] = (before[0] + requests, before[1] + refusals, before[2] + failures)

    def by_minute(self, now: float) -> list[dict[str, int]]:
        """Return all sixty minutes, the oldest first; ``at`` is the unix second at which a minute begins."""
        last = int(now // 60)
        made = []
        for minute in range(last - MINUTES + 1, last + 1):
            requests, refusals, failures = self._minutes.get(minute, (0, 0, 0))
            made.append({"at": minute * 60, "requests": requests, "refusals": refusals, "failures": failures})
        return made

    def sums(self, now: float) -> tuple[int, int]:
        since = int(now // 60) - MINUTES
        rows = [row for minute, row in self._minutes.items() if minute > since]
        return sum(row[0] for row in rows), sum(row[1] for row in rows)
