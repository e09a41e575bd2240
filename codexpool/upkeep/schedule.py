"""When each account is asked what it has left. Pure: ``at`` is the present unix second.

| when | the next reading |
|---|---|
| it is wanted (an identity becomes ready, a limit is over) | as soon as the pace allows |
| a reading succeeded, and the account is in use or limited | half an hour later |
| a reading succeeded, and the account is not in use | at its next use, half an hour later at the earliest |
| a reading failed | after a minute, two, four … half an hour, and not before the answer's Retry-After |

All times are jittered, so that proxies and accounts that began together drift apart. At most `AT_ONCE` readings are
under way, one for each account; they begin `PACE` apart, except for the first few.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from codexpool.pool.identity import IdentityKey

EVERY: Final = 1800.0  # Seconds between two readings.
JITTER: Final = 0.2  # The share by which a time varies.
FIRST_TROUBLE: Final = 60.0  # Seconds after the first failure in a row.
AT_ONCE: Final = 8  # Readings under way, and those that may begin together after a pause.
PACE: Final = 0.25  # Seconds from the beginning of one reading to that of the next.
BUSY: Final = 1.0  # Seconds until an account is looked at again, of which another user is being asked about.
STEP_BACK: Final = 1.0  # Seconds by which time may seem to go back without the clock having been set.


@dataclass(slots=True)
class _Entry:
    due_at: float | None = None  # None while it is being read, and while it is not in use.
    not_before: float = 0.0  # When to read it at its next use.
    is_routine: bool = False  # Due because of the time only.
    is_used: bool = False  # Used since the last reading.
    troubles: int = 0  # Failures in a row.
    priority: int = 0


class Schedule:
    """The times of all accounts. ``random`` gives numbers from 0 to 1."""

    def __init__(self, random: Callable[[], float] = random.random) -> None:
        self._random = random
        self._entries: dict[IdentityKey, _Entry] = {}
        self._heap: list[tuple[int, int, float, IdentityKey]] = []
        self._reading: set[IdentityKey] = set()
        self._tokens = float(AT_ONCE)  # Readings that may begin now.
        self._now = 0.0

    def want(self, key: IdentityKey, at: float, priority: int = 0) -> None:
        """Have an account read at that time, or before. Among those due together, a higher priority comes first."""
        entry = self._entries.setdefault(key, _Entry())
        entry.priority = priority
        if key not in self._reading and (entry.due_at is None or at < entry.due_at):
            entry.is_routine = False
            self._plan(key, entry, at)

    def used(self, key: IdentityKey, at: float) -> bool:
        """Note that an account is in use. Return whether that makes it due. Called for each request."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        entry.is_used = True
        if entry.due_at is not None or key in self._reading:
            return False
        entry.is_routine = True
        self._plan(key, entry, max(at, entry.not_before))
        return True

    def is_routine(self, key: IdentityKey) -> bool:
        """Return whether an account was due because of the time only: another proxy's reading will do as well."""
        entry = self._entries.get(key)
        return entry is not None and entry.is_routine

    def take(self, at: float) -> list[IdentityKey]:
        """Begin the readings that are due, as far as the pace allows. Each has to be `ended`."""
        self._advance(at)
        begun, busy = [], {key.account_id for key in self._reading if key.account_id}
        while self._heap and self._heap[0][2] <= at and self._has_room:
            *_, due_at, key = heappop(self._heap)
            entry = self._entries.get(key)
            if entry is None or entry.due_at != due_at:
                continue  # It was planned for another time since then.
            if key.account_id in busy:
                self._plan(key, entry, at + BUSY)
                continue
            busy |= {key.account_id} - {""}
            self._begin(key, entry)
            begun.append(key)
        return begun

    def begin(self, key: IdentityKey, at: float, must: bool = False) -> bool:
        """Begin a reading out of turn. Return False if the pace does not allow it, unless it ``must`` be."""
        self._advance(at)
        if key in self._reading or not (must or self._has_room):
            return False
        self._begin(key, self._entries.setdefault(key, _Entry()))
        return True

    def ended(self, key: IdentityKey, at: float, is_limited: bool = False) -> None:
        """Note a reading that succeeded. ``at`` is its time, also if another proxy made it."""
        if (entry := self._end(key)) is None:
            return
        entry.troubles, entry.is_routine = 0, True
        entry.not_before = at + self._jittered(EVERY)
        if is_limited or entry.is_used:
            self._plan(key, entry, entry.not_before)
        entry.is_used = False

    def failed(self, key: IdentityKey, at: float, retry_after: float | None = None) -> None:
        """Note a reading that failed. ``retry_after`` is the answer's word, in seconds."""
        if (entry := self._end(key)) is None:
            return
        pause = self._jittered(min(FIRST_TROUBLE * 2 ** min(entry.troubles, 10), EVERY))
        entry.troubles += 1
        self._plan(key, entry, at + max(pause, min(retry_after or 0.0, EVERY)))

    def cancelled(self, key: IdentityKey, at: float | None = None) -> None:
        """Note a reading that was not made; it is made at ``at`` instead, or when it is wanted again."""
        if (entry := self._end(key)) is not None and at is not None:
            self._plan(key, entry, at)

    def next_at(self, at: float) -> float | None:
        """Return when `take` may have something to begin; None if only a change can make it so."""
        if not self._heap or len(self._reading) >= AT_ONCE:
            return None
        return max(self._heap[0][2], at + (1.0 - self._tokens) * PACE)

    def keep(self, keys: Container[IdentityKey]) -> None:
        """Forget all other accounts."""
        self._entries = {key: entry for key, entry in self._entries.items() if key in keys}
        self._rebuild()

    @property
    def _has_room(self) -> bool:
        return len(self._reading) < AT_ONCE and self._tokens >= 1.0

    def _begin(self, key: IdentityKey, entry: _Entry) -> None:
        entry.due_at = None
        self._reading.add(key)
        self._tokens = max(self._tokens - 1.0, 0.0)

    def _end(self, key: IdentityKey) -> _Entry | None:
        self._reading.discard(key)
        return self._entries.get(key)

    def _plan(self, key: IdentityKey, entry: _Entry, at: float) -> None:
        entry.due_at = at
        heappush(self._heap, (int(at), -entry.priority, at, key))

    def _jittered(self, seconds: float) -> float:
        return seconds * (1.0 - JITTER + 2 * JITTER * self._random())

    def _advance(self, at: float) -> None:
        """Let time pass. If the clock was set back, all times follow it."""
        if at < self._now - STEP_BACK:
            back = self._now - at
            for entry in self._entries.values():
                entry.not_before -= back
                if entry.due_at is not None:
                    entry.due_at -= back
            self._rebuild()
        self._tokens = min(AT_ONCE, self._tokens + max(0.0, at - self._now) / PACE)
        self._now = at

    def _rebuild(self) -> None:
        entries = self._entries.items()
        self._heap = [(int(e.due_at), -e.priority, e.due_at, key) for key, e in entries if e.due_at is not None]
        heapify(self._heap)
