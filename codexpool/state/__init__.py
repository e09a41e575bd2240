"""What outlives the process, and the interface to put it: `Rows`. Never a secret."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, IdentityKey, Metadata

MAX_SESSIONS = 100_000  # Sessions that are kept; of more, the least recently served are dropped.
GONE = ""  # The fingerprint in the record of a removed identity. Its row stays, so that other processes learn of it.


class StateError(Exception):
    """The state must not be used as it is: what is wrong, and how to fix it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")


class UnavailableError(StateError):
    """The state cannot be used now: its disk is full, read-only or gone, or another program has it locked."""


class Record(NamedTuple):
    """An identity of a pool.toml as last seen: its token's fingerprint and owner, and when it last served."""

    fingerprint: str
    key: IdentityKey
    used_at: float | None = None


def record_name(pool_toml: Path, name: str) -> str:
    """Return the key of an identity's `Record`: two files may use one name."""
    return f"{pool_toml}#{name}"


Note = Mapping[str, Any]  # A JSON object: an account's usage, the breaker of a pool. It has a kind and a name.


@dataclass(slots=True)
class Snapshot:
    """The contents of a state, or what is new in it.

    ``metadata`` and ``conditions`` are by fingerprint, ``records`` by `record_name`, ``notes`` by kind and name;
    ``moves`` has the sessions that have moved to another identity. ``spent`` has totals of today and the days around
    it, by account and by the process that counted them.
    """

    sessions: dict[str, IdentityKey] = field(default_factory=dict)
    metadata: dict[str, Metadata] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    notes: dict[tuple[str, str], Note] = field(default_factory=dict)
    moves: dict[str, int] = field(default_factory=dict)
    spent: dict[tuple[Account, str], Spent] = field(default_factory=dict)

    @property
    def stored_sessions(self) -> dict[str, tuple[IdentityKey, int]]:
        """Return who serves each session, and how often it has moved."""
        return {session: (key, self.moves.get(session, 0)) for session, key in self.sessions.items()}


class Row(NamedTuple):
    """A row to write: ``values`` are those of `codexpool.state.database.COLUMNS`."""

    table: str
    key: Hashable
    values: tuple[object, ...]


class Rows(ABC):
    """Takes what the pool knows: fingerprints, ids and evidence, never a secret. Times are unix seconds.

    All methods return at once and raise nothing: a row is written later, and replaces one with the same key.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def put_session(self, session: str, key: IdentityKey, at: float, moves: int = 0) -> None:
        """Store that an identity served a session, which has moved to another one so many times."""
        self.put(Row("sessions", session, (session, *key, at, moves)))

    def put_metadata(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        """Store what whoami and routing discovery say about a token."""
        m = metadata
        values = (fingerprint, m.account_id, m.user_id, m.plan, m.fedramp, m.origin, m.routing_override, at)
        self.put(Row("metadata", fingerprint, values))

    def put_condition(self, fingerprint: str, condition: Condition) -> None:
        evidence = json.dumps(asdict(condition.evidence)) if condition.evidence else None
        values = (fingerprint, str(condition.status), condition.since, condition.until, evidence, self._clock())
        self.put(Row("conditions", fingerprint, values))

    def drop_condition(self, fingerprint: str) -> None:
        """Store that nothing is wrong any more with the identity of this token."""
        self.put(Row("conditions", fingerprint, (fingerprint, None, None, None, None, self._clock())))

    def put_record(self, name: str, record: Record) -> None:
        self.put(Row("records", name, (name, record.fingerprint, *record.key, record.used_at)))

    def drop_record(self, name: str) -> None:
        """Store that an identity is no longer in its pool.toml."""
        self.put(Row("records", name, (name, GONE, "", "", None)))

    def put_note(self, kind: str, name: str, note: Note) -> None:
        self.put(Row("notes", (kind, name), (kind, name, json.dumps(note), self._clock())))

    def put_spent(self, account: Account, spent: Spent) -> None:
        """Store what this process has counted for an account; the totals of other processes stay."""
        self.put(Row("spent", account, (*account, *spent)))

    def put_claim(self, case: str, at: float) -> None:
        self.put(Row("claims", case, (case, at)))

    @abstractmethod
    def put(self, row: Row) -> None: ...
