"""What outlives the process, and the interface to put it: `Rows`. Never a secret."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from codexpool.credentials.shared_login import StoredLogin
from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, IdentityKey, Metadata
from codexpool.pool.states import REFUSED_FOR_GOOD
from codexpool.state.notes import EMAIL

if TYPE_CHECKING:
    from sqlalchemy import Connection  # Only where a state is opened: it takes a tenth of a second.

T = TypeVar("T")

_METADATA = ("account_id", "user_id", "plan", "fedramp", "origin", "routing_override")
MAX_SESSIONS = 100_000  # Sessions that are kept; of more, the least recently served are dropped.
GONE = ""  # The fingerprint in the record of a removed identity. Its row stays, so that other processes learn of it.


class StateError(Exception):
    """The state must not be used as it is: what is wrong, and how to fix it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


class UnavailableError(StateError):
    """The state cannot be used now: its disk is full, read-only or gone, or another program has it locked."""


class Record(NamedTuple):
    """An identity of a pool.toml as last seen: its token's fingerprint and owner, and when it last served."""

    fingerprint: str
    key: IdentityKey
    used_at: float | None = None


def record_name(scope: str, name: str) -> str:
    """Return the key of an identity's `Record`; ``scope`` is that of its pool.toml: two files may use one name."""
    return f"{scope}#{name}"


Note = Mapping[str, Any]  # A JSON object: an account's usage, the breaker of a pool. It has a kind and a name.


@dataclass(slots=True)
class Snapshot:
    """The contents of a state, or what is new in it.

    ``metadata`` and ``conditions`` are by fingerprint, ``records`` by `record_name`, ``notes`` by kind and name;
    ``moves`` has the sessions that have moved to another identity. ``spent`` has totals of today and the days around
    it, by account and by the process that counted them. ``dropped`` has the tokens with which nothing is wrong any
    more, and the unix second at which that was noted.
    """

    sessions: dict[str, IdentityKey] = field(default_factory=dict)
    metadata: dict[str, Metadata] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    notes: dict[tuple[str, str], Note] = field(default_factory=dict)
    moves: dict[str, int] = field(default_factory=dict)
    spent: dict[tuple[Account, str], Spent] = field(default_factory=dict)
    dropped: dict[str, float] = field(default_factory=dict)
    logins: dict[IdentityKey, StoredLogin] = field(default_factory=dict)

    @property
    def stored_sessions(self) -> dict[str, tuple[IdentityKey, int]]:
        """Return who serves each session, and how often it has moved."""
        return {session: (key, self.moves.get(session, 0)) for session, key in self.sessions.items()}


class Row(NamedTuple):
    """A row to write: ``values`` by the columns of its table."""

    table: str
    key: Hashable
    values: Mapping[str, object]


class Rows(ABC):
    """Takes what the pool knows: fingerprints, ids and evidence, never a secret. Times are unix seconds.

    All methods return at once and raise nothing: a row is written later, and replaces one with the same key.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def put_session(self, session: str, key: IdentityKey, at: float, moves: int = 0) -> None:
        """Store that an identity served a session, which has moved to another one so many times."""
        self.put(Row("sessions", session, {"session": session, **key._asdict(), "at": at, "moves": moves}))

    def put_metadata(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        """Store what whoami and routing discovery say about a token."""
        about = {name: getattr(metadata, name) for name in _METADATA}
        self.put(Row("metadata", fingerprint, {"fingerprint": fingerprint, **about, "at": at}))
        if metadata.email:
            self.put_note(EMAIL, fingerprint, {"email": metadata.email})

    def put_condition(self, fingerprint: str, condition: Condition) -> None:
        values = {
            "status": str(condition.status),
            "since": condition.since,
            "until": condition.until,
            "evidence": json.dumps(asdict(condition.evidence)) if condition.evidence else None,
        }
        # A refusal is as old as the question: a later answer may be written before it.
        at = condition.since if condition.status in REFUSED_FOR_GOOD else self._clock()
        self._put_condition(fingerprint, values, at)

    def drop_condition(self, fingerprint: str, at: float | None = None) -> None:
        """Store that nothing is wrong any more with the identity of this token.

        ``at`` is when whoami was asked about it; now, if a person or another answer says so.
        """
        values = dict.fromkeys(("status", "since", "until", "evidence"))
        self._put_condition(fingerprint, values, self._clock() if at is None else at)

    def _put_condition(self, fingerprint: str, values: Mapping[str, object], at: float) -> None:
        self.put(Row("conditions", fingerprint, {"fingerprint": fingerprint, **values, "at": at}))

    def put_record(self, name: str, record: Record) -> None:
        self._put_record(name, record.fingerprint, record.key, record.used_at)

    def drop_record(self, name: str) -> None:
        """Store that an identity is no longer in its pool.toml."""
        self._put_record(name, GONE, IdentityKey("", ""), None)

    def _put_record(self, name: str, fingerprint: str, key: IdentityKey, used_at: float | None) -> None:
        values = {"name": name, "fingerprint": fingerprint, **key._asdict(), "used_at": used_at}
        self.put(Row("records", name, values))

    def put_note(self, kind: str, name: str, note: Note) -> None:
        values = {"kind": kind, "name": name, "note": json.dumps(note), "at": self._clock()}
        self.put(Row("notes", (kind, name), values))

    def put_spent(self, account: Account, spent: Spent) -> None:
        """Store what this process has counted for an account; the totals of other processes stay."""
        self.put(Row("spent", account, {**account._asdict(), **spent._asdict()}))

    def put_claim(self, case: str, at: float) -> None:
        self.put(Row("claims", case, {"case": case, "at": at}))

    @abstractmethod
    def put(self, row: Row) -> None: ...


class State(Rows):
    """What outlives this process, open. Others read and write it, too.

    What is put is kept in memory until the engine takes it. The methods below may take a while, and are for threads.
    """

    name: str
    """This process, as the ``writer`` of its rows."""

    where: str
    """What to call the database: its path or URL, without a password."""

    offset: float = 0.0
    """Seconds that the database's clock is ahead of ours. Times in the state are by the database's."""

    @property
    @abstractmethod
    def is_connected(self) -> bool:
        """Whether the engine answered when last asked. While it is out of reach, nothing should wait for it."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many rows are not written yet."""

    @abstractmethod
    def load(self) -> Snapshot:
        """Return all there is, but for sessions: those are looked up when they are needed. Raises nothing."""

    @abstractmethod
    def changes(self, wait: float = 0) -> Snapshot:
        """Return what others wrote since the last ``load`` or ``changes``. Raises nothing.

        Of sessions those that have moved, and those that we have bound after another one had. Returns as soon as
        there is news, and ``wait`` seconds later at most; at once if the engine is out of reach.
        """

    @abstractmethod
    def look_up(self, sessions: Collection[str]) -> dict[str, tuple[IdentityKey, int]]:
        """Return who serves these sessions, and how often each has moved; one query. Raises UnavailableError."""

    @abstractmethod
    def claim(self, case: str, at: float) -> bool:
        """Return whether the caller must handle a case: True once, in one process.

        If the claim cannot be written now, it is granted: better handled twice than never.
        """

    @abstractmethod
    def transact(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in one short transaction that writes. Raises UnavailableError, and what ``work`` raises."""

    @abstractmethod
    def scope(self, pool_toml: Path) -> str:
        """Return the key of what belongs to one pool.toml, whose path may be another one on another machine."""

    @abstractmethod
    def close(self) -> bool:
        """Write what is unwritten, within a few seconds. Return whether all was written."""
