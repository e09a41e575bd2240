"""What outlives the process: sessions, metadata, conditions, who has used what, and no secret."""

from codexpool.state.base import MAX_SESSIONS, Record, Snapshot, State, StateError, UnavailableError, record_name
from codexpool.state.memory import MemoryState
from codexpool.state.reading import COUNTED_BY, read_spent, read_state
from codexpool.state.sqlite import SqliteState, named_state, open_state, state_path

__all__ = [
    "COUNTED_BY",
    "MAX_SESSIONS",
    "MemoryState",
    "Record",
    "Snapshot",
    "SqliteState",
    "State",
    "StateError",
    "UnavailableError",
    "named_state",
    "open_state",
    "read_spent",
    "read_state",
    "record_name",
    "state_path",
]
