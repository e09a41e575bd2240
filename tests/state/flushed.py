"""Waits until what was put into a state is on the disk."""

from __future__ import annotations

import time

from codexpool.state import State
from codexpool.state.store import Store


def flushed(state: State, seconds: float) -> bool:
    """Wait until all that was put is written, ``seconds`` at most. Return whether it is."""
    assert isinstance(state, Store)
    end = time.monotonic() + seconds
    while state._writer.unwritten():
        if time.monotonic() >= end:
            return False
        time.sleep(0.002)
    return True
