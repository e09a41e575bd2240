"""What outlives the process: sessions, metadata, conditions, usage. Never a secret. `State` is the interface."""

from codexpool.state.base import MAX_SESSIONS, Record, Snapshot, State, StateError, UnavailableError, record_name
from codexpool.state.sqlite import (
    COUNTED_BY,
    SqliteState,
    named_state,
    open_state,
    read_spent,
    read_state,
    state_path,
)

__all__ = [
    "COUNTED_BY",
    "MAX_SESSIONS",
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
