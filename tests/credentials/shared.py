"""A state in memory for the tests of shared logins: as strict as the real one about who may renew and write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from codexpool.credentials import NoTokenNowError
from codexpool.credentials.shared_login import MARKED_FOR, Claim, StoredLogin
from codexpool.pool.identity import IdentityKey
from codexpool.tokens.state_keys import Sealed, StateKeys, new_key, state_keys

KEYS = state_keys({"CODEXPOOL_STATE_KEY": new_key()})


@dataclass
class Row:
    stored: StoredLogin
    mark: str = ""
    until: float = 0.0


@dataclass
class MemoryState:
    """The rows of logins; ``is_down``: out of reach. ``now`` is the database's clock."""

    rows: dict[IdentityKey, Row] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    is_down: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def row(self, key: IdentityKey) -> Row | None:
        if self.is_down:
            raise NoTokenNowError("the state cannot be reached")
        row = self.rows.get(key)
        return None if row is None or row.stored.is_empty else row

    def log_in(self, key: IdentityKey, auth_json: str, keys: StateKeys = KEYS) -> None:
        """Put a login there, as a person does."""
        self.replace(key, keys.seal(auth_json, key))

    def replace(self, key: IdentityKey, sealed: Sealed) -> None:
        with self.lock:
            before = self.rows.get(key)
            generation = before.stored.generation + 1 if before is not None else 1
            self.rows[key] = Row(StoredLogin(sealed, generation))


@dataclass
class MemoryLogins:
    """One proxy's way to a `MemoryState`. ``hears``: others' changes are heard of at once."""

    state: MemoryState
    own_keys: StateKeys = KEYS
    hears: bool = False
    heard: dict[IdentityKey, StoredLogin] = field(default_factory=dict)
    loses_commits: int = 0
    """Of the next writes, so many are committed without the proxy learning it."""

    def keys(self) -> StateKeys:
        return self.own_keys

    def latest(self, key: IdentityKey) -> StoredLogin | None:
        if self.hears and key in self.state.rows:
            return self.state.rows[key].stored
        return self.heard.get(key)

    def claim(self, key: IdentityKey, mark: str, wants: Callable[[StoredLogin], bool], over: str) -> Claim | None:
        with self.state.lock:
            if (row := self.state.row(key)) is None:
                return None
            if not wants(row.stored):
                return Claim(row.stored)
            is_over = row.until <= self.state.now()
            if row.mark and row.mark != mark and not (is_over and row.mark == over):
                return Claim(row.stored, over=row.mark if is_over else "")
            row.mark, row.until = mark, self.state.now() + MARKED_FOR
            return Claim(row.stored, is_ours=True)

    def put(self, key: IdentityKey, sealed: Sealed, generation: int) -> StoredLogin | None:
        with self.state.lock:
            if (row := self.state.row(key)) is None:
                return None
            if row.stored.generation == generation:
                row.stored, row.mark = StoredLogin(sealed, generation + 1), ""
            if self.loses_commits:
                self.loses_commits -= 1
                raise NoTokenNowError("the connection broke")
            return row.stored

    def refuse(self, key: IdentityKey, generation: int, code: str) -> StoredLogin | None:
        with self.state.lock:
            if (row := self.state.row(key)) is None:
                return None
            if row.stored.generation == generation:
                row.stored, row.mark = row.stored._replace(refusal=code), ""
            return row.stored

    def release(self, key: IdentityKey, mark: str) -> None:
        with self.state.lock:
            if (row := self.state.row(key)) is not None and row.mark == mark:
                row.mark = ""
