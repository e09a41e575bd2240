"""A state in memory: for what is learned before the file can be opened, and for tests."""

from __future__ import annotations

from collections.abc import Callable

from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, IdentityKey, Metadata
from codexpool.state.base import MAX_SESSIONS, Note, Record, Snapshot, State

MAX_SPENT = 10_000
"""Accounts that are kept; of more, the oldest go, which nobody looks at any more."""

MAX_PUT = 100_000
"""Rows that are kept for `MemoryState.write_to`; of more, the oldest go."""


class MemoryState:
    """A ``State`` in dictionaries; nobody else writes to it, so it never has changes."""

    def __init__(self) -> None:
        self._kept = Snapshot()
        self._claimed: set[str] = set()
        self._puts: dict[tuple[str, str], Callable[[State], None]] = {}
        """By table and key, the last word on each row."""

    def write_to(self, state: State) -> None:
        """Put into another state all that was put into this one."""
        for put in self._puts.values():
            put(state)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was put into it."""
        return not self._puts

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
        self._put("sessions", session, lambda state: state.put_session(session, key, at, moves))

    def put_metadata(self, fingerprint: str, metadata: Metadata, at: float) -> None:
        self._kept.metadata[fingerprint] = metadata
        self._put("metadata", fingerprint, lambda state: state.put_metadata(fingerprint, metadata, at))

    def put_condition(self, fingerprint: str, condition: Condition) -> None:
        self._kept.conditions[fingerprint] = condition
        self._put("conditions", fingerprint, lambda state: state.put_condition(fingerprint, condition))

    def drop_condition(self, fingerprint: str) -> None:
        self._kept.conditions.pop(fingerprint, None)
        self._put("conditions", fingerprint, lambda state: state.drop_condition(fingerprint))

    def put_record(self, name: str, record: Record) -> None:
        self._kept.records[name] = record
        self._put("records", name, lambda state: state.put_record(name, record))

    def drop_record(self, name: str) -> None:
        self._kept.records.pop(name, None)
        self._put("records", name, lambda state: state.drop_record(name))

    def put_note(self, kind: str, name: str, note: Note) -> None:
        self._kept.notes[(kind, name)] = note
        self._put("notes", f"{kind} {name}", lambda state: state.put_note(kind, name, note))

    def put_spent(self, account: Account, spent: Spent) -> None:
        kept = self._kept.spent
        kept[(account, "")] = spent
        if len(kept) > MAX_SPENT:
            del kept[next(iter(kept))]
        self._put("spent", "\0".join(account), lambda state: state.put_spent(account, spent))

    def claim(self, case: str, at: float) -> bool:
        is_new = case not in self._claimed
        self.put_claim(case, at)
        return is_new

    def put_claim(self, case: str, at: float) -> None:
        self._claimed.add(case)
        self._put("claims", case, lambda state: state.put_claim(case, at))

    def changes(self) -> Snapshot:
        return Snapshot()

    def close(self) -> bool:
        return True

    def _put(self, table: str, key: str, put: Callable[[State], None]) -> None:
        self._puts.pop((table, key), None)
        self._puts[table, key] = put
        if len(self._puts) > MAX_PUT:
            del self._puts[next(iter(self._puts))]
