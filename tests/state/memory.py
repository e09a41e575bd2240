"""A state without an engine, for tests of what uses one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, create_engine, insert, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.pool import StaticPool

from codexpool.pool.identity import IdentityKey
from codexpool.state import Row, Snapshot, State
from codexpool.state.logins import login_rows
from codexpool.state.schema import claims, revision, schema
from codexpool.state.store import bindings, contents
from codexpool.state.upserts import upserts

T = TypeVar("T")


class MemoryState(State):
    """Nothing else writes to it but people who log in."""

    name = "here"
    where = "memory"
    is_connected = True
    waiting = 0

    def __init__(self) -> None:
        super().__init__()
        self._engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        self._upserts = upserts(sqlite_insert)
        self._lock = threading.Lock()  # All threads have the same connection.
        with self._engine.begin() as connection:
            schema.create_all(connection)
            connection.execute(insert(revision).values(value=0, epoch="e"))
        self._seen = 0

    def put(self, row: Row) -> None:
        more = {} if row.table == "claims" else {"revision": 1, "writer": self.name}
        self.transact(lambda connection: connection.execute(self._upserts[row.table], {**row.values, **more}))

    def claim(self, case: str, at: float) -> bool:
        claim = sqlite_insert(claims).values(case=case, at=at).on_conflict_do_nothing()
        return self.transact(lambda connection: connection.execute(claim).rowcount) == 1

    def load(self) -> Snapshot:
        return self.transact(lambda connection: contents(connection, self._clock()))

    def changes(self, wait: float = 0) -> Snapshot:
        return self.transact(self._new_logins)

    def _new_logins(self, connection: Connection) -> Snapshot:
        since, self._seen = self._seen, connection.execute(select(revision.c.value)).scalar_one()
        return Snapshot(logins=login_rows(connection, since))

    def look_up(self, sessions: Collection[str]) -> dict[str, tuple[IdentityKey, int]]:
        return self.transact(lambda connection: bindings(connection, sessions))

    def transact(self, work: Callable[[Connection], T]) -> T:
        with self._lock, self._engine.begin() as connection:
            return work(connection)

    def scope(self, pool_toml: Path) -> str:
        return str(pool_toml)

    def close(self) -> bool:
        """Keep it: the next start finds what this one has put."""
        return True
