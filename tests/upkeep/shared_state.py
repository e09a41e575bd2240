"""A state in memory that several keepers share, and that can be lost. It has the rules of the seam, and no engine.

What the engines do with rows is tested in tests/state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from codexpool.pool.identity import IdentityKey
from codexpool.state import Row, Rows, Snapshot, UnavailableError

PATIENT = 30.0  # Seconds that only a test that fails would wait.

Stored = tuple[IdentityKey, int]


class Engine:
    """What all proxies share. While it is not ``answering``, queries hang; while it ``is_lost``, they fail."""

    def __init__(self) -> None:
        self.sessions: dict[str, Stored] = {}
        self.queries: list[set[str]] = []
        self.states: list[SharedState] = []
        self.is_lost = False
        self.answering = threading.Event()
        self.answering.set()
        self.lock = threading.RLock()

    def open(self) -> Any:
        """Open a state of it, for one proxy."""
        self.used()
        state = SharedState(self)
        self.states.append(state)
        return state

    def used(self) -> None:
        assert self.answering.wait(PATIENT)
        if self.is_lost:
            raise UnavailableError("the engine is lost", "wait")


class SharedState(Rows):
    """The state of one proxy. Rows that it cannot write wait until it can."""

    offset = 0.0

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.name = f"proxy-{len(engine.states)}"
        self.rows: dict[object, Row] = {}
        self.news = Snapshot()

    @property
    def is_connected(self) -> bool:
        return not self.engine.is_lost

    def put(self, row: Row) -> None:
        self.rows[row[:2]] = row
        self.write()

    def write(self) -> None:
        """Write what waits, with the guard of the engines; tell others of moves, and ourselves of what was lost."""
        with self.engine.lock:
            if self.engine.is_lost:
                return
            for row in self.rows.values():
                if row.table == "sessions":
                    self._write(**row.values)
            self.rows.clear()

    def _write(self, session: Any, account_id: Any, user_id: Any, at: object, moves: Any) -> None:
        stored, key = self.engine.sessions, IdentityKey(account_id, user_id)
        if session not in stored or moves > stored[session][1]:
            stored[session] = key, moves
            for state in self.engine.states:
                if moves and state is not self:
                    state._learns(session)
        elif stored[session][0] != key:
            self._learns(session)

    def _learns(self, session: str) -> None:
        self.news.sessions[session], self.news.moves[session] = self.engine.sessions[session]

    def load(self) -> Snapshot:
        return Snapshot()

    def changes(self, wait: float = 0) -> Snapshot:
        self.write()
        if self.engine.is_lost:
            return Snapshot()
        with self.engine.lock:
            news, self.news = self.news, Snapshot()
            return news

    def look_up(self, sessions: Collection[str]) -> dict[str, Stored]:
        self.engine.queries.append(set(sessions))
        self.engine.used()
        return {session: self.engine.sessions[session] for session in sessions if session in self.engine.sessions}

    def claim(self, case: str, at: float) -> bool:
        return True

    def transact(self, work: Callable[[Any], Any]) -> Any:
        raise UnavailableError("the engine is lost", "wait")

    def scope(self, pool_toml: Path) -> str:
        return str(pool_toml)

    def close(self) -> bool:
        return True
