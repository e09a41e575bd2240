"""What outlives the process: sessions, metadata and conditions, and no secret."""

from codexpool.state.base import MAX_SESSIONS, Snapshot, State, StateError
from codexpool.state.memory import MemoryState
from codexpool.state.sqlite import SqliteState, open_state, state_path

__all__ = [
    "MAX_SESSIONS",
    "MemoryState",
    "Snapshot",
    "SqliteState",
    "State",
    "StateError",
    "open_state",
    "state_path",
]
