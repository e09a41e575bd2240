"""Waits until what was put into a state is written, and looks at it."""

from __future__ import annotations

import time

from codexpool.pool.identity import IdentityKey
from codexpool.state import Snapshot, State
from codexpool.state.store import Store, add_sessions


def flushed(state: State, seconds: float) -> bool:
    """Wait until all that was put is written, ``seconds`` at most. Return whether it is."""
    assert isinstance(state, Store)
    end = time.monotonic() + seconds
    while state._writer.unwritten():
        if time.monotonic() >= end:
            return False
        time.sleep(0.002)
    return True


def stored_sessions(state: State) -> dict[str, IdentityKey]:
    """Return the sessions that are not too old."""
    assert isinstance(state, Store)
    found = Snapshot()
    state.transact(lambda connection: add_sessions(found, connection, state._now()))
    return found.sessions
