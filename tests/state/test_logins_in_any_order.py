"""Whatever proxies and people do with a login, in any order: the engine does what the state in memory does.

The tests of `codexpool.credentials.shared_login` use that one.
"""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import update

from codexpool.credentials.shared_login import MARKED_FOR
from codexpool.pool.identity import IdentityKey
from codexpool.state import logins
from codexpool.state.schema import logins as table
from codexpool.tokens.state_keys import Sealed
from codexpool.upkeep.shared_logins import SharedLogins
from tests.credentials.shared import MemoryLogins, MemoryState
from tests.state import memory

KEY = IdentityKey("acc-1", "user-1")
MARKS = st.sampled_from("abc")


class TwoStates(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._state = memory.MemoryState()
        self._memory = MemoryState()
        self._real, self._model = SharedLogins(self._state.transact, {}), MemoryLogins(self._memory)
        self._numbers = itertools.count()
        self._spending: dict[str, int] = {}  # The generation that each proxy renews, as far as it knows.

    def _sealed(self) -> Sealed:
        return Sealed("k", str(next(self._numbers)).encode())

    @rule(mark=MARKS, wants=st.booleans(), over=st.sampled_from(["", "a", "b", "c"]))
    def claim(self, mark: str, wants: bool, over: str) -> None:
        found = self._real.claim(KEY, mark, lambda _: wants, over)
        assert found == self._model.claim(KEY, mark, lambda _: wants, over)
        if found is not None and found.is_ours:
            self._spending[mark] = found.stored.generation

    @rule(mark=MARKS)
    def renew(self, mark: str) -> None:
        """A proxy has new tokens, perhaps long after others took its place."""
        generation, sealed = self._spending.get(mark, 0), self._sealed()
        assert self._real.put(KEY, sealed, generation) == self._model.put(KEY, sealed, generation)

    @rule(mark=MARKS)
    def refuse(self, mark: str) -> None:
        generation = self._spending.get(mark, 0)
        assert self._real.refuse(KEY, generation, "gone") == self._model.refuse(KEY, generation, "gone")

    @rule(mark=MARKS)
    def release(self, mark: str) -> None:
        self._real.release(KEY, mark)
        self._model.release(KEY, mark)

    @rule()
    def log_in(self) -> None:
        sealed = self._sealed()
        self._state.transact(lambda connection: logins.log_in(connection, KEY, sealed))
        self._memory.replace(KEY, sealed)

    @rule()
    def remove(self) -> None:
        if self._state.transact(lambda connection: logins.remove(connection, KEY)):
            self._memory.replace(KEY, logins.EMPTY)

    @rule(seconds=st.sampled_from([1.0, MARKED_FOR + 1]))
    def time_passes(self, seconds: float) -> None:
        later = update(table).values(renewing_until=table.c.renewing_until - seconds)
        self._state.transact(lambda connection: connection.execute(later))
        for row in self._memory.rows.values():
            row.until -= seconds

    @invariant()
    def both_have_the_same(self) -> None:
        rows = self._state.transact(lambda connection: logins.login_rows(connection, -1))
        assert rows == {key: row.stored for key, row in self._memory.rows.items()}


TestTwoStates = TwoStates.TestCase
TestTwoStates.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
