"""A state that ends with the process: for tests, and where the disk cannot be used."""

from __future__ import annotations

from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, IdentityKey, Metadata
from codexpool.state.base import MAX_SESSIONS, Note, Record, Snapshot

MAX_SPENT = 10_000
"""Accounts that are kept; of more, the oldest go, which nobody looks at any more."""


class MemoryState:
    """A ``State`` in dictionaries; nobody else writes to it, so it never has changes."""

    def __init__(self) -> None:
        self._kept = Snapshot()
        self._claimed: set[str] = set()

    def load(self) -> Snapshot:
        kept = self._kept
        return Snapshot(
            *(dict(kept.sessions), dict(kept.metadata), dict(kept.conditions), set()),
            *(dict(kept.records), dict(kept.notes), dict(kept.moves), dict(kept.spent)),
        )

    def put_session(self, session: str, key: IdentityKey, at: float, moves: int = 0) -> None:
        sessions = self._kept.sessions
        sessions.pop(session, None)  # the order is that of the last use
        sessions[session] = key
        if moves:
            self._kept.moves[session] = moves
        if len(sessions) > MAX_SESSIONS:
            oldest = next(iter(sessions))
            del sessions[oldest]
            self._kept.moves.pop(oldest, None)

    def put_metadata(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        self._kept.metadata[fingerprint] = metadata

    def put_condition(self, fingerprint: str, condition: Condition) -> None:
        self._kept.conditions[fingerprint] = condition

    def drop_condition(self, fingerprint: str) -> None:
        self._kept.conditions.pop(fingerprint, None)

    def put_record(self, name: str, record: Record) -> None:
        self._kept.records[name] = record

    def drop_record(self, name: str) -> None:
        self._kept.records.pop(name, None)

    def put_note(self, kind: str, name: str, note: Note) -> None:
        self._kept.notes[(kind, name)] = note

    def put_spent(self, account: Account, spent: Spent) -> None:
        kept = self._kept.spent
        kept[(account, "")] = spent
        if len(kept) > MAX_SPENT:
            del kept[next(iter(kept))]

    def claim(self, case: str, at: float) -> bool:
        is_new = case not in self._claimed
        self._claimed.add(case)
        return is_new

    def changes(self) -> Snapshot:
        return Snapshot()

    def close(self) -> None:
        pass
