"""A database with the states that a test opens on it: each is a proxy of its own."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from codexpool.state.location import Location, Postgres, SqliteFile
from codexpool.state.sqlite import SqliteState
from codexpool.state.store import Store


class Engine(ABC):
    def __init__(self, at: Location) -> None:
        self.at = at
        self._open = ExitStack()

    def state(self, clock: Callable[[], float] = time.time) -> Store:
        """Open the state, which is closed at the end of the test."""
        state = self._make(clock)
        self._open.callback(state.close)
        return state

    def close(self) -> None:
        self._open.close()

    @abstractmethod
    def _make(self, clock: Callable[[], float]) -> Store: ...


class SqliteEngine(Engine):
    def __init__(self, path: Path) -> None:
        super().__init__(SqliteFile(path))
        self._path = path

    def _make(self, clock: Callable[[], float]) -> Store:
        return SqliteState(self._path, clock)


class PostgresEngine(Engine):
    """A schema in a server. The states take its clock for theirs: tests have clocks of their own."""

    def __init__(self, url: str) -> None:
        super().__init__(Postgres(url))

    def _make(self, clock: Callable[[], float]) -> Store:
        from codexpool.state.postgres import PostgresDatabase

        assert isinstance(self.at, Postgres)
        database = PostgresDatabase(self.at)
        database.shares_our_clock = True
        return Store(database, clock)
