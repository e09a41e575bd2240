"""What outlives the process, and the interface every place to keep it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, IdentityKey, Metadata

MAX_SESSIONS = 100_000
"""How many sessions are kept; of more, those that were not served for the longest time go."""


class StateError(Exception):
    """A state that must not be used as it is: what is wrong, and what mends it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


class UnavailableError(StateError):
    """A state that cannot be used now: its disk is full, read-only or gone, or another program has it locked."""


class Record(NamedTuple):
    """What an identity of a pool.toml last was: its token's fingerprint, whose that is, when it last served."""

    fingerprint: str
    key: IdentityKey
    used_at: float | None = None


def record_name(pool_toml: Path, name: str) -> str:
    """What the record of an identity goes by: two files may use one name."""
    return f"{pool_toml}#{name}"


NoteKey = tuple[str, str]
"""The kind of a note and what it is about."""

Note = Mapping[str, Any]
"""What JSON can hold: how much of its limits an account has used, whether the breaker of a pool is open."""


@dataclass(slots=True)
class Snapshot:
    """What a state holds, or what of it is new.

    ``sessions`` are by session key, ``metadata`` and ``conditions`` by fingerprint, ``records`` by `record_name`.
    ``dropped`` are fingerprints whose condition another process took back. ``moves`` are of those sessions that have
    ever changed their identity; ``notes`` are by kind and name. ``spent`` are totals of today and the days around it,
    by account and by the process that has counted them.
    """

    sessions: dict[str, IdentityKey] = field(default_factory=dict)
    metadata: dict[str, Metadata] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    records: dict[str, Record] = field(default_factory=dict)
    notes: dict[NoteKey, Note] = field(default_factory=dict)
    moves: dict[str, int] = field(default_factory=dict)
    spent: dict[tuple[Account, str], Spent] = field(default_factory=dict)


class State(Protocol):
    """Keeps what the pool knows. Nothing here is a secret: fingerprints, ids and evidence only.

    ``put_*`` and ``drop_condition`` return at once and raise nothing; what they say is written later, and the last
    word on a key wins. Times are unix seconds.
    """

    def load(self) -> Snapshot:
        """All there is. May take a while; raises nothing."""

    def put_session(self, session: str, key: IdentityKey, at: float, moves: int = 0) -> None:
        """This session was served by this identity at this time, and has changed it so many times."""

    def put_metadata(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        """This is what whoami and routing discovery said about a bearer at this time."""

    def put_condition(self, fingerprint: str, condition: Condition) -> None:
        """The identity is in this condition while it has this bearer."""

    def drop_condition(self, fingerprint: str) -> None:
        """Nothing is the matter any more with the identity of this bearer."""

    def put_record(self, name: str, record: Record) -> None:
        """What an identity of a pool.toml is now."""

    def drop_record(self, name: str) -> None:
        """There is no such identity any more."""

    def put_note(self, kind: str, name: str, note: Note) -> None:
        """This is what is known of something now."""

    def put_spent(self, account: Account, spent: Spent) -> None:
        """This is what this process has counted for an account so far; what others have stays beside it."""

    def claim(self, case: str, at: float) -> bool:
        """Whether a case is for the caller to see to: True once, for one caller in one process. May take a while.

        A claim that cannot be written now is the caller's: better seen to twice than never.
        """

    def put_claim(self, case: str, at: float) -> None:
        """The case was seen to."""

    def changes(self) -> Snapshot:
        """What other processes wrote since the last ``load`` or ``changes``. Cheap if nothing; raises nothing."""

    def close(self) -> bool:
        """Write what is not written yet, within a few seconds, and let go of everything. Whether all was written."""
