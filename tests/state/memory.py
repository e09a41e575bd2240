"""A state without a file, for tests of what uses one."""

from __future__ import annotations

import sqlite3
import time

from codexpool.state import Row, Snapshot
from codexpool.state.database import STEPS
from codexpool.state.sqlite import SqliteState, rows
from codexpool.state.writer import STATEMENTS


class MemoryState(SqliteState):
    """Nothing else writes to it, so it never has changes."""

    def __init__(self) -> None:
        self._clock = time.time
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.executescript("".join(STEPS))

    def put(self, row: Row) -> None:
        self._connection.execute(STATEMENTS[row.table], (*row.values, 1, ""))

    def claim(self, case: str, at: float) -> bool:
        return (
            self._connection.execute('INSERT OR IGNORE INTO claims ("case", at) VALUES (?, ?)', (case, at)).rowcount
            == 1
        )

    def load(self) -> Snapshot:
        return rows(self._connection, 0, "-", time.time())

    def changes(self) -> Snapshot:
        return Snapshot()

    def close(self) -> bool:
        return True
